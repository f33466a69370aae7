package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster"
	"github.com/sluicemq/sluice/cluster/carry"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/cluster/replica"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// member is what makes a node one of several: who leads, what is replicated, and how clients come to the node that leads. A nil one is that of a node that is
// alone.
type member struct {
	n        *node
	own      meta.NodeID
	parts    memberSets
	replicas *replica.Replicas   // of the first set
	control  *cluster.Controller // likewise
	kafka    *kafkaCluster
	asks     *kafkaLeader
	calls    *controlPeers
	seeds    *seeds
	copies   copySets // the sets of shards, as copies ask about them
	pace     *replica.Pace
	told     bool   // that the node has no store
	levels   func() // the catalog's subscription

	mu struct {
		sync.Mutex
		led  []func() // called each time the node has begun to lead
		wake *sync.Cond
		due  bool
		over bool
	}
	done chan struct{}
}

// join takes what the node shall carry from the link, before anybody is connected.
func (m *member) join(mesh *link.Mesh) {
	if m == nil {
		return
	}
	n := m.n
	cfg := n.o.clusterConfig
	m.own = meta.NodeID(cfg.Node.ID)
	m.pace = replica.NewPace(m.clock(), int64(cfg.Cluster.CatchupRate))
	m.joinSets(mesh)
	m.kafka = watchKafkaCluster(m.own, n.catalog.Catalog)
	m.asks = &kafkaLeader{mesh: mesh, cluster: m.kafka, broker: n.broker, topics: n.topics}
	m.asks.serve()
	txns := &txnPeers{mesh: mesh, core: n.broker, clock: m.clock(), lead: m.kafka.leader}
	txns.serve()
	n.broker.SetParticipants(txns)
	m.calls = &controlPeers{mesh: mesh, member: m, catalog: n.catalog.Catalog}
	m.calls.serve()
	m.serveSeeds(mesh)
	m.levels = followLevel(n.catalog.Catalog, n.broker.SetDelayable)
}

// followLevel says whether all nodes of the cluster know what is published later, until cancel. The node leads shards of no cluster that its catalog does not have.
func followLevel(c *meta.Catalog, delayable func(bool)) (cancel func()) {
	said := func(s *meta.Snapshot) {
		at := s.Cluster()
		delayable(at != nil && at.Level >= meta.LevelLater)
	}
	cancel = c.Subscribe(func(_, now *meta.Snapshot) { said(now) })
	said(c.Load())
	return cancel
}

// lateGroup is the node's group for the controller, which is made before it.
type lateGroup struct{ n *node }

// Leader is who leads the group.
func (g lateGroup) Leader() (meta.NodeID, bool) { return g.n.cluster.Leader() }

// Reign is the term in which this node does.
func (g lateGroup) Reign() (uint64, bool) { return g.n.cluster.Reign() }

// Halted says why this node takes over no changes any more.
func (g lateGroup) Halted() error { return g.n.cluster.Halted() }

// HandOver has another node lead it.
func (g lateGroup) HandOver(ctx context.Context, heir func(asked meta.NodeID) meta.NodeID) error {
	return g.n.cluster.HandOver(ctx, heir)
}

// Barrier asks the majority.
func (g lateGroup) Barrier(ctx context.Context) error { return g.n.cluster.Barrier(ctx) }

var _ carry.Leader = (*member)(nil)

// Leader makes it a carry.Leader.
func (m *member) Leader() (node link.NodeID, here, known bool) {
	s := m.control.State()
	return link.NodeID(s.Leader), s.Leading, s.Leader != 0 && (s.Leader != m.own || s.Leading)
}

// shardMoved is told of each step of a shard.
func (m *member) shardMoved(shard record.ShardID) {
	if m == nil || m.replicas == nil {
		return
	}
	m.parts.streams.Moved(shard)
	m.setOf(shard).control.Moved()
}

// flushed is told that a group is in the log.
func (m *member) flushed() {
	if m != nil && m.replicas != nil {
		m.parts.streams.Flushed()
	}
}

// lost is told that what was on its way into the log is gone.
func (m *member) lost() {
	if m != nil && m.replicas != nil {
		m.parts.streams.Lost()
	}
}

// changed takes over who leads a set.
func (m *member) changed(set int, s cluster.State) {
	if set > 0 {
		m.kafka.lead(set, leadership{leader: s.Leader, epoch: s.Epoch, leading: s.Leading, alive: s.Alive})
		return
	}
	if m.storeless(); s.Leading {
		m.n.tier.leads(record.Epoch(s.Epoch))
	} else {
		m.n.tier.leads(0)
	}
	m.kafka.lead(0, leadership{leader: s.Leader, epoch: s.Epoch, leading: s.Leading, alive: s.Alive})
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Leading {
		m.mu.due = true
		m.mu.wake.Signal()
	}
}

// storeless has a node leave the lead to others that has no store and follows one that has: whoever reads here would take history for lost.
func (m *member) storeless() {
	if !m.n.storeless() || m.told {
		return
	}
	m.told = true
	m.n.o.logger.Error("the cluster has history in a store, and tier.store of this node is off: it leads only if no other node can; set tier.* as on the other nodes")
	m.control.SetYields(cluster.YieldsStoreless)
}

// onLead has fn called each time that the node has begun to lead, one at a time.
func (m *member) onLead(fn func()) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.led = append(m.mu.led, fn)
	m.mu.due = true
	m.mu.wake.Signal()
}

// newMember makes it, nil for a node that is alone. Its parts come with join.
func newMember(n *node) *member {
	if n.o.clusterConfig == nil {
		return nil
	}
	m := &member{n: n, done: make(chan struct{})}
	m.mu.wake = sync.NewCond(&m.mu)
	go m.run()
	return m
}

func (m *member) run() {
	defer close(m.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for !m.mu.due && !m.mu.over {
			m.mu.wake.Wait()
		}
		if m.mu.over {
			return
		}
		m.mu.due = false
		list := m.mu.led
		m.mu.Unlock()
		if m.leads() {
			for _, fn := range list {
				fn()
			}
		}
		m.mu.Lock()
	}
}

// start begins to follow or to lead; a node that is alone has nothing to begin. own are the entries that the core has from when the node was alone.
func (m *member) start(n *node, own *ownEntries) {
	if m == nil {
		own.forget(n.broker, n.o.logger)
		return
	}
	m.kafka.onMove(m.n.kafka.LeaderChanged)
	m.onLead(func() { own.forget(m.n.broker, m.n.o.logger) })
	m.startSets()
}

// kafkaCluster is the cluster as Kafka's door sees it; nil for a node that is alone.
func (m *member) kafkaCluster() kafka.Cluster {
	if m == nil {
		return nil
	}
	return m.kafka
}

// kafkaLeader asks the node that leads.
func (m *member) kafkaLeader() kafka.Leader {
	if m == nil {
		return nil
	}
	return m.asks
}

// reload takes over what of the configuration changes while the node runs.
func (m *member) reload(cfg *config.Config) {
	if m != nil && m.pace != nil {
		m.pace.Set(int64(cfg.Cluster.CatchupRate))
	}
}

func (m *member) clock() clock.Clock {
	if m.n.o.storage.clock != nil {
		return m.n.o.storage.clock
	}
	return clock.Real{}
}

// leads tells whether the node takes commands for all shards.
func (m *member) leads() bool { return m == nil || m.control != nil && m.control.State().Leading }

// leased is leads, also where the shards wait for others to be in sync before they take commands: for the node that gets a copy, after an unclean election.
func (m *member) leased() bool { return m.control != nil && m.control.State().Leased }

// heard says whether the majority of the cluster has said lately that this node is there: not without one, nor of a node that is cut off, was removed, or has halted.
func (m *member) heard() bool {
	return m == nil || m.control == nil || len(m.control.State().Alive) > 0
}

// sameRoles says that the node is to be something else than the cluster has let in.
func (m *member) sameRoles() error {
	if m == nil {
		return nil
	}
	have, err := meta.ParseRoles(m.n.o.clusterConfig.Node.Roles)
	if err != nil {
		return err
	}
	if n := m.n.catalog.Load().Node(m.own); n != nil && n.Roles != have {
		return fmt.Errorf("node.roles is %v, and the cluster has let node %d in as %v: roles are given by `sluice node add --roles` and do not change; remove the node and add one with another number, or set node.roles as it is there",
			have.Names(), m.own, n.Roles.Names())
	}
	return nil
}

// startLeaderWait bounds how long a node that starts waits until somebody leads. Clients that come earlier wait, too.
const startLeaderWait = 20 * time.Second

// awaitLeader returns when somebody leads, as far as this node knows, or after a while.
func (m *member) awaitLeader(ctx context.Context) {
	if m == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, startLeaderWait)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, _, known := m.Leader(); known {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.n.o.logger.Warn("nobody leads yet; clients wait")
			return
		}
	}
}

// drain has another node lead the shards, and the catalog's group, if one can.
func (m *member) drain(ctx context.Context) {
	if m == nil {
		return
	}
	err := ofEach(m.begun(), func(_ int, set *setMember) error { return set.control.Leave(ctx) })
	if err != nil {
		m.n.o.logger.Warn("no other node has taken over the lead in time", "err", err)
	}
	controls := make([]*cluster.Controller, len(m.parts.list))
	for i, set := range m.parts.list {
		controls[i] = set.control
	}
	if err := cluster.HandOver(ctx, controls); err != nil {
		m.n.o.logger.Warn("the lead of the catalog's group is not handed over, and another node is elected", "err", err)
	}
}

// close ends it. The loops still run.
func (m *member) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.mu.over = true
	m.mu.wake.Signal()
	m.mu.Unlock()
	<-m.done
	if m.control == nil {
		return
	}
	m.levels()
	m.seeds.cancel()
	m.closeSets()
	m.seeds.close()
	m.kafka.close()
	m.n.broker.MarkWatermarks()
}

// clusterConfigOf is what of the configuration a node of a cluster is made of; nil for one that is alone.
func clusterConfigOf(cfg *config.Config) *config.Config {
	if !cfg.Clustered() {
		return nil
	}
	return cfg
}

var _ replica.Core = (*broker.Broker)(nil)

// restated is err with as in the place of was, which says the same.
func restated(as, was, err error) error {
	if rest, ok := strings.CutPrefix(err.Error(), was.Error()); ok {
		return fmt.Errorf("%w%s", as, rest)
	}
	return fmt.Errorf("%w: %w", as, err)
}

// shardsFault marks errors as the control plane tells them apart.
func shardsFault(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNotInSync):
		return restated(control.ErrNotInSync, cluster.ErrNotInSync, err)
	case errors.Is(err, cluster.ErrLed):
		return restated(control.ErrLed, cluster.ErrLed, err)
	case errors.Is(err, cluster.ErrNoController):
		return fmt.Errorf("%w: %w", control.ErrUndecided, err)
	case errors.Is(err, context.DeadlineExceeded):
		return control.ErrNotMoved
	}
	return err
}
