package control

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// sharedPrefix is what the names of shared subscriptions begin with.
const sharedPrefix = "$share/"

// sharedPart is where shared subscriptions are in a listing: behind all groups of Kafka's.
const sharedPart = 1 << 30

// sharedSlice is how many of them are looked at at once: their lag is asked of every shard.
const sharedSlice = 64

func shownShared(s *broker.SharedGroupState) *api.Group {
	out := &api.Group{Id: text(sharedPrefix + s.Name + "/" + s.Filter), State: "Kept", Type: "shared", ProtocolType: "mqtt", Members: int32(s.Members), Lag: s.Lag,
		InFlight: s.Out}
	if s.Lag > 0 && s.Oldest > 0 {
		out.LagMs = max(time.Now().UnixMilli()-s.Oldest, 1)
	}
	return out
}

// listShared goes on with shared subscriptions, from a row on.
func (g *groupService) listShared(ctx context.Context, r *api.ListGroupsRequest, at, size int, out *api.ListGroupsResponse) error {
	for seen, tenant := 0, tenantOf(ctx); ; {
		if ctx.Err() != nil {
			return status.FromContextError(ctx.Err()).Err()
		}
		n := min(sharedSlice, size-len(out.Groups))
		list, next, end := g.s.o.Broker.SharedGroups(at, n)
		for i := range list {
			if row := shownShared(&list[i]); list[i].Tenant == tenant && strings.Contains(row.Id, r.Contains) && among(r.States, row.State) {
				out.Groups = append(out.Groups, row)
			}
		}
		seen, at = seen+n, next
		switch {
		case end:
			return nil
		case len(out.Groups) >= size || seen >= pageRows:
			out.NextPageToken = g.s.rowToken(broker.RowPlace{Part: sharedPart, Row: at})
			return nil
		}
	}
}

// shared finds a shared subscription by $share/NAME/FILTER.
func (g *groupService) shared(tenant uint32, id string) (*api.Group, bool) {
	rest, ok := strings.CutPrefix(id, sharedPrefix)
	if !ok {
		return nil, false
	}
	name, filter, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, false
	}
	s, ok := g.s.o.Broker.SharedGroup(tenant, name, filter)
	if !ok {
		return nil, false
	}
	return shownShared(&s), true
}
