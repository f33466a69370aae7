package engine

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/alloc"
)

// The netpoll transport: cloudwego/netpoll waits and reads, our loop does all else.
//
// netpoll reads without asking, into its own buffers, and its callback must take all of it. So OnRequest moves what came into blocks and
// posts the connection to its loop, once per burst. When more than heldMax waits there, because the handler paused or the loop is busy, the
// connection is detached from netpoll, and attached again when the loop has taken it: that is the only way to stop its reading.
//
// The descriptor is ours and never netpoll's to close: the loop writes to it directly, as netpoll's Flush would block it, and the number
// must not be another connection's by then. It is closed once netpoll's poller has certainly let go of it, which the bell tells.

const (
	heldMax = 256 << 10 // input that waits for the loop
	heldLow = 64 << 10  // reading goes on below it

	// netpollBuffer is the size of netpoll's read and write nodes: they are pinned by an idle connection.
	netpollBuffer = 512
	netpollLink   = 256
)

// netpollConn is a connection's part that netpoll's goroutines see; mu guards it.
type netpollConn struct {
	c  *Conn
	mu struct {
		sync.Mutex
		held     []*alloc.Block // input for the loop, oldest first
		bytes    int
		posted   bool  // the loop has been told
		attached bool  // netpoll knows the descriptor
		stopping bool  // it is on its way out of netpoll
		end      error // why no more comes
		closed   bool  // the loop is done with it: the descriptor is to be closed when netpoll is
	}
	conn   netpoll.Connection // the attached one's; the loop's
	blocks []*alloc.Block     // held's other half; the loop's
	lost   bool               // the descriptor is closed already; the loop's
}

// attach has netpoll read the descriptor.
func (n *netpollConn) attach() error {
	n.mu.Lock()
	n.mu.attached = true
	n.mu.Unlock()
	np, err := netpoll.NewFDConnection(int(n.c.fd))
	if err != nil {
		n.mu.Lock()
		n.mu.attached = false
		n.mu.Unlock()
		n.lost = true // netpoll closes the descriptor when it can't register it
		return err
	}
	n.conn = np
	if err := errors.Join(np.AddCloseCallback(n.released), np.SetOnRequest(n.onRequest)); err != nil {
		return err
	}
	if !np.IsActive() {
		// The peer hung up before netpoll knew whom to tell: it leaves closing to us then, and closes once only.
		n.c.loop.e.np.release(np)
	}
	return nil
}

// onRequest takes all input, on a goroutine of netpoll.
func (n *netpollConn) onRequest(_ context.Context, np netpoll.Connection) error {
	if n.take(np) {
		return np.Close() // takes effect when this returns: released
	}
	return nil
}

// take moves what netpoll has read into held, until that is too much, which it says. It does not wait for the peer to pause: one that sends as
// fast as this takes would have it go on for ever.
func (n *netpollConn) take(np netpoll.Connection) (full bool) {
	r := np.Reader()
	for size := r.Len(); size > 0 && !full; size = r.Len() {
		b := alloc.NewBlock(min(size, readBytes))
		p, err := r.Next(b.Len())
		if err != nil {
			b.Release()
			break
		}
		copy(b.Bytes(), p)
		n.mu.Lock()
		n.mu.held = append(n.mu.held, b)
		n.mu.bytes += b.Len()
		n.tellLocked()
		full = n.mu.bytes > heldMax && !n.mu.stopping
		n.mu.Unlock()
	}
	_ = r.Release() // it fails for a closed one only
	if full {
		n.mu.Lock()
		n.mu.stopping = true
		n.mu.Unlock()
	}
	return full
}

func (n *netpollConn) tellLocked() {
	if !n.mu.posted {
		n.mu.posted = true
		n.c.loop.Post(n)
	}
}

// released is netpoll's close callback: the peer has hung up, or we had netpoll close it, and the poller will see the descriptor no more. It
// runs on netpoll's goroutine or on a worker of ours, before netpoll frees the connection.
func (n *netpollConn) released(np netpoll.Connection) error {
	// netpoll is closing already; this tells it to leave the descriptor open. Here alone, as netpoll does not lock what it notes it in.
	_ = np.(interface{ Detach() error }).Detach()
	// The poller may be reading into the buffer right now, or have an event in hand: the bell rings behind those.
	bell.ring()
	n.take(np)
	n.mu.Lock()
	hung := !n.mu.stopping && !n.mu.closed
	n.mu.attached, n.mu.stopping = false, false
	if hung && n.mu.end == nil {
		n.mu.end = io.EOF
	}
	closed := n.mu.closed
	n.tellLocked()
	n.mu.Unlock()
	if closed {
		_ = unix.Close(int(n.c.fd))
	}
	return nil
}

// Run is the loop's part: it delivers what is held, unless the handler paused.
func (n *netpollConn) Run(l *Loop) {
	c := n.c
	n.mu.Lock()
	n.mu.posted = false
	n.mu.Unlock()
	if c.flags&flagClosed != 0 {
		n.dropHeld()
		return
	}
	for c.readyToRead() {
		n.mu.Lock()
		n.blocks, n.mu.held = n.mu.held, n.blocks[:0]
		n.mu.Unlock()
		if len(n.blocks) == 0 {
			break
		}
		n.deliver(l)
	}
	if c.flags&flagClosed == 0 {
		n.settle()
	}
	if len(n.blocks) == 0 && cap(n.blocks) > 0 {
		n.blocks = nil // an idle connection keeps nothing
	}
}

// deliver hands n.blocks up. What is left when the handler pauses goes back in front of held.
func (n *netpollConn) deliver(l *Loop) {
	c := n.c
	taken := 0
	for i, b := range n.blocks {
		if c.flags&flagClosed != 0 || !c.wantsRead() {
			break
		}
		k := copy(l.scratch[headroom:], b.Bytes())
		b.Release()
		n.blocks[i] = nil
		taken = i + 1
		n.mu.Lock()
		n.mu.bytes -= k
		n.mu.Unlock()
		l.local.reads++
		c.input(l.scratch, headroom, k)
	}
	rest := n.blocks[taken:]
	if len(rest) > 0 {
		n.mu.Lock()
		n.mu.held = append(append([]*alloc.Block(nil), rest...), n.mu.held...)
		n.mu.Unlock()
		clear(rest)
	}
	n.blocks = n.blocks[:0]
}

// settle sees to what follows from having delivered: the end, or more reading.
func (n *netpollConn) settle() {
	c := n.c
	n.mu.Lock()
	end, more := n.mu.end, len(n.mu.held) > 0
	again := !n.mu.attached && end == nil && n.mu.bytes <= heldLow && c.wantsRead()
	n.mu.Unlock()
	switch {
	case end != nil && !more && c.wantsRead():
		if err := sockFailure(int(c.fd)); err != nil {
			end = err
		}
		c.inputEnd(end)
	case again:
		if err := n.attach(); err != nil {
			c.shut(err)
		}
	}
}

// sockFailure is the error that the socket has, if any: netpoll tells all ends alike.
func sockFailure(fd int) error {
	if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
		return syscall.Errno(e)
	}
	return nil
}

func (n *netpollConn) dropHeld() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.mu.held {
		b.Release()
	}
	n.mu.held, n.mu.bytes = nil, 0
}

// netpollAdd begins to read c over netpoll.
func (c *Conn) netpollAdd() error {
	if err := c.loop.e.np.begin(c.loop.e); err != nil {
		return err
	}
	n := &netpollConn{c: c}
	c.extend().np = n
	return n.attach()
}

// rearm tells the transport what c waits for, after that has changed.
func (n *netpollConn) rearm(c *Conn) {
	if c.flags&flagBlocked != 0 {
		c.loop.e.np.room.watch(c)
	}
	if c.wantsRead() {
		n.mu.Lock()
		if n.mu.bytes > 0 || !n.mu.attached || n.mu.end != nil {
			n.tellLocked()
		}
		n.mu.Unlock()
	}
}

// shut lets the descriptor be closed when netpoll has let go of it.
func (n *netpollConn) shut(c *Conn) {
	c.loop.e.np.room.forget(c)
	n.mu.Lock()
	n.mu.closed = true
	attached := n.mu.attached
	n.mu.Unlock()
	n.dropHeld()
	if !attached {
		if !n.lost {
			_ = unix.Close(int(c.fd))
		}
		return
	}
	// The peer is told at once; the descriptor itself may have to wait for the poller.
	_ = unix.Shutdown(int(c.fd), unix.SHUT_RDWR)
	c.loop.e.np.release(n.conn)
}

// netpollShared is what the netpoll connections of an engine share: the goroutines that detach what was closed, and the one that
// watches for room. They start with the first connection.
type netpollShared struct {
	once  sync.Once
	err   error
	begun atomic.Bool
	room  roomWatch
	wg    sync.WaitGroup
	mu    struct {
		sync.Mutex
		queue   []netpoll.Connection
		workers int
	}
}

// releaseWorkers is how many goroutines may wait for netpoll to let go.
const releaseWorkers = 8

func (s *netpollShared) begin(*Engine) error {
	s.once.Do(func() {
		if s.err = bell.open(); s.err == nil {
			s.err = s.room.start()
		}
		s.begun.Store(s.err == nil)
	})
	return s.err
}

// release takes a connection out of netpoll on a goroutine that may wait.
func (s *netpollShared) release(np netpoll.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.queue = append(s.mu.queue, np)
	if s.mu.workers < releaseWorkers {
		s.mu.workers++
		s.wg.Add(1)
		go s.work()
	}
}

func (s *netpollShared) work() {
	defer s.wg.Done()
	for {
		s.mu.Lock()
		k := len(s.mu.queue) - 1
		if k < 0 {
			s.mu.workers--
			s.mu.queue = nil
			s.mu.Unlock()
			return
		}
		np := s.mu.queue[k]
		s.mu.queue[k] = nil
		s.mu.queue = s.mu.queue[:k]
		s.mu.Unlock()
		_ = np.Close() // if a callback runs it is released at its end
	}
}

func (s *netpollShared) close() {
	s.wg.Wait()
	if s.begun.Load() {
		s.room.stop()
	}
}

// bell tells when netpoll's poller has finished all that it had in hand: a byte written into a socket pair comes out of a later wait than
// everything before. It needs netpoll to have one poller, and is the process's, as that is.
var bell bellSocket

type bellSocket struct {
	once sync.Once
	err  error
	fd   int
	mu   struct {
		sync.Mutex
		waiting []chan struct{} // since the last byte was written
		rung    []chan struct{} // a byte is on its way for them
	}
}

func (b *bellSocket) open() error {
	b.once.Do(func() {
		netpoll.LinkBufferCap = netpollLink
		if b.err = netpoll.Configure(netpoll.Config{PollerNum: 1, BufferSize: netpollBuffer}); b.err != nil {
			return
		}
		var pair [2]int
		if pair, b.err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); b.err != nil {
			return
		}
		unix.CloseOnExec(pair[0])
		unix.CloseOnExec(pair[1])
		b.fd = pair[0]
		var np netpoll.Connection
		if np, b.err = netpoll.NewFDConnection(pair[1]); b.err == nil {
			b.err = np.SetOnRequest(b.heard)
		}
	})
	return b.err
}

// ring returns when the poller has finished what it had in hand. One byte serves all who come before it is written.
func (b *bellSocket) ring() {
	c := make(chan struct{})
	b.mu.Lock()
	b.mu.waiting = append(b.mu.waiting, c)
	if len(b.mu.rung) == 0 {
		b.strikeLocked()
	}
	b.mu.Unlock()
	<-c
}

func (b *bellSocket) strikeLocked() {
	b.mu.rung, b.mu.waiting = b.mu.waiting, nil
	_, _ = unix.Write(b.fd, []byte{1}) // one byte is under way at most, so there is room
}

func (b *bellSocket) heard(_ context.Context, np netpoll.Connection) error {
	r := np.Reader()
	_ = r.Skip(r.Len())
	_ = r.Release()
	b.mu.Lock()
	for _, c := range b.mu.rung {
		close(c)
	}
	b.mu.rung = nil
	if len(b.mu.waiting) > 0 {
		b.strikeLocked()
	}
	b.mu.Unlock()
	return nil
}
