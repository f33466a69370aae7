package history

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// obj makes an object of shard 1, with a run for each three numbers: partition, first, last. A record has 10 bytes, and its offset for a time.
func obj(seq int, runs ...int) *Object {
	o := &Object{ID: object.ID{Shard: 1, Epoch: 1, Sequence: uint64(seq)}, Size: 1 << 20, Tail: 100, Created: 1000, Shard: 1}
	for i := 0; i < len(runs); i += 3 {
		first, last := record.Offset(runs[i+1]), record.Offset(runs[i+2])
		o.Runs = append(o.Runs, Run{
			Partition: record.PartitionID(runs[i]), Index: i / 3, First: first, Last: last,
			MaxTime: int64(last), Bytes: 10 * int64(last-first+1), Blocks: 1,
		})
	}
	return o
}

func apply(t testing.TB, m *Manifest, o *Object) {
	t.Helper()
	if err := m.Apply(o.Shard, o.Key(), o.Encode(nil)); err != nil {
		t.Fatal(err)
	}
}

func gone(t testing.TB, m *Manifest, o *Object) {
	t.Helper()
	if err := m.Apply(o.Shard, o.Key(), nil); err != nil {
		t.Fatal(err)
	}
}

func names(objects []*Object) (out []uint64) {
	for _, o := range objects {
		out = append(out, o.ID.Sequence)
	}
	return out
}

func TestManifest(t *testing.T) {
	m := NewManifest()
	a, b := obj(1, 7, 10, 19, 8, 0, 99), obj(2, 7, 25, 39)
	for range 2 { // again, as at recovery
		apply(t, m, a)
		apply(t, m, b)
	}
	if start, end, ok := m.Bounds(7); start != 10 || end != 40 || !ok {
		t.Error(start, end, ok)
	}
	for o, want := range map[record.Offset]bool{9: false, 10: true, 19: true, 22: true, 25: true, 39: true, 40: false} {
		if m.Covers(7, o) != want {
			t.Errorf("covers %d: %v", o, !want)
		}
	}
	if m.Covers(6, 10) || m.Size(6) != 0 || m.Excess(6, math.MaxInt64, 0) != 0 {
		t.Error("something of a partition that is not there")
	}
	if _, _, ok := m.Bounds(6); ok {
		t.Error("bounds of a partition that is not there")
	}
	if n := m.Size(7); n != 250 {
		t.Error(n)
	}
	if n := m.SizeBelow(7, 30); n != 150 {
		t.Error(n)
	}
	if n := m.SizeBelow(7, 10); n != 0 {
		t.Error(n)
	}
	if at, ok := m.MaxTime(7); at != 39 || !ok {
		t.Error(at, ok)
	}
	if p, ok := m.find(7, 20); !ok || p.First != 25 || p.id != b.ID {
		t.Errorf("%+v", p)
	}
	m.SetLogStart(7, 20)
	if start, _, _ := m.Bounds(7); start != 25 || m.Covers(7, 19) || m.Size(7) != 150 {
		t.Error(start, m.Size(7))
	}
	if d := m.Dead(); len(d) != 0 {
		t.Error("dead, with a run alive", names(d))
	}
	m.SetLogStart(8, 1000)
	if d := m.Dead(); !slices.Equal(names(d), []uint64{1}) {
		t.Error(names(d))
	}
	m.SetLogStart(7, 30)
	if start, _, _ := m.Bounds(7); start != 30 {
		t.Error(start)
	}
	if !slices.Equal(m.Value(1, a.Key()), a.Encode(nil)) || m.Value(2, a.Key()) != nil || m.Value(1, nil) != nil {
		t.Error("values")
	}
	gone(t, m, a)
	gone(t, m, a)
	if len(m.Dead()) != 0 || m.Has(a.ID) || !m.Has(b.ID) || m.Value(1, a.Key()) != nil {
		t.Error("an object that is gone")
	}
	m.DropPartition(7)
	if d := m.Dead(); !slices.Equal(names(d), []uint64{2}) || len(m.Partitions()) != 0 {
		t.Error(names(d), m.Partitions())
	}
	// One that was on its way when its partition went.
	apply(t, m, obj(3, 7, 40, 49))
	if s := m.Stats(); s.Dead != 2 || s.LiveRuns != 0 || s.LiveBytes != 0 || s.Partitions != 0 || s.Runs != 2 || s.Objects != 2 || s.DeadBytes != s.Bytes {
		t.Errorf("%+v", s)
	}
}

func TestManifestRefuses(t *testing.T) {
	m := NewManifest()
	a := obj(1, 7, 10, 19)
	apply(t, m, a)
	for _, err := range []error{
		m.Apply(2, a.Key(), a.Encode(nil)), m.Apply(1, nil, nil), m.Apply(1, []byte("zebra"), []byte("x")), m.Apply(1, []byte("zebra"), nil),
		m.Apply(1, a.Key(), []byte{9}), m.Apply(0, []byte("e"), nil), m.Apply(0, EpochKey(1), []byte{2}),
	} {
		if !errors.Is(err, ErrRow) {
			t.Error(err)
		}
	}
	if !m.Covers(7, 12) || m.Stats().Objects != 1 {
		t.Error("it is not as it was")
	}
	if err := m.Apply(2, a.Key(), nil); err != nil || !m.Has(a.ID) {
		t.Error("a row of another shard took it away", err)
	}
}

// What has been there is known until the manifest is made anew.
func TestReached(t *testing.T) {
	m := NewManifest()
	if got := m.Reached(); got == nil || len(got) > 0 {
		t.Error(got)
	}
	a, b := obj(7, 1, 0, 9), obj(3, 1, 10, 19)
	apply(t, m, a)
	apply(t, m, b)
	gone(t, m, a)
	if got := m.Reached(); len(got) != 1 || got[a.ID.Epoch] != a.ID.Sequence+1 {
		t.Errorf("%v, want above %v", got, a.ID)
	}
}

func TestEpochs(t *testing.T) {
	m := NewManifest()
	for _, e := range []Epoch{{Epoch: 5, Created: 1, Store: "b", Adopted: true}, {Epoch: 3, Store: "a"}} {
		if err := m.Apply(0, e.Key(), e.Encode(nil)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Value(0, e.Key()), e.Encode(nil)) || m.Value(1, e.Key()) != nil {
			t.Error("value of an epoch")
		}
	}
	if got := fmt.Sprint(m.Epochs()); got != "[{3 0 a false} {5 1 b true}]" || !m.Minted(5) || m.Minted(4) {
		t.Error(got)
	}
	if err := m.Apply(0, EpochKey(5), nil); err != nil || m.Minted(5) {
		t.Error(err)
	}
}

// TestOverlap has uploads that were repeated: what lies within another is put aside, and comes back when that is gone.
func TestOverlap(t *testing.T) {
	m := NewManifest()
	a, b, c, d := obj(1, 7, 0, 99), obj(2, 7, 50, 149), obj(3, 7, 20, 30), obj(4, 7, 0, 99)
	for _, o := range []*Object{c, a, b, d} {
		apply(t, m, o)
	}
	if n := m.Size(7); n != 1500 {
		t.Errorf("%d bytes of 150 records", n)
	}
	if n := m.SizeBelow(7, 120); n != 1200 {
		t.Errorf("%d bytes of 120 records", n)
	}
	gone(t, m, a)
	if start, end, _ := m.Bounds(7); start != 0 || end != 150 {
		t.Error(start, end)
	}
	gone(t, m, d)
	if start, end, _ := m.Bounds(7); start != 20 || end != 150 || m.Size(7) != 1110 {
		t.Error(start, end, m.Size(7))
	}
	m.SetLogStart(7, 31)
	if d := m.Dead(); !slices.Equal(names(d), []uint64{3}) {
		t.Error(names(d))
	}
}

func TestExcess(t *testing.T) {
	m := NewManifest()
	for i := range 10 {
		apply(t, m, obj(i+1, 7, 10*i, 10*i+9)) // times 9, 19, …; 100 bytes each
	}
	for _, c := range []struct {
		before, bytes int64
		local, want   record.Offset
	}{
		{math.MinInt64, math.MaxInt64, math.MaxInt64, 0},
		{19, math.MaxInt64, math.MaxInt64, 10},
		{20, math.MaxInt64, math.MaxInt64, 20},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, 100},
		{math.MinInt64, 1000, math.MaxInt64, 0},
		{math.MinInt64, 901, math.MaxInt64, 0},
		{math.MinInt64, 900, math.MaxInt64, 10},
		{math.MinInt64, 0, math.MaxInt64, 100},
		{math.MinInt64, 0, 35, 35},
		{math.MinInt64, 100, 35, 20},
		{math.MaxInt64, 100, 35, 35},
		{35, math.MaxInt64, 35, 30},
	} {
		if got := m.ExcessBelow(7, c.local, c.before, c.bytes); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	m.SetLogStart(7, 15)
	if got := m.Excess(7, 0, 800); got != 20 {
		t.Error(got)
	}
	if got := m.Excess(7, 0, 801); got != 15 {
		t.Error(got)
	}
}

// modelManifest is the manifest in ten lines: rows, log starts, dropped partitions.
type modelManifest struct {
	rows    map[uint64]*Object
	starts  map[record.PartitionID]record.Offset
	dropped map[record.PartitionID]bool
}

func (m *modelManifest) live(r *Run) bool {
	return !m.dropped[r.Partition] && r.Last >= m.starts[r.Partition]
}

// has tells for each offset below 100 whether an object has it, in order.
func (m *modelManifest) has(p record.PartitionID) (out [100]bool, first, last record.Offset, any bool) {
	first, last = math.MaxInt64, -1
	for _, o := range m.rows {
		for i := range o.Runs {
			if r := &o.Runs[i]; r.Partition == p && m.live(r) {
				any = true
				first, last = min(first, r.First), max(last, r.Last)
				for k := r.First; k <= r.Last; k++ {
					out[k] = true
				}
			}
		}
	}
	return out, max(first, m.starts[p]), last, any
}

func (m *modelManifest) dead() (out []uint64) {
	for seq, o := range m.rows {
		if !slices.ContainsFunc(o.Runs, func(r Run) bool { return m.live(&r) }) {
			out = append(out, seq)
		}
	}
	slices.Sort(out)
	return out
}

// TestManifestModel compares with the model after each of many random steps.
func TestManifestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewManifest()
		model := &modelManifest{rows: map[uint64]*Object{}, starts: map[record.PartitionID]record.Offset{}, dropped: map[record.PartitionID]bool{}}
		partition := rapid.IntRange(1, 3)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "put", "gone", "start", "drop"}).Draw(t, "step") {
			case "put":
				var runs []int
				for range rapid.IntRange(1, 3).Draw(t, "runs") {
					first := rapid.IntRange(0, 99).Draw(t, "first")
					runs = append(runs, partition.Draw(t, "partition"), first, rapid.IntRange(first, 99).Draw(t, "last"))
				}
				o := obj(rapid.IntRange(1, 8).Draw(t, "sequence"), runs...)
				if err := m.Apply(1, o.Key(), o.Encode(nil)); err != nil {
					t.Fatal(err)
				}
				model.rows[o.ID.Sequence] = o
			case "gone":
				o := obj(rapid.IntRange(1, 8).Draw(t, "sequence"))
				if err := m.Apply(1, o.Key(), nil); err != nil {
					t.Fatal(err)
				}
				delete(model.rows, o.ID.Sequence)
			case "start":
				p, at := record.PartitionID(partition.Draw(t, "partition")), record.Offset(rapid.IntRange(0, 110).Draw(t, "at"))
				m.SetLogStart(p, at)
				if !model.dropped[p] {
					model.starts[p] = max(model.starts[p], at)
				}
			case "drop":
				p := record.PartitionID(partition.Draw(t, "partition"))
				m.DropPartition(p)
				model.dropped[p] = true
			}
			compare(t, m, model)
		}
	})
}

func compare(t *rapid.T, m *Manifest, model *modelManifest) {
	if got, want := names(m.Dead()), model.dead(); !slices.Equal(got, want) {
		t.Fatalf("dead: %v, want %v", got, want)
	}
	live := 0
	for _, o := range model.rows {
		for i := range o.Runs {
			if model.live(&o.Runs[i]) {
				live++
			}
		}
		if !slices.Equal(m.Value(1, o.Key()), o.Encode(nil)) {
			t.Fatalf("object %d has another value", o.ID.Sequence)
		}
	}
	if s := m.Stats(); s.LiveRuns != live || s.Objects != len(model.rows) {
		t.Fatalf("%+v, want %d live runs of %d objects", s, live, len(model.rows))
	}
	for p := record.PartitionID(1); p <= 3; p++ {
		has, first, last, any := model.has(p)
		start, end, ok := m.Bounds(p)
		if ok != any || ok && (start != first || end != last+1) {
			t.Fatalf("partition %d: bounds %d to %d, %v, want %d to %d", p, start, end, ok, first, last)
		}
		n := 0
		for o := record.Offset(0); o < 100; o++ {
			if has[o] {
				n++
			}
			if got, want := m.Covers(p, o), any && o >= first && o <= last; got != want {
				t.Fatalf("partition %d covers %d: %v", p, o, got)
			}
			r, ok := m.find(p, o)
			if o >= model.starts[p] && has[o] && (!ok || o < r.First || o > r.Last) {
				t.Fatalf("partition %d: %d is in %d to %d, %v", p, o, r.First, r.Last, ok)
			}
			if ok && !has[o] && slices.Contains(has[o:r.First], true) {
				t.Fatalf("partition %d: behind %d comes %d", p, o, r.First)
			}
		}
		// Each record has 10 bytes, counted once; shares are rounded down.
		if got := m.Size(p); got > int64(10*n) || got < int64(10*n-100) {
			t.Fatalf("partition %d: %d bytes of %d records", p, got, n)
		}
	}
}

// TestManifestConcurrent is for the race detector.
func TestManifestConcurrent(t *testing.T) {
	m := NewManifest()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			p := record.PartitionID(w)
			for i := range 200 {
				o := obj(1000*w+i, w, 10*i, 10*i+9)
				apply(t, m, o)
				if !m.Covers(p, record.Offset(10*i)) {
					t.Errorf("partition %d does not cover %d", p, 10*i)
				}
				if i%10 == 9 {
					m.SetLogStart(p, record.Offset(10*i-50))
					for _, d := range m.Dead() {
						if d.Runs[0].Partition == p {
							gone(t, m, d)
						}
					}
				}
			}
			m.DropPartition(p)
		})
		wg.Go(func() {
			for range 100 {
				m.Size(record.PartitionID(w))
				m.Stats()
				for o := range m.Objects(1) {
					m.Value(1, o.Key())
				}
			}
		})
	}
	wg.Wait()
	for _, d := range m.Dead() {
		gone(t, m, d)
	}
	if s := m.Stats(); s != (Stats{}) {
		t.Errorf("%+v", s)
	}
}

// TestManifestMemory guards what the comment at Manifest promises.
func TestManifestMemory(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector takes memory of its own")
	}
	rows := millionRuns()[:1000]
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := NewManifest()
	for _, o := range rows {
		apply(t, m, o)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := float64(after.HeapAlloc-before.HeapAlloc) / float64(m.Stats().Runs); n > 90 {
		t.Errorf("%.0f bytes for each run", n)
	}
	runtime.KeepAlive(rows)
}
