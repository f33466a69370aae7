package kafka

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// unregisterBroker refuses: nodes are taken out of a cluster by its operator.
func unregisterBroker(r *request, m *kmsg.UnregisterBrokerRequest) {
	resp := m.ResponseKind().(*kmsg.UnregisterBrokerResponse)
	if resp.ErrorCode = refused(r.c.mayNode(broker.OperationAlter), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	code, why := wire.BrokerIDNotRegistered, "broker "+strconv.Itoa(int(m.BrokerID))+" is not registered"
	if v := r.c.l.h.view(); v.find(m.BrokerID) != nil {
		code, why = wire.InvalidRequest, "nodes are removed with sluice node remove"
	}
	resp.ErrorCode, resp.ErrorMessage = int16(code), &why
	r.respond(resp)
}
