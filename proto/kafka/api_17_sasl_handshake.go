package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// saslHandshake agrees on a mechanism. After version 0, tokens come without a header. A client that is in says anew who it is by the mechanism by
// which it came; one who asks for what is not offered is told what is, and its connection ends, as with Kafka.
func saslHandshake(r *request, m *kmsg.SASLHandshakeRequest) {
	c := r.c
	resp := m.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SupportedMechanisms = c.l.h.mechanisms()
	switch again := c.sasl.by != ""; {
	case again && c.l.loop.NowMono()-c.sasl.began < reauthPause:
		resp.ErrorCode = int16(wire.IllegalSASLState)
	case !slices.Contains(resp.SupportedMechanisms, m.Mechanism), again && m.Mechanism != c.sasl.by:
		resp.ErrorCode = int16(wire.UnsupportedSASLMechanism)
		c.misbehaved("authentication failed", errMechanism)
		r.respond(resp)
		c.shut(errMechanism)
		return
	default:
		c.converse(m.Mechanism, m.Version == 0)
	}
	r.respond(resp)
}
