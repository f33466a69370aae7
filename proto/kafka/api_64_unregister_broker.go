package kafka

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// unregisterBroker refuses: this node is the cluster, and there is no other.
func unregisterBroker(r *request, m *kmsg.UnregisterBrokerRequest) {
	resp := m.ResponseKind().(*kmsg.UnregisterBrokerResponse)
	if resp.ErrorCode = refused(r.c.mayCluster(broker.OperationAlter), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	code, why := wire.BrokerIDNotRegistered, "broker "+strconv.Itoa(int(m.BrokerID))+" is not registered"
	if m.BrokerID == r.c.l.h.nodeID {
		code, why = wire.InvalidRequest, "this node is alone"
	}
	resp.ErrorCode, resp.ErrorMessage = int16(code), &why
	r.respond(resp)
}
