package control

import (
	"context"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// SlowSubscribers are the clients that were late, the slowest first. Any goroutine may call it.
type SlowSubscribers interface {
	Slow() []broker.SlowSubscriber
}

// ListSlow shows them.
func (e *explainService) ListSlow(ctx context.Context, _ *api.ListSlowRequest) (*api.ListSlowResponse, error) {
	out := &api.ListSlowResponse{}
	if e.s.o.Slow == nil {
		return out, nil
	}
	for _, s := range e.s.o.Slow.Slow() {
		if s.Tenant != tenantOf(ctx) {
			continue
		}
		out.Subscribers = append(out.Subscribers, &api.SlowSubscriber{Client: text(s.ClientID), User: text(s.User), Topic: text(s.Topic),
			LongestUs: s.Longest.Microseconds(), LastUs: s.Last.Microseconds(), Late: int64(s.Late), AtMs: s.At})
	}
	return out, nil
}
