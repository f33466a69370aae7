//go:build unix && !linux

package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// directFlags is 0: only Linux is known to keep the promise of direct and synchronous writes together.
const directFlags = 0

// unbufferedFlags is 0: other systems have calls of their own for it.
const unbufferedFlags = 0

func adviseRandom(*os.File) {}

func fdatasync(f *os.File) error { return f.Sync() }

// resident says no: what mincore tells differs between systems.
func resident(uintptr, int) bool { return false }

func populate(b []byte, _ bool) error { return unix.Madvise(b, unix.MADV_WILLNEED) }
