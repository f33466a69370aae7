package cluster

import (
	"slices"

	"github.com/sluicemq/sluice/meta"
)

// The rules: functions of the catalog and of what the controller knows of the nodes. All shards of a set are placed alike, so a rule is made for its first one
// and counts for all of them. They do no I/O and read no clock.

// Known is what the controller knows of a node.
type Known struct {
	Alive bool // its lease is not over
	// Resigned is the highest epoch in which the node has let go of its shards, or will not take them.
	Resigned uint32
	Draining bool // it does not want to lead
	Leaving  bool // it is about to stop: nobody is to wait for it, where enough others are in sync
	Paused   bool // it leads in no epoch while this is so. What it said of that may be old, so it is no sign that it has let go
}

// leads says whether the node would lead, were it elected.
func (k *Known) leads() bool { return k.Alive && !k.Leaving && !k.Paused }

// LeastInSync is how many replicas have to be in sync for anything to be acknowledged: the majority of all.
func LeastInSync(replicas int) int { return replicas/2 + 1 }

// place is where shards shall lie: up to most nodes that keep a journal and are active, spread over racks, the ones that have them first.
func place(s *meta.Snapshot, have []meta.NodeID, most int) []meta.NodeID {
	return placeOn(s, journals(s), have, most)
}

// placeOn is place with those of a list, the first ones rather than the others.
func placeOn(s *meta.Snapshot, list []*meta.Node, have []meta.NodeID, most int) []meta.NodeID {
	out := slices.Clone(have) // who is replaced or away stays: its place is its own until it is removed
	racks := make(map[string]bool)
	for _, id := range out {
		if n := s.Node(id); n != nil {
			racks[n.Rack] = true
		}
	}
	for _, other := range []bool{true, false} { // first those in racks that have none
		for _, n := range list {
			if len(out) < most && !slices.Contains(out, n.ID) && (!other || n.Rack == "" || !racks[n.Rack]) {
				out = append(out, n.ID)
				racks[n.Rack] = true
			}
		}
	}
	return out
}

// next is what the controller makes of the shards' placement; false if nothing is to change. Who is new gets its place from the leader, when it has caught up.
func next(s *meta.Snapshot, have *meta.Shard, known map[meta.NodeID]Known, move meta.NodeID) (out meta.Shard, changed bool) {
	if have == nil {
		first := place(s, nil, 1)
		if len(first) == 0 {
			return out, false
		}
		return meta.Shard{Epoch: 1, Leader: first[0], Replicas: first, ISR: first}, true
	}
	out = clone(have)
	fence(&out, known)
	elect(&out, have, known, move)
	return out, !same(&out, have)
}

func clone(sh *meta.Shard) meta.Shard {
	out := *sh
	out.Replicas, out.ISR, out.Eligible = slices.Clone(sh.Replicas), slices.Clone(sh.ISR), slices.Clone(sh.Eligible)
	out.Target, out.Home = slices.Clone(sh.Target), slices.Clone(sh.Home)
	return out
}

func same(a, b *meta.Shard) bool {
	return a.Leader == b.Leader && a.Epoch == b.Epoch && slices.Equal(a.Replicas, b.Replicas) && slices.Equal(a.ISR, b.ISR) && slices.Equal(a.Eligible, b.Eligible) && slices.Equal(a.Target, b.Target) && slices.Equal(a.Home, b.Home)
}

// fence takes out of those in sync whose lease is over, or who are about to stop.
func fence(sh *meta.Shard, known map[meta.NodeID]Known) {
	alive := slices.DeleteFunc(slices.Clone(sh.ISR), func(id meta.NodeID) bool { return !known[id].Alive })
	stay := slices.DeleteFunc(slices.Clone(alive), func(id meta.NodeID) bool { return known[id].Leaving && id != sh.Leader })
	if len(stay) >= LeastInSync(len(sh.Replicas)) {
		alive = stay
	}
	if len(alive) == len(sh.ISR) {
		return
	}
	leave(sh, alive)
}

// leave makes those the ones in sync. Who goes stays eligible while too few are left: nothing is acknowledged then.
func leave(sh *meta.Shard, inSync []meta.NodeID) {
	if len(inSync) >= LeastInSync(len(sh.Replicas)) {
		sh.ISR, sh.Eligible = inSync, nil
		return
	}
	eligible := slices.Concat(sh.Eligible, sh.ISR)
	eligible = slices.DeleteFunc(eligible, func(id meta.NodeID) bool { return slices.Contains(inSync, id) })
	slices.Sort(eligible)
	eligible = slices.Compact(eligible)
	sh.ISR, sh.Eligible = inSync, eligible
}

// elect finds a leader where there is none that can lead, or another one is wanted.
func elect(sh, had *meta.Shard, known map[meta.NodeID]Known, move meta.NodeID) {
	can := func(id meta.NodeID) bool {
		k := known[id]
		return k.leads() && (slices.Contains(sh.ISR, id) || slices.Contains(sh.Eligible, id))
	}
	leads := sh.Leader != 0 && slices.Contains(sh.ISR, sh.Leader) && known[sh.Leader].Alive && known[sh.Leader].Resigned < sh.Epoch
	if leads {
		return // wherever it is to move: the leader lets go first
	}
	pick := meta.NodeID(0)
	for pass := range 4 { // who has just let go only if there is no other, and who does not want to lead the same; of those, too, one that has not let go: it might again
		for _, id := range append([]meta.NodeID{move}, sh.Replicas...) {
			if pick == 0 && id != 0 && can(id) && (pass%2 == 1 || id != had.Leader) && (pass > 1 || !known[id].Draining) && slices.Contains(sh.Replicas, id) {
				pick = id
			}
		}
	}
	if pick == 0 {
		if sh.Leader = 0; had.Leader != 0 {
			sh.Epoch = had.Epoch + 1
		}
		return
	}
	sh.Leader, sh.Epoch = pick, had.Epoch+1
	if !slices.Contains(sh.ISR, pick) {
		sh.ISR = append(sh.ISR, pick)
		slices.Sort(sh.ISR)
		leave(sh, sh.ISR) // who is eligible beside it stays so, or is not needed any more
	}
}

// successor is to whom the lead goes from the one that leads: whom an operator has named (move), or somebody else, if it drains or is not to have the shards any more; 0:
// to nobody. Only who can lead is named, so that nobody lets go in vain.
func successor(sh *meta.Shard, inSync []meta.NodeID, known map[meta.NodeID]Known, move meta.NodeID) meta.NodeID {
	can := func(id meta.NodeID, draining bool) bool {
		k := known[id]
		return id != sh.Leader && k.leads() && (draining || !k.Draining) && slices.Contains(inSync, id)
	}
	l := known[sh.Leader]
	switch {
	case can(move, false):
		return move
	case sh.Leader != 0 && len(sh.Target) > 0 && !slices.Contains(sh.Target, sh.Leader):
		for _, draining := range []bool{false, l.Draining} { // to one that drains only from one that does
			for _, id := range sh.Target {
				if can(id, draining) {
					return id
				}
			}
		}
	}
	if !l.Draining {
		return 0
	}
	for _, draining := range []bool{false, l.Leaving} { // to one that drains only from one that is about to stop
		for _, id := range sh.Replicas {
			if can(id, draining) {
				return id
			}
		}
	}
	return 0
}
