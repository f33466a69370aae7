package mqtt

import (
	"net/netip"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// What is here runs while somebody asks what becomes of messages, and then for what he asks about. Else loopState.trace is nil, which is all that
// the ways of messages look at.

// fate is what has become of a message that was to be delivered: fateUnasked but while deliverTraced or sendTraced asks.
type fate uint8

const (
	fateUnasked fate = iota
	fateSent
	fateQueued
	fateDropped // and which Drop it was
)

// tracedFlight are the marks of messages in flight, by their identifiers.
type tracedFlight struct {
	epoch uint64 // of whom they are; what was in flight in between is not known
	marks map[uint16]trace.Mark
}

// traceLabelName is the user property that marks a message.
const traceLabelName = "trace"

// labelOf is the value of a message's trace property, nil if it has none.
func labelOf(props []byte) []byte {
	for u := wire.UserProperties(props).Read(); ; {
		name, value, ok := u.Next()
		if !ok {
			return nil
		}
		if string(name) == traceLabelName {
			return value
		}
	}
}

// takeTraced is take while somebody asks.
func (c *conn) takeTraced(p *wire.Publish, s *Settings, later delay, bad *failure) (took bool, err error) {
	mark := c.traceReceived(p)
	if spans := c.l.trace.Spans(); spans != nil {
		mark = c.spanReceived(spans, p, mark)
	}
	took, err = c.take(p, s, later, bad, mark)
	if mark != 0 && p.QoS == 0 {
		c.spanAnswered(mark, "")
	}
	return took, err
}

// traceReceived tells of a PUBLISH, and gives its mark if somebody asks about it.
func (c *conn) traceReceived(p *wire.Publish) trace.Mark {
	t := c.l.trace
	var label []byte
	if c.version == wire.V5 && t.Labels() {
		var props []byte
		props, c.l.forward = p.Props.Forward(c.l.forward)
		label = labelOf(props)
	}
	client := c.clientID()
	probes := t.Wants(c.who.tenant, client, c.tracedAddr(t), p.Topic, label)
	if probes == 0 {
		return 0
	}
	mark := t.Mark(c.l.loop.NowUnixMilli(), probes, 0)
	if mark != 0 {
		t.Add(mark, trace.Event{Kind: trace.Received, Client: client, Text: trace.Text(p.Topic), Label: trace.Text(label), QoS: p.QoS,
			PacketID: p.PacketID, Size: int32(len(p.Payload))})
	}
	return mark
}

// traceSaid tells what has become of the client's message.
func (c *conn) traceSaid(mark trace.Mark, kind trace.Kind, why string) {
	if mark == 0 {
		return
	}
	switch kind {
	case trace.Busy:
		c.spanBusy(mark)
	default:
		c.spanAnswered(mark, why)
	}
	if t := c.l.trace; t != nil {
		t.Add(mark, trace.Event{Kind: kind, Client: c.clientID(), Text: trace.Text(why)})
	}
}

// traceAnswered tells that the publisher hears of its message.
func (c *conn) traceAnswered(mark trace.Mark, err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	c.traceSaid(mark, trace.Answered, why)
}

// marked gives the mark of a message that is about to be delivered.
func (c *conn) marked(m *broker.Message, d *broker.Delivery) trace.Mark {
	t, mark := c.l.trace, m.Trace
	if mark == 0 && !d.Ref.Zero() {
		mark = t.Of(d.Ref.Shard, d.Ref.Seq)
	}
	var topic, label []byte
	if !mark.Asked() { // else who asks about them knows it already
		topic = m.Topic
		if len(m.Props) > 0 && t.Labels() {
			label = labelOf(m.Props)
		}
	}
	if probes := t.Wants(c.who.tenant, c.clientID(), c.tracedAddr(t), topic, label); probes != 0 {
		mark = t.Mark(c.l.loop.NowUnixMilli(), probes, mark)
	}
	return mark
}

// tracedAddr is the client's address, if somebody asks about addresses.
func (c *conn) tracedAddr(t *trace.Loop) (a netip.Addr) {
	if t.Addresses() {
		a = c.link.Remote().Addr()
	}
	return a
}

// deliverTraced is deliver while somebody asks.
func (c *conn) deliverTraced(m *broker.Message, d *broker.Delivery) (packetID uint16, ok bool) {
	was, mark := m.Trace, c.marked(m, d)
	if mark != 0 && c.state != stateUp {
		c.l.trace.Add(mark, trace.Event{Kind: trace.Dropped, Client: c.clientID(), Text: "its connection has ended"})
		mark = 0
	}
	c.l.fate = fateSent
	if mark == 0 && m.Trace == 0 && (len(m.Props) == 0 || c.l.trace.Spans() == nil) && (c.extra == nil || c.extra.traced == nil && c.extra.spans == nil) {
		packetID, ok = c.Deliver(m, d)
		c.l.fate = fateUnasked
		return packetID, ok
	}
	m.Trace = mark
	packetID, ok = c.Deliver(m, d)
	m.Trace = was
	c.traceFate(mark, m, d, packetID, ok)
	return packetID, ok
}

// sendTraced is sendAcked, of what has waited in memory, while somebody asks.
func (c *conn) sendTraced(m *broker.Message, d *broker.Delivery) {
	mark := c.marked(m, d)
	c.l.fate = fateSent
	id := c.sendAcked(m, d)
	c.traceFate(mark, m, d, id, true)
}

// traceFate tells what has become of a message that was to be delivered.
func (c *conn) traceFate(mark trace.Mark, m *broker.Message, d *broker.Delivery, id uint16, ok bool) {
	f := c.l.fate
	c.l.fate = fateUnasked
	if ok {
		c.spanDelivered(m, d, id, f)
	}
	if id != 0 {
		c.traceFlight(id, mark)
	}
	if !mark.Asked() {
		return
	}
	e := trace.Event{Client: c.clientID(), QoS: d.QoS, PacketID: id, Size: int32(len(m.Payload))}
	switch {
	case !ok: // it stays in the log: the core says so
		return
	case f == fateQueued:
		e.Kind, e.Text = trace.Queued, "in memory: it has no room"
	case f >= fateDropped:
		e.Kind, e.Text = trace.Dropped, Drop(f-fateDropped).String()
	default:
		e.Kind, e.Text = trace.Sent, trace.Text(m.Topic)
	}
	c.l.trace.Add(mark, e)
}

// traceFlight notes whose acknowledgement an identifier's will be.
func (c *conn) traceFlight(id uint16, mark trace.Mark) {
	x := c.extra
	if !mark.Asked() {
		if x != nil && x.traced != nil {
			delete(x.traced.marks, id)
		}
		return
	}
	x = c.extras()
	if epoch := c.l.trace.Epoch(); x.traced == nil || x.traced.epoch != epoch {
		x.traced = &tracedFlight{epoch: epoch, marks: make(map[uint16]trace.Mark)}
	}
	x.traced.marks[id] = mark
}

// traceLanded tells that the client has acknowledged what bears an identifier.
func (c *conn) traceLanded(id uint16) {
	x := c.extra
	if x == nil {
		return
	}
	if x.spans != nil {
		x.spans.landed(id)
	}
	if x.traced == nil {
		return
	}
	if x.traced.epoch != c.l.trace.Epoch() {
		x.traced = nil
		return
	}
	if mark, ok := x.traced.marks[id]; ok {
		delete(x.traced.marks, id)
		c.l.trace.Add(mark, trace.Event{Kind: trace.Acknowledged, Client: c.clientID(), PacketID: id})
	}
}

// traceConnected, traceRefused and traceEnd tell of the connection itself.
func (c *conn) traceConnected() {
	if t := c.l.trace; t != nil {
		t.Add(t.Peer(c.tenant(), c.clientID(), c.tracedAddr(t)), trace.Event{Kind: trace.Connected, Client: c.clientID(), Text: c.link.Remote().String()})
	}
}

// tenant is the client's; the default one as long as nobody knows who it is.
func (c *conn) tenant() uint32 {
	if c.who == nil {
		return 0
	}
	return c.who.tenant
}

func (c *conn) traceRefused(why *failure) {
	if t := c.l.trace; t != nil {
		t.Add(t.Peer(c.tenant(), c.clientID(), c.tracedAddr(t)), trace.Event{Kind: trace.Refused, Client: c.clientID(), Text: trace.Text(why.detail)})
	}
}

func (c *conn) traceEnd(why string) {
	if t := c.l.trace; t != nil && c.state == stateUp {
		t.Add(t.Peer(c.tenant(), c.clientID(), c.tracedAddr(t)), trace.Event{Kind: trace.Ended, Client: c.clientID(), Text: why})
	}
}
