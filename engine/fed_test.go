package engine

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// feeder feeds an engine with what comes by sockets of its own, as a node that carries clients to another does.
type feeder struct {
	l  net.Listener
	in *Inlet
	wg sync.WaitGroup
}

func newFeeder(s *setup) *feeder {
	s.t.Helper()
	f := &feeder{}
	var err error
	f.in = s.e.Inlet(s.o)
	if f.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		s.t.Fatal(err)
	}
	s.addr = f.l.Addr()
	f.wg.Go(func() {
		for {
			c, err := f.l.Accept()
			if err != nil {
				return
			}
			f.take(c.(*net.TCPConn))
		}
	})
	return f
}

func (f *feeder) take(c *net.TCPConn) {
	p := &socketPipe{c: c}
	p.mu.more = sync.NewCond(&p.mu)
	fed, err := f.in.Open(FeedOptions{Pipe: p, Remote: c.RemoteAddr().(*net.TCPAddr).AddrPort()})
	if err != nil {
		_ = c.Close()
		return
	}
	f.wg.Go(func() { p.readLoop(fed) })
	f.wg.Go(func() { p.writeLoop(fed) })
}

// pipeWindow is what a socketPipe holds each way.
const pipeWindow = 64 << 10

// socketPipe is a Pipe between a connection and a socket, with a bound each way.
type socketPipe struct {
	c  *net.TCPConn
	mu struct {
		sync.Mutex
		more    *sync.Cond
		in      [][]byte
		inBytes int
		end     error
		out     []byte
		stuck   bool // a Send was cut
		half    bool // nothing is sent any more
		closed  bool
	}
	cur []byte
}

func (p *socketPipe) readLoop(f *Fed) {
	for {
		b := make([]byte, 16<<10)
		n, err := p.c.Read(b)
		p.mu.Lock()
		if n > 0 {
			p.mu.in = append(p.mu.in, b[:n])
			p.mu.inBytes += n
		}
		p.mu.end = err
		for p.mu.inBytes >= pipeWindow && !p.mu.closed {
			p.mu.more.Wait()
		}
		closed := p.mu.closed
		p.mu.Unlock()
		f.Wake()
		if err != nil || closed {
			return
		}
	}
}

func (p *socketPipe) writeLoop(f *Fed) {
	for {
		p.mu.Lock()
		for len(p.mu.out) == 0 && !p.mu.half && !p.mu.closed {
			p.mu.more.Wait()
		}
		out, half, closed, stuck := p.mu.out, p.mu.half, p.mu.closed, p.mu.stuck
		p.mu.out, p.mu.stuck = nil, false
		p.mu.Unlock()
		if stuck {
			f.Room()
		}
		if closed {
			return
		}
		if len(out) > 0 {
			if _, err := p.c.Write(out); err != nil {
				return
			}
		} else if half {
			_ = p.c.CloseWrite()
			return
		}
	}
}

func (p *socketPipe) Next() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.in) > 0 {
		p.cur = p.mu.in[0]
		return p.cur, nil
	}
	return nil, p.mu.end
}

// Done spoils what Next gave: nobody may keep it.
func (p *socketPipe) Done() {
	for i := range p.cur {
		p.cur[i] = 0xdb
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.in = p.mu.in[1:]
	p.mu.inBytes -= len(p.cur)
	p.mu.more.Broadcast()
}

func (p *socketPipe) Send(bufs [][]byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0
	for _, b := range bufs {
		total += len(b)
		k := min(len(b), pipeWindow-len(p.mu.out))
		p.mu.out = append(p.mu.out, b[:k]...)
		n += k
	}
	p.mu.stuck = p.mu.stuck || n < total
	p.mu.more.Broadcast()
	return n, nil
}

func (p *socketPipe) CloseWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.half = true
	p.mu.more.Broadcast()
}

func (p *socketPipe) Close() {
	p.mu.Lock()
	p.mu.closed = true
	p.mu.more.Broadcast()
	p.mu.Unlock()
	_ = p.c.Close()
}

func (p *socketPipe) TLS() *tls.ConnectionState { return nil }

// What a connection over a pipe says of its peer is what its feeder knows. An engine that accepts no more takes none in.
func TestFed(t *testing.T) {
	e, err := New(Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	opened, closed := make(chan *Conn, 1), make(chan error, 1)
	h := &hooks{open: func(c *Conn) { opened <- c }, close: func(_ *Conn, err error) { closed <- err }}
	in := e.Inlet(ListenerOptions{Name: "carried", Handler: h, FirstPacketTimeout: -1})
	e.Start()
	var pipe stillPipe
	at := netip.MustParseAddrPort("[2001:db8::1]:77")
	f, err := in.Open(FeedOptions{Pipe: &pipe, Remote: at, WebSocket: true})
	if err != nil {
		t.Fatal(err)
	}
	c := testx.Receive(t, opened, patience)
	if c.Remote() != at || !c.WebSocket() || c.Subprotocol() != "" || c.TLS() == nil || c.LocalAddr() != nil || c.Listener() != "carried" || f.Loop() != c.Loop() {
		t.Errorf("%v, ws %v, tls %v, local %v, %q", c.Remote(), c.WebSocket(), c.TLS(), c.LocalAddr(), c.Listener())
	}
	if r := c.RemoteAddr().String(); r != at.String() {
		t.Error(r)
	}
	pipe.set(errors.New("torn"))
	f.Wake()
	if err := testx.Receive(t, closed, patience); err == nil || err.Error() != "torn" {
		t.Errorf("closed with %v", err)
	}
	f.Wake() // does nothing
	f.Room()
	e.CloseListeners()
	if _, err := in.Open(FeedOptions{Pipe: &pipe}); !errors.Is(err, ErrShutdown) {
		t.Errorf("while it drains: %v", err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := e.Stats(); st.Open != 0 || st.Accepted != 1 {
		t.Errorf("%+v", st)
	}
}

// stillPipe brings nothing but its end.
type stillPipe struct {
	mu  sync.Mutex
	end error
}

func (p *stillPipe) set(err error) { p.mu.Lock(); p.end = err; p.mu.Unlock() }

func (p *stillPipe) Next() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return nil, p.end
}
func (p *stillPipe) Done()                           {}
func (p *stillPipe) Send(bufs [][]byte) (int, error) { return 0, nil }
func (p *stillPipe) CloseWrite()                     {}
func (p *stillPipe) Close()                          {}
func (p *stillPipe) TLS() *tls.ConnectionState       { return &tls.ConnectionState{} }

// A peer that does not read is ended in time, however much it sends meanwhile.
func TestFedWriteTimeoutUnderInput(t *testing.T) {
	why := make(chan error, 1)
	h := &hooks{data: func(c *Conn, b []byte) int {
		if c.Queued() == 0 {
			c.Write(make([]byte, 24<<20))
		}
		return len(b)
	}, close: func(_ *Conn, err error) { why <- err }}
	s := start(t, way{"fed", "fed"}, h, func(_ *Options, o *ListenerOptions) { o.WriteTimeout = 300 * time.Millisecond })
	c := s.dial()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	if err := testx.Receive(t, why, patience); !errors.Is(err, ErrWriteTimeout) {
		t.Errorf("closed with %v", err)
	}
	close(stop)
	wg.Wait()
}
