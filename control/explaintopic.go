package control

import (
	"context"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/trace"
)

// ExplainTopic shows what becomes of a message that is published to a topic now.
func (e *explainService) ExplainTopic(ctx context.Context, r *api.ExplainTopicRequest) (*api.ExplainTopicResponse, error) {
	b := e.s.o.Broker
	found, err := (&subscriptionService{s: e.s}).Find(ctx, &api.FindSubscriptionsRequest{Topic: r.Topic, PageSize: pageSizeMax})
	if err != nil {
		return nil, err
	}
	tenant := tenantOf(ctx)
	out := &api.ExplainTopicResponse{Filters: found.Filters, Subscribers: found.Subscribers, Subscriptions: found.Subscriptions,
		Shard: uint32(b.ShardOf(tenant, r.Topic))}
	if info, ok := b.RetainedOf(tenant, r.Topic); ok {
		out.Retained = &api.RetainedMessage{Bytes: int64(info.Bytes), Qos: uint32(info.QoS), AtMs: info.At, ExpiresMs: info.Expires}
	}
	if tenant == defaultTenant { // others have no bindings
		bound, err := (&bindingService{s: e.s}).Explain(ctx, &api.ExplainBindingRequest{Topic: r.Topic, Client: r.Client})
		if err != nil {
			return nil, err
		}
		if bound.Binding != nil {
			out.Binding = bound
		}
	}
	out.Publish, err = (&aclService{s: e.s}).Check(ctx, &api.CheckAclRequest{User: r.User, Client: r.Client, Host: r.Host, Operation: "publish", Name: r.Topic})
	if err != nil {
		return nil, err
	}
	if err := b.Storage(); err != nil {
		out.Storage = plainError(err)
	}
	if tenant == defaultTenant { // traces are the node's
		out.Messages, out.Events = e.traced(r.Topic)
	}
	return out, nil
}

// traced counts what traces have seen of messages to a topic, in what their rings still have.
func (e *explainService) traced(topic string) (messages int64, events map[string]int64) {
	name := trace.Text(topic)
	list, n := e.s.o.Broker.Tracer().Find(func(v *trace.Event) bool {
		return (v.Kind == trace.Received || v.Kind == trace.Sent) && v.Text == name
	})
	if n == 0 {
		return 0, nil
	}
	events = make(map[string]int64)
	for i := range list {
		events[list[i].Kind.String()]++
	}
	return int64(n), events
}
