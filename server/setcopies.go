package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/cluster"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/meta"
)

// A copy takes the place of all that a node has, while it may lack something of one set of shards alone. Of the others it may have what was acknowledged, and
// counts as one that has: what it has acknowledged to a set's leader has to be in the copy, or nobody may count on it any more.
//
//  1. It gives up the sets that it leads, that of set 0 first, and goes on only where enough others are in sync without it, or where the one who gives the copy leads.
//  2. It leads and follows nothing any more until it starts anew. Each leader confirms that, holds its log and says where it ends.
//  3. It takes itself out of those in sync, and changes the entries of all shards: what a leader had decided of them before is refused. No leader takes in a node of
//     which it has no stream, and no election brings back one that is neither in sync nor eligible.
//  4. Who gives the copy has all that the leaders had, and leads, before and behind the moment of it, the sets of which the node could not take itself out. All
//     that the node has acknowledged of them is in the copy, and nothing more was committed without it.
//  5. Before the copy counts, the majority says that all of this is so yet: an operator may have had the node lead.
//
// What fails on the way has it follow again with the data that it has, and begin anew.

// copySets is what copies ask of the node's sets of shards, by their numbers. A nil one is that of a node without any beside the first.
type copySets interface {
	// Alive are the nodes that are there, as the controller of a set has said; nil: it is not known.
	Alive(set int) []meta.NodeID
	// Leads is the epoch in which this node leads a set, with a lease that is not over; 0: it does not. Whether the set takes commands does not count: it may wait for the
	// very node that needs the copy.
	Leads(set int) uint32
	// Serves tells whether this node has a stream of a follower of a set, and be it one that has only begun: replica.Replicas.Serves.
	Serves(set int, node link.NodeID) bool
	// Yield has the node leave the lead of a set to others, as far as they can lead, or ends that.
	Yield(set int, yields bool)
	// Pause has the node neither lead nor follow any set, those that come to be included, until resume or the end of the process. When it returns, the node takes no
	// commands, no stream of its own is open or will be (replica.Replicas.Quiet), and nothing is acknowledged any more; what it led it has let go of. It is called by who was told that a
	// set is behind.
	Pause(ctx context.Context) (resume func(), err error)
}

// errCopyMoved is why a copy is begun anew.
var errCopyMoved = errors.New("who leads has changed meanwhile")

// needed says why a copy cannot be begun yet.
type needed string

// Error makes it an error.
func (n needed) Error() string { return string(n) }

const (
	setHandOverWait = 10 * time.Second // for another node to lead
	setPauseWait    = 30 * time.Second
	setHoldWait     = 10 * time.Second // for a leader to know that the node follows no more
	setHoldRenew    = 20 * time.Second
)

var (
	setsAgain = pace.Backoff{First: time.Second, Most: 30 * time.Second}
	setAgain  = pace.Backoff{First: 5 * time.Millisecond, Most: 200 * time.Millisecond} // while something is waited for
)

// setCopier gets the node a copy.
type setCopier struct {
	own     meta.NodeID
	sets    copySets // nil: there are none beside the first
	catalog *meta.Catalog
	barrier func(context.Context) error
	call    func(ctx context.Context, to link.NodeID, method uint16, body []byte) ([]byte, error)
	fetch   func(ctx context.Context, giver link.NodeID, asks []seedAsk) (mark string, err error) // brings a copy beside the node's data
	mark    func(string) error                                                                    // the next start takes it
	again   func()                                                                                // starts the node anew
	clock   clock.Clock
	log     *slog.Logger
	mu      struct {
		sync.Mutex
		lacks   map[int]uint32 // sets that the node cannot follow, and the epoch in which that was found
		running bool
	}
	yields []int // of the running loop
}

// setAt is a set as the node that asks knows it.
type setAt struct {
	seedAsk
	leader meta.NodeID
}

// behind is told that the node's log cannot be continued from a set's leader: it gets a copy, and asks to be started anew. It returns at once where that is under way.
func (c *setCopier) behind(ctx context.Context, set int, leader link.NodeID, cause error) {
	c.log.Warn("this node's log does not go on to the leader's: it gets a copy", "leader", leader, "set", set, "err", cause)
	if !c.begin(set) {
		return
	}
	said := ""
	for tries := 1; c.lacking(); tries++ {
		err := c.try(ctx, leader)
		if err == nil {
			c.log.Info("a copy of the leader's data is here; the node starts anew with it")
			c.again()
			return // nothing else may become of this run of the node
		}
		if ctx.Err() != nil {
			return
		}
		var n needed
		switch {
		case !errors.As(err, &n):
			c.log.Warn("the copy could not be made; it is tried again", "err", err)
		case said != err.Error():
			c.log.Warn("this node needs a copy of the leader's data, and cannot take it yet", "why", err)
		}
		said = err.Error()
		wait := seedAgain
		if c.several() > 0 {
			wait = setsAgain // nodes in sync are fewer by one each time
		}
		if pace.Sleep(ctx, c.clock, wait.Wait(tries)) != nil {
			return
		}
	}
}

// begin notes that a set cannot be followed; false: a copy is on its way.
func (c *setCopier) begin(set int) bool {
	epoch := c.epoch(set)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.lacks == nil {
		c.mu.lacks = make(map[int]uint32)
	}
	c.mu.lacks[set] = epoch
	first := !c.mu.running
	c.mu.running = true
	return first
}

// lacking says whether the node still needs a copy. Of a set that has another leader since, the stream says so anew.
func (c *setCopier) lacking() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for set, epoch := range c.mu.lacks {
		if c.epoch(set) != epoch {
			delete(c.mu.lacks, set)
		}
	}
	if len(c.mu.lacks) > 0 {
		return true
	}
	for _, set := range c.yields {
		c.sets.Yield(set, false)
	}
	c.yields, c.mu.running = nil, false
	return false
}

// epoch is that of a set, as far as this node knows.
func (c *setCopier) epoch(set int) uint32 {
	s := c.catalog.Load()
	if cl := s.Cluster(); cl != nil && set <= int(cl.Sets) {
		if sh := s.Shard(cl.Set(set).First); sh != nil {
			return sh.Epoch
		}
	}
	return 0
}

// several is how many sets there are beside the first.
func (c *setCopier) several() int {
	if cl := c.catalog.Load().Cluster(); c.sets != nil && cl != nil {
		return int(cl.Sets)
	}
	return 0
}

func (c *setCopier) try(ctx context.Context, leader link.NodeID) error {
	if c.several() > 0 {
		return c.trySets(ctx)
	}
	s := c.catalog.Load().Shard(0)
	if s != nil && s.Leader != 0 && s.Leader != c.own {
		leader = link.NodeID(s.Leader)
	}
	epoch := c.epoch(0)
	mark, err := c.fetch(ctx, leader, nil)
	if err != nil {
		return err
	}
	return c.paused(ctx, func() error {
		switch {
		case c.several() > 0:
			return errCopyMoved // of those the node may have something
		case c.epoch(0) == epoch: // it has acknowledged nothing since
			return c.mark(mark)
		}
		if err := c.settled(ctx, nil); err != nil {
			return err
		}
		return c.mark(mark)
	})
}

// paused runs fn while the node neither leads nor follows. It stays so if fn succeeds.
func (c *setCopier) paused(ctx context.Context, fn func() error) error {
	resume := func() {}
	if c.sets != nil {
		pausing, cancel := context.WithTimeout(ctx, setPauseWait)
		defer cancel()
		var err error
		if resume, err = c.sets.Pause(pausing); err != nil {
			return fmt.Errorf("stop following: %w", err)
		}
	}
	err := fn()
	if err != nil {
		resume()
	}
	return err
}

// trySets gets a copy where there are several sets.
func (c *setCopier) trySets(ctx context.Context) error {
	at, err := c.ready(ctx)
	if err != nil {
		return err
	}
	return c.paused(ctx, func() error {
		if err := c.hold(ctx, at, setHoldWait); err != nil {
			return err
		}
		if err := c.leave(ctx, at); err != nil {
			return err
		}
		renewing, stop := context.WithCancel(ctx)
		var renews sync.WaitGroup
		renews.Go(func() { c.renew(renewing) })
		defer renews.Wait()
		defer stop()
		asks := make([]seedAsk, len(at))
		for i := range at {
			asks[i] = at[i].seedAsk
		}
		mark, err := c.fetch(ctx, link.NodeID(at[0].leader), asks)
		if err != nil {
			return err
		}
		if err := c.settled(ctx, at); err != nil {
			return err
		}
		return c.mark(mark)
	})
}

// ready returns once the node leads no set and may go, with all sets, that of the first one first.
func (c *setCopier) ready(ctx context.Context) ([]setAt, error) {
	for range 3 {
		if err := c.barrier(ctx); err != nil { // what is known here may be old
			return nil, fmt.Errorf("ask the majority who leads: %w", err)
		}
		at, led, err := c.look(c.catalog.Load())
		if err != nil || len(led) == 0 {
			return at, err
		}
		if err := c.handOver(ctx, led); err != nil {
			return nil, err
		}
	}
	return nil, errCopyMoved
}

// look says which sets there are, and which of them this node has to hand over first.
func (c *setCopier) look(s *meta.Snapshot) (at []setAt, led []int, err error) {
	cl := s.Cluster()
	if first := s.Shard(0); first == nil || first.Leader == 0 {
		return nil, nil, needed("nobody leads")
	}
	giver := s.Shard(0).Leader
	for n := range int(cl.Sets) + 1 {
		sh := s.Shard(cl.Set(n).First)
		if sh == nil {
			continue // nothing was ever in it
		}
		spared := c.spared(n, sh)
		switch {
		case sh.Leader == c.own && (spared || cl.Replicas[n] > 0): // of a set with its own number of replicas another node gets what it lacks, and leads
			led = append(led, n)
		case sh.Leader == c.own:
			err = needed(fmt.Sprintf("it leads set %d of the shards, and too few others are in sync", n))
		case sh.Leader == 0:
			err = needed(fmt.Sprintf("nobody leads set %d of the shards: what this node has of it may be needed", n))
		case c.counts(sh) && !spared && sh.Leader != giver:
			err = needed(fmt.Sprintf("too few others are in sync in set %d of the shards: what this node has of it is needed", n))
		}
		if n == 0 && sh.Leader == c.own {
			return nil, led, err // who leads next gives the copy
		}
		if err != nil {
			return nil, nil, err
		}
		at = append(at, setAt{seedAsk{set: n, epoch: sh.Epoch, leads: sh.Leader == giver}, sh.Leader})
	}
	return at, led, nil
}

// counts says whether the node may be the only one with what was acknowledged.
func (c *setCopier) counts(sh *meta.Shard) bool {
	return sh.Leader == c.own || slices.Contains(sh.ISR, c.own) || slices.Contains(sh.Eligible, c.own)
}

// spared says whether enough others are in sync, and there.
func (c *setCopier) spared(set int, sh *meta.Shard) bool {
	n, alive := 0, c.sets.Alive(set)
	for _, id := range sh.ISR {
		if id != c.own && slices.Contains(alive, id) {
			n++
		}
	}
	return n >= cluster.LeastInSync(len(sh.Replicas))
}

// handOver has other nodes lead sets, and goes on to do so until the node has what it lacks.
func (c *setCopier) handOver(ctx context.Context, sets []int) error {
	for _, set := range sets {
		if !slices.Contains(c.yields, set) {
			c.yields = append(c.yields, set)
		}
		c.sets.Yield(set, true)
	}
	ctx, cancel := context.WithTimeout(ctx, setHandOverWait)
	defer cancel()
	for tries := 1; ; tries++ {
		s := c.catalog.Load()
		if !slices.ContainsFunc(sets, func(n int) bool {
			sh := s.Shard(s.Cluster().Set(n).First)
			return sh.Leader == c.own || sh.Leader == 0
		}) {
			return nil
		}
		if pace.Sleep(ctx, c.clock, setAgain.Wait(tries)) != nil {
			return needed(fmt.Sprintf("no other node takes over the lead of sets %v of the shards", sets))
		}
	}
}

// hold has all leaders hold their logs, and takes over where these end.
func (c *setCopier) hold(ctx context.Context, at []setAt, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var leaders []meta.NodeID
	for i := range at {
		if !slices.Contains(leaders, at[i].leader) {
			leaders = append(leaders, at[i].leader)
		}
	}
	for _, leader := range leaders {
		var asks []seedAsk
		for i := range at {
			if at[i].leader == leader {
				asks = append(asks, seedAsk{set: at[i].set, epoch: at[i].epoch})
			}
		}
		answer, err := c.call(ctx, link.NodeID(leader), methodSeedHold, appendAsks(nil, asks))
		for tries := 1; err != nil && pace.Sleep(ctx, c.clock, setAgain.Wait(tries)) == nil; tries++ {
			answer, err = c.call(ctx, link.NodeID(leader), methodSeedHold, appendAsks(nil, asks))
		}
		if err != nil {
			return fmt.Errorf("have node %d hold its log: %w", leader, err)
		}
		got, err := decodeAsks(answer)
		if err != nil || len(got) != len(asks) {
			return fmt.Errorf("have node %d hold its log: %w", leader, errors.Join(errSeedAsk, err))
		}
		for _, a := range got {
			i := slices.IndexFunc(at, func(o setAt) bool { return o.set == a.set && o.leader == leader })
			if i < 0 {
				return fmt.Errorf("have node %d hold its log: %w", leader, errSeedAsk)
			}
			at[i].ends = a.ends
		}
	}
	return nil
}

// renew has whoever leads hold its log, until ctx ends. A leader that is new may have let go of something before: then there will be another copy.
func (c *setCopier) renew(ctx context.Context) {
	for pace.Sleep(ctx, c.clock, setHoldRenew) == nil {
		s := c.catalog.Load()
		for n := range int(s.Cluster().Sets) + 1 {
			sh := s.Shard(s.Cluster().Set(n).First)
			if sh == nil || sh.Leader == 0 || sh.Leader == c.own {
				continue
			}
			if err := c.hold(ctx, []setAt{{seedAsk{set: n, epoch: sh.Epoch}, sh.Leader}}, setHoldRenew/4); err != nil && ctx.Err() == nil {
				c.log.Warn("the log of a leader may not be held for the copy", "err", err)
			}
		}
	}
}

// leave takes the node out of those in sync.
func (c *setCopier) leave(ctx context.Context, at []setAt) error {
	done := make(chan error, 1)
	c.catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) { return c.without(s, at) }, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// without are the entries of all shards in which the node counts no more, but where it has to and the one who gives the copy leads. Each of them is changed.
func (c *setCopier) without(s *meta.Snapshot, at []setAt) (all []meta.Entry, err error) {
	cl := s.Cluster()
	for n := range int(cl.Sets) + 1 {
		set := cl.Set(n)
		i := slices.IndexFunc(at, func(a setAt) bool { return a.set == n })
		for k := range set.Count {
			sh := s.Shard(set.First + k)
			switch {
			case sh == nil && i < 0:
				continue
			case sh == nil || i < 0 || sh.Epoch != at[i].epoch || sh.Leader != at[i].leader:
				return nil, errCopyMoved
			}
			next := *sh
			rest := slices.DeleteFunc(slices.Clone(sh.ISR), func(id meta.NodeID) bool { return id == c.own })
			switch {
			case !c.counts(sh):
			case len(rest) >= cluster.LeastInSync(len(sh.Replicas)):
				next.ISR, next.Eligible = rest, nil
			case !at[i].leads:
				return nil, needed(fmt.Sprintf("too few others are in sync in set %d of the shards: what this node has of it is needed", n))
			}
			list, err := meta.SetShard(s, next)
			if err != nil {
				return nil, err
			}
			all = append(all, list...)
		}
	}
	return all, nil
}

// settled says, after the majority, whether nobody counts on what the node has but as it was when the copy was made.
func (c *setCopier) settled(ctx context.Context, at []setAt) error {
	if err := c.barrier(ctx); err != nil {
		return fmt.Errorf("ask the majority who leads: %w", err)
	}
	s := c.catalog.Load()
	cl := s.Cluster()
	if cl == nil {
		return errCopyMoved
	}
	for n := range int(cl.Sets) + 1 {
		i := slices.IndexFunc(at, func(a setAt) bool { return a.set == n })
		for k := range cl.Set(n).Count {
			sh := s.Shard(cl.Set(n).First + k)
			if sh != nil && c.counts(sh) && (i < 0 || !at[i].leads || sh.Epoch != at[i].epoch) {
				return errCopyMoved
			}
		}
	}
	return nil
}

// ofSets makes what copies need of sets of shards.
func (s *seeds) ofSets(mesh *link.Mesh) {
	m := s.m
	data := m.n.o.clusterConfig.Node.Data
	cl := func() *meta.Cluster { return m.n.catalog.Load().Cluster() }
	s.copier = &setCopier{own: m.own, sets: m.copies, catalog: m.n.catalog.Catalog, barrier: func(ctx context.Context) error { return m.n.cluster.Barrier(ctx) },
		call: func(ctx context.Context, to link.NodeID, method uint16, body []byte) ([]byte, error) {
			a, err := mesh.Call(ctx, to, method, body)
			if err != nil {
				return nil, err
			}
			defer a.Release()
			return bytes.Clone(a.Bytes()), nil
		},
		fetch: func(ctx context.Context, giver link.NodeID, asks []seedAsk) (string, error) {
			return m.fetchSeed(ctx, mesh, giver, asks)
		},
		mark: func(text string) error {
			return errors.Join(writeFileSynced(filepath.Join(data, seedMark), text), syncDirectory(data))
		},
		again: m.n.o.again, clock: m.clock(), log: m.n.o.logger}
	if m.copies == nil {
		return
	}
	log := m.n.storage.(*logStorage).log
	s.holds = &setHolds{sets: m.copies, log: log, replica: m.n.broker.Replica, cluster: cl, clock: m.clock()}
	s.giver = &setGiver{sets: m.copies, replica: m.n.broker.Replica, cluster: cl, clock: m.clock(), wait: setGiveWait}
}

// hold serves methodSeedHold.
func (s *seeds) hold(r *link.Request) {
	asks, err := decodeAsks(r.Body.Bytes())
	switch {
	case err != nil:
	case s.holds == nil || len(asks) == 0:
		err = errSeedAsk
	default:
		asks, err = s.holds.hold(r.Peer, asks)
	}
	if err != nil {
		r.Fail(err.Error())
		return
	}
	r.Reply(appendAsks(nil, asks))
}

// behind is told that the node's log cannot be continued from the leader's of a set. It returns when the node follows again, or is about to start anew.
func (m *member) behind(set int, leader link.NodeID, cause error) {
	m.seeds.copier.behind(m.seeds.ctx, set, leader, cause)
}
