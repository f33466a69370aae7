//go:build !linux

package main

import (
	"os"
	"runtime"
)

func (d *doctor) machine() {
	d.say("machine", "skip", "", "limits and clock are looked at on Linux only, this is %s", runtime.GOOS)
}

func (d *doctor) disk(string, *os.File) {
	d.say("disk", "skip", "", "flushes and direct I/O are looked at on Linux only, this is %s", runtime.GOOS)
}
