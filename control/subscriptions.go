package control

import (
	"context"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// heavyMax is how many calls at once may hold all subscribers of a topic in memory: 12 bytes each.
const heavyMax = 4

// subscriptionService is the service Subscriptions.
type subscriptionService struct {
	api.UnsafeSubscriptionsServer // a method that is missing does not compile
	s                             *Server
}

func shownSubscription(s *broker.SubscriptionInfo) *api.Subscription {
	return &api.Subscription{Client: text(s.ClientID), Filter: text(s.Filter), Group: text(s.Group), Qos: int32(s.QoS), NoLocal: s.NoLocal,
		RetainAsPublished: s.RetainAsPublished, Id: s.ID, Kept: s.Kept, Connected: s.Connected}
}

// List goes through the subscriptions.
func (c *subscriptionService) List(ctx context.Context, r *api.ListSubscriptionsRequest) (*api.ListSubscriptionsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	var shard, row, from uint64
	if err := c.s.untoken(r.PageToken, &shard, &row, &from); err != nil {
		return nil, err
	}
	if shard|row|from >= 1<<32 {
		return nil, wrong("page_token is none that this node has given")
	}
	at := broker.SubscriptionPlace{Shard: uint32(shard), Row: uint32(row), Subscriber: uint32(from)}
	out := &api.ListSubscriptionsResponse{}
	for seen := 0; ; {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		n := min(sliceRows, size-len(out.Subscriptions))
		list, next, end := c.s.o.Broker.ListSubscriptions(tenantOf(ctx), at, n)
		for i := range list {
			if s := &list[i]; (r.Client == "" || s.ClientID == r.Client) && strings.Contains(s.Filter, r.Contains) {
				out.Subscriptions = append(out.Subscriptions, shownSubscription(s))
			}
		}
		seen, at = seen+n, next
		if end {
			return out, nil
		}
		if len(out.Subscriptions) >= size || seen >= pageRows {
			out.NextPageToken = c.s.token(uint64(at.Shard), uint64(at.Row), uint64(at.Subscriber))
			return out, nil
		}
	}
}

// topicBytesMax is the longest MQTT topic.
const topicBytesMax = 1<<16 - 1

// Find shows who gets what is published to a topic.
func (c *subscriptionService) Find(ctx context.Context, r *api.FindSubscriptionsRequest) (*api.FindSubscriptionsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	if r.Topic == "" || len(r.Topic) > topicBytesMax || strings.ContainsAny(r.Topic, "+#\x00") {
		return nil, wrong("find subscriptions to %s: a topic has 1 to %d bytes and none of +, # and NUL", quoted(r.Topic), topicBytesMax)
	}
	var filter, from uint64
	if err := c.s.untoken(r.PageToken, &filter, &from); err != nil {
		return nil, err
	}
	select {
	case c.s.heavy <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-c.s.heavy }()
	m := c.s.o.Broker.Matching(tenantOf(ctx), r.Topic)
	out := &api.FindSubscriptionsResponse{Filters: int64(len(m.Filters))}
	for i := range m.Filters {
		f := &m.Filters[i]
		out.Subscribers += int64(f.Subscribers)
		if uint64(f.Number()) < filter || out.NextPageToken != nil {
			continue
		}
		m.Each(i, func(slot uint32, s broker.SubscriptionInfo) bool {
			if uint64(f.Number()) == filter && uint64(slot) < from {
				return true
			}
			if len(out.Subscriptions) == size {
				out.NextPageToken = c.s.token(uint64(f.Number()), uint64(slot))
				return false
			}
			out.Subscriptions = append(out.Subscriptions, shownSubscription(&s))
			return true
		})
	}
	return out, nil
}
