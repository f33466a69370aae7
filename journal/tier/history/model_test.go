package history

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// TestReadModel has a log of random batches with gaps, objects that hold random parts of it, overlapping or not, some removed, and a log start anywhere: what is read is what the
// objects have between them, once and in order.
func TestReadModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var log []record.Batch
		next := record.Offset(0)
		for range rapid.IntRange(1, 40).Draw(rt, "batches") {
			next += record.Offset(rapid.SampledFrom([]int{0, 0, 0, 1, 9}).Draw(rt, "gap"))
			n := rapid.IntRange(1, 9).Draw(rt, "records")
			log = append(log, batch(next, n, rapid.IntRange(0, 60).Draw(rt, "size")))
			next += record.Offset(n)
		}
		s, m := newStore(), NewManifest()
		objects := map[int][2]int{}
		for i := range rapid.IntRange(1, 8).Draw(rt, "objects") {
			from := rapid.IntRange(0, len(log)-1).Draw(rt, "from")
			to := rapid.IntRange(from, len(log)-1).Draw(rt, "to")
			run := written{partition: 7}
			for _, b := range log[from : to+1] {
				run.batches = append(run.batches, b)
			}
			store(t, s, m, i+1, rapid.Int64Range(1, 1000).Draw(rt, "block"), mkRun(8, 0, 9, 5, 20), run)
			objects[i+1] = [2]int{from, to}
		}
		for seq := range objects {
			if len(objects) > 1 && rapid.IntRange(0, 4).Draw(rt, "gone") == 0 {
				gone(t, m, obj(seq))
				delete(objects, seq)
			}
		}
		start := record.Offset(rapid.IntRange(0, int(next)).Draw(rt, "log start"))
		m.SetLogStart(7, start)
		from := start + record.Offset(rapid.IntRange(0, int(next-start)).Draw(rt, "read from"))
		end := record.Offset(rapid.IntRange(0, int(next)+5).Draw(rt, "end"))
		var want []record.Offset
		for i, b := range log {
			for _, o := range objects {
				if i >= o[0] && i <= o[1] && log[o[1]].LastOffset() >= start && b.BaseOffset() < end {
					want = append(want, offsets(max(b.BaseOffset(), from), b.LastOffset())...)
					break
				}
			}
		}
		r := newReader(t, m, s, ReaderOptions{CacheBytes: rapid.SampledFrom([]int64{1, 1000, 1 << 20}).Draw(rt, "cache"), TailBytes: rapid.SampledFrom([]int64{1, 1 << 20}).Draw(rt, "tails")})
		defer r.Close()
		if from >= end {
			want = nil
		}
		if got := readAll(t, r, 7, from, end, rapid.IntRange(0, 3000).Draw(rt, "bytes")); !slices.Equal(got, want) {
			rt.Fatalf("from %d to %d, log start %d: %v, want %v", from, end, start, got, want)
		}
	})
}

// TestConcurrent has readers of all kinds over a store that fails, cuts and is slow, while retention removes objects and others come: each gets what was written, in order, or an
// error that is the store's or his own.
func TestConcurrent(t *testing.T) {
	s, m := newStore(), NewManifest()
	var n atomic.Int64
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error {
			if n.Add(1)%7 == 0 {
				return s.err("get", name, tier.Unavailable)
			}
			return nil
		}
		s.spoil = func(name string, _ tier.Range, b []byte) ([]byte, error) {
			switch n.Add(1) % 11 {
			case 0:
				return b[:len(b)/2], s.err("get", name, tier.Unavailable)
			case 1:
				if len(b) > 0 {
					b[len(b)/3] ^= 4
				}
			}
			return b, nil
		}
	})
	for i := range 5 {
		store(t, s, m, i+1, 500, mkRun(7, record.Offset(100*i), record.Offset(100*i+99), 5, 20), mkRun(8, record.Offset(100*i), record.Offset(100*i+99), 3, 50))
	}
	r := newReader(t, m, s, ReaderOptions{CacheBytes: 30_000, TailBytes: 5_000, Readers: 3, Tries: 8})
	var read atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 5))
			from, p := record.Offset(0), record.PartitionID(7+w%2)
			for range 150 {
				if rnd.IntN(20) == 0 {
					from = record.Offset(rnd.IntN(1000))
				}
				from = concurrentRead(t, r, p, from, rnd, &read)
			}
		})
	}
	wg.Go(func() {
		for i := 5; i < 25; i++ {
			store(t, s, m, i+1, 500, mkRun(7, record.Offset(100*i), record.Offset(100*i+99), 5, 20), mkRun(8, record.Offset(100*i), record.Offset(100*i+99), 3, 50))
			for p := record.PartitionID(7); p <= 8; p++ {
				m.SetLogStart(p, record.Offset(100*i-450))
			}
			for _, o := range m.Dead() {
				gone(t, m, o)
				_ = s.Delete(bg, o.ID.Name())
				r.Forget(o)
			}
			if _, _, err := r.SeekTime(bg, 7, int64(100*i-100)); err != nil && !excused(err) {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if r.Stats().Held != 0 || r.Stats().Lost != 0 || read.Load() == 0 {
		t.Errorf("%+v, %d read", r.Stats(), read.Load())
	}
}

// excused tells whether an error is what a store that fails so often may give in the end.
func excused(err error) bool { return tier.Temporary(err) || isCorrupt(err) }

func concurrentRead(t *testing.T, r *Reader, p record.PartitionID, from record.Offset, rnd *rand.Rand, read *atomic.Int64) record.Offset {
	t.Helper()
	ctx, cancel := bg, context.CancelFunc(func() {})
	if rnd.IntN(5) == 0 {
		ctx, cancel = context.WithTimeout(bg, time.Duration(rnd.IntN(300))*time.Microsecond)
	}
	defer cancel()
	batches, held, err := r.ReadBatches(ctx, p, from, 5000, rnd.IntN(5000), nil)
	if err != nil {
		if ctx.Err() == nil && !excused(err) || ctx.Err() != nil && !errors.Is(err, ctx.Err()) && !excused(err) {
			t.Errorf("from %d: %v", from, err)
		}
		return from
	}
	if len(batches) == 0 {
		return 0
	}
	defer held.Release()
	for _, raw := range batches {
		b := record.Batch(raw)
		if b.Verify() != nil || b.LastOffset() < from {
			t.Errorf("from %d: %d to %d", from, b.BaseOffset(), b.LastOffset())
		}
		for it := b.Records(); it.Next(); {
			if rec := it.Record(); string(rec.Value) != string(fill(rec.Offset, len(rec.Value))) {
				t.Errorf("offset %d has %.20q", rec.Offset, rec.Value)
			}
			read.Add(1)
		}
		from = b.NextOffset()
	}
	return from
}

func isCorrupt(err error) bool { return errors.Is(err, object.ErrCorrupt) }
