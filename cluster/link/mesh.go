package link

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/cluster/cert"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/revocation"
)

// Options say who a node is, whom it talks to and what it may spend. Zero fields are the defaults of kind.go unless said otherwise.
type Options struct {
	ID       NodeID
	Cluster  [16]byte // zero: a node that belongs to no cluster yet; Admit of its peers decides
	Identity [16]byte // of the node's disk, for Admit of its peers
	Token    []byte   // the cluster's; it may be empty with TLS alone
	// Feature is the highest feature level that this node knows, FeatureMin the one that the cluster has: a peer that knows less is refused.
	Feature, FeatureMin uint32

	TLS            *cert.Source // nil: none, and then every address is loopback, or AllowPlaintext is set
	AllowPlaintext bool

	Admit  func(Peer) error // nil: everybody whom token and certificate let in. It is called before Up, and must not block
	Events Events

	DeadAfter        time.Duration // a peer that is not heard for so long is dead
	HandshakeTimeout time.Duration // for all of TLS and hello
	WriteTimeout     time.Duration // a write that takes longer is to a peer that does not read
	ClockSkewMax     time.Duration // clocks further apart are warned of
	BackoffMin       time.Duration // between attempts to connect; it doubles
	BackoffMax       time.Duration
	Handshakes       int   // that run at the same time for others who connect; the oldest gives way
	Memory           int64 // that received messages may pin, in all
	PeerMemory       int   // the same of one peer, and what may wait to be sent to it

	Limits map[Kind]Limits

	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: none
	// Dial connects; nil: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Events tell the owner who is connected. Both run on the connection's goroutine, one behind the other for each node, and must not block.
// nil is skipped.
type Events struct {
	Up   func(Peer)
	Down func(NodeID, error)
}

// Peer is a node at the other end of a connection.
type Peer struct {
	ID                  NodeID
	Cluster, Identity   [16]byte
	Incarnation         uint64 // of its process
	Feature, FeatureMin uint32
	Addr                string
	Dialed              bool // by this end
	TLS                 bool
	ClockOff            time.Duration // its wall clock less this one's, as far as the handshake tells
}

// Accept decides on a channel that a peer opens. An error refuses it, with its text for the peer. head dies when it returns. It runs on the
// goroutine that reads the connection, and must not block.
type Accept func(c *Channel, head []byte) (Receiver, error)

// Mesh is a node's connections to the others. It is safe for concurrent use.
type Mesh struct {
	o           Options
	clock       clock.Clock
	log         *slog.Logger
	limits      [numKinds]Limits
	accept      [numKinds]Accept
	serve       map[uint16]func(*Request)
	incarnation uint64
	counters    counters
	memory      atomic.Int64
	tunnels     atomic.Int64
	ctx         context.Context
	stop        context.CancelFunc
	wg          sync.WaitGroup

	mu struct {
		sync.Mutex
		started   bool
		closed    bool
		cluster   [16]byte
		listeners []net.Listener
		conns     map[NodeID]*conn
		dialers   map[NodeID]*dialer
		shaking   []*handshake
		greeting  map[NodeID]bool // this end's handshake with that node runs
		rtt       map[NodeID]time.Duration
	}
}

// New returns a node that is not connected.
func New(o Options) (*Mesh, error) {
	if o.ID == 0 || o.ID > nodeIDMost {
		return nil, fmt.Errorf("link: node id %d: want 1 to %d", o.ID, nodeIDMost)
	}
	if o.TLS == nil && len(o.Token) == 0 {
		return nil, errors.New("link: neither certificates nor a cluster token: anybody could join")
	}
	if o.TLS != nil && NodeID(o.TLS.Current().Node) != o.ID {
		return nil, fmt.Errorf("link: the certificate is of node %d, this is node %d", o.TLS.Current().Node, o.ID)
	}
	o.fill()
	m := &Mesh{o: o, clock: o.Clock, log: o.Logger, serve: make(map[uint16]func(*Request))}
	for k := Kind(1); k < numKinds; k++ {
		m.limits[k] = o.Limits[k].withDefaults(k)
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	m.incarnation = binary.LittleEndian.Uint64(b[:])
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.mu.cluster = o.Cluster
	m.mu.conns = make(map[NodeID]*conn)
	m.mu.dialers = make(map[NodeID]*dialer)
	m.mu.greeting = make(map[NodeID]bool)
	m.mu.rtt = make(map[NodeID]time.Duration)
	m.accept[KindRequest] = m.acceptRequests
	return m, nil
}

func (o *Options) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.DeadAfter, DefaultDeadAfter)
	def(&o.HandshakeTimeout, DefaultHandshakeTimeout)
	def(&o.WriteTimeout, DefaultWriteTimeout)
	def(&o.ClockSkewMax, DefaultClockSkewMax)
	def(&o.BackoffMin, DefaultBackoffMin)
	def(&o.BackoffMax, DefaultBackoffMax)
	if o.Handshakes == 0 {
		o.Handshakes = DefaultHandshakes
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.PeerMemory == 0 {
		o.PeerMemory = DefaultPeerMemory
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
}

// Handle says who takes the channels of a kind that peers open; without it they are refused. It must be called before the first
// connection. KindRequest is Serve's.
func (m *Mesh) Handle(k Kind, a Accept) {
	if k == 0 || k >= numKinds || k == KindRequest {
		panic(fmt.Sprintf("link: no channels of kind %v can be taken", k))
	}
	m.accept[k] = a
}

// Messages is an Accept for channels that only bring messages. f must not block, and owns the message.
func Messages(f func(from NodeID, m Message)) Accept {
	r := messages(f)
	return func(*Channel, []byte) (Receiver, error) { return r, nil }
}

type messages func(NodeID, Message)

func (f messages) Receive(c *Channel, m Message) { f(c.Peer(), m) }
func (f messages) Closed(*Channel, error)        {}

// Open opens a channel to a node that is connected. head, at most 4 KiB, tells the peer what it is about. recv may be nil if nothing is to
// come back.
func (m *Mesh) Open(to NodeID, k Kind, head []byte, recv Receiver) (*Channel, error) {
	c := m.conn(to)
	if c == nil {
		return nil, ErrDown
	}
	return c.openHere(k, head, recv)
}

func (m *Mesh) conn(id NodeID) *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.mu.conns[id]
	if c == nil || !c.live.Load() {
		return nil
	}
	return c
}

// Reaches says whether there is a connection to a node now.
func (m *Mesh) Reaches(id NodeID) bool { return m.conn(id) != nil }

// Connected are the nodes that there is a connection to.
func (m *Mesh) Connected() []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Peer
	for _, c := range m.mu.conns {
		if c.live.Load() {
			out = append(out, c.peer)
		}
	}
	return out
}

// Disconnect ends the connection to a node, if there is one. A node that SetPeers names is dialed again.
func (m *Mesh) Disconnect(id NodeID, text string) {
	if c := m.conn(id); c != nil {
		c.fail(&Error{Reason: ReasonClosing, Text: text}, true)
	}
}

// SetCluster says which cluster the node belongs to, once it knows.
func (m *Mesh) SetCluster(id [16]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.cluster = id
}

func (m *Mesh) cluster() [16]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.cluster
}

// ReloadCertificates reads the files of TLS again. Connections whose peer the new authorities do not vouch for end; the others stay.
func (m *Mesh) ReloadCertificates() error {
	if m.o.TLS == nil {
		return nil
	}
	if err := m.o.TLS.Reload(m.clock.Now()); err != nil {
		return err
	}
	m.verifyPeers()
	return nil
}

// RefreshRevocations reads the lists of revoked certificates again if their files have changed, and says whether what is in force has. Connections whose
// peer's certificate is revoked end. On error the lists in force stay.
func (m *Mesh) RefreshRevocations() (changed bool, err error) {
	if m.o.TLS == nil {
		return false, nil
	}
	if changed, err = m.o.TLS.Refresh(); changed {
		m.verifyPeers()
	}
	return changed, err
}

// Revocations are the lists in force; nil without any.
func (m *Mesh) Revocations() *revocation.Lists {
	if m.o.TLS == nil {
		return nil
	}
	return m.o.TLS.Revocations()
}

// RevocationNotes are what is to be told of lists that were read since the last call.
func (m *Mesh) RevocationNotes() []revocation.Note {
	if m.o.TLS == nil {
		return nil
	}
	return m.o.TLS.RevocationNotes()
}

// verifyPeers ends connections whose peer would not be let in any more.
func (m *Mesh) verifyPeers() {
	m.mu.Lock()
	var all []*conn
	for _, c := range m.mu.conns {
		all = append(all, c)
	}
	m.mu.Unlock()
	for _, c := range all {
		if _, err := m.o.TLS.Current().Verify(c.certs, m.clock.Now()); err != nil {
			c.fail(failure(ReasonCertificate, "%v", err), true)
		}
	}
}

// CertificateExpiry is when this node's certificate ends; zero without TLS.
func (m *Mesh) CertificateExpiry() time.Time {
	if m.o.TLS == nil {
		return time.Time{}
	}
	return m.o.TLS.Current().Expires
}

// Close ends all connections and listeners, and waits until every goroutine and callback is done.
func (m *Mesh) Close() {
	m.mu.Lock()
	m.mu.closed = true
	var conns []*conn
	for _, c := range m.mu.conns {
		conns = append(conns, c)
	}
	for _, l := range m.mu.listeners {
		_ = l.Close()
	}
	for _, h := range m.mu.shaking {
		h.cancel()
	}
	for _, d := range m.mu.dialers {
		d.poke()
	}
	m.mu.Unlock()
	m.stop()
	for _, c := range conns {
		c.fail(&Error{Reason: ReasonClosing}, true)
	}
	m.wg.Wait()
}

// register makes c the connection to its peer, or says why it is not wanted. before is closed when the one that it replaces is down.
func (m *Mesh) register(c *conn) (before <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil, &Error{Reason: ReasonClosing}
	}
	old := m.mu.conns[c.peer.ID]
	if old == nil && !c.peer.Dialed && m.o.ID < c.peer.ID && m.mu.greeting[c.peer.ID] {
		return nil, failure(ReasonDuplicate, "this node dials at the same time")
	}
	if old != nil {
		if !old.ending() {
			if err := m.choose(old, c); err != nil {
				return nil, err
			}
		}
		old.fail(&Error{Reason: ReasonReplaced}, true)
		before = old.done
	}
	m.mu.conns[c.peer.ID] = c
	m.wg.Add(1)
	return before, nil
}

// choose says which of two connections to one node stays, so that both ends come to the same: of two that one end dialed the newer, for
// it would not have dialed while it had one; of two that both dialed that of the lower id.
func (m *Mesh) choose(old, c *conn) error {
	switch {
	case old.peer.Incarnation != c.peer.Incarnation:
		return failure(ReasonNodeInUse, "node %d is connected from %s", c.peer.ID, old.peer.Addr)
	case old.peer.Dialed == c.peer.Dialed:
		return nil
	case c.peer.Dialed == (m.o.ID < c.peer.ID):
		return nil
	default:
		return failure(ReasonDuplicate, "there is a connection already")
	}
}

// unregister takes c out, if it has not been replaced.
func (m *Mesh) unregister(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.conns[c.peer.ID] == c {
		delete(m.mu.conns, c.peer.ID)
		delete(m.mu.rtt, c.peer.ID)
	}
	if d := m.mu.dialers[c.peer.ID]; d != nil {
		d.poke()
	}
}

// up runs before anything is read. A connection that was replaced while it waited for its own forerunner is not told of.
func (m *Mesh) up(c *conn) {
	c.live.Store(true)
	m.counters.connects.Add(1)
	m.log.Info("node connected", "peer", c.peer.ID, "addr", c.peer.Addr, "tls", c.peer.TLS, "dialed", c.peer.Dialed)
	if off := c.peer.ClockOff; off.Abs() > m.o.ClockSkewMax {
		m.counters.clockWarnings.Add(1)
		m.log.Warn("the clock of a node differs", "peer", c.peer.ID, "by", off.Round(time.Millisecond), "allowed", m.o.ClockSkewMax)
	}
	if m.o.Events.Up != nil {
		m.o.Events.Up(c.peer)
	}
}

func (m *Mesh) down(c *conn, err error) {
	c.live.Store(false)
	m.counters.count(&m.counters.ends, err)
	m.log.Info("node disconnected", "peer", c.peer.ID, "reason", ReasonOf(err).String(), "err", err)
	m.unregister(c)
	if m.o.Events.Down != nil {
		m.o.Events.Down(c.peer.ID, err)
	}
}

func (m *Mesh) setRTT(id NodeID, ns int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.rtt[id] = time.Duration(ns)
}
