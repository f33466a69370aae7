package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// batchBytes is how much is put together before it is written.
const batchBytes = 64 << 10

// side is a connection to one broker, and what that broker said of itself.
type side struct {
	name      string
	address   string
	c         *mqttclient.Client
	present   bool // it knew the session
	qosMax    byte
	noRetain  bool
	packetMax uint32 // largest packet that it takes; 0: any
	open      window // identifiers of messages that it was sent and has not acknowledged

	mu sync.Mutex // of writing
}

// write sends what is whole packets. It waits as long as the other end does not read, up to the connection's time.
func (s *side) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.c.SendRaw(b); err != nil {
		return fmt.Errorf("write to the %s broker: %w", s.name, err)
	}
	return nil
}

// answer sends an acknowledgement out of turn. The own node gets it without a wait: who reads from it must never wait for it to read.
func (s *side) answer(b []byte) error {
	if now, ok := s.c.Conn().(interface{ WriteNow([]byte) (int, error) }); ok {
		_, err := now.WriteNow(b)
		return err
	}
	return s.write(b)
}

// window holds the identifiers of what is under way to a broker, as many as it takes. Nobody is made to wait by it: from the node never more come than the
// other broker takes, and the node takes as many from a bridge as there are identifiers. So acknowledgements that come behind are always read.
type window struct {
	mu struct {
		sync.Mutex
		changed *sync.Cond
		ids     map[uint16]bool // true: of a message that went over with QoS 1, and has QoS 2 where it comes from
		closed  bool
	}
	size int
}

func (w *window) init(size int) {
	w.size = size
	w.mu.changed = sync.NewCond(&w.mu)
	w.mu.ids = make(map[uint16]bool)
}

// take waits for room, and puts id in. One that is in has its room. false: the connections have ended.
func (w *window) take(id uint16, lowered bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, held := w.mu.ids[id]
	for !held && len(w.mu.ids) >= w.size && !w.mu.closed {
		w.mu.changed.Wait()
	}
	w.mu.ids[id] = lowered
	return !w.mu.closed
}

func (w *window) give(id uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.mu.ids, id)
	w.mu.changed.Signal()
}

// lowered says that id went over with a lower QoS.
func (w *window) lowered(id uint16) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.ids[id]
}

// full says that take would wait.
func (w *window) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mu.ids) >= w.size
}

func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.closed = true
	w.mu.changed.Broadcast()
}

// way hands packets from one side to the other.
type way struct {
	from, to  *side
	routes    routes
	count     *counters
	keepAlive time.Duration // longest silence of from; 0: it may be silent
	out       []byte        // packets for to
	name      []byte
	forward   []byte
}

// errFull says that a broker has no room. What it did not take is sent again later.
var errFull = errors.New("it has no room")

// forever is longer than any connection.
const forever = 365 * 24 * time.Hour

// run goes on until one of the connections ends.
func (w *way) run() error {
	silence := forever
	if w.keepAlive > 0 {
		silence = w.keepAlive
	}
	for {
		p, err := w.from.c.ReadPacket(silence)
		if err != nil {
			return fmt.Errorf("read from the %s broker: %w", w.from.name, err)
		}
		if err := w.take(&p); err != nil {
			return err
		}
		if len(w.out) > 0 && (len(w.out) >= batchBytes || !w.from.c.Buffered()) {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
}

func (w *way) flush() error {
	err := w.to.write(w.out)
	if w.out = w.out[:0]; cap(w.out) > 4*batchBytes {
		w.out = nil
	}
	return err
}

// take does with one packet what it is for.
func (w *way) take(p *mqttclient.Packet) error {
	switch p.Type {
	case wire.PUBLISH:
		return w.publish(p)
	case wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP:
		return w.acknowledge(p)
	case wire.DISCONNECT:
		d, err := p.Disconnect()
		if err != nil {
			return err
		}
		return fmt.Errorf("the %s broker ends the connection: %v %s", w.from.name, d.Reason, d.ReasonString)
	default: // PINGRESP, and answers that came late
		return nil
	}
}

// publish hands a message on under its identifier.
func (w *way) publish(p *mqttclient.Packet) error {
	m, err := p.Publish()
	if err != nil {
		return fmt.Errorf("a message of the %s broker: %w", w.from.name, err)
	}
	name, ok := w.routes.rename(w.name[:0], m.Topic)
	w.name = name
	out := wire.PublishOut{Dup: m.Dup, Retain: m.Retain && !w.to.noRetain, QoS: m.QoS, PacketID: m.PacketID, Topic: name, Payload: m.Payload,
		HasExpiry: m.Props.HasExpiry, Expiry: m.Props.Expiry}
	if w.to.c.Version == wire.V5 && w.from.c.Version == wire.V5 {
		out.Forward, w.forward = m.Props.Forward(w.forward)
	}
	size := wire.SizePublish(w.to.c.Version, &out)
	lowered := m.QoS == 2 && w.to.qosMax == 1 // it was queued before the other side said so
	if lowered {
		out.QoS = 1
	}
	if !ok || out.QoS > w.to.qosMax || w.to.packetMax > 0 && size > int(w.to.packetMax) || size > wire.MaxRemainingLength {
		w.count.refused.Add(1)
		return w.refuse(&m)
	}
	if m.QoS > 0 {
		if w.to.open.full() && len(w.out) > 0 { // what it waits for may be in there
			if err := w.flush(); err != nil {
				return err
			}
		}
		if !w.to.open.take(m.PacketID, lowered) {
			return context.Canceled
		}
	}
	w.out = wire.AppendPublish(w.out, w.to.c.Version, &out)
	w.count.messages.Add(1)
	return nil
}

// refuse acknowledges what cannot be handed on: the topic has left the configuration, the message is too large, or the other side takes QoS 0 alone.
func (w *way) refuse(m *wire.Publish) error {
	a := wire.Ack{PacketID: m.PacketID}
	switch m.QoS {
	case 0:
		return nil
	case 1:
		return w.from.answer(wire.AppendAck(nil, w.from.c.Version, wire.PUBACK, &a))
	}
	if w.from.c.Version == wire.V5 {
		a.Reason = wire.ImplementationSpecific // so that no PUBREL follows
	}
	return w.from.answer(wire.AppendAck(nil, w.from.c.Version, wire.PUBREC, &a))
}

// acknowledge hands an acknowledgement on: each is given only once the other side has given its own.
func (w *way) acknowledge(p *mqttclient.Packet) error {
	a, err := p.Ack()
	if err != nil {
		return fmt.Errorf("an acknowledgement of the %s broker: %w", w.from.name, err)
	}
	failed := a.Reason.Failed() && (p.Type == wire.PUBACK || p.Type == wire.PUBREC)
	if failed && a.Reason == wire.QuotaExceeded {
		return fmt.Errorf("the %s broker does not take a message: %w: %s", w.from.name, errFull, a.ReasonString)
	}
	if failed {
		// The messages that were refused went the other way.
		w.count.other.refused.Add(1)
	}
	typ := p.Type
	switch {
	case typ == wire.PUBREL && w.to.open.lowered(a.PacketID): // the other side has had the one acknowledgement that it gives
		w.to.open.give(a.PacketID)
		return w.from.answer(wire.AppendShortAck(nil, wire.PUBCOMP, a.PacketID))
	case typ == wire.PUBACK && w.from.open.lowered(a.PacketID):
		if typ = wire.PUBREC; failed && w.to.c.Version == wire.V5 { // no PUBREL follows
			w.from.open.give(a.PacketID)
		}
	case typ == wire.PUBACK || typ == wire.PUBCOMP || failed:
		w.from.open.give(a.PacketID)
	}
	out := wire.Ack{PacketID: a.PacketID}
	if failed && typ == wire.PUBREC && w.to.c.Version == wire.V5 {
		out.Reason = a.Reason
	}
	w.out = wire.AppendAck(w.out, w.to.c.Version, typ, &out)
	return nil
}
