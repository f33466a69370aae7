package control

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// Connections are those of all loops.
type Connections interface {
	// Visit calls fn with each connection among the next n places from at on, on the loop that owns it, and done when that is over; end: that was
	// all. Neither may block.
	Visit(at broker.RowPlace, n int, fn func(Connection), done func(next broker.RowPlace, end bool))
}

// Connection is one of them. It is for the call that gives it.
type Connection interface {
	// Describe shows it; ok false: nobody has come in by it yet, or it is on its way out.
	Describe() (info broker.ClientInfo, ok bool)
	// Kick ends it.
	Kick()
}

// detailRows bounds the lists in a description.
const detailRows = 1000

// clientService is the service Clients.
type clientService struct {
	api.UnsafeClientsServer // a method that is missing does not compile
	s                       *Server
}

// slice is what one turn of a loop has found.
type slice struct {
	list   []broker.ClientInfo
	kicked int64
	next   broker.RowPlace
	end    bool
}

// visit looks at one slice of connections: those that want says are described, and ended with kick.
func (c *clientService) visit(ctx context.Context, at broker.RowPlace, n int, kick bool, want func(*broker.ClientInfo) bool) (slice, error) {
	return await(ctx, func(done func(slice)) {
		var s slice
		c.s.o.Connections.Visit(at, n, func(conn Connection) {
			info, ok := conn.Describe()
			if !ok || !want(&info) {
				return
			}
			s.list = append(s.list, info)
			if kick {
				conn.Kick()
				s.kicked++
			}
		}, func(next broker.RowPlace, end bool) {
			s.next, s.end = next, end
			done(s)
		})
	})
}

// List goes through the connections of this node, and then through those of the others, one after the other.
func (c *clientService) List(ctx context.Context, r *api.ListClientsRequest) (*api.ListClientsResponse, error) {
	others := c.s.others(ctx)
	if len(others) == 0 {
		return c.list(ctx, r)
	}
	node, inner, err := c.s.nodeOf(r.PageToken)
	if err != nil {
		return nil, err
	}
	r = &api.ListClientsRequest{PageSize: r.PageSize, PageToken: inner, Contains: r.Contains, User: r.User, Protocol: r.Protocol, Remote: r.Remote}
	out, err := c.listOf(ctx, node, r)
	if err != nil {
		return nil, err
	}
	switch next := after(others, node, c.s.o.Node); {
	case len(out.NextPageToken) > 0:
		out.NextPageToken = c.s.nodeToken(node, out.NextPageToken)
	case next != 0:
		out.NextPageToken = c.s.nodeToken(next, nil)
	}
	return out, nil
}

// listOf gives a page of one node. One that does not answer is named in it.
func (c *clientService) listOf(ctx context.Context, node meta.NodeID, r *api.ListClientsRequest) (*api.ListClientsResponse, error) {
	if node == 0 || node == c.s.o.Node {
		return c.list(ctx, r)
	}
	out, err := askFor[*api.ListClientsResponse](ctx, c.s, node, "/sluice.control.v1.Clients/List", r)
	if status.Code(err) == codes.Unavailable {
		return &api.ListClientsResponse{NotAsked: []uint32{uint32(node)}}, nil
	}
	return out, err
}

// list gives a page of this node.
func (c *clientService) list(ctx context.Context, r *api.ListClientsRequest) (*api.ListClientsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	at, err := c.s.place(r.PageToken)
	if err != nil {
		return nil, err
	}
	tenant := tenantOf(ctx)
	want := func(i *broker.ClientInfo) bool {
		return i.Tenant == tenant && strings.Contains(i.ClientID, r.Contains) && (r.User == "" || i.User == r.User) && hasPrefix(i.Protocol, r.Protocol) &&
			(r.Remote == "" || i.Remote.Addr().String() == r.Remote)
	}
	out := &api.ListClientsResponse{}
	for seen := 0; ; {
		n := min(sliceRows, size-len(out.Clients))
		some, err := c.visit(ctx, at, n, false, want)
		if err != nil {
			return nil, err
		}
		for i := range some.list {
			out.Clients = append(out.Clients, c.s.shownClient(&some.list[i]))
		}
		seen, at = seen+n, some.next
		if some.end {
			return out, nil
		}
		if len(out.Clients) >= size || seen >= pageRows {
			out.NextPageToken = c.s.rowToken(at)
			return out, nil
		}
	}
}

// hasPrefix does not care for case.
func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func (s *Server) shownClient(i *broker.ClientInfo) *api.Client {
	out := &api.Client{Connection: i.Connection, Id: text(i.ClientID), User: text(i.User), Source: i.Source, Listener: i.Listener, Protocol: i.Protocol,
		Tls: i.TLS, Kept: i.Kept, SinceMs: i.Since, BytesIn: i.BytesIn, BytesOut: i.BytesOut, InFlight: int64(i.InFlight),
		QueuedMessages: int64(i.QueuedMessages), QueuedBytes: int64(i.QueuedBytes), Prefix: text(i.Prefix), Authority: text(i.Authority), ProxyId: []byte(i.ProxyID)}
	if i.Remote.IsValid() {
		out.Remote = i.Remote.String()
	}
	if s.o.Peers != nil {
		out.Node = uint32(s.o.Node)
	}
	return out
}

// which says what a request is about, and how to know it: two tenants may have a client of one id each.
func which(verb string, tenant uint32, id string, connection uint64) (what string, want func(*broker.ClientInfo) bool, err error) {
	switch {
	case (id == "") == (connection == 0):
		return "", nil, wrong("%s client: want an id or the number of a connection", verb)
	case connection != 0:
		return verb + " connection " + strconv.FormatUint(connection, 10), func(i *broker.ClientInfo) bool { return i.Tenant == tenant && i.Connection == connection }, nil
	}
	return verb + " client " + quoted(id), func(i *broker.ClientInfo) bool {
		return i.Tenant == tenant && (i.ClientID == id || text(i.ClientID) == id)
	}, nil
}

// all goes through every connection.
func (c *clientService) all(ctx context.Context, kick bool, want func(*broker.ClientInfo) bool) (list []broker.ClientInfo, kicked int64, err error) {
	var at broker.RowPlace
	for end := false; !end; {
		some, err := c.visit(ctx, at, sliceRows, kick, want)
		if err != nil {
			return nil, kicked, err
		}
		kicked += some.kicked
		if room := detailRows - len(list); room > 0 {
			list = append(list, some.list[:min(room, len(some.list))]...)
		}
		at, end = some.next, some.end
	}
	return list, kicked, nil
}

// Describe shows the connections of a client, wherever they are.
func (c *clientService) Describe(ctx context.Context, r *api.DescribeClientRequest) (*api.DescribeClientResponse, error) {
	what, want, err := which("describe", tenantOf(ctx), r.Id, r.Connection)
	if err != nil {
		return nil, err
	}
	out := &api.DescribeClientResponse{}
	here, others, err := c.s.where(ctx, what, r.Connection, r.Node)
	if err != nil {
		return nil, err
	}
	if here {
		if err := c.describe(ctx, want, out); err != nil {
			return nil, err
		}
	}
	for _, node := range others {
		some, err := askFor[*api.DescribeClientResponse](ctx, c.s, node, "/sluice.control.v1.Clients/Describe", r)
		switch status.Code(err) {
		case codes.OK:
			out.Clients = append(out.Clients, some.Clients...)
			if out.Session == nil {
				out.Session, out.Subscriptions = some.Session, some.Subscriptions
			}
		case codes.NotFound:
		case codes.Unavailable:
			out.NotAsked = append(out.NotAsked, uint32(node))
		default:
			return nil, err
		}
	}
	if len(out.Clients) == 0 {
		return nil, nobody(out.NotAsked, "%s: it is not connected; sluice client list shows who is, sluice session list whose session is kept", what)
	}
	return out, nil
}

// describe adds the connections of this node.
func (c *clientService) describe(ctx context.Context, want func(*broker.ClientInfo) bool, out *api.DescribeClientResponse) error {
	list, _, err := c.all(ctx, false, want)
	if err != nil {
		return err
	}
	for i := range list {
		out.Clients = append(out.Clients, c.s.shownClient(&list[i]))
		if list[i].Kept && out.Session == nil {
			if info, ok := c.s.o.Broker.Session(tenantOf(ctx), list[i].ClientID); ok {
				out.Session = shownSession(&info)
				out.Subscriptions = shownSubscriptions(c.s.o.Broker, tenantOf(ctx), &info)
			}
		}
	}
	return nil
}

// Kick ends the connections of a client, wherever they are.
func (c *clientService) Kick(ctx context.Context, r *api.KickClientRequest) (*api.KickClientResponse, error) {
	what, want, err := which("kick", tenantOf(ctx), r.Id, r.Connection)
	if err != nil {
		return nil, err
	}
	here, others, err := c.s.where(ctx, what, r.Connection, r.Node)
	if err != nil {
		return nil, err
	}
	out := &api.KickClientResponse{}
	if here {
		if _, out.Kicked, err = c.all(ctx, true, want); err != nil {
			return nil, err
		}
	}
	for _, node := range others {
		some, err := askFor[*api.KickClientResponse](ctx, c.s, node, "/sluice.control.v1.Clients/Kick", r)
		switch status.Code(err) {
		case codes.OK:
			out.Kicked += some.Kicked
		case codes.NotFound:
		case codes.Unavailable:
			out.NotAsked = append(out.NotAsked, uint32(node))
		default:
			return nil, err
		}
	}
	if out.Kicked == 0 {
		return nil, nobody(out.NotAsked, "%s: it is not connected; sluice client list shows who is", what)
	}
	return out, nil
}
