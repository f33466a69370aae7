// Package localtier is the Store that is a directory: one file for each object, whose path is the object's name. It owns that
// directory, and knows no format. A file is written under a name of its own in the folder .tmp, synced, and then renamed, or linked where nothing may be replaced;
// then the folder is synced. What is large is written past the page cache, one piece after the other: on a disk that the log is on too, a flush of the log waits
// for one piece, and not for what the system has put off. Several processes, and machines that have it mounted, may use one directory. Its neighbour is internal/vfs.
package localtier

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/tier"
)

const (
	kind   = "local"
	tmpDir = ".tmp"
	// bufBytes is a piece. Whoever flushes something on the same disk waits for one at most.
	bufBytes = 512 << 10
	// syncEvery bounds the bytes that the system may put off where it does not write past the page cache.
	syncEvery = 4 << 20
	// foldersMax bounds what is remembered of folders that are there and synced.
	foldersMax = 4096
)

// Options are what the store is opened with.
type Options struct {
	Dir string     // is made if need be
	FS  vfs.LinkFS // nil: the operating system's
	_   struct{}   // by name only
}

// Store is the directory.
type Store struct {
	dir   string
	fs    vfs.LinkFS
	bufs  sync.Pool
	asked tier.Requests

	mu struct {
		sync.Mutex
		folders map[string]struct{} // made, and synced
	}
}

// FromSettings opens what the settings say: "dir".
func FromSettings(ctx context.Context, s *tier.Settings) (tier.Store, error) {
	o := Options{Dir: s.Required("dir")}
	if err := s.Err(); err != nil {
		return nil, err
	}
	return Open(ctx, o)
}

// Open opens the directory, and makes it if need be.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{dir: path.Clean(o.Dir), fs: o.FS}
	if s.fs == nil {
		s.fs = vfs.OS{}
	}
	s.bufs.New = func() any { b := vfs.AlignedBytes(bufBytes); return &b }
	s.mu.folders = make(map[string]struct{})
	if err := s.folder(tmpDir); err != nil {
		return nil, s.wrap(ctx, "open", o.Dir, err)
	}
	return s, nil
}

// Requests are files and folders that were asked for: a list reads folders, and looks at each file in them. See tier.Metered.
func (s *Store) Requests() *tier.Requests { return &s.asked }

// Close has nothing to end.
func (s *Store) Close() error { return nil }

func (s *Store) path(name string) string { return s.dir + "/" + name }

func (s *Store) wrap(ctx context.Context, op, name string, err error) error {
	kindOf := tier.Unavailable // an I/O error: the disk may come back
	switch {
	case vfs.IsNotExist(err):
		kindOf = tier.NotFound
	case vfs.IsFull(err):
		kindOf = tier.Full
	case errors.Is(err, fs.ErrPermission):
		kindOf = tier.Denied
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrInvalid):
		kindOf = tier.Permanent
	}
	return tier.Wrap(ctx, kind, op, name, kindOf, err)
}

// folder makes a folder below the directory, with those above it, and syncs what is new.
func (s *Store) folder(name string) error {
	s.mu.Lock()
	_, ok := s.mu.folders[name]
	s.mu.Unlock()
	if ok {
		return nil
	}
	full := s.path(name)
	if err := s.fs.MkdirAll(full); err != nil {
		return err
	}
	// Which of them are new is not known: another process may have made one and not synced it yet.
	for p := full; ; p = path.Dir(p) {
		if err := s.fs.SyncDir(p); err != nil {
			return err
		}
		if len(p) < len(s.dir) || p == "/" || p == "." {
			break // the one that the directory is in
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.folders) >= foldersMax {
		clear(s.mu.folders)
	}
	s.mu.folders[name] = struct{}{}
	return nil
}

// Put writes a file. See tier.Store.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return s.wrap(ctx, "put", name, err)
	}
	s.asked.Add(tier.OpPut, 1)
	if o.IfAbsent {
		// Link decides; this spares the bytes where the answer is known.
		if info, err := s.fs.Stat(s.path(name)); err == nil && !info.Dir {
			return s.wrap(ctx, "put", name, s.exists(name))
		}
	}
	src := tier.Exactly(ctx, r, size)
	tmp := s.path(tmpDir + "/" + unique())
	err := s.write(tmp, src, size)
	if err == nil {
		err = s.publish(tmp, name, o.IfAbsent)
	}
	if err == nil {
		return nil
	}
	// Gone already if it was renamed; else what stays is swept.
	_ = s.fs.Remove(tmp)
	if bad := src.Err(); bad != nil {
		return s.wrap(ctx, "put", name, bad)
	}
	return s.wrap(ctx, "put", name, err)
}

func unique() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (s *Store) write(tmp string, src *tier.ExactReader, size int64) (err error) {
	flag := vfs.Write | vfs.Create | vfs.Truncate
	if size >= bufBytes {
		flag |= vfs.Unbuffered // a small one costs more so
	}
	f, err := s.fs.Open(tmp, flag)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	aligned := f.Direct().Aligned()
	buf := s.bufs.Get().(*[]byte)
	defer s.bufs.Put(buf)
	at, synced := int64(0), int64(0)
	for {
		n, rerr := io.ReadFull(src, *buf)
		if n > 0 {
			b := (*buf)[:n]
			if rest := n % vfs.BlockSize; aligned && rest != 0 {
				b = (*buf)[:n+vfs.BlockSize-rest] // the last piece: what is too much is cut off
				clear(b[n:])
			}
			if _, err := f.WriteAt(b, at); err != nil {
				return err
			}
			at += int64(n)
		}
		if rerr != nil {
			// It is at its end, unless it says otherwise: the source may have failed with io.ErrUnexpectedEOF too.
			if err := src.Err(); err != nil {
				return err
			}
			if aligned && at%vfs.BlockSize != 0 {
				if err := f.Truncate(at); err != nil {
					return err
				}
			}
			return f.Sync()
		}
		if !aligned && at-synced >= syncEvery {
			if err := f.Sync(); err != nil {
				return err
			}
			synced = at
		}
	}
}

// publish gives a synced file its name.
func (s *Store) publish(tmp, name string, ifAbsent bool) error {
	folder := path.Dir(name)
	if err := s.folder(folder); err != nil {
		return err
	}
	give := s.fs.Rename
	if ifAbsent {
		give = s.fs.Link
	}
	err := give(tmp, s.path(name))
	if vfs.IsNotExist(err) {
		// Somebody has removed the folder since it was remembered.
		s.forget(folder)
		if err = s.folder(folder); err == nil {
			err = give(tmp, s.path(name))
		}
	}
	if errors.Is(err, fs.ErrExist) && ifAbsent {
		if info, serr := s.fs.Stat(s.path(name)); serr != nil || !info.Dir {
			err = s.exists(name)
		}
	}
	if err != nil {
		return err
	}
	if ifAbsent {
		// The second name; if it stays it is swept.
		_ = s.fs.Remove(tmp)
	}
	return s.fs.SyncDir(s.path(folder))
}

// exists is the answer that a name is taken. Who put the object may not have synced the folder yet, and the answer must outlive a crash.
func (s *Store) exists(name string) error {
	if err := s.fs.SyncDir(s.path(path.Dir(name))); err != nil {
		return err
	}
	return tier.ErrExists
}

func (s *Store) forget(folder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.folders, folder)
}

// Get opens a file. See tier.Store.
func (s *Store) Get(ctx context.Context, name string, rng tier.Range) (io.ReadCloser, tier.Info, error) {
	info, err := s.stat(ctx, tier.OpGet, name)
	if err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	f, err := s.fs.Open(s.path(name), 0)
	if err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, err)
	}
	var off, n int64
	// It may have been replaced since: the open one counts.
	if info.Size, err = f.Size(); err == nil {
		off, n, err = rng.In(info.Size)
	}
	if err != nil {
		return nil, tier.Info{}, s.wrap(ctx, "get", name, errors.Join(err, f.Close()))
	}
	return &body{ctx: ctx, s: s, f: f, name: name, at: off, end: off + n}, info, nil
}

// Stat looks at a file. See tier.Store.
func (s *Store) Stat(ctx context.Context, name string) (tier.Info, error) {
	info, err := s.stat(ctx, tier.OpStat, name)
	return info, s.wrap(ctx, "stat", name, err)
}

// stat looks at the file that op is about.
func (s *Store) stat(ctx context.Context, op tier.Op, name string) (tier.Info, error) {
	if err := errors.Join(tier.CheckName(name), ctx.Err()); err != nil {
		return tier.Info{}, err
	}
	s.asked.Add(op, 1)
	fi, err := s.fs.Stat(s.path(name))
	if err != nil {
		return tier.Info{}, err
	}
	if fi.Dir {
		return tier.Info{}, tier.ErrNotFound
	}
	return tier.Info{Name: name, Size: fi.Size, ModTime: fi.ModTime}, nil
}

// body reads a range of an open file.
type body struct {
	ctx     context.Context
	s       *Store
	f       vfs.File
	name    string
	at, end int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, b.s.wrap(b.ctx, "get", b.name, err)
	}
	if b.at >= b.end {
		return 0, io.EOF
	}
	n, err := b.f.ReadAt(p[:min(int64(len(p)), b.end-b.at)], b.at)
	b.at += int64(n)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the file was cut
	}
	return 0, b.s.wrap(b.ctx, "get", b.name, err)
}

func (b *body) Close() error { return b.f.Close() }

// List walks the folders. A page costs a look at each file of the folders that it is in. See tier.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]tier.Info, bool, error) {
	page, more, err := tier.Walk(ctx, prefix, after, limit, s.entries)
	return page, more, s.wrap(ctx, "list", prefix, err)
}

func (s *Store) entries(folder string) ([]tier.Entry, error) {
	if f := strings.TrimSuffix(folder, "/"); f != "" && tier.CheckName(f) != nil {
		return nil, nil // no object's
	}
	s.asked.Add(tier.OpList, 1)
	names, err := s.fs.List(s.path(folder))
	if vfs.IsNotExist(err) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil // the prefix names no folder
	}
	if err != nil {
		return nil, err
	}
	out := make([]tier.Entry, 0, len(names))
	for _, name := range names {
		if tier.CheckName(name) != nil {
			continue
		}
		s.asked.Add(tier.OpStat, 1)
		fi, err := s.fs.Stat(s.path(folder + name))
		if vfs.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, tier.Entry{Name: name, Folder: fi.Dir, Info: func() (tier.Info, error) {
			return tier.Info{Size: fi.Size, ModTime: fi.ModTime}, nil
		}})
	}
	return out, nil
}

// Delete removes a file. Its folder stays. See tier.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	_, err := s.stat(ctx, tier.OpDelete, name)
	if err == nil {
		err = s.fs.Remove(s.path(name))
	}
	if err == nil {
		err = s.fs.SyncDir(s.path(path.Dir(name)))
	}
	if vfs.IsNotExist(err) || errors.Is(err, tier.ErrNotFound) {
		return nil
	}
	return s.wrap(ctx, "delete", name, err)
}

// Sweep removes temporary files that are older than age. See tier.Sweeper.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (int, error) {
	s.asked.Add(tier.OpList, 1)
	names, err := s.fs.List(s.path(tmpDir))
	if err != nil {
		return 0, s.wrap(ctx, "sweep", tmpDir, err)
	}
	n, before := 0, time.Now().Add(-age)
	for _, name := range names {
		p := s.path(tmpDir + "/" + name)
		s.asked.Add(tier.OpStat, 1)
		fi, err := s.fs.Stat(p)
		if err == nil && fi.ModTime.Before(before) {
			s.asked.Add(tier.OpDelete, 1)
			if err = s.fs.Remove(p); err == nil {
				n++
			}
		}
		if err = errors.Join(err, ctx.Err()); err != nil && !vfs.IsNotExist(err) {
			return n, s.wrap(ctx, "sweep", name, err)
		}
	}
	return n, nil
}
