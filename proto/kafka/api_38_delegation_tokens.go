package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Delegation tokens are not offered: each request of them is told so, as a Kafka without delegation.token.secret.key does.

func createDelegationToken(r *request, m *kmsg.CreateDelegationTokenRequest) {
	resp := m.ResponseKind().(*kmsg.CreateDelegationTokenResponse)
	resp.ErrorCode = int16(wire.DelegationTokenAuthDisabled)
	r.respond(resp)
}

func renewDelegationToken(r *request, m *kmsg.RenewDelegationTokenRequest) {
	resp := m.ResponseKind().(*kmsg.RenewDelegationTokenResponse)
	resp.ErrorCode = int16(wire.DelegationTokenAuthDisabled)
	r.respond(resp)
}

func expireDelegationToken(r *request, m *kmsg.ExpireDelegationTokenRequest) {
	resp := m.ResponseKind().(*kmsg.ExpireDelegationTokenResponse)
	resp.ErrorCode = int16(wire.DelegationTokenAuthDisabled)
	r.respond(resp)
}

func describeDelegationToken(r *request, m *kmsg.DescribeDelegationTokenRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeDelegationTokenResponse)
	resp.ErrorCode = int16(wire.DelegationTokenAuthDisabled)
	r.respond(resp)
}
