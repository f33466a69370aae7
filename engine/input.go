package engine

import "github.com/sluicemq/sluice/alloc"

const (
	// blockFrom is the size from which on a packet that comes in pieces is gathered in a block, which its receiver may go on to hold.
	blockFrom = 32 << 10
	// directFrom is how much must be missing for the rest to be read straight to where it belongs.
	directFrom = 16 << 10
)

// drop gives back what was received.
func (p *pending) drop(l *Loop) {
	if p.block != nil {
		p.block.Release()
	} else {
		l.pool.Put(p.in)
	}
	p.in, p.block = nil, nil
}

// grow makes room for n more bytes of input: fourfold, but to no more than Need says, so that what a peer announces and does not send
// costs no more than some times what it has sent.
func (p *pending) grow(l *Loop, n int) {
	want := len(p.in) + n
	if want <= cap(p.in) {
		return
	}
	size := max(want, min(4*cap(p.in), p.need))
	if size < blockFrom || p.need < blockFrom {
		big := append(l.pool.Get(size), p.in...)
		p.drop(l)
		p.in = big
		return
	}
	b := alloc.NewBlock(size)
	in := b.Bytes()[:0]
	in = append(in, p.in...)
	p.drop(l)
	p.in, p.block = in, b
}

// Unread puts bytes back in front of what waits to be taken: OnData gets them again. Not inside of OnData.
func (c *Conn) Unread(b []byte) {
	if len(b) == 0 || c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	p := c.pending()
	in := append(append(c.loop.pool.Get(len(b)+len(p.in)), b...), p.in...)
	if p.in != nil {
		p.drop(c.loop)
	}
	p.in = in
	if c.flags&(flagPaused|flagReady) == 0 {
		c.flags |= flagReady
		c.loop.ready = append(c.loop.ready, c)
	}
}

// Held is what holds the bytes that OnData was called with, nil if they die when it returns. Whoever retains it may keep views of them.
func (c *Conn) Held() alloc.Ref {
	if c.flags&flagInData == 0 || c.pend == nil || c.pend.block == nil {
		return nil
	}
	return c.pend.block
}

// spare is where the rest of a large packet can be read to at once, nil if it is to be read otherwise.
func (c *Conn) spare() []byte {
	p := c.pend
	if p == nil || c.ext != nil || p.need-len(p.in) < directFrom || len(p.in) < blockFrom/4 || c.flags&(flagClosed|flagClosing|flagPaused) != 0 {
		return nil
	}
	p.grow(c.loop, directFrom)
	return p.in[len(p.in):min(cap(p.in), p.need)]
}

// inputSpare takes n bytes that were read to spare.
func (c *Conn) inputSpare(n int) {
	c.loop.local.bytesIn += int64(n)
	c.in += uint64(n)
	p := c.pend
	p.in = p.in[:len(p.in)+n]
	if len(p.in) >= p.need {
		c.deliverKept()
	}
	c.checkInput()
}
