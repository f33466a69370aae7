package broker

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"time"
)

// JoinRequest is a member that wants to take part (JoinGroup).
type JoinRequest struct {
	Group, MemberID, InstanceID, ClientID, ClientHost, ProtocolType string
	Session, Rebalance                                              time.Duration
	Protocols                                                       []GroupProtocol
	// RequireKnownMember: a new member is given an id first and joins with it (KIP-394).
	RequireKnownMember bool
	// SkipAssignment: a static leader that comes back can be told not to assign anew (KIP-814).
	SkipAssignment bool
}

// JoinResult answers a JoinRequest. Members are told to the leader alone.
type JoinResult struct {
	Err                                      error
	Generation                               int32
	ProtocolType, Protocol, Leader, MemberID string
	SkipAssignment                           bool
	Members                                  []JoinedMember
}

// JoinedMember is a member as its leader sees it.
type JoinedMember struct {
	ID, InstanceID string
	Metadata       []byte
}

// JoinGroup has a member take part in the next generation. done is called once, on the group's loop; it may take as long as a rebalance.
func (b *Broker) JoinGroup(tenant uint32, r *JoinRequest, done func(JoinResult)) {
	if r.Group == "" {
		done(JoinResult{Err: ErrInvalidGroupID, Generation: -1, MemberID: r.MemberID})
		return
	}
	b.onGroup(tenant, r.Group, func(l *Local, s *shard) {
		if err := l.join(s, groupKey{tenant, r.Group}, r, done); err != nil {
			id := r.MemberID
			done(JoinResult{Err: err, Generation: -1, MemberID: id})
		}
	})
}

// join takes a request in; an error is the answer.
func (l *Local) join(s *shard, key groupKey, r *JoinRequest, done func(JoinResult)) error {
	lim := l.b.groupLimits()
	if r.Session < lim.SessionTimeoutMin || r.Session > lim.SessionTimeoutMax {
		return ErrInvalidSessionTimeout
	}
	g := l.group(key)
	if g == nil {
		if r.MemberID != "" {
			return ErrUnknownMember
		}
		if r.ProtocolType == "" || len(r.Protocols) == 0 {
			return ErrInconsistentGroupProtocol
		}
		var err error
		if g, err = l.groupFor(s, key); err != nil {
			return err
		}
	}
	if g.consumer != nil {
		if len(g.consumer.members) > 0 {
			return ErrInconsistentGroupProtocol
		}
		g.generation, g.consumer = g.consumer.epoch, nil
		g.changes = groupChanges{whole: true}
	}
	if !g.supports(r.ProtocolType, r.Protocols) {
		return ErrInconsistentGroupProtocol
	}
	if len(g.members)+len(g.pending) >= lim.Members && g.members[r.MemberID] == nil && (g.pending[r.MemberID] == nil || r.MemberID == "") {
		return ErrGroupMaxSize
	}
	if r.MemberID == "" {
		return g.joinNew(r, done)
	}
	return g.joinKnown(r, done)
}

// supports says whether a member with these protocols can be in g: its type, and one strategy that all know.
func (g *group) supports(protocolType string, protocols []GroupProtocol) bool {
	if protocolType == "" || len(protocols) == 0 {
		return false
	}
	if g.state == GroupEmpty {
		return true
	}
	if g.protocolType != protocolType {
		return false
	}
	for i := range protocols {
		if g.allKnow(protocols[i].Name) {
			return true
		}
	}
	return false
}

func (g *group) allKnow(protocol string) bool {
	for _, m := range g.members {
		if m.metadata(protocol) == nil {
			return false
		}
	}
	return true
}

// metadata is what m tells the leader under a protocol; nil if it does not know it.
func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			if md := m.protocols[i].Metadata; md != nil {
				return md
			}
			return []byte{}
		}
	}
	return nil
}

func newMemberID(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	h := hex.EncodeToString(b[:])
	return prefix + "-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// joinNew takes in a member that has no id yet.
func (g *group) joinNew(r *JoinRequest, done func(JoinResult)) error {
	if r.InstanceID != "" {
		id := newMemberID(r.InstanceID)
		if old := g.static[r.InstanceID]; old != "" {
			return g.replaceStatic(old, id, r, done)
		}
		g.add(id, r, done)
		return nil
	}
	id := newMemberID(r.ClientID)
	if !r.RequireKnownMember {
		g.add(id, r, done)
		return nil
	}
	if g.pending == nil {
		g.pending = make(map[string]*pendingMember)
	}
	p := &pendingMember{}
	g.pending[id] = p
	g.l.timers.set(&p.expiry, r.Session, func() {
		if g.pending[id] == p {
			delete(g.pending, id)
			g.tryCompleteJoin()
			g.retire()
		}
	})
	done(JoinResult{Err: ErrMemberIDRequired, Generation: -1, MemberID: id})
	return nil
}

// joinKnown takes in a member that has an id.
func (g *group) joinKnown(r *JoinRequest, done func(JoinResult)) error {
	if p := g.pending[r.MemberID]; p != nil && r.InstanceID == "" {
		delete(g.pending, r.MemberID)
		g.l.timers.remove(&p.expiry)
		g.add(r.MemberID, r, done)
		return nil
	}
	m, err := g.find(r.MemberID, r.InstanceID)
	if err != nil {
		return err
	}
	switch g.state {
	case GroupPreparingRebalance:
		g.update(m, r)
		g.await(m, done)
		g.tryCompleteJoin()
	case GroupCompletingRebalance:
		if m.same(r.Protocols) {
			done(g.joined(m, false)) // it has missed the answer
			return nil
		}
		g.update(m, r)
		g.await(m, done)
		g.prepareRebalance()
	case GroupStable:
		if m.id != g.leader && m.same(r.Protocols) {
			done(g.joined(m, false))
			return nil
		}
		g.update(m, r)
		g.await(m, done)
		g.prepareRebalance()
	case GroupEmpty, GroupDead:
		return ErrUnknownMember
	}
	return nil
}

// find gives the member that a request names, and refuses one whose instance id another has taken.
func (g *group) find(id, instance string) (*member, error) {
	if instance != "" {
		switch current := g.static[instance]; {
		case current == "":
			return nil, ErrUnknownMember
		case current != id:
			return nil, ErrFencedInstance
		}
	}
	m := g.members[id]
	if m == nil {
		return nil, ErrUnknownMember
	}
	return m, nil
}

func (m *member) same(protocols []GroupProtocol) bool {
	if len(m.protocols) != len(protocols) {
		return false
	}
	for i := range protocols {
		if m.protocols[i].Name != protocols[i].Name || !bytes.Equal(m.protocols[i].Metadata, protocols[i].Metadata) {
			return false
		}
	}
	return true
}

// add makes a new member and begins a rebalance.
func (g *group) add(id string, r *JoinRequest, done func(JoinResult)) {
	m := &member{id: id, instance: r.InstanceID, isNew: true}
	g.changed(id, false, memberAll)
	g.update(m, r)
	if len(g.members) == 0 {
		g.protocolType = r.ProtocolType
	}
	if g.leader == "" {
		g.leader = id
	}
	g.addMember(m)
	g.await(m, done)
	g.fresh = true
	if g.state == GroupPreparingRebalance {
		g.tryCompleteJoin()
		return
	}
	g.prepareRebalance()
}

// addMember puts m into the tables.
func (g *group) addMember(m *member) {
	g.members[m.id] = m
	if m.instance != "" {
		if g.static == nil {
			g.static = make(map[string]string)
		}
		g.static[m.instance] = m.id
	}
}

func (g *group) update(m *member, r *JoinRequest) {
	timeout := r.Rebalance
	if timeout <= 0 {
		timeout = r.Session
	}
	if m.clientID != r.ClientID || m.clientHost != r.ClientHost || m.session != r.Session || m.rebalanceTimeout != timeout || !m.same(r.Protocols) {
		g.changed(m.id, m.kept, memberWishes)
	}
	m.clientID, m.clientHost, m.session, m.rebalanceTimeout = r.ClientID, r.ClientHost, r.Session, timeout
	m.protocols = r.Protocols
}

// await has m wait for the end of the rebalance.
func (g *group) await(m *member, done func(JoinResult)) {
	if m.join == nil {
		g.joining++
	} else {
		m.join(JoinResult{Err: ErrUnknownMember, Generation: -1, MemberID: m.id}) // it has asked twice: the first connection is gone
	}
	m.join = done
	if m.isNew {
		g.l.timers.set(&m.seen, newMemberTimeout, func() { g.expire(m) })
	} else {
		g.l.timers.stop(&m.seen) // a member that waits is alive
	}
}

// replaceStatic gives a static member that has come back a new id; the old one is fenced (KIP-345).
func (g *group) replaceStatic(old, id string, r *JoinRequest, done func(JoinResult)) error {
	m := g.members[old]
	delete(g.members, old)
	if m.join != nil {
		m.join(JoinResult{Err: ErrFencedInstance, Generation: -1, MemberID: old})
		m.join = nil
		g.joining--
	}
	if m.sync != nil {
		m.sync(SyncResult{Err: ErrFencedInstance})
		m.sync = nil
	}
	g.gone(old, m.kept)
	m.id, m.kept = id, false
	g.members[id], g.static[m.instance] = m, id
	g.changed(id, false, memberAll)
	leader := g.leader == old
	if leader {
		g.leader = id
	}
	same := bytes.Equal(m.metadata(g.protocol), protocolMetadata(r.Protocols, g.protocol)) && g.allKnow(g.protocol)
	g.update(m, r)
	if g.state == GroupStable && same && g.allKnow(g.protocol) {
		g.heard(m)
		res := g.joined(m, leader && r.SkipAssignment)
		if leader && !r.SkipAssignment {
			res.Leader = old // it must not take itself for the leader and assign anew: Kafka does the same
			res.Members = nil
		}
		g.store(func(err error) {
			if err != nil {
				res = JoinResult{Err: err, Generation: -1, MemberID: id}
			}
			done(res)
		})
		return nil
	}
	g.await(m, done)
	if g.state == GroupPreparingRebalance {
		g.tryCompleteJoin()
	} else {
		g.prepareRebalance()
	}
	return nil
}

func protocolMetadata(list []GroupProtocol, name string) []byte {
	m := member{protocols: list}
	return m.metadata(name)
}

// joined is what a member is told about the generation.
func (g *group) joined(m *member, skip bool) JoinResult {
	r := JoinResult{Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader, MemberID: m.id, SkipAssignment: skip}
	if m.id == g.leader {
		for _, o := range g.members {
			r.Members = append(r.Members, JoinedMember{o.id, o.instance, o.metadata(g.protocol)})
		}
	}
	return r
}
