package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// deleteRecords moves the log starts of partitions.
func deleteRecords(r *request, m *kmsg.DeleteRecordsRequest) {
	resp := m.ResponseKind().(*kmsg.DeleteRecordsResponse)
	tenant := r.c.tenant()
	type ask struct {
		p      *broker.Partition
		before record.Offset
		place  [2]int
	}
	var asks []ask
	v := r.c.l.h.view()
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewDeleteRecordsResponseTopic()
		out.Topic = t.Topic
		topic := r.c.l.h.broker.Topic(tenant, t.Topic)
		for k := range t.Partitions {
			o := kmsg.NewDeleteRecordsResponseTopicPartition()
			o.Partition, o.LowWatermark, o.ErrorCode = t.Partitions[k].Partition, -1, int16(wire.UnknownTopicOrPartition)
			switch {
			case !r.c.mayTopic(broker.OperationDelete, t.Topic):
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			case topic != nil && topic.Partition(o.Partition) != nil:
				p := topic.Partition(o.Partition)
				if o.ErrorCode = int16(r.c.l.h.leaderFault(v.of(p), p, -1)); o.ErrorCode == 0 {
					asks = append(asks, ask{p, offset(t.Partitions[k].Offset), [2]int{i, k}})
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	core := r.c.l.core
	gather(r, resp, len(asks), func(i int, done func()) {
		core.DeleteRecords(asks[i].p, asks[i].before, func(start record.Offset, err error) {
			o := &resp.Topics[asks[i].place[0]].Partitions[asks[i].place[1]]
			o.LowWatermark, o.ErrorCode = int64(start), int16(codeOf(err))
			done()
		})
	})
}
