package alloc

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Ref is memory with a count of its holders: a Block, or a place in the log.
type Ref interface {
	// Retain adds a holder. Who holds one may.
	Retain()
	// Release takes one away.
	Release()
}

// Block is a buffer with a count of its holders. It is made with one; whoever hands it to another goroutine gives its own count
// away or takes one more first; the last Release sends the bytes back for reuse. Views of Bytes die with the holder's count.
type Block struct {
	buf   []byte // len is the block's, cap its class
	refs  atomic.Int32
	class int8 // -1: too large to be kept
	check blockCheck
}

// blockClasses are those of blocks: two more than buffers have, since a read of the log is up to 4 MiB, and memory that is made anew
// for each costs more than the read does.
const blockClasses = numClasses + 2

// maxBlockClass is the largest block that is kept for reuse.
const maxBlockClass = 1 << (blockClasses - 1 + minClassBits)

// blocks holds free blocks by class. Pools of pointers neither allocate nor lock, and the collector empties them when idle.
var blocks [blockClasses]sync.Pool

// blockClassFor is classFor for blocks.
func blockClassFor(n int) int {
	if n > MaxClass && n <= maxBlockClass {
		return bits.Len(uint(n-1)) - minClassBits
	}
	return classFor(n)
}

// NewBlock returns a block of len n, at least 0, with one holder. Its bytes are not cleared.
func NewBlock(n int) *Block {
	class := blockClassFor(n)
	if class < 0 {
		b := &Block{buf: make([]byte, n), class: -1}
		b.refs.Store(1)
		b.check.made(b)
		return b
	}
	b, _ := blocks[class].Get().(*Block)
	if b == nil {
		b = &Block{buf: make([]byte, classSize(class)), class: int8(class)}
	} else {
		b.check.reused(b)
	}
	b.buf = b.buf[:n]
	b.refs.Store(1)
	b.check.made(b)
	return b
}

// CopyBlock returns a block with one holder that holds a copy of p.
func CopyBlock(p []byte) *Block {
	b := NewBlock(len(p))
	copy(b.buf, p)
	return b
}

// Bytes is what the block holds. It is valid until the caller's count is released.
func (b *Block) Bytes() []byte {
	b.check.used(b)
	return b.buf
}

// Len is the number of bytes held.
func (b *Block) Len() int { return len(b.buf) }

// Cap is the number of bytes that the block pins: what a budget charges.
func (b *Block) Cap() int { return cap(b.buf) }

// Resize sets the length, at most Cap. Only a sole holder may.
func (b *Block) Resize(n int) {
	invariant.Check(b.refs.Load() == 1, "a block with several holders was resized")
	b.buf = b.buf[:n]
}

// Retain adds a holder. The caller must be one.
func (b *Block) Retain() {
	if b.refs.Add(1) <= 1 {
		panic("alloc: a released block was retained")
	}
}

// RetainN adds n holders at once: a fan-out counts its receivers with one atomic.
func (b *Block) RetainN(n int) {
	if b.refs.Add(int32(n)) <= int32(n) {
		panic("alloc: a released block was retained")
	}
}

// Release takes the caller's count back. The last one returns the bytes for reuse.
func (b *Block) Release() {
	n := b.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("alloc: a block was released twice")
	}
	b.check.released(b)
	if b.class >= 0 {
		blocks[b.class].Put(b)
	}
}

// Refs is the number of holders at this moment: for tests and dumps.
func (b *Block) Refs() int { return int(b.refs.Load()) }
