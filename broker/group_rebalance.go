package broker

import "time"

// prepareRebalance asks all members to join again. The first one of an empty group waits a little, so that those that start with it
// share one rebalance.
func (g *group) prepareRebalance() {
	if g.state == GroupCompletingRebalance {
		g.failSyncs(ErrRebalanceInProgress)
	}
	ts := &g.l.timers
	ts.stop(&g.syncLimit)
	initial := g.state == GroupEmpty
	g.state = GroupPreparingRebalance
	if initial {
		now := g.l.b.clock.Mono()
		g.deadline = now + g.rebalanceTimeout()
		g.delayInitial(now)
		return
	}
	g.deadline = 0
	ts.set(&g.rebalance, g.rebalanceTimeout(), g.completeJoin)
	g.tryCompleteJoin()
}

// delayInitial waits for more members, as long as some come, up to the rebalance timeout.
func (g *group) delayInitial(now time.Duration) {
	g.fresh = false
	d := min(g.l.b.groupLimits().InitialRebalanceDelay, g.deadline-now)
	g.l.timers.set(&g.rebalance, d, func() {
		now := g.l.b.clock.Mono()
		if g.fresh && now < g.deadline {
			g.delayInitial(now)
			return
		}
		g.deadline = 0
		g.completeJoin()
	})
}

// rebalanceTimeout is the longest that a member asks for.
func (g *group) rebalanceTimeout() (d time.Duration) {
	for _, m := range g.members {
		d = max(d, m.rebalanceTimeout)
	}
	return d
}

// tryCompleteJoin ends the rebalance if everybody is there.
func (g *group) tryCompleteJoin() {
	if g.state == GroupPreparingRebalance && g.deadline == 0 && g.joining == len(g.members) && len(g.pending) == 0 {
		g.completeJoin()
	}
}

// completeJoin begins the next generation with those who have joined.
func (g *group) completeJoin() {
	if g.state != GroupPreparingRebalance {
		return
	}
	g.l.timers.stop(&g.rebalance)
	for _, m := range g.members {
		if m.join == nil && m.instance == "" {
			g.forget(m)
		}
	}
	if len(g.members) > 0 && g.joining == 0 {
		// Static members alone, none of which is back: their sessions decide.
		g.l.timers.set(&g.rebalance, g.rebalanceTimeout(), g.completeJoin)
		return
	}
	g.generation++
	if len(g.members) == 0 {
		g.becomeEmpty()
		return
	}
	if l := g.members[g.leader]; l == nil || l.join == nil {
		for id, m := range g.members {
			if m.join != nil {
				g.leader = id
				break
			}
		}
	}
	g.protocol = g.vote()
	g.state = GroupCompletingRebalance
	for _, m := range g.members {
		if m.join == nil {
			continue
		}
		done := m.join
		m.join, m.isNew = nil, false
		g.joining--
		g.heard(m)
		done(g.joined(m, false))
	}
	g.l.timers.set(&g.syncLimit, g.rebalanceTimeout(), g.endSync)
}

// vote picks the strategy that most members put first among those that all know.
func (g *group) vote() string {
	votes := make(map[string]int)
	for _, m := range g.members {
		for i := range m.protocols {
			if name := m.protocols[i].Name; g.allKnow(name) {
				votes[name]++
				break
			}
		}
	}
	best := ""
	for name, n := range votes {
		if n > votes[best] || n == votes[best] && name < best {
			best = name
		}
	}
	return best
}

// becomeEmpty keeps the generation and the offsets of a group that nobody is in.
func (g *group) becomeEmpty() {
	g.state, g.protocol, g.leader = GroupEmpty, "", ""
	g.l.timers.stop(&g.rebalance)
	g.l.timers.stop(&g.syncLimit)
	g.store(func(error) {})
}

// retire forgets a group that was made for a member that never joined.
func (g *group) retire() {
	if g.state == GroupEmpty && g.generation == 0 && g.empty() && !g.s.hasOffsets(g.key) {
		g.l.dropGroup(g)
	}
}

// heard puts off the end of a member's session.
func (g *group) heard(m *member) {
	g.l.timers.set(&m.seen, m.session, func() { g.expire(m) })
}

// expire ends a member that has not been heard of.
func (g *group) expire(m *member) {
	if g.members[m.id] != m || m.join != nil && !m.isNew {
		return
	}
	g.remove(m, ErrUnknownMember)
}

// remove takes a member out, and begins a rebalance if the others must share its part.
func (g *group) remove(m *member, why error) {
	if m.join != nil {
		m.join(JoinResult{Err: why, Generation: -1, MemberID: m.id})
		m.join = nil
		g.joining--
	}
	if m.sync != nil {
		m.sync(SyncResult{Err: why})
		m.sync = nil
	}
	g.forget(m)
	switch g.state {
	case GroupStable, GroupCompletingRebalance:
		g.prepareRebalance()
	case GroupPreparingRebalance:
		if len(g.members) == 0 && g.deadline != 0 {
			g.deadline = 0
		}
		g.tryCompleteJoin()
	case GroupEmpty, GroupDead:
	}
}

// forget takes a member out of the tables.
func (g *group) forget(m *member) {
	g.l.timers.remove(&m.seen)
	g.gone(m.id, m.kept)
	delete(g.members, m.id)
	if m.instance != "" && g.static[m.instance] == m.id {
		delete(g.static, m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		for id := range g.members {
			g.leader = id
			break
		}
	}
}

// endSync is for members that have joined and never asked for their assignment.
func (g *group) endSync() {
	if g.state != GroupCompletingRebalance {
		return
	}
	var late []*member
	for _, m := range g.members {
		if m.sync == nil {
			late = append(late, m)
		}
	}
	for _, m := range late {
		g.forget(m)
	}
	g.prepareRebalance()
}

func (g *group) failSyncs(why error) {
	for _, m := range g.members {
		if len(m.assignment) > 0 {
			g.changed(m.id, m.kept, memberShare)
		}
		m.assignment = nil
		if m.sync != nil {
			done := m.sync
			m.sync = nil
			done(SyncResult{Err: why})
		}
	}
}
