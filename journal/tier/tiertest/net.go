package tiertest

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Net makes connections that fail as it is told. All methods may be called at any time; what is told holds for open connections too.
type Net struct {
	refuse  atomic.Bool
	stalled atomic.Bool
	pause   atomic.Int64 // per 64 KiB, in nanoseconds
	dials   atomic.Int64

	mu struct {
		sync.Mutex
		conns    map[*faultConn]struct{}
		cutWrite int64 // what may be written until all connections are cut; -1: any
		cutRead  int64
		cuts     int
	}
}

// NewNet makes one without faults.
func NewNet() *Net {
	n := &Net{}
	n.mu.conns = make(map[*faultConn]struct{})
	n.mu.cutWrite, n.mu.cutRead = -1, -1
	return n
}

var errRefused = errors.New("tiertest: connection refused")

// Dial makes a connection.
func (n *Net) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.dials.Add(1)
	if n.refuse.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errRefused}
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	fc := &faultConn{Conn: c, n: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.conns[fc] = struct{}{}
	return fc, nil
}

// Refuse has new connections refused, and open ones cut, or no longer.
func (n *Net) Refuse(on bool) {
	n.refuse.Store(on)
	if on {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.cutLocked()
	}
}

// Stall swallows what is written, so that no answer comes.
func (n *Net) Stall(on bool) { n.stalled.Store(on) }

// Slow waits before each 64 KiB, either way.
func (n *Net) Slow(pause time.Duration) { n.pause.Store(int64(pause)) }

// CutAfterWrite cuts all connections once so many bytes more have been written; then the fault is over.
func (n *Net) CutAfterWrite(bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cutWrite = bytes
}

// CutAfterRead cuts all connections once so many bytes more have been read; then the fault is over.
func (n *Net) CutAfterRead(bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cutRead = bytes
}

// Cuts is how often connections have been cut.
func (n *Net) Cuts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.cuts
}

func (n *Net) cutLocked() {
	n.mu.cuts++
	for c := range n.mu.conns {
		_ = c.Conn.Close()
	}
	clear(n.mu.conns)
}

// take counts k bytes against a limit, and says how many may pass.
func (n *Net) take(limit *int64, k int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if *limit < 0 {
		return k
	}
	if int64(k) < *limit {
		*limit -= int64(k)
		return k
	}
	k = int(*limit)
	*limit = -1
	n.cutLocked()
	return k
}

func (n *Net) wait(bytes int) {
	if p := n.pause.Load(); p > 0 {
		timer := time.NewTimer(time.Duration(p * int64(bytes) / (64 << 10)))
		<-timer.C
	}
}

type faultConn struct {
	net.Conn
	n *Net
}

func (c *faultConn) Write(p []byte) (int, error) {
	if c.n.stalled.Load() {
		return len(p), nil
	}
	c.n.wait(len(p))
	if c.n.take(&c.n.mu.cutWrite, len(p)) < len(p) {
		// Cut by us, in the middle: what the kernel has taken before may arrive or not.
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *faultConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.wait(n)
	if may := c.n.take(&c.n.mu.cutRead, n); may < n {
		return may, net.ErrClosed
	}
	return n, err
}

func (c *faultConn) Close() error {
	c.n.mu.Lock()
	delete(c.n.mu.conns, c)
	c.n.mu.Unlock()
	return c.Conn.Close()
}
