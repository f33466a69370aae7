package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
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
)

// Conn is one connection. All methods belong to the goroutine of its loop. A connection that was closed takes every call and does
// nothing.
type Conn struct {
	loop     *Loop
	lst      *listener
	state    any
	ext      *extension // nil for plain bytes over epoll
	in       []byte     // received and not taken; of the loop's pool
	out      *outQueue  // nil when empty
	err      error      // why it was closed, or is being closed
	id       uint64
	peer     peerAddr
	fd       int32
	slot     uint32
	deadline uint32 // tick, 0: none
	need     uint32 // bytes at which OnData is called again
	flags    connFlags
}

// extension is what a connection has beside plain bytes over epoll.
type extension struct {
	hs  *handshake // until TLS is established
	tls *tlsState
	ws  *wsState
	np  *netpollConn
}

// Loop is the loop that owns c. Any goroutine may ask.
func (c *Conn) Loop() *Loop { return c.loop }

// ID is unique in the engine. Any goroutine may ask.
func (c *Conn) ID() uint64 { return c.id }

// State is what SetState was given.
func (c *Conn) State() any { return c.state }

// SetState hangs the protocol's own state on c.
func (c *Conn) SetState(s any) { c.state = s }

// Listener is the name of the listener that took c in. Any goroutine may ask.
func (c *Conn) Listener() string { return c.lst.o.Name }

// WebSocket tells whether c speaks through WebSocket frames.
func (c *Conn) WebSocket() bool { return c.ext != nil && c.ext.ws != nil }

// Subprotocol is what the WebSocket handshake agreed on; empty without one.
func (c *Conn) Subprotocol() string {
	if !c.WebSocket() {
		return ""
	}
	return c.ext.ws.subprotocol
}

// RemoteAddr is the peer's address as the socket has it. It allocates: keep it if it is needed often.
func (c *Conn) RemoteAddr() net.Addr { return c.peer.addr(c.lst.o.Network) }

// LocalAddr is the address that the peer reached. It allocates, and may ask the system.
func (c *Conn) LocalAddr() net.Addr {
	if c.flags&flagClosed == 0 {
		if a := sockLocalAddr(int(c.fd)); a != nil {
			return a
		}
	}
	return c.lst.addr
}

// TLS is the state of the TLS session, nil without one. It allocates: ask once, in OnOpen.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.ext == nil || c.ext.tls == nil {
		return nil
	}
	s := c.ext.tls.conn.ConnectionState()
	return &s
}

// Need hints that OnData need not be called before n bytes are there: the size of the packet whose first part it has just left. It
// holds until the next call of OnData.
func (c *Conn) Need(n int) { c.need = uint32(min(max(n, 0), 1<<31)) }

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

func (c *Conn) setCloseErr(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *Conn) closeErr() error {
	if c.err == nil {
		return ErrClosed
	}
	return c.err
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
	c.lst.open.Add(-1)
	l.gone = append(l.gone, c)
}

func (c *Conn) reportClose() {
	if c.flags&flagOpen != 0 {
		c.lst.o.Handler.OnClose(c, c.closeErr())
	}
	c.dropInput()
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
	switch {
	case c.flags&flagClosing != 0: // read only so that the peer can go on and read
	case c.ext == nil:
		c.deliver(buf, off, n)
	case c.ext.hs != nil:
		c.handshakeInput(buf[off : off+n])
	case c.ext.tls != nil:
		c.tlsInput(buf[off : off+n])
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
	l := c.loop
	if c.in == nil {
		if c.flags&flagPaused != 0 {
			c.keep(buf[off : off+n])
			return
		}
		took := c.onData(buf[off : off+n])
		c.keep(buf[off+took : off+n])
		return
	}
	have := len(c.in)
	if have+n < int(c.need) || have > off || have+n > headroom || c.flags&flagPaused != 0 {
		c.growInput(n)
		c.in = append(c.in, buf[off:off+n]...)
		if len(c.in) >= int(c.need) && c.flags&flagPaused == 0 {
			c.deliverKept()
		}
		c.checkInput()
		return
	}
	copy(buf[off-have:], c.in)
	l.pool.Put(c.in)
	c.in = nil
	b := buf[off-have : off+n]
	took := c.onData(b)
	c.keep(b[took:])
}

// growInput makes room for n more bytes in c.in: twofold, but to no more than Need says, so that what a peer announces and does not
// send costs nothing, and what it sends is copied twice at most.
func (c *Conn) growInput(n int) {
	want := len(c.in) + n
	if want <= cap(c.in) {
		return
	}
	l := c.loop
	big := append(l.pool.Get(max(want, min(2*cap(c.in), int(c.need)))), c.in...)
	l.pool.Put(c.in)
	c.in = big
}

// onData calls the handler and makes sense of its answer.
func (c *Conn) onData(b []byte) int {
	c.need = 0
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
		return
	}
	b := c.loop.pool.Get(len(rest))
	c.in = append(b, rest...)
	c.checkInput()
}

// deliverKept hands the handler what c.in holds.
func (c *Conn) deliverKept() {
	took := c.onData(c.in)
	if c.flags&(flagClosed|flagClosing) != 0 || took == len(c.in) {
		c.dropInput()
		return
	}
	if took == 0 {
		return
	}
	rest := c.in[took:]
	if cap(c.in) >= 4*len(rest) {
		// Most of the buffer was one large packet, which must not be pinned by the first bytes of the next.
		big := c.in
		c.in = append(c.loop.pool.Get(len(rest)), rest...)
		c.loop.pool.Put(big)
		return
	}
	c.in = append(c.in[:0], rest...)
}

// redeliver goes on after ResumeRead.
func (c *Conn) redeliver() {
	if c.flags&(flagClosed|flagClosing|flagPaused) != 0 || len(c.in) == 0 {
		return
	}
	c.deliverKept()
}

func (c *Conn) dropInput() {
	if c.in != nil {
		c.loop.pool.Put(c.in)
		c.in = nil
	}
}

func (c *Conn) checkInput() {
	if len(c.in) > c.lst.o.MaxInput && c.flags&flagClosed == 0 {
		c.shut(ErrInputLimit)
	}
}
