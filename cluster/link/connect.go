package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Listen takes connections on a TCP address, HOST:PORT, until Close.
func (m *Mesh) Listen(addr string) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := m.Serving(l); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l.Addr(), nil
}

// Serving takes connections of a listener, which it closes with the mesh. Without certificates it has to be on loopback, or plaintext
// allowed by name.
func (m *Mesh) Serving(l net.Listener) error {
	if m.o.TLS == nil && !m.o.AllowPlaintext && !loopback(l.Addr()) {
		return failure(ReasonPlaintext, "%v is not on loopback: nodes there need certificates, or plaintext allowed by name", l.Addr())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return &Error{Reason: ReasonClosing}
	}
	m.mu.listeners = append(m.mu.listeners, l)
	m.wg.Add(1)
	go m.acceptLoop(l)
	return nil
}

// acceptPause is how long a listener rests that cannot accept, for want of descriptors mostly.
const acceptPause = 20 * time.Millisecond

func (m *Mesh) acceptLoop(l net.Listener) {
	defer m.wg.Done()
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			m.accepted(nc)
		case m.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		default:
			m.log.Warn("cannot accept a node", "err", err)
			m.pause(acceptPause, nil)
		}
	}
}

// pause waits for d, a poke or the end.
func (m *Mesh) pause(d time.Duration, poked <-chan struct{}) {
	over := make(chan struct{})
	t := m.clock.AfterFunc(d, func() { close(over) })
	defer t.Stop()
	select {
	case <-over:
	case <-poked:
	case <-m.ctx.Done():
	}
}

// accepted begins a handshake. Of one address there run a quarter of what there may be at most; when all places are taken the oldest gives
// way, for a node is done in milliseconds, and who only holds a place is not.
func (m *Mesh) accepted(nc net.Conn) {
	h := m.newHandshake(nc)
	h.host = hostOf(nc)
	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest, sameHost *handshake
	same := 0
	for _, o := range m.mu.shaking {
		if oldest == nil {
			oldest = o
		}
		if o.host == h.host {
			if sameHost == nil {
				sameHost = o
			}
			same++
		}
	}
	switch {
	case m.mu.closed:
		h.timer.Stop()
		_ = nc.Close()
		return
	case same >= max(m.o.Handshakes/4, 1):
		m.evictLocked(sameHost)
	case len(m.mu.shaking) >= m.o.Handshakes:
		m.evictLocked(oldest)
	}
	m.mu.shaking = append(m.mu.shaking, h)
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		m.shake(h)
	}()
}

func hostOf(nc net.Conn) string {
	host, _, err := net.SplitHostPort(addrOf(nc))
	if err != nil {
		return addrOf(nc)
	}
	return host
}

func (m *Mesh) evictLocked(h *handshake) {
	m.removeLocked(h)
	h.stopWith(failure(ReasonBusy, "too many handshakes at the same time"))
}

func (m *Mesh) removeLocked(h *handshake) {
	for i, o := range m.mu.shaking {
		if o == h {
			m.mu.shaking = append(m.mu.shaking[:i], m.mu.shaking[i+1:]...)
			return
		}
	}
}

// shake runs a handshake of somebody who connects, and the connection it comes to.
func (m *Mesh) shake(h *handshake) {
	s, welcome, err := h.accept()
	m.mu.Lock()
	m.removeLocked(h)
	m.mu.Unlock()
	if err = h.result(err); err != nil {
		m.refused(h.raw, err)
		return
	}
	c := m.newConn(s)
	late := m.clock.AfterFunc(m.o.HandshakeTimeout, func() { _ = c.raw.Close() })
	defer late.Stop()
	before, err := m.register(c)
	if err != nil {
		refuse(s.nc, asError(err))
		m.refused(h.raw, err)
		return
	}
	defer m.wg.Done()
	_, err = s.nc.Write(welcome)
	late.Stop()
	if err != nil {
		c.abandon(before)
		m.refused(h.raw, err)
		return
	}
	c.begin(before)
}

// begin runs a connection that is registered.
func (c *conn) begin(before <-chan struct{}) {
	if c.gathered != nil {
		c.gathered.start()
	}
	c.run(before)
}

// abandon takes back a connection that was registered and never came up.
func (c *conn) abandon(before <-chan struct{}) {
	if before != nil {
		<-before // who replaces this one waits for the one before, too
	}
	_ = c.raw.Close()
	c.m.unregister(c)
	close(c.done)
}

// refused counts and logs a handshake that failed. What strangers send is no more than a line at debug level.
func (m *Mesh) refused(nc net.Conn, err error) {
	_ = nc.Close()
	r := ReasonOf(err)
	m.counters.count(&m.counters.refusals, err)
	switch r {
	case ReasonToken, ReasonCluster, ReasonVersion, ReasonNode, ReasonNodeInUse, ReasonFeature, ReasonNotAdmitted, ReasonCertificate, ReasonPlaintext:
		if now := int64(m.clock.Mono()); now-m.counters.warned.Load() > int64(time.Second) || m.counters.warned.Load() == 0 {
			m.counters.warned.Store(max(now, 1))
			m.log.Warn("node refused", "addr", addrOf(nc), "reason", r.String(), "err", err)
			return
		}
	default:
	}
	m.log.Debug("handshake failed", "addr", addrOf(nc), "reason", r.String(), "err", err)
}

// Dial connects to whoever is at addr, which is how a node that joins finds the others. It returns once the connection is up; if there
// is one to that node already, the error says ReasonDuplicate, and Peer who it is.
func (m *Mesh) Dial(ctx context.Context, addr string) (Peer, error) {
	m.mu.Lock()
	if m.mu.closed {
		m.mu.Unlock()
		return Peer{}, &Error{Reason: ReasonClosing}
	}
	m.wg.Add(1)
	m.mu.Unlock()
	defer m.wg.Done()
	return m.dialTo(ctx, 0, addr)
}

func (m *Mesh) dialTo(ctx context.Context, to NodeID, addr string) (Peer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	timer := m.clock.AfterFunc(m.o.HandshakeTimeout, cancel)
	defer timer.Stop()
	m.counters.dials.Add(1)
	nc, err := m.o.Dial(ctx, addr)
	if err != nil {
		return Peer{}, err
	}
	if !m.beginShaking(to) {
		_ = nc.Close()
		return Peer{}, &Error{Reason: ReasonDuplicate}
	}
	h := m.newHandshake(nc)
	unhook := context.AfterFunc(ctx, h.cancel)
	s, err := h.dial(to)
	unhook()
	if err = h.result(err); err != nil {
		m.endShaking(to)
		_ = nc.Close()
		m.counters.count(&m.counters.refusals, err)
		if s != nil {
			return s.peer, err
		}
		return Peer{}, err
	}
	c := m.newConn(s)
	before, err := m.register(c)
	m.endShaking(to)
	if err != nil {
		// The other end has registered this connection: it hears by its end.
		_ = nc.Close()
		return s.peer, err
	}
	go func() {
		defer m.wg.Done()
		c.begin(before)
	}()
	return s.peer, nil
}

// beginShaking notes that this end is about to greet a node, unless it has come in meanwhile. Where both dial at the same time it is the
// handshake of the lower id that counts: that node refuses the other one's while its own runs, so that no connection comes up only to be
// replaced.
func (m *Mesh) beginShaking(to NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if to == 0 {
		return true
	}
	if m.mu.conns[to] != nil {
		return false
	}
	m.mu.greeting[to] = true
	return true
}

func (m *Mesh) endShaking(to NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.greeting, to)
}

// dialer keeps a connection to one node.
type dialer struct {
	m    *Mesh
	id   NodeID
	addr string // under Mesh.mu
	gone bool   // under Mesh.mu
	wake chan struct{}
}

func (d *dialer) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// SetPeers says which nodes there are and where. They are dialed until they are connected, and again when they are lost. Addresses that
// have changed count from the next attempt on; nodes that are no longer named are not dialed, and their connections stay.
func (m *Mesh) SetPeers(peers map[NodeID]string) error {
	for id, addr := range peers {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("link: address of node %d: %w", id, err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			return fmt.Errorf("link: address of node %d: %s is no address that others can call", id, addr)
		}
		if id == 0 || id > nodeIDMost {
			return fmt.Errorf("link: node id %d: want 1 to %d", id, nodeIDMost)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return &Error{Reason: ReasonClosing}
	}
	for id, d := range m.mu.dialers {
		if _, stays := peers[id]; !stays {
			d.gone = true
			delete(m.mu.dialers, id)
			d.poke()
		}
	}
	for id, addr := range peers {
		if id == m.o.ID {
			continue
		}
		d := m.mu.dialers[id]
		if d == nil {
			d = &dialer{m: m, id: id, addr: addr, wake: make(chan struct{}, 1)}
			m.mu.dialers[id] = d
			m.wg.Add(1)
			go d.run()
		} else if d.addr != addr {
			d.addr = addr
			d.poke()
		}
	}
	return nil
}

// state says what the dialer is to do now.
func (d *dialer) state() (addr string, connected, over bool) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.addr, d.m.mu.conns[d.id] != nil, d.gone || d.m.mu.closed
}

// run dials whenever there is no connection. The node with the lower id dials first: the other one gives it time.
func (d *dialer) run() {
	m := d.m
	defer m.wg.Done()
	backoff := m.o.BackoffMin
	said := ""
	var since time.Duration // when it was connected
	if d.id < m.o.ID {
		m.pause(m.o.BackoffMin, nil)
	}
	for {
		addr, connected, over := d.state()
		switch {
		case over:
			return
		case connected:
			if since == 0 {
				since = max(m.clock.Mono(), 1)
			}
			select {
			case <-d.wake:
			case <-m.ctx.Done():
			}
			continue
		case since != 0: // lost: at once, but for one that never lasts
			if m.clock.Mono()-since < m.o.BackoffMax {
				m.pause(backoff/2+rand.N(backoff/2+1), nil)
				backoff = min(2*backoff, m.o.BackoffMax)
			} else {
				backoff = m.o.BackoffMin
			}
			since = 0
			continue
		}
		_, err := m.dialTo(m.ctx, d.id, addr)
		if err == nil {
			said = ""
			continue
		}
		if text := err.Error(); text != said && ReasonOf(err) != ReasonDuplicate && m.ctx.Err() == nil {
			said = text // once, not at each attempt
			m.log.Warn("cannot connect to a node", "peer", d.id, "addr", addr, "reason", ReasonOf(err).String(), "err", err)
		}
		m.pause(backoff/2+rand.N(backoff/2+1), d.wake)
		backoff = min(2*backoff, m.o.BackoffMax)
	}
}
