package engine

import (
	"errors"
	"syscall"
	"time"

	"github.com/sluicemq/sluice/alloc"
)

const (
	// firstChunk is the first buffer of a queue that was empty. Most turns write less than it to a connection, and a fan-out touches
	// one for each receiver: small stays in the cache. The next ones grow fourfold.
	firstChunk = 1 << 10
	lastChunk  = 64 << 10

	// maxWriteBytes is what is offered to the kernel at once, so that one connection's mebibytes do not hold up the others.
	maxWriteBytes = 1 << 20
)

// outQueue is what a connection has to send: runs of a chunk, and blocks by reference, in order. It lives only while there is something.
type outQueue struct {
	segs  []segment // from head on
	head  int
	size  int    // bytes in segs: of the protocol, or of frames already
	cur   []byte // the chunk that small writes go to; its last run is the last segment if open
	open  bool
	chunk int // size of the next chunk

	framing   bool // WebSocket: a frame is open
	frameAt   int  // the segment that begins it
	frameSize int  // bytes in it, without header

	deadline uint32 // tick at which the connection ends unless the kernel takes something before; counts while blocked
	since    int64  // monotonic ns: the kernel has taken nothing from then on; counts while blocked

	cipher  []byte // TLS: records that the kernel has not taken, from cipherAt on
	cipherN int
}

type segment struct {
	p     []byte
	ref   alloc.Ref // holds p, or nil
	chunk []byte    // given back when p was sent: this was its last run
}

// Write queues a copy of p. What is queued in a turn leaves at its end in one system call.
func (c *Conn) Write(p []byte) {
	if len(p) == 0 {
		return
	}
	b := c.Reserve(len(p))
	c.Commit(copy(b[:len(p)], p))
}

// Reserve returns a slice of len 0 and cap at least n, to be filled by appending. Commit must follow before any other write.
func (c *Conn) Reserve(n int) []byte {
	if c.flags&(flagClosed|flagClosing) != 0 {
		if cap(c.loop.trash) < n {
			c.loop.trash = make([]byte, 0, max(n, 4096))
		}
		return c.loop.trash[:0]
	}
	q := c.queue()
	if c.flags&flagFramed != 0 && !q.framing {
		q.beginFrame(c.loop, n)
	}
	if cap(q.cur)-len(q.cur) < n {
		c.loop.nextChunk(q, n)
	}
	return q.cur[len(q.cur):len(q.cur):cap(q.cur)]
}

// Commit queues the first n bytes of what Reserve returned.
func (c *Conn) Commit(n int) {
	if n == 0 || c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	q := c.out
	at := len(q.cur)
	q.cur = q.cur[:at+n]
	if q.open {
		s := &q.segs[len(q.segs)-1]
		s.p = s.p[:len(s.p)+n]
	} else {
		q.segs = append(q.segs, segment{p: q.cur[at:]})
		q.open = true
	}
	c.queued(q, n)
}

// WriteBlock is WriteRef for a block.
func (c *Conn) WriteBlock(b *alloc.Block, p []byte) { c.WriteRef(p, b) }

// WriteRef queues p, which r holds, by reference: r is retained until the kernel has taken p. Below 4 KiB a copy is cheaper.
func (c *Conn) WriteRef(p []byte, r alloc.Ref) {
	if len(p) == 0 || c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	r.Retain()
	q := c.queue()
	if c.flags&flagFramed != 0 && !q.framing {
		q.beginFrame(c.loop, 0)
	}
	q.segs = append(q.segs, segment{p: p, ref: r})
	q.open = false
	c.queued(q, len(p))
}

// queued accounts for n more bytes.
func (c *Conn) queued(q *outQueue, n int) {
	q.size += n
	if q.framing {
		q.frameSize += n
		if q.frameSize >= wsFrameBytes {
			q.seal()
		}
	}
	if q.size+q.cipherN > c.lst.o.HighWater {
		c.flags |= flagHigh
	}
	if c.flags&flagDirty == 0 {
		c.markDirty()
	}
}

// Queued is the number of bytes that the kernel has not taken yet.
func (c *Conn) Queued() int {
	if c.out == nil {
		return 0
	}
	return c.out.size + c.out.cipherN
}

// Stalled is for how long the kernel has taken nothing of what is queued; 0: it takes what it is given.
func (c *Conn) Stalled() time.Duration {
	if c.out == nil || c.flags&(flagBlocked|flagClosed) != flagBlocked {
		return 0
	}
	return max(time.Duration(c.loop.now-c.out.since), 1)
}

// SocketState is what the kernel knows of the way to a peer.
type SocketState struct {
	Unsent  int           // bytes that it holds, and has not sent
	Full    bool          // it may not send them: the peer has confirmed all that was sent, and has no room for more
	Repeats int           // times in a row that it has sent or asked again without an answer
	RTT     time.Duration // smoothed
}

// Socket asks the kernel, in one system call; ok false: it does not say.
func (c *Conn) Socket() (s SocketState, ok bool) {
	if c.flags&flagClosed != 0 || c.fd < 0 || c.peer.size == 0 {
		return s, false
	}
	return sockState(int(c.fd))
}

func (c *Conn) markDirty() {
	if c.flags&(flagDirty|flagClosed) != 0 {
		return
	}
	c.flags |= flagDirty
	c.loop.dirty = append(c.loop.dirty, c)
}

func (c *Conn) queue() *outQueue {
	if c.out != nil {
		return c.out
	}
	l := c.loop
	if n := len(l.queues); n > 0 {
		c.out = l.queues[n-1]
		l.queues[n-1] = nil
		l.queues = l.queues[:n-1]
	} else {
		c.out = &outQueue{segs: make([]segment, 0, 4)}
	}
	c.out.chunk = firstChunk
	return c.out
}

// queuesKept bounds the free queues of a loop, and segsKept the length that is kept of one.
const (
	queuesKept = 1024
	segsKept   = 256
)

// nextChunk makes room for n more bytes.
func (l *Loop) nextChunk(q *outQueue, n int) {
	if q.cur != nil {
		q.retire(l)
	}
	q.cur = l.pool.Get(max(n, q.chunk))
	if q.chunk < lastChunk {
		q.chunk <<= 2
	}
	q.open = false
}

// retire lets the last run of the current chunk give it back when sent.
func (q *outQueue) retire(l *Loop) {
	for i := len(q.segs) - 1; i >= q.head; i-- {
		if s := &q.segs[i]; s.ref == nil {
			// Runs of chunks are in order, so the last one is the current chunk's if any is.
			if s.chunk == nil && sameChunk(s.p, q.cur) {
				s.chunk = q.cur
				q.cur = nil
				return
			}
			break
		}
	}
	l.pool.Put(q.cur)
	q.cur = nil
}

// sameChunk tells whether run p lies in chunk: both end where the chunk's memory ends.
func sameChunk(p, chunk []byte) bool {
	if cap(p) == 0 || cap(p) > cap(chunk) {
		return false
	}
	return &p[:cap(p)][cap(p)-1] == &chunk[:cap(chunk)][cap(chunk)-1]
}

// took drops the first n bytes of the segments: the kernel, or TLS, has them.
func (q *outQueue) took(l *Loop, n int) {
	q.size -= n
	for n > 0 {
		s := &q.segs[q.head]
		if n < len(s.p) {
			s.p = s.p[n:]
			return
		}
		n -= len(s.p)
		q.drop(l, s)
		q.head++
	}
	if q.head == len(q.segs) {
		q.segs, q.head = q.segs[:0], 0
		q.open = false
		q.cur = q.cur[:0]
	} else if q.head >= 64 && q.head*2 >= len(q.segs) {
		kept := copy(q.segs, q.segs[q.head:])
		clear(q.segs[kept:])
		q.segs, q.head = q.segs[:kept], 0
	}
}

func (q *outQueue) drop(l *Loop, s *segment) {
	if s.ref != nil {
		s.ref.Release()
	}
	if s.chunk != nil {
		l.pool.Put(s.chunk)
	}
	*s = segment{}
}

// dropOutput frees the queue, sent or not.
func (c *Conn) dropOutput() {
	q, l := c.out, c.loop
	if q == nil {
		return
	}
	c.out = nil
	for i := q.head; i < len(q.segs); i++ {
		q.drop(l, &q.segs[i])
	}
	if q.cur != nil {
		l.pool.Put(q.cur)
	}
	if q.cipher != nil {
		l.pool.Put(q.cipher)
	}
	if len(l.queues) < queuesKept && cap(q.segs) <= segsKept {
		*q = outQueue{segs: q.segs[:0]}
		l.queues = append(l.queues, q)
	}
}

// flushDirty writes each connection that has output, once.
func (l *Loop) flushDirty() {
	l.dirty, l.flushes = l.flushes[:0], l.dirty
	for i, c := range l.flushes {
		l.flushes[i] = nil
		c.flags &^= flagDirty
		if c.flags&(flagClosed|flagBlocked) == 0 {
			c.flush()
		}
	}
}

// flush offers the kernel what is queued, in one call, and says what follows from its answer.
func (c *Conn) flush() {
	if c.flags&flagClosing != 0 && c.out == nil && c.ext != nil && c.ext.tls != nil {
		c.notifyTLS()
	}
	if q := c.out; q != nil {
		q.seal()
		if c.ext != nil && c.ext.tls != nil {
			c.encrypt(q)
			if c.flags&flagClosing != 0 && q.size == 0 {
				c.notifyTLS()
			}
		}
		if c.out != nil && !c.send(q) {
			return
		}
		if c.flags&flagHigh != 0 && c.Queued() <= c.lst.o.LowWater {
			c.flags &^= flagHigh
			if c.flags&(flagOpen|flagClosing) == flagOpen {
				c.lst.o.Handler.OnDrain(c)
			}
		}
	}
	if c.flags&(flagClosing|flagClosed|flagLinger) == flagClosing && c.out == nil {
		c.linger()
	}
}

// send makes the system call. It returns false when the connection was closed.
func (c *Conn) send(q *outQueue) bool {
	n, offered, err := c.sockSend(q)
	if n > 0 {
		c.loop.local.bytesOut += int64(n)
		c.sent += uint64(n)
		if q.cipherN > 0 {
			q.tookCipher(n)
		} else {
			q.took(c.loop, n)
		}
	}
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		c.shut(err)
		return false
	}
	switch {
	case q.size+q.cipherN == 0:
		c.dropOutput()
	case n < offered:
		if n > 0 || q.since == 0 {
			q.since = c.loop.now
		}
		c.block()
	default:
		c.markDirty() // the kernel took all it was offered, and there is more: next turn
	}
	return true
}

// block waits for the kernel's word that it takes more.
func (c *Conn) block() {
	c.loop.local.writesBlocked++
	c.flags |= flagBlocked
	c.setWriteDeadline()
	c.rearm()
}

// writable is the kernel's word.
func (c *Conn) writable() {
	if c.flags&(flagBlocked|flagClosed) != flagBlocked {
		return
	}
	c.flags &^= flagBlocked
	c.flush()
	if c.flags&(flagBlocked|flagClosed) == 0 {
		c.rearm()
	}
}

// linger ends the write side, and waits for the peer's.
func (c *Conn) linger() {
	if c.flags&flagEOF != 0 {
		c.shut(c.closeErr())
		return
	}
	c.flags |= flagLinger
	c.sockCloseWrite()
	c.rearm()
}
