package mqtt

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// connectNameMost is the longest protocol name that there is: MQIsdp.
const connectNameMost = 6

// Version is the protocol version in the first bytes of a client, 0 if they begin no CONNECT; enough false: there are too few of them. It is for who
// has to answer a client that it does not serve.
func (*Handler) Version(b []byte) (version byte, enough bool) {
	if len(b) == 0 {
		return 0, false
	}
	if b[0] != byte(wire.CONNECT)<<4 {
		return 0, true
	}
	at := 1
	for ; ; at++ { // the length
		switch {
		case at > 4:
			return 0, true
		case at == len(b):
			return 0, false
		}
		if b[at] < 0x80 {
			break
		}
	}
	if at++; len(b) < at+2 {
		return 0, false
	}
	name := int(binary.BigEndian.Uint16(b[at:]))
	if name > connectNameMost {
		return 0, true
	}
	if at += 2 + name; len(b) <= at {
		return 0, false
	}
	if b[at] == wire.V311|0x80 { // a bridge's
		return wire.V311, true
	}
	return b[at], true
}

// Unavailable answers a client of that version, whose CONNECT nobody has seen, that it cannot be served now, and ends the connection.
func (h *Handler) Unavailable(c *engine.Conn, version byte) {
	if version >= wire.V31 && version <= wire.V5 {
		a := wire.Connack{Reason: wire.ServerUnavailable}
		c.Commit(len(wire.AppendConnack(c.Reserve(wire.SizeConnack(version, &a)), version, &a)))
		l := h.loops[c.Loop().ID()]
		l.sent(wire.CONNACK)
		l.n.Connects[wire.ServerUnavailable]++
	}
	c.CloseAfterFlush(failUnavailable, lingerTimeout)
}

// Elsewhere sends such a client to another server, and ends the connection; false: below MQTT 5 there is no word for that.
func (h *Handler) Elsewhere(c *engine.Conn, version byte, at string) bool {
	if version != wire.V5 {
		return false
	}
	a := wire.Connack{Reason: wire.UseAnotherServer, ServerReference: wire.View(at)}
	c.Commit(len(wire.AppendConnack(c.Reserve(wire.SizeConnack(version, &a)), version, &a)))
	l := h.loops[c.Loop().ID()]
	l.sent(wire.CONNACK)
	l.n.Connects[wire.UseAnotherServer]++
	c.CloseAfterFlush(failElsewhere, lingerTimeout)
	return true
}
