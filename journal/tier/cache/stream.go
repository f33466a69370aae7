package cache

import (
	"context"

	"github.com/sluicemq/sluice/alloc"
)

// How far a Stream reads ahead.
const (
	aheadFirst = 2       // blocks, once two in a row were read
	aheadMax   = 8 << 20 // bytes
)

// Stream reads blocks of one object for one reader, and reads ahead by what he does: not before he has read two in a row, then twice as far each time he
// has come half way, to 8 MiB; a jump begins anew. It is for one goroutine, and holds nothing that must be closed.
type Stream struct {
	c      *Cache
	object string
	size   func(block int) int64 // of a block; 0: there is none

	last   int // block that was read last, or comes before the one that is read next; none
	window int // blocks to read ahead
	ahead  int // first block that has not been asked for ahead
}

// none comes before no block.
const none = -2

// Stream begins a reader of an object. size gives the bytes of a block, 0 behind the last one.
func (c *Cache) Stream(object string, size func(block int) int64) *Stream {
	return &Stream{c: c, object: object, size: size, last: none}
}

// Continue makes the stream one of another object, or of another part of it, where block is what comes next for the reader: he goes on in a row, and what is
// read ahead reaches as far as before.
func (s *Stream) Continue(object string, block int, size func(block int) int64) {
	s.object, s.size = object, size
	s.last, s.ahead = block-1, block
}

// Window is how many blocks are read ahead: 0 before two in a row were read.
func (s *Stream) Window() int { return s.window }

// Read gives a block, as Cache.Get.
func (s *Stream) Read(ctx context.Context, block int) (*alloc.Block, error) {
	switch {
	case block == s.last+1:
		if s.window == 0 {
			s.window, s.ahead = aheadFirst, block+1
		}
	case block != s.last:
		s.window = 0
	}
	s.last = block
	if s.window > 0 && s.ahead-block <= s.window/2+1 {
		s.readAhead(block)
	}
	return s.c.Get(ctx, Key{s.object, block}, s.size(block))
}

// readAhead asks for what is behind the window's end, to a new window's. Where the cache is busy it is left: the next Read tries again.
func (s *Stream) readAhead(block int) {
	from := max(s.ahead, block+1)
	n, bytes := 0, int64(0)
	for n < s.window && bytes < aheadMax {
		size := s.size(from + n)
		if size == 0 {
			break
		}
		bytes += size
		n++
	}
	if n == 0 {
		return
	}
	next, err := s.c.Prefetch(s.object, from, n, bytes)
	if err != nil {
		return
	}
	s.ahead = next
	if n == s.window && bytes*2 <= aheadMax {
		s.window *= 2
	}
}
