package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// createPartitions raises the number of partitions of topics.
func createPartitions(r *request, m *kmsg.CreatePartitionsRequest) {
	resp := m.ResponseKind().(*kmsg.CreatePartitionsResponse)
	wanted := make([]TopicCreation, 0, len(m.Topics))
	var place []int
	named := make(map[string]bool, len(m.Topics))
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewCreatePartitionsResponseTopic()
		out.Topic = t.Topic
		code, added, why := r.c.checkPartitions(t)
		switch {
		case named[t.Topic]:
			out.ErrorCode = int16(wire.InvalidRequest)
		case !r.c.mayTopic(broker.OperationAlter, t.Topic):
			out.ErrorCode = int16(wire.TopicAuthorizationFailed)
		case !r.c.controls():
			text := notController
			out.ErrorCode, out.ErrorMessage = int16(wire.NotController), &text
		case code != wire.None:
			out.ErrorCode, out.ErrorMessage = int16(code), &why
		case !m.ValidateOnly && !r.mayMutate(added, m.Version >= 3):
			text := mutationsExceeded
			out.ErrorCode, out.ErrorMessage = int16(wire.ThrottlingQuotaExceeded), &text
		default:
			wanted, place = append(wanted, TopicCreation{Name: t.Topic, Partitions: t.Count}), append(place, i)
		}
		named[t.Topic] = true
		resp.Topics = append(resp.Topics, out)
	}
	if len(wanted) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.catalog.CreatePartitions(r.c.tenant(), wanted, m.ValidateOnly, func(results []TopicResult) {
		t.later(l, func(r *request) {
			for k, i := range place {
				resp.Topics[i].ErrorCode = int16(results[k].Code)
				if why := results[k].Message; why != "" {
					resp.Topics[i].ErrorMessage = &why
				}
			}
			r.respond(resp)
		})
	})
}

func (c *conn) checkPartitions(t *kmsg.CreatePartitionsRequestTopic) (code wire.ErrorCode, added int, why string) {
	topic := c.l.h.broker.Topic(c.tenant(), t.Topic)
	if topic == nil {
		return wire.UnknownTopicOrPartition, 0, "there is no such topic"
	}
	have := int32(len(topic.Partitions()))
	if t.Count <= have {
		return wire.InvalidPartitions, 0, "the number of partitions can only be raised"
	}
	if len(t.Assignment) > 0 && int32(len(t.Assignment)) != t.Count-have {
		return wire.InvalidReplicaAssignment, 0, "one assignment for each new partition is wanted"
	}
	for i := range t.Assignment {
		if !c.l.h.placed(t.Assignment[i].Replicas) {
			return wire.InvalidReplicaAssignment, 0, "each partition " + placedSo
		}
	}
	return wire.None, int(t.Count - have), ""
}
