package mqtt

import (
	"errors"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// outbound is what a connection remembers of messages on their way to its client.
type outbound struct {
	flight idTable // identifiers in use, with their state
	queue  messageQueue
	slow   slowNote
	heard  int64  // when the client last acknowledged something, or had nothing to
	nextID uint16 // the last one that was taken
}

// States of an identifier in flight. sentKept is set in them if the core wants to be told of the end.
const (
	sentPublish1  uint8 = iota + 1 // PUBACK is due
	sentPublish2                   // PUBREC is due
	sentReceiving                  // PUBREC has come and the core is at it
	sentPubrel                     // PUBCOMP is due
	sentKept      uint8 = 0x80
)

// blockBytes is the payload from which on it is shared by reference instead of copied to each receiver.
const blockBytes = 4096

func (c *conn) outbound() *outbound {
	if c.out == nil {
		c.out = &outbound{}
	}
	return c.out
}

// window is how many messages may be in flight; some of the connection's own half of the identifiers stay free.
func (c *conn) window() int {
	return int(min(c.receiveMax, c.l.h.settings.Load().InflightMax, broker.CorePacketIDs/2))
}

// room tells whether a QoS 1 or 2 message can be sent now.
func (c *conn) room() bool {
	return (c.out == nil || c.out.flight.len() < c.window()) && c.flags&(flagOverQuota|flagOverTenant) == 0 && !c.overBound()
}

// overBound tells that the client does not take what is sent.
func (c *conn) overBound() bool { return c.link.Queued() > c.l.h.queueBytes() }

// Room tells whether retained messages may come: the core sends them in turns. If not, Local.Ready follows when there is room.
func (c *conn) Room() bool {
	if c.state != stateUp || c.room() && (c.out == nil || c.out.queue.empty()) {
		return true
	}
	c.markSlow()
	c.flags |= flagStarved
	return false
}

// Deliver sends one message, or has it wait; see broker.Subscriber.
func (c *conn) Deliver(m *broker.Message, d *broker.Delivery) (packetID uint16, ok bool) {
	if c.l.trace != nil && c.l.fate == fateUnasked {
		return c.deliverTraced(m, d)
	}
	kept := !d.Ref.Zero()
	if c.state != stateUp {
		return 0, !kept // what is not kept is lost with its session
	}
	if c.who.use != nil {
		c.lookTenant()
	}
	if d.QoS == 0 {
		switch {
		case c.flags&(flagOverQuota|flagOverTenant) != 0:
			c.dropped(DropQuota)
		case c.overBound():
			c.dropped(DropSlowReader)
			c.markSlow()
		default:
			c.send(m, d, 0)
		}
		return 0, true
	}
	again := d.Dup && kept && d.PacketID != 0 // what the session had in flight before comes once, and is bounded by the window
	if !again && (!c.room() || c.out != nil && !c.out.queue.empty()) {
		c.markSlow()
		if kept {
			c.flags |= flagStarved
			return 0, false
		}
		c.enqueue(m, d)
		return 0, true
	}
	return c.sendAcked(m, d), true
}

// sendAcked sends a QoS 1 or 2 message for which there is room, and returns its identifier.
func (c *conn) sendAcked(m *broker.Message, d *broker.Delivery) uint16 {
	out := c.outbound()
	id := d.PacketID
	if id == 0 {
		id = out.takeID()
	}
	state := sentPublish1
	if d.QoS == 2 {
		state = sentPublish2
	}
	kept := !d.Ref.Zero()
	if kept {
		state |= sentKept
	}
	if out.flight.len() == 0 {
		out.heard = c.l.loop.NowMono()
	}
	out.flight.put(id, state)
	if c.flags&flagSlow != 0 {
		out.slow.since = c.l.loop.NowMono() // it takes something
	}
	if !c.send(m, d, id) {
		out.flight.del(id)
		if kept {
			c.l.put(after{c: c, ack: id})
		}
	} else if c.l.late != nil {
		c.probed(m, d, id)
	}
	return id
}

// takeID finds a free identifier of the connection's own half. The window is smaller than that.
func (o *outbound) takeID() uint16 {
	for {
		if o.nextID++; o.nextID >= broker.CorePacketIDs {
			o.nextID = 1
		}
		if _, used := o.flight.get(o.nextID); !used {
			return o.nextID
		}
	}
}

// enqueue has a message wait for a place in the window. There is no room for ever: QoS 1 and 2 messages are promised, so the
// session ends rather than that one is lost unsaid.
func (c *conn) enqueue(m *broker.Message, d *broker.Delivery) {
	q := &c.outbound().queue
	if q.bytes()+queuedSize(m, d) > c.l.h.queueBytes() {
		c.dropped(DropQueueFull)
		if c.l.h.settings.Load().OnFullDrop {
			return
		}
		c.l.put(after{c: c, fail: failQueueFull})
		return
	}
	q.push(c.l.loop.Pool(), m, d)
	if c.l.fate != fateUnasked {
		c.l.fate = fateQueued
	}
}

// moveOn uses what room there is: for the connection's own queue, then for what the core holds.
func (c *conn) moveOn() {
	if c.flags&flagInData != 0 {
		c.flags |= flagMoveOn
		return
	}
	if c.state != stateUp || c.out == nil && c.flags&flagStarved == 0 {
		return
	}
	l := c.l
	for c.out != nil && !c.out.queue.empty() && c.room() {
		l.ids = c.out.queue.peek(&l.queued, &l.handed, l.ids)
		if l.trace != nil {
			c.sendTraced(&l.queued, &l.handed)
		} else {
			c.sendAcked(&l.queued, &l.handed)
		}
		c.out.queue.pop(l.loop.Pool())
	}
	if c.flags&flagStarved != 0 && c.room() && (c.out == nil || c.out.queue.empty()) {
		c.flags &^= flagStarved
		l.core.Ready(c.client)
	}
}

// kindLarge in EncodeCache.Kind says that loopState.payload holds the message's payload; else Kind says of which kind the encoded
// packet is.
const (
	kindSmall = 1 << 8
	kindLarge = 1 << 9
)

// send encodes a message into the out queue. False says that it was dropped, and counted, instead.
func (c *conn) send(m *broker.Message, d *broker.Delivery, id uint16) bool {
	l := c.l
	out := &l.out
	alone := false // the packet is like no other connection's
	topic := m.Topic
	if c.flags&flagMounted != 0 {
		if topic, alone = c.unmounted(topic); !alone {
			c.dropped(DropOutside)
			return false
		}
	}
	*out = wire.PublishOut{Dup: d.Dup, Retain: d.Retain, QoS: d.QoS, PacketID: id, Topic: topic, Payload: m.Payload}
	if m.Deadline != 0 {
		// The publisher's loop may have looked at the clock after this one's turn began: no more is left than there was.
		left := m.Deadline - max(l.loop.NowUnixMilli(), m.Timestamp)
		if left <= 0 {
			c.dropped(DropExpired)
			return false
		}
		out.HasExpiry, out.Expiry = true, uint32(min((left+999)/1000, 1<<32-1))
	}
	learn := false
	if c.version == wire.V5 {
		out.Forward, out.SubIDs = m.Props, d.SubscriptionIDs
		alone = alone || len(out.SubIDs) > 0
		if alias, known := c.assignAlias(topic); alias != 0 {
			out.TopicAlias, alone, learn = alias, true, !known
			if known {
				out.Topic = nil
			}
		}
	}
	size := wire.SizePublish(c.version, out)
	if size > maxPacketSize || c.maxPacket != 0 && size > int(c.maxPacket) {
		c.dropped(DropTooLarge)
		return false
	}
	switch {
	case len(m.Payload) >= blockBytes:
		c.sendLarge(m.Cache, size)
	case alone || m.Cache == nil:
		c.link.Commit(len(wire.AppendPublish(c.link.Reserve(size), c.version, out)))
	default:
		c.sendCached(m.Cache, size)
	}
	if learn {
		c.extra.alias.learned(topic)
	}
	if l.quotaNow != 0 {
		c.meterSent(size)
	}
	if c.who.use != nil {
		c.sentTenant(size)
	}
	l.sent(wire.PUBLISH)
	l.n.MessagesOut[d.QoS]++
	l.n.PayloadOut += uint64(len(m.Payload))
	if l.busy != nil && c.who.tenant == 0 {
		l.countOut(m.Topic, len(m.Payload))
	}
	return true
}

// sendCached sends l.out by way of the form that was encoded for a receiver before.
func (c *conn) sendCached(cache *broker.EncodeCache, size int) {
	out := &c.l.out
	kind := kindSmall | uint32(c.version) | uint32(out.QoS)<<4
	if out.Retain {
		kind |= 1 << 6
	}
	if out.Dup {
		kind |= 1 << 7
	}
	if cache.Kind != kind {
		cache.Buf = wire.AppendPublish(cache.Buf[:0], c.version, out)
		cache.Kind = kind
	}
	b := append(c.link.Reserve(size), cache.Buf...)
	if out.QoS > 0 {
		at := 1 // behind fixed header and topic
		for b[at] >= 0x80 {
			at++
		}
		at += 1 + 2 + len(out.Topic)
		b[at], b[at+1] = byte(out.PacketID>>8), byte(out.PacketID)
	}
	c.link.Commit(len(b))
}

// sendLarge sends l.out with its payload by reference. All receivers of one message share one copy of it.
func (c *conn) sendLarge(cache *broker.EncodeCache, size int) {
	l := c.l
	out := &l.out
	head := size - len(out.Payload)
	c.link.Commit(len(wire.AppendPublishHeader(c.link.Reserve(head), c.version, out, len(out.Payload))))
	if cache == nil || cache.Kind != kindLarge || l.payload == nil {
		if l.payload != nil {
			l.payload.Release()
		}
		l.payload = alloc.CopyBlock(out.Payload)
		if cache != nil {
			cache.Kind = kindLarge
		}
	}
	c.link.WriteBlock(l.payload, l.payload.Bytes())
}

// onAck takes the client's word about a message that it was sent.
func (c *conn) onAck(h *wire.Header) (took bool, err error) {
	a, err := wire.DecodeAck(h.Type, h.Body, c.version)
	if err != nil {
		return true, err
	}
	var state uint8
	if c.out != nil {
		state, _ = c.out.flight.get(a.PacketID)
	}
	switch h.Type {
	case wire.PUBREC:
		return c.onPubrec(&a, state)
	case wire.PUBACK:
		if state == 0 {
			return true, nil // late, or of a connection before
		}
		if state&^sentKept != sentPublish1 {
			return true, failAckType
		}
	case wire.PUBCOMP:
		if state == 0 {
			return true, nil
		}
		if state&^sentKept != sentPubrel {
			return true, failAckType
		}
	default: // PUBACK and PUBCOMP end it
	}
	c.landed(a.PacketID, state)
	return true, nil
}

// landed ends a message that was in flight.
func (c *conn) landed(id uint16, state uint8) {
	c.out.flight.del(id)
	c.flags |= flagHeard
	if c.l.trace != nil {
		c.traceLanded(id)
	}
	if c.l.late != nil {
		c.probeLanded(id)
	}
	if state&sentKept != 0 {
		c.l.core.Acked(c.client, id)
	}
	if !c.out.queue.empty() || c.flags&flagStarved != 0 {
		c.moveOn()
	}
}

// onPubrec takes a PUBREC, whose answer is PUBREL.
func (c *conn) onPubrec(a *wire.Ack, state uint8) (took bool, err error) {
	switch state &^ sentKept {
	case 0:
		if !a.Reason.Failed() {
			c.reply(wire.PUBREL, a.PacketID, wire.PacketIdentifierNotFound, "")
		}
		return true, nil
	case sentPublish1:
		return true, failAckType
	case sentReceiving:
		return true, nil // answered with the first one
	case sentPubrel:
		c.reply(wire.PUBREL, a.PacketID, wire.Success, "")
		return true, nil
	}
	if a.Reason.Failed() {
		c.landed(a.PacketID, state)
		return true, nil
	}
	c.flags |= flagHeard
	if state&sentKept == 0 {
		c.out.flight.put(a.PacketID, sentPubrel)
		c.reply(wire.PUBREL, a.PacketID, wire.Success, "")
		return true, nil
	}
	c.out.flight.put(a.PacketID, sentReceiving|sentKept)
	outcome, err := c.l.core.Received(c.client, a.PacketID, token(tokenReceived, 0, a.PacketID))
	switch {
	case errors.Is(err, broker.ErrBusy):
		c.out.flight.put(a.PacketID, state)
		c.block(blockBusy)
		return false, nil
	case err != nil:
		return true, coreFailure(err)
	case outcome != broker.Pending:
		c.receivedDone(a.PacketID, nil)
	}
	return true, nil
}

// receivedDone sends the PUBREL that waited for the core.
func (c *conn) receivedDone(id uint16, err error) {
	if err != nil {
		c.end(*coreFailure(err))
		return
	}
	if c.out == nil {
		return
	}
	if state, _ := c.out.flight.get(id); state&^sentKept == sentReceiving {
		c.out.flight.put(id, sentPubrel|sentKept)
		c.reply(wire.PUBREL, id, wire.Success, "")
	}
}

// release sends the PUBREL of a message that the session had before.
func (c *conn) release(id uint16) {
	if c.state != stateUp {
		return
	}
	out := c.outbound()
	if out.flight.len() == 0 {
		out.heard = c.l.loop.NowMono()
	}
	out.flight.put(id, sentPubrel|sentKept)
	c.reply(wire.PUBREL, id, wire.Success, "")
}
