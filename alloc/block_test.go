package alloc

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
)

// skipAllocs skips guards on allocations in builds that allocate on purpose.
func skipAllocs(t *testing.T) {
	t.Helper()
	if testx.RaceEnabled || BlockCheck {
		t.Skip("this build allocates on purpose")
	}
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		v := recover()
		if s, ok := v.(string); !ok || !strings.Contains(s, want) {
			t.Errorf("panic %v, want one with %q", v, want)
		}
	}()
	f()
}

func TestBlockSizes(t *testing.T) {
	for _, tc := range []struct{ n, cap int }{
		{0, 256}, {1, 256}, {256, 256}, {257, 512}, {4096, 4096}, {4097, 8192}, {1 << 20, 1 << 20}, {1<<20 + 1, 1<<20 + 1},
	} {
		b := NewBlock(tc.n)
		if len(b.Bytes()) != tc.n || b.Len() != tc.n || b.Cap() < tc.cap || (tc.n <= MaxClass && b.Cap() != tc.cap) {
			t.Errorf("NewBlock(%d): len %d cap %d, want cap %d", tc.n, len(b.Bytes()), b.Cap(), tc.cap)
		}
		b.Resize(b.Cap())
		if len(b.Bytes()) != b.Cap() {
			t.Errorf("Resize to cap gives %d", len(b.Bytes()))
		}
		b.Release()
	}
}

func TestBlockCounts(t *testing.T) {
	b := CopyBlock([]byte("payload"))
	b.Retain()
	b.RetainN(3)
	if b.Refs() != 5 {
		t.Fatalf("%d holders, want 5", b.Refs())
	}
	for range 4 {
		b.Release()
	}
	if string(b.Bytes()) != "payload" {
		t.Errorf("holds %q", b.Bytes())
	}
	b.Release()
	mustPanic(t, "released", b.Retain)
	c := &Block{class: -1} // not from a pool: its count can be misused safely
	c.refs.Store(1)
	c.Release()
	mustPanic(t, "twice", c.Release)
}

// TestBlockHandOff has blocks made on some goroutines, shared by several and released on others; contents must stay whole.
func TestBlockHandOff(t *testing.T) {
	const makers, receivers, each = 2, 3, 2000
	var wg sync.WaitGroup
	chans := make([]chan *Block, receivers)
	for i := range chans {
		chans[i] = make(chan *Block, 64)
		wg.Go(func() {
			for b := range chans[i] {
				p := b.Bytes()
				if want := bytes.Repeat(p[:1], len(p)); !bytes.Equal(p, want) {
					t.Error("a block's bytes changed under a holder")
				}
				b.Release()
			}
		})
	}
	var made sync.WaitGroup
	for m := range makers {
		made.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(m)))
			for i := range each {
				b := NewBlock(1 + rng.IntN(3000))
				for j := range b.Bytes() {
					b.buf[j] = byte(i)
				}
				b.RetainN(receivers)
				for _, c := range chans {
					c <- b
				}
				b.Release()
			}
		})
	}
	made.Wait()
	for _, c := range chans {
		close(c)
	}
	wg.Wait()
	CheckLeaks(t)
}

func TestBlockAllocs(t *testing.T) {
	skipAllocs(t)
	for _, n := range []int{10, 1000, 64 << 10} {
		if got := testing.AllocsPerRun(1000, func() { NewBlock(n).Release() }); got != 0 {
			t.Errorf("NewBlock(%d) and Release: %v allocations", n, got)
		}
	}
}

func TestPool(t *testing.T) {
	var p Pool
	for _, n := range []int{0, 1, 300, 1 << 20, 1<<20 + 1} {
		b := p.Get(n)
		if len(b) != 0 || cap(b) < n {
			t.Fatalf("Get(%d): len %d cap %d", n, len(b), cap(b))
		}
		b = append(b, make([]byte, n)...)
		p.Put(b)
	}
	p.Put(make([]byte, 0, 300)) // foreign
	if got, want := p.Bytes(), int64(256+512+1<<20); got != want {
		t.Errorf("keeps %d bytes, want %d", got, want)
	}
	a := p.Get(300)
	a = append(a, "abc"...)
	g := p.Grow(a, 1000)
	if string(g) != "abc" || cap(g) != 1024 {
		t.Errorf("Grow: %q, cap %d", g, cap(g))
	}
	if h := p.Grow(g, 1021); &h[0] != &g[0] {
		t.Error("Grow replaced a buffer that had room")
	}
	for range 5000 {
		p.Put(make([]byte, 256))
	}
	if n := len(p.classes[0].free); n != poolClassBytes/256 {
		t.Errorf("keeps %d buffers of 256 bytes", n)
	}
	p.Trim()
	p.Trim()
	if p.Bytes() != 0 {
		t.Errorf("keeps %d bytes after two trims without use", p.Bytes())
	}
}

// TestPoolTrim keeps what is in use between two trims, and no more.
func TestPoolTrim(t *testing.T) {
	var p Pool
	for range 10 {
		p.Put(make([]byte, 256))
	}
	p.Trim()
	x, y := p.Get(1), p.Get(1)
	p.Put(x)
	p.Put(y)
	p.Trim()
	if n := len(p.classes[0].free); n != 2 {
		t.Errorf("keeps %d buffers, 2 were needed", n)
	}
}

func TestPoolAllocs(t *testing.T) {
	skipAllocs(t)
	var p Pool
	if got := testing.AllocsPerRun(1000, func() { p.Put(p.Get(1000)) }); got != 0 {
		t.Errorf("Get and Put: %v allocations", got)
	}
}

func BenchmarkBlock(b *testing.B) {
	for b.Loop() {
		NewBlock(1000).Release()
	}
}

func BenchmarkBlockParallel(b *testing.B) {
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			NewBlock(1000).Release()
		}
	})
}

func BenchmarkPool(b *testing.B) {
	var p Pool
	for b.Loop() {
		p.Put(p.Get(1000))
	}
}
