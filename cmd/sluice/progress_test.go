package main

import "testing"

// What a reader has of why a node leaves the lead to others; of one without clients its roles tell already.
func TestYieldsText(t *testing.T) {
	for why, want := range map[string]string{"": "active", "drained": "active, drained", "failed": "active, its disk has failed or is full", "no_clients": "active", "naps": "active, naps"} {
		row := nodeRow{State: "active", Yields: why}
		if got := row.cells()[1]; got != want {
			t.Errorf("%q shows %q, want %q", why, got, want)
		}
	}
}

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
