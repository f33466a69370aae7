package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// electLeaders finds that each partition has its leader: where there are several nodes, `sluice shard move` chooses another one.
func electLeaders(r *request, m *kmsg.ElectLeadersRequest) {
	resp := m.ResponseKind().(*kmsg.ElectLeadersResponse)
	tenant := r.c.tenant()
	b := r.c.l.h.broker
	may := r.c.mayNode(broker.OperationAlter)
	resp.ErrorCode = refused(may, wire.ClusterAuthorizationFailed)
	if m.Topics == nil { // all of them, of which those are told that have moved: none
		r.respond(resp)
		return
	}
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewElectLeadersResponseTopic()
		out.Topic = t.Topic
		topic := b.Topic(tenant, t.Topic)
		for _, n := range t.Partitions {
			o := kmsg.NewElectLeadersResponseTopicPartition()
			o.Partition, o.ErrorCode = n, int16(wire.ElectionNotNeeded)
			switch {
			case !may:
				o.ErrorCode = int16(wire.ClusterAuthorizationFailed)
			case topic == nil || topic.Partition(n) == nil:
				o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	r.respond(resp)
}
