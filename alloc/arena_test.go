package alloc

import (
	"testing"

	"pgregory.net/rapid"
)

func TestArena(t *testing.T) {
	var a Arena
	if h := a.Alloc(nil); h != 0 || a.Get(h) != nil {
		t.Errorf("the empty string is %d, %v", h, a.Get(h))
	}
	long := a.Alloc(make([]byte, 1<<20)) // before any short one: the two kinds must not share a chunk
	h := a.Alloc([]byte("devices/7/temp"))
	if string(a.Get(h)) != "devices/7/temp" || h.Len() != 14 {
		t.Errorf("got %q", a.Get(h))
	}
	before := a.Bytes()
	a.Free(long)
	if a.Bytes() > before-1<<20+64 {
		t.Errorf("a long string's memory was kept: %d, then %d", before, a.Bytes())
	}
	if again := a.Alloc(make([]byte, 100<<10)); len(a.chunks) != 2 {
		t.Errorf("%d chunks after reuse of a place, handle %d", len(a.chunks), again)
	}
	a.Free(0)
}

func TestArenaClasses(t *testing.T) {
	lastClass, lastSize := -1, 0
	for n := 1; n <= arenaSmallMax; n++ {
		class, size := arenaClass(n)
		if size < n || size%arenaUnit != 0 || class >= arenaClasses || (n > arenaLinear && size > n+n/4+arenaUnit) {
			t.Fatalf("%d bytes: class %d of %d bytes", n, class, size)
		}
		if class != lastClass && (class != lastClass+1 || size <= lastSize || n != lastSize+1) {
			t.Fatalf("class %d (%d bytes) follows class %d (%d bytes) at %d", class, size, lastClass, lastSize, n)
		}
		lastClass, lastSize = class, size
		if n < arenaUnit {
			continue
		}
		below, fits := arenaClassBelow(n)
		if c, s := arenaClass(fits); c != below || s != fits || fits > n {
			t.Fatalf("below %d: class %d of %d bytes, which is class %d of %d", n, below, fits, c, s)
		}
		if _, next := arenaClass(min(fits+1, arenaSmallMax)); next <= n && next > fits {
			t.Fatalf("below %d: %d bytes, but %d fit too", n, fits, next)
		}
	}
}

// TestArenaModel compares an arena with a map under random strings.
func TestArenaModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a Arena
		model := make(map[Handle]string)
		var live int64
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 70000)).Draw(t, "len")
				b := make([]byte, n)
				next++
				for i := range b {
					b[i] = next
				}
				h := a.Alloc(b)
				if _, taken := model[h]; taken && h != 0 {
					t.Fatalf("handle %x is in use", h)
				}
				model[h] = string(b)
				live += int64(n)
			},
			"free": func(t *rapid.T) {
				for h, s := range model {
					a.Free(h)
					delete(model, h)
					live -= int64(len(s))
					return
				}
			},
			"": func(t *rapid.T) {
				for h, s := range model {
					if string(a.Get(h)) != s {
						t.Fatalf("handle %x changed", h)
					}
				}
				if a.Live() != live {
					t.Fatalf("live %d, want %d", a.Live(), live)
				}
			},
		})
	})
}

// TestArenaReuse allocates and frees for ever without growing.
func TestArenaReuse(t *testing.T) {
	var a Arena
	buf := make([]byte, 8000)
	var hs []Handle
	for i := range 1000 {
		hs = append(hs, a.Alloc(buf[:1+i*7]))
	}
	before := a.Bytes()
	for round := range 20 {
		for i, h := range hs {
			a.Free(h)
			hs[i] = a.Alloc(buf[:1+i*7])
		}
		if a.Bytes() != before {
			t.Fatalf("round %d: %d bytes, before %d", round, a.Bytes(), before)
		}
	}
}
