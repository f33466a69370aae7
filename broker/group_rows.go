package broker

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/journal/record"
)

// groupRow is what is kept of a group: its generation and members, so that they go on after a restart, and its offsets. Guarded by the
// shard's lock.
type groupRow struct {
	meta       []byte // encoded; nil: offsets alone
	members    map[string]memberRow
	emptySince int64 // Unix milliseconds; 0: it has members
	offsets    map[TopicPartition]CommittedOffset
	undecided  int // transactions that have offsets waiting
}

// offsetKey is one committed offset's row.
type offsetKey struct {
	group groupKey
	tp    TopicPartition
}

// store writes what has changed of the group's generation and members; done runs on the group's loop when that is in the log. What a write
// that failed had is missing in the log: the next one has everything, and one that went behind it counts when that has followed.
func (g *group) store(done func(error)) {
	failures := g.stores.failures
	failed := func(err error) {
		g.stores.failures++
		g.changes.whole = true
		done(err)
	}
	stored := func() {
		if failures != g.stores.failures {
			g.store(done)
			return
		}
		done(nil)
	}
	if err := g.l.b.command(g.s, g.encodeChanges(), entry{done: stored, failed: failed}); err != nil {
		failed(err)
	}
}

func appendGroupKey(dst []byte, key groupKey) []byte {
	return appendString(binary.AppendUvarint(dst, uint64(key.tenant)), key.id)
}

func (d *decoder) groupKey() groupKey { return groupKey{uint32(d.uvarint()), d.string()} }

func appendTopicPartition(dst []byte, tp TopicPartition) []byte {
	return binary.AppendUvarint(append(dst, tp.Topic[:]...), uint64(uint32(tp.Partition)))
}

func (d *decoder) topicPartition() (tp TopicPartition) {
	if len(d.b) < len(tp.Topic) {
		d.bad, d.b = true, nil
		return tp
	}
	copy(tp.Topic[:], d.b)
	d.b = d.b[len(tp.Topic):]
	tp.Partition = int32(uint32(d.uvarint()))
	return tp
}

func appendCommitted(dst []byte, o *CommittedOffset) []byte {
	dst = binary.AppendUvarint(dst, uint64(o.Offset))
	dst = binary.AppendUvarint(dst, uint64(uint32(o.LeaderEpoch)))
	dst = binary.AppendUvarint(dst, uint64(o.At))
	return appendString(dst, o.Metadata)
}

func (d *decoder) committed() CommittedOffset {
	return CommittedOffset{Offset: record.Offset(d.uvarint()), LeaderEpoch: int32(uint32(d.uvarint())), At: int64(d.uvarint()), Metadata: d.string()}
}

// encodeOffsets makes the command that stores those offsets that have no error.
func encodeOffsets(dst []byte, key groupKey, list []OffsetCommit) []byte {
	return appendOffsets(appendGroupKey(binary.AppendUvarint(dst, cmdOffsets), key), list)
}

func appendOffsets(dst []byte, list []OffsetCommit) []byte {
	n := 0
	for i := range list {
		if list[i].Err == nil {
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for i := range list {
		if list[i].Err == nil {
			dst = appendCommitted(appendTopicPartition(dst, list[i].TopicPartition), &list[i].CommittedOffset)
		}
	}
	return dst
}

func encodeOffsetsGone(dst []byte, key groupKey, list []TopicPartition) []byte {
	dst = appendGroupKey(binary.AppendUvarint(dst, cmdOffsetsGone), key)
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, tp := range list {
		dst = appendTopicPartition(dst, tp)
	}
	return dst
}

func encodeGroupGone(dst []byte, key groupKey) []byte {
	return appendGroupKey(binary.AppendUvarint(dst, cmdGroupGone), key)
}

func (s *shard) groupRowLocked(key groupKey) *groupRow {
	row := s.mu.groupRows[key]
	if row == nil {
		if s.mu.groupRows == nil {
			s.mu.groupRows = make(map[groupKey]*groupRow)
		}
		row = &groupRow{}
		s.mu.groupRows[key] = row
	}
	return row
}

func (s *shard) hasOffsets(key groupKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.mu.groupRows[key]
	return row != nil && len(row.offsets) > 0
}

// applyGroupMeta takes over a group that an earlier version wrote, members and all.
func (s *shard) applyGroupMeta(d *decoder) {
	key, since, meta := d.groupKey(), int64(d.uvarint()), d.bytes()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.groupRowLocked(key)
	row.emptySince = since
	s.takeWholeLocked(key, row, meta)
}

func (s *shard) applyOffsets(d *decoder) {
	key := d.groupKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := d.count(); n > 0; n-- {
		tp, o := d.topicPartition(), d.committed()
		if !d.ok() {
			return
		}
		s.setOffsetLocked(key, tp, o)
	}
}

func (s *shard) setOffsetLocked(key groupKey, tp TopicPartition, o CommittedOffset) {
	row := s.groupRowLocked(key)
	if row.offsets == nil {
		row.offsets = make(map[TopicPartition]CommittedOffset)
	}
	row.offsets[tp] = o
	mark(&s.mu.rows.offsets, offsetKey{key, tp})
}

func (s *shard) applyOffsetsGone(d *decoder) {
	key := d.groupKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.mu.groupRows[key]
	for n := d.count(); n > 0; n-- {
		tp := d.topicPartition()
		if !d.ok() {
			return
		}
		if row != nil {
			delete(row.offsets, tp)
			mark(&s.mu.rows.offsets, offsetKey{key, tp})
		}
	}
}

func (s *shard) applyGroupGone(d *decoder) {
	key := d.groupKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.mu.groupRows[key]
	if row == nil {
		return
	}
	for tp := range row.offsets {
		mark(&s.mu.rows.offsets, offsetKey{key, tp})
	}
	s.dropMembersLocked(key, row)
	mark(&s.mu.rows.groupMeta, key)
	delete(s.mu.groupRows, key)
}

// groupRowKey is a group's row in the checkpoint.
func groupRowKey(key groupKey) []byte { return appendGroupKey([]byte{rowGroupMeta}, key) }

func memberRowKey(k memberKey) []byte {
	return append(appendGroupKey([]byte{rowGroupMember}, k.group), k.id...)
}

func offsetRowKey(k offsetKey) []byte {
	return appendTopicPartition(appendGroupKey([]byte{rowOffset}, k.group), k.tp)
}

// collectGroupsLocked encodes what changed of groups since the last checkpoint.
func (s *shard) collectGroupsLocked(rows []rowChange) []rowChange {
	for key := range s.mu.rows.groupMeta {
		c := rowChange{key: groupRowKey(key)}
		if row := s.mu.groupRows[key]; row != nil {
			c.value = append(binary.AppendUvarint(nil, uint64(row.emptySince)), row.meta...)
		}
		rows = append(rows, c)
	}
	for k := range s.mu.rows.members {
		c := rowChange{key: memberRowKey(k)}
		if row := s.mu.groupRows[k.group]; row != nil {
			if m, ok := row.members[k.id]; ok {
				c.value = append(appendBytes(nil, m.wishes), m.share...)
			}
		}
		rows = append(rows, c)
	}
	for k := range s.mu.rows.offsets {
		c := rowChange{key: offsetRowKey(k)}
		if row := s.mu.groupRows[k.group]; row != nil {
			if o, ok := row.offsets[k.tp]; ok {
				c.value = appendCommitted(nil, &o)
			}
		}
		rows = append(rows, c)
	}
	return rows
}

// groupsAgainLocked takes back collectGroupsLocked for one row.
func (s *shard) groupsAgainLocked(key []byte) {
	d := decoder{b: key[1:]}
	g := d.groupKey()
	switch key[0] {
	case rowGroupMeta:
		mark(&s.mu.rows.groupMeta, g)
	case rowGroupMember:
		mark(&s.mu.rows.members, memberKey{g, string(d.b)})
	default:
		mark(&s.mu.rows.offsets, offsetKey{g, d.topicPartition()})
	}
}

func (s *shard) loadGroupRow(kind byte, key, value []byte) bool {
	k, d := decoder{b: key}, decoder{b: value}
	g := k.groupKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.groupRowLocked(g)
	switch kind {
	case rowGroupMeta:
		row.emptySince = int64(d.uvarint())
		if len(d.b) > 0 && d.b[0] <= wholeConsumerVersion {
			s.takeWholeLocked(g, row, d.b)
		} else {
			row.meta = append([]byte(nil), d.b...)
		}
		return d.ok() && k.ok()
	case rowGroupMember:
		if row.members == nil {
			row.members = make(map[string]memberRow)
		}
		row.members[string(k.b)] = memberRow{append([]byte(nil), d.bytes()...), append([]byte(nil), d.b...)}
		return d.ok() && k.ok()
	}
	tp, o := k.topicPartition(), d.committed()
	if row.offsets == nil {
		row.offsets = make(map[TopicPartition]CommittedOffset)
	}
	row.offsets[tp] = o
	return d.ok() && k.ok()
}

// reviveGroups brings the groups to where the last run left them. Before the loops run. A member that was there then has its session's
// time to be heard of again.
func (b *Broker) reviveGroups() {
	for _, s := range b.homes {
		s.home.reviveGroups(s)
	}
}

// reviveGroups is the same for one shard, on its home loop.
func (l *Local) reviveGroups(s *shard) {
	b := l.b
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, row := range s.mu.groupRows {
		g, err := l.addGroup(s, key)
		if err != nil {
			b.logger.Error("group is left out: there are too many", "group", key.id)
			continue
		}
		if row.meta == nil {
			continue
		}
		if !g.decodeRow(row) {
			b.logger.Error("group's members cannot be read: they join again", "group", key.id)
			g.members, g.static, g.consumer = make(map[string]*member), nil, nil
			g.changes.whole = true
			continue
		}
		if len(g.members) > 0 {
			g.state = GroupStable
		}
		for _, m := range g.members {
			g.heard(m)
		}
		g.reviveConsumers()
	}
}
