// Package backup owns the layout of backups in a store: each is a set of named files, cut into objects of bounded size with a SHA-256 each, and a
// manifest that is written last and lists them. A backup without a manifest does not exist: List calls it incomplete, and who made it, or Delete,
// clears it away. It paces what it reads, retries what a store has failed at for a while, and verifies all that it gives back. It does not know
// what is in the files: that is the server's, which gets them from the journal. docs/format/backup.md draws it all.
package backup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

const (
	root         = "backups/"
	beginName    = "begin"
	manifestName = "manifest"
	formatKnown  = 1

	manifestBytesMax = 256 << 20
	beginBytesMax    = 64 << 10

	// idsMax bounds what List gives; more is refused, not cut.
	idsMax = 10000
)

// What errors.Is finds.
var (
	// ErrNone means that the store has no such backup.
	ErrNone = errors.New("backup: there is no such backup")
	// ErrIncomplete means that the backup was not finished: it has no manifest.
	ErrIncomplete = errors.New("backup: it was not finished: it has no manifest")
	// ErrDamaged means that what is stored is not what was written; a *DamagedError says where.
	ErrDamaged = errors.New("backup: damaged")
	// ErrFormat means that a newer program has written the backup.
	ErrFormat = errors.New("backup: it has a format that this program does not know")
	// ErrID means that no backup has such a name.
	ErrID = errors.New("backup: bad name of a backup")
)

// DamagedError names the object of a backup that is missing or has other bytes than were written.
type DamagedError struct {
	ID, Object, Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("backup %s is damaged: object %s: %s", e.ID, e.Object, e.Reason)
}

// Is finds ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Begin is what a backup says of itself before anything else is stored.
type Begin struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Cluster string    `json:"cluster"` // whose data it is
	Node    int       `json:"node"`
	Version string    `json:"version"` // of the program
	Began   time.Time `json:"began"`
}

// Part is one object of a file.
type Part struct {
	Object string `json:"object"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// File is one file of a backup: the bytes of its parts, one behind the other.
type File struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Full  int64  `json:"full,omitempty"` // bytes that it has where it is used; the rest are zeros. 0: Size
	Parts []Part `json:"parts"`
}

// Manifest is the last object of a backup.
type Manifest struct {
	Begin
	Taken  time.Time `json:"taken"` // the moment that it holds
	Ended  time.Time `json:"ended"`
	Shards int       `json:"shards"`
	Files  []File    `json:"files"`
}

// Bytes are those of all files.
func (m *Manifest) Bytes() (n int64) {
	for i := range m.Files {
		n += m.Files[i].Size
	}
	return n
}

// Objects are how many objects it has, begin and manifest included.
func (m *Manifest) Objects() int {
	n := 2
	for i := range m.Files {
		n += len(m.Files[i].Parts)
	}
	return n
}

// NewID makes a name that sorts by time, to the millisecond: behind the second it has the millisecond in three hex digits, and five by chance.
func NewID(now time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	part := uint32(now.Nanosecond()/int(time.Millisecond))<<20 | binary.LittleEndian.Uint32(b[:])>>12
	return fmt.Sprintf("%s-%08x", now.UTC().Format("20060102T150405Z"), part)
}

func checkID(id string) error {
	if len(id) != 25 || strings.Trim(id, "0123456789abcdefTZ-") != "" {
		return fmt.Errorf("%w: %.80q", ErrID, id)
	}
	return nil
}

func objectName(id, object string) string { return root + id + "/" + object }

// seal makes an object of a value: JSON, and a line with the SHA-256 of all before it.
func seal(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, err
	}
	b = append(b, '\n')
	return fmt.Appendf(b, "sha256 %x\n", sha256.Sum256(b)), nil
}

// unseal is its inverse.
func unseal(b []byte, v any) error {
	const tail = len("sha256 \n") + 2*sha256.Size
	if len(b) < tail {
		return errors.New("it has been cut")
	}
	body := b[:len(b)-tail]
	if string(b[len(body):]) != fmt.Sprintf("sha256 %x\n", sha256.Sum256(body)) {
		return errors.New("its checksum is another one")
	}
	return json.Unmarshal(body, v)
}

// State says what there is of a backup.
type State string

// The states.
const (
	Complete   State = "complete"
	Incomplete State = "incomplete" // under way, or broken off
	Damaged    State = "damaged"    // its manifest, or its begin, cannot be read
)

// Info is what List tells of a backup.
type Info struct {
	Begin
	State        State
	Taken, Ended time.Time // complete ones
	Bytes        int64
	Objects      int
}

// List gives all backups of a store, oldest first. Manifests are read, the other objects not: Verify does.
func List(ctx context.Context, s tier.Store) (list []Info, err error) {
	for after := ""; ; {
		page, _, err := s.List(ctx, root, after, 1)
		if err != nil || len(page) == 0 {
			return list, err
		}
		id, _, ok := strings.Cut(strings.TrimPrefix(page[0].Name, root), "/")
		if !ok {
			after = page[0].Name
			continue
		}
		// Behind all objects of this one: no name has a tilde.
		after = root + id + "/~"
		if checkID(id) != nil {
			continue
		}
		if len(list) == idsMax {
			return list, fmt.Errorf("backup: the store has more than %d backups", idsMax)
		}
		info, err := describe(ctx, s, id)
		if err != nil {
			return list, err
		}
		list = append(list, info)
	}
}

// describe tells of one backup; what is damaged is a state, not an error.
func describe(ctx context.Context, s tier.Store, id string) (Info, error) {
	m, err := readManifest(ctx, s, id)
	switch {
	case err == nil:
		return Info{Begin: m.Begin, State: Complete, Taken: m.Taken, Ended: m.Ended, Bytes: m.Bytes(), Objects: m.Objects()}, nil
	case errors.Is(err, ErrDamaged) || errors.Is(err, ErrFormat):
		return Info{Begin: Begin{ID: id}, State: Damaged}, nil
	case !errors.Is(err, ErrIncomplete):
		return Info{}, err
	}
	var b Begin
	if raw, err := readSmall(ctx, s, id, beginName, beginBytesMax); err == nil {
		err = unseal(raw, &b)
		if err != nil || b.ID != id {
			return Info{Begin: Begin{ID: id}, State: Damaged}, nil
		}
	} else if !errors.Is(err, tier.ErrNotFound) {
		return Info{}, err
	}
	b.ID = id
	return Info{Begin: b, State: Incomplete}, nil
}

func readSmall(ctx context.Context, s tier.Store, id, object string, most int64) (b []byte, err error) {
	err = retry(ctx, func() error {
		body, info, err := s.Get(ctx, objectName(id, object), tier.Range{})
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size > most {
			return &DamagedError{id, object, fmt.Sprintf("it has %d bytes", info.Size)}
		}
		b, err = io.ReadAll(io.LimitReader(body, most))
		return err
	})
	return b, err
}

func readManifest(ctx context.Context, s tier.Store, id string) (*Manifest, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	b, err := readSmall(ctx, s, id, manifestName, manifestBytesMax)
	if errors.Is(err, tier.ErrNotFound) {
		page, _, err := s.List(ctx, objectName(id, ""), "", 1)
		if err == nil && len(page) == 0 {
			err = ErrNone
		} else if err == nil {
			err = ErrIncomplete
		}
		return nil, fmt.Errorf("backup %s: %w", id, err)
	}
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := unseal(b, m); err != nil {
		return nil, &DamagedError{id, manifestName, err.Error()}
	}
	if m.Format != formatKnown {
		return nil, fmt.Errorf("backup %s: %w: %d", id, ErrFormat, m.Format)
	}
	return m, m.check(id)
}

// check tells whether the manifest can be what a Writer has written.
func (m *Manifest) check(id string) error {
	damaged := func(reason string) error { return &DamagedError{id, manifestName, reason} }
	if m.ID != id {
		return damaged(fmt.Sprintf("it is that of backup %.80q", m.ID))
	}
	total := int64(0)
	for i := range m.Files {
		f := &m.Files[i]
		size := int64(0)
		for k := range f.Parts {
			if f.Parts[k].Size < 0 || f.Parts[k].Size > math.MaxInt64-size || tier.CheckName(objectName(id, f.Parts[k].Object)) != nil {
				return damaged(fmt.Sprintf("bad part of %.80q", f.Name))
			}
			size += f.Parts[k].Size
		}
		if size != f.Size {
			return damaged(fmt.Sprintf("%.80q has %d bytes, and its parts %d", f.Name, f.Size, size))
		}
		if total += size; total < 0 {
			return damaged("its files have more bytes than can be")
		}
	}
	return nil
}

// Latest gives the name of the newest complete backup. ErrNone: there is none.
func Latest(ctx context.Context, s tier.Store) (string, error) {
	list, err := List(ctx, s)
	if err != nil {
		return "", err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].State == Complete {
			return list[i].ID, nil
		}
	}
	return "", ErrNone
}

// Delete removes a backup, whatever there is of it: the manifest first, so that it is gone as a whole, and what begins it last, so that what a broken
// deletion leaves still says whose it is. ErrNone: nothing was there.
func Delete(ctx context.Context, s tier.Store, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	remove := func(object string) error {
		return retry(ctx, func() error { return s.Delete(ctx, objectName(id, object)) })
	}
	found := false
	for after := ""; ; {
		page, more, err := s.List(ctx, objectName(id, ""), after, 0)
		if err != nil {
			return err
		}
		if !found && len(page) > 0 {
			found = true
			if err := remove(manifestName); err != nil {
				return err
			}
		}
		for _, o := range page {
			after = o.Name
			if object := strings.TrimPrefix(o.Name, objectName(id, "")); object != beginName && object != manifestName {
				if err := remove(object); err != nil {
					return err
				}
			}
		}
		if !more {
			break
		}
	}
	if !found {
		return fmt.Errorf("backup %s: %w", id, ErrNone)
	}
	return remove(beginName)
}

// Clean removes what was broken off and belongs to a cluster's node, which has no backup under way; with others above 0 also what belongs to other nodes of the
// cluster, if nothing has been stored of it for so long. It gives their names.
func Clean(ctx context.Context, s tier.Store, cluster string, node int, others time.Duration) (ids []string, err error) {
	list, err := List(ctx, s)
	for i := range list {
		b := &list[i]
		if b.State != Incomplete || b.Cluster != cluster {
			continue
		}
		if b.Node != node {
			rests, err := rested(ctx, s, b.ID, others)
			if err != nil {
				return ids, err
			}
			if !rests {
				continue
			}
		}
		if err := Delete(ctx, s, b.ID); err != nil {
			return ids, err
		}
		ids = append(ids, b.ID)
	}
	return ids, err
}

// rested tells whether nothing has been stored of a backup for so long; 0: it never has.
func rested(ctx context.Context, s tier.Store, id string, long time.Duration) (bool, error) {
	if long == 0 {
		return false, nil
	}
	var last time.Time
	for after, more := "", true; more; {
		var page []tier.Info
		var err error
		if page, more, err = s.List(ctx, objectName(id, ""), after, 0); err != nil {
			return false, err
		}
		for i := range page {
			after = page[i].Name
			if page[i].ModTime.After(last) {
				last = page[i].ModTime
			}
		}
	}
	return !last.IsZero() && time.Since(last) > long, nil
}
