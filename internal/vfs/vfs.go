// Package vfs is the file system as a parameter: what journal and meta need of one, as an interface, with three implementations.
// OS is the real one; Mem forgets what was not synced when told to crash, and can tear; Fault wraps another and fails by rule. It
// owns open files and mappings until they are closed, and never retries: an error is the caller's to judge. Mapped bytes can
// fault: whoever reads them does so under Guard, or hands them to a system call.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"time"
)

// BlockSize is the alignment that Direct handles want of offsets, lengths and memory.
const BlockSize = 4096

var (
	// ErrLocked means that another process, or another user in this one, holds the lock.
	ErrLocked = errors.New("vfs: file is locked")
	// ErrFull means that there is no space left, or no quota. Use IsFull, which knows the system's own errors too.
	ErrFull = errors.New("vfs: no space left on device")
	// ErrFault means that mapped bytes could not be read: the file was cut, or the disk failed below the map.
	ErrFault = errors.New("vfs: mapped bytes cannot be read")
)

// Flag says how a file is opened. Without Write it is opened for reading.
type Flag uint8

const (
	// Write opens for reading and writing.
	Write Flag = 1 << iota
	// Create makes the file if it is not there.
	Create
	// Truncate cuts it to nothing.
	Truncate
	// Direct asks for writes that bypass the page cache and are on stable storage when WriteAt returns. File.Direct says what
	// was got: where the file system cannot, WriteAt writes and then syncs.
	Direct
	// Random tells that reads will be scattered: no read-ahead.
	Random
	// Unbuffered asks for writes that bypass the page cache, and promises no more than others: Sync does. File.Direct says what was got.
	Unbuffered
)

// DirectMode is how a file keeps the promise of the Direct flag, and of Unbuffered.
type DirectMode uint8

const (
	// Buffered files make no promise: Sync does.
	Buffered DirectMode = iota
	// WriteSync files do write and fdatasync in each WriteAt: the file system has no direct writes.
	WriteSync
	// DirectSync files were opened with O_DIRECT and O_DSYNC: buffers, offsets and lengths are multiples of BlockSize.
	DirectSync
	// DirectOnly files were opened with O_DIRECT alone: aligned as DirectSync, and not on stable storage before Sync.
	DirectOnly
)

// Aligned tells whether buffers, offsets and lengths of writes must be multiples of BlockSize.
func (m DirectMode) Aligned() bool { return m == DirectSync || m == DirectOnly }

// String names the mode as logs do.
func (m DirectMode) String() string {
	switch m {
	case WriteSync:
		return "write+fdatasync"
	case DirectSync:
		return "O_DIRECT|O_DSYNC"
	case DirectOnly:
		return "O_DIRECT"
	default:
		return "buffered"
	}
}

// Info is what Stat tells.
type Info struct {
	Name    string // last element of the path
	Size    int64
	Dir     bool
	ModTime time.Time
}

// FS is a file system. Paths are slash-separated. All methods are safe for concurrent use. What an operation on names (Open with
// Create, Rename, Remove, MkdirAll) did is on stable storage only after SyncDir of the folder.
type FS interface {
	Open(path string, flag Flag) (File, error)
	// Rename replaces newPath if it is there.
	Rename(oldPath, newPath string) error
	// Remove removes a file or an empty folder.
	Remove(path string) error
	MkdirAll(path string) error
	// List gives the names in a folder, sorted.
	List(dir string) ([]string, error)
	Stat(path string) (Info, error)
	SyncDir(dir string) error
	// Lock takes an exclusive lock on the file, which is created if need be. ErrLocked: somebody has it.
	Lock(path string) (io.Closer, error)
	// FreeSpace is the number of bytes that may still be written where path is.
	FreeSpace(path string) (int64, error)
}

// File is an open file. All methods are safe for concurrent use, but Close must be the last.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync puts data, and the metadata that is needed to find it, on stable storage: fdatasync. After an error nothing that was
	// written since the Sync before may be trusted.
	Sync() error
	// Size is the file's current size.
	Size() (int64, error)
	Truncate(size int64) error
	// Allocate writes zeros to n bytes from off on, so that writing there again needs no new metadata. It is done when it
	// returns, but not synced unless the file is Direct.
	Allocate(off, n int64) error
	// Map maps n bytes from off on. The file must not be cut while mapped, nor change its size in Mem.
	Map(off, n int64, writable bool) (Mapping, error)
	// Direct tells how the file keeps the promise of the flag Direct or Unbuffered.
	Direct() DirectMode
}

// Mapping is a mapped range of a file. It outlives the File's Close.
type Mapping interface {
	// Bytes may fault when touched: see Guard. They are gone after Close.
	Bytes() []byte
	// Sync puts what was written in the range on stable storage.
	Sync(off, n int64) error
	// Populate brings a range into memory by one system call, so that touching it does not fault for it. A disk that fails
	// is an error here, not a signal.
	Populate(off, n int64) error
	// Resident tells whether a range is in memory, so that neither touching nor populating it waits for the disk: as far as one can know,
	// since the system may take memory back at any time. false: it is not, or the system does not tell.
	Resident(off, n int64) bool
	// Drop takes a range out of the process's memory. The system keeps what it likes of it, and it may be touched as before: it is found
	// again, or read.
	Drop(off, n int64)
	Close() error
}

// IsFull tells whether err means that space or quota is exhausted.
func IsFull(err error) bool { return errors.Is(err, ErrFull) || isSystemFull(err) }

// IsNotExist tells whether err means that the file is not there.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Guard runs f, which reads mapped bytes, and turns a memory fault into ErrFault. Without it, a file that was cut or a disk that
// failed under a map would end the process. Any other panic goes on.
func Guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		r := recover()
		if r == nil {
			return
		}
		if fault, ok := r.(interface {
			error
			Addr() uintptr
		}); ok {
			err = fmt.Errorf("%w at %#x", ErrFault, fault.Addr())
			return
		}
		panic(r)
	}()
	return f()
}

// ReadFile reads a whole small file.
func ReadFile(fsys FS, path string) ([]byte, error) {
	f, err := fsys.Open(path, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) && int64(n) == size {
		err = nil
	}
	return b[:n], errors.Join(err, f.Close())
}

// WriteFile writes a whole file so that it is there in full or not at all: to path.tmp, synced, renamed. The caller syncs the folder.
func WriteFile(fsys FS, path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := fsys.Open(tmp, Write|Create|Truncate)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		// What is left is deleted at the next open at the latest; the first error is the one to tell.
		_ = fsys.Remove(tmp)
		return err
	}
	return fsys.Rename(tmp, path)
}

// RemoveAll removes a folder with all that is in it; it is no error if there is none.
func RemoveAll(fsys FS, path string) error {
	info, err := fsys.Stat(path)
	if IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Dir {
		names, err := fsys.List(path)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := RemoveAll(fsys, path+"/"+name); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(path)
}
