package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// saslHandshake agrees on a mechanism. After version 0, tokens come without a header.
func saslHandshake(r *request, m *kmsg.SASLHandshakeRequest) {
	resp := m.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SupportedMechanisms = []string{mechanismPlain}
	if m.Mechanism != mechanismPlain {
		resp.ErrorCode = int16(wire.UnsupportedSASLMechanism)
	} else {
		r.c.sasl.mechanism, r.c.sasl.bare = m.Mechanism, m.Version == 0
	}
	r.respond(resp)
}
