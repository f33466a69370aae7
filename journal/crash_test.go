package journal

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

func smallOptions(mode Durability) Options {
	return Options{Durability: mode, SegmentBytes: 64 << 10, TailBytes: 16 << 10, GroupBytesMax: 16 << 10, LogBytesMax: 256 << 10, RewriteRate: -1}
}

// TestCrashAtEverySync cuts the power before each operation that makes something durable, in two ways: nothing of what was on its
// way is left, or any sectors of it. Then the log must hold all that was acknowledged, and nothing half.
func TestCrashAtEverySync(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) { crashAtEverySync(t, mode) })
	}
}

func crashAtEverySync(t *testing.T, mode Durability) {
	t.Helper()
	w := newWorld(smallOptions(mode))
	type image struct {
		at  string
		k   known
		mem *vfs.Mem
	}
	var images []image
	seed := uint64(0)
	gate := make(chan struct{}, 1)
	gate <- struct{}{}
	w.mem.OnSync = func(op, path string) {
		// Known first, image second: what is acknowledged in between is more than must be there. But what may be there grows,
		// and so does the log start, so those are looked at again afterwards.
		<-gate
		defer func() { gate <- struct{}{} }()
		seed++
		k := w.knows()
		cut := vfs.Cut{}
		if seed%2 == 0 {
			cut.Rand = seeded(seed)
		}
		mem := w.mem.Crash(cut)
		late := w.knows()
		k.most, k.mostIdx, k.start, k.tiered = late.most, late.mostIdx, late.start, late.tiered
		images = append(images, image{fmt.Sprintf("%d: %s %s", seed, op, path), k, mem})
	}
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		w.put([worldParts]int{1500, i % 3 * 900, 200})
		w.settle(t)
		switch i % 10 {
		case 4:
			w.setStart(0, record.Offset(2*i-10))
			w.setStart(1, record.Offset(i/2))
		case 7, 9:
			if err := w.checkpoint(i%10 == 9); err != nil {
				t.Fatal(err)
			}
		case 1, 3:
			p := 1 + i/20%2 // each is offloaded for a time, and what was left behind is rewritten
			if err := w.offload(p, 8<<10); err != nil {
				t.Fatal(err)
			}
			w.setLocal(p, w.knows().tiered[p])
		}
	}
	st := w.l.Stats()
	testx.Eventually(t, waitFor, func() bool { return st.Recycled.Load() > 0 && st.RewrittenBytes.Load() > 0 })
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d power cuts; recycled %d, rewrote %d bytes", len(images), st.Recycled.Load(), st.RewrittenBytes.Load())
	for _, im := range images {
		o := w.o
		o.FS = im.mem
		l, _, err := check(o, im.k)
		if err != nil {
			t.Fatalf("power cut at %s: %v", im.at, err)
		}
		_ = l.Close()
	}
}

// A checkpoint that is flushed while a group is written and not yet in the index must not have the next start replay from behind it: the
// rows lack it. The kill comes before the next checkpoint.
func TestCheckpointBesideCommit(t *testing.T) {
	o := smallOptions(Sync)
	mem := vfs.NewMem()
	o.FS, o.Dir = mem, "data"
	l := open(t, o)
	if err := l.src.commit(t, commandFrame(nil, 0, 1, "in the rows")); err != nil {
		t.Fatal(err)
	}
	if err := l.Checkpointer().Write(0, 1, l.src.end(), nil); err != nil {
		t.Fatal(err)
	}
	l.tail.mu.Lock() // the committer stops between write and index
	l.src.put(commandFrame(nil, 0, 2, "not in the rows"))
	testx.Eventually(t, waitFor, func() bool { return running("journal.(*tail).add") })
	err := l.Checkpointer().Flush()
	l.tail.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, waitFor, l.src.settled)
	o.FS = mem.Crash(vfs.Cut{Keep: true})
	l.close(t)
	l = open(t, o)
	defer l.close(t)
	if n := len(l.frames); n == 0 || l.frames[n-1] != "kind 2 shard 0 index 2 partition 0" {
		t.Errorf("replayed %v, and command 2 was acknowledged", l.frames)
	}
}

// What a checkpoint says of a partition's start and end is on the disk before it: the log is flushed after the look at them, or a power
// cut could take records that the rows count.
func TestCheckpointFlushesWhatItSaw(t *testing.T) {
	o := smallOptions(Async)
	o.FlushInterval = time.Hour
	mem := vfs.NewMem()
	o.FS, o.Dir = mem, "data"
	var l *opened
	var watch atomic.Bool
	unseen := []int{}
	mem.OnSync = func(_, path string) {
		if watch.Load() && strings.HasSuffix(path, ".log") {
			l.mu.RLock()
			unseen = append(unseen, len(l.mu.dirty))
			l.mu.RUnlock()
		}
	}
	l = open(t, o)
	defer l.close(t)
	if err := l.src.commit(t, recordsFrame(nil, 1, 0, 2, 100)); err != nil {
		t.Fatal(err)
	}
	l.SetLogStart(1, 1)
	watch.Store(true)
	err := l.Checkpointer().Flush()
	watch.Store(false)
	if err != nil || !slices.Equal(unseen, []int{0}) {
		t.Errorf("%v; starts that the checkpoint had not seen at each flush of the log: %v, want none at one", err, unseen)
	}
}

// running tells whether some goroutine is in a function.
func running(function string) bool {
	b := make([]byte, 1<<20)
	return bytes.Contains(b[:runtime.Stack(b, true)], []byte(function))
}

// TestModel runs random histories against counters: appends, checkpoints, log starts that move, power cuts of all sorts.
func TestModel(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { runModel(t, rt, mode) })
		})
	}
}

func runModel(t *testing.T, rt *rapid.T, mode Durability) {
	t.Helper()
	w := newWorld(smallOptions(mode))
	do := func(err error) {
		if err != nil {
			rt.Fatal(err)
		}
	}
	do(w.start())
	seeds := rapid.Uint64()
	size := rapid.SampledFrom([]int{0, 0, 100, 1000, 5000, 12000})
	rt.Repeat(map[string]func(*rapid.T){
		"put": func(rt *rapid.T) {
			for range rapid.IntRange(1, 8).Draw(rt, "groups") {
				w.put([worldParts]int{size.Draw(rt, "a"), size.Draw(rt, "b"), size.Draw(rt, "c")})
			}
		},
		"settle": func(*rapid.T) { w.settle(t) },
		"checkpoint": func(rt *rapid.T) {
			do(w.checkpoint(rapid.Bool().Draw(rt, "flush")))
		},
		"start": func(rt *rapid.T) {
			p := rapid.IntRange(0, worldParts-1).Draw(rt, "partition")
			k := w.knows()
			w.setStart(p, k.start[p]+record.Offset(rapid.IntRange(0, 30).Draw(rt, "by")))
		},
		"offload": func(rt *rapid.T) {
			do(w.offload(rapid.IntRange(0, worldParts-1).Draw(rt, "partition"), int64(rapid.IntRange(1, 40<<10).Draw(rt, "bytes"))))
		},
		"local start": func(rt *rapid.T) {
			p := rapid.IntRange(0, worldParts-1).Draw(rt, "partition")
			if n := int(w.knows().tiered[p]); n > 0 {
				w.setLocal(p, record.Offset(rapid.IntRange(1, n).Draw(rt, "offset")))
			}
		},
		"read": func(rt *rapid.T) {
			w.settle(t)
			do(w.readAll(func(n int) int { return rapid.IntRange(0, n).Draw(rt, "from") }))
		},
		"power cut": func(rt *rapid.T) { do(w.crash(vfs.Cut{})) },
		"torn": func(rt *rapid.T) {
			do(w.crash(vfs.Cut{Rand: seeded(seeds.Draw(rt, "seed"))}))
		},
		"killed": func(rt *rapid.T) { do(w.crash(vfs.Cut{Keep: true})) },
		"reopen": func(rt *rapid.T) {
			w.settle(t)
			do(w.l.Close())
			w.mu.Lock()
			w.mu.least, w.mu.leastIdx = w.mu.acked.most, w.mu.acked.mostIdx
			w.mu.Unlock()
			do(w.start())
		},
	})
	do(w.l.Close())
}
