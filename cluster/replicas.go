package cluster

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// Sets of shards with their own number of replicas (meta.Cluster.Replicas). Nodes that are none of them follow as well, and nobody waits for them: so one of them comes in the place of
// another as soon as the leader lets it in, and no copy is made.

// own says how many replicas the set is to have by the catalog; 0: as many as the configuration says.
func (c *Controller) own(s *meta.Snapshot) int { return s.Cluster().SetReplicas(c.o.Set, 0) }

// most is how many replicas the shards are to have, if there are so many nodes.
func (c *Controller) most(s *meta.Snapshot) int {
	return s.Cluster().SetReplicas(c.o.Set, c.o.Replicas)
}

// shortLeases is for how many leases too few of a set's replicas have to be in sync before others come in the place of those that are there and are not.
const shortLeases = 4

// homing is what the controller knows of a set's replicas over time. It belongs to run.
type homing struct {
	since time.Duration // since when all nodes of the Home could have the set again, without a break; 0: they cannot
	short time.Duration // since when too few are in sync; 0: enough are
}

// arrange places a set anew that has a number of replicas of its own: as many as that says, others in the place of those that leave or are lost, and those again when they are back. It
// changes want alone, in which the rest has been decided. The caller holds mu.
func (c *Controller) arrange(s *meta.Snapshot, sh, want *meta.Shard, known map[meta.NodeID]Known, now time.Duration) (changed bool) {
	if sh.Leader == 0 || want.Leader != sh.Leader || !known[sh.Leader].Alive {
		c.home.since = 0
		return false // whoever leads carries it out
	}
	if asked := c.mu.asked; asked != 0 && !slices.Contains(sh.Replicas, asked) {
		if !mayCome(s, known, asked) {
			c.mu.asked = 0
		} else if to := replaced(sh, asked); !slices.Equal(to, sh.Target) {
			want.Target, want.Home = to, nil
			want.Arrived()
			return true
		} else {
			return false
		}
	}
	if in := standsIn(s, c.o.Set, sh, known, c.short(sh, now)); in != nil {
		c.home.since = 0
		if len(sh.Home) == 0 {
			want.Home = firstOf(sh.Target, sh.Replicas)
		}
		want.Target = in
		want.Arrived()
		return true
	}
	if len(sh.Target) > 0 {
		c.home.since = 0
		return false
	}
	if len(sh.Home) > 0 && len(sh.Home) == c.own(s) {
		return c.comesHome(s, sh, want, known, now)
	}
	if len(sh.Replicas) == c.own(s) {
		want.Home = nil
		return len(sh.Home) > 0
	}
	p := balance(s, sh, known, c.own(s), true)
	p.Want = share(s, c.o.Set, sh, p.Want, candidates(s, sh, known, true))
	if p.Balanced() || len(p.Want) == len(p.Have) {
		return false // there are no more nodes
	}
	want.Target, want.Home = p.Want, nil
	return true
}

// comesHome has the nodes have the set again whose place others have, once all of them could for as long as a preferred leader has to be there.
func (c *Controller) comesHome(s *meta.Snapshot, sh, want *meta.Shard, known map[meta.NodeID]Known, now time.Duration) bool {
	if slices.ContainsFunc(sh.Home, func(id meta.NodeID) bool { return !mayCome(s, known, id) }) {
		c.home.since = 0
		return false
	}
	if c.home.since == 0 {
		c.home.since = now
	}
	if now-c.home.since < backLeases*c.o.Lease {
		return false
	}
	want.Target, want.Home = sh.Home, nil
	want.Arrived()
	return true
}

// short says whether too few replicas have been in sync for long.
func (c *Controller) short(sh *meta.Shard, now time.Duration) bool {
	switch {
	case len(sh.ISR) >= LeastInSync(len(sh.Replicas)):
		c.home.short = 0
		return false
	case c.home.short == 0:
		c.home.short = now
	}
	return now-c.home.short > shortLeases*c.o.Lease
}

// firstOf is the first list that has something.
func firstOf(lists ...[]meta.NodeID) []meta.NodeID {
	for _, l := range lists {
		if len(l) > 0 {
			return slices.Clone(l)
		}
	}
	return nil
}

// mayCome says whether a node that has no part in a set can have one, and lead.
func mayCome(s *meta.Snapshot, known map[meta.NodeID]Known, id meta.NodeID) bool {
	n, k := s.Node(id), known[id]
	return n != nil && n.State == meta.NodeActive && n.Roles&meta.RoleJournal != 0 && k.Alive && !k.Leaving && !k.Draining
}

// replaced are the replicas, or those that shall be, with a node in the place of the leader.
func replaced(sh *meta.Shard, comes meta.NodeID) []meta.NodeID {
	list := slices.DeleteFunc(firstOf(sh.Target, sh.Replicas), func(id meta.NodeID) bool { return id == comes })
	at := max(slices.Index(list, sh.Leader), 0)
	if len(list) > 0 {
		list = slices.Delete(list, at, at+1)
	}
	return append([]meta.NodeID{comes}, list...)
}

// standsIn is who shall have a set's shards while nodes that have them are lost or leave; nil: as it is. Another one comes for a node if without it too few would be left for anything
// to be acknowledged, or nobody to lead. short: those that are not in sync do not come along.
func standsIn(s *meta.Snapshot, set int, sh *meta.Shard, known map[meta.NodeID]Known, short bool) []meta.NodeID {
	base := firstOf(sh.Target, sh.Replicas)
	lags := func(id meta.NodeID) bool { // who is to come has its time
		return short && slices.Contains(sh.Replicas, id) && !slices.Contains(sh.ISR, id)
	}
	stays := func(id meta.NodeID) bool {
		return known[id].Alive && !known[id].Leaving && !lags(id)
	}
	leads := func(id meta.NodeID) bool { return stays(id) && !known[id].Draining }
	stay := slices.DeleteFunc(slices.Clone(base), func(id meta.NodeID) bool { return !stays(id) })
	switch {
	case len(stay) < LeastInSync(len(base)):
	case known[sh.Leader].Draining && !slices.ContainsFunc(base, leads):
		stay = slices.DeleteFunc(stay, func(id meta.NodeID) bool { return id == sh.Leader })
	case leads(sh.Leader) && !slices.ContainsFunc(base, leads): // who was to lead in its place drains by now
		return append([]meta.NodeID{sh.Leader}, base[1:]...)
	default:
		return nil
	}
	var comers []meta.NodeID
	rank := haveOf(s, set)
	for _, n := range journals(s) {
		k := known[n.ID]
		if slices.Contains(base, n.ID) || n.Roles&meta.RoleBroker == 0 || !k.leads() || lags(n.ID) {
			continue
		}
		if k.Draining && !slices.Contains(sh.Replicas, n.ID) { // who has the shards, and is to have them no more, may stay
			if rank[n.ID] += 1 << 16; !known[sh.Leader].Leaving { // to one that drains only from one that is about to stop
				continue
			}
		}
		comers = append(comers, n.ID)
	}
	slices.SortStableFunc(comers, func(a, b meta.NodeID) int { return cmp.Compare(rank[a], rank[b]) })
	missing := len(base) - len(stay)
	if len(comers) < missing || missing == 0 { // the same ones again would be another change, at each look
		return nil
	}
	return append(stay, comers[:missing]...)
}

// replaceable says whether the node has shards in which another one is to stand in for it, as it leaves, and does not yet.
func (c *Controller) replaceable(sh *meta.Shard) bool {
	s := c.o.Catalog.Load()
	if c.own(s) == 0 || !slices.Contains(sh.Replicas, c.o.Node) || sh.Leader == 0 {
		return false
	}
	known := make(map[meta.NodeID]Known)
	for _, id := range c.State().Alive {
		known[id] = Known{Alive: true, Leaving: id == c.o.Node}
	}
	known[c.o.Node] = Known{Alive: true, Leaving: true, Draining: true}
	return len(sh.Target) > 0 && !slices.Contains(sh.Target, c.o.Node) || standsIn(s, c.o.Set, sh, known, false) != nil
}

// mayBring says whether a node that has no part in the set gets one to lead it.
func (c *Controller) mayBring(sh *meta.Shard, to meta.NodeID) bool {
	s := c.o.Catalog.Load()
	n := s.Node(to)
	return c.own(s) > 0 && !slices.Contains(sh.Replicas, to) && n != nil && n.State == meta.NodeActive && n.Roles&meta.RoleJournal != 0 && n.Roles&meta.RoleBroker != 0 &&
		slices.Contains(c.State().Alive, to)
}
