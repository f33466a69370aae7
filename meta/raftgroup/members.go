package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	dragonboat "github.com/lni/dragonboat/v4"

	"github.com/sluicemq/sluice/meta"
)

// Member is a node's place in the group.
type Member struct {
	Node    meta.NodeID
	Replica uint32 // the node's copy
	Votes   bool
}

// Members are the copies that the group has, as far as this node knows.
func (g *Group) Members(ctx context.Context) ([]Member, error) {
	m, err := g.membership(ctx)
	if err != nil {
		return nil, err
	}
	var list []Member
	add := func(replicas map[uint64]string, votes bool) {
		for replica := range replicas {
			list = append(list, Member{nodeOfReplica(replica), uint32(replica & meta.ReplicaMax), votes})
		}
	}
	add(m.Nodes, true)
	add(m.NonVotings, false)
	return list, nil
}

func (g *Group) membership(ctx context.Context) (*dragonboat.Membership, error) {
	if err := g.Halted(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTicks*g.o.Tick)
	defer cancel()
	return g.host.SyncGetShardMembership(ctx, shardID)
}

// change repeats a change of the group's members until want says that it is there.
func (g *Group) change(ctx context.Context, request func(context.Context) error, want func(*dragonboat.Membership) bool) error {
	for {
		m, err := g.membership(ctx)
		if err == nil && want(m) {
			return nil
		}
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, attemptTicks*g.o.Tick)
			err = request(attempt)
			cancel()
		}
		if halted := g.Halted(); halted != nil {
			return halted
		}
		if errors.Is(err, dragonboat.ErrClosed) || errors.Is(err, dragonboat.ErrShardClosed) {
			return ErrClosed
		}
		if sleep(ctx, pauseTicks*g.o.Tick) != nil {
			return fmt.Errorf("%w: change the catalog's members: %w", meta.ErrNoMajority, errors.Join(ctx.Err(), err))
		}
	}
}

func has(m map[uint64]string, replica uint64) bool {
	_, found := m[replica]
	return found
}

// addCopy lets a node's copy come along without a vote.
func (g *Group) addCopy(ctx context.Context, replica uint64) error {
	return g.change(ctx, func(ctx context.Context) error {
		return g.host.SyncRequestAddNonVoting(ctx, shardID, replica, target(nodeOfReplica(replica)), 0)
	}, func(m *dragonboat.Membership) bool { return has(m.Nodes, replica) || has(m.NonVotings, replica) })
}

// promote gives a copy its vote.
func (g *Group) promote(ctx context.Context, replica uint64) error {
	return g.change(ctx, func(ctx context.Context) error {
		return g.host.SyncRequestAddReplica(ctx, shardID, replica, target(nodeOfReplica(replica)), 0)
	}, func(m *dragonboat.Membership) bool { return has(m.Nodes, replica) })
}

// removeCopy takes a copy out of the group for good.
func (g *Group) removeCopy(ctx context.Context, replica uint64) error {
	return g.change(ctx, func(ctx context.Context) error { return g.host.SyncRequestDeleteReplica(ctx, shardID, replica, 0) },
		func(m *dragonboat.Membership) bool { return !has(m.Nodes, replica) && !has(m.NonVotings, replica) })
}

// update changes the catalog by a rule and waits.
func (g *Group) update(ctx context.Context, rule func(*meta.Snapshot) ([]meta.Entry, error)) error {
	done := make(chan error, 1)
	g.catalog.Update(rule, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Add lets a node join.
func (g *Group) Add(ctx context.Context, n meta.Node) error {
	return g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.AddNode(s, n) })
}

// Remove takes a node out of the cluster for good. Its copy of the catalog counts no more when it returns.
func (g *Group) Remove(ctx context.Context, id meta.NodeID) error {
	return g.retire(ctx, id, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.RemoveNode(s, id) })
}

// Replace lets a node whose disk is lost join anew. Its old copy counts no more when it returns.
func (g *Group) Replace(ctx context.Context, id meta.NodeID) error {
	return g.retire(ctx, id, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.ReplaceNode(s, id) })
}

// retire changes a node's entry and takes its copies out that are none any more.
func (g *Group) retire(ctx context.Context, id meta.NodeID, rule func(*meta.Snapshot) ([]meta.Entry, error)) error {
	if id == g.o.Node {
		return fmt.Errorf("%w: node %d", ErrSelf, id)
	}
	if err := g.update(ctx, rule); err != nil {
		return err
	}
	return g.dropRetired(ctx, id)
}

// dropRetired takes out the copies that the catalog has no more, of one node or (0) of all.
func (g *Group) dropRetired(ctx context.Context, of meta.NodeID) error {
	m, err := g.membership(ctx)
	if err != nil {
		return err
	}
	s := g.catalog.Load()
	for _, replicas := range []map[uint64]string{m.Nodes, m.NonVotings} {
		for replica := range replicas {
			id := nodeOfReplica(replica)
			n := s.Node(id)
			if of != 0 && id != of || n == nil || n.State != meta.NodeRemoved && replicaOf(id, n.Replica) <= replica || id == g.o.Node {
				continue
			}
			if err := g.removeCopy(ctx, replica); err != nil {
				return err
			}
		}
	}
	return nil
}

// tend has the tender look again.
func (g *Group) tend() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// tendTicks is after how long what did not work is tried again, and a leader looks for copies that are none any more.
const tendTicks = 40

// tender does what a node owes the group by itself: it gets its vote when it has come along, says where it is and what it can do, and, where it
// leads, takes out the copies of nodes that were removed while nobody could.
func (g *Group) tender() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-g.poke:
		case <-g.ctx.Done():
			return
		}
		if err := g.owed(); err != nil && g.ctx.Err() == nil && !errors.Is(err, ErrClosed) {
			g.complain("the catalog's group is not as it shall be yet", "err", err)
		}
		timer.Reset(tendTicks * g.o.Tick)
	}
}

func (g *Group) owed() error {
	if g.Halted() != nil {
		return nil // it has been told
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.o.AnswerWait)
	defer cancel()
	s := g.catalog.Load()
	me := s.Node(g.o.Node)
	switch {
	case s.Cluster() == nil || me == nil:
		return g.Barrier(ctx) // it has just joined
	case me.State == meta.NodeRemoved || me.Replica != g.id.copy:
		return fmt.Errorf("%w: node %d", ErrRemoved, me.ID)
	case me.Address != g.o.Address || me.Level != meta.Level || me.Disk == "":
		if err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) {
			return meta.ClaimNode(s, g.o.Node, g.id.disk, g.o.Address, meta.Level)
		}); err != nil {
			return fmt.Errorf("say where this node is: %w", err)
		}
	}
	if me.State == meta.NodeJoining {
		// A copy that has come along as far as everything that was decided up to now can vote without holding the others up.
		if err := g.Barrier(ctx); err != nil {
			return err
		}
		if err := g.promote(ctx, g.id.replica()); err != nil {
			return err
		}
		if err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.ActivateNode(s, g.o.Node) }); err != nil {
			return err
		}
		g.o.Logger.Info("this node votes on the catalog", "node", g.o.Node)
	}
	if err := g.advertised(ctx, s); err != nil {
		return err
	}
	if leader, ok := g.Leader(); !ok || leader != g.o.Node {
		return nil
	}
	if err := g.raise(ctx, s); err != nil {
		return err
	}
	if retiredIn(s) {
		return g.dropRetired(ctx, 0)
	}
	return nil
}

// raise has the cluster use what all of its nodes can do, unless its level is held.
func (g *Group) raise(ctx context.Context, s *meta.Snapshot) error {
	level := meta.LevelOfAll(s)
	if list, err := meta.RaiseLevel(s, level); err != nil || list == nil {
		return nil //nolint:nilerr // it is not to be raised
	}
	switch err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.RaiseLevel(s, level) }); {
	case errors.Is(err, meta.ErrHeld):
		return nil // meanwhile
	case err != nil:
		return fmt.Errorf("raise the level of the cluster: %w", err)
	}
	g.o.Logger.Info("the cluster uses what all of its nodes can do", "level", level)
	return nil
}

// advertised has the catalog say in which rack this node is, and where clients reach it.
func (g *Group) advertised(ctx context.Context, s *meta.Snapshot) error {
	g.mu.Lock()
	kafka, mqtt := g.mu.kafka, g.mu.mqtt
	g.mu.Unlock()
	if kafka == nil {
		return nil
	}
	if list, err := meta.AdvertiseNode(s, g.o.Node, g.o.Rack, *kafka, mqtt); err != nil || list == nil {
		return err
	}
	if err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) {
		return meta.AdvertiseNode(s, g.o.Node, g.o.Rack, *kafka, mqtt)
	}); err != nil {
		return fmt.Errorf("say where clients reach this node: %w", err)
	}
	return nil
}

// retiredIn says whether a copy may be one too many.
func retiredIn(s *meta.Snapshot) bool {
	for _, n := range s.Nodes() {
		if n.State == meta.NodeRemoved || n.Replica > 1 {
			return true
		}
	}
	return false
}

// form makes the cluster's first entries: what the node had while it was alone, and, last of all, the cluster itself. A form that was cut begins
// anew with the next start.
func (g *Group) form(ctx context.Context) error {
	if err := g.Barrier(ctx); err != nil {
		return err
	}
	if g.catalog.Load().Cluster() != nil {
		return nil // it was in the log, not in the state
	}
	for rest := g.o.Form.Entries; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && size < commandMax/2 {
			size += len(rest[n].Key) + len(rest[n].Value)
			n++
		}
		part := rest[:n]
		rest = rest[n:]
		if err := g.update(ctx, func(*meta.Snapshot) ([]meta.Entry, error) { return part, nil }); err != nil {
			return fmt.Errorf("take over what the node had while it was alone: %w", err)
		}
	}
	first := meta.Node{ID: g.o.Node, Roles: g.o.Roles, Level: meta.Level, Disk: g.id.disk, Address: g.o.Address, Rack: g.o.Rack}
	err := g.update(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) {
		return meta.FormCluster(s, meta.Cluster{ID: g.id.cluster, Shards: g.o.Shards, Level: meta.Level}, first)
	})
	if err != nil {
		return fmt.Errorf("form a cluster: %w", err)
	}
	g.o.Logger.Info("this node is a cluster", "cluster", g.id.cluster, "node", g.o.Node)
	return nil
}
