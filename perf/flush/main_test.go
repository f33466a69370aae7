//go:build linux

package main

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRound(t *testing.T) {
	for _, o := range []*options{{in: 1000, out: 0, cycles: 5}, {in: 100_000, out: 100_000, every: time.Millisecond, cycles: 3}} {
		o.dir = t.TempDir()
		cpu, took, err := o.round()
		if errors.Is(err, unix.EINVAL) {
			t.Skip("this directory's file system knows no O_DIRECT")
		}
		if err != nil || cpu <= 0 || took <= 0 {
			t.Errorf("%d bytes: %v µs, %v µs, %v", o.in, cpu, took, err)
		}
	}
}
