package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sluicemq/sluice/internal/vfs"
)

// errStopped is what the checkpoint store gets once it has failed.
var errStopped = errors.New("journal: checkpoint store is stopped")

// storeFS lets the checkpoint store run on the log's file system, so that one simulated power cut meets both. Once stopped, nothing
// on the disk changes any more.
type storeFS struct {
	fs      vfs.FS
	stopped atomic.Bool
	failed  func(error) // stops the store
}

func (s *storeFS) check() error {
	if s.stopped.Load() {
		return errStopped
	}
	return nil
}

func (s *storeFS) open(name string, flag vfs.Flag) (pvfs.File, error) {
	f, err := s.fs.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return &storeFile{s: s, f: f, name: name}, nil
}

// Create makes a new file in place of the one that may be there.
func (s *storeFS) Create(name string, _ pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.fs.Remove(name); err != nil && !vfs.IsNotExist(err) {
		return nil, err
	}
	return s.open(name, vfs.Write|vfs.Create|vfs.Truncate)
}

// Link is for what the store is not used for here: ingestion and its own checkpoints.
func (s *storeFS) Link(oldname, newname string) error {
	return fmt.Errorf("link %s to %s: %w", oldname, newname, errors.ErrUnsupported)
}

// Open opens a file for reading.
func (s *storeFS) Open(name string, opts ...pvfs.OpenOption) (pvfs.File, error) {
	f, err := s.open(name, 0)
	if err == nil {
		for _, o := range opts {
			o.Apply(f)
		}
	}
	return f, err
}

// OpenReadWrite opens a file for both.
func (s *storeFS) OpenReadWrite(name string, _ pvfs.DiskWriteCategory, opts ...pvfs.OpenOption) (pvfs.File, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	f, err := s.open(name, vfs.Write|vfs.Create)
	if err == nil {
		for _, o := range opts {
			o.Apply(f)
		}
	}
	return f, err
}

// OpenDir opens a folder, to sync it.
func (s *storeFS) OpenDir(name string) (pvfs.File, error) {
	if _, err := s.fs.Stat(name); err != nil {
		return nil, err
	}
	return &storeFile{s: s, name: name}, nil
}

// Remove removes a file or an empty folder.
func (s *storeFS) Remove(name string) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.fs.Remove(name)
}

// RemoveAll removes a folder with what is in it.
func (s *storeFS) RemoveAll(name string) error {
	if err := s.check(); err != nil {
		return err
	}
	return vfs.RemoveAll(s.fs, name)
}

// Rename renames a file.
func (s *storeFS) Rename(oldname, newname string) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.fs.Rename(oldname, newname)
}

// ReuseForWrite opens a file under a new name.
func (s *storeFS) ReuseForWrite(oldname, newname string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	if err := s.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return s.OpenReadWrite(newname, c)
}

// MkdirAll makes a folder.
func (s *storeFS) MkdirAll(dir string, _ os.FileMode) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.fs.MkdirAll(dir)
}

// Lock takes a file's lock.
func (s *storeFS) Lock(name string) (io.Closer, error) { return s.fs.Lock(name) }

// List gives the names in a folder.
func (s *storeFS) List(dir string) ([]string, error) { return s.fs.List(dir) }

// Stat tells about a file.
func (s *storeFS) Stat(name string) (pvfs.FileInfo, error) {
	info, err := s.fs.Stat(name)
	if err != nil {
		return nil, err
	}
	return storeInfo{info}, nil
}

// PathBase is the last element.
func (s *storeFS) PathBase(p string) string { return path.Base(p) }

// PathJoin joins elements.
func (s *storeFS) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir is all but the last element.
func (s *storeFS) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage tells the free space; the store asks for no more.
func (s *storeFS) GetDiskUsage(p string) (pvfs.DiskUsage, error) {
	free, err := s.fs.FreeSpace(p)
	return pvfs.DiskUsage{AvailBytes: uint64(free), TotalBytes: uint64(free)}, err
}

// Unwrap tells that this is the root.
func (s *storeFS) Unwrap() pvfs.FS { return nil }

// storeFile is a file, or a folder if f is nil. Reads and writes in sequence are the store's alone, one at a time.
type storeFile struct {
	s    *storeFS
	f    vfs.File
	name string
	pos  int64
}

func (f *storeFile) Close() error {
	if f.f == nil {
		return nil
	}
	return f.f.Close()
}

func (f *storeFile) Read(p []byte) (int, error) {
	n, err := f.f.ReadAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *storeFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *storeFile) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *storeFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.s.check(); err != nil {
		return 0, err
	}
	return f.f.WriteAt(p, off)
}

func (f *storeFile) Preallocate(int64, int64) error { return nil }

func (f *storeFile) Stat() (pvfs.FileInfo, error) { return f.s.Stat(f.name) }

func (f *storeFile) Sync() error {
	if f.f == nil {
		f.syncDir()
		return nil
	}
	if err := f.s.check(); err != nil {
		return err
	}
	return f.f.Sync()
}

// syncDir never tells the store of an error: it would panic, on a goroutine of its own. It is stopped instead, which Checkpointer
// knows of and reports; what it believes to have done from then on reaches no disk.
func (f *storeFile) syncDir() {
	if f.s.stopped.Load() {
		return
	}
	if err := f.s.fs.SyncDir(f.name); err != nil {
		f.s.failed(err)
	}
}

func (f *storeFile) SyncTo(int64) (bool, error) { return false, nil }

func (f *storeFile) SyncData() error { return f.Sync() }

func (f *storeFile) Prefetch(int64, int64) error { return nil }

func (f *storeFile) Fd() uintptr { return pvfs.InvalidFd }

// storeInfo is a vfs.Info as the store wants it.
type storeInfo struct{ i vfs.Info }

func (i storeInfo) Name() string            { return i.i.Name }
func (i storeInfo) Size() int64             { return i.i.Size }
func (i storeInfo) ModTime() time.Time      { return i.i.ModTime }
func (i storeInfo) IsDir() bool             { return i.i.Dir }
func (i storeInfo) Sys() any                { return nil }
func (i storeInfo) DeviceID() pvfs.DeviceID { return pvfs.DeviceID{} }

func (i storeInfo) Mode() fs.FileMode {
	if i.i.Dir {
		return fs.ModeDir | 0o750
	}
	return 0o640
}

// storeLogger takes the store's messages. What is fatal to the store stops the store, not the process.
type storeLogger struct{ c *Checkpointer }

func (g storeLogger) Infof(string, ...any) {}

func (g storeLogger) Errorf(format string, args ...any) {
	g.c.l.log.Warn("checkpoint store", "err", fmt.Sprintf(format, args...))
}

func (g storeLogger) Fatalf(format string, args ...any) {
	g.c.fail(fmt.Errorf(format, args...))
}
