package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/sluicemq/sluice/alloc"
)

type connFlags uint32

const (
	flagOpen      connFlags = 1 << iota // OnOpen was called
	flagClosed                          // the descriptor is gone; OnClose is due or done
	flagClosing                         // CloseAfterFlush: no more input, output leaves
	flagLinger                          // output has left and the write side is shut: waits for the peer's end
	flagPaused                          // PauseRead
	flagThrottled                       // the engine itself reads no more: handshake input is full, or the out queue of its own answers is
	flagDirty                           // in l.dirty
	flagReady                           // in l.ready
	flagBlocked                         // the kernel takes no more; its word that it does again is awaited
	flagHigh                            // the queue went over high water; OnDrain is due
	flagInData                          // OnData runs
	flagEOF                             // the peer has ended its side
	flagArmedIn                         // the poller tells of input
	flagArmedOut                        // the poller tells of room for output
	flagFramed                          // WebSocket frames go both ways: the upgrade is done
	flagUnwatched                       // the poller does not know the descriptor
	flagEndDue                          // the peer has ended its side, and the handler has not taken what came before
)

// Conn is one connection. All methods belong to the goroutine of its loop. A connection that was closed takes every call and does
// nothing. A million of them may be idle: what they need only now and then lies in ext, pend and out.
type Conn struct {
	loop     *Loop
	lst      *listener
	state    any
	ext      *extension // nil for plain bytes over epoll
	pend     *pending   // nil when there is nothing in it
	out      *outQueue  // nil when empty
	id       uint64
	since    int64 // monotonic ns
	in, sent uint64
	peer     peerAddr
	fd       int32
	slot     uint32
	deadline uint32 // tick, 0: none
	flags    connFlags
}

// pending is what a connection holds from one turn to another. It goes back to the loop when it is empty.
type pending struct {
	in    []byte       // received and not taken; of the loop's pool
	block *alloc.Block // holds in instead
	need  int          // bytes at which OnData is called again
	err   error        // why it was closed, or is being closed
}

// pendingsKept bounds the free ones of a loop.
const pendingsKept = 1024

func (c *Conn) pending() *pending {
	if c.pend != nil {
		return c.pend
	}
	l := c.loop
	if n := len(l.pendings); n > 0 {
		c.pend = l.pendings[n-1]
		l.pendings[n-1] = nil
		l.pendings = l.pendings[:n-1]
	} else {
		c.pend = &pending{}
	}
	return c.pend
}

// tidy gives c.pend back if there is nothing in it.
func (c *Conn) tidy() {
	if p := c.pend; p != nil && p.in == nil && p.err == nil {
		c.freePending()
	}
}

func (c *Conn) freePending() {
	l := c.loop
	*c.pend = pending{}
	if len(l.pendings) < pendingsKept {
		l.pendings = append(l.pendings, c.pend)
	}
	c.pend = nil
}

// kept is the input that was received and not taken.
func (c *Conn) kept() []byte {
	if c.pend == nil {
		return nil
	}
	return c.pend.in
}

// extension is what a connection has beside plain bytes over epoll.
type extension struct {
	hs  *handshake // until TLS is established
	tls *tlsState
	ws  *wsState
	np  *netpollConn
	fed *Fed // there is no socket

	proxy   bool     // the header of the PROXY protocol is to come
	proxied *Proxied // what it has told beside addresses; nil: nothing
}

// Loop is the loop that owns c. Any goroutine may ask.
func (c *Conn) Loop() *Loop { return c.loop }

// ID is unique in the engine. Any goroutine may ask.
func (c *Conn) ID() uint64 { return c.id }

// Opened is when c was taken in, in the monotonic ns of Loop.NowMono.
func (c *Conn) Opened() int64 { return c.since }

// Traffic is how many bytes have come from the socket and how many it has taken, TLS and frames included.
func (c *Conn) Traffic() (in, out uint64) { return c.in, c.sent }

// State is what SetState was given.
func (c *Conn) State() any { return c.state }

// SetState hangs the protocol's own state on c.
func (c *Conn) SetState(s any) { c.state = s }

// Listener is the name of the listener that took c in. Any goroutine may ask.
func (c *Conn) Listener() string { return c.lst.o.Name }

// WebSocket tells whether c speaks through WebSocket frames.
func (c *Conn) WebSocket() bool {
	return c.ext != nil && (c.ext.ws != nil || c.ext.fed != nil && c.ext.fed.ws)
}

// Subprotocol is what the WebSocket handshake agreed on; empty without one.
func (c *Conn) Subprotocol() string {
	if c.ext == nil || c.ext.ws == nil {
		return ""
	}
	return c.ext.ws.subprotocol
}

// RemoteAddr is the peer's address as the socket has it. It allocates: keep it if it is needed often.
func (c *Conn) RemoteAddr() net.Addr { return c.peer.addr(c.lst.o.Network) }

// Remote is the peer's address and port, without an allocation unless it has a zone; an IPv4 address comes as such, and the zero value
// is a Unix socket's. Any goroutine may ask.
func (c *Conn) Remote() netip.AddrPort { return c.peer.addrPort() }

// LocalAddr is the address that the peer reached, nil over a Pipe. It allocates, and may ask the system.
func (c *Conn) LocalAddr() net.Addr {
	if c.flags&flagClosed == 0 && c.fd >= 0 {
		if a := sockLocalAddr(int(c.fd)); a != nil {
			return a
		}
	}
	return c.lst.addr
}

// TLS is the state of the TLS session, nil without one. It allocates: ask once, in OnOpen.
func (c *Conn) TLS() *tls.ConnectionState {
	switch {
	case c.ext == nil:
		return nil
	case c.ext.fed != nil:
		return c.ext.fed.pipe.TLS()
	case c.ext.tls == nil:
		return nil
	}
	s := c.ext.tls.conn.ConnectionState()
	return &s
}

// Need hints that OnData need not be called before n bytes are there: the size of the packet whose first part it has just left. It
// holds until the next call of OnData.
func (c *Conn) Need(n int) {
	if c.flags&flagClosed == 0 {
		c.pending().need = max(n, 0)
	}
}

// PauseRead stops reading. At most what has been read already, about 64 KiB and what OnData left, waits in memory; the rest waits in
// the kernel, and then at the peer. OnData is not called until ResumeRead. Deadlines go on.
func (c *Conn) PauseRead() {
	if c.flags&(flagPaused|flagClosed) != 0 {
		return
	}
	c.flags |= flagPaused // the transport hears of it when there is something to read: often it is over by then
}

// ResumeRead goes on reading; input that waits is delivered in the next turn, before new one.
func (c *Conn) ResumeRead() {
	if c.flags&flagPaused == 0 {
		return
	}
	c.flags &^= flagPaused
	if c.flags&flagClosed != 0 {
		return
	}
	c.rearm()
	if c.flags&flagReady == 0 {
		c.flags |= flagReady
		c.loop.ready = append(c.loop.ready, c)
	}
}

// readyToRead tells whether the transport is to read now. What is kept since a pause is delivered first: a handler that takes a part of it and pauses
// again would have more kept with each turn.
func (c *Conn) readyToRead() bool {
	if c.flags&flagReady != 0 {
		c.redeliver()
	}
	return c.wantsRead()
}

// wantsRead tells whether the transport is to read.
func (c *Conn) wantsRead() bool { return c.flags&(flagPaused|flagThrottled|flagClosed|flagEOF) == 0 }

// Close ends c at once: output that waits is dropped, the descriptor is gone when Close returns. OnClose gets err, or ErrClosed for nil.
func (c *Conn) Close(err error) {
	if err == nil {
		err = ErrClosed
	}
	c.setCloseErr(err)
	c.shut(err)
}

// CloseAfterFlush takes no more input, sends what is queued, ends the write side and waits for the peer's end, so that the peer reads
// all of it (a descriptor closed over unread input resets the connection). All of this ends after timeout. OnClose gets err.
func (c *Conn) CloseAfterFlush(err error, timeout time.Duration) {
	if c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	if err == nil {
		err = ErrClosed
	}
	c.setCloseErr(err)
	c.wsSendClose(wsNormal)
	c.flags = c.flags&^(flagPaused|flagThrottled) | flagClosing
	if c.flags&flagInData == 0 {
		c.dropInput()
	}
	c.setDeadline(c.loop.now + int64(timeout))
	c.markDirty()
	c.rearm()
}

// setCloseErr notes why c ends: the first reason counts.
func (c *Conn) setCloseErr(err error) {
	if c.flags&flagClosed != 0 {
		return
	}
	if p := c.pending(); p.err == nil {
		p.err = err
	}
}

func (c *Conn) closeErr() error {
	if c.pend == nil || c.pend.err == nil {
		return ErrClosed
	}
	return c.pend.err
}

// shut frees all that c holds but its slot, which OnClose's turn needs no more, and lets OnClose be called.
func (c *Conn) shut(err error) {
	if c.flags&flagClosed != 0 {
		return
	}
	c.setCloseErr(err)
	l := c.loop
	c.flags |= flagClosed
	c.deadline = 0
	if c.flags&flagInData == 0 {
		c.dropInput()
	}
	c.dropOutput()
	c.shutTLS()
	c.sockClose()
	l.freeSlot(c)
	l.local.closed++
	c.lst.leave()
	l.gone = append(l.gone, c)
}

func (c *Conn) reportClose() {
	if c.flags&flagOpen != 0 {
		c.lst.o.Handler.OnClose(c, c.closeErr())
	}
	c.dropInput()
	if c.pend != nil {
		c.freePending()
	}
	c.ext = nil
}

// opened makes c known to the handler: the layers below are established.
func (c *Conn) opened() {
	c.flags |= flagOpen
	c.loop.local.opened++
	if d := c.lst.o.FirstPacketTimeout; d > 0 {
		c.setDeadline(c.loop.now + int64(d))
	} else {
		c.deadline = 0
	}
	c.lst.o.Handler.OnOpen(c)
}

// input takes bytes from the socket, buf[off:off+n], in front of which headroom is free.
func (c *Conn) input(buf []byte, off, n int) {
	c.loop.local.bytesIn += int64(n)
	c.in += uint64(n)
	c.route(buf, off, n)
}

// route hands input to the lowest layer that there is.
func (c *Conn) route(buf []byte, off, n int) {
	switch {
	case c.flags&flagClosing != 0: // read only so that the peer can go on and read
	case c.ext == nil:
		c.deliver(buf, off, n)
	case c.ext.hs != nil:
		c.handshakeInput(buf[off : off+n])
	case c.ext.tls != nil:
		c.tlsInput(buf[off : off+n])
	case c.ext.proxy:
		c.proxyInput(buf, off, n)
	default:
		c.plainInput(buf, off, n)
	}
}

// plainInput is input above TLS.
func (c *Conn) plainInput(buf []byte, off, n int) {
	if c.ext != nil && c.ext.ws != nil {
		c.wsInput(buf, off, n)
		return
	}
	c.deliver(buf, off, n)
}

// inputEnd tells that the peer has ended its side, err io.EOF, or that the socket failed.
func (c *Conn) inputEnd(err error) {
	if c.flags&flagClosed != 0 {
		return
	}
	if c.flags&flagReady != 0 {
		c.redeliver() // what was kept came before the end
		if c.flags&flagClosed != 0 {
			return
		}
	}
	if c.flags&(flagPaused|flagClosing) == flagPaused && len(c.kept()) > 0 && errors.Is(err, io.EOF) {
		c.flags |= flagEndDue
		return
	}
	c.flags |= flagEOF
	if c.flags&flagLinger != 0 {
		c.shut(c.closeErr())
		return
	}
	if !errors.Is(err, io.EOF) || c.flags&flagOpen == 0 {
		c.shut(err)
		return
	}
	if c.flags&flagClosing != 0 {
		c.rearm()
		return // the output still leaves, as far as the peer takes it
	}
	if c.out == nil {
		c.shut(io.EOF)
		return
	}
	c.CloseAfterFlush(io.EOF, halfCloseTimeout)
}

// halfCloseTimeout is how long a peer that has ended its side may take to read what was queued for it.
const halfCloseTimeout = 5 * time.Second

// deliver hands the handler what is left of before, and buf[off:off+n] behind it.
func (c *Conn) deliver(buf []byte, off, n int) {
	if n == 0 || c.flags&(flagClosed|flagClosing) != 0 {
		return
	}
	l, p := c.loop, c.pend
	if p == nil || p.in == nil {
		if c.flags&flagPaused != 0 {
			c.keep(buf[off : off+n])
			return
		}
		took := c.onData(buf[off : off+n])
		c.keep(buf[off+took : off+n])
		return
	}
	have := len(p.in)
	if have+n < p.need || have > off || have+n > headroom || c.flags&flagPaused != 0 {
		p.grow(l, n)
		p.in = append(p.in, buf[off:off+n]...)
		if len(p.in) >= p.need && c.flags&flagPaused == 0 {
			c.deliverKept()
		}
		c.checkInput()
		return
	}
	copy(buf[off-have:], p.in)
	p.drop(l)
	b := buf[off-have : off+n]
	took := c.onData(b)
	c.keep(b[took:])
}

// onData calls the handler and makes sense of its answer.
func (c *Conn) onData(b []byte) int {
	if c.pend != nil {
		c.pend.need = 0
	}
	c.flags |= flagInData
	took := c.lst.o.Handler.OnData(c, b)
	c.flags &^= flagInData
	if c.flags&(flagClosed|flagClosing) != 0 {
		return len(b)
	}
	return min(max(took, 0), len(b))
}

// keep holds rest until more comes.
func (c *Conn) keep(rest []byte) {
	if len(rest) == 0 {
		c.tidy()
		return
	}
	c.pending().in = append(c.loop.pool.Get(len(rest)), rest...)
	c.checkInput()
}

// deliverKept hands the handler the input that is kept.
func (c *Conn) deliverKept() {
	p := c.pend
	took := c.onData(p.in)
	if c.flags&(flagClosed|flagClosing) != 0 || took == len(p.in) {
		c.dropInput()
		return
	}
	if took == 0 {
		return
	}
	rest := p.in[took:]
	if p.block != nil || cap(p.in) >= 4*len(rest) {
		// Most of the buffer was one large packet, which must not be pinned by the first bytes of the next; or somebody holds it.
		next := append(c.loop.pool.Get(len(rest)), rest...)
		p.drop(c.loop)
		p.in = next
		return
	}
	p.in = append(p.in[:0], rest...)
}

// redeliver goes on after ResumeRead.
func (c *Conn) redeliver() {
	if c.flags&(flagClosed|flagClosing|flagPaused) != 0 {
		return
	}
	if len(c.kept()) > 0 {
		c.deliverKept()
	}
	if c.flags&(flagEndDue|flagClosed|flagClosing|flagPaused) == flagEndDue {
		c.flags &^= flagEndDue
		c.inputEnd(io.EOF)
	}
}

func (c *Conn) dropInput() {
	if p := c.pend; p != nil && p.in != nil {
		p.drop(c.loop)
		c.tidy()
	}
}

func (c *Conn) checkInput() {
	if len(c.kept()) > c.lst.o.MaxInput && c.flags&flagClosed == 0 {
		c.shut(ErrInputLimit)
	}
}
