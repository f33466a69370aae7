package main

import "testing"

func TestProgressText(t *testing.T) {
	left := uint64(63)
	none := uint64(0)
	for want, p := range map[string]nodeProgress{
		"":                                   {Phase: "in_sync"},
		"away":                               {Phase: "away"},
		"its copy is made: 1.0MiB of 4.0MiB": {Phase: "preparing", DoneBytes: 1 << 20, TotalBytes: 4 << 20},
		"gets a copy: 4.0MiB of 4.0MiB, 1.0KiB/s":                                     {Phase: "copying", DoneBytes: 4 << 20, TotalBytes: 4 << 20, BytesPerSecond: 1024, SecondsLeft: &none},
		"catches up: 1.0MiB of 4.0MiB, 2.0MiB/s, 1m03s left":                          {Phase: "catching_up", DoneBytes: 1 << 20, TotalBytes: 4 << 20, BytesPerSecond: 2 << 20, SecondsLeft: &left},
		"catches up: 1.0MiB of 4.0MiB, 1.0MiB/s, never at this rate: more is written": {Phase: "catching_up", DoneBytes: 1 << 20, TotalBytes: 4 << 20, BytesPerSecond: 1 << 20, Never: true},
		"flies": {Phase: "flies"},
	} {
		if got := p.text(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
