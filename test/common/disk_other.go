//go:build !linux

package common

import "testing"

// Disk is a file system of its own, small enough to be filled.
type Disk struct {
	Dir string
	By  []string
}

// NewDisk skips the test: there are none here.
func NewDisk(t testing.TB, _ string) *Disk {
	t.Helper()
	t.Skip("a file system of the test's own wants Linux")
	return nil
}

// Fill leaves no room at all.
func (d *Disk) Fill() {}

// Empty gives the room back.
func (d *Disk) Empty() {}
