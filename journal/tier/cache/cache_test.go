package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 20 * time.Second
	unit     = 1000 // bytes of a block
)

var ctx = context.Background()

func block(object string, n int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%s/%04d;", object, n)), unit/7+1)[:unit]
}

// origin is where blocks come from.
type origin struct {
	mu    sync.Mutex
	loads []string      // "object first n"
	gate  chan struct{} // nil: open
	began chan context.Context
	err   atomic.Pointer[error]
}

func (o *origin) load(ctx context.Context, object string, first, n int, got func(int, *alloc.Block) error) error {
	o.mu.Lock()
	o.loads = append(o.loads, fmt.Sprintf("%s %d %d", object, first, n))
	gate := o.gate
	o.mu.Unlock()
	if o.began != nil {
		o.began <- ctx
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := o.err.Load(); err != nil {
		return *err
	}
	for i := range n {
		if err := got(first+i, alloc.CopyBlock(block(object, first+i))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (o *origin) requests() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.loads)
}

func (o *origin) shut() chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gate = make(chan struct{})
	return o.gate
}

// get is Get, as a reader does it who copies.
func get(ctx context.Context, c *Cache, k Key) ([]byte, error) {
	b, err := c.Get(ctx, k, unit)
	return taken(b), err
}

// taken copies a block, and lets go of it.
func taken(b *alloc.Block) []byte {
	if b == nil {
		return nil
	}
	defer b.Release()
	return bytes.Clone(b.Bytes())
}

func mustGet(t *testing.T, c *Cache, object string, n int) {
	t.Helper()
	b, err := get(ctx, c, Key{object, n})
	if err != nil || !bytes.Equal(b, block(object, n)) {
		t.Fatalf("%s %d: %d bytes, %v", object, n, len(b), err)
	}
}

func newCache(t *testing.T, o *origin, opts Options) *Cache {
	t.Helper()
	c := New(o.load, opts)
	t.Cleanup(c.Close)
	return c
}

func TestBound(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{Bytes: 10 * unit})
	for i := range 100 {
		mustGet(t, c, "a", i)
		if n := c.Bytes.Load(); n > 10*unit {
			t.Fatalf("%d bytes are kept", n)
		}
	}
	if c.Evicted.Load() != 90 || c.Misses.Load() != 100 || c.Hits.Load() != 0 {
		t.Errorf("%d evicted, %d misses, %d hits", c.Evicted.Load(), c.Misses.Load(), c.Hits.Load())
	}
	mustGet(t, c, "a", 99)
	if c.Hits.Load() != 1 || len(o.requests()) != 100 {
		t.Error("the newest was not kept")
	}
}

// TestScan: what is asked for again and again survives a scan of far more than fits.
func TestScan(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{Bytes: 10 * unit})
	for range 2 {
		for i := range 6 {
			mustGet(t, c, "hot", i)
		}
	}
	for i := range 500 {
		mustGet(t, c, "cold", i)
	}
	before := len(o.requests())
	for i := range 6 {
		mustGet(t, c, "hot", i)
	}
	if n := len(o.requests()) - before; n != 0 {
		t.Errorf("%d hot blocks were evicted by a scan", n)
	}
	// More hot ones than fit: the bound holds.
	for range 3 {
		for i := range 30 {
			mustGet(t, c, "hot", i)
		}
	}
	if n := c.Bytes.Load(); n > 10*unit {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestJoin(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{})
	gate := o.shut()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			b, err := get(ctx, c, Key{"a", 7})
			if err != nil || !bytes.Equal(b, block("a", 7)) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	testx.Eventually(t, patience, func() bool { return c.Joined.Load() == 19 })
	close(gate)
	wg.Wait()
	if got := o.requests(); len(got) != 1 {
		t.Errorf("%d requests: %v", len(got), got)
	}
}

// TestCancelOne: one of those who wait for a load leaves: the others get their block. When the last one leaves, the load ends.
func TestCancelOne(t *testing.T) {
	o := &origin{began: make(chan context.Context, 10)}
	c := newCache(t, o, Options{})
	gate := o.shut()
	type answer struct {
		b   []byte
		err error
	}
	get := func(ctx context.Context) chan answer {
		ch := make(chan answer, 1)
		go func() {
			b, err := get(ctx, c, Key{"a", 1})
			ch <- answer{b, err}
		}()
		return ch
	}
	ctx1, cancel1 := context.WithCancel(ctx)
	first := get(ctx1) // begins the load
	lctx := testx.Receive(t, o.began, patience)
	second := get(ctx)
	testx.Eventually(t, patience, func() bool { return c.Joined.Load() == 1 })
	cancel1()
	if a := testx.Receive(t, first, patience); !errors.Is(a.err, context.Canceled) {
		t.Errorf("the one who left: %v", a.err)
	}
	if lctx.Err() != nil {
		t.Error("the load has ended with him")
	}
	close(gate)
	if a := testx.Receive(t, second, patience); a.err != nil || !bytes.Equal(a.b, block("a", 1)) {
		t.Errorf("the other: %v", a.err)
	}

	c.Forget("a", 2)
	o.shut()
	ctx2, cancel2 := context.WithCancel(ctx)
	only := get(ctx2)
	lctx = testx.Receive(t, o.began, patience)
	cancel2()
	if a := testx.Receive(t, only, patience); !errors.Is(a.err, context.Canceled) {
		t.Error(a.err)
	}
	testx.Eventually(t, patience, func() bool { return lctx.Err() != nil && c.Canceled.Load() == 1 }, "the load goes on for nobody")
	// Who comes later has a load of his own.
	o.mu.Lock()
	o.gate = nil
	o.mu.Unlock()
	if a := testx.Receive(t, get(ctx), patience); a.err != nil {
		t.Error(a.err)
	}
}

// TestErrors: an error goes to all who wait, and is not kept.
func TestErrors(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{})
	boom := error(fmt.Errorf("boom: %w", context.Canceled)) // not ours
	o.err.Store(&boom)
	for range 2 {
		if _, err := get(ctx, c, Key{"a", 1}); !errors.Is(err, boom) {
			t.Error(err)
		}
	}
	o.err.Store(nil)
	mustGet(t, c, "a", 1)
	if c.Errors.Load() != 2 || c.Bytes.Load() != unit {
		t.Errorf("%d errors, %d bytes", c.Errors.Load(), c.Bytes.Load())
	}
	bad := New(func(_ context.Context, _ string, first, _ int, got func(int, *alloc.Block) error) error {
		return got(first+1, alloc.CopyBlock(nil))
	}, Options{})
	defer bad.Close()
	if _, err := get(ctx, bad, Key{"a", 1}); err == nil {
		t.Error("a block nobody asked for")
	}
	short := New(func(context.Context, string, int, int, func(int, *alloc.Block) error) error { return nil }, Options{})
	defer short.Close()
	if _, err := get(ctx, short, Key{"a", 1}); err == nil {
		t.Error("no block, and no error")
	}
}

// TestStream: reading in a row takes few requests, each for more than the one before; jumping takes one for each block.
func TestStream(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{Bytes: 1000 * unit})
	size := func(n int) int64 {
		if n >= 300 {
			return 0
		}
		return unit
	}
	s := c.Stream("a", size)
	for i := range 300 {
		b, err := s.Read(ctx, i)
		if err != nil || !bytes.Equal(taken(b), block("a", i)) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if got := o.requests(); len(got) > 14 || got[0] != "a 0 1" || got[1] != "a 2 2" && got[1] != "a 1 1" {
		t.Errorf("%d requests for 300 blocks: %v", len(got), got)
	}
	loaded := 0
	for _, r := range o.requests() {
		var object string
		var first, n int
		if _, err := fmt.Sscan(r, &object, &first, &n); err != nil {
			t.Fatal(err)
		}
		loaded += n
	}
	if loaded != 300 || c.AheadUsed.Load() != c.Ahead.Load() {
		t.Errorf("%d blocks loaded, %d ahead, %d of them used", loaded, c.Ahead.Load(), c.AheadUsed.Load())
	}
	before := len(o.requests())
	s = c.Stream("b", size)
	for i := range 20 {
		b, err := s.Read(ctx, i*3%100)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	if n := len(o.requests()) - before; n != 20 {
		t.Errorf("%d requests for 20 jumps", n)
	}
}

// TestContinue: a reader who goes on in another object has its blocks read ahead as far as before, from the first one on.
func TestContinue(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{Bytes: 1000 * unit})
	size := func(n int) int64 {
		if n >= 40 {
			return 0
		}
		return unit
	}
	s := c.Stream("a", size)
	if s.Window() != 0 {
		t.Error("a window before anything was read")
	}
	for i := range 40 {
		b, err := s.Read(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	window, before := s.Window(), len(o.requests())
	if window < 8 {
		t.Fatalf("a window of %d blocks after 40", window)
	}
	s.Continue("b", 0, size)
	for i := range 8 {
		if b, err := s.Read(ctx, i); err != nil || !bytes.Equal(taken(b), block("b", i)) {
			t.Fatal(err)
		}
	}
	// The first block, and what is behind it; the window's next part may have begun.
	if got := o.requests()[before:]; len(got) > 3 || s.Window() < window {
		t.Errorf("window %d, then %d: %v", window, s.Window(), got)
	}
}

// TestBusy: what is read ahead is bounded, and does not wait.
func TestBusy(t *testing.T) {
	o := &origin{began: make(chan context.Context, 10)}
	c := newCache(t, o, Options{Bytes: 100 * unit, LoadBytes: 10 * unit, Loads: 3})
	gate := o.shut()
	next, err := c.Prefetch("a", 0, 8, 8*unit)
	if next != 8 || err != nil {
		t.Fatal(next, err)
	}
	if next, err := c.Prefetch("a", 8, 8, 8*unit); next != 8 || !errors.Is(err, ErrBusy) {
		t.Error(next, err)
	}
	if next, err := c.Prefetch("a", 0, 8, 8*unit); next != 8 || err != nil {
		t.Error("what is on its way was asked for again", next, err)
	}
	for i := range 2 {
		go func() { _, _ = get(ctx, c, Key{"b", i}) }()
	}
	for range 3 {
		testx.Receive(t, o.began, patience)
	}
	if _, err := c.Prefetch("c", 0, 1, 0); !errors.Is(err, ErrBusy) {
		t.Error("more loads than may be", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := get(short, c, Key{"c", 0}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(gate)
	mustGet(t, c, "a", 5)
	mustGet(t, c, "c", 0)
}

func TestClose(t *testing.T) {
	o := &origin{began: make(chan context.Context, 10)}
	c := New(o.load, Options{})
	o.shut()
	ch := make(chan error, 1)
	go func() {
		_, err := get(ctx, c, Key{"a", 1})
		ch <- err
	}()
	testx.Receive(t, o.began, patience)
	c.Close()
	if err := testx.Receive(t, ch, patience); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := get(ctx, c, Key{"a", 1}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Prefetch("a", 1, 1, unit); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestRandom has readers of all kinds at once, some of whom leave: right bytes or their own context's error, and the bound holds.
func TestRandom(t *testing.T) {
	o := &origin{}
	c := newCache(t, o, Options{Bytes: 50 * unit, LoadBytes: 20 * unit, Loads: 4})
	var wg sync.WaitGroup
	for r := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(r), 1))
			s := c.Stream("a", func(int) int64 { return unit })
			at := 0
			for range 500 {
				mine, cancel := context.WithCancel(ctx)
				if rnd.IntN(4) == 0 {
					go cancel()
				}
				if rnd.IntN(20) == 0 {
					at = rnd.IntN(200)
				}
				b, err := s.Read(mine, at)
				if err != nil && (!errors.Is(err, context.Canceled) || mine.Err() == nil) {
					t.Errorf("%d: %v", at, err)
				}
				if err == nil && !bytes.Equal(taken(b), block("a", at)) {
					t.Errorf("%d: other bytes", at)
				}
				if n := c.Bytes.Load(); n > 50*unit {
					t.Errorf("%d bytes are kept", n)
				}
				if rnd.IntN(100) == 0 {
					c.Forget("a", 100)
				}
				at++
				cancel()
			}
		})
	}
	wg.Wait()
	testx.Eventually(t, patience, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.mu.flying == 0 && len(c.slots) == 0 && len(c.mu.blocks) == c.mu.probation.Len()+c.mu.protected.Len()
	})
	if c.Errors.Load() > 0 {
		t.Errorf("%d errors", c.Errors.Load())
	}
	c.Close()
	alloc.CheckLeaks(t)
}

func TestGetAllocates(t *testing.T) {
	if testx.RaceEnabled || alloc.BlockCheck {
		t.Skip("this build allocates on purpose")
	}
	c := newCache(t, &origin{}, Options{})
	mustGet(t, c, "a", 1)
	hit := func() {
		if b, err := c.Get(ctx, Key{"a", 1}, unit); err == nil {
			b.Release()
		}
	}
	if n := testing.AllocsPerRun(100, hit); n != 0 {
		t.Errorf("a hit takes %v allocations", n)
	}
}

// TestHolders: what a reader holds stays as it is when it is evicted, forgotten or the cache is closed, and nobody else holds it then.
func TestHolders(t *testing.T) {
	c := New((&origin{}).load, Options{Bytes: 4 * unit})
	hold := func(n int) *alloc.Block {
		b, err := c.Get(ctx, Key{"a", n}, unit)
		if err != nil || b.Refs() != 2 {
			t.Fatalf("%v, %d holders, want cache and reader", err, b.Refs())
		}
		return b
	}
	evicted := hold(0)
	for i := range 10 {
		mustGet(t, c, "b", i)
	}
	forgotten := hold(1)
	c.Forget("a", 2)
	kept := hold(2)
	c.Close()
	for i, b := range []*alloc.Block{evicted, forgotten, kept} {
		if b.Refs() != 1 || !bytes.Equal(b.Bytes(), block("a", i)) {
			t.Errorf("block %d has %d holders, %.10q", i, b.Refs(), b.Bytes())
		}
		b.Release()
	}
	alloc.CheckLeaks(t)
}
