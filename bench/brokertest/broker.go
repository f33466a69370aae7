// Package brokertest is a small MQTT broker for the tests of bench, mqttclient and the client commands. It can be told to be
// faulty: to drop, double, reorder, corrupt and stall.
//
// It keeps everything in one process under one lock and is written to be obviously right, not fast or complete: no expiry,
// no wills, no limits. Product code never imports it.
package brokertest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Faults say what is done wrong. Zero fields are done right; N means every Nth delivery of the broker.
type Faults struct {
	From         int // deliveries up to this one are done right, whatever the next four say
	DropEvery    int
	DoubleEvery  int
	ReorderEvery int // the delivery is sent after the next one of its publisher to the same session
	CorruptEvery int // one bit of the payload is flipped
	StallAfter   int // nothing at all is sent after so many deliveries
	CloseAfter   int // the connection delivered to is cut after so many deliveries
	IgnoreQueued int // every Nth message for an absent session is thrown away although acknowledged
	NoPuback     bool
	RefuseEvery  int           // every Nth PUBLISH above QoS 0 is answered by a failure and goes nowhere
	DieAfter     int           // after so many PUBLISH the broker is gone: no connection, no listener
	PauseAfter   int           // after so many PUBLISH nothing at all happens for Pause
	Pause        time.Duration // at a time
	FullAfter    int           // after so many CONNECT all others are refused
	Connects     bool          // DropEvery, DoubleEvery, CorruptEvery, StallAfter and DieAfter are of answers to CONNECT
	Refuse       wire.ReasonCode
}

// Options configure a broker.
type Options struct {
	Faults    Faults
	TLS       *tls.Config // nil: plain
	WebSocket bool
	Bind      *Binding // nil: none
}

// Broker is a running broker.
type Broker struct {
	listener net.Listener
	options  Options
	handlers sync.WaitGroup

	mu struct {
		sync.Mutex
		closed     bool
		conns      map[*conn]bool
		sessions   map[string]*session
		retained   map[string]message
		turn       map[string]int // of each share group
		deliveries int
		queued     int
		published  int
		connected  int
		wrong      time.Time // when the first fault was done to a delivery
		dirty      []*conn
	}
}

type message struct {
	topic   string
	payload []byte
	qos     byte
	retain  bool
	forward []byte
}

// origin tells messages of one publisher of package bench apart from those of others: by the run and the number in their payload.
func (m *message) origin() string { return string(m.payload[:min(8, len(m.payload))]) }

type session struct {
	id      string
	conn    *conn // nil while absent
	durable bool
	filters map[string]byte
	queue   []message
	unacked map[uint16]message
	order   []uint16        // of unacked
	recs    map[uint16]bool // QoS 2 received, not released
	rels    map[uint16]bool // QoS 2 sent and received, not completed
	lastID  uint16
	held    *message // kept back to be sent out of order
}

type conn struct {
	net.Conn
	version byte
	out     []byte
	dirty   bool
	dead    bool
	session *session
}

// Start runs a broker on a free port until the test ends.
func Start(t testing.TB, o Options) *Broker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}
	b := &Broker{listener: l, options: o}
	b.mu.conns = map[*conn]bool{}
	b.mu.sessions = map[string]*session{}
	b.mu.retained = map[string]message{}
	b.mu.turn = map[string]int{}
	b.handlers.Go(b.accept)
	t.Cleanup(b.Close)
	return b
}

// URL is the broker's address.
func (b *Broker) URL() string {
	scheme := map[[2]bool]string{{false, false}: "mqtt", {true, false}: "mqtts", {false, true}: "ws", {true, true}: "wss"}
	return scheme[[2]bool{b.options.TLS != nil, b.options.WebSocket}] + "://" + b.listener.Addr().String()
}

// Close ends all connections and waits for their goroutines.
func (b *Broker) Close() {
	_ = b.listener.Close()
	b.mu.Lock()
	b.mu.closed = true
	for c := range b.mu.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.handlers.Wait()
}

// Sessions tells how many sessions there are, connected or not.
func (b *Broker) Sessions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mu.sessions)
}

// Retained tells how many retained messages there are.
func (b *Broker) Retained() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.mu.retained)
}

func (b *Broker) accept() {
	for {
		nc, err := b.listener.Accept()
		if err != nil {
			return
		}
		c := &conn{Conn: nc}
		b.mu.Lock()
		if b.mu.closed {
			_ = nc.Close()
		} else {
			b.mu.conns[c] = true
			b.handlers.Go(func() { b.serve(c) })
		}
		b.mu.Unlock()
	}
}

func (b *Broker) serve(c *conn) {
	defer func() {
		b.mu.Lock()
		b.drop(c)
		b.mu.Unlock()
	}()
	var rest []byte
	if b.options.WebSocket {
		wc, early, err := acceptWebSocket(c.Conn)
		if err != nil {
			return
		}
		b.mu.Lock()
		c.Conn, rest = wc, early
		b.mu.Unlock()
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		rest = append(rest, buf[:n]...)
		b.mu.Lock()
		used, bad := b.packets(c, rest)
		b.flush()
		b.mu.Unlock()
		rest = append(rest[:0], rest[used:]...)
		if err != nil || bad != nil {
			return
		}
	}
}

func (b *Broker) drop(c *conn) {
	_ = c.Close()
	delete(b.mu.conns, c)
	if s := c.session; s != nil && s.conn == c {
		s.conn = nil
		if !s.durable {
			delete(b.mu.sessions, s.id)
		}
	}
}

func (b *Broker) flush() {
	for _, c := range b.mu.dirty {
		c.dirty = false
		if !c.dead {
			if _, err := c.Write(c.out); err != nil {
				c.dead = true
			}
		}
		c.out = c.out[:0]
	}
	b.mu.dirty = b.mu.dirty[:0]
}

func (b *Broker) packets(c *conn, in []byte) (used int, err error) {
	for {
		h, err := wire.Scan(in[used:], 0, c.version)
		if errors.Is(err, wire.ErrShort) {
			return used, nil
		}
		if err == nil {
			err = b.packet(c, h)
		}
		if err != nil {
			return used, err
		}
		used += h.Size
	}
}

func (b *Broker) send(c *conn, packet []byte) {
	c.out = append(c.out, packet...)
	if !c.dirty {
		c.dirty = true
		b.mu.dirty = append(b.mu.dirty, c)
	}
}

func (b *Broker) packet(c *conn, h wire.Header) error {
	if c.session == nil && h.Type != wire.CONNECT {
		return io.EOF // another connection has taken the session over
	}
	switch h.Type {
	case wire.CONNECT:
		return b.connect(c, h.Body)
	case wire.PUBLISH:
		return b.publish(c, h)
	case wire.SUBSCRIBE:
		return b.subscribe(c, h.Body)
	case wire.UNSUBSCRIBE:
		u, err := wire.DecodeUnsubscribe(h.Body, c.version)
		if err != nil {
			return err
		}
		r := u.Filters()
		codes := make([]wire.ReasonCode, u.Count)
		for f, ok := r.Next(); ok; f, ok = r.Next() {
			delete(c.session.filters, string(f.Filter))
		}
		b.send(c, wire.AppendUnsuback(nil, c.version, &wire.Suback{PacketID: u.PacketID, Codes: codes}))
	case wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP:
		return b.ack(c, h)
	case wire.PINGREQ:
		b.send(c, wire.AppendPingresp(nil))
	case wire.DISCONNECT:
		return io.EOF
	default: // nothing to say
	}
	return nil
}

func (b *Broker) connect(c *conn, body []byte) error {
	k, err := wire.DecodeConnect(body)
	if err != nil {
		return err
	}
	c.version = k.Version
	b.mu.connected++
	r := b.options.Faults.Refuse
	if n := b.options.Faults.FullAfter; n > 0 && b.mu.connected > n {
		r = wire.ServerBusy
	}
	if r != wire.Success {
		b.send(c, wire.AppendConnack(nil, c.version, &wire.Connack{Reason: r}))
		b.flush()
		return io.EOF
	}
	id := string(k.ClientID)
	if id == "" {
		id = fmt.Sprintf("auto-%p", c)
	}
	old := b.mu.sessions[id]
	if old != nil && old.conn != nil {
		_ = old.conn.Close()
		old.conn.session = nil
	}
	present := old != nil && !k.CleanStart
	if !present {
		old = &session{id: id, filters: map[string]byte{}, unacked: map[uint16]message{}, recs: map[uint16]bool{},
			rels: map[uint16]bool{}}
		b.mu.sessions[id] = old
	}
	old.conn, old.durable = c, k.SessionExpiry > 0 || (k.Version != wire.V5 && !k.CleanStart)
	c.session = old
	if err := b.connack(c, present); err != nil {
		return err
	}
	for _, pid := range old.order {
		if m, ok := old.unacked[pid]; ok {
			b.write(c, m, pid, true)
		}
	}
	for pid := range old.rels {
		b.send(c, wire.AppendShortAck(nil, wire.PUBREL, pid))
	}
	queue := old.queue
	old.queue = nil
	for _, m := range queue {
		b.deliver(old, m)
	}
	return nil
}

// connack answers a CONNECT, as the faults have it.
func (b *Broker) connack(c *conn, present bool) error {
	out := wire.AppendConnack(nil, c.version, &wire.Connack{SessionPresent: present})
	if f, n := &b.options.Faults, b.mu.connected; f.Connects {
		switch {
		case every(f.DropEvery, n), f.StallAfter > 0 && n > f.StallAfter:
			return nil
		case every(f.CorruptEvery, n):
			out[2] ^= 0x40 // a flag that has to be zero
		case every(f.DoubleEvery, n):
			out = append(out, out...)
		case f.DieAfter > 0 && n > f.DieAfter:
			return b.die()
		}
	}
	b.send(c, out)
	return nil
}

// die ends the broker: no connection, no listener.
func (b *Broker) die() error {
	_ = b.listener.Close()
	for c := range b.mu.conns {
		_ = c.Close()
	}
	return io.EOF
}

func (b *Broker) publish(c *conn, h wire.Header) error {
	p, err := wire.DecodePublish(h.Flags, h.Body, c.version)
	if err != nil {
		return err
	}
	f := &b.options.Faults
	b.mu.published++
	switch n := b.mu.published; {
	case f.DieAfter > 0 && n >= f.DieAfter && !f.Connects:
		return b.die()
	case f.PauseAfter > 0 && n == f.PauseAfter:
		b.flush()
		<-time.After(f.Pause) // with the lock
	case p.QoS > 0 && every(f.RefuseEvery, n):
		kind := wire.PUBACK
		if p.QoS == 2 {
			kind = wire.PUBREC
		}
		b.send(c, wire.AppendAck(nil, c.version, kind, &wire.Ack{PacketID: p.PacketID, Reason: wire.QuotaExceeded}))
		return nil
	}
	forward, _ := p.Props.Forward(nil)
	m := message{string(p.Topic), append([]byte(nil), p.Payload...), p.QoS, false, append([]byte(nil), forward...)}
	fresh := true
	switch p.QoS {
	case 1:
		if !b.options.Faults.NoPuback {
			b.send(c, wire.AppendShortAck(nil, wire.PUBACK, p.PacketID))
		}
	case 2:
		fresh = !c.session.recs[p.PacketID]
		c.session.recs[p.PacketID] = true
		b.send(c, wire.AppendShortAck(nil, wire.PUBREC, p.PacketID))
	}
	if !fresh {
		return nil
	}
	if p.Retain {
		kept := m
		kept.retain = true
		if b.mu.retained[m.topic] = kept; len(m.payload) == 0 {
			delete(b.mu.retained, m.topic)
		}
	}
	if b.options.Bind != nil {
		b.options.Bind.store(&m)
	}
	b.route(m)
	return nil
}

func (b *Broker) route(m message) {
	groups := map[string][]*session{}
	for _, s := range b.mu.sessions {
		best, hit := byte(0), false
		for f, qos := range s.filters {
			shared, filter := splitShare(f)
			if !matches(filter, m.topic) {
				continue
			}
			if shared != "" {
				groups[shared] = append(groups[shared], s)
				continue
			}
			hit, best = true, max(best, qos)
		}
		if hit {
			out := m
			out.qos = min(m.qos, best)
			b.deliver(s, out)
		}
	}
	for name, members := range groups {
		b.mu.turn[name]++
		least := members[0]
		for _, s := range members { // any stable choice will do: the turn'th by client id
			if rank(members, s) == b.mu.turn[name]%len(members) {
				least = s
			}
		}
		b.deliver(least, m)
	}
}

func rank(members []*session, s *session) (n int) {
	for _, o := range members {
		if o.id < s.id {
			n++
		}
	}
	return n
}

func (b *Broker) deliver(s *session, m message) {
	f := &b.options.Faults
	if s.conn == nil {
		if m.qos == 0 {
			return
		}
		if b.mu.queued++; !every(f.IgnoreQueued, b.mu.queued) {
			s.queue = append(s.queue, m)
		}
		return
	}
	b.mu.deliveries++
	n := b.mu.deliveries
	if n <= f.From || f.Connects {
		b.transmit(s, m)
		return
	}
	if f.StallAfter > 0 && n > f.StallAfter || every(f.DropEvery, n) || every(f.CorruptEvery, n) || every(f.ReorderEvery, n) || every(f.DoubleEvery, n) {
		b.wrong()
	}
	switch {
	case f.StallAfter > 0 && n > f.StallAfter, every(f.DropEvery, n):
		return
	case every(f.CorruptEvery, n) && len(m.payload) > 0:
		m.payload = append([]byte(nil), m.payload...)
		m.payload[len(m.payload)/2] ^= 0x10
	case every(f.ReorderEvery, n) && s.held == nil:
		s.held = &m
		return
	}
	b.transmit(s, m)
	if every(f.DoubleEvery, n) {
		b.transmit(s, m)
	}
	if held := s.held; held != nil && held.origin() == m.origin() {
		s.held = nil
		b.transmit(s, *held)
	}
	if f.CloseAfter > 0 && n == f.CloseAfter {
		b.flush()
		_ = s.conn.Close()
	}
}

// wrong notes that a fault is done.
func (b *Broker) wrong() {
	if b.mu.wrong.IsZero() {
		b.mu.wrong = time.Now()
	}
}

// FirstWrong is when the first fault was done to a delivery; zero: never.
func (b *Broker) FirstWrong() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.wrong
}

func every(n, i int) bool { return n > 0 && i%n == 0 }

func (b *Broker) transmit(s *session, m message) {
	id := uint16(0)
	if m.qos > 0 {
		if s.lastID++; s.lastID == 0 {
			s.lastID = 1
		}
		id = s.lastID
		s.unacked[id] = m
		s.order = append(s.order, id)
		if len(s.order) > 4096 && len(s.order) > 2*len(s.unacked) {
			s.compact()
		}
	}
	b.write(s.conn, m, id, false)
}

// compact forgets the identifiers that have been answered.
func (s *session) compact() {
	kept := s.order[:0]
	for _, id := range s.order {
		if _, ok := s.unacked[id]; ok {
			kept = append(kept, id)
		}
	}
	s.order = kept
}

func (b *Broker) write(c *conn, m message, id uint16, dup bool) {
	b.send(c, wire.AppendPublish(nil, c.version, &wire.PublishOut{Dup: dup, QoS: m.qos, Retain: m.retain, PacketID: id,
		Topic: []byte(m.topic), Payload: m.payload, Forward: m.forward}))
}

func (b *Broker) subscribe(c *conn, body []byte) error {
	sub, err := wire.DecodeSubscribe(body, c.version)
	if err != nil {
		return err
	}
	var codes []wire.ReasonCode
	r := sub.Filters()
	for f, ok := r.Next(); ok; f, ok = r.Next() {
		c.session.filters[string(f.Filter)] = f.QoS
		codes = append(codes, wire.ReasonCode(f.QoS))
	}
	b.send(c, wire.AppendSuback(nil, c.version, &wire.Suback{PacketID: sub.PacketID, Codes: codes}))
	r = sub.Filters()
	for f, ok := r.Next(); ok; f, ok = r.Next() {
		for topic, m := range b.mu.retained {
			if !wire.IsShared(f.Filter) && matches(string(f.Filter), topic) {
				m.qos = min(m.qos, f.QoS)
				b.deliver(c.session, m)
			}
		}
	}
	return nil
}

func (b *Broker) ack(c *conn, h wire.Header) error {
	a, err := wire.DecodeAck(h.Type, h.Body, c.version)
	if err != nil {
		return err
	}
	switch h.Type {
	case wire.PUBREC:
		delete(c.session.unacked, a.PacketID)
		c.session.rels[a.PacketID] = true
		b.send(c, wire.AppendShortAck(nil, wire.PUBREL, a.PacketID))
	case wire.PUBREL:
		delete(c.session.recs, a.PacketID)
		b.send(c, wire.AppendShortAck(nil, wire.PUBCOMP, a.PacketID))
	default:
		delete(c.session.unacked, a.PacketID)
		delete(c.session.rels, a.PacketID)
	}
	return nil
}

func splitShare(f string) (group, filter string) {
	if rest, ok := strings.CutPrefix(f, "$share/"); ok {
		name, filter, _ := strings.Cut(rest, "/")
		return name + "/" + filter, filter
	}
	return "", f
}

func matches(filter, topic string) bool {
	fl, tl := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, f := range fl {
		switch {
		case f == "#":
			return true
		case i >= len(tl), f != "+" && f != tl[i]:
			return false
		}
	}
	return len(fl) == len(tl)
}

// wsServer is the MQTT byte stream at the server's end of a WebSocket.
type wsServer struct {
	net.Conn
	in   *bufio.Reader
	left int
	mask uint32
}

func acceptWebSocket(nc net.Conn) (net.Conn, []byte, error) {
	in := bufio.NewReader(nc)
	req, err := http.ReadRequest(in)
	if err != nil {
		return nil, nil, err
	}
	if req.URL.Path != "/mqtt" || req.Header.Get("Sec-WebSocket-Protocol") != "mqtt" {
		_, _ = io.WriteString(nc, "HTTP/1.1 404 Not Found\r\n\r\n")
		return nil, nil, fmt.Errorf("path %q", req.URL.Path)
	}
	_, err = fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: %s\r\n\r\n", mqttclient.AcceptKey(req.Header.Get("Sec-WebSocket-Key")))
	return &wsServer{Conn: nc, in: in}, nil, err
}

// Read gives the payload of binary frames. A close frame is the end.
func (w *wsServer) Read(b []byte) (int, error) {
	for w.left == 0 {
		var head [2]byte
		if _, err := io.ReadFull(w.in, head[:]); err != nil {
			return 0, err
		}
		size := int(head[1] & 0x7F)
		if size >= 126 {
			more := make([]byte, 2+6*(size-126))
			if _, err := io.ReadFull(w.in, more); err != nil {
				return 0, err
			}
			size = 0
			for _, x := range more {
				size = size<<8 | int(x)
			}
		}
		var mask [4]byte
		if _, err := io.ReadFull(w.in, mask[:]); err != nil || head[0]&0x0F != mqttclient.OpBinary {
			return 0, io.EOF
		}
		w.left, w.mask = size, uint32(mask[0])|uint32(mask[1])<<8|uint32(mask[2])<<16|uint32(mask[3])<<24
	}
	n, err := w.in.Read(b[:min(len(b), w.left)])
	mqttclient.Mask(b[:n], w.mask)
	w.left -= n
	w.mask = w.mask>>(8*(n&3)) | w.mask<<(32-8*(n&3))
	return n, err
}

// Write sends b as frames of various sizes, so that a reader has to put packets together.
func (w *wsServer) Write(b []byte) (int, error) {
	var out []byte
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 100+len(out)%900)
		if n < 126 {
			out = append(out, 0x80|mqttclient.OpBinary, byte(n))
		} else {
			out = append(out, 0x80|mqttclient.OpBinary, 126, byte(n>>8), byte(n))
		}
		out = append(out, rest[:n]...)
		rest = rest[n:]
	}
	if _, err := w.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}
