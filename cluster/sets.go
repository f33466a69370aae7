package cluster

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// Sets of shards beside the first, as rules: where they lie at first, and which node is to lead each. The first of a set's Replicas is the one that is preferred. Nodes
// that begin to have a set's shards become that where it evens out how many sets each leads, and so it is when shards are balanced; who is moved to by an operator
// becomes it, too, so that nothing moves back what an operator has moved.

// begins is where a set's shards lie at first, and who leads them: on nodes that are there, all in sync, as they have nothing yet. Those that drain have them where there are too few
// others, as with balance; those that are about to stop, or are paused, where the majority of all would not be in sync without them. One of those leads that may, and one that drains only where none may.
// false: there is none. Where fewer are there than shall have them, who comes later is let in by who leads (comers).
func begins(s *meta.Snapshot, set int, known map[meta.NodeID]Known, most int) (sh meta.Shard, ok bool) {
	const lead, rest, drain, leave = 0, 1, 2, 3
	var on [4][]*meta.Node
	for _, n := range journals(s) {
		switch k := known[n.ID]; {
		case !k.Alive:
		case k.Leaving || k.Paused:
			on[leave] = append(on[leave], n)
		case !k.Draining:
			on[lead] = append(on[lead], n)
		case n.Roles&meta.RoleBroker == 0: // it says so, as it takes no clients
			on[rest] = append(on[rest], n)
		default:
			on[drain] = append(on[drain], n)
		}
	}
	if len(on[lead]) == 0 {
		on[lead], on[drain] = on[drain], nil
	}
	if len(on[lead]) == 0 {
		on[lead], on[rest] = on[rest], nil
	}
	if len(on[lead]) == 0 {
		return sh, false
	}
	list := on[lead]
	at := (set - 1) % len(list)
	list = slices.Concat(list[at:], list[:at])
	if (set-1)/len(list)%2 == 1 { // who leads several sets is followed by another one in each
		slices.Reverse(list[1:])
	}
	replicas := placeOn(s, slices.Concat(list, on[rest]), nil, most)
	replicas = placeOn(s, on[drain], replicas, most)
	replicas = placeOn(s, on[leave], replicas, LeastInSync(min(most, len(journals(s)))))
	return meta.Shard{Epoch: 1, Leader: replicas[0], Replicas: replicas, ISR: slices.Sorted(slices.Values(replicas))}, true
}

// journals are the nodes that can have shards.
func journals(s *meta.Snapshot) (list []*meta.Node) {
	for _, n := range s.Nodes() {
		if n.State == meta.NodeActive && n.Roles&meta.RoleJournal != 0 {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *meta.Node) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// ordered are those that have a set's shards, or shall have them, in the order in which they are preferred by then.
func ordered(sh *meta.Shard) []meta.NodeID {
	if len(sh.Target) == 0 {
		return sh.Replicas
	}
	stay := slices.DeleteFunc(slices.Clone(sh.Replicas), func(id meta.NodeID) bool { return !slices.Contains(sh.Target, id) })
	return append(stay, missing(sh)...)
}

// preferredOf counts of how many sets, but for this one and the first, each node is the preferred leader.
func preferredOf(s *meta.Snapshot, set int) map[meta.NodeID]int {
	of := make(map[meta.NodeID]int)
	c := s.Cluster()
	if c == nil {
		return of
	}
	for k := 1; k <= int(c.Sets); k++ {
		if sh := s.Shard(c.Set(k).First); k != set && sh != nil {
			of[ordered(sh)[0]]++
		}
	}
	return of
}

// evens gives a set's replicas in the order in which the one of those who may be (can) is preferred that is so of the fewest other sets; as they are, where that is no better.
func evens(s *meta.Snapshot, set int, replicas []meta.NodeID, can func(meta.NodeID) bool) []meta.NodeID {
	of, best := preferredOf(s, set), replicas[0]
	for _, id := range replicas {
		if n := s.Node(id); n == nil || n.Roles&meta.RoleBroker == 0 || !can(id) {
			continue
		}
		if b := s.Node(best); of[id] < of[best] || b == nil || b.Roles&meta.RoleBroker == 0 {
			best = id
		}
	}
	return prefer(replicas, best)
}

// follows gives a set's replicas with another one behind the one that is preferred, which leads when that is lost: of those who may (can) the one that is behind the same node in the
// fewest other sets, and of like ones the one that is preferred of the fewest; as they are, where that is no better.
func follows(s *meta.Snapshot, set int, replicas []meta.NodeID, can func(meta.NodeID) bool) []meta.NodeID {
	of, behind, best := preferredOf(s, set), behindOf(s, set, replicas[0]), 0
	for i, id := range replicas {
		if n := s.Node(id); i == 0 || n == nil || n.Roles&meta.RoleBroker == 0 || !can(id) {
			continue
		}
		if b := replicas[best]; best == 0 || behind[id] < behind[b] || behind[id] == behind[b] && of[id] < of[b] {
			best = i
		}
	}
	if best < 2 {
		return replicas
	}
	for _, id := range replicas[1:best] {
		if n := s.Node(id); n != nil && n.Roles&meta.RoleBroker != 0 && can(id) { // it was the first of them
			return slices.Concat(replicas[:1], replicas[best:best+1], replicas[1:best], replicas[best+1:])
		}
	}
	return replicas
}

func anyNode(meta.NodeID) bool { return true }

// behindOf counts in how many of the sets that prefer a node, but for this one and the first, each other one is behind it.
func behindOf(s *meta.Snapshot, set int, first meta.NodeID) map[meta.NodeID]int {
	behind := make(map[meta.NodeID]int)
	c := s.Cluster()
	for k := 1; c != nil && k <= int(c.Sets); k++ {
		o := s.Shard(c.Set(k).First)
		if k == set || o == nil || ordered(o)[0] != first {
			continue
		}
		for _, id := range ordered(o)[1:] {
			if n := s.Node(id); n != nil && n.Roles&meta.RoleBroker != 0 {
				behind[id]++
				break
			}
		}
	}
	return behind
}

// share gives want, where a set's shards shall be, with nodes that have more of the other sets left for candidates that have fewer, unless racks would be used worse by that. Rather than
// another one it leaves nodes that are no Target, and not the one that leads.
func share(s *meta.Snapshot, set int, sh *meta.Shard, want []meta.NodeID, list []candidate) []meta.NodeID {
	has, rack := haveOf(s, set), make(map[meta.NodeID]string)
	for i := range list {
		rack[list[i].id] = list[i].rack
	}
	beside := func(x meta.NodeID, r string) (n int) { // how many in a rack, without x
		for _, id := range want {
			if id != x && rack[id] == r {
				n++
			}
		}
		return n
	}
	for want = slices.Clone(want); ; {
		var goes, comes meta.NodeID
		var best [4]int
		for _, x := range slices.Backward(want) {
			for i := range list {
				y := list[i].id
				rank := [4]int{has[y] - has[x]}
				for k, worse := range []bool{slices.Contains(sh.Target, x), len(sh.Target) > 0 && !slices.Contains(sh.Target, y), x == sh.Leader} {
					if worse {
						rank[k+1] = 1
					}
				}
				if has[y] < has[x] && !slices.Contains(want, y) && beside(x, rack[y]) <= beside(x, rack[x]) && (goes == 0 || slices.Compare(rank[:], best[:]) < 0) {
					goes, comes, best = x, y, rank
				}
			}
		}
		if goes == 0 {
			return want
		}
		want = append(slices.DeleteFunc(want, func(id meta.NodeID) bool { return id == goes }), comes)
	}
}

// haveOf counts how many sets, but for this one and the first, each node has, or shall have.
func haveOf(s *meta.Snapshot, set int) map[meta.NodeID]int {
	has := make(map[meta.NodeID]int)
	c := s.Cluster()
	for k := 1; c != nil && k <= int(c.Sets); k++ {
		if o := s.Shard(c.Set(k).First); k != set && o != nil {
			on := o.Target
			if len(on) == 0 {
				on = o.Replicas
			}
			for _, id := range on {
				has[id]++
			}
		}
	}
	return has
}

// prefer puts a node first.
func prefer(replicas []meta.NodeID, id meta.NodeID) []meta.NodeID {
	rest := slices.DeleteFunc(slices.Clone(replicas), func(o meta.NodeID) bool { return o == id })
	return append([]meta.NodeID{id}, rest...)
}

const (
	// backLeases is for how many leases the preferred leader has to be able to lead before it gets the lead back.
	backLeases = 8
	// backTwice: who loses the lead before that many times the wait is over, after it got it back, waits twice as long the next time.
	backTwice = 16
	// backMost bounds the wait, in times the first one.
	backMost = 32
)

// back is what the controller knows of a preferred leader that does not lead. It belongs to run.
type back struct {
	node  meta.NodeID
	since time.Duration // since when it could, without a break; 0: it cannot
	wait  time.Duration // for so long it has to
	moved time.Duration // when it got the lead back; 0: that has been taken into account
}

// returns is the preferred leader, if it is to have the lead back; 0: not now.
func (b *back) returns(sh *meta.Shard, inSync []meta.NodeID, known map[meta.NodeID]Known, now, lease time.Duration) meta.NodeID {
	id := sh.Replicas[0]
	k := known[id]
	if b.node != id {
		*b = back{node: id, wait: backLeases * lease}
	}
	if sh.Leader == 0 || sh.Leader == id || !k.Alive || k.Draining || k.Leaving || !slices.Contains(inSync, id) || len(sh.Target) > 0 && !slices.Contains(sh.Target, id) {
		b.since = 0
		return 0
	}
	if b.since == 0 {
		b.since = now
		if b.moved != 0 {
			again := now-b.moved < backTwice*b.wait
			b.wait = min(2*b.wait, backMost*backLeases*lease)
			if !again {
				b.wait = backLeases * lease
			}
			b.moved = 0
		}
	}
	if now-b.since < b.wait {
		return 0
	}
	b.moved = now
	return id
}

// atOnce has the preferred leader get the lead back as soon as it can.
func (b *back) atOnce(sh *meta.Shard) { *b = back{node: sh.Replicas[0]} }

// due says whether the set is there, or is to be. Until then its Controller does nothing.
func (c *Controller) due(s *meta.Snapshot) bool {
	if c.o.Set == 0 || c.shard(s) != nil {
		return true
	}
	at := s.Cluster()
	return at != nil && at.Level >= meta.LevelSets && int(at.Sets) >= c.o.Set
}

// awaitDue waits until the set is there; false: the Controller is closed before.
func (c *Controller) awaitDue() bool {
	for !c.due(c.o.Catalog.Load()) {
		select {
		case <-c.woken:
		case <-c.ctx.Done():
			c.refusePlans()
			return false
		}
	}
	return true
}

// placed is what is made of the set's placement, as next does, and who leads it by itself or by an operator. whole: it is known who is there. The caller holds mu.
func (c *Controller) placed(s *meta.Snapshot, sh *meta.Shard, known map[meta.NodeID]Known, move meta.NodeID, now time.Duration, whole bool) (want meta.Shard, changed bool) {
	switch {
	case sh == nil && c.o.Set > 0:
		if !whole {
			return want, false
		}
		return begins(s, c.o.Set, known, c.most(s))
	case sh == nil:
		return next(s, sh, known, move)
	}
	want, changed = next(s, sh, known, move)
	c.mu.move = successor(sh, want.ISR, known, move)
	if c.o.Set == 0 {
		return want, changed
	}
	if whole && c.own(s) > 0 && c.arrange(s, sh, &want, known, now) {
		return want, true
	}
	if c.mu.move == 0 && whole {
		c.mu.move = c.back.returns(sh, want.ISR, known, now, c.o.Lease)
	}
	switch asked := c.mu.asked; {
	case asked == 0, c.own(s) > 0 && !slices.Contains(want.ISR, asked): // it comes
	case asked == want.Leader && asked != want.Replicas[0]:
		want.Replicas = prefer(want.Replicas, asked) // see make
		return want, true
	case asked == want.Leader && !changed, asked != want.Leader && asked != c.mu.move:
		c.mu.asked = 0 // it is so, or cannot be
	}
	return want, changed
}
