package journal

import (
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// timedFrame appends a frame with one batch of n records at a time; a control batch for control.
func timedFrame(dst []byte, p record.PartitionID, base record.Offset, n int, time int64, control bool, size int) []byte {
	var b record.BatchBuilder
	b.Begin(nil, time)
	for i := range n {
		b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: time, Value: make([]byte, size)})
	}
	o := record.BatchOptions{BaseOffset: base}
	if control {
		o.Attributes = record.Control
	}
	dst, at := record.BeginFrame(dst, &record.Frame{Kind: record.KindRecords, Partition: p, Index: uint64(base) + 1})
	dst = record.BeginRecordsPayload(dst, nil)
	dst = append(dst, b.Finish(&o)...)
	return record.FinishFrame(dst, at)
}

type timedBatch struct {
	base, last record.Offset
	time       int64
	control    bool
	size       int64
}

// TestTimeModel compares searches by time, and what retention takes, with a slow model, over rewriting and restarts.
func TestTimeModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := smallOptions(Sync)
		o.Dir, o.FS, o.LogBytesMax = "data", vfs.NewMem(), 1<<40
		if err := o.FS.MkdirAll("."); err != nil {
			rt.Fatal(err)
		}
		l := open(t, o)
		defer func() { l.close(t) }()
		const part = record.PartitionID(9)
		var all []timedBatch
		next := record.Offset(0)
		for range rapid.IntRange(1, 20).Draw(rt, "groups") {
			var g []byte
			for range rapid.IntRange(1, 6).Draw(rt, "batches") {
				b := timedBatch{base: next, time: rapid.Int64Range(0, 50).Draw(rt, "time"), control: rapid.IntRange(0, 4).Draw(rt, "control") == 0}
				n := rapid.IntRange(1, 3).Draw(rt, "n")
				b.last = b.base + record.Offset(n) - 1
				before := len(g)
				g = timedFrame(g, part, b.base, n, b.time, b.control, rapid.SampledFrom([]int{10, 3000}).Draw(rt, "size"))
				b.size = int64(len(g) - before)
				next = b.last + 1
				all = append(all, b)
			}
			if err := l.src.commit(t, g); err != nil {
				rt.Fatal(err)
			}
		}
		if rapid.Bool().Draw(rt, "rewritten") {
			l.checkpointed(t)
			rewriteSealed(rt, l.Log, rapid.IntRange(1, 3).Draw(rt, "at once"))
			if rapid.Bool().Draw(rt, "joined") {
				rewriteParts(rt, l.Log)
			}
		}
		if rapid.Bool().Draw(rt, "again") {
			l.close(t)
			l = open(t, o)
		}
		start := record.Offset(rapid.IntRange(0, int(next)).Draw(rt, "start"))
		l.SetLogStart(part, start)
		checkTimes(rt, l.Log, part, all, start)
		checkExcess(rt, l.Log, part, all, start)
		checkSize(rt, l.Log, part, all, start)
	})
}

// checkSize: what is there is counted, and nothing but that and what shares an entry with the log start.
func checkSize(t *rapid.T, l *Log, part record.PartitionID, all []timedBatch, start record.Offset) {
	least, most := int64(0), int64(0)
	for _, b := range all {
		if most += b.size; b.last >= start {
			least += b.size
		}
	}
	if got := l.Size(part); got < least || got > most {
		t.Fatalf("%d bytes from %d on, want %d to %d", got, start, least, most)
	}
}

type fatal interface{ Fatal(...any) }

// rewriteSealed rewrites what is sealed, some segments at once.
func rewriteSealed(t fatal, l *Log, atOnce int) {
	l.mu.RLock()
	sealed := slices.DeleteFunc(slices.Clone(l.mu.segments), func(s *segment) bool { return !s.sealed })
	l.mu.RUnlock()
	for list := range slices.Chunk(sealed, atOnce) {
		rewriteList(t, l, list)
	}
}

// rewriteParts joins all partition segments.
func rewriteParts(t fatal, l *Log) {
	l.mu.RLock()
	parts := slices.Collect(maps.Keys(l.mu.parts))
	l.mu.RUnlock()
	rewriteList(t, l, parts)
}

func rewriteList(t fatal, l *Log, list []*segment) {
	for _, s := range list {
		s.readers.Add(1)
	}
	err := l.clean.rewrite(list)
	for _, s := range list {
		s.release(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func checkTimes(t *rapid.T, l *Log, part record.PartitionID, all []timedBatch, start record.Offset) {
	most := int64(math.MinInt64)
	for at := range int64(52) {
		want := record.Offset(-1)
		for _, b := range all {
			if b.last >= start && !b.control && b.time >= at {
				want = b.base
				break
			}
		}
		from, found := l.SeekTime(part, at)
		if want >= 0 && (!found || from > max(want, start)) {
			t.Fatalf("at %d: %d %v, want at most %d", at, from, found, want)
		}
		for _, b := range all { // one follows soon: within an entry
			if found && b.base >= from && !b.control && b.time >= at {
				if b.base > from+1000 {
					t.Fatalf("at %d: %d, the next is %d", at, from, b.base)
				}
				break
			}
		}
		if want >= 0 {
			most = at
		}
	}
	time, found := l.MaxTime(part)
	if want := most != math.MinInt64; want && (!found || time < most) {
		t.Fatalf("latest %d %v, want %d", time, found, most)
	}
}

func checkExcess(t *rapid.T, l *Log, part record.PartitionID, all []timedBatch, start record.Offset) {
	before := rapid.Int64Range(0, 51).Draw(t, "before")
	bytes := rapid.SampledFrom([]int64{0, 1000, 9000, 30_000, math.MaxInt64}).Draw(t, "bytes")
	got := l.Excess(part, before, bytes)
	if got < start || got > l.LogEnd(part) {
		t.Fatalf("excess %d of %d to %d", got, start, l.LogEnd(part))
	}
	behind := int64(0) // bytes behind the batch
	for i := len(all) - 1; i >= 0; i-- {
		b := &all[i]
		if b.last >= start && b.last < got && !b.control && b.time >= before && behind < bytes {
			t.Fatalf("%+v is lost: excess is %d before %d, %d bytes of %d lie behind; %+v", b, got, before, behind, bytes, all)
		}
		behind += b.size
	}
	// What is kept begins with something that is young and within the bytes, as far as entries tell.
	for _, b := range all {
		if b.last >= got && bytes == math.MaxInt64 && start == 0 {
			young := false
			for _, c := range all {
				if c.base >= got && c.base < got+1000 && !c.control && c.time >= before {
					young = true
				}
			}
			if !young {
				t.Fatalf("%d and what follows could go before %d", got, before)
			}
			break
		}
	}

}
