package common

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Network lies between the nodes of a cluster: each node is reached at an address of the network's (Node.Between), which passes on what comes, by the rules of the
// moment. Who has dialed is what a connection's hello says, so the nodes may not use TLS. Clients do not go through it. All methods are safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	rules     map[[2]int]Way
	changed   chan struct{} // closed and made anew with each change of rules
	crossings map[*crossing]struct{}
	closed    bool
	listeners []net.Listener
	running   sync.WaitGroup
}

// Way is how bytes go from one node to another one. The zero value passes them on at once.
type Way struct {
	Delay  time.Duration // how much later each byte comes
	Rate   int           // bytes a second, 0: as many as there are
	Silent bool          // nothing comes; it is kept, and comes later
}

// crossing is a connection that a node has dialed.
type crossing struct {
	n     *Network
	ends  [2]int // who dialed, who was called
	conns [2]net.Conn
	left  int // bytes until it is cut, in both directions together; -1: it is not
	half  int // the node whose end stays open, 0: none
	gone  chan struct{}
	once  sync.Once
}

// piece is some bytes on their way.
type piece struct {
	at time.Time
	b  []byte
}

// pieceSize is less than a frame of the nodes' may have.
const pieceSize = 16 << 10

// NewNetwork makes one that ends with the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{rules: make(map[[2]int]Way), changed: make(chan struct{}), crossings: make(map[*crossing]struct{})}
	t.Cleanup(n.close)
	return n
}

// front opens the address at which the node that listens at `at` is reached.
func (n *Network) front(t testing.TB, id int, at string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.listeners = append(n.listeners, l)
	n.mu.Unlock()
	n.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.running.Go(func() { n.cross(c, id, at) })
		}
	})
	return l.Addr().String()
}

// Set has bytes from one node to another one go another way from now on.
func (n *Network) Set(from, to int, w Way) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[[2]int{from, to}] = w
	n.change()
}

// Heal makes all ways good again, and closes what is half open.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
	for c := range n.crossings {
		if c.left = -1; c.half != 0 {
			c.half = 0
			c.end(false)
		}
	}
	n.change()
}

func (n *Network) change() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Cut ends each connection of a node after so many more bytes, wherever in a frame that is, and gives how many connections that concerns.
func (n *Network) Cut(id, after int) int { return n.each(id, func(c *crossing) { c.left = after }) }

// HalfOpen ends the connections of a node at its end. The other ends hear nothing of it, and nothing more at all, until Heal. It gives how many there are.
func (n *Network) HalfOpen(id int) int {
	return n.each(id, func(c *crossing) {
		c.half = c.ends[0] + c.ends[1] - id
		c.end(true)
	})
}

// each calls f for all connections of a node that are whole, with mu held.
func (n *Network) each(id int, f func(c *crossing)) (found int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.crossings {
		if c.conns[1] != nil && c.half == 0 && (c.ends[0] == id || c.ends[1] == id) {
			f(c)
			found++
		}
	}
	return found
}

func (n *Network) close() {
	n.mu.Lock()
	n.closed = true
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for c := range n.crossings {
		c.half = 0
		c.end(false)
	}
	n.change()
	n.mu.Unlock()
	n.running.Wait()
}

// cross takes a connection from who has dialed to the node that was called, until it ends.
func (n *Network) cross(in net.Conn, id int, at string) {
	c := &crossing{n: n, ends: [2]int{0, id}, conns: [2]net.Conn{in, nil}, left: -1, gone: make(chan struct{})}
	defer c.forget()
	if !n.enter(c) {
		_ = in.Close()
		return
	}
	head := make([]byte, 3+16) // to where the hello has the dialer's number
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	out, err := net.Dial("tcp", at)
	if err != nil {
		return // the node is down
	}
	n.mu.Lock()
	c.ends[0], c.conns[1] = int(binary.LittleEndian.Uint32(head[3+12:])), out
	n.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { c.carry(0, head) })
	both.Go(func() { c.carry(1, nil) })
	both.Wait()
}

// enter says whether the network is still there.
func (n *Network) enter(c *crossing) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.crossings[c] = struct{}{}
	}
	return !n.closed
}

// carry passes on what one end has sent. What is half open stays so, and nobody reads it.
func (c *crossing) carry(from int, first []byte) {
	src, dst := c.conns[from], c.conns[1-from]
	queue := make(chan piece, 64)
	queue <- piece{time.Now(), first}
	c.n.running.Go(func() {
		defer close(queue)
		for {
			b := make([]byte, pieceSize)
			k, err := src.Read(b)
			if err != nil {
				return
			}
			select {
			case queue <- piece{time.Now(), b[:k]}:
			case <-c.gone:
				return
			}
		}
	})
	way := [2]int{c.ends[from], c.ends[1-from]}
	for p := range queue {
		if !c.await(way, p) {
			break
		}
		b, cut := c.take(p.b)
		if _, err := dst.Write(b); err != nil || cut {
			break
		}
	}
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.half == 0 {
		c.end(false)
	}
}

// await waits until a piece may come, and says whether it may.
func (c *crossing) await(way [2]int, p piece) bool {
	for began := time.Now(); ; {
		c.n.mu.Lock()
		w, changed := c.n.rules[way], c.n.changed
		c.n.mu.Unlock()
		due := p.at.Add(w.Delay)
		if w.Rate > 0 {
			if by := began.Add(time.Duration(len(p.b)) * time.Second / time.Duration(w.Rate)); by.After(due) {
				due = by
			}
		}
		if !w.Silent && !due.After(time.Now()) {
			return true
		}
		var wait <-chan time.Time
		if !w.Silent {
			wait = time.After(time.Until(due))
		}
		select {
		case <-wait:
		case <-changed:
		case <-c.gone:
			return false
		}
	}
}

// take gives what of b comes before the cut.
func (c *crossing) take(b []byte) (rest []byte, cut bool) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.left < 0 {
		return b, false
	}
	k := min(c.left, len(b))
	c.left -= k
	return b[:k], c.left == 0
}

// end closes the connection, or but the end of the node that is not left half open. n.mu is held.
func (c *crossing) end(half bool) {
	c.once.Do(func() { close(c.gone) })
	for i, conn := range c.conns {
		if conn != nil && (!half || c.ends[i] != c.half) {
			_ = conn.Close()
		}
	}
}

// forget is the last of a connection. One that is half open stays until Heal.
func (c *crossing) forget() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for c.half != 0 {
		changed := c.n.changed
		c.n.mu.Unlock()
		<-changed
		c.n.mu.Lock()
	}
	c.end(false)
	delete(c.n.crossings, c)
}
