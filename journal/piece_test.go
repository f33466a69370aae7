package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// offload has what Pieces gives of a partition be elsewhere, once it has been looked at.
func (w *world) offload(p int, most int64) error {
	id := record.PartitionID(p + 1)
	k := w.knows()
	from := max(k.tiered[p], w.l.LogStart(id), k.start[p]) // below the highest start a crash may bring back a part
	// Nothing that could be lost: what is known to be durable is looked at behind the listing, as it grows.
	ps, err := w.l.Pieces(id, from, k.most[p], most)
	if err != nil {
		return err
	}
	defer ps.Release()
	xs := ps.Extents()
	if len(xs) == 0 {
		return nil
	}
	if k = w.knows(); xs[0].First > from || xs[len(xs)-1].Last >= k.least[p] {
		return fmt.Errorf("partition %d: pieces %d to %d, from %d, durable below %d", id, xs[0].First, xs[len(xs)-1].Last, from, k.least[p])
	}
	if err := samePieces(w.l, id, ps); err != nil {
		return fmt.Errorf("partition %d: %w", id, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.tiered[p] = xs[len(xs)-1].Last + 1
	return nil
}

// samePieces compares pieces with what Fetch gives, extent by extent.
func samePieces(l *Log, id record.PartitionID, ps *Pieces) error {
	next := ps.Extents()[0].First
	all := ps.Open(0, len(ps.Extents()))
	defer func() { _ = all.Close() }()
	for i, x := range ps.Extents() {
		if x.First != next {
			return fmt.Errorf("extent %d begins at %d, want %d", i, x.First, next)
		}
		one := ps.Open(i, i+1)
		got, err := io.ReadAll(one)
		again := make([]byte, len(got))
		_, aerr := io.ReadFull(all, again)
		if err := errors.Join(err, aerr, one.Close()); err != nil {
			return err
		}
		if int64(len(got)) != x.Bytes || !bytes.Equal(got, again) {
			return fmt.Errorf("extent %d: %d bytes, want %d, the same each time: %v", i, len(got), x.Bytes, bytes.Equal(got, again))
		}
		latest := int64(noTime)
		for len(got) > 0 {
			b, n, err := record.ParseBatch(got)
			if err != nil {
				return err
			}
			var f Fetched
			if err := l.Fetch(id, max(next, l.LogStart(id)), 1, &f); err != nil {
				return err
			}
			same := len(f.Batches) > 0 && bytes.Equal(f.Batches[0], got[:n])
			f.Release()
			if !same {
				return fmt.Errorf("extent %d: the batch at %d is not the one that is fetched", i, b.BaseOffset())
			}
			next, latest, got = b.NextOffset(), max(latest, timeOf(b)), got[n:]
		}
		if x.Last+1 != next || x.MaxTime != latest {
			return fmt.Errorf("extent %d: last %d, latest %d, want %d and %d", i, x.Last, x.MaxTime, next-1, latest)
		}
	}
	if n, err := all.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("behind the last extent: %d bytes, %w", n, err)
	}
	return nil
}

func (w *world) setLocal(p int, o record.Offset) {
	w.l.SetLocalStart(record.PartitionID(p+1), o)
}

// readAll reads each partition from an offset that pick chooses, and looks at what the index tells.
func (w *world) readAll(pick func(n int) int) error {
	k := w.knows()
	for p := range worldParts {
		id := record.PartitionID(p + 1)
		start, end, local := w.l.LogStart(id), w.l.LogEnd(id), w.l.LocalStart(id)
		if local < start || local > end || local > max(start, k.tiered[p]) {
			return fmt.Errorf("partition %d: %d to %d, local from %d, tiered to %d", id, start, end, local, k.tiered[p])
		}
		from := max(start, min(k.start[p], end)) // below, records may have gone
		from += record.Offset(pick(int(end - from)))
		offs, err := tieredOffsets(w.l, id, from, k.tiered[p])
		if err != nil || len(offs) != int(end-from) || len(offs) > 0 && offs[len(offs)-1] != end-1 {
			return fmt.Errorf("partition %d from %d of %d to %d: %d records: %w", id, from, start, end, len(offs), err)
		}
		if err := w.l.sound(); err != nil {
			return err
		}
	}
	return nil
}

// sound counts what lives anew, and compares.
func (l *Log) sound() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	live := make(map[*segment]int64)
	refs := 0
	for _, p := range l.mu.partitions {
		for _, r := range p.refs {
			if d := r.deadBefore(p.floor()); d != r.dead || r.last < p.floor() || r.gone {
				return fmt.Errorf("partition %d: %d bytes of %d to %d are dead, counted %d, floor %d, gone %v", p.id, d, r.first, r.last, r.dead, p.floor(), r.gone)
			}
			live[r.seg] += r.bytes - r.dead
			refs++
		}
	}
	bytes := int64(0)
	for s := range l.mu.parts {
		bytes += s.size
		if s.live != live[s] || s.live == 0 {
			return fmt.Errorf("%s: %d bytes live, counted %d", s.path, live[s], s.live)
		}
	}
	for _, s := range l.mu.segments {
		if s.live != live[s] {
			return fmt.Errorf("%s: %d bytes live, counted %d", s.path, live[s], s.live)
		}
	}
	if refs != l.mu.refs || bytes != l.stats.PartitionBytes.Load() {
		return fmt.Errorf("%d pieces, counted %d; %d bytes of partition segments, counted %d", refs, l.mu.refs, bytes, l.stats.PartitionBytes.Load())
	}
	return nil
}

// tieredLog has records of partition 1 in batches of two, most of which are sealed and behind the checkpoint.
func tieredLog(t testing.TB, o Options, n int) *opened {
	t.Helper()
	l := open(t, o)
	for i := range n {
		g := recordsFrame(nil, 1, record.Offset(2*i), 2, 700)
		if err := l.src.commit(t, recordsFrame(g, 2, record.Offset(i), 1, 300)); err != nil {
			t.Fatal(err)
		}
	}
	l.checkpointed(t)
	return l
}

// A local start takes what lies below it out of log and disk, and nothing else. Length: one log, whose local start goes up and up.
func TestLocalStart(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS, o.LogBytesMax = "data", mem, 1<<40
	const n = 200
	l := tieredLog(t, o, n)
	before, size := l.Used(), l.Size(1)
	ready, oldest := l.Ready(1, 0, 2*n)
	ps, err := l.Pieces(1, 0, 2*n, 1<<40)
	if err != nil || len(ps.Extents()) == 0 {
		t.Fatal(err)
	}
	xs := ps.Extents()
	tiered := xs[len(xs)-1].Last + 1
	sum := int64(0)
	for _, x := range xs {
		sum += x.Bytes
	}
	if oldest != 1 || ready < sum || ready > 2*sum || tiered < n || tiered >= 2*n {
		t.Errorf("%d bytes are ready from segment %d, pieces have %d, to %d", ready, oldest, sum, tiered)
	}
	ps.Release()
	if ps, err = l.Pieces(1, 7, 100, 1); err != nil || len(ps.Extents()) != 1 || ps.Extents()[0].First != 6 {
		t.Errorf("one piece: %v, %v", ps.Extents(), err)
	}
	ps.Release()
	if ps, err = l.Pieces(1, 3, 4, 1<<20); err != nil || len(ps.Extents()) != 1 && ps.Extents()[0] != (Extent{2, 3, 1000, ps.Extents()[0].Bytes}) {
		t.Errorf("the batch from 2 to 3: %v, %v", ps.Extents(), err)
	}
	ps.Release()
	if ps, err = l.Pieces(1, 2, 3, 1<<20); err != nil || len(ps.Extents()) != 0 {
		t.Errorf("half a batch: %v, %v", ps.Extents(), err)
	}
	ps.Release()

	l.SetLocalStart(1, 101)
	l.SetLocalStart(1, 50) // it never goes back
	if start, local, end := l.LogStart(1), l.LocalStart(1), l.LogEnd(1); start != 0 || local != 101 || end != 2*n {
		t.Errorf("start %d, local %d, end %d", start, local, end)
	}
	got := l.Size(1)
	if got >= size*4/5 {
		t.Errorf("size %d of %d", got, size)
	}
	least, want := l.SizeAtLeast(1), int64(0)
	for o := record.Offset(102); o < 2*n; o += 2 {
		want += int64(len(recordsFrame(nil, 1, o, 2, 700)))
	}
	if least > want || least < want-32<<10 || got < want {
		t.Errorf("size %d, at least %d, and frames behind the local start have %d", got, least, want)
	}
	if got := l.Excess(1, -1, 1<<40); got != 101 {
		t.Errorf("nothing is in excess, and it is said to be at %d", got)
	}
	if from, found := l.SeekTime(1, 1000); !found || from != 101 {
		t.Errorf("time 1000 is at %d, %v", from, found)
	}
	var f Fetched
	if err := l.Fetch(1, 3, 1, &f); err != nil || len(f.Batches) == 0 || f.First <= 3 {
		t.Errorf("a read below the local start: %d, %v", f.First, err)
	}
	f.Release()
	l.SetLocalStart(1, tiered)
	l.SetLocalStart(2, tiered/2)
	testx.Eventually(t, waitFor, func() bool { return l.Used() < before/2 })
	if err := l.sound(); err != nil {
		t.Error(err)
	}
	if _, oldest := l.Ready(1, 0, 2*n); oldest != 0 {
		t.Errorf("something is ready from segment %d on", oldest)
	}
	l.close(t)

	k := known{}
	k.tiered[0], k.tiered[1] = tiered, tiered/2
	o.Elsewhere = k.elsewhere
	l = open(t, o)
	defer l.close(t)
	if start, end := l.LogStart(1), l.LogEnd(1); start != 0 || end != 2*n {
		t.Errorf("after a restart: %d to %d", start, end)
	}
	if offs, err := tieredOffsets(l.Log, 1, 0, tiered); err != nil || len(offs) != 2*n {
		t.Errorf("after a restart: %d records, %v", len(offs), err)
	}
}

// A partition all of whose frames have left begins and ends where it did, and goes on there; what is known of one that never was here begins where
// it says.
func TestLocalStartAtEnd(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS = "data", mem
	l := tieredLog(t, o, 20)
	for range 2 { // the active segment ends, and its successor too
		for i := range 40 {
			if err := l.src.commit(t, commandFrame(nil, 0, uint64(i+2), string(make([]byte, 4000)))); err != nil {
				t.Fatal(err)
			}
		}
		l.checkpointed(t)
	}
	l.SetLocalStart(1, 1<<40)
	if local := l.LocalStart(1); local != 40 {
		t.Errorf("local start %d, want the end", local)
	}
	mem = mem.Crash(vfs.Cut{Keep: true})
	l.close(t)
	o.FS = mem
	k := known{}
	k.tiered[0], k.tiered[2] = 40, 70
	o.Elsewhere = k.elsewhere
	l = open(t, o)
	if start, end := l.LogStart(1), l.LogEnd(1); start != 0 || end != 40 {
		t.Errorf("%d to %d", start, end)
	}
	for p, base := range map[record.PartitionID]record.Offset{1: 40, 3: 70} {
		if err := l.src.commit(t, recordsFrame(nil, p, base, 2, 100)); err != nil {
			t.Fatal(err)
		}
	}
	l.close(t)
	l = open(t, o)
	defer l.close(t)
	for p, base := range map[record.PartitionID]record.Offset{1: 40, 3: 70} {
		if start, end := l.LogStart(p), l.LogEnd(p); start != 0 || end != base+2 {
			t.Errorf("partition %d: %d to %d", p, start, end)
		}
		if offs, err := tieredOffsets(l.Log, p, 0, base); err != nil || len(offs) != int(base)+2 {
			t.Errorf("partition %d: %d records, %v", p, len(offs), err)
		}
	}
}

// Damage is found while pieces are read, before a byte of it is given.
func TestPiecesDamaged(t *testing.T) {
	o := smallOptions(Sync)
	mem := memDir(t)
	o.Dir, o.FS = "data", mem
	l := tieredLog(t, o, 100)
	l.close(t)
	path := "data/wal/" + segmentName(1)
	b, err := vfs.ReadFile(mem, path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(b, []byte("extra 20")) // in the log once
	b[i+200] ^= 1
	if err := vfs.WriteFile(mem, path, b); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	defer l.close(t)
	ps, err := l.Pieces(1, 0, 1000, 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	defer ps.Release()
	r := ps.Open(0, len(ps.Extents()))
	got, err := io.ReadAll(r)
	var c *CorruptError
	if !errors.As(err, &c) || c.Path != path {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for len(got) > 0 { // what came before it is right
		b, n, err := record.ParseBatch(got)
		if err == nil {
			err = b.Verify()
		}
		if err != nil {
			t.Fatal(err)
		}
		got = got[n:]
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Of what had been let go of to the end a restart brings back what lies in a segment that something else has kept: nobody may take it for all there is.
func TestLocalStartBeforeAGap(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	put := func(p record.PartitionID, base record.Offset, size int) {
		t.Helper()
		if err := l.src.commit(t, recordsFrame(nil, p, base, 2, size)); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 0, 100)
	put(2, 0, 100) // keeps the segment
	end := record.Offset(2)
	for ; end < 200; end += 2 {
		put(1, end, 2000)
	}
	for i := range 80 {
		if err := l.src.commit(t, commandFrame(nil, 0, uint64(i+2), string(make([]byte, 4000)))); err != nil {
			t.Fatal(err)
		}
	}
	l.checkpointed(t)
	used := l.Used()
	l.SetLocalStart(1, end)
	testx.Eventually(t, waitFor, func() bool { return l.Used() < used-100_000 })
	l.close(t)
	k := known{}
	k.tiered[0] = end
	o.Elsewhere = k.elsewhere
	l = open(t, o)
	defer l.close(t)
	if start, local := l.LogStart(1), l.LocalStart(1); start != 0 || local != end {
		t.Errorf("from %d on, %d on in the log; want 0 and %d", start, local, end)
	}
	if start, local := l.LogStart(2), l.LocalStart(2); start != 0 || local != 0 {
		t.Errorf("partition 2: from %d on, %d on in the log", start, local)
	}
}
