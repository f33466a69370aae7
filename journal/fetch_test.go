package journal

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

// Readers who hold on to what has left the tail do not make it hold more than a bound: from then on they get copies, which stay as they are.
func TestSlowReaders(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.SegmentBytes, o.LogBytesMax = "data", memDir(t), 1<<20, 1<<40
	o.TailBytes, o.GroupBytesMax = 64<<10, 16<<10
	l := open(t, o)
	var held []*Fetched
	var want [][]byte
	for i := range 200 {
		if err := l.src.commit(t, recordsFrame(nil, 1, record.Offset(i), 1, 8000)); err != nil {
			t.Fatal(err)
		}
		f := new(Fetched)
		if ok, err := l.ReadTail(&FetchRequest{Partition: 1, From: record.Offset(i), MaxBytes: 1}, f); err != nil || !ok || len(f.Batches) != 1 {
			t.Fatal(ok, err)
		}
		held = append(held, f)
		want = append(want, bytes.Clone(f.Batches[0]))
	}
	if alive, most := l.tail.alive.Load(), 3*o.TailBytes+5*int64(l.tail.chunkSize); alive > most {
		t.Errorf("%d bytes of the tail are held, more than %d", alive, most)
	}
	for i, f := range held {
		if !bytes.Equal(f.Batches[0], want[i]) {
			t.Fatalf("what reader %d holds has changed", i)
		}
		f.Release()
	}
	if alive, most := l.tail.alive.Load(), o.TailBytes+3*int64(l.tail.chunkSize); alive > most {
		t.Errorf("%d bytes are still held, more than %d", alive, most)
	}
	l.close(t)
}

// Where the bytes lie makes no difference to what is read: memory, the file that is written to, a map, a copy of it.
func TestReadOptions(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", memDir(t), 1<<40
	l := open(t, o)
	next := record.Offset(0)
	for i := range 60 {
		var g []byte
		for k := range 3 { // sizes on both sides of what stays a view
			g = recordsFrame(g, record.PartitionID(k), next, 2, 500+i%5*1500)
		}
		next += 2
		if err := l.src.commit(t, g); err != nil {
			t.Fatal(err)
		}
	}
	for from := range next {
		for _, end := range []record.Offset{0, from + 1, next - 3} {
			r := FetchRequest{Partition: 1, From: from, End: end, MaxBytes: 9000}
			var plain Fetched
			if err := l.Read(&r, &plain); err != nil {
				t.Fatal(err)
			}
			if n := len(plain.Batches); n > 0 && end > 0 && record.Batch(plain.Batches[n-1]).BaseOffset() >= end {
				t.Fatalf("from %d: a batch at %d, the end is %d", from, record.Batch(plain.Batches[n-1]).BaseOffset(), end)
			}
			for _, with := range []FetchRequest{{Trust: true}, {Copy: true}, {Trust: true, Copy: true}} {
				q, other := r, Fetched{}
				q.Trust, q.Copy = with.Trust, with.Copy
				if err := l.Read(&q, &other); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(bytes.Join(plain.Batches, nil), bytes.Join(other.Batches, nil)) || !bytes.Equal(bytes.Join(plain.Extras, nil), bytes.Join(other.Extras, nil)) {
					t.Fatalf("from %d with %+v: other bytes", from, with)
				}
				if q.Copy && len(other.segs) > 0 {
					t.Fatalf("from %d: copies hold a segment", from)
				}
				other.Release()
			}
			plain.Release()
		}
	}
	l.close(t)
}

// A writer, readers, compaction and rewriting at once.
func TestCompactTogether(t *testing.T) {
	o := smallOptions(Sync)
	o.Dir, o.FS, o.LogBytesMax = "data", vfs.NewMem(), 256<<10
	if err := o.FS.MkdirAll("."); err != nil {
		t.Fatal(err)
	}
	l := open(t, o)
	var done atomic.Bool
	var end atomic.Int64
	var wg sync.WaitGroup
	keys := []string{"a", "b", "c", "d", "e", "f", "g"}
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				readOnce(t, l, len(keys))
			}
		})
	}
	wg.Go(func() {
		for !done.Load() {
			l.checkpointed(t)
			if _, err := l.Compact(CompactRequest{Partition: compactPart, End: record.Offset(end.Load()), Young: math.MaxInt64, Now: 1}); err != nil {
				t.Error(err)
				return
			}
			l.clean.wake()
		}
	})
	for i := range record.Offset(1500) {
		l.keyed(t, i, record.BatchOptions{}, 10, [2]string{keys[int(i)%len(keys)], "v"})
		end.Store(int64(i) + 1)
	}
	done.Store(true)
	wg.Wait()
	if _, err := l.Compact(CompactRequest{Partition: compactPart, End: 1500, Young: math.MaxInt64, Now: 1}); err != nil {
		t.Fatal(err)
	}
	if n := readOnce(t, l, len(keys)); n > 100 {
		t.Errorf("%d records are left", n)
	}
	l.close(t)
}

// readOnce reads the partition through, and counts its records.
func readOnce(t *testing.T, l *opened, keys int) (n int) {
	t.Helper()
	var f Fetched
	defer f.Release()
	from := record.Offset(0)
	for {
		if err := l.Fetch(compactPart, from, 30_000, &f); err != nil {
			t.Error(err)
			return n
		}
		if len(f.Batches) == 0 {
			return n
		}
		for _, raw := range f.Batches {
			b := record.Batch(raw)
			if err := b.Verify(); err != nil || b.NextOffset() <= from {
				t.Errorf("batch %d to %d behind %d: %v", b.BaseOffset(), b.NextOffset(), from, err)
				return n
			}
			for it := b.Records(); it.Next(); {
				if rec := it.Record(); string(rec.Key) != string(rune('a'+int(rec.Offset)%keys)) {
					t.Errorf("offset %d has key %q", rec.Offset, rec.Key)
				}
				n++
			}
			from = b.NextOffset()
		}
	}
}
