package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// offsetForLeaderEpoch tells where an epoch's records end (KIP-101). A node that is alone has led all of them in the one epoch.
func offsetForLeaderEpoch(r *request, m *kmsg.OffsetForLeaderEpochRequest) {
	resp := m.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		topic := r.c.l.h.broker.Topic(tenant, t.Topic)
		for k := range t.Partitions {
			ask := &t.Partitions[k]
			o := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			o.Partition, o.LeaderEpoch, o.EndOffset = ask.Partition, -1, -1
			switch {
			case !r.c.mayName(t.Topic):
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			case topic == nil || topic.Partition(ask.Partition) == nil:
				o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			default:
				if o.ErrorCode = int16(epochCode(ask.CurrentLeaderEpoch)); o.ErrorCode == 0 && ask.LeaderEpoch == leaderEpoch {
					o.LeaderEpoch, o.EndOffset = leaderEpoch, int64(topic.Partition(ask.Partition).HighWatermark())
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	r.respond(resp)
}
