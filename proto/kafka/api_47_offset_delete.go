package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// offsetDelete forgets places of a group.
func offsetDelete(r *request, m *kmsg.OffsetDeleteRequest) {
	resp := m.ResponseKind().(*kmsg.OffsetDeleteResponse)
	tenant := r.c.tenant()
	if code := r.c.storable(r.c.groupFault(broker.OperationDelete, m.Group)); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	var parts []broker.TopicPartition
	var place [][2]int
	b := r.c.l.h.broker
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewOffsetDeleteResponseTopic()
		out.Topic = t.Topic
		topic, may := b.Topic(tenant, t.Topic), r.c.mayTopic(broker.OperationRead, t.Topic)
		for k := range t.Partitions {
			o := kmsg.NewOffsetDeleteResponseTopicPartition()
			o.Partition = t.Partitions[k].Partition
			switch {
			case !may:
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			case topic == nil || topic.Partition(o.Partition) == nil:
				o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			default:
				parts, place = append(parts, broker.TopicPartition{Topic: topic.ID(), Partition: o.Partition}), append(place, [2]int{i, k})
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	l, t := r.c.l, r.ticket()
	b.DeleteOffsets(tenant, m.Group, parts, func(errs []error, err error) {
		t.later(l, func(r *request) {
			if err != nil {
				resp.ErrorCode, resp.Topics = coordinatorCode(err), nil
			}
			for k, e := range errs {
				resp.Topics[place[k][0]].Partitions[place[k][1]].ErrorCode = coordinatorCode(e)
			}
			r.respond(resp)
		})
	})
}
