package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// growing is a CreatePartitions request under way.
type growing struct {
	m      *kmsg.CreatePartitionsRequest
	resp   *kmsg.CreatePartitionsResponse
	named  map[string]bool
	wanted []TopicCreation
	place  []int
}

// createPartitions raises the number of partitions of topics.
func createPartitions(r *request, m *kmsg.CreatePartitionsRequest) {
	r.inParts(len(m.Topics), &growing{m: m, resp: m.ResponseKind().(*kmsg.CreatePartitionsResponse), named: make(map[string]bool, len(m.Topics))})
}

func (b *growing) look(r *request, i int) int {
	t := &b.m.Topics[i]
	out := kmsg.NewCreatePartitionsResponseTopic()
	out.Topic = t.Topic
	code, added, why := r.c.checkPartitions(t)
	switch {
	case b.named[t.Topic]:
		out.ErrorCode = int16(wire.InvalidRequest)
	case !r.c.mayTopic(broker.OperationAlter, t.Topic):
		out.ErrorCode = int16(wire.TopicAuthorizationFailed)
	case !r.c.controls():
		text := notController
		out.ErrorCode, out.ErrorMessage = int16(wire.NotController), &text
	case code != wire.None:
		out.ErrorCode, out.ErrorMessage = int16(code), &why
	case !b.m.ValidateOnly && !r.mayMutate(added, b.m.Version >= 3):
		text := mutationsExceeded
		out.ErrorCode, out.ErrorMessage = int16(wire.ThrottlingQuotaExceeded), &text
	default:
		b.wanted, b.place = append(b.wanted, TopicCreation{Name: t.Topic, Partitions: t.Count}), append(b.place, i)
	}
	b.named[t.Topic] = true
	b.resp.Topics = append(b.resp.Topics, out)
	return added
}

func (b *growing) change(r *request, done func([]TopicResult)) bool {
	if len(b.wanted) == 0 {
		return false
	}
	r.c.l.h.catalog.CreatePartitions(r.c.tenant(), b.wanted, b.m.ValidateOnly, done)
	return true
}

func (b *growing) changed(_ *request, results []TopicResult) {
	for k := range results {
		out := &b.resp.Topics[b.place[k]]
		out.ErrorCode = int16(results[k].Code)
		if why := results[k].Message; why != "" {
			out.ErrorMessage = &why
		}
	}
	b.wanted, b.place = nil, b.place[:0]
}

func (b *growing) end(r *request) { r.respond(b.resp) }

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
	v, spread := c.l.h.view(), topic.Spec().Config.Spread
	for i := range t.Assignment {
		if !v.placesNew(spread, t.Assignment[i].Replicas) {
			return wire.InvalidReplicaAssignment, 0, "each partition " + placedSo
		}
	}
	return wire.None, int(t.Count - have), ""
}
