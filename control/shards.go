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

// Shards are who leads the shards of a cluster, and who has them. Any goroutine calls them.
type Shards interface {
	// Placements are what this node knows of each set of shards that the catalog has, by number: set 0 first, which is always there. They are the caller's.
	Placements() []Placement
	// Move returns when another node leads a set that there is.
	Move(ctx context.Context, set int, to meta.NodeID) error
	// ElectUnclean has a node lead a set, one that there is, that may lack what was acknowledged.
	ElectUnclean(ctx context.Context, set int, id meta.NodeID) error
	// Balance decides who shall have the shards, of each set by itself: an answer for each, as Placements. With an error some may be decided.
	Balance(ctx context.Context, dryRun, anyRack bool) ([]Balance, error)
	// Drain has a node lead no set any more, or end that.
	Drain(ctx context.Context, id meta.NodeID, end bool) error
}

// Balance is what balancing makes of who has the shards of a set.
type Balance struct {
	Set        int
	Have, Want []meta.NodeID // who has them, and who shall
	Leader     meta.NodeID   // as it was; 0: none
	LeadMoves  bool
	Balanced   bool // nothing is to be moved
}

// Placement is who has the shards of a set, which lie alike.
type Placement struct {
	Set       int
	First     int         // of its shards
	Shards    int         // how many it has, from First on
	Factor    int         // how many replicas it is to have, if it has a number of its own; 0: as many as is configured
	Shard     *meta.Shard // the first one's entry; nil: not said yet
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

// shown is what this node knows, of all sets.
func (c *shardService) shown() *api.ShardStatus {
	all := c.s.o.Shards.Placements()
	of, p := shownSet(&all[0]), &all[0]
	out := &api.ShardStatus{Asked: uint32(c.s.o.Node), Shards: of.Shards, Leader: of.Leader, Epoch: of.Epoch, Open: of.Open, Replicas: of.Replicas, InSync: of.InSync,
		Eligible: of.Eligible, Alive: nodeNumbers(p.Alive), LeastInSync: of.LeastInSync, Followers: of.Followers, Progress: of.Progress, Target: of.Target}
	if p.Yields != "" {
		out.Yields = append(out.Yields, &api.NodeYields{Node: out.Asked, Why: p.Yields})
	}
	for i := range all[1:] {
		out.Sets = append(out.Sets, shownSet(&all[1+i]))
	}
	return out
}

func shownSet(p *Placement) *api.ShardSet {
	out := &api.ShardSet{Number: uint32(p.Set), First: uint32(p.First), Shards: uint32(p.Shards), Leader: uint32(p.Leader), Open: p.Open, LeastInSync: uint32(p.Least), Factor: uint32(p.Factor)}
	if sh := p.Shard; sh != nil {
		out.Epoch, out.Replicas, out.InSync, out.Eligible = sh.Epoch, nodeNumbers(sh.Replicas), nodeNumbers(sh.ISR), nodeNumbers(sh.Eligible)
		out.Target, out.Home = nodeNumbers(sh.Target), nodeNumbers(sh.Home)
		for _, id := range sh.Replicas {
			if lag, ok := p.Followers[id]; ok {
				out.Followers = append(out.Followers, &api.ShardFollower{Node: uint32(id), Lag: lag})
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Progress)) {
		out.Progress = append(out.Progress, progressOf(id, p.Progress[id]))
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

// change is a change of who leads a set.
func (c *shardService) change(ctx context.Context, what string, set, id uint32, do func(set int, id meta.NodeID) error) (*api.ShardStatus, error) {
	if set > 0 {
		what += fmt.Sprintf(", set %d", set)
	}
	switch {
	case c.s.o.Shards == nil:
		return nil, alone(what)
	case id == 0 || id > meta.NodeIDMax:
		return nil, wrong("%s: want a node's number from 1 to %d", what, meta.NodeIDMax)
	}
	have := c.shown()
	switch n := uint32(len(have.Sets)); {
	case set > 0 && n == 0:
		return nil, missing("%s: there is one set of shards, 0; sluice shard sets makes others", what)
	case set > n:
		return nil, missing("%s: the sets of shards are 0 to %d", what, n)
	}
	was(ctx, have)
	if err := do(int(set), meta.NodeID(id)); err != nil {
		return nil, refuse(err, what, "")
	}
	return c.shown(), nil
}

// Sets has the cluster have more sets of shards.
func (c *shardService) Sets(ctx context.Context, r *api.ShardSetsRequest) (*api.ShardStatus, error) {
	what := fmt.Sprintf("have %d sets of shards", r.Sets)
	if r.Replicas > 0 {
		what += fmt.Sprintf(", of %d replicas", r.Replicas)
	}
	switch {
	case c.s.o.Shards == nil:
		return nil, alone(what)
	case r.Sets == 0 || r.Sets > meta.SetsMax:
		return nil, wrong("%s: want 1 to %d beside the first", what, meta.SetsMax)
	}
	was(ctx, c.shown())
	if err := awaitError(ctx, func(done func(error)) {
		c.s.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.GrowSets(s, r.Sets, r.Replicas) }, done)
	}); err != nil {
		return nil, refuse(err, what, "")
	}
	return c.shown(), nil
}

// Replicas has a set have another number of replicas.
func (c *shardService) Replicas(ctx context.Context, r *api.ShardReplicasRequest) (*api.ShardStatus, error) {
	what := fmt.Sprintf("have %d replicas of set %d of shards", r.Replicas, r.Set)
	switch {
	case c.s.o.Shards == nil:
		return nil, alone(what)
	case r.Replicas == 0 || r.Replicas > meta.ReplicasMax:
		return nil, wrong("%s: want 1 to %d", what, meta.ReplicasMax)
	case r.Set == 0:
		return nil, wrong("%s: set 0 has as many as cluster.replicas says", what)
	}
	have := c.shown()
	if n := len(have.Sets); int(r.Set) > n {
		return nil, missing("%s: the sets of shards are 0 to %d", what, n)
	}
	was(ctx, have)
	if err := awaitError(ctx, func(done func(error)) {
		c.s.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.ReplicateSet(s, r.Set, r.Replicas) }, done)
	}); err != nil {
		return nil, refuse(err, what, "")
	}
	return c.shown(), nil
}

// Move has another node lead a set.
func (c *shardService) Move(ctx context.Context, r *api.MoveShardsRequest) (*api.ShardStatus, error) {
	return c.change(ctx, fmt.Sprintf("move the lead to node %d", r.To), r.Set, r.To, func(set int, id meta.NodeID) error { return c.s.o.Shards.Move(ctx, set, id) })
}

// Balance decides who shall have the shards.
func (c *shardService) Balance(ctx context.Context, r *api.BalanceShardsRequest) (*api.ShardBalance, error) {
	const what = "balance the shards"
	if c.s.o.Shards == nil {
		return nil, alone(what)
	}
	was(ctx, c.shown())
	all, err := c.s.o.Shards.Balance(ctx, r.DryRun, r.AnyRack)
	if err != nil {
		return nil, refuse(err, what, "")
	}
	of := &all[0]
	out := &api.ShardBalance{Balanced: of.Balanced, Leader: uint32(of.Leader), LeadMoves: of.LeadMoves, Nodes: c.places(of)}
	for i := range all[1:] {
		b := &all[1+i]
		out.Sets = append(out.Sets, &api.ShardSetBalance{Number: uint32(b.Set), Balanced: b.Balanced, Leader: uint32(b.Leader), LeadMoves: b.LeadMoves, Nodes: c.places(b)})
	}
	return out, nil
}

// places are the nodes of a plan, each once: those that have the shards, then those that come.
func (c *shardService) places(b *Balance) (out []*api.ShardPlace) {
	for i, id := range slices.Concat(b.Have, b.Want) {
		if slices.ContainsFunc(out, func(p *api.ShardPlace) bool { return p.Node == uint32(id) }) {
			continue
		}
		p := &api.ShardPlace{Node: uint32(id), Has: i < len(b.Have), Shall: slices.Contains(b.Want, id)}
		if n := c.s.o.Catalog.Load().Node(id); n != nil {
			p.Rack = text(n.Rack)
		}
		out = append(out, p)
	}
	return out
}

// ElectUnclean has a node lead a set that may lack what was acknowledged.
func (c *shardService) ElectUnclean(ctx context.Context, r *api.ElectUncleanRequest) (*api.ShardStatus, error) {
	return c.change(ctx, fmt.Sprintf("elect node %d", r.Node), r.Set, r.Node, func(set int, id meta.NodeID) error { return c.s.o.Shards.ElectUnclean(ctx, set, id) })
}

// Drain has a node lead no more.
func (c *nodeService) Drain(ctx context.Context, r *api.DrainNodeRequest) (*api.Node, error) {
	out, err := c.change(ctx, "drain", r.Id, func(id meta.NodeID) error {
		switch n := c.s.o.Catalog.Load().Node(id); {
		case n == nil:
			return fmt.Errorf("%w: %d", meta.ErrNoNode, id)
		case n.State == meta.NodeRemoved:
			return fmt.Errorf("%w: node %d", meta.ErrNodeGone, id)
		}
		return c.s.o.Shards.Drain(ctx, id, r.End)
	})
	if err == nil {
		c.addOthersKnow(ctx, []*api.Node{out})
	}
	return out, err
}
