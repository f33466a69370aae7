//go:build unix

package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system. Its zero value is ready.
type OS struct{}

// zeroChunk is how much Allocate writes at once; it is shared and never written to.
const zeroChunk = 4 << 20

var zeros = sync.OnceValue(func() []byte {
	// Pages that are only read are all the kernel's one page of zeros.
	if b, err := unix.Mmap(-1, 0, zeroChunk, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON); err == nil {
		return b
	}
	return AlignedBytes(zeroChunk / 16)
})

// Open opens a file; new ones are readable by the owner and his group.
func (OS) Open(path string, flag Flag) (File, error) {
	mode := os.O_RDONLY
	if flag&Write != 0 {
		mode = os.O_RDWR
	}
	if flag&Create != 0 {
		mode |= os.O_CREATE
	}
	if flag&Truncate != 0 {
		mode |= os.O_TRUNC
	}
	past, as := 0, Buffered
	switch {
	case flag&Direct != 0:
		past, as = directFlags, DirectSync
	case flag&Unbuffered != 0:
		past, as = unbufferedFlags, DirectOnly
	}
	if past != 0 {
		f, err := os.OpenFile(path, mode|past, 0o640)
		if err == nil {
			return &osFile{f: f, mode: as}, nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, mode, 0o640)
	if err != nil {
		return nil, err
	}
	of := &osFile{f: f}
	if flag&Direct != 0 {
		of.mode = WriteSync
	}
	if flag&Random != 0 {
		adviseRandom(f)
	}
	return of, nil
}

// Rename is rename(2).
func (OS) Rename(oldPath, newPath string) error { return os.Rename(oldPath, newPath) }

// Remove removes a file or an empty folder.
func (OS) Remove(path string) error { return os.Remove(path) }

// MkdirAll makes the folder and those above it; only the owner and his group may enter.
func (OS) MkdirAll(path string) error { return os.MkdirAll(path, 0o750) }

// List gives the names in a folder, sorted.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Stat tells about a file.
func (OS) Stat(path string) (Info, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: fi.Name(), Size: fi.Size(), Dir: fi.IsDir(), ModTime: fi.ModTime()}, nil
}

// SyncDir is fsync(2) of a folder.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock takes an flock(2): it is the open file's, so that it also keeps out a second user in the same process, and ends with it.
func (OS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// FreeSpace is what statfs(2) says is there for users without privileges.
func (OS) FreeSpace(path string) (int64, error) { return freeSpace(path) }

type osFile struct {
	f    *os.File
	mode DirectMode
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	if err == nil && f.mode == WriteSync {
		err = f.Sync()
	}
	return n, err
}

func (f *osFile) Close() error { return f.f.Close() }

func (f *osFile) Sync() error { return fdatasync(f.f) }

func (f *osFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (f *osFile) Truncate(size int64) error { return f.f.Truncate(size) }

func (f *osFile) Allocate(off, n int64) error {
	z := zeros()
	for n > 0 {
		step := min(n, int64(len(z)))
		// Straight to the descriptor: in WriteSync mode one sync for each chunk would serve nobody.
		if _, err := f.f.WriteAt(z[:step], off); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	if f.mode == Buffered {
		return nil
	}
	return f.Sync()
}

func (f *osFile) Direct() DirectMode { return f.mode }

func (f *osFile) Map(off, n int64, writable bool) (Mapping, error) {
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	b, err := unix.Mmap(int(f.f.Fd()), off, int(n), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, &fs.PathError{Op: "mmap", Path: f.f.Name(), Err: err}
	}
	return &osMapping{b: b, at: reflect.ValueOf(b).Pointer(), writable: writable}, nil
}

type osMapping struct {
	b        []byte
	at       uintptr // of b
	writable bool
}

func (m *osMapping) Bytes() []byte { return m.b }

func (m *osMapping) Sync(off, n int64) error {
	from := off &^ int64(os.Getpagesize()-1)
	return unix.Msync(m.b[from:off+n], unix.MS_SYNC)
}

func (m *osMapping) Populate(off, n int64) error {
	from := off &^ int64(os.Getpagesize()-1)
	return populate(m.b[from:off+n], m.writable)
}

func (m *osMapping) Resident(off, n int64) bool {
	from := off &^ int64(os.Getpagesize()-1)
	return resident(m.at+uintptr(from), int(off+n-from))
}

func (m *osMapping) Drop(off, n int64) {
	from := off &^ int64(os.Getpagesize()-1)
	// Advice only, and the bytes are the file's: nothing is lost.
	_ = unix.Madvise(m.b[from:off+n], unix.MADV_DONTNEED)
}

func (m *osMapping) Close() error {
	b := m.b
	m.b = nil
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

func isSystemFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func freeSpace(path string) (int64, error) {
	_, usable, err := VolumeSpace(path)
	return usable, err
}

// VolumeSpace is the size of the volume that path lies on, and what is there for users without privileges, in bytes.
func VolumeSpace(path string) (total, usable int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(uint64(st.Bsize) * st.Blocks), int64(uint64(st.Bsize) * uint64(st.Bavail)), nil
}
