package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// Shards are who leads the shards of a cluster, and who has them.
type Shards interface {
	// Placement is what this node knows.
	Placement() Placement
	// Move returns when another node leads.
	Move(ctx context.Context, to meta.NodeID) error
	// ElectUnclean has a node lead that may lack what was acknowledged.
	ElectUnclean(ctx context.Context, id meta.NodeID) error
	// Balance decides who shall have the shards.
	Balance(ctx context.Context, dryRun, anyRack bool) (Balance, error)
	// Drain has a node lead no more, or end that.
	Drain(ctx context.Context, id meta.NodeID, end bool) error
}

// Balance is what balancing makes of who has the shards.
type Balance struct {
	Have, Want []meta.NodeID // who has them, and who shall
	Leader     meta.NodeID   // as it was; 0: none
	LeadMoves  bool
	Balanced   bool // nothing is to be moved
}

// Placement is who has the shards, which lie alike.
type Placement struct {
	Shard     *meta.Shard // nil: not said yet
	Shards    int
	Leader    meta.NodeID // 0: none, as this node knows
	Open      bool        // this node leads, and takes commands
	Alive     []meta.NodeID
	Least     int
	Followers map[meta.NodeID]uint64 // frames that they lack
	// Progress is how far nodes are, of the node that leads alone: those that have or are to have the shards. nil: it does not lead.
	Progress map[meta.NodeID]Progress
	Yields   string // why this node leaves the lead to others, as api.NodeYields has it; empty: it does not
}

var (
	// ErrNotInSync says that a node cannot lead, since it may lack something.
	ErrNotInSync = errors.New("control: the node is not in sync")
	// ErrLed says that there is no need for an unclean election.
	ErrLed = errors.New("control: a node leads, or one can that lacks nothing")
	// ErrNotMoved says that a change of who leads was asked for and has not come about.
	ErrNotMoved = errors.New("control: leadership has not moved yet")
	// ErrUndecided says that no node decides about the shards just now.
	ErrUndecided = errors.New("control: no node decides about the shards just now; ask again")
)

// shardService is the service Shards.
type shardService struct {
	api.UnsafeShardsServer // a method that is missing does not compile
	s                      *Server
}

func nodeNumbers(list []meta.NodeID) (out []uint32) {
	for _, id := range list {
		out = append(out, uint32(id))
	}
	return out
}

func (c *shardService) shown() *api.ShardStatus {
	p := c.s.o.Shards.Placement()
	out := &api.ShardStatus{Asked: uint32(c.s.o.Node), Shards: uint32(p.Shards), Leader: uint32(p.Leader), Open: p.Open, Alive: nodeNumbers(p.Alive), LeastInSync: uint32(p.Least)}
	if sh := p.Shard; sh != nil {
		out.Epoch, out.Replicas, out.InSync, out.Eligible = sh.Epoch, nodeNumbers(sh.Replicas), nodeNumbers(sh.ISR), nodeNumbers(sh.Eligible)
		out.Target = nodeNumbers(sh.Target)
		for _, id := range sh.Replicas {
			if lag, ok := p.Followers[id]; ok {
				out.Followers = append(out.Followers, &api.ShardFollower{Node: uint32(id), Lag: lag})
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Progress)) {
		out.Progress = append(out.Progress, progressOf(id, p.Progress[id]))
	}
	if p.Yields != "" {
		out.Yields = append(out.Yields, &api.NodeYields{Node: out.Asked, Why: p.Yields})
	}
	return out
}

// Status shows who leads and who is in sync.
func (c *shardService) Status(ctx context.Context, _ *api.ShardStatusRequest) (*api.ShardStatus, error) {
	if c.s.o.Shards == nil {
		return nil, alone("show shards")
	}
	out := c.shown()
	c.s.asOthersKnow(ctx, out)
	return out, nil
}

func (c *shardService) change(ctx context.Context, what string, id uint32, do func(meta.NodeID) error) (*api.ShardStatus, error) {
	switch {
	case c.s.o.Shards == nil:
		return nil, alone(what)
	case id == 0 || id > meta.NodeIDMax:
		return nil, wrong("%s: want a node's number from 1 to %d", what, meta.NodeIDMax)
	}
	was(ctx, c.shown())
	if err := do(meta.NodeID(id)); err != nil {
		return nil, refuse(err, what, "")
	}
	return c.shown(), nil
}

// Move has another node lead.
func (c *shardService) Move(ctx context.Context, r *api.MoveShardsRequest) (*api.ShardStatus, error) {
	return c.change(ctx, fmt.Sprintf("move the lead to node %d", r.To), r.To, func(id meta.NodeID) error { return c.s.o.Shards.Move(ctx, id) })
}

// Balance decides who shall have the shards.
func (c *shardService) Balance(ctx context.Context, r *api.BalanceShardsRequest) (*api.ShardBalance, error) {
	const what = "balance the shards"
	if c.s.o.Shards == nil {
		return nil, alone(what)
	}
	was(ctx, c.shown())
	b, err := c.s.o.Shards.Balance(ctx, r.DryRun, r.AnyRack)
	if err != nil {
		return nil, refuse(err, what, "")
	}
	out := &api.ShardBalance{Balanced: b.Balanced, Leader: uint32(b.Leader), LeadMoves: b.LeadMoves}
	for i, id := range slices.Concat(b.Have, b.Want) {
		if slices.ContainsFunc(out.Nodes, func(p *api.ShardPlace) bool { return p.Node == uint32(id) }) {
			continue
		}
		p := &api.ShardPlace{Node: uint32(id), Has: i < len(b.Have), Shall: slices.Contains(b.Want, id)}
		if n := c.s.o.Catalog.Load().Node(id); n != nil {
			p.Rack = text(n.Rack)
		}
		out.Nodes = append(out.Nodes, p)
	}
	return out, nil
}

// ElectUnclean has a node lead that may lack what was acknowledged.
func (c *shardService) ElectUnclean(ctx context.Context, r *api.ElectUncleanRequest) (*api.ShardStatus, error) {
	return c.change(ctx, fmt.Sprintf("elect node %d", r.Node), r.Node, func(id meta.NodeID) error { return c.s.o.Shards.ElectUnclean(ctx, id) })
}

// Drain has a node lead no more.
func (c *nodeService) Drain(ctx context.Context, r *api.DrainNodeRequest) (*api.Node, error) {
	out, err := c.change(ctx, "drain", r.Id, func(id meta.NodeID) error { return c.s.o.Shards.Drain(ctx, id, r.End) })
	if err == nil {
		c.addOthersKnow(ctx, []*api.Node{out})
	}
	return out, err
}
