package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/stores"
	"github.com/sluicemq/sluice/meta"
)

// Files of a data directory that came out of a backup.
const (
	restoringFile = "RESTORING" // it is not whole: no node starts with it
	restoredFile  = "RESTORED"  // which backup it came out of
)

// ErrDataInUse means that a backup cannot be restored into a directory: something is there.
var ErrDataInUse = errors.New("the data directory is not empty: a backup is restored into an empty one")

// RestoreOptions say what is restored, and where.
type RestoreOptions struct {
	Store  string // as backup.store
	ID     string // of the backup; "": the newest complete one
	Data   string // directory: absent, empty, or what a restore has left that was cut
	Verify bool   // read all of it afterwards
	// Where its history lies that had left the log: tier.store and its settings, read with Verify; "" or off: not named, and not read.
	Tier         string
	TierSettings map[string]string
	Progress     func(RestoreProgress)
	Logger       *slog.Logger // nil: silent
	FS           vfs.FS       // nil: the system's
}

// RestoreProgress is how far a restore is: told by one goroutine, every half second and at the end of a step.
type RestoreProgress struct {
	ID          string
	Step        string // "restore", "open", "read", "history"
	Done, Total int64  // bytes, of "read" partitions, of "history" objects
}

// Restored is what a restore has brought back.
type Restored struct {
	ID      string `json:"id" yaml:"id"`
	Cluster string `json:"cluster" yaml:"cluster"`
	// NewCluster is how the cluster is called that the data are to form: the backup is one of several nodes, which may live. Empty: Cluster, of a node that was alone.
	NewCluster string        `json:"new_cluster,omitempty" yaml:"new_cluster,omitempty"`
	Node       int           `json:"node" yaml:"node"` // the one that the backup is of
	Taken      time.Time     `json:"taken" yaml:"taken"`
	Restored   time.Time     `json:"restored" yaml:"restored"`
	Shards     int           `json:"shards" yaml:"shards"`
	Bytes      int64         `json:"bytes" yaml:"bytes"`
	Copy       string        `json:"copy" yaml:"copy"` // by chance: tells data directories apart that came out of one backup
	Verified   *VerifyReport `json:"verified,omitempty" yaml:"verified,omitempty"`
}

// VerifyReport is what was found when all of a restored directory was read.
type VerifyReport struct {
	Topics     int64 `json:"topics" yaml:"topics"`
	Partitions int64 `json:"partitions" yaml:"partitions"`
	Sessions   int64 `json:"sessions" yaml:"sessions"`
	Retained   int64 `json:"retained" yaml:"retained"`
	Entries    int64 `json:"catalog_entries" yaml:"catalog_entries"` // users, rules, quotas, bindings
	Logs       int64 `json:"logs" yaml:"logs"`                       // partitions of the log, those of sessions and queues included
	Batches    int64 `json:"batches" yaml:"batches"`
	Records    int64 `json:"records" yaml:"records"`
	Bytes      int64 `json:"bytes" yaml:"bytes"`
	// Objects of the tier that the catalog names, and how many were read: all, or none if the store was not named.
	TierObjects int64 `json:"tier_objects" yaml:"tier_objects"`
	TierRead    int64 `json:"tier_read" yaml:"tier_read"`
}

// Restore writes a data directory from a backup: with it a node starts as after a crash at the moment that the backup holds, whatever its node.id.
// Errors: ErrDataInUse; those of package backup (ErrNone, ErrIncomplete, ErrDamaged, ErrFormat); what store or disk said. When it fails or is cut,
// the directory is of no use but to another Restore.
func Restore(ctx context.Context, o RestoreOptions) (out *Restored, err error) {
	st, err := openBackupStore(ctx, o.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return restoreFrom(ctx, st, o)
}

func restoreFrom(ctx context.Context, st tier.Store, o RestoreOptions) (out *Restored, err error) {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(RestoreProgress) {}
	}
	if o.ID == "" {
		if o.ID, err = backup.Latest(ctx, st); err != nil {
			return nil, err
		}
	}
	r := &restorer{o: o, fs: o.FS}
	if r.backup, err = backup.Open(ctx, st, o.ID); err != nil {
		return nil, err
	}
	if err := checkNode(&r.backup.Manifest); err != nil {
		return nil, err
	}
	lock, err := r.begin()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := r.write(ctx); err != nil {
		return nil, fmt.Errorf("restore backup %s: %w", o.ID, err)
	}
	m := &r.backup.Manifest
	out = &Restored{ID: m.ID, Cluster: m.Cluster, NewCluster: r.renamed, Node: m.Node, Taken: m.Taken, Shards: m.Shards, Bytes: m.Bytes(), Copy: rand.Text()}
	if o.Verify {
		if out.Verified, err = r.verify(ctx); err != nil {
			return nil, fmt.Errorf("verify what backup %s was restored to: %w", o.ID, err)
		}
	}
	out.Restored = time.Now().UTC().Truncate(time.Millisecond)
	return out, r.end(out)
}

// restorer is one run of Restore.
type restorer struct {
	o       RestoreOptions
	fs      vfs.FS
	backup  *backup.Reader
	renamed string // what came out of a cluster's backup is of this cluster
	done    int64
	told    time.Time
}

func (r *restorer) path(name string) string { return r.o.Data + "/" + name }

// shardsMax is the most that cluster.shards can be.
const shardsMax = 4096

// checkNode tells whether a manifest can be that of a node's backup: it may have been made by anybody.
func checkNode(m *backup.Manifest) error {
	bad := func(reason string) error { return &backup.DamagedError{ID: m.ID, Object: "manifest", Reason: reason} }
	if m.Shards < 1 || m.Shards > shardsMax || len(m.Cluster) > 64 || strings.ContainsFunc(m.Cluster, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return bad("no node has such a cluster")
	}
	seen := make(map[string]bool, len(m.Files))
	for i := range m.Files {
		name := m.Files[i].Name
		if seen[name] {
			return bad("it has the file " + strconv.Quote(name) + " twice")
		}
		seen[name] = true
	}
	if !seen[rowsFile] || !seen[boundsFile] {
		return bad("it lacks what every backup of a node has")
	}
	return nil
}

// begin claims the directory: the file RESTORING is there before anything else, is locked until the end, and then goes. It has the backup's name
// before there is another file: an empty one is our own, or was cut at once.
func (r *restorer) begin() (lock io.Closer, err error) {
	if err := r.fs.MkdirAll(r.o.Data); err != nil {
		return nil, err
	}
	names, err := r.others()
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		if _, err := r.fs.Stat(r.path(restoringFile)); vfs.IsNotExist(err) {
			return nil, fmt.Errorf("%w: %s holds %s", ErrDataInUse, r.o.Data, names[0])
		}
	}
	if lock, err = r.fs.Lock(r.path(restoringFile)); err != nil {
		if errors.Is(err, vfs.ErrLocked) {
			err = fmt.Errorf("%w: another restore into %s is under way", ErrDataInUse, r.o.Data)
		}
		return nil, err
	}
	if err := r.clear(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// clear removes what a restore has left that was cut, once nobody else can be at it, and its mark last.
func (r *restorer) clear() error {
	// Another restore may have ended before the lock was ours, and the directory be a node's now.
	names, err := r.others()
	if err != nil {
		return err
	}
	info, err := r.fs.Stat(r.path(restoringFile))
	if err != nil {
		return err
	}
	if len(names) > 0 && info.Size == 0 {
		return errors.Join(fmt.Errorf("%w: %s holds %s", ErrDataInUse, r.o.Data, names[0]), r.fs.Remove(r.path(restoringFile)))
	}
	for _, name := range []string{"journal", "SHARDS", "CLUSTER", restoredFile} {
		if err := vfs.RemoveAll(r.fs, r.path(name)); err != nil {
			return err
		}
	}
	return r.mark()
}

// others are the names in the directory beside RESTORING. A file system of its own has a folder that says nothing.
func (r *restorer) others() ([]string, error) {
	names, err := r.fs.List(r.o.Data)
	return slices.DeleteFunc(names, func(n string) bool { return n == restoringFile || n == "lost+found" }), err
}

// mark writes the backup's name into RESTORING as it is: a new file in its place would not be locked.
func (r *restorer) mark() error {
	f, err := r.fs.Open(r.path(restoringFile), vfs.Write|vfs.Create)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(r.backup.ID+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.fs.SyncDir(r.o.Data)
}

func (r *restorer) file(name string, b []byte) error {
	if err := vfs.WriteFile(r.fs, r.path(name), b); err != nil {
		return err
	}
	return r.fs.SyncDir(r.o.Data)
}

// end makes the directory one that a node starts with.
func (r *restorer) end(out *Restored) error {
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := r.file(restoredFile, append(b, '\n')); err != nil {
		return err
	}
	if err := r.fs.Remove(r.path(restoringFile)); err != nil {
		return err
	}
	return r.fs.SyncDir(r.o.Data)
}

// write brings all files back.
func (r *restorer) write(ctx context.Context) (err error) {
	m := &r.backup.Manifest
	j, err := journal.NewRestorer(journal.Options{Dir: r.path("journal"), FS: r.fs, Logger: r.o.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	for i := range m.Files {
		f := &m.Files[i]
		name, ok := strings.CutPrefix(f.Name, journalFolder)
		switch {
		case ok:
			err = r.reading(ctx, f, func(src io.Reader) error {
				return j.File(journal.BackupFile{Name: name, Size: f.Size, Full: max(f.Size, f.Full)}, src)
			})
		case f.Name == rowsFile:
			err = r.rows(ctx, j, f)
		case f.Name != boundsFile && f.Name != catalogFile:
			err = &backup.DamagedError{ID: m.ID, Object: "manifest", Reason: "no backup of a node has a file " + strconv.Quote(f.Name)}
		}
		if err != nil {
			return err
		}
	}
	if err := r.file("SHARDS", []byte(strconv.Itoa(m.Shards)+"\n")); err != nil {
		return err
	}
	name := m.Cluster
	if r.backup.File(catalogFile) != nil { // the old one may live: what comes out of the backup is none of it
		if r.renamed, err = freshClusterID(); err != nil {
			return err
		}
		name = r.renamed
	}
	if err := r.file("CLUSTER", []byte(name+"\n")); err != nil {
		return err
	}
	r.tell("restore", true, r.done, m.Bytes())
	return j.Finish()
}

// rows brings the checkpoint store back, and with it, as entries that a node had while it was alone, the catalog of a cluster.
func (r *restorer) rows(ctx context.Context, j *journal.Restorer, f *backup.File) error {
	return j.Rows(func(put func(key, value []byte) error) error {
		err := r.reading(ctx, f, func(src io.Reader) error { return eachRow(src, put) })
		catalog := r.backup.File(catalogFile)
		if err != nil || catalog == nil {
			return err
		}
		return r.reading(ctx, catalog, func(src io.Reader) error {
			return eachRow(src, func(key, value []byte) error {
				e := meta.Entry{Key: string(key), Value: value}
				if err := e.Check(); err != nil {
					return err
				}
				return put(journal.ShardRow(0, broker.EntryRow(e.Key)), value)
			})
		})
	})
}

func eachRow(src io.Reader, fn func(key, value []byte) error) (err error) {
	in := bufio.NewReaderSize(src, 256<<10)
	var key, value []byte
	for {
		if key, value, err = journal.ReadRow(in, key, value); err == io.EOF { //nolint:errorlint // its own; an error may wrap another's
			return nil
		}
		if err == nil {
			err = fn(key, value)
		}
		if err != nil {
			return err
		}
	}
}

// reading gives fn a file's bytes, and makes sure that it takes all of them: the last ones are only given once they are verified.
func (r *restorer) reading(ctx context.Context, f *backup.File, fn func(io.Reader) error) (err error) {
	src := r.backup.Read(ctx, f)
	defer func() { err = errors.Join(err, src.Close()) }()
	counted := readerFunc(func(p []byte) (int, error) {
		n, err := src.Read(p)
		r.done += int64(n)
		r.tell("restore", false, r.done, r.backup.Bytes())
		return n, err
	})
	if err := fn(counted); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	n, err := src.Read(make([]byte, 1))
	switch {
	case n != 0:
		return fmt.Errorf("%s: it goes on behind its end: %w", f.Name, backup.ErrDamaged)
	case err != io.EOF: //nolint:errorlint // the reader's own
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return nil
}

// readerFunc is an io.Reader.
type readerFunc func([]byte) (int, error)

// Read reads.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (r *restorer) tell(step string, now bool, done, total int64) {
	if t := time.Now(); now || t.Sub(r.told) >= backupTick {
		r.told = t
		r.o.Progress(RestoreProgress{ID: r.o.ID, Step: step, Done: done, Total: total})
	}
}

// verify brings the state up as a node does that starts, but writes nothing to the log, and reads every record of every partition.
func (r *restorer) verify(ctx context.Context) (rep *VerifyReport, err error) {
	r.tell("open", true, 0, 0)
	bounds, err := r.bounds(ctx)
	if err != nil {
		return nil, err
	}
	l, err := journal.Open(journal.Options{Dir: r.path("journal"), FS: r.fs, Logger: r.o.Logger,
		// What had left the log for the tier when the backup was taken is not in it; what the log itself had must be.
		Elsewhere: func(p record.PartitionID) (start, end record.Offset, ok bool) {
			b := bounds[p]
			return b.Start, b.Local, b.Local > b.Start
		}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	rep = new(VerifyReport)
	manifest := history.NewManifest()
	if err := r.load(l, manifest, rep); err != nil {
		return nil, err
	}
	if err := checkBounds(l, bounds); err != nil {
		return nil, err
	}
	rep.Logs = int64(len(bounds))
	n := int64(0)
	for _, id := range l.Partitions() {
		r.tell("read", false, n, rep.Logs)
		if err := readPartition(ctx, l, id, rep); err != nil {
			return nil, fmt.Errorf("partition %d: %w", id, err)
		}
		n++
	}
	r.tell("read", true, n, rep.Logs)
	return rep, r.readTier(ctx, manifest, rep)
}

// load has a core load rows and replay the log.
func (r *restorer) load(l *journal.Log, manifest *history.Manifest, rep *VerifyReport) error {
	catalog := newCatalogStore()
	several := r.backup.File(catalogFile) != nil
	sets := 0
	if several {
		sets = meta.SetsMax
	}
	b := broker.New(broker.Options{EntryChanged: entriesChanged(catalog.Catalog), Shards: r.backup.Shards, StreamSets: sets, Loops: 1, Logger: r.o.Logger, Replicated: several,
		ResolveTopic: resolveTopic})
	defer b.Close()
	b.UseTier(manifest)
	catalog.group.b = b
	b.Local(0).SetWake(func() {})
	s := &logStorage{log: l, b: b, logger: r.o.Logger}
	if err := s.load(lookedAt{s}); err != nil {
		return err
	}
	if several {
		if err := settle(b, r.backup.Shards); err != nil {
			return err
		}
	}
	st := b.Stats()
	rep.Sessions, rep.Retained, rep.Partitions = st.Sessions.Load(), st.RetainedMessages.Load(), st.Partitions.Load()
	rep.Topics = b.TopicCount()
	if err := catalog.Recovered(); err != nil {
		return err
	}
	rep.Entries, _ = b.CatalogSize()
	return nil
}

// readTier reads all objects of the tier that the catalog names, if the store is named.
func (r *restorer) readTier(ctx context.Context, manifest *history.Manifest, rep *VerifyReport) error {
	rep.TierObjects = int64(manifest.Stats().Objects)
	if rep.TierObjects == 0 || r.o.Tier == "" || r.o.Tier == "off" {
		return nil
	}
	st, err := stores.Open(ctx, r.o.Tier, r.o.TierSettings)
	if err != nil {
		return err
	}
	for o := range manifest.All() {
		r.tell("history", false, rep.TierRead, rep.TierObjects)
		if err := history.Verify(ctx, st, o, 0, nil); err != nil {
			return errors.Join(err, st.Close())
		}
		rep.TierRead++
	}
	r.tell("history", true, rep.TierRead, rep.TierObjects)
	return st.Close()
}

// lookedAt is a log that stays as it is, whatever the core finds out while it loads: all that is there is read afterwards.
type lookedAt struct{ *logStorage }

// SetLogStart does nothing.
func (lookedAt) SetLogStart(record.PartitionID, record.Offset) {}

// DropPartition does nothing.
func (lookedAt) DropPartition(record.PartitionID) {}

// bounds reads where partitions began and ended when the backup was taken.
func (r *restorer) bounds(ctx context.Context) (map[record.PartitionID]journal.PartitionBounds, error) {
	all := make(map[record.PartitionID]journal.PartitionBounds)
	err := r.reading(ctx, r.backup.File(boundsFile), func(src io.Reader) error {
		in := bufio.NewReader(src)
		for {
			b, err := journal.ReadBounds(in)
			if err == io.EOF { //nolint:errorlint // its own
				return nil
			}
			if err != nil {
				return err
			}
			if _, twice := all[b.Partition]; twice {
				return fmt.Errorf("%w: it has partition %d twice", backup.ErrDamaged, b.Partition)
			}
			all[b.Partition] = b
		}
	})
	return all, err
}

// checkBounds compares where partitions begin and end with where they did when the backup was taken: none may end elsewhere, begin later, or hold
// less. What lies before the begin may be back, as after a crash.
func checkBounds(l *journal.Log, bounds map[record.PartitionID]journal.PartitionBounds) error {
	for id, b := range bounds {
		start, end, bytes := l.LogStart(id), l.LogEnd(id), l.Size(id)
		if end != b.End || start > b.Start || l.LocalStart(id) > b.Local || bytes < b.Bytes {
			return fmt.Errorf("partition %d holds %d bytes at offsets from %d to %d, and held %d from %d to %d", id, bytes, start, end, b.Bytes, b.Start, b.End)
		}
	}
	return nil
}

// readPartition reads a partition's batches and verifies their checksums, order and records.
func readPartition(ctx context.Context, l *journal.Log, id record.PartitionID, rep *VerifyReport) error {
	from, end := max(l.LogStart(id), l.LocalStart(id)), l.LogEnd(id)
	var f journal.Fetched
	defer func() { f.Release() }()
	for from < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.Release()
		if err := l.Fetch(id, from, readBytes, &f); err != nil {
			return err
		}
		if len(f.Batches) == 0 {
			return nil // compaction has taken the rest
		}
		next := from
		err := vfs.Guard(func() (err error) {
			next, err = checkBatches(&f, from, rep)
			return err
		})
		if err != nil {
			return err
		}
		if next <= from {
			return fmt.Errorf("it does not go on at offset %d", from)
		}
		from = next
	}
	return nil
}

func checkBatches(f *journal.Fetched, from record.Offset, rep *VerifyReport) (next record.Offset, err error) {
	next = from
	for _, raw := range f.Batches {
		for len(raw) > 0 {
			b, n, err := record.ParseBatch(raw)
			if err == nil {
				err = b.Verify()
			}
			if err != nil {
				return next, fmt.Errorf("batch behind offset %d: %w", next, err)
			}
			if b.NextOffset() <= next {
				return next, fmt.Errorf("the batch at offset %d comes after offset %d", b.BaseOffset(), next)
			}
			next = b.NextOffset()
			rep.Batches++
			rep.Records += int64(b.Count())
			rep.Bytes += int64(n)
			raw = raw[n:]
		}
	}
	return next, nil
}
