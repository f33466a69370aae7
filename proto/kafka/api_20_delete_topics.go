package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// deleteTopics deletes topics by name, or by id from version 6 on.
func deleteTopics(r *request, m *kmsg.DeleteTopicsRequest) {
	resp := m.ResponseKind().(*kmsg.DeleteTopicsResponse)
	tenant := r.c.tenant()
	asks := m.Topics
	for i := range m.TopicNames { // up to version 5
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = &m.TopicNames[i]
		asks = append(asks, t)
	}
	var ids []broker.TopicID
	var place []int
	b := r.c.l.h.broker
	for i := range asks {
		ask := &asks[i]
		out := kmsg.NewDeleteTopicsResponseTopic()
		out.Topic, out.TopicID = ask.Topic, ask.TopicID
		var t *broker.Topic
		code := wire.UnknownTopicOrPartition
		if ask.Topic != nil {
			t = b.Topic(tenant, *ask.Topic)
		} else {
			t, code = b.TopicByID(tenant, ask.TopicID), wire.UnknownTopicID
		}
		name := str(ask.Topic)
		if t != nil {
			name = t.Name()
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
		case !r.mayMutate(len(t.Partitions()), m.Version >= 5):
			why := mutationsExceeded
			out.Topic, out.TopicID, out.ErrorCode, out.ErrorMessage = &name, t.ID(), int16(wire.ThrottlingQuotaExceeded), &why
		default:
			out.Topic, out.TopicID = &name, t.ID()
			ids, place = append(ids, t.ID()), append(place, i)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if len(ids) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.catalog.DeleteTopics(tenant, ids, func(results []TopicResult) {
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
