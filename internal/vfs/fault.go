package vfs

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// OpKind is what a Fault is asked about.
type OpKind string

// The operations that can be made to fail.
const (
	OpOpen     OpKind = "open"
	OpRename   OpKind = "rename"
	OpRemove   OpKind = "remove"
	OpMkdir    OpKind = "mkdir"
	OpList     OpKind = "list"
	OpSyncDir  OpKind = "syncdir"
	OpRead     OpKind = "read"
	OpWrite    OpKind = "write"
	OpSync     OpKind = "sync"
	OpAllocate OpKind = "allocate"
	OpMap      OpKind = "map"
	OpPopulate OpKind = "populate"
)

// Op is one operation about to be done.
type Op struct {
	Kind   OpKind
	Path   string
	Offset int64
	Len    int
	N      int // operations before it, of all kinds
}

// Verdict says what is to happen. The zero value: nothing.
type Verdict struct {
	Err   error            // the operation fails with it
	Short int              // a failing write has written so many bytes before
	Wait  func()           // called before the operation: makes it slow
	Flip  func(b []byte)   // changes what was read
	After func(err *error) // sees, and may change, the outcome
}

// Fault wraps a file system and does what Judge says, which is called before each operation and may be called concurrently.
type Fault struct {
	FS    FS
	Judge func(op Op) Verdict

	mu struct {
		sync.Mutex
		n int
	}
}

// Ops is the number of operations so far.
func (f *Fault) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.n
}

func (f *Fault) judge(kind OpKind, path string, off int64, n int) Verdict {
	f.mu.Lock()
	op := Op{Kind: kind, Path: path, Offset: off, Len: n, N: f.mu.n}
	f.mu.n++
	f.mu.Unlock()
	if f.Judge == nil {
		return Verdict{}
	}
	v := f.Judge(op)
	if v.Wait != nil {
		v.Wait()
	}
	return v
}

func (v *Verdict) do(f func() error) error {
	err := v.Err
	if err == nil {
		err = f()
	}
	if v.After != nil {
		v.After(&err)
	}
	return err
}

// FailNth makes the nth operation of these kinds (all, if none are named) and each later one fail with err.
func FailNth(n int, err error, kinds ...OpKind) func(Op) Verdict {
	var mu sync.Mutex
	return func(op Op) Verdict {
		if !isOneOf(op.Kind, kinds) {
			return Verdict{}
		}
		mu.Lock()
		defer mu.Unlock()
		n--
		if n < 0 {
			return Verdict{Err: err}
		}
		return Verdict{}
	}
}

func isOneOf(k OpKind, kinds []OpKind) bool {
	for _, o := range kinds {
		if o == k {
			return true
		}
	}
	return len(kinds) == 0
}

// Space makes writes and allocations fail with ENOSPC once so many bytes have been written: a disk of that size on which nothing
// is ever overwritten. Add gives more.
type Space struct {
	mu struct {
		sync.Mutex
		left int64
	}
}

// NewSpace has room for n bytes.
func NewSpace(n int64) *Space {
	s := &Space{}
	s.mu.left = n
	return s
}

// Add makes room for n bytes more; with a negative n, less.
func (s *Space) Add(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.left += n
}

// Left is the room there is.
func (s *Space) Left() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.mu.left, 0)
}

// Judge is for Fault.Judge.
func (s *Space) Judge(op Op) Verdict {
	if op.Kind != OpWrite && op.Kind != OpAllocate {
		return Verdict{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(op.Len) > s.mu.left {
		short := max(s.mu.left, 0)
		s.mu.left = 0
		return Verdict{Err: syscall.ENOSPC, Short: int(short) &^ (SectorSize - 1)}
	}
	s.mu.left -= int64(op.Len)
	return Verdict{}
}

// Open opens a file whose operations are judged, too.
func (f *Fault) Open(path string, flag Flag) (file File, err error) {
	v := f.judge(OpOpen, path, 0, 0)
	err = v.do(func() error {
		inner, err := f.FS.Open(path, flag)
		if err == nil {
			file = &faultFile{File: inner, f: f, path: path}
		}
		return err
	})
	return file, err
}

// Rename moves a name.
func (f *Fault) Rename(oldPath, newPath string) error {
	v := f.judge(OpRename, newPath, 0, 0)
	return v.do(func() error { return f.FS.Rename(oldPath, newPath) })
}

// Remove removes a file.
func (f *Fault) Remove(path string) error {
	v := f.judge(OpRemove, path, 0, 0)
	return v.do(func() error { return f.FS.Remove(path) })
}

// MkdirAll makes a folder.
func (f *Fault) MkdirAll(path string) error {
	v := f.judge(OpMkdir, path, 0, 0)
	return v.do(func() error { return f.FS.MkdirAll(path) })
}

// List gives the names in a folder.
func (f *Fault) List(dir string) (names []string, err error) {
	v := f.judge(OpList, dir, 0, 0)
	err = v.do(func() error {
		names, err = f.FS.List(dir)
		return err
	})
	return names, err
}

// Stat is never judged.
func (f *Fault) Stat(path string) (Info, error) { return f.FS.Stat(path) }

// SyncDir syncs a folder.
func (f *Fault) SyncDir(dir string) error {
	v := f.judge(OpSyncDir, dir, 0, 0)
	return v.do(func() error { return f.FS.SyncDir(dir) })
}

// Lock is never judged.
func (f *Fault) Lock(path string) (io.Closer, error) { return f.FS.Lock(path) }

// FreeSpace is never judged.
func (f *Fault) FreeSpace(path string) (int64, error) { return f.FS.FreeSpace(path) }

type faultFile struct {
	File
	f    *Fault
	path string
}

func (f *faultFile) ReadAt(p []byte, off int64) (n int, err error) {
	v := f.f.judge(OpRead, f.path, off, len(p))
	err = v.do(func() error {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	if v.Flip != nil {
		v.Flip(p[:n])
	}
	return n, err
}

func (f *faultFile) WriteAt(p []byte, off int64) (n int, err error) {
	v := f.f.judge(OpWrite, f.path, off, len(p))
	if v.Err != nil && v.Short > 0 {
		short := min(v.Short, len(p))
		if f.Direct().Aligned() {
			short &^= BlockSize - 1
		}
		if n, err = f.File.WriteAt(p[:short], off); err != nil {
			return n, errors.Join(v.Err, err)
		}
	}
	err = v.do(func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *faultFile) Sync() error {
	v := f.f.judge(OpSync, f.path, 0, 0)
	return v.do(f.File.Sync)
}

func (f *faultFile) Allocate(off, n int64) error {
	v := f.f.judge(OpAllocate, f.path, off, int(n))
	return v.do(func() error { return f.File.Allocate(off, n) })
}

func (f *faultFile) Map(off, n int64, writable bool) (m Mapping, err error) {
	v := f.f.judge(OpMap, f.path, off, int(n))
	err = v.do(func() error {
		inner, err := f.File.Map(off, n, writable)
		if err == nil {
			m = &faultMapping{Mapping: inner, f: f.f, path: f.path}
		}
		return err
	})
	return m, err
}

type faultMapping struct {
	Mapping
	f    *Fault
	path string
}

func (m *faultMapping) Sync(off, n int64) error {
	v := m.f.judge(OpSync, m.path, off, int(n))
	return v.do(func() error { return m.Mapping.Sync(off, n) })
}

func (m *faultMapping) Populate(off, n int64) error {
	v := m.f.judge(OpPopulate, m.path, off, int(n))
	return v.do(func() error { return m.Mapping.Populate(off, n) })
}
