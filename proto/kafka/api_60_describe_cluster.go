package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describeCluster names the brokers. There are no controllers to be reached apart from them.
func describeCluster(r *request, m *kmsg.DescribeClusterRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeClusterResponse)
	if m.Version >= 1 && m.EndpointType != 1 {
		why := "brokers are the endpoints that this listener knows"
		resp.ErrorCode, resp.ErrorMessage = int16(wire.MismatchedEndpointType), &why
		r.respond(resp)
		return
	}
	resp.ClusterID, resp.ControllerID, resp.EndpointType = r.c.l.h.catalog.ClusterID(), r.c.l.h.nodeID, 1
	if m.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = r.c.clusterOperations()
	}
	b := kmsg.NewDescribeClusterResponseBroker()
	b.NodeID = r.c.l.h.nodeID
	b.Host, b.Port = r.c.address()
	resp.Brokers = append(resp.Brokers, b)
	r.respond(resp)
}
