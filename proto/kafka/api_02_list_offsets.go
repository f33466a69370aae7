package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// listOffsets finds offsets by time, or the ends of partitions.
func listOffsets(r *request, m *kmsg.ListOffsetsRequest) {
	resp := m.ResponseKind().(*kmsg.ListOffsetsResponse)
	type ask struct {
		part  *broker.Partition
		at    int64
		place [2]int
	}
	var asks []ask
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		topic, visible := r.c.l.h.broker.Topic(tenant, t.Topic), r.c.mayName(t.Topic)
		for k := range t.Partitions {
			p := &t.Partitions[k]
			o := kmsg.NewListOffsetsResponseTopicPartition()
			o.Partition, o.Timestamp, o.Offset, o.LeaderEpoch = p.Partition, -1, -1, -1
			o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			if !visible {
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			} else if topic != nil {
				if part := topic.Partition(p.Partition); part != nil {
					if o.ErrorCode = int16(epochCode(p.CurrentLeaderEpoch)); o.ErrorCode == 0 {
						asks = append(asks, ask{part, p.Timestamp, [2]int{i, k}})
					}
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	committed := m.IsolationLevel == int8(wire.ReadCommitted)
	core := r.c.l.core
	gather(r, resp, len(asks), func(i int, done func()) {
		a := &asks[i]
		core.OffsetAt(a.part, a.at, committed, func(found broker.FoundOffset, err error) {
			o := &resp.Topics[a.place[0]].Partitions[a.place[1]]
			if o.ErrorCode = int16(codeOf(err)); err == nil {
				o.Timestamp, o.Offset = found.Timestamp, int64(found.Offset)
				if found.Offset >= 0 {
					o.LeaderEpoch = leaderEpoch
				}
			}
			done()
		})
	})
}
