package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/cluster/replica"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// setMember is a node's part in one set of shards: who leads it, and what is replicated of it.
type setMember struct {
	meta.ShardSet
	control  *cluster.Controller
	replicas *replica.Replicas
}

// memberSets are a node's parts in all sets of shards. Those beside the first are made with the node, since what the link carries has to be known before anybody is connected,
// and sleep until the catalog has them.
type memberSets struct {
	streams *replica.Sets
	list    []*setMember // of all that there may be, by number
	begun   atomic.Int32 // of them, those that have a place; grows guards its changes
	grows   sync.Mutex
	follows func() // ends the catalog's subscription
}

// setOf is the set that a shard is of.
func (m *member) setOf(shard record.ShardID) *setMember {
	home := m.n.o.shards
	if int(shard) < home {
		return m.parts.list[0]
	}
	return m.parts.list[1+(int(shard)-home)/meta.SetShards]
}

// joinSets makes them, before anybody is connected.
func (m *member) joinSets(mesh *link.Mesh) {
	n, cfg := m.n, m.n.o.clusterConfig
	all := meta.Cluster{Shards: uint32(cfg.Cluster.Shards), Sets: meta.SetsMax}
	var sets []replica.Set
	for number := range meta.SetsMax + 1 {
		at := all.Set(number)
		sets = append(sets, replica.Set{Number: number, First: record.ShardID(at.First), Shards: int(at.Count)})
		m.parts.list = append(m.parts.list, &setMember{ShardSet: at})
	}
	m.parts.streams = replica.New(replica.Options{Pace: m.pace, Mesh: mesh, Core: n.broker, Log: n.storage.(*logStorage).log, Behind: m.behind, Logger: n.o.logger}, sets...)
	group, peers := cluster.MergeBarriers(lateGroup{n}), cluster.OverMesh(mesh)
	for number, set := range m.parts.list {
		set.replicas = m.parts.streams.Of(number)
		set.control = cluster.New(cluster.Options{Node: m.own, Catalog: n.catalog.Catalog, Group: group, Peers: peers, Core: n.broker, Streams: set.replicas,
			Set: number, First: int(set.First), Shards: int(set.Count), Reluctant: !cfg.TakesClients(), Lease: cfg.Cluster.Lease, Replicas: cfg.Cluster.Replicas, Lag: cfg.Cluster.ReplicaLag,
			Changed: func(s cluster.State) { m.changed(number, s) }, Logger: n.o.logger})
	}
	m.control, m.replicas = m.parts.list[0].control, m.parts.list[0].replicas
	m.copies = copiedSets{m}
}

// startSets begins to lead or to follow each set that the cluster has, and those that it gets.
func (m *member) startSets() {
	c := m.n.catalog.Catalog
	m.parts.follows = c.Subscribe(func(old, now *meta.Snapshot) {
		if meta.SetsChanged(old, now) || meta.ShardsChanged(old, now) {
			m.growSets(now)
		}
	})
	for _, set := range m.parts.list { // one that is not there sleeps
		set.control.Start(m.n.cluster.Silence())
	}
	m.growSets(c.Load())
}

// growSets takes over how many sets there are. They do not become fewer.
func (m *member) growSets(s *meta.Snapshot) {
	have := 1 + meta.SetsBegun(s)
	m.parts.grows.Lock()
	defer m.parts.grows.Unlock()
	if have > int(m.parts.begun.Load()) { // what is told may be older than what was
		m.parts.begun.Store(int32(have))
		m.n.broker.SetStreamSets(have - 1)
	}
	m.n.broker.SetSetReplicas(m.setReplicas(m.n.catalog.Load()))
}

// setReplicas is how many replicas the sets have; nil: none has a number of its own.
func (m *member) setReplicas(s *meta.Snapshot) *broker.SetReplicas {
	c := s.Cluster()
	if c == nil || c.Replicas == [meta.SetsMax + 1]uint8{} {
		return nil
	}
	usual := m.n.o.clusterConfig.Cluster.Replicas
	r := &broker.SetReplicas{Usual: usual}
	for k := range c.Sets {
		r.Of = append(r.Of, c.SetReplicas(int(k)+1, usual))
	}
	return r
}

// begun are the sets that have a place; the first is always among them.
func (m *member) begun() []*setMember {
	return m.parts.list[:max(m.parts.begun.Load(), 1)]
}

// closeSets lets go of all of them.
func (m *member) closeSets() {
	if m.parts.follows != nil {
		m.parts.follows()
	}
	var all sync.WaitGroup
	for _, set := range m.parts.list {
		all.Go(set.control.Close)
	}
	all.Wait()
	m.parts.streams.Close()
}

// ofEach calls do for all of these sets at the same time, and gives the error of the first that has one.
func ofEach(list []*setMember, do func(i int, set *setMember) error) error {
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i, set := range list {
		all.Go(func() { errs[i] = do(i, set) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

var _ control.Shards = (*member)(nil)

// Placements makes it a control.Shards.
func (m *member) Placements() (list []control.Placement) {
	for _, set := range m.begun() {
		list = append(list, m.placement(set))
	}
	return list
}

func (m *member) placement(set *setMember) control.Placement {
	s := set.control.State()
	p := control.Placement{Set: set.Number, First: int(set.First), Shards: int(set.Count), Shard: m.n.catalog.Load().Shard(set.First), Leader: s.Leader, Open: s.Leading, Alive: s.Alive,
		Followers: make(map[meta.NodeID]uint64), Yields: string(set.control.Yields())}
	p.Factor = m.n.catalog.Load().Cluster().SetReplicas(set.Number, 0)
	if p.Shard != nil {
		p.Least = cluster.LeastInSync(len(p.Shard.Replicas))
	}
	if p.Shard != nil && p.Shard.Leader == m.own {
		p.Progress = m.progress(set, &p)
	}
	return p
}

// Move makes it a control.Shards.
func (m *member) Move(ctx context.Context, set int, to meta.NodeID) error {
	return shardsFault(m.parts.list[set].control.Move(ctx, to))
}

// ElectUnclean makes it a control.Shards.
func (m *member) ElectUnclean(ctx context.Context, set int, id meta.NodeID) error {
	return shardsFault(m.parts.list[set].control.ElectUnclean(ctx, id))
}

// Balance makes it a control.Shards.
func (m *member) Balance(ctx context.Context, dryRun, anyRack bool) ([]control.Balance, error) {
	list := m.begun()
	controls := make([]*cluster.Controller, len(list))
	for i, set := range list {
		controls[i] = set.control
	}
	plans, err := cluster.BalanceAll(ctx, controls, cluster.BalanceOptions{DryRun: dryRun, AnyRack: anyRack})
	if err != nil {
		return nil, shardsFault(err)
	}
	out := make([]control.Balance, len(plans))
	for i, p := range plans {
		out[i] = control.Balance{Set: list[i].Number, Have: p.Have, Want: p.Want, Leader: p.Leader, LeadMoves: p.LeadMoves, Balanced: p.Balanced()}
	}
	return out, nil
}

// Drain makes it a control.Shards. A node drains in sets, too, that there may be yet.
func (m *member) Drain(ctx context.Context, id meta.NodeID, end bool) error {
	list := m.parts.list
	if at := m.n.catalog.Load().Cluster(); at == nil || at.Level < meta.LevelSets {
		list = list[:1] // older nodes know of no other
	}
	return shardsFault(ofEach(list, func(_ int, set *setMember) error { return set.control.DrainNode(ctx, id, !end) }))
}

// mostSets is how many sets of shards the core has room for, beside the first: a node that is alone needs none.
func (m *member) mostSets() int {
	if m == nil {
		return 0
	}
	return meta.SetsMax
}

// copiedSets are the sets as those ask about them who get a copy and give one.
type copiedSets struct{ m *member }

var _ copySets = copiedSets{}

// Alive makes it copySets.
func (c copiedSets) Alive(set int) []meta.NodeID { return c.m.parts.list[set].control.State().Alive }

// Leads makes it copySets.
func (c copiedSets) Leads(set int) uint32 {
	if s := c.m.parts.list[set].control.State(); s.Leased {
		return s.Epoch
	}
	return 0
}

// Serves makes it copySets.
func (c copiedSets) Serves(set int, node link.NodeID) bool {
	return c.m.parts.list[set].replicas.Serves(node)
}

// Yield makes it copySets.
func (c copiedSets) Yield(set int, yields bool) { c.m.parts.list[set].control.SetBehind(yields) }

// Pause makes it copySets. All sets that there may be are paused, at the same time.
func (c copiedSets) Pause(ctx context.Context) (resume func(), err error) {
	list := c.m.parts.list
	resumes, errs := make([]func(), len(list)), make([]error, len(list))
	var all sync.WaitGroup
	for i, set := range list {
		all.Go(func() {
			if resumes[i], errs[i] = set.control.Pause(ctx); errs[i] == nil {
				errs[i] = set.replicas.Quiet(ctx)
			}
		})
	}
	all.Wait()
	resume = func() {
		for _, fn := range resumes {
			if fn != nil {
				fn()
			}
		}
	}
	if err = errors.Join(errs...); err != nil {
		resume()
		return nil, err
	}
	return resume, nil
}
