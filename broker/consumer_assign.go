package broker

import (
	"maps"
	"slices"
)

// defaultAssignor is what a member that names none gets.
const defaultAssignor = "uniform"

// assignors share partitions out: to each member, in order of their ids, its target from what it had. They must give every partition of
// a subscribed topic to one subscriber.
var assignors = map[string]func(members []*consumerMember, sizes map[TopicID]int32){
	"uniform": assignUniform,
	"range":   assignRange,
}

// resolve finds out what the members' subscriptions come to now, and says whether that has changed.
func (g *group) resolve() (changed bool) {
	for _, m := range g.consumer.members {
		changed = g.resolveMember(m) || changed
	}
	return changed || g.sizesChanged()
}

func (g *group) resolveMember(m *consumerMember) (changed bool) {
	ids := g.subscribed(m)
	if m.topics == nil { // it was read from the log: what it is to have tells what its subscription came to
		changed = slices.ContainsFunc(m.target, func(tp TopicPartition) bool { return !hasTopic(ids, tp.Topic) })
	} else {
		changed = !slices.Equal(ids, m.topics)
	}
	if ids == nil {
		ids = []TopicID{}
	}
	if changed || m.topics == nil {
		m.topics = ids
	}
	return changed
}

// hasTopic says whether id is in a sorted list.
func hasTopic(list []TopicID, id TopicID) bool {
	_, ok := slices.BinarySearchFunc(list, id, compareTopicIDs)
	return ok
}

// sizesChanged says whether a subscribed topic has partitions that nobody was given.
func (g *group) sizesChanged() bool {
	cg := g.consumer
	given := 0
	for _, m := range cg.members {
		given += len(m.target)
	}
	wanted := 0
	for _, n := range g.sizes() {
		wanted += int(n)
	}
	return given != wanted
}

// sizes are the numbers of partitions of all topics that somebody subscribes to.
func (g *group) sizes() map[TopicID]int32 {
	sizes := make(map[TopicID]int32)
	for _, m := range g.consumer.members {
		for _, id := range m.topics {
			if _, known := sizes[id]; known {
				continue
			}
			if t := g.l.b.TopicByID(g.key.tenant, id); t != nil {
				sizes[id] = int32(len(t.Partitions()))
			}
		}
	}
	return sizes
}

// consumerAssign makes a new target if the group's epoch has moved.
func (g *group) consumerAssign() {
	cg := g.consumer
	if cg.epoch == cg.targetEpoch {
		return
	}
	members := make([]*consumerMember, 0, len(cg.members))
	votes := make(map[string]int)
	for _, id := range slices.Sorted(maps.Keys(cg.members)) {
		m := cg.members[id]
		members = append(members, m)
		votes[m.assignor]++
	}
	best := defaultAssignor
	for name, n := range votes {
		if n > votes[best] || n == votes[best] && name < best {
			best = name
		}
	}
	before := make([][]TopicPartition, len(members))
	for i, m := range members {
		before[i] = m.target
	}
	assignors[best](members, g.sizes())
	for i, m := range members {
		slices.SortFunc(m.target, compareTP)
		if !slices.Equal(m.target, before[i]) {
			g.changed(m.id, m.kept, memberShare)
		}
	}
	cg.targetEpoch = cg.epoch
}

// reconcile moves one member towards its target: it gives up first, and gets what others have given up. It says whether anything moved.
func (g *group) reconcile(m *consumerMember, r *ConsumerHeartbeat) (changed bool) {
	cg := g.consumer
	if m.state == memberUnrevoked {
		if r.Epoch != 0 && (!r.HasOwned || slices.ContainsFunc(m.revoking, func(tp TopicPartition) bool { return slices.Contains(r.Owned, tp) })) {
			return false
		}
		for _, tp := range m.revoking {
			cg.release(tp, m)
		}
		m.revoking, changed = nil, true
		g.l.timers.stop(&m.revoke)
	}
	if m.state == memberStable && m.epoch == cg.targetEpoch {
		return changed
	}
	keep, give := split(m.assigned, m.target)
	if len(give) > 0 && r.Epoch != 0 {
		m.assigned, m.revoking, m.state = keep, give, memberUnrevoked
		g.l.timers.set(&m.revoke, m.rebalanceTimeout, func() { g.consumerExpire(m) })
		return true
	}
	for _, tp := range give { // a member that begins anew owns nothing any more
		cg.release(tp, m)
	}
	waits := false
	next := keep
	for _, tp := range m.target {
		if _, ok := slices.BinarySearchFunc(keep, tp, compareTP); ok {
			continue
		}
		if o := cg.owners[tp].member; o != nil && o != m {
			waits = true
			continue
		}
		next = append(next, tp)
	}
	slices.SortFunc(next, compareTP)
	for _, tp := range next {
		if cg.owners[tp].member != m {
			cg.owners[tp] = consumerOwner{m, cg.targetEpoch}
		}
	}
	changed = changed || !slices.Equal(next, m.assigned) || m.epoch != cg.targetEpoch
	if m.epoch != cg.targetEpoch {
		m.previous, m.epoch = m.epoch, cg.targetEpoch
	}
	m.assigned, m.state = next, memberStable
	if waits {
		m.state = memberUnreleased
	}
	return changed
}

// split divides what a member has into what it keeps and what it gives up. Both are sorted.
func split(have, target []TopicPartition) (keep, give []TopicPartition) {
	for _, tp := range have {
		if _, ok := slices.BinarySearchFunc(target, tp, compareTP); ok {
			keep = append(keep, tp)
		} else {
			give = append(give, tp)
		}
	}
	return keep, give
}

// assignRange gives each subscriber of a topic one run of its partitions, the same run of each topic to the same member.
func assignRange(members []*consumerMember, sizes map[TopicID]int32) {
	for _, m := range members {
		m.target = nil
	}
	for id, n := range sizes {
		subs := subscribers(members, id)
		each, extra := int(n)/len(subs), int(n)%len(subs)
		at := int32(0)
		for i, m := range subs {
			take := each
			if i < extra {
				take++
			}
			for ; take > 0; take-- {
				m.target = append(m.target, TopicPartition{id, at})
				at++
			}
		}
	}
}

func subscribers(members []*consumerMember, id TopicID) (subs []*consumerMember) {
	for _, m := range members {
		if hasTopic(m.topics, id) {
			subs = append(subs, m)
		}
	}
	return subs
}

// assignUniform shares out evenly and moves as little as it can: everybody keeps what it had, up to its share, and the rest goes to those
// who have least.
func assignUniform(members []*consumerMember, sizes map[TopicID]int32) {
	taken := make(map[TopicPartition]bool)
	total := 0
	for _, n := range sizes {
		total += int(n)
	}
	alike := true
	for _, m := range members {
		alike = alike && slices.Equal(m.topics, members[0].topics)
	}
	quota, extra := total, 0
	if alike && len(members) > 0 {
		quota, extra = total/len(members), total%len(members)
	}
	for _, m := range members {
		had := m.target
		m.target = nil
		most := quota
		if extra > 0 && len(had) > quota {
			most++
			extra--
		}
		for _, tp := range had {
			if len(m.target) == most {
				break
			}
			if n, ok := sizes[tp.Topic]; ok && tp.Partition < n && slices.Contains(m.topics, tp.Topic) && !taken[tp] {
				taken[tp] = true
				m.target = append(m.target, tp)
			}
		}
	}
	ids := slices.SortedFunc(maps.Keys(sizes), compareTopicIDs)
	for _, id := range ids {
		subs := subscribers(members, id)
		for p := range sizes[id] {
			tp := TopicPartition{id, p}
			if taken[tp] {
				continue
			}
			least := subs[0]
			for _, m := range subs[1:] {
				if len(m.target) < len(least.target) {
					least = m
				}
			}
			least.target = append(least.target, tp)
		}
	}
	if !alike {
		level(members)
	}
}

// level moves partitions from those who have many to those who have fewer and may have them, where subscriptions differ.
func level(members []*consumerMember) {
	for moved := true; moved; {
		moved = false
		for _, from := range members {
			for i := 0; i < len(from.target); i++ {
				tp := from.target[i]
				for _, to := range members {
					if len(from.target) > len(to.target)+1 && slices.Contains(to.topics, tp.Topic) {
						from.target = slices.Delete(from.target, i, i+1)
						to.target = append(to.target, tp)
						moved = true
						i--
						break
					}
				}
			}
		}
	}
}
