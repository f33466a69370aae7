package mqtt

import (
	"errors"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// inbound is what a connection remembers of messages that its client has sent.
type inbound struct {
	acks     ackRing
	received idTable // QoS 2 identifiers from PUBREC until PUBCOMP
	requests []request
	asked    int // filters of them
	nextReq  uint32
}

// States of a received QoS 2 identifier.
const (
	receivedHeld      uint8 = iota + 1 // PUBREC has left
	receivedReleasing                  // PUBREL has come and the core is at it
)

func (c *conn) inbound() *inbound {
	if c.in == nil {
		c.in = &inbound{}
	}
	return c.in
}

// unanswered is what counts against the receive maximum.
func (in *inbound) unanswered() int { return in.acks.len() + in.received.len() }

// onPublish takes a message. What is wrong with the message alone is answered by its acknowledgement; what is wrong with the
// client ends the connection.
func (c *conn) onPublish(h *wire.Header) (took bool, err error) {
	p, err := wire.DecodePublish(h.Flags, h.Body, c.version)
	if err != nil {
		return true, err
	}
	s := c.l.h.settings.Load()
	if p.Props.TopicAlias != 0 {
		if p.Topic, err = c.resolveAlias(p.Props.TopicAlias, p.Topic); err != nil {
			return true, err
		}
	}
	later, bad := takeDelay(&p, s)
	if s.Rewrite != nil {
		p.Topic = c.rewriteTopic(s, p.Topic)
	}
	if c.flags&flagMounted != 0 {
		var why *failure
		if p.Topic, why = c.mountTopic(p.Topic); bad == nil {
			bad = why
		}
	}
	if p.QoS > s.MaxQoS {
		return true, failQoS
	}
	if p.Retain && !s.Retain {
		return true, failRetain
	}
	if p.QoS > 0 {
		done, err := c.admitPublish(&p)
		if done || err != nil {
			return true, err
		}
	}
	if c.l.trace != nil {
		return c.takeTraced(&p, s, later, bad)
	}
	return c.take(&p, s, later, bad, 0)
}

// take gives a message to the core if nothing is wrong with it; bad: something is.
func (c *conn) take(p *wire.Publish, s *Settings, later delay, bad *failure, mark trace.Mark) (took bool, err error) {
	why, drop := bad, DropRefused
	if why == nil {
		why, drop = c.judgePublish(p, s)
	}
	if why != nil {
		c.traceSaid(mark, trace.Denied, why.detail)
		return true, c.refusePublish(p, why, drop)
	}
	return c.route(p, s, later, mark)
}

// admitPublish looks at a QoS 1 or 2 message's identifier. done says that the packet needs no more: it was here before.
func (c *conn) admitPublish(p *wire.Publish) (done bool, err error) {
	in := c.in
	if in == nil {
		return false, nil
	}
	if p.QoS == 2 {
		if _, known := in.received.get(p.PacketID); known {
			c.answer(p, wire.Success, "")
			return true, nil
		}
		if p.Dup && in.acks.waits(p.PacketID, wire.PUBREC) {
			return true, nil // answered with the first one
		}
	}
	if c.version == wire.V5 && in.unanswered() >= int(c.promised) {
		return false, failReceiveMax
	}
	return false, nil
}

// judgePublish looks for what makes a message unacceptable.
func (c *conn) judgePublish(p *wire.Publish, s *Settings) (*failure, Drop) {
	switch {
	case s.Topics.CheckName(p.Topic) != nil:
		return failTopicLimit, DropRefused
	case p.Topic[0] == '$' && reserved(p.Topic, s):
		return failTopicReserved, DropNotAuthorized
	case !c.mayPublish(p.Topic):
		return failPublishACL, DropNotAuthorized
	case s.ValidatePayload && p.Props.PayloadFormat == 1 && !wire.ValidPayload(p.Payload):
		return failPayload, DropRefused
	}
	return nil, 0
}

// refusePublish drops a message and says so where the version has a word for it. MQTT 3 has none: what the client may not do is
// acknowledged all the same (3.3.5-2), and a message that was lost for another reason ends the connection.
func (c *conn) refusePublish(p *wire.Publish, why *failure, drop Drop) error {
	c.dropped(drop)
	if p.QoS == 0 {
		return nil
	}
	if c.version == wire.V5 {
		c.answer(p, why.code, why.detail)
		return nil
	}
	if drop == DropNotAuthorized || drop == DropRefused {
		c.answer(p, wire.Success, "")
		return nil
	}
	return why
}

// answer acknowledges a PUBLISH, behind those that came before it.
func (c *conn) answer(p *wire.Publish, code wire.ReasonCode, detail string) {
	typ := wire.PUBACK
	if p.QoS == 2 {
		typ = wire.PUBREC
	}
	if c.in != nil && c.in.acks.len() > 0 {
		seq := c.in.push(ack{id: p.PacketID, typ: typ})
		c.in.acks.finish(seq, code)
		return
	}
	c.acknowledge(ack{id: p.PacketID, typ: typ, reason: code}, detail)
}

func (in *inbound) push(a ack) uint32 { return in.acks.push(a) }

// acknowledge sends an answer. A QoS 2 message that was taken is held from here on.
func (c *conn) acknowledge(a ack, detail string) {
	if a.typ == wire.PUBREC && !a.reason.Failed() {
		in := c.inbound()
		if _, known := in.received.get(a.id); !known {
			in.received.put(a.id, receivedHeld)
		}
	}
	c.reply(a.typ, a.id, a.reason, detail)
}

// route gives the message to the core.
func (c *conn) route(p *wire.Publish, s *Settings, later delay, mark trace.Mark) (took bool, err error) {
	l := c.l
	m := &l.msg
	*m = broker.Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain,
		Timestamp: l.loop.NowUnixMilli(), Publisher: c.client.Slot, Trace: mark}
	if p.Props.HasForward() || p.Props.HasExpiry { // of MQTT 5, or a context that the node has given the message
		m.Props, l.forward = p.Props.Forward(l.forward)
		if p.Props.HasExpiry {
			m.Deadline = later.due(m.Timestamp) + int64(p.Props.Expiry)*1000
		}
	}
	if len(s.Properties) > 0 {
		m.Props = c.applyRules(s, p.Topic, m.Props)
	}
	if p.QoS == 0 {
		_, err = c.give(m, later, false, 0)
	} else {
		err = c.routeAcked(p, m, later)
	}
	if err != nil {
		if errors.Is(err, broker.ErrBusy) {
			c.block(blockBusy)
			c.traceSaid(mark, trace.Busy, "")
			return false, nil
		}
		if mark != 0 {
			c.traceSaid(mark, trace.Dropped, err.Error())
		}
		if errors.Is(err, broker.ErrNotLeader) {
			c.dropped(DropUnavailable)
			return true, failElsewhere // no answer: the client sends it again, to who leads
		}
		return true, c.refusePublish(p, coreFailure(err), dropOf(err))
	}
	l.n.MessagesIn[p.QoS]++
	l.n.PayloadIn += uint64(len(p.Payload))
	if l.busy != nil && c.who.tenant == 0 {
		l.countIn(p.Topic, len(p.Payload))
	}
	return true, nil
}

// dropOf is how a message that the core did not take is counted.
func dropOf(err error) Drop {
	if errors.Is(err, broker.ErrQuota) {
		return DropQuota
	}
	return DropUnavailable
}

// routeAcked is route for QoS 1 and 2. The answer has its place in the order before the core is asked.
func (c *conn) routeAcked(p *wire.Publish, m *broker.Message, later delay) error {
	typ := wire.PUBACK
	if p.QoS == 2 {
		typ = wire.PUBREC
	}
	in := c.inbound()
	seq := in.push(ack{id: p.PacketID, typ: typ})
	outcome, err := c.give(m, later, p.QoS == 2, token(tokenPublish, seq, p.PacketID))
	if err != nil {
		in.acks.drop()
		return err
	}
	switch outcome {
	case broker.Routed:
		in.acks.finish(seq, wire.Success)
	case broker.NoMatch:
		in.acks.finish(seq, wire.NoMatchingSubscribers)
	default:
		if in.acks.len() >= int(c.promised) && c.version != wire.V5 {
			c.block(blockAcks) // below version 5 nothing else bounds what is unanswered
		}
		return nil
	}
	if m.Trace != 0 {
		c.traceAnswered(m.Trace, nil)
	}
	if in.acks.len() == 1 || seq == in.acks.head {
		c.sendAcks()
	}
	return nil
}

// publishDone takes the core's word about a message that was pending. It was kept for somebody, so there are subscribers.
func (c *conn) publishDone(seq uint32, r broker.Result) {
	if c.in == nil {
		return
	}
	code := wire.Success
	if r.Trace != 0 {
		c.traceAnswered(r.Trace, r.Err)
	}
	if r.Err != nil {
		why := coreFailure(r.Err)
		c.dropped(dropOf(r.Err))
		if c.version != wire.V5 || why.code == wire.ServerShuttingDown {
			c.end(*why)
			return
		}
		code = why.code
		if why == failFilter {
			code = wire.UnspecifiedError
		}
	}
	if c.in.acks.finish(seq, code) {
		c.sendAcks()
	}
}

// sendAcks sends the answers that are known, up to the first one that is not.
func (c *conn) sendAcks() {
	for {
		a, ok := c.in.acks.pop()
		if !ok {
			break
		}
		detail := ""
		if a.reason.Failed() {
			detail = "message was refused"
		}
		c.acknowledge(a, detail)
	}
	if c.blocked&blockAcks != 0 && c.in.acks.len() <= int(c.promised)/2 {
		c.unblock(blockAcks)
	}
}

// onPubrel takes the release of a QoS 2 message.
func (c *conn) onPubrel(h *wire.Header) (took bool, err error) {
	a, err := wire.DecodeAck(wire.PUBREL, h.Body, c.version)
	if err != nil {
		return true, err
	}
	var state uint8
	if c.in != nil {
		state, _ = c.in.received.get(a.PacketID)
	}
	switch {
	case state == receivedReleasing:
		return true, nil // answered with the first one
	case state == 0:
		c.reply(wire.PUBCOMP, a.PacketID, wire.PacketIdentifierNotFound, "")
		return true, nil
	case c.flags&flagDurable == 0:
		c.completed(a.PacketID)
		return true, nil
	}
	c.in.received.put(a.PacketID, receivedReleasing)
	outcome, err := c.l.core.Release(c.client, a.PacketID, token(tokenRelease, 0, a.PacketID))
	switch {
	case errors.Is(err, broker.ErrBusy):
		c.in.received.put(a.PacketID, receivedHeld)
		c.block(blockBusy)
		return false, nil
	case err != nil:
		return true, coreFailure(err)
	case outcome != broker.Pending:
		c.completed(a.PacketID)
	}
	return true, nil
}

// completed ends a QoS 2 message of the client.
func (c *conn) completed(id uint16) {
	c.in.received.del(id)
	c.reply(wire.PUBCOMP, id, wire.Success, "")
}

// releaseDone takes the core's word about a release. PUBCOMP cannot say that it failed: the client asks again after it has come
// back.
func (c *conn) releaseDone(id uint16, err error) {
	if err != nil {
		c.end(*coreFailure(err))
		return
	}
	if c.in != nil {
		c.completed(id)
	}
}
