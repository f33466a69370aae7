package raftgroup

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
)

// TCP is a Network of one TCP connection for each stream, over mutual TLS. It serves until the nodes' one link carries the streams.
type TCP struct {
	listener       net.Listener
	server, client *tls.Config

	mu struct {
		sync.Mutex
		conns  map[net.Conn]struct{}
		closed bool
	}
	work sync.WaitGroup
}

// TCPOptions are what a TCP takes.
type TCPOptions struct {
	Listen string // HOST:PORT; port 0: any
	// Server and Client are both sides' configuration; nil: plaintext. Server has to ask for certificates and verify them.
	Server, Client *tls.Config
}

// streamsMax bounds the streams that are open at once.
const streamsMax = 1024

// ListenTCP opens the listener. Nobody is answered before Serve.
func ListenTCP(o TCPOptions) (*TCP, error) {
	switch {
	case (o.Server == nil) != (o.Client == nil):
		return nil, errors.New("raftgroup: TLS for one direction alone")
	case o.Server != nil && o.Server.ClientAuth != tls.RequireAndVerifyClientCert:
		return nil, errors.New("raftgroup: TLS between nodes has to be mutual")
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("open listeners.cluster on %s: %w", o.Listen, err)
	}
	t := &TCP{listener: l, server: o.Server, client: o.Client}
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
	if t.client != nil {
		cfg := t.client.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(address)
		}
		s := tls.Client(c, cfg)
		if err := s.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("TLS to %s: %w", address, err), c.Close())
		}
		c = s
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
	if t.server != nil {
		c = tls.Server(c, t.server)
	}
	if !t.keep(c) {
		_ = c.Close()
		return
	}
	s := &tcpStream{c, t}
	if secure, ok := c.(*tls.Conn); ok {
		ctx, cancel := context.WithTimeout(context.Background(), streamTimeout)
		err := secure.HandshakeContext(ctx)
		cancel()
		if err != nil {
			_ = s.Close()
			return
		}
	}
	accept(s)
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
