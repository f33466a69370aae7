package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// deleting is a DeleteTopics request under way.
type deleting struct {
	asks  []kmsg.DeleteTopicsRequestTopic
	resp  *kmsg.DeleteTopicsResponse
	ids   []broker.TopicID
	place []int
}

// deleteTopics deletes topics by name, or by id from version 6 on.
func deleteTopics(r *request, m *kmsg.DeleteTopicsRequest) {
	b := &deleting{asks: m.Topics, resp: m.ResponseKind().(*kmsg.DeleteTopicsResponse)}
	for i := range m.TopicNames { // up to version 5
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = &m.TopicNames[i]
		b.asks = append(b.asks, t)
	}
	r.inParts(len(b.asks), b)
}

func (b *deleting) look(r *request, i int) (partitions int) {
	ask := &b.asks[i]
	out := kmsg.NewDeleteTopicsResponseTopic()
	out.Topic, out.TopicID = ask.Topic, ask.TopicID
	var t *broker.Topic
	code := wire.UnknownTopicOrPartition
	if ask.Topic != nil {
		t = r.c.l.h.broker.Topic(r.c.tenant(), *ask.Topic)
	} else {
		t, code = r.c.l.h.broker.TopicByID(r.c.tenant(), ask.TopicID), wire.UnknownTopicID
	}
	name := str(ask.Topic)
	if t != nil {
		name, partitions = t.Name(), len(t.Partitions())
	}
	switch {
	case (t != nil || ask.Topic != nil) && !r.c.mayName(name):
		out.ErrorCode = int16(wire.TopicAuthorizationFailed) // an id stays without its name
	case t == nil:
		out.ErrorCode = int16(code)
	case t.Spec().Internal || !r.c.mayTopic(broker.OperationDelete, name):
		out.Topic, out.TopicID, out.ErrorCode = &name, t.ID(), int16(wire.TopicAuthorizationFailed)
	case !r.c.controls():
		why := notController
		out.ErrorCode, out.ErrorMessage = int16(wire.NotController), &why
	case !r.mayMutate(partitions, b.resp.Version >= 5):
		why := mutationsExceeded
		out.Topic, out.TopicID, out.ErrorCode, out.ErrorMessage = &name, t.ID(), int16(wire.ThrottlingQuotaExceeded), &why
	default:
		out.Topic, out.TopicID = &name, t.ID()
		b.ids, b.place = append(b.ids, t.ID()), append(b.place, i)
	}
	b.resp.Topics = append(b.resp.Topics, out)
	return partitions
}

func (b *deleting) change(r *request, done func([]TopicResult)) bool {
	if len(b.ids) == 0 {
		return false
	}
	r.c.l.h.catalog.DeleteTopics(r.c.tenant(), b.ids, done)
	return true
}

func (b *deleting) changed(_ *request, results []TopicResult) {
	for k := range results {
		out := &b.resp.Topics[b.place[k]]
		out.ErrorCode = int16(results[k].Code)
		if why := results[k].Message; why != "" {
			out.ErrorMessage = &why
		}
	}
	b.ids, b.place = nil, b.place[:0]
}

func (b *deleting) end(r *request) { r.respond(b.resp) }
