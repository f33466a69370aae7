package bench

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// The phases of a connection.
const (
	phaseDialing = iota
	phaseUpgrade // waits for the answer to its WebSocket upgrade
	phaseConnack
	phaseSuback
	phaseReady
	phaseClosed
)

// subscribeBatch is how many filters go into one SUBSCRIBE.
const subscribeBatch = 100

// conn is one client connection. It belongs to its loop.
type conn struct {
	l        *loop
	fd       int
	slot     int
	phase    uint8
	dirty    bool
	armed    bool // waits for room to write
	leaving  bool // its end is wanted
	back     bool // was here before: the broker must have its session
	stood    bool // it has been ready
	durable  bool
	clean    bool
	version  byte
	subQoS   byte
	subID    uint16
	clientID string
	filters  []string // to subscribe to; those sent leave the list
	in       []byte   // the beginning of a packet whose rest has not come
	out      []byte   // MQTT bytes not yet written, or not yet wrapped
	probes   int      // PINGRESP to come that nobody waits for
	sent     int      // how many of the bytes for the socket are written
	layer    *layer   // nil for plain TCP
	dialedAt int64
	lastOut  int64
	pub      *publisher
	sub      *subscriber
	kafka    *kconn    // speaks Kafka's protocol instead
	at       *endpoint // nil: where the run's target is
	plain    bool      // by plain TCP, whatever the run's target has
	host     string    // that a certificate is to be for; "": as the run's target has it

	keepAlive int64 // ns; 0: never
	onReady   func(c *conn)
}

func (c *conn) dial() {
	l := c.l
	c.dialedAt = l.now
	at := &l.run.endpoint
	if c.at != nil {
		at = c.at
	}
	fd, err := at.dial(int(l.run.dialCount.Add(1)-1) + l.run.dialOffset)
	if err != nil {
		if lack := lackOf(err); lack != nil {
			l.run.fail(lack)
		}
		c.down(err)
		return
	}
	c.fd = fd
	if l.run.target.TLS && !c.plain {
		c.layer = &layer{}
		l.run.handshakes.start(c, fd)
		return
	}
	if err := l.add(c, wantWrite); err != nil {
		c.down(err)
	}
}

// opened goes on once the transport, and TLS if there is any, stands.
func (c *conn) opened() {
	if err := c.l.poll.modify(c.fd, c.slot, wantRead); err != nil {
		c.down(err)
		return
	}
	if c.kafka != nil {
		c.kafka.opened()
		return
	}
	if !c.l.run.target.WS || c.plain {
		c.sendConnect()
		return
	}
	if c.layer == nil {
		c.layer = &layer{}
	}
	c.layer.ws = &wsLayer{}
	c.phase = phaseUpgrade
	c.layer.raw = c.layer.appendRaw(c.layer.raw, c.layer.ws.request(c.l.run.target))
	c.markDirty()
}

func (c *conn) sendConnect() {
	cfg := &c.l.run.cfg
	k := wire.Connect{Version: c.version, CleanStart: c.clean, ClientID: wire.View(c.clientID)}
	if c.durable && c.version == wire.V5 {
		k.SessionExpiry = 3600
	}
	if cfg.Username != "" {
		k.UserName = []byte(cfg.Username)
		k.Password = []byte(cfg.Password)
	}
	k.KeepAlive = uint16(cfg.KeepAlive / time.Second)
	if c.sub != nil && cfg.ReceiveMaximum > 0 && c.version == wire.V5 {
		k.ReceiveMaximum = uint16(cfg.ReceiveMaximum)
	}
	c.keepAlive = int64(cfg.KeepAlive)
	c.phase = phaseConnack
	c.l.stats.tally.connects++
	c.write(wire.AppendConnect(c.buffer(), &k))
}

// buffer gives the out buffer, to be appended to and given to write.
func (c *conn) buffer() []byte {
	if c.out == nil {
		c.out = c.l.getBuffer()
	}
	return c.out
}

// write takes the out buffer back, with more in it.
func (c *conn) write(out []byte) {
	c.out = out
	c.markDirty()
}

func (c *conn) markDirty() {
	if !c.dirty {
		c.dirty = true
		c.l.dirty = append(c.l.dirty, c)
	}
}

func (c *conn) ping() {
	c.l.stats.tally.pings++
	c.write(wire.AppendPingreq(c.buffer()))
}

// blocked says that the broker takes nothing more at present.
func (c *conn) blocked() bool {
	if c.layer != nil && len(c.layer.raw)-c.sent > outMax {
		return true
	}
	return len(c.out)-c.sent > outMax
}

// flush writes what the socket takes.
func (c *conn) flush() {
	if c.fd < 0 || c.armed || c.phase == phaseDialing {
		return
	}
	src := &c.out
	if c.layer != nil {
		if err := c.layer.wrap(c); err != nil {
			c.down(err)
			return
		}
		src = &c.layer.raw
	}
	for c.sent < len(*src) {
		n, err := sysWrite(c.fd, (*src)[c.sent:])
		if errors.Is(err, errBlocked) {
			c.armed = true
			c.l.blocked++
			if err := c.l.poll.modify(c.fd, c.slot, wantWrite); err != nil {
				c.down(err)
			}
			return
		}
		if err != nil {
			c.down(fmt.Errorf("write: %w", err))
			return
		}
		c.sent += n
		c.l.stats.tally.wireIn += uint64(n)
	}
	c.sent = 0
	c.lastOut = c.l.now
	c.l.putBuffer(*src)
	*src = nil
	if c.leaving {
		c.close()
	} else if c.pub != nil && c.pub.held {
		c.l.wantPump(c.pub)
	}
}

func (c *conn) writable() {
	if c.phase == phaseDialing {
		if err := dialResult(c.fd); err != nil {
			c.down(err)
			return
		}
		c.opened()
		return
	}
	if !c.armed {
		return
	}
	c.armed = false
	c.l.blocked--
	if err := c.l.poll.modify(c.fd, c.slot, wantRead); err != nil {
		c.down(err)
		return
	}
	c.flush()
	if c.pub != nil {
		c.l.wantPump(c.pub)
	}
}

// readable reads once; what is left makes the socket readable again.
func (c *conn) readable() {
	if c.kafka != nil && c.layer == nil {
		c.kafka.readable()
		return
	}
	l := c.l
	n, err := sysRead(c.fd, l.read)
	if errors.Is(err, errBlocked) {
		return
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	l.now = l.run.clock()
	if err != nil {
		c.down(fmt.Errorf("the broker ended the connection: %w", err))
		return
	}
	l.stats.tally.wireOut += uint64(n)
	if c.layer != nil {
		err = c.layer.unwrap(c, l.read[:n])
	} else {
		err = c.input(l.read[:n])
	}
	if err != nil && c.fd >= 0 {
		c.down(err)
	}
}

// input takes bytes of the MQTT stream, which are the caller's again at return.
func (c *conn) input(b []byte) error {
	if c.kafka != nil {
		return c.kafka.input(b)
	}
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	used := 0
	var err error
	for {
		var h wire.Header
		if h, err = wire.Scan(b[used:], 0, c.version); err != nil {
			break
		}
		if err = c.packet(&h); err != nil || c.fd < 0 {
			break
		}
		used += h.Size
	}
	if c.sub != nil {
		c.sub.settle()
	}
	if err != nil && !errors.Is(err, wire.ErrShort) {
		return err
	}
	if rest := b[used:]; len(rest) > 0 {
		c.in = append(c.in[:0], rest...)
	} else if c.in != nil {
		c.in = c.in[:0]
		if cap(c.in) > 64<<10 {
			c.in = nil
		}
	}
	return nil
}

var errUnexpected = errors.New("the broker sent a packet out of place")

func (c *conn) packet(h *wire.Header) error {
	switch h.Type {
	case wire.PUBLISH:
		if c.sub == nil {
			return errUnexpected
		}
		return c.sub.publish(h)
	case wire.PUBACK, wire.PUBREC, wire.PUBCOMP:
		if c.pub == nil {
			return errUnexpected
		}
		return c.pub.ack(h)
	case wire.PUBREL:
		if c.sub == nil {
			return errUnexpected
		}
		return c.sub.release(h)
	case wire.CONNACK:
		return c.connack(h)
	case wire.SUBACK:
		return c.suback(h)
	case wire.PINGRESP:
		if c.probes > 0 {
			c.probes--
			return nil
		}
		c.l.counts.pongs.Add(1)
		return nil
	case wire.UNSUBACK:
		return nil
	case wire.DISCONNECT:
		d, err := wire.DecodeServerDisconnect(h.Body, c.version)
		if err != nil {
			return err
		}
		return fmt.Errorf("the broker sent DISCONNECT: %v", d.Reason)
	default:
		return errUnexpected
	}
}

func (c *conn) connack(h *wire.Header) error {
	if c.phase != phaseConnack {
		return errUnexpected
	}
	k, err := wire.DecodeConnack(h.Body, c.version)
	if err != nil {
		return err
	}
	if k.Reason.Failed() {
		return fmt.Errorf("the broker refuses the connection: %v", k.Reason)
	}
	if k.HasServerKeepAlive {
		c.keepAlive = int64(k.ServerKeepAlive) * int64(time.Second)
	}
	if c.pub != nil && k.ReceiveMaximum > 0 {
		c.pub.idsMax = min(c.pub.idsMax, int(k.ReceiveMaximum))
	}
	if c.back && !k.SessionPresent {
		return errors.New("the broker has forgotten the session")
	}
	c.l.stats.connect(c.l.now - c.dialedAt)
	if len(c.filters) > 0 {
		c.phase = phaseSuback
		c.subscribe()
		return nil
	}
	c.becomeReady()
	return nil
}

// subscribe sends the next part of the filters.
func (c *conn) subscribe() {
	n := min(len(c.filters), subscribeBatch)
	s := wire.SubscribeOut{Filters: make([]wire.FilterRequest, n)}
	for i, f := range c.filters[:n] {
		s.Filters[i] = wire.FilterRequest{Filter: wire.View(f), QoS: c.subQoS}
	}
	c.subID++
	c.l.stats.tally.subscribes++
	c.l.stats.tally.filters += uint64(n)
	s.PacketID = c.subID
	c.write(wire.AppendSubscribe(c.buffer(), c.version, &s))
}

func (c *conn) suback(h *wire.Header) error {
	s, err := wire.DecodeSuback(h.Body, c.version)
	if err != nil {
		return err
	}
	for i, code := range s.Codes {
		if i >= len(c.filters) || s.PacketID != c.subID {
			return errUnexpected
		}
		if code.Failed() {
			return fmt.Errorf("the broker refuses the filter %q: %v", c.filters[i], code)
		}
		if byte(code) != c.subQoS {
			return fmt.Errorf("the broker grants QoS %d instead of %d for the filter %q", code, c.subQoS, c.filters[i])
		}
	}
	if c.filters = c.filters[len(s.Codes):]; len(c.filters) > 0 {
		c.subscribe()
		return nil
	}
	c.filters = nil
	if c.phase == phaseSuback {
		c.becomeReady()
	} else {
		c.l.counts.ready.Add(1)
	}
	return nil
}

func (c *conn) becomeReady() {
	c.phase = phaseReady
	c.stood = true
	c.l.live++
	c.l.opening--
	c.l.counts.ready.Add(1)
	if c.onReady != nil {
		c.onReady(c)
	}
}

// leave sends DISCONNECT and closes once it is written.
func (c *conn) leave() {
	if c.fd < 0 || c.leaving {
		return
	}
	if c.phase != phaseReady || c.kafka != nil {
		c.close()
		return
	}
	c.leaving = true
	c.l.stats.tally.disconnects++
	c.write(wire.AppendDisconnect(c.buffer(), c.version, &wire.Disconnect{}))
}

// down ends the connection because of err.
func (c *conn) down(err error) {
	wanted := c.leaving || c.phase == phaseClosed
	if c.phase < phaseReady {
		c.l.opening--
	}
	c.close()
	if wanted || c.kafka != nil && c.kafka.role.lost(err) {
		return
	}
	c.l.failConn(c, err)
}

func (c *conn) close() {
	if c.fd >= 0 {
		sysClose(c.fd)
		if c.slot < len(c.l.conns) && c.l.conns[c.slot] == c {
			c.l.conns[c.slot] = nil
			c.l.slots = append(c.l.slots, c.slot)
		}
	}
	c.fd = -1
	if c.phase == phaseReady {
		c.l.live--
	}
	if c.armed {
		c.armed = false
		c.l.blocked--
	}
	c.phase = phaseClosed
	c.l.putBuffer(c.out)
	c.out, c.in = nil, nil
}
