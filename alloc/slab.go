package alloc

import (
	"fmt"
	"math/bits"
	"reflect"
	"unsafe"

	"github.com/sluicemq/sluice/internal/invariant"
)

// A slab's chunks grow from slabFirst rows by doubling to slabChunk rows, and stay at that: a small table stays small, and a big
// one needs few chunks.
const (
	slabFirstBits = 6
	slabChunkBits = 12
	slabFirst     = 1 << slabFirstBits
	slabChunk     = 1 << slabChunkBits
	slabSteps     = slabChunkBits - slabFirstBits // chunks that double
)

// Slab holds rows of T by index. T holds no pointers, so the collector never looks into a row; rows never move, so a *T stays
// valid until its Free. Index 0 is never given out. The zero value is ready; it is not safe for concurrent use. Memory is kept for
// later rows, not given back.
type Slab[T any] struct {
	chunks [][]T
	free   []uint32
	next   uint32 // indexes from here on were never given out; 0 before the first Alloc
	rows   int64  // rows in chunks
}

// Alloc returns the index of a zeroed row.
func (s *Slab[T]) Alloc() uint32 {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		var zero T
		*s.At(i) = zero
		return i
	}
	if s.next == 0 {
		if t := reflect.TypeFor[T](); hasPointers(t) {
			panic(fmt.Sprintf("alloc: a slab of %v, which holds pointers", t))
		}
		s.next = 1
	}
	i := s.next
	chunk, _ := slabPlace(i)
	if chunk == len(s.chunks) {
		n := slabChunk
		if chunk < slabSteps {
			n = slabFirst << chunk
		}
		s.chunks = append(s.chunks, make([]T, n))
		s.rows += int64(n)
	}
	s.next++
	invariant.Check(s.next != 0, "a slab is out of indexes")
	return i
}

// At is the row with index i, which must be in use. It stays valid until Free(i).
func (s *Slab[T]) At(i uint32) *T {
	chunk, row := slabPlace(i)
	return &s.chunks[chunk][row]
}

// Free gives row i back. Using it afterwards is a mistake that only its next owner notices.
func (s *Slab[T]) Free(i uint32) {
	invariant.Check(i != 0 && i < s.next, "a row was freed that no Alloc returned")
	s.free = append(s.free, i)
}

// Len is the number of rows in use.
func (s *Slab[T]) Len() int {
	if s.next == 0 {
		return 0
	}
	return int(s.next) - 1 - len(s.free)
}

// Bytes is what the slab pins.
func (s *Slab[T]) Bytes() int64 {
	var zero T
	return s.rows*int64(unsafe.Sizeof(zero)) + int64(cap(s.free))*4 + int64(cap(s.chunks))*24
}

// slabPlace finds row i: shifted by slabFirst, chunk k of the doubling ones begins at slabFirst<<k.
func slabPlace(i uint32) (chunk int, row uint32) {
	j := uint64(i) + slabFirst
	if j < slabChunk {
		k := bits.Len64(j) - 1 - slabFirstBits
		return k, uint32(j) - slabFirst<<k
	}
	return slabSteps + int(j>>slabChunkBits) - 1, uint32(j) & (slabChunk - 1)
}

func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8,
		reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr, reflect.Float32, reflect.Float64, reflect.Complex64,
		reflect.Complex128:
		return false
	case reflect.Array:
		return t.Len() > 0 && hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	default:
		return true
	}
}
