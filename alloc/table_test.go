package alloc

import (
	"testing"

	"pgregory.net/rapid"
)

// mix is a hash good enough for tests.
func mix(x uint64) uint64 {
	x ^= x >> 31
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	return x ^ x>>32
}

func TestTableMany(t *testing.T) {
	var tb Table
	const n = 200_000
	for i := uint32(1); i <= n; i++ {
		tb.Insert(mix(uint64(i)), i)
	}
	if tb.Len() != n {
		t.Fatalf("Len %d", tb.Len())
	}
	for i := uint32(1); i <= n; i++ {
		if s, ok := tb.Lookup(mix(uint64(i)), func(s uint32) bool { return s == i }); !ok || s != i {
			t.Fatalf("entry %d: %d, %v", i, s, ok)
		}
	}
	if per := float64(tb.Bytes()) / n; per > 20 {
		t.Errorf("%.1f bytes an entry", per)
	}
	seen := make([]bool, n+1)
	tb.Range(func(s uint32) bool {
		if seen[s] {
			t.Fatalf("slot %d came twice", s)
		}
		seen[s] = true
		return true
	})
	for i := uint32(1); i <= n; i += 2 {
		if !seen[i] || !tb.Delete(mix(uint64(i)), i) {
			t.Fatalf("entry %d: seen %v", i, seen[i])
		}
	}
	for i := uint32(1); i <= n; i++ {
		if _, ok := tb.Lookup(mix(uint64(i)), func(s uint32) bool { return s == i }); ok != (i%2 == 0) {
			t.Fatalf("entry %d: found %v", i, ok)
		}
	}
}

// TestTableOneHash enters many slots under one hash: nothing helps, but nothing breaks and the directory stays small.
func TestTableOneHash(t *testing.T) {
	var tb Table
	const n = 3000
	for i := uint32(1); i <= n; i++ {
		tb.Insert(42, i)
	}
	if len(tb.dir) != 1 {
		t.Errorf("%d places in the directory", len(tb.dir))
	}
	for i := uint32(1); i <= n; i++ {
		if !tb.Delete(42, i) {
			t.Fatalf("slot %d is lost", i)
		}
	}
	if tb.Len() != 0 {
		t.Errorf("%d left", tb.Len())
	}
}

// TestTableModel compares a table with a map, on hashes that often collide in the bits that choose a cell.
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tb Table
		type entry struct {
			hash uint64
			slot uint32
		}
		model := make(map[entry]bool)
		hashes := rapid.OneOf(
			rapid.Map(rapid.Uint64Range(0, 5000), mix),
			rapid.Map(rapid.Uint64Range(0, 40), func(x uint64) uint64 { return x << 60 }),
			rapid.Uint64Range(0, 3),
		)
		next := uint32(0)
		steps := rapid.IntRange(1, 3000).Draw(t, "steps")
		for range steps {
			h := hashes.Draw(t, "hash")
			switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
			case op < 6:
				next++
				tb.Insert(h, next)
				model[entry{h, next}] = true
			case op < 9:
				for e := range model {
					if !tb.Delete(e.hash, e.slot) {
						t.Fatalf("entry %v is lost", e)
					}
					delete(model, e)
					break
				}
			default:
				for e := range model {
					next++
					if !tb.Replace(e.hash, e.slot, next) || tb.Replace(e.hash, e.slot, next) {
						t.Fatalf("entry %v was not replaced once", e)
					}
					delete(model, e)
					model[entry{e.hash, next}] = true
					break
				}
			}
		}
		if tb.Len() != len(model) {
			t.Fatalf("Len %d, want %d", tb.Len(), len(model))
		}
		for e := range model {
			if _, ok := tb.Lookup(e.hash, func(s uint32) bool { return s == e.slot }); !ok {
				t.Fatalf("entry %v is lost", e)
			}
		}
	})
}

func TestTableEmpty(t *testing.T) {
	var tb Table
	if _, ok := tb.Lookup(1, func(uint32) bool { return true }); ok || tb.Delete(1, 1) || tb.Replace(1, 1, 2) {
		t.Error("an empty table found something")
	}
	mustPanic(t, "slot 0", func() { tb.Insert(1, 0) })
}

func BenchmarkTableLookup(b *testing.B) {
	var tb Table
	const n = 1 << 20
	for i := uint32(1); i <= n; i++ {
		tb.Insert(mix(uint64(i)), i)
	}
	i := uint32(1)
	for b.Loop() {
		i = i*1664525 + 1013904223
		want := i%n + 1
		if _, ok := tb.Lookup(mix(uint64(want)), func(s uint32) bool { return s == want }); !ok {
			b.Fatal("lost")
		}
	}
}

func BenchmarkTableInsert(b *testing.B) {
	var tb Table
	i := uint32(0)
	for b.Loop() {
		i++
		tb.Insert(mix(uint64(i)), i)
	}
}
