//nolint:thelper // what takes a testing.T here are the tests themselves
package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/tier"
)

func testIfAbsent(t *testing.T, env Env) {
	s := open(t, env)
	a, b := content(1, 1000), content(2, 2000)
	err := s.Put(background(t), "once/a", bytes.NewReader(a), int64(len(a)), tier.PutOptions{IfAbsent: true})
	if env.NoIfAbsent {
		mustBe(t, "put if absent", err, tier.ErrUnsupported)
		mustBeAbsent(t, s, "once/a")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := s.Put(background(t), "once/a", bytes.NewReader(b), int64(len(b)), tier.PutOptions{IfAbsent: true})
		mustBe(t, "again", err, tier.ErrExists)
		mustGet(t, s, "once/a", tier.Range{}, a)
	}
	put(t, s, "once/a", b) // replaces all the same
	mustGet(t, s, "once/a", tier.Range{}, b)
	err = s.Put(background(t), "once/a", bytes.NewReader(a), int64(len(a)), tier.PutOptions{IfAbsent: true})
	mustBe(t, "after a replacement", err, tier.ErrExists)
	if err := s.Delete(background(t), "once/a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(background(t), "once/a", bytes.NewReader(nil), 0, tier.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	err = s.Put(background(t), "once/a", bytes.NewReader(a), int64(len(a)), tier.PutOptions{IfAbsent: true})
	mustBe(t, "after an empty one", err, tier.ErrExists)
	mustGet(t, s, "once/a", tier.Range{}, nil)
}

// testIfAbsentRace has handles race for a name: one wins, all see its object.
func testIfAbsentRace(t *testing.T, env Env) {
	const runners, rounds = 6, 5
	stores := []tier.Store{open(t, env), open(t, env)}
	for round := range rounds {
		name := fmt.Sprintf("race/%02d", round)
		var wg sync.WaitGroup
		var won atomic.Int64
		won.Store(-1)
		for i := range runners {
			wg.Go(func() {
				b := content(uint64(100*round+i), 20_000)
				err := stores[i%len(stores)].Put(background(t), name, bytes.NewReader(b), int64(len(b)), tier.PutOptions{IfAbsent: true})
				switch {
				case err == nil:
					if !won.CompareAndSwap(-1, int64(i)) {
						t.Errorf("%s: %d and %d have won", name, won.Load(), i)
					}
				case !errors.Is(err, tier.ErrExists):
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if won.Load() < 0 {
			t.Fatalf("%s: nobody has won", name)
		}
		mustGet(t, stores[0], name, tier.Range{}, content(uint64(100*round)+uint64(won.Load()), 20_000))
	}
}

// testPutRace replaces an object over and over: whoever reads sees one of them, whole, or an error but for the first two.
func testPutRace(t *testing.T, env Env) {
	s := open(t, env)
	const versions, size = 4, 50_000
	put(t, s, "swap/a", content(0, size))
	ctx, stop := context.WithCancel(background(t))
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				b := content(uint64(i+k)%versions, size)
				if err := s.Put(context.WithoutCancel(ctx), "swap/a", bytes.NewReader(b), size, tier.PutOptions{}); err != nil {
					t.Errorf("put: %v", err)
					return
				}
			}
		})
	}
	r := open(t, env)
	for range 20 {
		b, _, err := get(background(t), r, "swap/a", tier.Range{})
		if err != nil {
			if errors.Is(err, tier.ErrNotFound) {
				t.Error("a replaced object was absent")
			}
			continue
		}
		whole := false
		for v := range uint64(versions) {
			whole = whole || bytes.Equal(b, content(v, size))
		}
		if !whole {
			t.Errorf("read %d bytes that nobody has put", len(b))
		}
	}
	stop()
	wg.Wait()
}

// meter measures the heap while what it reads is put.
type meter struct {
	r          io.Reader
	base, peak uint64
	n, next    int64
}

func newMeter(r io.Reader) *meter {
	m := &meter{r: r}
	m.base = heap()
	return m
}

func heap() uint64 {
	runtime.GC()
	var st runtime.MemStats
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.n += int64(n); m.n >= m.next {
		m.next = m.n + 6<<20
		m.peak = max(m.peak, heap())
	}
	return n, err
}

func (m *meter) check(t *testing.T, what string, most int64) {
	t.Helper()
	grown := int64(m.peak) - int64(m.base)
	t.Logf("%s of %d MiB: the heap grew by %.1f MiB", what, m.n>>20, float64(grown)/(1<<20))
	if grown > most {
		t.Errorf("%s of %d bytes: the heap grew by %d, more than %d", what, m.n, grown, most)
	}
}

// testBig puts and reads an object of several parts, within a bound of memory.
func testBig(t *testing.T, env Env) {
	s := open(t, env)
	m := newMeter(io.LimitReader(stream(9), env.Big))
	if err := s.Put(background(t), "big/one", m, env.Big, tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	m.check(t, "put", env.Memory)
	body, info, err := s.Get(background(t), "big/one", tier.Range{})
	if err != nil || info.Size != env.Big {
		t.Fatal(info, err)
	}
	m = newMeter(body)
	same(t, m, io.LimitReader(stream(9), env.Big))
	m.check(t, "get", env.Memory)
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
	// A range over where parts meet.
	want := content(9, env.Big)
	for _, at := range []int64{5 << 20, 8 << 20, env.Big/2 - 1} {
		mustGet(t, s, "big/one", tier.Range{Off: at - 1000, Len: 2000}, want[at-1000:at+1000])
	}
	mustGet(t, s, "big/one", tier.Range{Off: -70_000}, want[env.Big-70_000:])
}

func same(t *testing.T, a, b io.Reader) {
	t.Helper()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(a, x)
		k, _ := io.ReadFull(b, y)
		if n != k || !bytes.Equal(x[:n], y[:k]) {
			t.Fatalf("differs within 64 KiB of %d (%v)", at, err)
		}
		if at += int64(n); n < len(x) {
			return
		}
	}
}

func testBigIfAbsent(t *testing.T, env Env) {
	s := open(t, env)
	const size = 17 << 20
	if err := s.Put(background(t), "big/once", io.LimitReader(stream(4), size), size, tier.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	err := s.Put(background(t), "big/once", io.LimitReader(stream(5), size), size, tier.PutOptions{IfAbsent: true})
	mustBe(t, "a second large one", err, tier.ErrExists)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 3 {
		wg.Go(func() {
			err := s.Put(background(t), "big/race", io.LimitReader(stream(uint64(i)), size), size, tier.PutOptions{IfAbsent: true})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, tier.ErrExists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 3 large ones have won", won.Load())
	}
	body, _, err := s.Get(background(t), "big/once", tier.Range{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, body, io.LimitReader(stream(4), size))
	if err := body.Close(); err != nil {
		t.Fatal(err)
	}
}

func testCanceledPut(t *testing.T, env Env) {
	s := open(t, env)
	ctx, cancel := context.WithCancel(background(t))
	cancel()
	mustBe(t, "put", s.Put(ctx, "cancel/a", bytes.NewReader([]byte("x")), 1, tier.PutOptions{}), context.Canceled)
	_, err := s.Stat(ctx, "cancel/a")
	mustBe(t, "stat", err, context.Canceled)
	_, _, err = s.List(ctx, "cancel/", "", 0)
	mustBe(t, "list", err, context.Canceled)
	_, _, err = s.Get(ctx, "cancel/a", tier.Range{})
	mustBe(t, "get", err, context.Canceled)
	for _, at := range []int64{1, 7 << 20, 12<<20 - 10} {
		ctx, cancel := context.WithCancel(background(t))
		const size = 12 << 20
		src := &hooked{r: io.LimitReader(stream(1), size), at: at, hook: cancel}
		err := s.Put(ctx, "cancel/a", src, size, tier.PutOptions{})
		mustBe(t, "put that is canceled", err, context.Canceled)
		if tier.Temporary(err) {
			t.Errorf("%v is taken for temporary", err)
		}
		mustBeAbsent(t, s, "cancel/a")
	}
}

// hooked calls hook once it has given at bytes.
type hooked struct {
	r    io.Reader
	n    int64
	at   int64
	hook func()
}

func (h *hooked) Read(p []byte) (int, error) {
	if h.hook != nil && h.n >= h.at {
		h.hook()
		h.hook = nil
	}
	if h.hook != nil {
		p = p[:min(int64(len(p)), h.at-h.n)]
	}
	n, err := h.r.Read(p)
	h.n += int64(n)
	return n, err
}

func testCanceledGet(t *testing.T, env Env) {
	s := open(t, env)
	const size = 12 << 20
	if err := s.Put(background(t), "cancel/get", io.LimitReader(stream(1), size), size, tier.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(background(t))
	body, _, err := s.Get(ctx, "cancel/get", tier.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	n, err := io.Copy(io.Discard, body)
	if err == nil {
		t.Errorf("%d bytes more after the end of the context, and no error", n)
	} else {
		mustBe(t, "read", err, context.Canceled)
	}
	_ = body.Close()
	// Closed early: the store goes on.
	for range 5 {
		body, _, err := s.Get(background(t), "cancel/get", tier.Range{Off: 100})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatalf("an early close: %v", err)
		}
	}
}

func testManyReaders(t *testing.T, env Env) {
	s := open(t, env)
	b := content(1, 3<<20)
	put(t, s, "many/a", b)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 4 {
				off := int64(i*100_000 + k*13)
				got, _, err := get(background(t), s, "many/a", tier.Range{Off: off, Len: 300_000})
				if err != nil || !bytes.Equal(got, b[off:off+300_000]) {
					t.Errorf("range at %d: %d bytes, %v", off, len(got), err)
				}
			}
		})
	}
	wg.Wait()
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var last error
	testx.Eventually(t, 30*time.Second, func() bool {
		last = f()
		if last != nil {
			t.Logf("%s: %v", what, last)
		}
		return last == nil
	}, what)
}
