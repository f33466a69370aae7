package journal

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", "30")
	flag.Parse()
	// Pebble leaves this goroutine behind when it cannot open a store; nothing that it exports would end it.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"))
}

func TestAppendFetchReopen(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) {
			o := Options{Dir: t.TempDir(), Durability: mode, SegmentBytes: 1 << 20, TailBytes: 256 << 10, GroupBytesMax: 64 << 10}
			l := open(t, o)
			next := record.Offset(0)
			for range 100 {
				g := recordsFrame(nil, 7, next, 3, 5000)
				g = recordsFrame(g, 8, next, 3, 1000)
				if err := l.src.commit(t, g); err != nil {
					t.Fatal(err)
				}
				next += 3
			}
			check := func(l *opened) {
				t.Helper()
				for _, p := range []record.PartitionID{7, 8} {
					for _, from := range []record.Offset{0, 1, 150, 299} {
						got := offsets(t, l.Log, p, from)
						if len(got) != int(300-from) || got[0] != from || got[len(got)-1] != 299 {
							t.Fatalf("partition %d from %d: %d offsets", p, from, len(got))
						}
					}
				}
			}
			check(l)
			testx.Eventually(t, waitFor, func() bool { return l.Stats().Segments.Load() >= 2 })
			l.close(t)
			l = open(t, o)
			if len(l.frames) != 200 {
				t.Fatalf("replayed %d frames", len(l.frames))
			}
			check(l)
			l.close(t)
		})
	}
}

// TestLargeGroup writes what is larger than a group, a buffer, and even a segment is meant to be.
func TestLargeGroup(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", memDir(t)
	l := open(t, o)
	for i, size := range []int{10, 100 << 10, 10, 300 << 10, 10} {
		if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(i), 1, size)); err != nil {
			t.Fatal(err)
		}
	}
	if got := offsets(t, l.Log, 1, 0); len(got) != 5 {
		t.Fatalf("%d records", len(got))
	}
	l.close(t)
	l = open(t, o)
	if got := offsets(t, l.Log, 1, 0); len(got) != 5 {
		t.Fatalf("%d records after all", len(got))
	}
	l.close(t)
}

func TestFetchRange(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", memDir(t)
	l := open(t, o)
	var f Fetched
	if err := l.Fetch(5, 0, 100, &f); err != nil || len(f.Batches) != 0 {
		t.Fatalf("a partition without records: %v", err)
	}
	for i := range 10 {
		if err := l.src.commit(t, recordsFrame(nil, 5, record.Offset(10*i), 2, 300)); err != nil { // offsets 0, 1, 10, 11, ...
			t.Fatal(err)
		}
	}
	fetch := func(from record.Offset, most int) []record.Offset {
		t.Helper()
		if err := l.Fetch(5, from, most, &f); err != nil {
			t.Fatal(err)
		}
		var bases []record.Offset
		for _, b := range f.Batches {
			bases = append(bases, record.Batch(b).BaseOffset())
		}
		return bases
	}
	for _, c := range []struct {
		from record.Offset
		most int
		want []record.Offset
	}{
		{0, 1, []record.Offset{0}}, {1, 1, []record.Offset{0}}, {2, 1, []record.Offset{10}}, {11, 1500, []record.Offset{10, 20}},
		{91, 1 << 20, []record.Offset{90}}, {92, 1 << 20, nil},
	} {
		if diff := cmp.Diff(c.want, fetch(c.from, c.most)); diff != "" {
			t.Errorf("from %d, %d bytes: %s", c.from, c.most, diff)
		}
	}
	l.SetLogStart(5, 35)
	for _, from := range []record.Offset{34, 93, -1} {
		if err := l.Fetch(5, from, 100, &f); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("offset %d: %v", from, err)
		}
	}
	if got := fetch(35, 1); len(got) != 1 || got[0] != 40 {
		t.Errorf("got %v", got)
	}
	if l.LogStart(5) != 35 || l.LogEnd(5) != 92 {
		t.Errorf("%d to %d", l.LogStart(5), l.LogEnd(5))
	}
	f.Release()
	l.close(t)
}

// TestReadersKeepWhatTheyHold drops a partition, and all there is dies, while somebody reads it.
func TestReadersKeepWhatTheyHold(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.TailBytes = "data", memDir(t), 8<<10
	l := open(t, o)
	for i := range 60 {
		if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(i), 1, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	var f Fetched
	if err := l.Fetch(1, 3, 20<<10, &f); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(bytes.Join(f.Batches, nil))
	l.DropPartition(1)
	for s := range record.ShardID(2) {
		if err := l.Checkpointer().Write(s, 1, l.src.end(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Checkpointer().Flush(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Recycled.Load() >= 1 })
	if got := bytes.Join(f.Batches, nil); !bytes.Equal(got, want) {
		t.Error("what was fetched has changed")
	}
	recycled := l.Stats().Recycled.Load()
	f.Release()
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Recycled.Load() > recycled })
	l.close(t)
	l = open(t, o)
	if got := l.LogStart(1); got != l.LogEnd(1) {
		t.Errorf("a dropped partition starts at %d", got)
	}
	l.close(t)
}

func TestHold(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS = "data", memDir(t)
	l := open(t, o)
	l.Hold("raft", Position{Segment: 1})
	for i := range 40 {
		if err := l.src.commit(t, commandFrame(nil, 0, uint64(i+1), strings.Repeat("x", 5000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Checkpointer().Write(0, 40, l.src.end(), nil), l.Checkpointer().Flush()); err != nil {
		t.Fatal(err)
	}
	l.recycleDead()
	if n := l.Stats().Segments.Load(); n < 4 {
		t.Errorf("%d segments are left of what is held", n)
	}
	l.Hold("raft", Position{})
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Segments.Load() == 1 })
	l.HoldNew("copy") // what comes from now on
	last := l.ShardPosition(0, 41)
	for i := range 40 {
		if err := l.src.commit(t, commandFrame(nil, 0, uint64(i+41), strings.Repeat("x", 5000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Checkpointer().Write(0, 80, l.src.end(), nil), l.Checkpointer().Flush()); err != nil {
		t.Fatal(err)
	}
	l.recycleDead()
	if sc, err := l.Scan(last); err != nil {
		t.Errorf("what was written since the hold: %v", err)
	} else {
		sc.Close()
	}
	l.Hold("copy", Position{})
	testx.Eventually(t, waitFor, func() bool { return l.Stats().Segments.Load() == 1 })
	if _, err := l.Scan(last); !errors.Is(err, ErrGone) {
		t.Errorf("what nobody holds: %v", err)
	}
	l.close(t)
}

// TestCommitAllocs: a group of many small frames costs no allocation per frame.
func TestCommitAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	l := open(t, Options{Dir: t.TempDir(), SegmentBytes: 64 << 20})
	next := record.Offset(0)
	const frames = 200
	group := make([]byte, 0, 64<<10)
	round := func() {
		group = group[:0]
		for range frames {
			group = append(group, frameTemplate(next)...)
			next++
		}
		if err := l.src.commit(t, group); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		round()
	}
	if n := testing.AllocsPerRun(50, round); n > frames/10 {
		t.Errorf("%v allocations for a group of %d frames", n, frames)
	}
	l.close(t)
}

var template = recordsFrame(nil, 9, 0, 1, 64)

// frameTemplate is one frame for partition 9, made without allocating.
func frameTemplate(o record.Offset) []byte {
	f, _, _ := record.ViewFrame(template)
	record.Batch(record.FrameBatch(f.Payload)).SetBaseOffset(o)
	return record.FinishFrame(template, 0)
}
