package broker

import (
	"encoding/binary"
	"maps"
	"regexp"
	"slices"
	"time"
)

// memberParts are the parts of a member that are written one by one: what it costs to keep a change does not depend on the group's size.
type memberParts uint8

const (
	memberWishes memberParts = 1 << iota // who it is and what it wants
	memberShare                          // what it has
	memberKept                           // not written: the log has had the member. Alone: it is gone

	memberAll = memberWishes | memberShare
)

// groupChanges is what the log does not have of a group's members yet.
type groupChanges struct {
	members map[string]memberParts
	whole   bool // the log has other members than it should: write all
}

// changed notes that parts of a member have to be written. kept: the log has the member.
func (g *group) changed(id string, kept bool, parts memberParts) {
	if kept {
		parts |= memberKept
	}
	if g.changes.members == nil {
		g.changes.members = make(map[string]memberParts)
	}
	g.changes.members[id] |= parts
}

// gone notes that a member has left. Of one that was never written nothing is kept: members that flap do not add up.
func (g *group) gone(id string, kept bool) {
	if !kept && g.changes.members[id]&memberKept == 0 {
		delete(g.changes.members, id)
		return
	}
	delete(g.changes.members, id)
	g.changed(id, true, 0)
}

// The first byte of a group's metadata: its version, and with it its protocol.
const (
	wholeClassicVersion  = 1 // with all members behind it, as earlier versions wrote it
	wholeConsumerVersion = 2
	classicVersion       = 3 // members are rows of their own
	consumerVersion      = 4
)

// The first field behind the metadata of a change.
const changeWhole = 1 // members that the change does not name are gone

// encodeChanges makes the command that brings the log up to the group as it is.
func (g *group) encodeChanges() []byte {
	since, flags := int64(0), uint64(0)
	if g.empty() {
		since = g.l.b.nowMilli()
	}
	list := g.changes.members
	if g.changes.whole {
		flags, list = changeWhole, make(map[string]memberParts, len(g.members))
		for id := range g.members {
			list[id] = memberAll
		}
		if g.consumer != nil {
			for id := range g.consumer.members {
				list[id] = memberAll
			}
		}
	}
	g.changes = groupChanges{}
	cmd := appendGroupKey(binary.AppendUvarint(nil, cmdGroupChange), g.key)
	cmd = binary.AppendUvarint(cmd, uint64(since))
	cmd = appendBytes(cmd, g.appendMeta(nil))
	cmd = binary.AppendUvarint(cmd, flags)
	cmd = binary.AppendUvarint(cmd, uint64(len(list)))
	for _, id := range slices.Sorted(maps.Keys(list)) {
		wishes, share := g.encodeMember(id)
		parts := list[id] & memberAll
		cmd = append(appendString(cmd, id), byte(parts))
		if parts&memberWishes != 0 {
			cmd = appendBytes(cmd, wishes)
		}
		if parts&memberShare != 0 {
			cmd = appendBytes(cmd, share)
		}
	}
	return cmd
}

// encodeMember gives the parts of a member, and notes that the log is to have it.
func (g *group) encodeMember(id string) (wishes, share []byte) {
	if g.consumer != nil {
		if m := g.consumer.members[id]; m != nil {
			m.kept = true
			return m.appendWishes(nil), m.appendShare(nil)
		}
	} else if m := g.members[id]; m != nil {
		m.kept = true
		return m.appendWishes(nil), m.assignment
	}
	return nil, nil
}

// appendMeta appends what is kept of the group besides its members.
func (g *group) appendMeta(dst []byte) []byte {
	if cg := g.consumer; cg != nil {
		dst = append(dst, consumerVersion)
		dst = binary.AppendUvarint(dst, uint64(uint32(cg.epoch)))
		return binary.AppendUvarint(dst, uint64(uint32(cg.targetEpoch)))
	}
	dst = append(dst, classicVersion)
	dst = binary.AppendUvarint(dst, uint64(uint32(g.generation)))
	return appendString(appendString(appendString(dst, g.protocolType), g.protocol), g.leader)
}

// memberRow is what is kept of a member: its parts, encoded.
type memberRow struct{ wishes, share []byte }

// memberKey is one member's row.
type memberKey struct {
	group groupKey
	id    string
}

// applyGroupChange takes over a change of a group; recovery calls it as well.
func (s *shard) applyGroupChange(d *decoder) {
	key, since, meta, flags := d.groupKey(), int64(d.uvarint()), d.bytes(), d.uvarint()
	n := d.count()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.groupRowLocked(key)
	row.meta, row.emptySince = append(row.meta[:0:0], meta...), since
	mark(&s.mu.rows.groupMeta, key)
	if flags&changeWhole != 0 {
		s.dropMembersLocked(key, row)
	}
	for ; n > 0; n-- {
		id, parts := d.string(), memberParts(d.byte())
		m := row.members[id]
		if parts&memberWishes != 0 {
			m.wishes = append([]byte(nil), d.bytes()...)
		}
		if parts&memberShare != 0 {
			m.share = append([]byte(nil), d.bytes()...)
		}
		if !d.ok() {
			return
		}
		s.setMemberLocked(key, row, id, m, parts&memberAll != 0)
	}
}

func (s *shard) setMemberLocked(key groupKey, row *groupRow, id string, m memberRow, there bool) {
	mark(&s.mu.rows.members, memberKey{key, id})
	if !there {
		delete(row.members, id)
		return
	}
	if row.members == nil {
		row.members = make(map[string]memberRow)
	}
	row.members[id] = m
}

func (s *shard) dropMembersLocked(key groupKey, row *groupRow) {
	for id := range row.members {
		mark(&s.mu.rows.members, memberKey{key, id})
	}
	row.members = nil
}

// takeWholeLocked takes over metadata of an earlier version, which has the members in it: from here on they are rows. Bytes that cannot be
// read are kept as they are, for reviveGroups to tell.
func (s *shard) takeWholeLocked(key groupKey, row *groupRow, meta []byte) {
	s.dropMembersLocked(key, row)
	mark(&s.mu.rows.groupMeta, key)
	g := group{members: make(map[string]*member)}
	if !g.decodeWhole(meta) {
		row.meta = append([]byte(nil), meta...)
		return
	}
	row.meta = g.appendMeta(nil)
	for _, m := range g.members {
		s.setMemberLocked(key, row, m.id, memberRow{m.appendWishes(nil), m.assignment}, true)
	}
	if g.consumer != nil {
		for _, m := range g.consumer.members {
			s.setMemberLocked(key, row, m.id, memberRow{m.appendWishes(nil), m.appendShare(nil)}, true)
		}
	}
}

// decodeRow brings a group to what is kept of it. It answers false for what encodeChanges did not write.
func (g *group) decodeRow(row *groupRow) bool {
	d := decoder{b: row.meta}
	version := d.byte()
	switch version {
	case consumerVersion:
		cg := newConsumerGroup(int32(uint32(d.uvarint())))
		cg.targetEpoch = int32(uint32(d.uvarint()))
		g.consumer, g.protocolType = cg, "consumer"
	case classicVersion:
		g.generation = int32(uint32(d.uvarint()))
		g.protocolType, g.protocol, g.leader = d.string(), d.string(), d.string()
	default:
		return false
	}
	if !d.ok() || len(d.b) > 0 {
		return false
	}
	for id, r := range row.members {
		ok := false
		if version == consumerVersion {
			m := &consumerMember{id: id, kept: true}
			ok = m.decode(&r)
			g.consumer.add(m)
		} else {
			m := &member{id: id, kept: true}
			ok = m.decode(&r)
			g.addMember(m)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (m *member) appendWishes(dst []byte) []byte {
	dst = appendString(appendString(appendString(dst, m.instance), m.clientID), m.clientHost)
	dst = binary.AppendUvarint(dst, uint64(m.session/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(len(m.protocols)))
	for i := range m.protocols {
		dst = appendBytes(appendString(dst, m.protocols[i].Name), m.protocols[i].Metadata)
	}
	return dst
}

func (m *member) decode(r *memberRow) bool {
	d := decoder{b: r.wishes}
	m.instance, m.clientID, m.clientHost = d.string(), d.string(), d.string()
	m.decodeProtocols(&d)
	m.assignment = append([]byte(nil), r.share...)
	return d.ok() && len(d.b) == 0
}

func (m *member) decodeProtocols(d *decoder) {
	m.session, m.rebalanceTimeout = time.Duration(d.uvarint())*time.Millisecond, time.Duration(d.uvarint())*time.Millisecond
	for k := d.count(); k > 0 && d.ok(); k-- {
		m.protocols = append(m.protocols, GroupProtocol{d.string(), append([]byte{}, d.bytes()...)})
	}
}

func (m *consumerMember) appendWishes(dst []byte) []byte {
	for _, s := range []string{m.instance, m.clientID, m.clientHost, m.rack, m.regex, m.assignor} {
		dst = appendString(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(len(m.names)))
	for _, s := range m.names {
		dst = appendString(dst, s)
	}
	return dst
}

// Bits of the flags of a share; the lowest two are the state.
const (
	shareLeft    = 4
	shareSettled = 8 // the target is what is assigned
)

func (m *consumerMember) appendShare(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(uint32(m.epoch)))
	dst = binary.AppendUvarint(dst, uint64(uint32(m.previous)))
	flags, settled := byte(m.state), slices.Equal(m.assigned, m.target)
	if m.left {
		flags |= shareLeft
	}
	if settled {
		flags |= shareSettled
	}
	dst = appendRuns(appendRuns(append(dst, flags), m.assigned), m.revoking)
	if !settled {
		dst = appendRuns(dst, m.target)
	}
	return dst
}

func (m *consumerMember) decode(r *memberRow) bool {
	d := decoder{b: r.wishes}
	for _, s := range []*string{&m.instance, &m.clientID, &m.clientHost, &m.rack, &m.regex, &m.assignor} {
		*s = d.string()
	}
	m.rebalanceTimeout = time.Duration(d.uvarint()) * time.Millisecond
	for k := d.count(); k > 0 && d.ok(); k-- {
		m.names = append(m.names, d.string())
	}
	share := decoder{b: r.share}
	m.epoch, m.previous = int32(uint32(share.uvarint())), int32(uint32(share.uvarint()))
	flags := share.byte()
	m.state, m.left = memberState(flags&3), flags&shareLeft != 0
	m.assigned, m.revoking = share.runs(), share.runs()
	if flags&shareSettled != 0 {
		m.target = slices.Clone(m.assigned)
	} else {
		m.target = share.runs()
	}
	return d.ok() && share.ok() && len(d.b)+len(share.b) == 0 && m.compile()
}

// compile makes the pattern of the expression of a member that was read.
func (m *consumerMember) compile() bool {
	if m.regex == "" {
		return true
	}
	var err error
	m.pattern, err = regexp.Compile("^(?:" + m.regex + ")$")
	m.unheard = true
	return err == nil
}

// appendRuns appends partitions, sorted, each topic's id once.
func appendRuns(dst []byte, list []TopicPartition) []byte {
	topics := 0
	for i := range list {
		if i == 0 || list[i].Topic != list[i-1].Topic {
			topics++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(topics))
	for len(list) > 0 {
		n := slices.IndexFunc(list, func(tp TopicPartition) bool { return tp.Topic != list[0].Topic })
		if n < 0 {
			n = len(list)
		}
		dst = binary.AppendUvarint(append(dst, list[0].Topic[:]...), uint64(n))
		for i := range list[:n] {
			before := int32(0)
			if i > 0 {
				before = list[i-1].Partition
			}
			dst = binary.AppendUvarint(dst, uint64(uint32(list[i].Partition-before)))
		}
		list = list[n:]
	}
	return dst
}

// runs is appendRuns's other way.
func (d *decoder) runs() (list []TopicPartition) {
	for n := d.count(); n > 0 && d.ok(); n-- {
		tp := TopicPartition{Topic: d.topicID()}
		for k := d.count(); k > 0 && d.ok(); k-- {
			tp.Partition += int32(uint32(d.uvarint()))
			list = append(list, tp)
		}
	}
	return list
}
