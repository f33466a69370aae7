package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

func TestRead(t *testing.T) {
	s, m := newStore(), NewManifest()
	store(t, s, m, 1, 1000, mkRun(7, 10, 109, 7, 20), mkRun(8, 0, 4, 1, 300))
	store(t, s, m, 2, 1000, mkRun(7, 110, 209, 3, 50))
	store(t, s, m, 3, 1000, mkRun(7, 230, 250, 30, 5), mkRun(9, 0, 0, 1, 1)) // behind a gap
	r := newReader(t, m, s, ReaderOptions{})
	all := append(offsets(10, 209), offsets(230, 250)...)
	for _, maxBytes := range []int{0, 1, 500, 3000, 1 << 20} {
		if got := readAll(t, r, 7, 10, 1000, maxBytes); !slices.Equal(got, all) {
			t.Errorf("%d bytes at a time: %v", maxBytes, got)
		}
	}
	// In the middle of a batch, of a block, in a gap, before the first and behind the last.
	for from, want := range map[record.Offset]record.Offset{0: 10, 12: 12, 60: 60, 208: 208, 209: 209, 210: 230, 229: 230, 250: 250, 251: -1} {
		got := readAll(t, r, 7, from, 1000, 400)
		if want < 0 && len(got) > 0 || want >= 0 && (len(got) == 0 || got[0] != want || !slices.Equal(got, all[slices.Index(all, want):])) {
			t.Errorf("from %d: %v", from, got)
		}
	}
	// Nothing that begins at or behind the end: batches of 7 from 10 on.
	for end, last := range map[record.Offset]record.Offset{10: 9, 11: 16, 17: 16, 18: 23, 111: 112, 220: 209, 231: 250} {
		got := readAll(t, r, 7, 10, end, 1<<20)
		if last < 10 && len(got) > 0 || last >= 10 && got[len(got)-1] != last {
			t.Errorf("to %d: %v", end, got)
		}
	}
	for _, p := range []record.PartitionID{0, 6} {
		if got := readAll(t, r, p, 0, 1000, 100); len(got) > 0 {
			t.Errorf("partition %d: %v", p, got)
		}
	}
	if got := readAll(t, r, 8, 0, 5, 100); !slices.Equal(got, offsets(0, 4)) {
		t.Error(got)
	}
	if st := r.Stats(); st.Held != 0 || st.TailMisses != 3 {
		t.Errorf("%+v", st)
	}
}

func TestHeld(t *testing.T) {
	s, m := newStore(), NewManifest()
	store(t, s, m, 1, 1000, mkRun(7, 0, 99, 1, 100))
	r := newReader(t, m, s, ReaderOptions{})
	dst := [][]byte{nil}
	dst, held, err := r.ReadBatches(bg, 7, 0, 100, 1000, dst)
	if err != nil || len(dst) < 2 || dst[0] != nil {
		t.Fatal(len(dst), err)
	}
	held.Retain()
	held.Release()
	if n := r.Stats().Held; n < 500 || n > 1000 {
		t.Errorf("%d bytes are held", n)
	}
	held.Release()
	if n := r.Stats().Held; n != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

// TestRequests: one cold read of many blocks is one request beside the tail's; reading on takes few.
func TestRequests(t *testing.T) {
	s, m := newStore(), NewManifest()
	o := store(t, s, m, 1, 1000, mkRun(7, 0, 999, 1, 900))
	r := newReader(t, m, s, ReaderOptions{})
	_, held, err := r.ReadBatches(bg, 7, 500, 1000, 20_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	held.Release()
	// The tail, the blocks by one request, and what is read ahead behind them.
	got := s.requests()
	if !strings.HasPrefix(got[0], fmt.Sprintf("%s %d", o.ID.Name(), -o.Tail)) {
		t.Errorf("%v", got)
	}
	var first, largest int64
	for _, g := range got[1:] {
		var name string
		var off, n int64
		if _, err := fmt.Sscan(g, &name, &off, &n); err != nil {
			t.Fatal(err)
		}
		if first == 0 || off < first {
			first, largest = off, n
		}
	}
	if largest < 20_000 || len(got) > 5 {
		t.Errorf("%v", got)
	}
	before := len(got)
	readAll(t, r, 7, 0, 1000, 20_000)
	if got := s.requests()[before:]; len(got) > 20 {
		t.Errorf("%d requests for 1000 blocks: %v", len(got), got)
	}
}

// TestOverlapRead: an upload was repeated after a crash, cut elsewhere: each offset comes once, in order.
func TestOverlapRead(t *testing.T) {
	s, m := newStore(), NewManifest()
	a := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	store(t, s, m, 2, 700, mkRun(7, 50, 149, 5, 20))
	store(t, s, m, 3, 900, mkRun(7, 50, 149, 5, 20))
	store(t, s, m, 4, 300, mkRun(7, 20, 29, 5, 20), mkRun(7, 150, 169, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	for _, maxBytes := range []int{1, 1000, 1 << 20} {
		if got := readAll(t, r, 7, 0, 1000, maxBytes); !slices.Equal(got, offsets(0, 169)) {
			t.Errorf("%v", got)
		}
	}
	gone(t, m, a)
	if got := readAll(t, r, 7, 0, 1000, 1000); !slices.Equal(got, append(offsets(20, 29), offsets(50, 169)...)) {
		t.Errorf("%v", got)
	}
}

// TestLogStart: it lies in the middle of a run, of a block and of a batch.
func TestLogStart(t *testing.T) {
	s, m := newStore(), NewManifest()
	store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	store(t, s, m, 2, 500, mkRun(7, 100, 199, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	m.SetLogStart(7, 57)
	if got := readAll(t, r, 7, 57, 1000, 300); !slices.Equal(got, offsets(57, 199)) {
		t.Errorf("%v", got)
	}
	m.SetLogStart(7, 123)
	got := readAll(t, r, 7, 57, 1000, 300)
	if i := slices.Index(got, 123); i < 0 || !slices.Equal(got[i:], offsets(123, 199)) || got[0] < 100 {
		t.Errorf("%v", got)
	}
}

func TestSeekTime(t *testing.T) {
	s, m := newStore(), NewManifest()
	control := written{partition: 7}
	var b record.BatchBuilder
	b.Begin(nil, 1<<40)
	b.Append(&record.Input{Timestamp: 1 << 40})
	control.batches = append(control.batches, b.Finish(&record.BatchOptions{BaseOffset: 100, Attributes: record.Control}))
	store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	store(t, s, m, 2, 500, control)
	store(t, s, m, 3, 500, mkRun(7, 101, 200, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	check := func(at int64, first, last record.Offset) {
		t.Helper()
		from, found, err := r.SeekTime(bg, 7, at)
		if err != nil || !found || from < first || from > last {
			t.Errorf("time %d: %d, %v, %v", at, from, found, err)
		}
	}
	check(-5, 0, 0)
	check(0, 0, 0)
	check(42, 30, 42) // blocks have a few batches
	check(99, 85, 99)
	check(100, 101, 101)
	check(200, 180, 200)
	if _, found, err := r.SeekTime(bg, 7, 201); found || err != nil {
		t.Error(found, err)
	}
	if _, found, err := r.SeekTime(bg, 6, 0); found || err != nil {
		t.Error(found, err)
	}
	m.SetLogStart(7, 43)
	check(0, 43, 43)
	check(44, 43, 44)
	if at, ok := m.MaxTime(7); at != 200 || !ok {
		t.Error(at, ok)
	}
}

// TestTemporary: errors that pass are not seen, those that stay are told after some tries, and what was read before them is given.
func TestTemporary(t *testing.T) {
	s, m := newStore(), NewManifest()
	o := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	n := 0
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if n++; n%3 != 0 {
				return s.err("get", name, tier.Throttled)
			}
			return nil
		}
		// Connections are cut after some blocks.
		s.spoil = func(name string, rng tier.Range, b []byte) ([]byte, error) {
			if rng.Off >= 0 && len(b) > 1200 {
				return b[:1200], s.err("get", name, tier.Unavailable)
			}
			return b, nil
		}
	})
	if got := readAll(t, r, 7, 0, 100, 3000); !slices.Equal(got, offsets(0, 99)) {
		t.Error(got)
	}
	if r.Stats().Retries == 0 {
		t.Error("nothing was tried again")
	}
	r.Forget(o)
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error { return s.err("get", name, tier.Unavailable) }
	})
	before := len(s.requests())
	_, _, err := r.ReadBatches(bg, 7, 0, 100, 3000, nil)
	if !errors.Is(err, tier.ErrUnavailable) || !strings.Contains(err.Error(), o.ID.Name()) {
		t.Error(err)
	}
	if n := len(s.requests()) - before; n != 5 {
		t.Errorf("%d tries", n)
	}
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error { return s.err("get", name, tier.Denied) }
	})
	before = len(s.requests())
	if _, _, err := r.ReadBatches(bg, 7, 0, 100, 3000, nil); !errors.Is(err, tier.ErrDenied) || len(s.requests()) != before+1 {
		t.Error(err, len(s.requests())-before)
	}
	s.set(func(s *memStore) { s.fault, s.spoil = nil, nil })
	if got := readAll(t, r, 7, 0, 100, 3000); !slices.Equal(got, offsets(0, 99)) {
		t.Error("it has not recovered", got)
	}
}

// TestWrongBytes: a byte that is not what was written gives an error that names object and block, wherever it is; never a wrong record.
func TestWrongBytes(t *testing.T) {
	s, m := newStore(), NewManifest()
	o := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20), mkRun(8, 0, 9, 5, 20))
	whole := slices.Clone(s.objects[o.ID.Name()])
	runs := int64(0)
	for _, r := range o.Runs {
		runs += r.Bytes
	}
	for at := int64(0); at < o.Size; at += 37 {
		s.set(func(s *memStore) { s.objects[o.ID.Name()] = whole })
		s.flip(t, o, at)
		r := newReader(t, m, s, ReaderOptions{})
		var failed error
		for from := record.Offset(0); from < 100; from += 5 {
			batches, held, err := r.ReadBatches(bg, 7, from, from+1, 1, nil)
			if err != nil {
				failed = err
				continue
			}
			if len(batches) != 1 || record.Batch(batches[0]).BaseOffset() != from || record.Batch(batches[0]).Verify() != nil {
				t.Fatalf("byte %d: a wrong record", at)
			}
			held.Release()
		}
		mine := at >= 64 && at < 64+o.Runs[0].Bytes
		if bad := mine || at >= 64+runs; bad != (failed != nil) {
			t.Errorf("byte %d of %d: %v", at, o.Size, failed)
		}
		if failed == nil {
			continue
		}
		if !errors.Is(failed, object.ErrCorrupt) && !strings.Contains(failed.Error(), "has format") || !strings.Contains(failed.Error(), o.ID.Name()) {
			t.Errorf("byte %d: %v", at, failed)
		}
		if mine && !strings.Contains(failed.Error(), ": block ") {
			t.Errorf("byte %d: no block in %v", at, failed)
		}
		if err := r.Verify(bg, o, nil); err == nil {
			t.Errorf("byte %d: it verifies", at)
		}
	}
	s.set(func(s *memStore) { s.objects[o.ID.Name()] = whole })
	// Wrong once, on the way: nobody sees it.
	var once sync.Map
	s.set(func(s *memStore) {
		s.spoil = func(_ string, rng tier.Range, b []byte) ([]byte, error) {
			if _, again := once.LoadOrStore(rng.Off < 0, true); !again {
				b[len(b)/2] ^= 1
			}
			return b, nil
		}
	})
	r := newReader(t, m, s, ReaderOptions{})
	if got := readAll(t, r, 7, 0, 100, 100); !slices.Equal(got, offsets(0, 99)) {
		t.Error(got)
	}
}

// TestOtherObject: what lies under an object's name is another one, whole and with right checksums.
func TestOtherObject(t *testing.T) {
	s, m := newStore(), NewManifest()
	a := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	b := store(t, s, m, 2, 500, mkRun(8, 0, 98, 5, 20))
	s.set(func(s *memStore) { s.objects[a.ID.Name()] = s.objects[b.ID.Name()] })
	r := newReader(t, m, s, ReaderOptions{})
	if _, _, err := r.ReadBatches(bg, 7, 0, 100, 1000, nil); !errors.Is(err, object.ErrCorrupt) || !strings.Contains(err.Error(), "manifest") {
		t.Error(err)
	}
	if err := r.Verify(bg, a, nil); !errors.Is(err, object.ErrCorrupt) {
		t.Error(err)
	}
	if err := r.Verify(bg, b, nil); err != nil {
		t.Error(err)
	}
	if n := r.Stats().Corrupt; n != 1 {
		t.Error(n)
	}
}

func TestLost(t *testing.T) {
	s, m := newStore(), NewManifest()
	a := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	store(t, s, m, 2, 500, mkRun(7, 100, 199, 5, 20))
	if err := s.Delete(bg, a.ID.Name()); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, m, s, ReaderOptions{})
	_, _, err := r.ReadBatches(bg, 7, 20, 100, 1000, nil)
	if !errors.Is(err, ErrLost) || !errors.Is(err, tier.ErrNotFound) || !strings.Contains(err.Error(), a.ID.Name()) {
		t.Error(err)
	}
	if _, _, err := r.SeekTime(bg, 7, 20); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	if err := r.Verify(bg, a, nil); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	if got := readAll(t, r, 7, 100, 1000, 1000); !slices.Equal(got, offsets(100, 199)) {
		t.Error(got)
	}
	if n := r.Stats().Lost; n != 2 {
		t.Error(n)
	}
}

// TestRemoved: retention takes an object, from the manifest and from the store, while it is read: what is left is given.
func TestRemoved(t *testing.T) {
	s, m := newStore(), NewManifest()
	a := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	store(t, s, m, 2, 500, mkRun(7, 100, 199, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	remove := func(name string, _ tier.Range) error {
		if name != a.ID.Name() {
			return nil
		}
		m.SetLogStart(7, 100)
		for _, o := range m.Dead() {
			if err := m.Apply(o.Shard, o.Key(), nil); err != nil {
				return err
			}
		}
		return s.err("get", name, tier.NotFound)
	}
	s.set(func(s *memStore) { s.fault = remove })
	if got := readAll(t, r, 7, 20, 1000, 1000); !slices.Equal(got, offsets(100, 199)) {
		t.Error(got)
	}
	if from, found, err := r.SeekTime(bg, 7, 20); from != 100 || !found || err != nil {
		t.Error(from, found, err)
	}
	if err := r.Prefetch(bg, 7, 20, 200, nil); err != nil {
		t.Error(err)
	}
	// And the whole partition.
	r.Forget(a)
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error {
			m.DropPartition(7)
			return s.err("get", name, tier.NotFound)
		}
	})
	store(t, s, m, 4, 500, mkRun(9, 0, 9, 5, 20))
	if got := readAll(t, newReader(t, m, s, ReaderOptions{}), 7, 100, 1000, 1000); len(got) != 0 {
		t.Error(got)
	}
	if n := r.Stats().Lost; n != 0 {
		t.Error("lost", n)
	}
}

func TestContext(t *testing.T) {
	s, m := newStore(), NewManifest()
	store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	began := make(chan struct{}, 100)
	s.set(func(s *memStore) {
		s.wait = func(ctx context.Context) error {
			began <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
	})
	r := newReader(t, m, s, ReaderOptions{})
	read := func(ctx context.Context) chan error {
		ch := make(chan error, 1)
		go func() {
			_, _, err := r.ReadBatches(ctx, 7, 0, 100, 1000, nil)
			ch <- err
		}()
		return ch
	}
	ctx, cancel := context.WithCancel(bg)
	first := read(ctx)
	testx.Receive(t, began, patienceOf)
	second := read(bg)
	testx.Eventually(t, patienceOf, func() bool {
		r.tails.mu.Lock()
		defer r.tails.mu.Unlock()
		for _, f := range r.tails.mu.flights {
			return f.waiters == 2
		}
		return false
	})
	cancel()
	if err := testx.Receive(t, first, patienceOf); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The other one waits on, until the reader is closed.
	r.Close()
	if err := testx.Receive(t, second, patienceOf); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, _, err := r.ReadBatches(bg, 7, 0, 100, 1000, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestCancelTail: the only one who waits for a tail leaves: its load ends, and another begins for whoever comes.
func TestCancelTail(t *testing.T) {
	s, m := newStore(), NewManifest()
	o := store(t, s, m, 1, 500, mkRun(7, 0, 99, 5, 20))
	ended := make(chan struct{}, 100)
	began := make(chan struct{}, 100)
	s.set(func(s *memStore) {
		s.wait = func(ctx context.Context) error {
			began <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		}
	})
	r := newReader(t, m, s, ReaderOptions{})
	ctx, cancel := context.WithCancel(bg)
	go func() {
		<-began
		cancel()
	}()
	if _, err := r.tails.get(ctx, o.ID, o.Tail); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	testx.Receive(t, ended, patienceOf)
	s.set(func(s *memStore) { s.wait = nil })
	if got := readAll(t, r, 7, 0, 100, 1000); !slices.Equal(got, offsets(0, 99)) {
		t.Error(got)
	}
}

// TestBounds: tails and blocks stay within their bounds, whatever is read, and a tail that alone is larger is kept alone.
func TestBounds(t *testing.T) {
	s, m := newStore(), NewManifest()
	for i := range 40 {
		store(t, s, m, i+1, 500, mkRun(7, record.Offset(100*i), record.Offset(100*i+99), 1, 100))
	}
	r := newReader(t, m, s, ReaderOptions{CacheBytes: 20_000, TailBytes: 10_000, Readers: 4})
	for range 2 {
		for from := record.Offset(0); from < 4000; from += 37 {
			_, held, err := r.ReadBatches(bg, 7, from, 4000, 2000, nil)
			if err != nil {
				t.Fatal(err)
			}
			held.Release()
			st := r.Stats()
			r.mu.Lock()
			scans, bytes := r.mu.scans.used.Len(), r.mu.scans.bytes
			r.mu.Unlock()
			if st.TailBytes > 10_000 || st.Cache.Bytes.Load() > 20_000 || scans > 4 || bytes > 10_000 {
				t.Fatalf("%+v, %d bytes of blocks, %d readers with %d", st, st.Cache.Bytes.Load(), scans, bytes)
			}
		}
	}
	small := newReader(t, m, s, ReaderOptions{TailBytes: 1})
	if got := readAll(t, small, 7, 0, 4000, 5000); !slices.Equal(got, offsets(0, 3999)) {
		t.Error(len(got))
	}
}

func TestPrefetch(t *testing.T) {
	s, m := newStore(), NewManifest()
	store(t, s, m, 1, 1000, mkRun(7, 0, 99, 1, 100))
	store(t, s, m, 2, 1000, mkRun(7, 100, 199, 1, 100))
	r := newReader(t, m, s, ReaderOptions{})
	var last, total int64
	err := r.Prefetch(bg, 7, 20, 150, func(done, of int64) {
		if done <= last || of < done {
			t.Errorf("%d of %d, after %d", done, of, last)
		}
		last, total = done, of
	})
	if err != nil || last < 130*100 || last > total+2000 {
		t.Error(err, last, total)
	}
	s.set(func(s *memStore) {
		s.fault = func(name string, _ tier.Range) error { return s.err("get", name, tier.Denied) }
	})
	if got := readAll(t, r, 7, 20, 150, 1000); !slices.Equal(got, offsets(20, 149)) {
		t.Error(got)
	}
	s.set(func(s *memStore) { s.fault = nil })
	small := newReader(t, m, s, ReaderOptions{CacheBytes: 10_000})
	if err := small.Prefetch(bg, 7, 0, 200, nil); !errors.Is(err, ErrCacheFull) {
		t.Error(err)
	}
	if err := small.Prefetch(bg, 6, 0, 200, nil); err != nil {
		t.Error(err)
	}
}

func TestVerify(t *testing.T) {
	s, m := newStore(), NewManifest()
	o := store(t, s, m, 1, 500, mkRun(7, 0, 199, 5, 20), mkRun(8, 0, 199, 5, 20))
	r := newReader(t, m, s, ReaderOptions{})
	var done int64
	if err := r.Verify(bg, o, func(n int64) { done = n }); err != nil || done != o.Runs[0].Bytes+o.Runs[1].Bytes {
		t.Error(err, done)
	}
	// Two blocks are wrong: both are told, and what is behind them is read.
	whole := slices.Clone(s.objects[o.ID.Name()])
	s.flip(t, o, 100)
	s.flip(t, o, 64+o.Runs[0].Bytes+100)
	done = 0
	err := r.Verify(bg, o, func(n int64) { done = n })
	if !errors.Is(err, object.ErrCorrupt) || strings.Count(err.Error(), "block's checksum") != 2 || done != o.Runs[0].Bytes+o.Runs[1].Bytes {
		t.Error(err, done)
	}
	// All of them: not more than some are told.
	b := slices.Clone(whole)
	for i := 64; i < len(b)-int(o.Tail); i++ {
		b[i] ^= 1
	}
	s.set(func(s *memStore) { s.objects[o.ID.Name()] = b })
	if err := r.Verify(bg, o, nil); strings.Count(err.Error(), "block's checksum") != wrongMax || !errors.Is(err, errWrong) {
		t.Error(err)
	}
	s.set(func(s *memStore) { s.objects[o.ID.Name()] = whole[:len(whole)-1] })
	if err := r.Verify(bg, o, nil); err == nil {
		t.Error("a cut object verifies")
	}
	s.set(func(s *memStore) { s.objects[o.ID.Name()] = whole })
	// What the manifest says is something else.
	other := *o
	other.Runs = slices.Clone(o.Runs)
	other.Runs[1].Last++
	if err := r.Verify(bg, &other, nil); !errors.Is(err, object.ErrCorrupt) {
		t.Error(err)
	}
	other = *o
	other.Created++
	if err := r.Verify(bg, &other, nil); !errors.Is(err, object.ErrCorrupt) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(bg)
	cancel()
	s.set(func(s *memStore) { s.wait = func(ctx context.Context) error { return ctx.Err() } })
	if err := r.Verify(ctx, o, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestVerifyBatches: checksums of blocks are right, but not what is in them.
func TestVerifyBatches(t *testing.T) {
	s, m := newStore(), NewManifest()
	run := mkRun(7, 0, 9, 5, 20)
	w, open := build(t, object.ID{Shard: 1, Epoch: 1, Sequence: 1}, 500, run)
	bad := slices.Clone(run.batches[1])
	bad[len(bad)-1] ^= 1
	run.batches[1] = bad
	if err := s.Put(bg, w.Name(), w.Reader(open), w.Size(), tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	sum := w.Summary()
	o := NewObject(&sum, "", func(r *object.Run) (record.PartitionID, bool) { return r.Partition, true })
	o.Shard = 1
	apply(t, m, o)
	if err := newReader(t, m, s, ReaderOptions{}).Verify(bg, o, nil); !errors.Is(err, object.ErrCorrupt) || !strings.Contains(err.Error(), record.ErrChecksum.Error()) {
		t.Error(err)
	}
}

// TestSmallRuns: who reads in a row through objects that have little of his partition finds the next ones there, and each block is loaded once. Who jumps has nothing read ahead.
func TestSmallRuns(t *testing.T) {
	s, m := newStore(), NewManifest()
	for i := range 60 {
		first := record.Offset(10 * i)
		store(t, s, m, i+1, 0, mkRun(8, first, first+9, 5, 20), mkRun(7, first, first+9, 5, 20))
	}
	r := newReader(t, m, s, ReaderOptions{})
	quiet := func() {
		t.Helper()
		testx.Eventually(t, patienceOf, func() bool { return len(r.slots) == 0 && r.cache.Loading() == 0 })
	}
	for _, from := range []record.Offset{500, 300, 100} {
		_, held, err := r.ReadBatches(bg, 8, from, 600, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		held.Release()
		quiet()
	}
	if st := r.Stats(); st.Cache.Ahead.Load() != 0 || st.TailMisses != 3 {
		t.Errorf("%d blocks ahead of one who jumps, %d tails", st.Cache.Ahead.Load(), st.TailMisses)
	}
	misses := r.Stats().Cache.Misses.Load()
	for from := record.Offset(0); from < 600; {
		batches, held, err := r.ReadBatches(bg, 7, from, 600, 1<<20, nil)
		if err != nil || len(batches) != 2 {
			t.Fatal(len(batches), err)
		}
		from = record.Batch(batches[1]).NextOffset()
		held.Release()
		quiet()
	}
	st := r.Stats()
	if n := st.Cache.Misses.Load() - misses; n > 4 {
		t.Errorf("he waited %d times in 60 objects", n)
	}
	if n := st.Cache.Loads.Load(); n != 63 || st.TailMisses > 60 {
		t.Errorf("%d loads, %d tails", n, st.TailMisses)
	}
}
