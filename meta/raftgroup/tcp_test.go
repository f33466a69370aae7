package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// TCP is a Network of one TCP connection for each stream: the least that the group can run on.
type TCP struct {
	listener net.Listener

	mu struct {
		sync.Mutex
		conns  map[net.Conn]struct{}
		closed bool
	}
	work sync.WaitGroup
}

// streamsMax bounds the streams that are open at once.
const streamsMax = 1024

// ListenTCP opens the listener. Nobody is answered before Serve.
func ListenTCP(address string) (*TCP, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	t := &TCP{listener: l}
	t.mu.conns = make(map[net.Conn]struct{})
	return t, nil
}

// Addr is where it listens.
func (t *TCP) Addr() net.Addr { return t.listener.Addr() }

// Open makes it a Network.
func (t *TCP) Open(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if !t.keep(c) {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return &tcpStream{c, t}, nil
}

// tcpStream is forgotten when it is closed.
type tcpStream struct {
	net.Conn
	t *TCP
}

// Close makes it a net.Conn.
func (s *tcpStream) Close() error {
	s.t.mu.Lock()
	delete(s.t.mu.conns, s.Conn)
	s.t.mu.Unlock()
	return s.Conn.Close()
}

// keep remembers a connection, to close it in the end; false if there is none any more, or there are too many.
func (t *TCP) keep(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed || len(t.mu.conns) >= streamsMax {
		return false
	}
	t.mu.conns[c] = struct{}{}
	return true
}

// Serve makes it a Network.
func (t *TCP) Serve(accept func(net.Conn)) {
	t.work.Go(func() {
		for {
			c, err := t.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // one client's fault, or too many files: the next one is answered
			}
			t.work.Go(func() { t.serve(c, accept) })
		}
	})
}

func (t *TCP) serve(c net.Conn, accept func(net.Conn)) {
	if !t.keep(c) {
		_ = c.Close()
		return
	}
	accept(&tcpStream{c, t})
}

// Close makes it a Network.
func (t *TCP) Close() error {
	err := t.listener.Close()
	t.mu.Lock()
	t.mu.closed = true
	for c := range t.mu.conns {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.work.Wait()
	return err
}
