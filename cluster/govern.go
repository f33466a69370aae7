package cluster

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// reign is the controller's time in office.
type reign struct {
	since time.Duration // when its first change was made
	busy  bool          // a change of the catalog is under way
	doubt bool          // nobody knows whether the last change is made, or will be
	begun atomic.Uint64 // the term in which that was made; confirm reads it
	ask   chan struct{}
}

var (
	errDeposed = errors.New("cluster: this node is not the controller any more")
	errNothing = errors.New("cluster: nothing is to change")
)

// margin is by how much longer than a lease the controller waits: clocks do not run alike.
func (c *Controller) margin() time.Duration { return c.o.Lease / 20 }

// govern does what the controller does.
func (c *Controller) govern(s *meta.Snapshot, now time.Duration) {
	term, ok := c.o.Group.Reign()
	r := &c.reign
	switch {
	case !ok || s.Cluster() == nil || c.ceased():
		c.refusePlans()
		return
	case r.busy:
		return
	case r.begun.Load() != term:
		c.forget()
		c.change(term, c.touch, func(err error) {
			if err == nil {
				r.begun.Store(term)
				r.since = c.clk.Mono()
				c.settle()
			}
		})
		return
	case r.doubt: // after one that is made, the other one is refused
		c.change(term, c.touch, func(err error) {
			if err == nil {
				c.settle()
			}
		})
		return
	}
	switch want, changed := c.decide(s, now); {
	case changed:
		c.make(term, c.shard(s), want)
	case c.whole(now):
		c.plan(term, s, now)
	}
}

// whole says whether the controller has reigned for so long that who is silent has no lease of another one.
func (c *Controller) whole(now time.Duration) bool {
	return now-c.reign.since > c.o.Lease+c.margin()-c.silence
}

// settle ends an election whose outcome is in the catalog, or never will be.
func (c *Controller) settle() {
	c.reign.doubt = false
	c.mu.Lock()
	c.mu.electing = false
	c.mu.Unlock()
}

// decide makes of the shards' placement what the rules make of it. When that is another leader, nobody is granted the lead until it is settled.
func (c *Controller) decide(s *meta.Snapshot, now time.Duration) (want meta.Shard, changed bool) {
	c.mu.Lock() // no lease is granted between the look at them and electing
	defer c.mu.Unlock()
	known, move := c.known(now)
	whole := c.whole(now) // before that, who is silent may have been granted a lease by another controller
	sh := c.shard(s)
	if sh != nil && !whole {
		for id := range known {
			if k := known[id]; !k.Alive {
				k.Alive = slices.Contains(sh.ISR, id) || slices.Contains(sh.Eligible, id)
				known[id] = k
			}
		}
		for _, id := range sh.Replicas {
			if _, ok := known[id]; !ok {
				known[id] = Known{Alive: true}
			}
		}
	}
	want, changed = c.placed(s, sh, known, move, now, whole)
	if !changed || !elects(&want, sh) {
		return want, changed
	}
	if sh != nil && !c.mayElect(&want, sh, now, whole) {
		return want, false
	}
	c.mu.electing = true
	c.log.Info("the controller changes who leads", "leader", want.Leader, "epoch", want.Epoch, "in_sync", want.ISR, "eligible", want.Eligible)
	return want, true
}

func elects(want, have *meta.Shard) bool { return have == nil || want.Epoch != have.Epoch }

// make has the catalog say what was decided of sh.
func (c *Controller) make(term uint64, sh *meta.Shard, want meta.Shard) {
	c.change(term, func(s *meta.Snapshot) (meta.Shard, bool) {
		now := c.shard(s)
		if (now == nil) != (sh == nil) || now != nil && now.Change != sh.Change {
			return meta.Shard{}, false // it is looked at again
		}
		if sh != nil && want.Replicas[0] != sh.Replicas[0] { // by what other sets are by now: they may be moved at the same time
			want.Replicas = follows(s, c.o.Set, want.Replicas, anyNode)
		}
		return want, true
	}, func(err error) {
		if err == nil {
			c.settle()
			return
		}
		c.reign.doubt = c.reign.doubt || elects(&want, sh)
	})
}

// mayElect says whether nobody has a lease any more that this controller, or one before it, has granted: but whole, who leads has to have said that it let go,
// and it has to be known that who is to lead is there. The caller holds mu.
func (c *Controller) mayElect(want, have *meta.Shard, now time.Duration, whole bool) bool {
	if !whole {
		_, heard := c.mu.heard[want.Leader]
		if have.Leader == 0 || want.Leader != 0 && !heard {
			return false
		}
	}
	return c.returned(now)
}

// returned says whether the lead that was granted last has been given back, or its lease is over. The caller holds mu.
func (c *Controller) returned(now time.Duration) bool {
	l := &c.mu.lent
	return l.to == 0 || now > l.at+c.o.Lease+c.margin() || c.mu.heard[l.to].resigned >= l.epoch
}

// touch is a reign's first change.
func (c *Controller) touch(s *meta.Snapshot) (meta.Shard, bool) {
	if sh := c.shard(s); sh != nil {
		return clone(sh), true
	}
	return meta.Shard{}, false
}

// forget has the controller know nothing of nodes.
func (c *Controller) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.mu.heard)
	c.mu.lent, c.mu.move, c.mu.asked = lent{}, 0, 0
	c.back, c.home = back{}, homing{}
}

// known is what the controller knows of nodes. The caller holds mu.
func (c *Controller) known(now time.Duration) (known map[meta.NodeID]Known, move meta.NodeID) {
	known = make(map[meta.NodeID]Known, len(c.mu.heard))
	for id, h := range c.mu.heard {
		known[id] = Known{Alive: now <= h.at+c.o.Lease+c.margin(), Resigned: h.resigned, Draining: h.draining, Leaving: h.leaving, Paused: h.paused}
	}
	return known, c.mu.move
}

// change changes all shards alike, as long as the reign lasts.
func (c *Controller) change(term uint64, rule func(*meta.Snapshot) (meta.Shard, bool), done func(error)) {
	c.reign.busy = true
	c.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		if now, ok := c.o.Group.Reign(); !ok || now != term || c.ceased() {
			return nil, errDeposed
		}
		want, ok := rule(s)
		if !ok {
			return nil, errNothing
		}
		return c.entries(s, &want)
	}, func(err error) {
		if errors.Is(err, errNothing) {
			err = nil
		}
		if err != nil && !errors.Is(err, errDeposed) {
			c.log.Warn("the shards' placement could not be changed", "err", err)
		}
		c.later(func() {
			c.reign.busy = false
			done(err)
		})
	})
}

// entries are those of all shards, placed like want.
func (c *Controller) entries(s *meta.Snapshot, want *meta.Shard) ([]meta.Entry, error) {
	return c.entriesBy(meta.SetShard, s, want)
}

func (c *Controller) entriesBy(rule func(*meta.Snapshot, meta.Shard) ([]meta.Entry, error), s *meta.Snapshot, want *meta.Shard) (all []meta.Entry, err error) {
	for i := range c.shards() {
		one := *want
		one.ID, one.Change = uint32(i), 0
		if have := s.Shard(one.ID); have != nil {
			one.Change = have.Change
		}
		list, err := rule(s, one)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// lead looks after those in sync, while this node leads.
func (c *Controller) lead(s *meta.Snapshot, sh *meta.Shard, now time.Duration) {
	if c.leading == 0 {
		return
	}
	if !c.opened && c.o.Core.Leads(record.ShardID(c.o.First), c.o.Shards) {
		c.opened = true
		c.log.Info("all shards take commands", "epoch", c.leading, "after", (now - c.since).Round(time.Millisecond))
	}
	if c.changing {
		return
	}
	if !slices.Equal(c.inSync, sh.ISR) || c.replicas != len(sh.Replicas) { // the controller, or an operator, has taken somebody out
		c.inSync, c.replicas, c.holdAdd = sh.ISR, len(sh.Replicas), now+c.o.Lease/2
		c.tell(sh.ISR, LeastInSync(len(sh.Replicas)))
	} else if c.untold && c.adding == 0 { // while one is let in it is told at each turn
		c.tell(c.inSync, LeastInSync(c.replicas))
	}
	want, replicas := c.wanted(s, sh, now)
	if id := goer(sh); id != 0 && c.adding == 0 && slices.Equal(want, sh.ISR) && len(replicas) == len(sh.Replicas) {
		c.log.Info("a node is to have the shards no more", "node", id, "epoch", c.leading)
		gone := func(o meta.NodeID) bool { return o == id }
		want, replicas = slices.DeleteFunc(want, gone), slices.DeleteFunc(replicas, gone)
	} else if !c.admit(want, replicas, sh, now) {
		return
	}
	c.changing = true
	c.changeInSync(want, replicas, sh.Change, c.leading, false)
}

// admit has the core wait for those that are to be in sync and are not yet, and says whether the catalog is to be changed: once they lack nothing. Under load
// they always do when they are looked at, if nobody waits for them.
func (c *Controller) admit(want, replicas []meta.NodeID, sh *meta.Shard, now time.Duration) bool {
	more := slices.ContainsFunc(want, func(id meta.NodeID) bool { return !slices.Contains(sh.ISR, id) })
	least := LeastInSync(len(replicas))
	if len(sh.ISR) < LeastInSync(len(sh.Replicas)) {
		least = meta.ReplicasMax + 1 // until the catalog has them in sync, who is eligible may lead without them: nothing is committed yet
	}
	all := slices.Concat(sh.ISR, want) // who goes is waited for until the catalog has taken it out
	sortNodes(all)
	if more && c.tell(slices.Compact(all), least) || !more && c.adding == 0 {
		c.adding = 0
		return !slices.Equal(want, sh.ISR)
	}
	switch {
	case more && c.adding == 0:
		c.adding = now
	case !more || now-c.adding > c.o.Lease/2: // it has gone, or does not come along
		c.adding, c.holdAdd = 0, now+c.o.Lease
		c.tell(sh.ISR, LeastInSync(len(sh.Replicas)))
	}
	return false
}

// changeInSync has the catalog say who is in sync. As long as it is not known whether it does, acknowledgements wait for all who may be: doubt says that it was
// tried before without an answer. If nobody ever will know, this node lets go.
func (c *Controller) changeInSync(want, replicas []meta.NodeID, base uint64, epoch uint32, doubt bool) {
	c.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		have := c.shard(s)
		if have == nil || have.Epoch != epoch || have.Leader != c.o.Node || have.Change != base {
			return nil, errNothing
		}
		next := clone(have)
		if next.Replicas = replicas; c.o.Set > 0 && len(replicas) > len(have.Replicas) {
			next.Replicas = evens(s, c.o.Set, replicas, func(id meta.NodeID) bool { return !slices.Contains(have.Replicas, id) })
			next.Replicas = follows(s, c.o.Set, next.Replicas, anyNode)
		}
		leave(&next, want)
		next.Arrived()
		return c.entries(s, &next)
	}, func(err error) {
		c.later(func() {
			if c.leading != epoch {
				return
			}
			refused := errors.Is(err, meta.ErrNoMajority) || errors.Is(err, meta.ErrBusy) // this time; a time before it may have been made
			switch {
			case errors.Is(err, meta.ErrUnknown):
				c.changeInSync(want, replicas, base, epoch, true)
				return
			case err != nil && !errors.Is(err, errNothing) && !errors.Is(err, meta.ErrConflict) && (doubt || !refused):
				c.resign("nobody knows who is in sync: " + err.Error())
				return
			}
			c.changing = false
			if sh := c.shard(c.o.Catalog.Load()); err == nil {
				c.log.Info("nodes in sync", "nodes", want, "epoch", epoch)
				c.inSync, c.replicas = want, len(replicas)
			} else {
				c.inSync, c.replicas = sh.ISR, len(sh.Replicas)
			}
			c.tell(c.inSync, LeastInSync(c.replicas))
		})
	})
}

// tell tells the core who is in sync, and how many have to be; false: one of them lacks something, or the core does not lead yet.
func (c *Controller) tell(inSync []meta.NodeID, least int) bool {
	others, ok := c.others(inSync), true
	c.await(inSync, least)
	for i := range c.shards() {
		if err := c.o.Core.SetInSync(i, record.Epoch(c.leading), others, least); err != nil {
			ok = false
		}
	}
	c.untold = !ok
	return ok
}

// wanted are those that ought to be in sync, by what their streams say, and who has the shards then: a node gets its place when it has all there is, so
// that nobody waits for one that is new. Who has had a stream since this node leads and has lost it is in sync no more, at once; who has not had one yet has the time from
// the begin of the lead on for it.
func (c *Controller) wanted(s *meta.Snapshot, sh *meta.Shard, now time.Duration) (want, replicas []meta.NodeID) {
	caught := make(map[meta.NodeID]time.Duration)
	for _, f := range c.o.Streams.Followers() {
		if f.CaughtUp > 0 {
			caught[meta.NodeID(f.Node)] = f.CaughtUp
			c.came[meta.NodeID(f.Node)] = true
		}
	}
	want, replicas = []meta.NodeID{c.o.Node}, slices.Clone(sh.Replicas)
	for _, id := range comers(s, sh, c.most(s)) {
		if id == c.o.Node || full(sh, replicas) && !slices.Contains(replicas, id) {
			continue
		}
		at, ok := caught[id]
		in := slices.Contains(sh.ISR, id)
		switch {
		case in && (ok || !c.came[id]) && now-max(at, c.since) <= c.o.Lag:
			want = append(want, id)
		case !in && ok && now >= c.holdAdd && now-at <= c.o.Lease && slices.Contains(c.alive, id):
			want = append(want, id)
			if !slices.Contains(replicas, id) {
				replicas = append(replicas, id)
			}
		}
	}
	sortNodes(want)
	return want, replicas
}

func sortNodes(list []meta.NodeID) { slices.Sort(list) }
