//go:build linux

package main

import "testing"

func TestRound(t *testing.T) {
	for _, o := range []options{{}, {pread: true}, {drop: true}} {
		o.dir, o.size, o.chunk, o.passes = t.TempDir(), 4<<20, 1<<20, 2
		if cpu, rate, err := o.round(); err != nil || cpu < 0 || rate <= 0 {
			t.Errorf("%+v: %v µs/MB, %v MB/s, %v", o, cpu, rate, err)
		}
	}
	if _, _, err := (&options{size: 5, chunk: 2}).round(); err == nil {
		t.Error("half a chunk was sent")
	}
}
