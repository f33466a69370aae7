package vfs

import (
	"errors"
	"os"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"
)

// directFlags is what the Direct flag adds to open(2).
const directFlags = unix.O_DIRECT | unix.O_DSYNC

// unbufferedFlags is what the Unbuffered flag adds.
const unbufferedFlags = unix.O_DIRECT

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

// residentStep is how many pages resident asks for at once.
const residentStep = 1024

// residentPages is what the kernel writes its answer to: a byte for each page. at is its address; such memory does not move.
type residentPages struct {
	b  [residentStep]byte
	at uintptr
}

var residentPool = sync.Pool{New: func() any {
	p := new(residentPages)
	p.at = reflect.ValueOf(&p.b).Pointer()
	return p
}}

// resident is mincore(2) for n bytes at an address, which is a page's.
func resident(at uintptr, n int) bool {
	p := residentPool.Get().(*residentPages)
	defer residentPool.Put(p)
	page := os.Getpagesize()
	for n > 0 {
		step := min(n, residentStep*page)
		if _, _, errno := unix.RawSyscall(unix.SYS_MINCORE, at, uintptr(step), p.at); errno != 0 {
			return false
		}
		for _, v := range p.b[:(step+page-1)/page] {
			if v&1 == 0 {
				return false
			}
		}
		at, n = at+uintptr(step), n-step
	}
	return true
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
