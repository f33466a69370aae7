package link

import (
	"context"
	"errors"
	"net"
	"sync"
)

// Network is the streams of one kind of a mesh, for who knows other nodes by address alone: it is what meta/raftgroup takes as its own
// Network, so that the catalog's group runs over the connections that there are.
type Network struct {
	m    *Mesh
	kind Kind
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex
		accept func(net.Conn)
		closed bool
		open   map[*Stream]struct{}
		where  map[string]NodeID // who has answered at an address
	}
}

// Network takes all channels of a kind as streams. It must be called before the first connection. Streams that come before Serve are
// refused.
func (m *Mesh) Network(k Kind) *Network {
	n := &Network{m: m, kind: k}
	n.mu.open = make(map[*Stream]struct{})
	n.mu.where = make(map[string]NodeID)
	m.Handle(k, n.take)
	return n
}

var errNotServing = errors.New("nobody takes streams here now")

// take accepts a channel as a stream, on a goroutine of its own.
func (n *Network) take(c *Channel, _ []byte) (Receiver, error) {
	s := newStream()
	s.ch = c
	n.mu.Lock()
	defer n.mu.Unlock()
	accept := n.mu.accept
	if accept == nil || n.mu.closed {
		return nil, errNotServing
	}
	n.mu.open[s] = struct{}{}
	s.forget = n.forget
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		accept(s)
	}()
	return s, nil
}

func (n *Network) forget(s *Stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.mu.open, s)
}

// Open opens a stream to the node at an address, HOST:PORT, over the connection that there is, or a new one.
func (n *Network) Open(ctx context.Context, address string) (net.Conn, error) {
	id, err := n.reach(ctx, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	closed := n.mu.closed
	n.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	s, err := n.m.OpenStream(id, n.kind, nil)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	closed = n.mu.closed
	if !closed {
		n.mu.open[s] = struct{}{}
		s.forget = n.forget
	}
	n.mu.Unlock()
	if closed {
		return nil, errors.Join(net.ErrClosed, s.Close())
	}
	return s, nil
}

// reach is the node at an address, once it is connected.
func (n *Network) reach(ctx context.Context, address string) (NodeID, error) {
	n.mu.Lock()
	id := n.mu.where[address]
	n.mu.Unlock()
	if named := n.m.at(address); named != 0 {
		id = named
	}
	if id != 0 && n.m.conn(id) != nil {
		return id, nil
	}
	p, err := n.m.Dial(ctx, address)
	if err != nil && (p.ID == 0 || ReasonOf(err) != ReasonDuplicate) {
		return 0, err
	}
	n.mu.Lock()
	n.mu.where[address] = p.ID
	n.mu.Unlock()
	return p.ID, n.m.await(ctx, p.ID)
}

// at is the node that SetPeers says is at an address.
func (m *Mesh) at(address string) NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, d := range m.mu.dialers {
		if d.addr == address {
			return id
		}
	}
	return 0
}

// await waits until a node whose connection is registered is told of.
func (m *Mesh) await(ctx context.Context, id NodeID) error {
	m.mu.Lock()
	c := m.mu.conns[id]
	m.mu.Unlock()
	if c == nil {
		return ErrDown
	}
	select {
	case <-c.told:
		return nil
	case <-c.done:
		return ErrDown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Serve has accept called with each stream that another node opens, on a goroutine of its own, until Close. accept closes the stream.
func (n *Network) Serve(accept func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.accept = accept
}

// Close ends all streams, and returns when accept does not run any more. The mesh lives on.
func (n *Network) Close() error {
	n.mu.Lock()
	n.mu.closed = true
	open := n.mu.open
	n.mu.open = make(map[*Stream]struct{})
	n.mu.Unlock()
	for s := range open {
		_ = s.Close()
	}
	n.wg.Wait()
	return nil
}
