package broker

import (
	"encoding/binary"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// groupRow is what is kept of a group: its generation and members, so that they go on after a restart, and its offsets. Guarded by the
// shard's lock.
type groupRow struct {
	meta       []byte // encoded; nil: offsets alone
	emptySince int64  // Unix milliseconds; 0: it has members
	offsets    map[TopicPartition]CommittedOffset
	undecided  int // transactions that have offsets waiting
}

// offsetKey is one committed offset's row.
type offsetKey struct {
	group groupKey
	tp    TopicPartition
}

// The first byte of a group's metadata: its version, and with it its protocol.
const (
	groupMetaVersion    = 1
	consumerMetaVersion = 2
)

// store writes the group's generation and members; done runs on the group's loop when they are in the log.
func (g *group) store(done func(error)) {
	since := int64(0)
	if g.empty() {
		since = g.l.b.nowMilli()
	}
	cmd := binary.AppendUvarint(nil, cmdGroupMeta)
	cmd = appendGroupKey(cmd, g.key)
	cmd = binary.AppendUvarint(cmd, uint64(since))
	cmd = appendBytes(cmd, g.encode(nil))
	if err := g.l.b.command(g.s, cmd, entry{done: func() { done(nil) }, failed: done}); err != nil {
		done(err)
	}
}

func appendGroupKey(dst []byte, key groupKey) []byte {
	return appendString(binary.AppendUvarint(dst, uint64(key.tenant)), key.id)
}

func (d *decoder) groupKey() groupKey { return groupKey{uint32(d.uvarint()), d.string()} }

// encode appends the group's metadata.
func (g *group) encode(dst []byte) []byte {
	if g.consumer != nil {
		return g.consumer.encode(append(dst, consumerMetaVersion))
	}
	dst = append(dst, groupMetaVersion)
	dst = binary.AppendUvarint(dst, uint64(uint32(g.generation)))
	dst = appendString(appendString(appendString(dst, g.protocolType), g.protocol), g.leader)
	dst = binary.AppendUvarint(dst, uint64(len(g.members)))
	for _, m := range g.members {
		dst = appendString(appendString(appendString(appendString(dst, m.id), m.instance), m.clientID), m.clientHost)
		dst = binary.AppendUvarint(dst, uint64(m.session/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(m.rebalanceTimeout/time.Millisecond))
		dst = binary.AppendUvarint(dst, uint64(len(m.protocols)))
		for i := range m.protocols {
			dst = appendBytes(appendString(dst, m.protocols[i].Name), m.protocols[i].Metadata)
		}
		dst = appendBytes(dst, m.assignment)
	}
	return dst
}

// decode is encode's other way. It answers false for bytes that encode did not write.
func (g *group) decode(b []byte) bool {
	if len(b) > 0 && b[0] == consumerMetaVersion {
		return g.decodeConsumer(b[1:])
	}
	if len(b) == 0 || b[0] != groupMetaVersion {
		return false
	}
	d := decoder{b: b[1:]}
	g.generation = int32(uint32(d.uvarint()))
	g.protocolType, g.protocol, g.leader = d.string(), d.string(), d.string()
	for n := d.count(); n > 0 && d.ok(); n-- {
		m := &member{id: d.string(), instance: d.string(), clientID: d.string(), clientHost: d.string()}
		m.session, m.rebalanceTimeout = time.Duration(d.uvarint())*time.Millisecond, time.Duration(d.uvarint())*time.Millisecond
		for k := d.count(); k > 0 && d.ok(); k-- {
			m.protocols = append(m.protocols, GroupProtocol{d.string(), append([]byte{}, d.bytes()...)})
		}
		m.assignment = append([]byte(nil), d.bytes()...)
		g.members[m.id] = m
		if m.instance != "" {
			if g.static == nil {
				g.static = make(map[string]string)
			}
			g.static[m.instance] = m.id
		}
	}
	return d.ok() && len(d.b) == 0
}

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

func (s *shard) applyGroupMeta(d *decoder) {
	key, since, meta := d.groupKey(), int64(d.uvarint()), d.bytes()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.groupRowLocked(key)
	row.meta, row.emptySince = append(row.meta[:0:0], meta...), since
	mark(&s.mu.rows.groupMeta, key)
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
	mark(&s.mu.rows.groupMeta, key)
	delete(s.mu.groupRows, key)
}

// groupRowKey is a group's row in the checkpoint.
func groupRowKey(key groupKey) []byte { return appendGroupKey([]byte{rowGroupMeta}, key) }

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
	if key[0] == rowGroupMeta {
		mark(&s.mu.rows.groupMeta, g)
		return
	}
	mark(&s.mu.rows.offsets, offsetKey{g, d.topicPartition()})
}

func (s *shard) loadGroupRow(kind byte, key, value []byte) bool {
	k, d := decoder{b: key}, decoder{b: value}
	g := k.groupKey()
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.groupRowLocked(g)
	if kind == rowGroupMeta {
		row.emptySince = int64(d.uvarint())
		row.meta = append([]byte(nil), d.b...)
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
	for _, s := range b.shards {
		l := s.home
		s.mu.Lock()
		for key, row := range s.mu.groupRows {
			g, err := l.groupFor(s, key)
			if err != nil {
				b.logger.Error("group is left out: there are too many", "group", key.id)
				continue
			}
			if row.meta == nil {
				continue
			}
			if !g.decode(row.meta) {
				b.logger.Error("group's members cannot be read: they join again", "group", key.id)
				g.members, g.static, g.consumer = make(map[string]*member), nil, nil
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
		s.mu.Unlock()
	}
}
