//go:build !linux

package main

import "runtime"

func (d *doctor) machine() {
	d.say("machine", "skip", "", "limits and clock are looked at on Linux only, this is %s", runtime.GOOS)
}

func (d *doctor) fileSystem(string) {}
