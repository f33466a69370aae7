package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// directFlags is what the Direct flag adds to open(2).
const directFlags = unix.O_DIRECT | unix.O_DSYNC

func adviseRandom(f *os.File) {
	// Advice only: a file system that does not take it works all the same.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
			}
			return nil
		}
	}
}

func populate(b []byte, writable bool) error {
	advice := unix.MADV_POPULATE_READ
	if writable {
		advice = unix.MADV_POPULATE_WRITE
	}
	err := unix.Madvise(b, advice)
	if errors.Is(err, unix.EINVAL) {
		// A kernel before 5.14 does not know it: start the read at least.
		return unix.Madvise(b, unix.MADV_WILLNEED)
	}
	if errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EHWPOISON) {
		return ErrFault
	}
	return err
}
