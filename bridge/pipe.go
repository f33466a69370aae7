package bridge

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sluicemq/sluice/engine"
)

// pipeBytes is how much lies in a pipe, each way, before who writes has to wait.
const pipeBytes = 128 << 10

// Open makes a connection to the node itself: what is written to it reaches the handler of in as if it had come by a socket.
func Open(in *engine.Inlet) (net.Conn, error) {
	p := &pipe{}
	p.mu.changed = sync.NewCond(&p.mu)
	if _, err := in.Open(engine.FeedOptions{Pipe: (*feed)(p), Made: func(f *engine.Fed) { p.fed = f }}); err != nil {
		return nil, err
	}
	return (*near)(p), nil
}

// pipe is what lies between a bridge and a loop.
type pipe struct {
	fed *engine.Fed
	cur []byte // what Next gave; of the loop

	mu struct {
		sync.Mutex
		changed *sync.Cond
		in      []byte // to the loop
		spare   []byte
		inEnd   bool // nothing comes behind in
		out     []byte
		outEnd  bool // nothing comes behind out
		broken  bool // nobody takes what is written, and nothing is read any more
		starved bool // Send has not taken all

		readUntil, writeUntil time.Time
		readAlarm, writeAlarm *time.Timer
	}
}

// feed is the loop's end.
type feed pipe

// Next makes it an engine.Pipe.
func (f *feed) Next() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.mu.in) == 0 {
		if f.mu.inEnd {
			return nil, io.EOF
		}
		return nil, nil
	}
	f.cur, f.mu.in, f.mu.spare = f.mu.in, f.mu.spare[:0], nil
	f.mu.changed.Broadcast()
	return f.cur, nil
}

// Done makes it an engine.Pipe.
func (f *feed) Done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.spare == nil && cap(f.cur) <= 2*pipeBytes {
		f.mu.spare = f.cur[:0]
	}
	f.cur = nil
}

// Send makes it an engine.Pipe.
func (f *feed) Send(bufs [][]byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.broken {
		return 0, net.ErrClosed
	}
	for _, b := range bufs {
		k := min(len(b), pipeBytes-len(f.mu.out))
		f.mu.out = append(f.mu.out, b[:k]...)
		n += k
		if k < len(b) {
			f.mu.starved = true
			break
		}
	}
	f.mu.changed.Broadcast()
	return n, nil
}

// CloseWrite makes it an engine.Pipe.
func (f *feed) CloseWrite() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.outEnd = true
	f.mu.changed.Broadcast()
}

// Close makes it an engine.Pipe. What was sent can still be read.
func (f *feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.outEnd, f.mu.broken, f.mu.in = true, true, nil
	f.mu.changed.Broadcast()
}

// TLS makes it an engine.Pipe.
func (*feed) TLS() *tls.ConnectionState { return nil }

// near is the bridge's end.
type near pipe

// Read waits for what the node sends.
func (c *near) Read(b []byte) (n int, err error) {
	c.mu.Lock()
	for len(c.mu.out) == 0 && !c.mu.outEnd && !past(c.mu.readUntil) {
		c.mu.changed.Wait()
	}
	if len(c.mu.out) == 0 {
		defer c.mu.Unlock()
		if c.mu.outEnd {
			return 0, io.EOF
		}
		return 0, os.ErrDeadlineExceeded
	}
	n = copy(b, c.mu.out)
	c.mu.out = append(c.mu.out[:0], c.mu.out[n:]...)
	room := c.mu.starved && len(c.mu.out) < pipeBytes/2
	if room {
		c.mu.starved = false
	}
	c.mu.Unlock()
	if room {
		c.fed.Room()
	}
	return n, nil
}

// Write waits until the node has taken most of what was written before.
func (c *near) Write(b []byte) (int, error) {
	c.mu.Lock()
	for len(c.mu.in) >= pipeBytes && !c.mu.broken && !past(c.mu.writeUntil) {
		c.mu.changed.Wait()
	}
	if past(c.mu.writeUntil) && !c.mu.broken {
		c.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	return c.put(b)
}

// WriteNow writes without waiting, whatever the deadline: that is of writes that may wait. It is for what has a bound by itself: acknowledgements.
func (c *near) WriteNow(b []byte) (int, error) {
	c.mu.Lock()
	return c.put(b)
}

// put appends, and unlocks.
func (c *near) put(b []byte) (int, error) {
	if c.mu.broken || c.mu.inEnd {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.mu.in = append(c.mu.in, b...)
	c.mu.Unlock()
	c.fed.Wake()
	return len(b), nil
}

// Close ends both ways.
func (c *near) Close() error {
	c.mu.Lock()
	c.mu.inEnd, c.mu.outEnd, c.mu.broken, c.mu.out = true, true, true, nil
	for _, t := range []*time.Timer{c.mu.readAlarm, c.mu.writeAlarm} {
		if t != nil {
			t.Stop()
		}
	}
	c.mu.changed.Broadcast()
	c.mu.Unlock()
	c.fed.Wake()
	return nil
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

// SetReadDeadline makes it a net.Conn.
func (c *near) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.readUntil = t
	c.alarm(&c.mu.readAlarm, t)
	return nil
}

// SetWriteDeadline makes it a net.Conn.
func (c *near) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.writeUntil = t
	c.alarm(&c.mu.writeAlarm, t)
	return nil
}

// alarm wakes who waits when the time has come.
func (c *near) alarm(timer **time.Timer, t time.Time) {
	switch {
	case *timer == nil && t.IsZero():
	case t.IsZero():
		(*timer).Stop()
	case *timer == nil:
		*timer = time.AfterFunc(time.Until(t), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.mu.changed.Broadcast()
		})
	default:
		(*timer).Reset(time.Until(t))
	}
}

// SetDeadline makes it a net.Conn.
func (c *near) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// pipeAddr is the address of both ends.
type pipeAddr struct{}

// Network makes it a net.Addr.
func (pipeAddr) Network() string { return "pipe" }

// String makes it a net.Addr.
func (pipeAddr) String() string { return "bridge" }

// LocalAddr makes it a net.Conn.
func (*near) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr makes it a net.Conn.
func (*near) RemoteAddr() net.Addr { return pipeAddr{} }

var (
	_ engine.Pipe = (*feed)(nil)
	_ net.Conn    = (*near)(nil)
)
