package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alterPartitionReassignments finds that each partition has its replicas where they can be: no client places them.
func alterPartitionReassignments(r *request, m *kmsg.AlterPartitionAssignmentsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	tenant := r.c.tenant()
	if resp.ErrorCode = refused(r.c.mayNode(broker.OperationAlter), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	resp.AllowReplicationFactorChange = m.AllowReplicationFactorChange
	v := r.c.l.h.view()
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
			case !placed(v.of(topic.Partition(p.Partition)), p.Replicas):
				code, why = wire.InvalidReplicaAssignment, "each partition "+placedSo
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
