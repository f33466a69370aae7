package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// Nodes are the nodes of a cluster as they are changed; what there are the catalog says.
type Nodes interface {
	// Add, Remove and Replace return when the change counts.
	Add(ctx context.Context, n meta.Node) error
	Remove(ctx context.Context, id meta.NodeID) error
	Replace(ctx context.Context, id meta.NodeID) error
	// Leader is the node that leads the catalog's group, as far as this one knows.
	Leader() (id meta.NodeID, known bool)
	// Halted says why this node does not follow the catalog any more.
	Halted() error
}

// nodeService is the service Nodes.
type nodeService struct {
	api.UnsafeNodesServer // a method that is missing does not compile
	s                     *Server
}

func (c *nodeService) shown(n *meta.Node) *api.Node {
	out := &api.Node{Id: uint32(n.ID), State: n.State.String(), Address: n.Address, Rack: text(n.Rack), Replica: n.Replica, Level: n.Level}
	out.Roles = n.Roles.Names()
	leader, known := c.s.o.Nodes.Leader()
	out.Leader = known && leader == n.ID
	return out
}

// alone is the answer of a node that is in no cluster.
func alone(what string) error {
	return refuse(meta.ErrNoCluster, what, "listeners.cluster makes it a node of one")
}

// List shows the nodes.
func (c *nodeService) List(ctx context.Context, _ *api.ListNodesRequest) (*api.ListNodesResponse, error) {
	if c.s.o.Nodes == nil {
		return nil, alone("list nodes")
	}
	out := c.list()
	c.addOthersKnow(ctx, out.Nodes)
	return out, nil
}

// addOthersKnow says how far nodes are, as the node that leads knows, and why they leave the lead to others, as each knows.
func (c *nodeService) addOthersKnow(ctx context.Context, nodes []*api.Node) {
	if c.s.o.Shards == nil {
		return
	}
	st := (&shardService{s: c.s}).shown()
	c.s.asOthersKnow(ctx, st)
	for _, n := range nodes {
		if i := slices.IndexFunc(st.Yields, func(y *api.NodeYields) bool { return y.Node == n.Id }); i >= 0 {
			n.Yields = st.Yields[i].Why
		}
		n.Progress = progressOfNode(n.Id, st)
	}
}

func (c *nodeService) list() *api.ListNodesResponse {
	s := c.s.o.Catalog.Load()
	out := &api.ListNodesResponse{Asked: uint32(c.s.o.Node)}
	if cluster := s.Cluster(); cluster != nil {
		out.Cluster, out.Level, out.Held, out.LevelOfAll = cluster.ID, cluster.Level, cluster.Held, meta.LevelOfAll(s)
	}
	if err := c.s.o.Nodes.Halted(); err != nil {
		out.Halted = err.Error()
	}
	for _, n := range s.Nodes() {
		out.Nodes = append(out.Nodes, c.shown(n))
	}
	slices.SortFunc(out.Nodes, func(a, b *api.Node) int { return cmp.Compare(a.Id, b.Id) })
	return out
}

// Hold has the cluster stay at its level, or ends that.
func (c *nodeService) Hold(ctx context.Context, r *api.HoldLevelRequest) (*api.ListNodesResponse, error) {
	const what = "hold the level of the cluster"
	if c.s.o.Nodes == nil {
		return nil, alone(what)
	}
	was(ctx, c.list())
	if err := awaitError(ctx, func(done func(error)) {
		c.s.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.HoldLevel(s, !r.End) }, done)
	}); err != nil {
		return nil, refuse(err, what, "")
	}
	return c.list(), nil
}

// change makes one change of a node, and shows the node as it is then.
func (c *nodeService) change(ctx context.Context, what string, id uint32, do func(meta.NodeID) error) (*api.Node, error) {
	what = fmt.Sprintf("%s node %d", what, id)
	switch {
	case c.s.o.Nodes == nil:
		return nil, alone(what)
	case id == 0 || id > meta.NodeIDMax:
		return nil, wrong("%s: want a node's number from 1 to %d", what, meta.NodeIDMax)
	}
	if n := c.s.o.Catalog.Load().Node(meta.NodeID(id)); n != nil {
		was(ctx, c.shown(n))
	}
	if err := do(meta.NodeID(id)); err != nil {
		return nil, refuse(err, what, "")
	}
	if n := c.s.o.Catalog.Load().Node(meta.NodeID(id)); n != nil {
		return c.shown(n), nil
	}
	return &api.Node{Id: id}, nil // not seen here yet
}

// Add lets a node join.
func (c *nodeService) Add(ctx context.Context, r *api.AddNodeRequest) (*api.Node, error) {
	return c.change(ctx, "add", r.Id, func(id meta.NodeID) error {
		if err := meta.CheckNodeAddress(r.Address); err != nil {
			return wrong("add node %d: %v", id, err)
		}
		if len(r.Rack) > meta.NodeRackMax {
			return wrong("add node %d: the name of a rack has at most %d bytes, found %d", id, meta.NodeRackMax, len(r.Rack))
		}
		roles, err := meta.ParseRoles(r.Roles)
		if err != nil {
			return wrong("add node %d: %v", id, err)
		}
		return c.s.o.Nodes.Add(ctx, meta.Node{ID: id, Roles: roles, Address: r.Address, Rack: r.Rack})
	})
}

// Remove takes a node out for good.
func (c *nodeService) Remove(ctx context.Context, r *api.RemoveNodeRequest) (*api.Node, error) {
	return c.change(ctx, "remove", r.Id, func(id meta.NodeID) error { return c.s.o.Nodes.Remove(ctx, id) })
}

// Replace lets a node join again with an empty data directory.
func (c *nodeService) Replace(ctx context.Context, r *api.ReplaceNodeRequest) (*api.Node, error) {
	return c.change(ctx, "replace", r.Id, func(id meta.NodeID) error { return c.s.o.Nodes.Replace(ctx, id) })
}
