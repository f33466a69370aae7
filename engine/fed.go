package engine

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"sync/atomic"
)

// Pipe is what a connection has in place of a socket when its bytes come and go by another way. Its methods run on the loop of the
// connection, and must not block. Whoever made it calls Fed.Wake when there is something to read, or the end, and Fed.Room when there is room again.
type Pipe interface {
	// Next gives what has come next, nil if there is nothing now. It stays as it is until Done. With io.EOF the peer has ended its side, with
	// another error the pipe is broken; nothing comes behind either.
	Next() ([]byte, error)
	// Done lets go of what Next gave last, also after Close.
	Done()
	// Send takes copies of bufs in order, as far as there is room, and says how many bytes. Less than all: Room follows.
	Send(bufs [][]byte) (n int, err error)
	// CloseWrite ends this side, behind all that was sent.
	CloseWrite()
	// Close ends both sides at once.
	Close()
	// TLS is the state of the session that the bytes have come out of, nil without one. It is asked for when somebody wants it.
	TLS() *tls.ConnectionState
}

// Fed is a connection over a Pipe, for whoever feeds it.
type Fed struct {
	c      *Conn
	pipe   Pipe
	ws     bool
	posted atomic.Bool
	room   atomic.Bool
}

// Inlet takes connections over pipes into an engine. It stands for a listener without a socket.
type Inlet struct{ ln *listener }

// Inlet makes one. Of the options, Name, Handler, FirstPacketTimeout, WriteTimeout, HighWater, LowWater and MaxInput count; Handler has to be
// there. It lives as long as the engine.
func (e *Engine) Inlet(o ListenerOptions) *Inlet {
	o.TLS, o.WebSocket, o.Transport, o.Proxy, o.MaxConns = nil, false, "", nil, nil
	if err := o.setDefaults(); err != nil {
		panic("engine: inlet " + o.Name + ": " + err.Error())
	}
	ln := &listener{e: e, o: o}
	ln.log.to, ln.headers.to = e.log, e.log
	return &Inlet{ln}
}

// FeedOptions say what a connection over a pipe is.
type FeedOptions struct {
	Pipe      Pipe
	Remote    netip.AddrPort // the peer's address; zero: a Unix socket's
	WebSocket bool           // the bytes have come out of WebSocket frames
	// Made is called before the loop hears of the connection; nil is skipped.
	Made func(*Fed)
}

// ErrTooMany says that as many connections are open as may be.
var ErrTooMany = errors.New("too many connections are open")

// Open takes a connection in: ErrTooMany, or ErrShutdown once the engine accepts no more; then the pipe is the caller's to close. Any goroutine
// may call it, and Wake right afterwards.
func (in *Inlet) Open(o FeedOptions) (*Fed, error) {
	ln, e := in.ln, in.ln.e
	if e.refuses.Load() {
		return nil, ErrShutdown
	}
	if !ln.enter() {
		return nil, ErrTooMany
	}
	c := &Conn{lst: ln, id: e.nextID.Add(1), fd: -1, peer: peerOfAddr(o.Remote)}
	f := &Fed{c: c, pipe: o.Pipe, ws: o.WebSocket}
	c.ext = &extension{fed: f}
	c.loop = e.loops[int(e.next.Add(1)-1)%len(e.loops)]
	if o.Made != nil {
		o.Made(f)
	}
	e.accepts.accepted.Add(1)
	if !c.loop.post((*opening)(c)) {
		e.accepts.accepted.Add(-1)
		ln.leave()
		return nil, ErrShutdown
	}
	return f, nil
}

// Wake has the loop look at the pipe, once for any number of calls before it does. Any goroutine may call it.
func (f *Fed) Wake() {
	if !f.posted.Swap(true) {
		f.c.loop.Post(f)
	}
}

// Room says that the pipe takes more, after a Send that it has not taken whole. Any goroutine may call it.
func (f *Fed) Room() {
	f.room.Store(true)
	f.Wake()
}

// Loop is the loop of the connection.
func (f *Fed) Loop() *Loop { return f.c.loop }

// fedTurn bounds what a flood is read per turn, as readsPerTurn does.
const fedTurn = readsPerTurn * readBytes

// Run is the loop's look at the pipe.
func (f *Fed) Run(*Loop) {
	f.posted.Store(false)
	c := f.c
	if f.room.Load() {
		f.room.Store(false)
		c.writable()
	}
	took := 0
	for c.readyToRead() {
		p, err := f.pipe.Next()
		if len(p) > 0 {
			took += len(p)
			c.input(p, 0, len(p))
			f.pipe.Done()
			if took >= fedTurn {
				f.Wake()
				return
			}
			continue
		}
		if err != nil {
			c.inputEnd(err)
		}
		return
	}
}

// rearm has the loop look again if c may take something now.
func (f *Fed) rearm(c *Conn) {
	if c.wantsRead() {
		f.Wake()
	}
}

// send offers the pipe the head of q.
func (f *Fed) send(l *Loop, q *outQueue) (n, offered int, err error) {
	bufs := l.bufs[:0]
	for i := q.head; i < len(q.segs) && offered < readBytes && len(bufs) < maxBufs; i++ {
		bufs = append(bufs, q.segs[i].p)
		offered += len(q.segs[i].p)
	}
	n, err = f.pipe.Send(bufs)
	clear(bufs)
	l.bufs = bufs[:0]
	return n, offered, err
}

// maxBufs is how many runs are offered to a pipe at once.
const maxBufs = 64

// peerOfAddr is an address as a connection keeps it. A zone counts on the machine of the socket alone, and is left out.
func peerOfAddr(a netip.AddrPort) (p peerAddr) {
	switch addr := a.Addr(); {
	case addr.Is4() || addr.Is4In6():
		four := addr.Unmap().As4()
		copy(p.ip[:], four[:])
		p.size, p.port = 4, a.Port()
	case addr.Is6():
		p.ip = addr.As16()
		p.size, p.port = 16, a.Port()
	}
	return p
}
