package cache

import (
	"context"

	"github.com/sluicemq/sluice/alloc"
)

// How far a Stream reads ahead.
const (
	aheadFirst = 2        // blocks, once two in a row were read
	aheadMax   = 16 << 20 // bytes
	aheadOnce  = 4 << 20  // bytes that one request asks for: several are under way then, so that no reader waits for the answer to one to begin
)

// Stream reads blocks of one object for one reader, and reads ahead by what he does: not before he has read two in a row, then twice as far each time he
// has come half way, to 16 MiB; a jump begins anew. It is for one goroutine, and holds nothing that must be closed.
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
	if s.window > 0 {
		s.readAhead(block)
	}
	return s.c.Get(ctx, Key{s.object, block}, s.size(block))
}

// Ready tells whether a block is there, so that Read does not wait.
func (s *Stream) Ready(block int) bool { return s.c.ready(Key{s.object, block}) }

// readAhead asks for what is behind the window's end, once the reader has come half way: or, of a window of several requests, to the end of the first. Where the
// cache is busy it is left: the next Read tries again.
func (s *Stream) readAhead(block int) {
	for {
		from := max(s.ahead, block+1)
		n, bytes := 0, int64(0)
		for n < s.window && bytes < aheadOnce {
			size := s.size(from + n)
			if size == 0 {
				break
			}
			bytes += size
			n++
		}
		if n == 0 || from-block > max(s.window/2+1, s.window-n) {
			return
		}
		next, err := s.c.Prefetch(s.object, from, n, bytes)
		if err != nil {
			return
		}
		s.ahead = next
		whole := n == s.window
		if whole || bytes >= aheadOnce {
			if 2*int64(s.window)*bytes/int64(n) <= aheadMax {
				s.window *= 2
			}
		}
		if whole {
			return
		}
	}
}
