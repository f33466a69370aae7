package cluster

import (
	"cmp"
	"slices"

	"github.com/sluicemq/sluice/meta"
)

// Balancing, as rules: who shall have the shards is said once, as the Target of their entries, and carried out one replica after the other by whoever leads then. A node
// that comes takes its place beside the others when it has all there is, and only then one goes: so there are as many in sync as before all the while. The lead moves
// before the node goes that has it.

// Plan is what balancing makes of who has the shards.
type Plan struct {
	Have, Want []meta.NodeID // who has them, and who shall; the same nodes where nothing moves
	Leader     meta.NodeID   // as it is; 0: none
	LeadMoves  bool
}

// Balanced says whether nothing is to be moved.
func (p *Plan) Balanced() bool {
	return len(p.Have) == len(p.Want) && !slices.ContainsFunc(p.Have, func(id meta.NodeID) bool { return !slices.Contains(p.Want, id) })
}

// target is the Target by which the plan is carried out.
func (p *Plan) target() []meta.NodeID {
	if p.Balanced() {
		return nil
	}
	return p.Want
}

// candidate is a node that can have the shards.
type candidate struct {
	id    meta.NodeID
	rack  string
	leads bool // it may lead
	rank  [5]int
}

// balance says who shall have the shards, most nodes: in as many racks as there are, as few of them in one rack as can be, one that may lead among them, and apart from that
// those that have them. Nodes that are not there, or drain, have them only where there are not enough others. Nodes without a rack count as in one. racks false: all do.
func balance(s *meta.Snapshot, sh *meta.Shard, known map[meta.NodeID]Known, most int, racks bool) Plan {
	list := candidates(s, sh, known, racks)
	var want []meta.NodeID
	if len(list) > most {
		want = spread(list, most)
	} else {
		for i := range list {
			want = append(want, list[i].id)
		}
		for _, alive := range []bool{true, false} { // rather on those that drain than on those that are away
			for _, id := range sh.Replicas {
				if len(want) < most && !slices.Contains(want, id) && known[id].Alive == alive {
					want = append(want, id)
				}
			}
		}
	}
	p := Plan{Have: slices.Clone(sh.Replicas), Leader: sh.Leader}
	for _, id := range sh.Replicas { // in their order, which says who is preferred as leader
		if slices.Contains(want, id) {
			p.Want = append(p.Want, id)
		}
	}
	slices.Sort(want)
	for _, id := range want {
		if !slices.Contains(p.Want, id) {
			p.Want = append(p.Want, id)
		}
	}
	p.LeadMoves = sh.Leader != 0 && !slices.Contains(p.Want, sh.Leader)
	return p
}

// candidates are those that are there and do not drain, the ones that are preferred first. A node that takes no clients says that it drains, as it is not to lead: it can
// have the shards as well as any other.
func candidates(s *meta.Snapshot, sh *meta.Shard, known map[meta.NodeID]Known, racks bool) (list []candidate) {
	for _, n := range s.Nodes() {
		k := known[n.ID]
		if n.State != meta.NodeActive || n.Roles&meta.RoleJournal == 0 || !k.Alive || k.Leaving || k.Draining && n.Roles&meta.RoleBroker != 0 {
			continue
		}
		c := candidate{id: n.ID, leads: !k.Draining}
		if racks {
			c.rack = n.Rack
		}
		for i, no := range []bool{!slices.Contains(sh.Replicas, n.ID), !slices.Contains(sh.Target, n.ID), n.ID != sh.Leader, !c.leads, !slices.Contains(sh.ISR, n.ID)} {
			if no {
				c.rank[i] = 1
			}
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(slices.Compare(a.rank[:], b.rank[:]), cmp.Compare(a.id, b.id)) })
	return list
}

// spread takes most of the nodes, which are more.
func spread(list []candidate, most int) (want []meta.NodeID) {
	in := make(map[string]int) // nodes in a rack
	for i := range list {
		in[list[i].rack]++
	}
	limit, room := 0, 0 // of each rack, so that there are enough
	for room < most {
		limit, room = limit+1, 0
		for _, n := range in {
			room += min(n, limit)
		}
	}
	used := make(map[string]int)
	take := func(stop int, ok func(*candidate) bool) {
		for i := range list {
			if c := &list[i]; len(want) < stop && used[c.rack] < limit && !slices.Contains(want, c.id) && ok(c) {
				want = append(want, c.id)
				used[c.rack]++
			}
		}
	}
	take(1, func(c *candidate) bool { return c.leads })
	take(most, func(c *candidate) bool { return used[c.rack] == 0 })
	take(most, func(*candidate) bool { return true })
	return want
}

// comers are the nodes that the leader lets have the shards once they have all there is: beside those that have them, where shards move one of those that shall.
func comers(s *meta.Snapshot, sh *meta.Shard, most int) []meta.NodeID {
	if len(sh.Target) == 0 {
		return place(s, sh.Replicas, most)
	}
	return append(slices.Clone(sh.Replicas), missing(sh)...)
}

// missing are those that shall have the shards and have them not.
func missing(sh *meta.Shard) []meta.NodeID {
	return slices.DeleteFunc(slices.Clone(sh.Target), func(id meta.NodeID) bool { return slices.Contains(sh.Replicas, id) })
}

// full says whether shards that move have their one replica more: before the next one comes, one goes.
func full(sh *meta.Shard, replicas []meta.NodeID) bool {
	return len(sh.Target) > 0 && len(replicas) > len(sh.Target)
}

// goer is the node that has the shards no more, of those that shall not; 0: none yet. Who is in sync goes only when all others are, so that there are as many as before;
// who is not goes as soon as enough are, and the leader when it leads no more.
func goer(sh *meta.Shard) meta.NodeID {
	if !full(sh, sh.Replicas) {
		return 0
	}
	enough := len(sh.ISR) >= LeastInSync(len(sh.Replicas))
	pick := meta.NodeID(0)
	for _, id := range sh.Replicas {
		switch {
		case slices.Contains(sh.Target, id) || id == sh.Leader:
		case !slices.Contains(sh.ISR, id):
			if len(sh.ISR) >= LeastInSync(len(sh.Replicas)-1) { // those have all that was acknowledged, and are enough without it
				return id
			}
		case enough && pick == 0 && len(sh.ISR) == len(sh.Replicas):
			pick = id
		}
	}
	return pick
}
