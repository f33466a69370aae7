package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describeCluster names the brokers, and the one that takes changes of topics. There are no controllers to be reached apart from them.
func describeCluster(r *request, m *kmsg.DescribeClusterRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeClusterResponse)
	if m.Version >= 1 && m.EndpointType != 1 {
		why := "brokers are the endpoints that this listener knows"
		resp.ErrorCode, resp.ErrorMessage = int16(wire.MismatchedEndpointType), &why
		r.respond(resp)
		return
	}
	v := r.c.l.h.view()
	controller, _ := r.c.leaderOf(v, v.controller(), true)
	resp.ClusterID, resp.ControllerID, resp.EndpointType = r.c.l.h.catalog.ClusterID(), controller.ID, 1
	if m.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = r.c.clusterOperations()
	}
	for i := range v.Nodes {
		at, ok := r.c.endpoint(&v.Nodes[i])
		fenced := !r.c.l.h.up(&v.Nodes[i])
		if !ok || fenced && !m.IncludeFencedBrokers {
			continue
		}
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port, b.IsFenced = at.ID, at.Host, at.Port, fenced
		if at.Rack != "" {
			b.Rack = &at.Rack
		}
		resp.Brokers = append(resp.Brokers, b)
	}
	r.respond(resp)
}
