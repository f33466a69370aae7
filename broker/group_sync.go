package broker

import "bytes"

// SyncRequest is a member that wants its assignment; the leader brings everybody's (SyncGroup).
type SyncRequest struct {
	Group, MemberID, InstanceID string
	Generation                  int32
	ProtocolType, Protocol      string // empty: not told
	Assignments                 map[string][]byte
}

// SyncResult answers a SyncRequest.
type SyncResult struct {
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// SyncGroup gives a member its part. done is called once, on the group's loop, when the leader's assignment is in the log.
func (b *Broker) SyncGroup(tenant uint32, r *SyncRequest, done func(SyncResult)) {
	if r.Group == "" {
		done(SyncResult{Err: ErrInvalidGroupID})
		return
	}
	b.onGroup(tenant, r.Group, func(l *Local, _ *shard) {
		if err := l.sync(groupKey{tenant, r.Group}, r, done); err != nil {
			done(SyncResult{Err: err})
		}
	})
}

func (l *Local) sync(key groupKey, r *SyncRequest, done func(SyncResult)) error {
	g := l.group(key)
	if g == nil {
		return ErrUnknownMember
	}
	m, err := g.find(r.MemberID, r.InstanceID)
	switch {
	case err != nil:
		return err
	case r.Generation != g.generation:
		return ErrIllegalGeneration
	case r.ProtocolType != "" && r.ProtocolType != g.protocolType, r.Protocol != "" && r.Protocol != g.protocol:
		return ErrInconsistentGroupProtocol
	}
	switch g.state {
	case GroupPreparingRebalance:
		return ErrRebalanceInProgress
	case GroupStable:
		g.heard(m)
		done(g.synced(m))
		return nil
	case GroupCompletingRebalance:
	case GroupEmpty, GroupDead:
		return ErrUnknownMember
	}
	if m.sync != nil {
		m.sync(SyncResult{Err: ErrRebalanceInProgress}) // it has asked twice: the first connection is gone
	}
	m.sync = done
	g.heard(m)
	if m.id == g.leader && g.storing != g.generation {
		g.assign(r.Assignments)
	}
	return nil
}

// assign takes the leader's word, and tells everybody once it is in the log.
func (g *group) assign(parts map[string][]byte) {
	for _, m := range g.members {
		if !bytes.Equal(m.assignment, parts[m.id]) {
			g.changed(m.id, m.kept, memberShare)
		}
		m.assignment = append([]byte(nil), parts[m.id]...)
	}
	generation := g.generation
	g.storing = generation
	g.store(func(err error) {
		g.storing = 0
		if g.state != GroupCompletingRebalance || g.generation != generation {
			return
		}
		if err != nil {
			g.failSyncs(err)
			g.prepareRebalance()
			return
		}
		g.state = GroupStable
		g.l.timers.stop(&g.syncLimit)
		for _, m := range g.members {
			if m.sync == nil {
				continue
			}
			done := m.sync
			m.sync = nil
			g.heard(m)
			done(g.synced(m))
		}
	})
}

func (g *group) synced(m *member) SyncResult {
	return SyncResult{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}

// Heartbeat says that a member is alive. ErrRebalanceInProgress: it is to join again.
func (b *Broker) Heartbeat(tenant uint32, groupID, memberID, instance string, generation int32, done func(error)) {
	b.onGroup(tenant, groupID, func(l *Local, _ *shard) { done(l.heartbeat(groupKey{tenant, groupID}, memberID, instance, generation)) })
}

func (l *Local) heartbeat(key groupKey, memberID, instance string, generation int32) error {
	g := l.group(key)
	if key.id == "" {
		return ErrInvalidGroupID
	}
	if g == nil {
		return ErrUnknownMember
	}
	m, err := g.find(memberID, instance)
	if err != nil {
		return err
	}
	if generation != g.generation {
		return ErrIllegalGeneration
	}
	switch g.state {
	case GroupPreparingRebalance:
		if m.join == nil {
			g.heard(m)
		}
		return ErrRebalanceInProgress
	case GroupCompletingRebalance, GroupStable:
		g.heard(m)
		return nil
	case GroupEmpty, GroupDead:
	}
	return ErrUnknownMember
}

// Leaver is a member that leaves: by id, or by instance id with an empty member id.
type Leaver struct{ MemberID, InstanceID string }

// LeaveGroup takes members out. done gets an error for each, or one for all.
func (b *Broker) LeaveGroup(tenant uint32, groupID string, leavers []Leaver, done func([]error, error)) {
	if groupID == "" {
		done(nil, ErrInvalidGroupID)
		return
	}
	b.onGroup(tenant, groupID, func(l *Local, _ *shard) {
		g := l.group(groupKey{tenant, groupID})
		errs := make([]error, len(leavers))
		for i, who := range leavers {
			if g == nil {
				errs[i] = ErrUnknownMember
				continue
			}
			errs[i] = g.leave(who)
		}
		if g != nil && g.state == GroupEmpty && g.generation > 0 {
			// A restart must not find them: the next members would wait for their sessions to end.
			g.storeSoon(func(err error) { done(errs, err) })
			return
		}
		done(errs, nil)
	})
}

func (g *group) leave(who Leaver) error {
	id := who.MemberID
	if who.InstanceID != "" {
		current := g.static[who.InstanceID]
		switch {
		case current == "":
			return ErrUnknownMember
		case id != "" && id != current:
			return ErrFencedInstance
		}
		id = current
	}
	if p := g.pending[id]; p != nil {
		g.l.timers.remove(&p.expiry)
		delete(g.pending, id)
		g.tryCompleteJoin()
		g.retire()
		return nil
	}
	m := g.members[id]
	if m == nil {
		return ErrUnknownMember
	}
	g.remove(m, ErrUnknownMember)
	return nil
}
