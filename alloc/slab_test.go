package alloc

import "testing"

type row struct {
	key uint64
	a   uint32
	_   uint32
}

func TestSlabPlaces(t *testing.T) {
	var s Slab[row]
	seen := make(map[*row]uint32)
	for want := uint32(1); want <= 20000; want++ {
		i := s.Alloc()
		if i != want {
			t.Fatalf("index %d, want %d", i, want)
		}
		p := s.At(i)
		if other, ok := seen[p]; ok {
			t.Fatalf("rows %d and %d share a place", i, other)
		}
		seen[p] = i
		p.key = uint64(i)
	}
	for p, i := range seen {
		if s.At(i) != p || p.key != uint64(i) {
			t.Fatalf("row %d moved", i)
		}
	}
	if s.Len() != 20000 {
		t.Errorf("Len %d", s.Len())
	}
	if b := s.Bytes(); b < 20000*16 || b > 26000*16 {
		t.Errorf("20000 rows of 16 bytes pin %d", b)
	}
	s.Free(7)
	if i := s.Alloc(); i != 7 || *s.At(7) != (row{}) {
		t.Errorf("got row %d, %+v", i, *s.At(i))
	}
}

func TestSlabRefusesPointers(t *testing.T) {
	mustPanic(t, "holds pointers", func() { new(Slab[struct{ s string }]).Alloc() })
	mustPanic(t, "holds pointers", func() { new(Slab[[2]*int]).Alloc() })
	new(Slab[[0]*int]).Alloc()
}

func BenchmarkSlabAt(b *testing.B) {
	var s Slab[row]
	for range 1 << 16 {
		s.Alloc()
	}
	i := uint32(0)
	for b.Loop() {
		i = (i*7 + 1) & (1<<16 - 1)
		s.At(i+1).a++
	}
}
