package server

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

var pastSeeds = flag.Uint64("pastseeds", 12, "how many histories of log and store are tried; the long form has thousands")

// pastWorld is a log with a store behind it, and the model of both: a list of batches for each partition.
type pastWorld struct {
	t     *testing.T
	rnd   *rand.Rand
	mem   *vfs.Mem
	s     *logStorage
	m     *history.Manifest
	rows  map[string][]byte // of the manifest, as they would be kept
	seq   uint64
	model map[record.PartitionID]*modelPart
	store map[record.PartitionID][]modelBatch // what was uploaded
	down  error                               // the store does not answer

	mu struct {
		sync.Mutex
		queue []byte
		left  int
		end   journal.Position
	}
}

type modelBatch struct {
	first, last record.Offset
	time        int64
	raw         []byte
}

type modelPart struct {
	batches    []modelBatch
	start, end record.Offset
	tiered     record.Offset
}

// Gather, Committed and Failed make it the log's source.
func (w *pastWorld) Gather(dst []byte, _ int) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	dst = append(dst, w.mu.queue...)
	w.mu.queue = nil
	return dst, false
}

func (w *pastWorld) Committed(g *journal.Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.left, w.mu.end = 0, g.End()
}

func (w *pastWorld) Failed(error) {}

// ReadBatches and SeekTime make it the store's reader.
func (w *pastWorld) ReadBatches(_ context.Context, p record.PartitionID, from, end record.Offset, maxBytes int, dst [][]byte) ([][]byte, alloc.Ref, error) {
	if w.down != nil {
		return dst, nil, w.down
	}
	n := 0
	for _, b := range w.store[p] {
		if b.last < from {
			continue
		}
		if b.first >= end || n > 0 && n+len(b.raw) > maxBytes {
			break
		}
		dst, n = append(dst, b.raw), n+len(b.raw)
	}
	return dst, nil, nil
}

func (w *pastWorld) SeekTime(_ context.Context, p record.PartitionID, at int64) (record.Offset, bool, error) {
	for _, b := range w.store[p] {
		if b.time >= at && b.last >= w.m.LogStart(p) {
			return max(b.first, w.m.LogStart(p)), true, nil
		}
	}
	return 0, false, w.down
}

func (w *pastWorld) open() {
	w.t.Helper()
	w.m = history.NewManifest()
	for key, value := range w.rows {
		if err := w.m.Apply(0, []byte(key), value); err != nil {
			w.t.Fatal(err)
		}
	}
	h := newPast(w.m, w)
	l, err := journal.Open(journal.Options{Dir: "data", FS: w.mem, SegmentBytes: 64 << 10, TailBytes: 16 << 10, GroupBytesMax: 16 << 10,
		LogBytesMax: 256 << 10, RewriteRate: -1, Elsewhere: h.elsewhere()})
	if err == nil {
		err = l.Replay(nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = &logStorage{log: l, past: h, logger: slog.New(slog.DiscardHandler), stop: make(chan struct{})}
	h.recovered(l)
	for id, p := range w.model { // as the core does
		if start, end := w.s.Bounds(id); start > p.start || end != p.end {
			w.t.Fatalf("partition %d: from %d to %d after a restart, want %d to %d", id, start, end, p.start, p.end)
		} else if start < p.start {
			w.s.SetLogStart(id, p.start)
		}
	}
	if err := l.Start(w); err != nil {
		w.t.Fatal(err)
	}
}

// put appends batches to partitions.
func (w *pastWorld) put() {
	var g []byte
	for id, p := range w.model {
		n := 1 + w.rnd.IntN(4)
		var b record.BatchBuilder
		b.Begin(nil, 1000)
		at := 1000 + int64(p.end) + w.rnd.Int64N(20)
		for i := range n {
			b.Append(&record.Input{OffsetDelta: int32(i), Timestamp: at, Value: bytes.Repeat([]byte{byte(p.end)}, 10+w.rnd.IntN(1500))})
		}
		raw := b.Finish(&record.BatchOptions{BaseOffset: p.end})
		f := record.Frame{Kind: record.KindRecords, Partition: id}
		var start int
		g, start = record.BeginFrame(g, &f)
		g = append(record.BeginRecordsPayload(g, nil), raw...)
		g = record.FinishFrame(g, start)
		p.batches = append(p.batches, modelBatch{p.end, p.end + record.Offset(n) - 1, at, raw})
		p.end += record.Offset(n)
	}
	w.mu.Lock()
	w.mu.queue, w.mu.left = g, 1
	w.mu.Unlock()
	w.s.log.Wake()
	testx.Eventually(w.t, 20*time.Second, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.mu.left == 0
	})
}

func (w *pastWorld) checkpoint() {
	w.t.Helper()
	c := w.s.log.Checkpointer()
	if err := errors.Join(c.Write(0, 1, w.mu.end, nil), c.Flush()); err != nil {
		w.t.Fatal(err)
	}
}

// offload brings what may go of a partition into the store, by a row of the manifest.
func (w *pastWorld) offload(id record.PartitionID) {
	w.t.Helper()
	p := w.model[id]
	from := max(w.s.TieredEnd(id), p.start)
	ps, err := offloadLog{w.s}.Pieces(id, from, p.end, int64(1+w.rnd.IntN(60<<10)))
	if err != nil {
		w.t.Fatal(err)
	}
	defer ps.Release()
	xs := ps.Extents()
	if len(xs) == 0 {
		return
	}
	r := ps.Open(0, len(xs))
	raw, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		w.t.Fatal(err)
	}
	run := history.Run{Partition: id, First: xs[0].First, Last: xs[len(xs)-1].Last, MaxTime: object.NoTime, Blocks: len(xs)}
	for _, x := range xs {
		run.MaxTime, run.Bytes = max(run.MaxTime, x.MaxTime), run.Bytes+x.Bytes
	}
	if run.First > from || int64(len(raw)) != run.Bytes {
		w.t.Fatalf("pieces from %d, want %d; %d bytes, want %d", run.First, from, len(raw), run.Bytes)
	}
	for len(raw) > 0 {
		b, n, err := record.ParseBatch(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		w.store[id] = append(w.store[id], modelBatch{b.BaseOffset(), b.LastOffset(), b.MaxTimestamp(), raw[:n]})
		raw = raw[n:]
	}
	w.seq++
	o := history.Object{ID: object.ID{Epoch: 1, Sequence: w.seq}, Size: run.Bytes + 300, Tail: 200, Runs: []history.Run{run}}
	w.rows[string(o.Key())] = o.Encode(nil)
	if err := w.m.Apply(0, o.Key(), o.Encode(nil)); err != nil {
		w.t.Fatal(err)
	}
	p.tiered = max(p.tiered, run.Last+1)
}

// at is the number of the batch that has an offset.
func (p *modelPart) at(o record.Offset) int {
	for i := range p.batches {
		if p.batches[i].last >= o {
			return i
		}
	}
	return len(p.batches)
}

// check reads a partition from all its offsets, in all ways.
func (w *pastWorld) check(id record.PartitionID) error {
	p := w.model[id]
	start, end := w.s.Bounds(id)
	local, tiered := w.s.LocalStart(id), w.s.TieredEnd(id)
	if p.tiered <= p.start {
		p.tiered = 0 // all of it is deleted
	}
	if start > p.start || end != p.end || tiered != p.tiered || local > max(tiered, p.start) {
		return fmt.Errorf("from %d to %d, tiered to %d, local from %d; want %d, %d, %d", start, end, tiered, local, p.start, p.end, p.tiered)
	}
	for o := p.start; o < p.end; o++ {
		if err := w.read(id, o); err != nil {
			return fmt.Errorf("from %d: %w", o, err)
		}
	}
	next := p.at(p.start)
	err := w.s.Read(id, 0, func(b record.Batch) bool {
		if b.LastOffset() < p.start && start < p.start {
			return true // a start that is not told yet
		}
		if next == len(p.batches) || !bytes.Equal(b, p.batches[next].raw) {
			return false
		}
		next++
		return true
	})
	if err != nil || next != len(p.batches) {
		return fmt.Errorf("all of it: %d batches of %d: %w", next, len(p.batches), err)
	}
	return w.seek(id)
}

// read asks for batches from one offset on.
func (w *pastWorld) read(id record.PartitionID, o record.Offset) error {
	p := w.model[id]
	want := p.batches[p.at(o):]
	q := broker.ReadRequest{Partition: id, From: o, End: o + 1 + record.Offset(w.rnd.IntN(int(p.end-o))), MaxBytes: 1 + w.rnd.IntN(20<<10)}
	reads := func() int64 {
		s := w.s.log.Stats()
		return s.TailReads.Load() + s.MapReads.Load() + s.DiskReads.Load()
	}
	before := reads()
	defer func() {
		if n := reads() - before; n > 0 && o < w.s.LocalStart(id) {
			w.t.Errorf("partition %d at %d: the log was read %d times for what the store alone has", id, o, n)
		}
	}()
	for _, way := range []broker.ReadRequest{{}, {Local: true}, {Tail: true}} {
		q.Local, q.Tail = way.Local, way.Tail
		got, held, ok, err := w.s.ReadBatches(q, nil)
		if err != nil {
			return err
		}
		if !ok {
			if here := w.s.LocalStart(id) <= o; len(got) > 0 || !q.Tail && (!q.Local || here) {
				return fmt.Errorf("not there: tail %v, local %v, here %v", q.Tail, q.Local, here)
			}
			continue
		}
		if len(got) == 0 || len(got) > len(want) {
			return fmt.Errorf("%d batches of %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i].raw) || want[i].first >= q.End {
				return fmt.Errorf("batch %d of %d is not the one at %d, end %d", i, len(got), want[i].first, q.End)
			}
		}
		if held != nil {
			held.Release()
		}
	}
	return nil
}

func (w *pastWorld) seek(id record.PartitionID) error {
	p := w.model[id]
	at, latest := int64(math.MinInt64), w.rnd.IntN(4) == 0
	want := -1
	live := p.batches[p.at(p.start):]
	if !latest {
		at = 990 + w.rnd.Int64N(int64(p.end)+40)
	}
	for i, b := range live {
		if latest && b.time > at || !latest && want < 0 && b.time >= at {
			want = i
			if latest {
				at = b.time
			}
		}
	}
	from, time, found := w.s.Seek(id, at, latest)
	if found != (want >= 0) && p.start >= p.end {
		return nil
	}
	if want < 0 {
		if found && from < p.end {
			return fmt.Errorf("time %d is found from %d on, and is not there", at, from)
		}
		return nil
	}
	if !found || time != at || from > live[want].last || from > max(live[want].first, p.start) {
		return fmt.Errorf("time %d, latest %v: from %d, %d, %v; want %d of %d", at, latest, from, time, found, live[want].first, p.start)
	}
	return nil
}

// TestPast runs random histories over log and store, restarts among them: a reader cannot tell where records lie.
func TestPast(t *testing.T) {
	for seed := range *pastSeeds {
		w := newPastWorld(t, seed)
		for range 60 {
			id := record.PartitionID(100 + w.rnd.IntN(len(w.model)))
			p := w.model[id]
			switch w.rnd.IntN(9) {
			case 0, 1, 2:
				for range 1 + w.rnd.IntN(8) {
					w.put()
				}
			case 3:
				w.checkpoint()
			case 4, 5:
				w.offload(id)
			case 6:
				offloadLog{w.s}.SetLocalStart(id, record.Offset(w.rnd.Int64N(int64(p.tiered)+1)))
			case 7:
				if w.rnd.IntN(3) == 0 && p.end > 0 {
					p.start = max(p.start, record.Offset(w.rnd.Int64N(int64(p.end)))/2)
					w.s.SetLogStart(id, p.start)
				}
			case 8:
				w.restart()
			}
			if err := w.check(id); err != nil {
				t.Fatalf("seed %d, partition %d: %v", seed, id, err)
			}
		}
		if err := w.s.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func newPastWorld(t *testing.T, seed uint64) *pastWorld {
	t.Helper()
	w := &pastWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), mem: vfs.NewMem(), rows: map[string][]byte{},
		model: map[record.PartitionID]*modelPart{}, store: map[record.PartitionID][]modelBatch{}}
	if err := errors.Join(w.mem.MkdirAll("data"), w.mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	for id := record.PartitionID(100); id < 103; id++ {
		w.model[id] = new(modelPart)
	}
	w.open()
	return w
}

// restart ends the log well or badly, and begins again.
func (w *pastWorld) restart() {
	w.t.Helper()
	mem := w.mem
	if w.rnd.IntN(2) == 0 {
		mem = w.mem.Crash(vfs.Cut{Keep: w.rnd.IntN(2) == 0})
	}
	if err := w.s.log.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.mem = mem
	w.open()
}

// Retention, sizes and partitions count what lies in both places once; errors of the store keep the difference between what passes and what
// does not.
func TestPastRetention(t *testing.T) {
	w := newPastWorld(t, 77)
	const id = record.PartitionID(100)
	p := w.model[id]
	for range 80 {
		w.put()
	}
	w.checkpoint()
	for range 20 {
		w.offload(id)
	}
	if size, local := w.s.Size(id), w.s.LocalSize(id); size != local {
		t.Errorf("%d bytes, %d in the log, which has all of it", size, local)
	}
	before := w.s.Size(id)
	offloadLog{w.s}.SetLocalStart(id, p.tiered)
	if size, local := w.s.Size(id), w.s.LocalSize(id); local >= before/2 || size < before*9/10 || size > before*11/10 {
		t.Errorf("%d bytes, %d of them in the log, and were %d", size, local, before)
	}
	if got := w.s.Excess(id, math.MinInt64, math.MaxInt64); got > p.start {
		t.Errorf("excess %d of nothing", got)
	}
	if got := w.s.Excess(id, 1000+int64(p.tiered)/2, math.MaxInt64); got == 0 || got >= p.tiered*3/4 {
		t.Errorf("excess %d of what is older than half of %d", got, p.tiered)
	}
	if got := w.s.Excess(id, math.MaxInt64, math.MaxInt64); got != p.end {
		t.Errorf("excess %d of all to %d", got, p.end)
	}
	if got := w.s.Excess(id, math.MinInt64, w.s.LocalSize(id)/2); got <= p.tiered || got >= p.end {
		t.Errorf("excess %d of all but half of the log's, tiered to %d, end %d", got, p.tiered, p.end)
	}
	if ids := w.s.Partitions(); len(ids) != 3 {
		t.Errorf("partitions %v", ids)
	}
	for _, c := range []struct {
		err    error
		passes bool
	}{
		{&tier.Error{Kind: tier.Unavailable}, true}, {&tier.Error{Kind: tier.Denied}, true}, {context.Canceled, true}, {history.ErrClosed, true},
		{fmt.Errorf("%w: %w", history.ErrLost, tier.ErrNotFound), false}, {&object.CorruptError{}, false}, {&tier.Error{Kind: tier.NotFound}, false},
	} {
		w.down = c.err
		_, _, ok, err := w.s.ReadBatches(broker.ReadRequest{Partition: id, End: p.end, MaxBytes: 1}, nil)
		rerr := w.s.Read(id, 0, func(record.Batch) bool { return true })
		if ok || !errors.Is(err, c.err) || errors.Is(err, broker.ErrTier) != c.passes || !errors.Is(rerr, c.err) || errors.Is(rerr, broker.ErrTier) != c.passes {
			t.Errorf("%v became %v and %v", c.err, err, rerr)
		}
	}
	w.down = nil
	w.s.DropPartition(id)
	if ids := w.s.Partitions(); len(ids) != 2 || w.s.Size(id) != 0 {
		t.Errorf("partitions %v, %d bytes of the dropped one", ids, w.s.Size(id))
	}
	if err := w.s.log.Close(); err != nil {
		t.Fatal(err)
	}
}

// A node that has lost its log reads what the store has, and goes on behind it.
func TestPastAlone(t *testing.T) {
	w := newPastWorld(t, 5)
	for range 80 {
		w.put()
	}
	w.checkpoint()
	for id := range w.model {
		for range 20 {
			w.offload(id)
		}
	}
	if err := w.s.log.Close(); err != nil {
		t.Fatal(err)
	}
	w.mem = vfs.NewMem()
	if err := errors.Join(w.mem.MkdirAll("data"), w.mem.SyncDir(".")); err != nil {
		t.Fatal(err)
	}
	for _, p := range w.model {
		p.end = p.tiered
		p.batches = p.batches[:p.at(p.end)]
	}
	w.open()
	all := func() {
		t.Helper()
		for id := range w.model {
			if err := w.check(id); err != nil {
				t.Fatalf("partition %d: %v", id, err)
			}
		}
	}
	all()
	retained := func() {
		t.Helper()
		for id, p := range w.model {
			if got := w.s.Excess(id, math.MaxInt64, math.MaxInt64); got != p.end {
				t.Errorf("retention takes partition %d up to %d, it ends at %d", id, got, p.end)
			}
			if got := w.s.Excess(id, math.MinInt64, math.MaxInt64); got > p.start {
				t.Errorf("retention takes %d of partition %d, which is to keep all", got, id)
			}
		}
	}
	retained() // of which the log knows nothing
	for range 10 {
		w.put()
	}
	all()
	retained()
	w.restart()
	all()
	retained()
	if err := w.s.log.Close(); err != nil {
		t.Fatal(err)
	}
}
