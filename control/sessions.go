package control

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// sessionService is the service Sessions.
type sessionService struct {
	api.UnsafeSessionsServer // a method that is missing does not compile
	s                        *Server
}

// List goes through the kept sessions.
func (c *sessionService) List(ctx context.Context, r *api.ListSessionsRequest) (*api.ListSessionsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	at, err := c.s.place(r.PageToken)
	if err != nil {
		return nil, err
	}
	out := &api.ListSessionsResponse{}
	for seen := 0; ; {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		n := min(sliceRows, size-len(out.Sessions))
		list, next, end := c.s.o.Broker.Sessions(tenantOf(ctx), at, n)
		for i := range list {
			s := &list[i]
			if strings.Contains(s.ID, r.Contains) && s.Queued >= r.Queued &&
				(r.State == api.ListSessionsRequest_STATE_ANY || s.Connected == (r.State == api.ListSessionsRequest_STATE_CONNECTED)) {
				out.Sessions = append(out.Sessions, shownSession(s))
			}
		}
		seen, at = seen+n, next
		if end {
			return out, nil
		}
		if len(out.Sessions) >= size || seen >= pageRows {
			out.NextPageToken = c.s.rowToken(at)
			return out, nil
		}
	}
}

func shownSession(s *broker.SessionInfo) *api.Session {
	out := &api.Session{Id: text(s.ID), Connected: s.Connected, ExpiryMs: -1, EndsMs: s.Ends, Subscriptions: int64(s.Subscriptions), Queued: s.Queued,
		QueuedBytes: s.QueuedBytes, OldestMs: s.Oldest, InFlight: int64(s.InFlight), Received: int64(s.Received), Will: s.Will}
	if s.Expiry != broker.NeverExpires {
		out.ExpiryMs = s.Expiry.Milliseconds()
	}
	return out
}

// Describe shows a session.
func (c *sessionService) Describe(ctx context.Context, r *api.DescribeSessionRequest) (*api.SessionDescription, error) {
	info, ok := c.s.o.Broker.Session(tenantOf(ctx), r.Id)
	if !ok {
		return nil, noSession("describe session "+quoted(r.Id), nil)
	}
	out := &api.SessionDescription{Session: shownSession(&info), Subscriptions: shownSubscriptions(c.s.o.Broker, tenantOf(ctx), &info)}
	for _, p := range info.Positions {
		out.Positions = append(out.Positions, &api.SessionPosition{Shard: uint32(p.Shard), Acknowledged: p.Acknowledged, Queued: p.Queued, Behind: p.Behind})
	}
	return out, nil
}

// shownSubscriptions are the first of a session's.
func shownSubscriptions(b *broker.Broker, tenant uint32, s *broker.SessionInfo) (out []*api.Subscription) {
	list := b.SessionSubscriptions(tenant, s.ID)
	for i := range list[:min(len(list), detailRows)] {
		list[i].Connected = s.Connected
		out = append(out, shownSubscription(&list[i]))
	}
	return out
}

func noSession(what string, err error) error {
	if err != nil && !errors.Is(err, broker.ErrNoSession) {
		return refuse(err, what, "")
	}
	return missing("%s: there is none that outlives its connection; sluice session list shows what is there", what)
}

// endPause is how long Delete waits before it looks again whether a connected client has gone.
const endPause = 20 * time.Millisecond

// Delete ends a session.
func (c *sessionService) Delete(ctx context.Context, r *api.DeleteSessionRequest) (*api.DeleteSessionResponse, error) {
	what := "delete session " + quoted(r.Id)
	before, ok := c.s.o.Broker.Session(tenantOf(ctx), r.Id)
	if !ok {
		return nil, noSession(what, nil)
	}
	was(ctx, shownSession(&before))
	for {
		err := awaitError(ctx, func(done func(error)) { c.s.o.Broker.EndSession(tenantOf(ctx), r.Id, done) })
		switch {
		case err == nil:
			return &api.DeleteSessionResponse{}, nil
		case !errors.Is(err, broker.ErrConcurrent) && !errors.Is(err, broker.ErrNoSession):
			return nil, refuse(err, what, "")
		}
		// Its client was there, and has been told to go: the session goes with it.
		pause := time.NewTimer(endPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if now, ok := c.s.o.Broker.Session(tenantOf(ctx), r.Id); !ok || now.Number != before.Number {
			return &api.DeleteSessionResponse{}, nil
		}
	}
}
