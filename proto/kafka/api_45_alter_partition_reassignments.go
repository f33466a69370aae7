package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alterPartitionReassignments finds that each partition has its one replica where it can be.
func alterPartitionReassignments(r *request, m *kmsg.AlterPartitionAssignmentsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	if resp.ErrorCode = refused(r.c.mayCluster(broker.OperationAlter), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	resp.AllowReplicationFactorChange = m.AllowReplicationFactorChange
	here := []int32{r.c.l.h.nodeID}
	for i := range m.Topics {
		out := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		out.Topic = m.Topics[i].Topic
		topic := r.c.l.h.broker.Topic(tenant, out.Topic)
		for k := range m.Topics[i].Partitions {
			p := &m.Topics[i].Partitions[k]
			o := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			o.Partition = p.Partition
			code, why := wire.None, ""
			switch {
			case topic == nil || topic.Partition(p.Partition) == nil:
				code, why = wire.UnknownTopicOrPartition, "there is no such partition"
			case p.Replicas == nil:
				code, why = wire.NoReassignmentInProgress, "nothing is being moved"
			case !slices.Equal(p.Replicas, here):
				code, why = wire.InvalidReplicaAssignment, "this node is alone: each partition has one replica"
			}
			if code != wire.None {
				o.ErrorCode, o.ErrorMessage = int16(code), &why
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	r.respond(resp)
}

// listPartitionReassignments finds none under way.
func listPartitionReassignments(r *request, m *kmsg.ListPartitionReassignmentsRequest) {
	resp := m.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
	resp.ErrorCode = refused(r.c.mayCluster(broker.OperationDescribe), wire.ClusterAuthorizationFailed)
	r.respond(resp)
}
