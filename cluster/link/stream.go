package link

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// streamPart is the largest message that a stream makes of what is written at once: a frame.
const streamPart = FrameMost

// Stream is a channel as a net.Conn: bytes both ways, in order, with the channel's credit holding the writer back. It is safe for concurrent
// use as a net.Conn is.
type Stream struct {
	ch   *Channel
	room chan struct{} // there may be room

	read, write deadline
	arrived     chan struct{} // something to read, or the end
	forget      func(*Stream) // nil: nobody keeps it

	mu struct {
		sync.Mutex
		got    []Message
		head   int
		off    int // of got[head]
		closed bool
		end    error
	}
}

// OpenStream opens a channel to a node that is connected, as a stream.
func (m *Mesh) OpenStream(to NodeID, k Kind, head []byte) (*Stream, error) {
	s := newStream()
	ch, err := m.Open(to, k, head, s)
	if err != nil {
		return nil, err
	}
	s.ch = ch
	return s, nil
}

// Streams is an Accept that hands out each channel as a stream, on a goroutine of its own. accept closes it.
func Streams(accept func(*Stream)) Accept {
	return func(c *Channel, _ []byte) (Receiver, error) {
		s := newStream()
		s.ch = c
		c.c.m.wg.Add(1)
		go func() {
			defer c.c.m.wg.Done()
			accept(s)
		}()
		return s, nil
	}
}

func newStream() *Stream {
	s := &Stream{room: make(chan struct{}, 1), arrived: make(chan struct{}, 1)}
	s.read.init()
	s.write.init()
	return s
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Receive makes it a Receiver.
func (s *Stream) Receive(_ *Channel, m Message) {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		m.Release()
		return
	}
	s.mu.got = append(s.mu.got, m)
	s.mu.Unlock()
	signal(s.arrived)
}

// Closed makes it a Receiver.
func (s *Stream) Closed(_ *Channel, reason error) {
	s.mu.Lock()
	s.mu.end = reason
	if reason == nil {
		s.mu.end = io.EOF
	}
	s.mu.Unlock()
	signal(s.arrived)
	signal(s.room)
}

// Room makes it a RoomReceiver.
func (s *Stream) Room(*Channel) { signal(s.room) }

// take reads what has come.
func (s *Stream) take(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return 0, net.ErrClosed
	}
	for n < len(p) && s.mu.head < len(s.mu.got) {
		m := s.mu.got[s.mu.head]
		took := copy(p[n:], m.Bytes()[s.mu.off:])
		n += took
		if s.mu.off += took; s.mu.off == len(m.Bytes()) {
			s.nextLocked(m)
		}
	}
	if n == 0 && len(p) > 0 {
		err = s.mu.end
	}
	return n, err
}

func (s *Stream) nextLocked(m Message) {
	m.Release()
	s.mu.got[s.mu.head] = Message{}
	s.mu.off = 0
	if s.mu.head++; s.mu.head == len(s.mu.got) {
		s.mu.got, s.mu.head = s.mu.got[:0], 0
	}
}

// Read makes it a net.Conn. What was received before the end is read before the end.
func (s *Stream) Read(p []byte) (int, error) {
	for {
		if s.read.over() {
			return 0, os.ErrDeadlineExceeded
		}
		n, err := s.take(p)
		if n > 0 || err != nil || len(p) == 0 {
			if n > 0 {
				signal(s.arrived) // there may be more, for another reader
			}
			return n, err
		}
		select {
		case <-s.arrived:
		case <-s.read.wait():
		}
	}
}

// Write makes it a net.Conn. It returns when all is queued, not when it is received.
func (s *Stream) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if s.write.over() {
			return n, os.ErrDeadlineExceeded
		}
		part := p[n:min(len(p), n+streamPart)]
		switch err := s.ch.TrySend(part); {
		case err == nil:
			n += len(part)
			continue
		case !errors.Is(err, ErrBusy):
			return n, s.why(err)
		}
		select {
		case <-s.room:
		case <-s.write.wait():
		}
	}
	return n, nil
}

// why is what has ended the channel, if it is known.
func (s *Stream) why(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.closed:
		return net.ErrClosed
	case s.mu.end != nil && !errors.Is(s.mu.end, io.EOF):
		return s.mu.end
	}
	return err
}

// Close makes it a net.Conn. What is queued is sent; what was received and not read is dropped.
func (s *Stream) Close() error {
	s.mu.Lock()
	got := s.mu.got[s.mu.head:]
	s.mu.got, s.mu.head, s.mu.closed = nil, 0, true
	s.mu.Unlock()
	for _, m := range got {
		m.Release()
	}
	s.ch.Close()
	signal(s.arrived)
	signal(s.room)
	s.read.stop()
	s.write.stop()
	if s.forget != nil {
		s.forget(s)
	}
	return nil
}

// Peer is the node at the other end.
func (s *Stream) Peer() NodeID { return s.ch.Peer() }

// LocalAddr makes it a net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.ch.c.raw.LocalAddr() }

// RemoteAddr makes it a net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.ch.c.raw.RemoteAddr() }

// SetDeadline makes it a net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	s.read.set(t)
	s.write.set(t)
	return nil
}

// SetReadDeadline makes it a net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error { s.read.set(t); return nil }

// SetWriteDeadline makes it a net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error { s.write.set(t); return nil }

// deadline is a time after which a channel is closed. It is of the system's clock, as a net.Conn's is. Setting a later one while it runs
// stops the timer, and makes nothing.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
	done  chan struct{}
	fired bool
}

func (d *deadline) init() { d.done = make(chan struct{}) }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *deadline) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fired || !d.at.IsZero() && !time.Now().Before(d.at)
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = t
	if d.fired {
		d.fired, d.done = false, make(chan struct{})
	}
	left := time.Until(t)
	switch {
	case t.IsZero():
		if d.timer != nil {
			d.timer.Stop()
		}
	case left <= 0:
		d.fireLocked()
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.due)
	default:
		d.timer.Reset(left)
	}
}

// due may run late: a new deadline may have been set meanwhile.
func (d *deadline) due() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.at.IsZero() && !time.Now().Before(d.at) {
		d.fireLocked()
	}
}

func (d *deadline) fireLocked() {
	if !d.fired {
		d.fired = true
		close(d.done)
	}
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}
