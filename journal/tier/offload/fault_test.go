package offload

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// put stores an object of which nobody wants the bytes.
func put(t testing.TB, w *world, o *object.Writer) {
	t.Helper()
	sum := o.Summary()
	r := o.Reader(func(run int) (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), sum.Runs[run].Bytes)), nil
	})
	if err := w.s.Put(bg, o.Name(), r, o.Size(), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// produced is a world with something that is due, whose local copies go at once.
func produced(t testing.TB) (*world, *part) {
	t.Helper()
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	p.LocalBytes = 0
	more(w, p)
	return w, p
}

func more(w *world, p *part) {
	for range 20 {
		w.produce(p, 3, 1000)
	}
	w.seal()
}

// times is a fault for the first n Puts of objects.
func times(n int, f fault) func(op, name string) *fault {
	return func(op, name string) *fault {
		if _, ok := object.ParseName(name); !ok || op != "put" || n == 0 {
			return nil
		}
		n--
		return &f
	}
}

// whole makes sure that all that was due is in the store, once, and has left the log.
func whole(t *testing.T, w *world, p *part) {
	t.Helper()
	w.check()
	if got := w.localStart(p); got != p.end {
		t.Errorf("the log begins at %d of %d", got, p.end)
	}
	if _, end, ok := w.m.Bounds(100); !ok || end != p.end {
		t.Errorf("%d of %d are in the manifest, %v", end, p.end, ok)
	}
	if there, rows := len(w.s.objectNames()), w.m.Stats().Objects; there != rows {
		t.Errorf("%d objects in the store, %d in the manifest", there, rows)
	}
	if s := w.f.Status(); s.Err != nil || s.Pending != "" {
		t.Errorf("%+v", s)
	}
}

// TestTemporary: each fault that passes is tried again within the turn.
func TestTemporary(t *testing.T) {
	for name, f := range map[string]fault{
		"503":                              {err: storeError(tier.Unavailable)},
		"throttled":                        {err: storeError(tier.Throttled)},
		"full":                             {err: storeError(tier.Full)},
		"cut in a part":                    {err: storeError(tier.Unavailable), cut: true},
		"stored, and told that it was not": {err: storeError(tier.Unavailable), after: true},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := produced(t)
			w.s.setFault(times(3, f))
			from := w.clk.Mono()
			w.turn()
			whole(t, w, p)
			if n := w.m.Stats().Objects; n != 1 {
				t.Errorf("%d objects", n)
			}
			if took := w.clk.Mono() - from; took < betweenTries.First/2 || took > time.Minute {
				t.Errorf("it took %v", took)
			}
			if f.after && w.s.puts != 1 {
				t.Errorf("%d Puts of what was there", w.s.puts)
			}
		})
	}
}

// TestRefused: where trying again is of no use, the turn ends at once, and what was due stays where it is.
func TestRefused(t *testing.T) {
	for name, k := range map[string]tier.Kind{"403": tier.Denied, "bad request": tier.Permanent, "too large": tier.TooLarge} {
		t.Run(name, func(t *testing.T) {
			w, p := produced(t)
			w.s.setFault(times(-1, fault{err: storeError(k)}))
			err := w.f.Turn(bg)
			if got, _ := tier.KindOf(err); got != k || w.localStart(p) != 0 || w.m.Stats().Objects != 0 {
				t.Fatalf("%v", err)
			}
			if s := w.f.Status(); s.Err == nil || s.Fails != 1 || s.FailedSince.IsZero() || w.f.stats.Retries.Load() != 0 {
				t.Errorf("%+v", s)
			}
			w.check()
			w.s.setFault(nil)
			w.turn()
			whole(t, w, p)
		})
	}
}

// TestAway: the store is gone for an hour. Each turn gives up after some tries and holds nothing meanwhile; then all goes on.
func TestAway(t *testing.T) {
	w, p := produced(t)
	back := w.clk.Mono() + time.Hour
	w.s.setFault(func(string, string) *fault {
		if w.clk.Mono() >= back {
			return nil
		}
		return &fault{err: storeError(tier.Unavailable)}
	})
	var fails backoff
	turns := 0
	for ; w.clk.Mono() < back; turns++ {
		err := w.f.Turn(bg)
		if err == nil {
			break
		}
		if !tier.Temporary(err) || w.localStart(p) != 0 {
			t.Fatal(err)
		}
		w.check()
		more(w, p)
		w.clk.Advance(fails.next(err))
	}
	if turns < 10 || turns > 200 {
		t.Errorf("%d turns in an hour", turns)
	}
	for range 30 {
		if w.localStart(p) >= p.end {
			break
		}
		w.turn()
		w.clk.Advance(time.Minute) // what came last is little: it goes when it has waited
	}
	whole(t, w, p)
}

// TestSlow: a Put that takes nothing is given up, and tried again.
func TestSlow(t *testing.T) {
	w, p := produced(t)
	w.s.setFault(times(1, fault{stall: true}))
	done := make(chan error, 1)
	go func() { done <- w.f.Turn(bg) }()
	for ended := false; !ended; {
		testx.Eventually(t, patience, func() bool { return w.clk.Pending() > 0 || len(done) > 0 })
		if ended = len(done) > 0; !ended && w.f.Status().Phase == Uploading {
			w.clk.Advance(2 * time.Minute)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	whole(t, w, p)
}

// TestUnconditional: a store that cannot put if absent is looked at first.
func TestUnconditional(t *testing.T) {
	w, p := produced(t)
	w.s.uncond = true
	taken := taken(t, w)
	w.turn()
	whole1(t, w, p, taken)
}

// TestTaken: a name that an orphan has is left to it.
func TestTaken(t *testing.T) {
	w, p := produced(t)
	taken := taken(t, w)
	w.turn()
	whole1(t, w, p, taken)
}

// TestTakenAlike: an object of the same size, which is whole but another, is not taken for what a Put that failed may have stored.
func TestTakenAlike(t *testing.T) {
	other := newWorld(t, small())
	more(other, other.add(104, 1, Immediate))
	other.turn()
	w, p := produced(t)
	if _, err := mint(w.f); err != nil {
		t.Fatal(err)
	}
	name := other.s.objectNames()[0]
	w.s.objects[name] = other.s.objects[name]
	w.s.setFault(times(1, fault{err: storeError(tier.Unavailable)}))
	w.turn()
	whole1(t, w, p, 1)
}

// taken plants objects where the offloader's next ones would be.
func taken(t *testing.T, w *world) int {
	t.Helper()
	if _, err := mint(w.f); err != nil {
		t.Fatal(err)
	}
	const n = 30
	for i := range n {
		b := object.NewBuilder(object.ID{Shard: 1, Epoch: 1, Sequence: firstSequence + uint64(i)}, w.clk.Now().UnixMilli(), object.Options{})
		b.Run(object.Topic{Name: "x"}, 0)
		b.Add(object.Extent{First: 1, Last: 2, Bytes: 100})
		o, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		put(t, w, o)
	}
	return n
}

func whole1(t *testing.T, w *world, p *part, others int) {
	t.Helper()
	w.check()
	if w.localStart(p) != p.end || len(w.s.objectNames()) != others+1 || w.f.stats.Taken.Load() != 1 {
		t.Errorf("the log begins at %d, %d objects, %d names taken", w.localStart(p), len(w.s.objectNames()), w.f.stats.Taken.Load())
	}
	// The orphans go in their time, the other stays.
	w.clk.Advance(30 * time.Hour)
	w.turn()
	if n := len(w.s.objectNames()); n != 1 {
		t.Errorf("%d objects", n)
	}
	w.check()
}

// TestCommitFails: an object whose commit fails is not uploaded again, and its local copies stay until it has succeeded.
func TestCommitFails(t *testing.T) {
	w, p := produced(t)
	w.turn() // an epoch is there
	more(w, p)
	full := errors.New("journal: full")
	refuse := true
	w.mu.commitOK = func([]Change) (apply, answer bool, err error) {
		if refuse {
			return false, true, full
		}
		return true, true, nil
	}
	start := w.localStart(p)
	for range 3 {
		if err := w.f.Turn(bg); !errors.Is(err, full) {
			t.Fatal(err)
		}
		if w.localStart(p) != start || w.s.puts != 2 || w.f.Status().Pending == "" {
			t.Fatalf("%d, %d Puts", w.localStart(p), w.s.puts)
		}
		// A search for orphans must not take it.
		w.clk.Advance(48 * time.Hour)
	}
	refuse = false
	w.turn()
	if w.s.puts != 2 {
		t.Errorf("%d Puts", w.s.puts)
	}
	whole(t, w, p)
}

// TestCommitInDoubt: a turn ends before a commit is answered. The next one waits for the answer, and asks no second time.
func TestCommitInDoubt(t *testing.T) {
	w, p := produced(t)
	w.turn()
	more(w, p)
	w.mu.commitOK = func([]Change) (apply, answer bool, err error) { return true, false, nil }
	ctx, cancel := context.WithCancel(bg)
	done := make(chan error, 1)
	go func() { done <- w.f.Turn(ctx) }()
	waiting := func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.mu.waiting) == 1 }
	testx.Eventually(t, patience, waiting)
	cancel()
	if err := testx.Receive(t, done, patience); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	changes := w.mu.changes
	go func() { done <- w.f.Turn(bg) }()
	w.mu.Lock()
	answer := w.mu.waiting[0]
	w.mu.commitOK = nil
	w.mu.Unlock()
	answer()
	if err := testx.Receive(t, done, patience); err != nil {
		t.Fatal(err)
	}
	if w.mu.changes != changes {
		t.Errorf("%d changes, then %d", changes, w.mu.changes)
	}
	whole(t, w, p)
}

// TestBroken: a partition that cannot be read is left alone for a time; the others of its object go.
func TestBroken(t *testing.T) {
	w, p := produced(t)
	q := w.add(101, 1, Immediate)
	q.broken = true
	more(w, q)
	w.turn()
	whole0 := func() {
		t.Helper()
		w.check()
		if w.localStart(p) != p.end || w.localStart(q) != 0 {
			t.Error(w.localStart(p), w.localStart(q))
		}
	}
	whole0()
	if s := w.f.Status(); s.Bad != 1 || !errors.Is(s.Err, errBroken) {
		t.Errorf("%+v", s)
	}
	puts := w.f.stats.Puts.Load()
	more(w, p)
	w.turn()
	whole0()
	if got := w.f.stats.Puts.Load() - puts; got != 1 {
		t.Errorf("%d Puts", got)
	}
	q.broken = false
	w.clk.Advance(badFor)
	w.turn()
	if _, end, ok := w.m.Bounds(101); !ok || end != q.end {
		t.Error(end, ok)
	}
	w.check()
}

// TestMeanwhile: the log start moves, and a partition is dropped, while they are uploaded.
func TestMeanwhile(t *testing.T) {
	w, p := produced(t)
	q, r := w.add(101, 1, Immediate), w.add(102, 1, Immediate)
	more(w, q)
	more(w, r)
	w.s.setFault(func(op, name string) *fault {
		if _, ok := object.ParseName(name); !ok || op != "put" {
			return nil
		}
		return &fault{do: func() {
			w.deleteBelow(p, 31)
			w.deleteBelow(q, q.end)
			w.drop(r)
		}}
	})
	w.turn()
	w.check()
	w.s.setFault(nil)
	if start, end, ok := w.m.Bounds(100); !ok || start != 31 || end != p.end {
		t.Error(start, end, ok)
	}
	for _, id := range []record.PartitionID{101, 102} {
		if _, _, ok := w.m.Bounds(id); ok {
			t.Errorf("partition %d is in the manifest", id)
		}
	}
	w.deleteBelow(p, p.end)
	w.turn()
	w.clk.Advance(time.Hour)
	w.turn()
	if n := len(w.s.objectNames()); n != 0 {
		t.Errorf("%d objects", n)
	}
}

// TestDeleteFails: what could not be removed is removed later.
func TestDeleteFails(t *testing.T) {
	w, p := produced(t)
	w.turn()
	w.deleteBelow(p, p.end)
	w.turn()
	w.clk.Advance(time.Hour)
	for _, k := range []tier.Kind{tier.Unavailable, tier.Denied} {
		w.s.setFault(func(op, _ string) *fault {
			if op == "delete" {
				return &fault{err: storeError(k)}
			}
			return nil
		})
		if got, _ := tier.KindOf(w.f.Turn(bg)); got != k {
			t.Error(got)
		}
		if n := w.f.Status().Doomed; n != 1 {
			t.Errorf("%d to be removed", n)
		}
	}
	w.s.setFault(nil)
	w.turn()
	if n := len(w.s.objectNames()); n != 0 {
		t.Errorf("%d objects", n)
	}
}

// TestNameOnce: the name of an object that was removed is not given again: not within a life, while a Delete that failed is to be tried again, nor after
// a restart, when one may be under way in the store.
func TestNameOnce(t *testing.T) {
	w, p := produced(t)
	w.turn()
	first := w.s.objectNames()[0]
	w.restart()
	w.deleteBelow(p, p.end)
	w.turn()
	w.clk.Advance(time.Hour)
	w.s.setFault(func(op, _ string) *fault {
		if op == "delete" {
			return &fault{err: storeError(tier.Unavailable), after: true}
		}
		return nil
	})
	if err := w.f.Turn(bg); !tier.Temporary(err) {
		t.Fatal(err)
	}
	w.s.setFault(nil)
	for range 2 {
		more(w, p)
		w.turn()
		w.check()
		if _, ok := w.s.objects[first]; ok {
			t.Errorf("%s came again", first)
		}
		w.restart()
	}
}

// TestRate: uploads keep to the bandwidth.
func TestRate(t *testing.T) {
	o := small()
	o.BytesPerSecond = 10 * kib
	w := newWorld(t, o)
	p := w.add(100, 1, Immediate)
	for range 100 {
		w.produce(p, 1, kib)
	}
	w.seal()
	from := w.clk.Mono()
	w.turn()
	w.check()
	if took := w.clk.Mono() - from; took < 95*time.Second/10 || took > 11*time.Second {
		t.Errorf("100 KiB at 10 KiB a second took %v", took)
	}
}

// TestGone: what was due when the turn was planned is not there any more when it is laid out, or cannot be listed: others go, and the turn ends.
func TestGone(t *testing.T) {
	w, p := produced(t)
	q, r, v := w.add(101, 1, Immediate), w.add(102, 2, Immediate), w.add(103, 1, Immediate)
	for _, x := range []*part{q, r, v} {
		more(w, x)
	}
	w.o.Step = func(name string) {
		if name == "planned" {
			w.deleteBelow(q, q.end)
			w.drop(r)
			v.unlisted = true
		}
	}
	w.restart()
	w.turn()
	w.check()
	if w.localStart(p) != p.end || w.m.Stats().Objects != 1 || w.m.Stats().Runs != 1 {
		t.Errorf("%d, %+v", w.localStart(p), w.m.Stats())
	}
	if s := w.f.Status(); s.Bad != 1 || !errors.Is(s.Err, errBroken) || w.f.stats.Unreadable.Load() != 1 {
		t.Errorf("%+v", s)
	}
	w.o.Step = nil
	v.unlisted = false
	w.restart()
	w.turn()
	w.check()
	if _, end, ok := w.m.Bounds(103); !ok || end != v.end {
		t.Error(end, ok)
	}
}

// TestHole: the log lists what does not follow, or is not decided: it is not taken for history.
func TestHole(t *testing.T) {
	ext := func(first, last record.Offset, bytes int64) object.Extent {
		return object.Extent{First: first, Last: last, Bytes: bytes}
	}
	for _, c := range []struct {
		es          []object.Extent
		follows     bool
		from, to    int
		end         record.Offset
		bytes       int64
		contradicts bool
	}{
		{es: []object.Extent{ext(10, 19, 5), ext(20, 29, 6), ext(30, 39, 7)}, from: 0, to: 2, end: 30, bytes: 11},
		{es: []object.Extent{ext(0, 9, 5), ext(10, 19, 6)}, from: 1, to: 2, end: 20, bytes: 6},
		{es: []object.Extent{ext(5, 12, 5), ext(13, 19, 6)}, from: 0, to: 2, end: 20, bytes: 11},
		{es: []object.Extent{ext(5, 12, 5)}, follows: true, contradicts: true},
		{es: []object.Extent{ext(10, 19, 5), ext(15, 29, 6)}, contradicts: true},
		{es: []object.Extent{ext(10, 19, 0)}, contradicts: true},
		{es: []object.Extent{ext(30, 39, 5)}, from: 0, to: 0, end: 10},
	} {
		s, end, bytes, err := within(&simPieces{extents: c.es}, 10, 35, c.follows)
		if c.contradicts {
			if err == nil {
				t.Errorf("%+v: no error", c)
			}
			continue
		}
		if err != nil || s.from != c.from || s.to != c.to || end != c.end || bytes != c.bytes {
			t.Errorf("%+v: %+v %d %d %v", c, s, end, bytes, err)
		}
	}
}

// TestOverlap: a local copy from which something is missing in the manifest stays, whatever lies behind it in the store.
func TestOverlap(t *testing.T) {
	w, p := produced(t)
	w.turn()
	// The first object's row is gone, as if the manifest had lost it: what the log has from there on is all there is.
	more(w, p)
	w.turn()
	first := w.objectsLocked()
	for _, o := range first {
		if o.ID.Sequence == firstSequence {
			w.applyLocked(1, []Change{{Key: o.Key()}})
		}
	}
	p.local = append([]batch(nil), p.all...) // after a restart the copies are back
	w.turn()
	if got := w.localStart(p); got != 0 {
		t.Errorf("the log begins at %d", got)
	}
}

// TestSleep: waits by the system's clock end in time, and with their context.
func TestSleep(t *testing.T) {
	f := New(Options{Store: &memStore{}, Log: simLog{}, Catalog: simCatalog{}})
	if err := f.sleep(bg, time.Millisecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := f.sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f.Close()
	f.Run(bg) // is over at once
	if _, err := mint(f); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
