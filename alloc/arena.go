package alloc

import (
	"encoding/binary"
	"math/bits"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Handle names a byte string in an Arena. 0 is the empty string; it needs no Free. Bits, from the top: chunk, place in the chunk in
// units of 8 bytes, length.
type Handle uint64

const (
	handleLenBits   = 26
	handlePlaceBits = 13

	arenaUnit     = 8
	arenaFirst    = arenaSmallMax                // bytes of the first chunk of short strings; the next ones double
	arenaChunk    = arenaUnit << handlePlaceBits // bytes of a chunk when the arena has grown: 64 KiB
	arenaSmallMax = arenaChunk / 8               // longer strings have a chunk of their own
	arenaClasses  = 40                           // at least arenaClass(arenaSmallMax) + 1
	arenaStepBits = 2                            // classes per doubling: 1<<arenaStepBits
	arenaLinear   = 128                          // up to here a class per unit
	arenaLinearN  = arenaLinear / arenaUnit      // classes up to there
	arenaLogShift = 7                            // log2(arenaLinear)
	maxArenaLen   = 1<<handleLenBits - 1         // bytes of the longest string
	placeMask     = 1<<handlePlaceBits - 1
)

// MaxArenaLen is the longest string that an Arena takes.
const MaxArenaLen = maxArenaLen

// Len is the length of the string.
func (h Handle) Len() int { return int(h & maxArenaLen) }

// Arena holds byte strings by handle, outside of the collector's sight. The zero value is ready; it is not safe for concurrent
// use. Freed places are reused for strings of about the same length; memory of short strings is kept, that of long ones is given
// back.
type Arena struct {
	chunks [][]byte
	begun  bool                 // there is a chunk that is being filled
	cur    int                  // and this is it
	fill   int                  // bytes used in it
	spare  []uint32             // chunks without memory: their long string was freed
	free   [arenaClasses]uint64 // heads of the lists of free places, linked in their first 8 bytes; place+1, 0: empty
	bytes  int64
	live   int64
}

// Alloc stores a copy of b, at most MaxArenaLen bytes, and returns its handle.
func (a *Arena) Alloc(b []byte) Handle {
	if len(b) == 0 {
		return 0
	}
	if len(b) > maxArenaLen {
		panic("alloc: a string too long for an arena")
	}
	var place uint64
	if len(b) > arenaSmallMax {
		place = a.allocLong(len(b))
	} else {
		place = a.allocShort(len(b))
	}
	h := Handle(place<<handleLenBits | uint64(len(b)))
	copy(a.Get(h), b)
	a.live += int64(len(b))
	return h
}

// Get is the string of h: a view that is valid until Free(h). It may be overwritten in place.
func (a *Arena) Get(h Handle) []byte {
	if h == 0 {
		return nil
	}
	place := uint64(h) >> handleLenBits
	at := int(place&placeMask) * arenaUnit
	n := h.Len()
	return a.chunks[place>>handlePlaceBits][at : at+n : at+n]
}

// Free gives the string of h back. Using h afterwards is a mistake that only the place's next owner notices.
func (a *Arena) Free(h Handle) {
	if h == 0 {
		return
	}
	place := uint64(h) >> handleLenBits
	n := h.Len()
	a.live -= int64(n)
	if n > arenaSmallMax {
		c := place >> handlePlaceBits
		a.bytes -= int64(len(a.chunks[c]))
		a.chunks[c] = nil
		a.spare = append(a.spare, uint32(c))
		return
	}
	class, _ := arenaClass(n)
	a.push(class, place)
}

// Bytes is what the arena pins.
func (a *Arena) Bytes() int64 { return a.bytes + int64(cap(a.chunks))*24 + int64(cap(a.spare))*4 }

// Live is the sum of the lengths of the strings held.
func (a *Arena) Live() int64 { return a.live }

func (a *Arena) allocShort(n int) uint64 {
	class, size := arenaClass(n)
	if head := a.free[class]; head != 0 {
		place := head - 1
		a.free[class] = binary.LittleEndian.Uint64(a.at(place))
		return place
	}
	if !a.begun || a.fill+size > len(a.chunks[a.cur]) {
		a.nextChunk()
	}
	place := uint64(a.cur)<<handlePlaceBits | uint64(a.fill/arenaUnit)
	a.fill += size
	return place
}

// nextChunk gives what is left of the chunk that is being filled to the free lists, and begins another.
func (a *Arena) nextChunk() {
	size := arenaFirst
	if a.begun {
		for left := len(a.chunks[a.cur]) - a.fill; left >= arenaUnit; left = len(a.chunks[a.cur]) - a.fill {
			class, n := arenaClassBelow(left)
			a.push(class, uint64(a.cur)<<handlePlaceBits|uint64(a.fill/arenaUnit))
			a.fill += n
		}
		size = min(arenaChunk, 2*len(a.chunks[a.cur]))
	}
	a.begun = true
	a.cur = a.addChunk(size)
	a.fill = 0
}

func (a *Arena) allocLong(n int) uint64 {
	return uint64(a.addChunk(n)) << handlePlaceBits
}

func (a *Arena) addChunk(size int) int {
	a.bytes += int64(size)
	if n := len(a.spare); n > 0 {
		c := int(a.spare[n-1])
		a.spare = a.spare[:n-1]
		a.chunks[c] = make([]byte, size)
		return c
	}
	a.chunks = append(a.chunks, make([]byte, size))
	invariant.Check(len(a.chunks) < 1<<(64-handleLenBits-handlePlaceBits), "an arena is out of chunks")
	return len(a.chunks) - 1
}

func (a *Arena) push(class int, place uint64) {
	binary.LittleEndian.PutUint64(a.at(place), a.free[class])
	a.free[class] = place + 1
}

func (a *Arena) at(place uint64) []byte {
	return a.chunks[place>>handlePlaceBits][int(place&placeMask)*arenaUnit:]
}

// arenaClass is the class of strings of n bytes, 1 to arenaSmallMax, and the bytes that each of its places takes.
func arenaClass(n int) (class, size int) {
	if n <= arenaLinear {
		u := (n + arenaUnit - 1) / arenaUnit
		return u - 1, u * arenaUnit
	}
	log := bits.Len(uint(n-1)) - 1 // 1<<log < n <= 2<<log
	step := 1 << (log - arenaStepBits)
	k := (n - 1<<log + step - 1) / step // 1 to 1<<arenaStepBits
	return arenaLinearN + (log-arenaLogShift)<<arenaStepBits + k - 1, 1<<log + k*step
}

// arenaClassBelow is the largest class whose places fit in n bytes, at least arenaUnit.
func arenaClassBelow(n int) (class, size int) {
	if n > arenaSmallMax {
		n = arenaSmallMax
	}
	if n < arenaLinear+arenaUnit {
		u := min(n, arenaLinear) / arenaUnit
		return u - 1, u * arenaUnit
	}
	class, size = arenaClass(n)
	for size > n {
		// The class before ends one step lower; n minus a step never leaves it.
		step := 1 << (bits.Len(uint(size-1)) - 1 - arenaStepBits)
		class, size = arenaClass(size - step)
	}
	return class, size
}
