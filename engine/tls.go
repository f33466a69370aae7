package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// TLS lives in the loop. The handshake needs a goroutine, since crypto/tls can't resume one: it runs over a feed that blocks, which the loop
// fills and empties, so the goroutine never touches the socket. Once established, the same feed answers "would block" when it is empty,
// a temporary error that crypto/tls does not remember, and the goroutine is gone.

const (
	// handshakeInputMax bounds what is read ahead of a handshake: a flight with a long chain of certificates, and what the client sends
	// behind it.
	handshakeInputMax = 64 << 10

	// cipherBytes is how much is encrypted before the kernel has taken what was: a slow reader's output waits as plain blocks.
	cipherBytes = 64 << 10
)

// errWouldBlock says to crypto/tls: try again later. It is a net.Error and temporary, or the session would be dead afterwards.
type errWouldBlock struct{}

func (errWouldBlock) Error() string   { return "would block" }
func (errWouldBlock) Timeout() bool   { return false }
func (errWouldBlock) Temporary() bool { return true }

// tlsState is an established session. It belongs to the loop.
type tlsState struct {
	conn     *tls.Conn
	feed     *feed
	notified bool // close_notify was queued
}

// feed is the net.Conn below crypto/tls. While hs is set, the handshake's goroutine reads and writes it, and it blocks; afterwards the
// loop does.
type feed struct {
	hs   *handshake
	conn *Conn
	in   []byte // encrypted input that crypto/tls has not taken: a view of the loop's buffer while tlsInput runs
}

func (f *feed) Read(p []byte) (int, error) {
	if f.hs != nil {
		return f.hs.read(p)
	}
	if len(f.in) == 0 {
		return 0, errWouldBlock{}
	}
	n := copy(p, f.in)
	f.in = f.in[n:]
	return n, nil
}

func (f *feed) Write(p []byte) (int, error) {
	if f.hs != nil {
		return f.hs.write(p)
	}
	f.conn.queueCipher(p)
	return len(p), nil
}

func (f *feed) Close() error                     { return nil }
func (f *feed) LocalAddr() net.Addr              { return feedAddr{} }
func (f *feed) RemoteAddr() net.Addr             { return feedAddr{} }
func (f *feed) SetDeadline(time.Time) error      { return nil }
func (f *feed) SetReadDeadline(time.Time) error  { return nil }
func (f *feed) SetWriteDeadline(time.Time) error { return nil }

// feedAddr is what crypto/tls and its callbacks see; the connection's own addresses are Conn's.
type feedAddr struct{}

func (feedAddr) Network() string { return "tcp" }
func (feedAddr) String() string  { return "loop" }

// handshake is the goroutine's side of a connection in its handshake. The loop appends to in and takes out; mu guards both.
type handshake struct {
	pool *handshakePool
	conn *Conn
	feed *feed
	tls  *tls.Conn
	err  error

	begun bool // the loop's: the first bytes came, so it stands in the pool
	mu    struct {
		sync.Mutex
		in     []byte
		out    []byte
		posted bool // the loop has been told of out
		parked bool // the goroutine waits for in
		err    error
	}
	more chan struct{}
}

// read waits for input, and gives others its turn to compute while it waits.
func (h *handshake) read(p []byte) (int, error) {
	h.mu.Lock()
	for len(h.mu.in) == 0 {
		if h.mu.err != nil {
			h.mu.Unlock()
			return 0, h.mu.err
		}
		h.mu.parked = true
		h.mu.Unlock()
		<-h.pool.running
		<-h.more
		h.pool.running <- struct{}{}
		h.mu.Lock()
	}
	n := copy(p, h.mu.in)
	h.mu.in = h.mu.in[n:]
	h.mu.Unlock()
	return n, nil
}

func (h *handshake) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.err != nil {
		return 0, h.mu.err
	}
	h.mu.out = append(h.mu.out, p...)
	if !h.mu.posted {
		h.mu.posted = true
		h.conn.loop.Post((*handshakeOutput)(h))
	}
	return len(p), nil
}

// give hands input to the goroutine, and says whether more is welcome.
func (h *handshake) give(p []byte) (more bool) {
	h.mu.Lock()
	h.mu.in = append(h.mu.in, p...)
	h.wakeLocked()
	more = len(h.mu.in) < handshakeInputMax
	h.mu.Unlock()
	return more
}

// fail ends the goroutine's waiting.
func (h *handshake) fail(err error) {
	h.mu.Lock()
	if h.mu.err == nil {
		h.mu.err = err
	}
	h.wakeLocked()
	h.mu.Unlock()
}

func (h *handshake) wakeLocked() {
	if h.mu.parked {
		h.mu.parked = false
		h.more <- struct{}{} // of length 1, and empty since parked is taken back under the lock
	}
}

// run is the goroutine.
func (h *handshake) run() {
	h.pool.running <- struct{}{}
	h.err = h.tls.Handshake() // without a context, which would cost a goroutine more; fail ends it
	<-h.pool.running
	h.conn.loop.Post((*handshakeDone)(h))
	h.pool.done()
}

// handshakeOutput is the loop's errand of writing what the goroutine wrote.
type handshakeOutput handshake

// Run queues it.
func (o *handshakeOutput) Run(*Loop) { (*handshake)(o).takeOutput() }

func (h *handshake) takeOutput() {
	h.mu.Lock()
	out := h.mu.out
	h.mu.out, h.mu.posted = nil, false
	h.mu.Unlock()
	if c := h.conn; c.flags&flagClosed == 0 {
		c.queueCipher(out)
	}
}

// handshakeDone is the goroutine's last word.
type handshakeDone handshake

// Run makes the connection an established one, or closes it.
func (d *handshakeDone) Run(l *Loop) {
	h := (*handshake)(d)
	c := h.conn
	if c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	h.takeOutput()
	if h.err != nil {
		l.local.refusedHandshake++
		c.ext.hs = nil
		// The alert that says why is queued; the peer may read it.
		c.CloseAfterFlush(h.err, time.Second)
		return
	}
	l.local.handshakes++
	h.feed.hs = nil
	c.ext.hs = nil
	c.ext.tls = &tlsState{conn: h.tls, feed: h.feed}
	// No goroutine reads it any more, so no lock is needed.
	in := h.mu.in
	h.mu.in = nil
	if c.flags&flagThrottled != 0 {
		c.flags &^= flagThrottled
		c.rearm()
	}
	if c.lst.o.WebSocket {
		c.beginWebSocket()
	} else {
		c.opened()
	}
	if c.flags&flagClosed == 0 {
		c.tlsInput(in)
	}
}

// beginTLS waits for the first bytes: a connection that sends none costs no goroutine.
func (c *Conn) beginTLS() {
	h := &handshake{pool: &c.loop.e.hs, conn: c, more: make(chan struct{}, 1)}
	h.feed = &feed{hs: h, conn: c}
	h.tls = tls.Server(h.feed, c.lst.o.TLS)
	c.extend().hs = h
	c.setDeadline(c.loop.now + int64(c.lst.o.HandshakeTimeout))
}

func (c *Conn) extend() *extension {
	if c.ext == nil {
		c.ext = new(extension)
	}
	return c.ext
}

func (c *Conn) handshakeInput(p []byte) {
	h := c.ext.hs
	if !h.give(p) {
		c.flags |= flagThrottled
	}
	if h.begun {
		return
	}
	h.begun = true
	if !h.pool.begin(h) {
		c.loop.local.refusedFull++
		c.shut(errHandshakesFull)
	}
}

var errHandshakesFull = errors.New("too many TLS handshakes wait")

// tlsInput decrypts p and delivers it. All of p is taken, even when the handler pauses meanwhile: the rest is at most one read.
func (c *Conn) tlsInput(p []byte) {
	t, l := c.ext.tls, c.loop
	if l.plain == nil {
		l.plain = make([]byte, headroom+readBytes)
	}
	t.feed.in = p
	for c.flags&(flagClosed|flagClosing) == 0 {
		n, err := t.conn.Read(l.plain[headroom:])
		if n > 0 {
			c.plainInput(l.plain, headroom, n)
			continue
		}
		if _, ok := err.(errWouldBlock); ok { //nolint:errorlint // it is this very value, on a hot path
			break
		}
		if errors.Is(err, io.EOF) {
			c.inputEnd(io.EOF)
		} else if err != nil {
			c.flushAlert()
			c.shut(err)
		}
		break
	}
	t.feed.in = nil
}

// flushAlert tries once to send what says why the session ends.
func (c *Conn) flushAlert() {
	if q := c.out; q != nil && q.cipherN > 0 && c.flags&(flagClosed|flagBlocked) == 0 {
		_, _, _ = c.sockSend(q) // the connection ends either way
	}
}

// queueCipher queues encrypted bytes.
func (c *Conn) queueCipher(p []byte) {
	if len(p) == 0 || c.flags&flagClosed != 0 {
		return
	}
	q := c.queue()
	q.cipher = append(c.loop.pool.Grow(q.cipher, len(p)), p...)
	q.cipherN += len(p)
	c.markDirty()
}

// encrypt turns queued bytes into records until there are cipherBytes of them.
func (c *Conn) encrypt(q *outQueue) {
	if done := len(q.cipher) - q.cipherN; done > 0 {
		q.cipher = q.cipher[:copy(q.cipher, q.cipher[done:])]
	}
	for q.size > 0 && q.cipherN < cipherBytes {
		p := q.segs[q.head].p
		p = p[:min(len(p), cipherBytes)]
		if _, err := c.ext.tls.conn.Write(p); err != nil {
			c.shut(err)
			return
		}
		q.took(c.loop, len(p))
	}
}

func (q *outQueue) tookCipher(n int) {
	q.cipherN -= n
	if q.cipherN == 0 {
		q.cipher = q.cipher[:0]
	}
}

// notifyTLS queues close_notify, once.
func (c *Conn) notifyTLS() {
	if t := c.ext.tls; !t.notified {
		t.notified = true
		_ = t.conn.CloseWrite() // the feed never fails
	}
}

// shutTLS lets the handshake's goroutine go.
func (c *Conn) shutTLS() {
	if c.ext != nil && c.ext.hs != nil {
		if c.ext.hs.begun {
			c.ext.hs.fail(c.closeErr())
		}
		c.ext.hs = nil
	}
}

// handshakePool bounds the handshakes: those that compute at a time, those that have a goroutine, those that wait for one.
type handshakePool struct {
	e       *Engine
	running chan struct{}
	wg      sync.WaitGroup
	mu      struct {
		sync.Mutex
		begun int
		queue []*handshake
	}
}

func (p *handshakePool) init(e *Engine) {
	p.e = e
	if e.o.HandshakesRunning <= 0 {
		e.o.HandshakesRunning = len(e.loops)
	}
	if e.o.HandshakesMax <= 0 {
		e.o.HandshakesMax = 512
	}
	if e.o.HandshakesWaiting <= 0 {
		e.o.HandshakesWaiting = 4096
	}
	p.running = make(chan struct{}, e.o.HandshakesRunning)
}

// begin gives h a goroutine, now or later; false means that it never will.
func (p *handshakePool) begin(h *handshake) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.begun < p.e.o.HandshakesMax {
		p.mu.begun++
		p.wg.Add(1)
		go h.run()
		return true
	}
	if len(p.mu.queue) >= p.e.o.HandshakesWaiting {
		return false
	}
	p.mu.queue = append(p.mu.queue, h)
	return true
}

// done gives the goroutine's place to the next in the queue.
func (p *handshakePool) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.queue) > 0 {
		next := p.mu.queue[0]
		p.mu.queue[0] = nil
		p.mu.queue = p.mu.queue[1:]
		p.wg.Add(1)
		go next.run()
	} else {
		p.mu.begun--
	}
	p.wg.Done()
}

func (p *handshakePool) wait() { p.wg.Wait() }
