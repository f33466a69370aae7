package broker

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// Prefixes of checkpoint keys, after the shard; docs/format/checkpoint.md draws the rows.
const (
	rowMeta           = 'm'
	rowSession        = 's'
	rowReceived       = 'd'
	rowQueue          = 'q'
	rowRetained       = 'r'
	rowGroup          = 'g'
	rowPromised       = 'w'
	rowDelayed        = 'D'
	rowTenantRetained = 'R' // of a tenant other than the default one

	rowGroupMeta   = 'k' // of Kafka's groups
	rowGroupMember = 'j'
	rowOffset      = 'o'

	rowProducer    = 'p' // of streams
	rowAborted     = 'a'
	rowLogStart    = 'l'
	rowRelayed     = 'e'
	rowTxnID       = 't' // of the transaction coordinator
	rowTxnOffsets  = 'x'
	rowProducerIDs = 'i'

	// Of topics, in shard 0: they sort, and are loaded, before all that lies in partitions.
	rowTopic        = 'A'
	rowPartitionIDs = 'B'
	rowEntry        = 'C' // of the catalog

	rowTier = 'h' // of the tier's manifest

	rowEpochs = 'z' // of a replicated shard's leaders
)

// dirtyRows is what changed in a shard since its last checkpoint. Guarded by the shard's lock.
type dirtyRows struct {
	sessions map[uint64]struct{}
	ids      map[uint64]struct{} // sessions whose received identifiers changed
	topics   topicList           // of retained messages
	groups   map[uint64]struct{}
	promises map[uint64]struct{} // sessions whose promises changed
	delayed  map[uint64]struct{} // messages
	gone     [][]byte            // keys of queue blocks that were trimmed

	groupMeta map[groupKey]struct{} // of Kafka's groups
	members   map[memberKey]struct{}
	offsets   map[offsetKey]struct{}
	streams   []*Partition        // with rows that changed
	goneKeys  [][]byte            // of them
	txnIDs    map[txnKey]struct{} // of the transaction coordinator
	txnGroups map[txnGroupKey]struct{}

	producerIDs  bool
	partitionIDs bool
	topicSpecs   map[topicIDKey]struct{}
	entries      map[string]struct{} // of the catalog
	tier         map[string]struct{} // of the tier's manifest
}

func mark[K comparable](m *map[K]struct{}, k K) {
	if *m == nil {
		*m = make(map[K]struct{})
	}
	(*m)[k] = struct{}{}
}

func (r *dirtyRows) session(id uint64)   { mark(&r.sessions, id) }
func (r *dirtyRows) received(id uint64)  { mark(&r.ids, id) }
func (r *dirtyRows) group(number uint64) { mark(&r.groups, number) }
func (r *dirtyRows) promise(id uint64)   { mark(&r.promises, id) }
func (r *dirtyRows) queueGone(q *queue) {
	var firsts []uint64
	for _, b := range q.blocks {
		if b.saved > 0 {
			firsts = append(firsts, b.first)
		}
	}
	r.blocksGone(q, firsts)
}

func (r *dirtyRows) blocksGone(q *queue, firsts []uint64) {
	for _, f := range firsts {
		r.gone = append(r.gone, blockKey(q.number, f))
	}
}

func key8(prefix byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefix}, n)
}

// retainedKey is the key of a retained message's row. The default tenant's are as they were before there were others.
func retainedKey(tenant uint32, topic []byte) []byte {
	if tenant == 0 {
		return append([]byte{rowRetained}, topic...)
	}
	return append(binary.AppendUvarint([]byte{rowTenantRetained}, uint64(tenant)), topic...)
}

// retainedOfKey reads what retainedKey has made, without its first byte.
func retainedOfKey(kind byte, key []byte) (tenant uint32, topic []byte, ok bool) {
	if kind == rowRetained {
		return 0, key, true
	}
	d := decoder{b: key}
	tenant = uint32(d.uvarint())
	return tenant, d.b, d.ok() && tenant != 0
}

func blockKey(number, first uint64) []byte {
	return binary.BigEndian.AppendUint64(key8(rowQueue, number), first)
}

// rowChange is one row of a checkpoint on its way to the store. A nil value deletes.
type rowChange struct{ key, value []byte }

// collectLocked encodes what changed in s.
func (s *shard) collectLocked(b *Broker) (rows []rowChange) {
	r := &s.mu.rows
	for id := range r.sessions {
		c := rowChange{key: key8(rowSession, id)}
		if sess := s.mu.byID[id]; sess != nil {
			c.value = encodeSessionRow(nil, sess)
		}
		rows = append(rows, c)
	}
	for id := range r.ids {
		c := rowChange{key: key8(rowReceived, id)}
		if ids := s.mu.received[id]; len(ids) > 0 {
			for _, packet := range ids {
				c.value = binary.AppendUvarint(c.value, uint64(packet))
			}
		}
		rows = append(rows, c)
	}
	for n := range r.groups {
		c := rowChange{key: key8(rowGroup, n)}
		if g := s.mu.groups[n]; g != nil {
			c.value = g.saved.encode(nil)
		}
		rows = append(rows, c)
	}
	for id := range r.promises {
		rows = append(rows, rowChange{key8(rowPromised, id), s.encodePromisesLocked(id)})
	}
	for _, key := range r.gone {
		rows = append(rows, rowChange{key: key})
	}
	for _, q := range s.mu.queues {
		if !q.dirty {
			continue
		}
		for _, bl := range q.blocks {
			if bl.saved < bl.n {
				bl.saved = bl.n
				rows = append(rows, rowChange{blockKey(q.number, bl.first), bl.encode(nil)})
			}
		}
		q.dirty = false
	}
	r.topics.each(func(tenant uint32, t []byte) {
		c := rowChange{key: retainedKey(tenant, t)}
		if v := b.retained.encode(nil, tenant, t); len(v) > 0 {
			c.value = v
		}
		rows = append(rows, c)
	})
	rows = s.collectDelayedLocked(rows)
	rows = s.collectGroupsLocked(rows)
	rows = s.collectStreamsLocked(rows)
	rows = s.collectTxnIDsLocked(b, rows)
	rows = s.collectTopicsLocked(b, rows)
	rows = s.collectEntriesLocked(b, rows)
	rows = s.collectTierLocked(b, rows)
	rows = s.rep.collectLocked(s, rows)
	*r = dirtyRows{}
	// Numbers of sessions and filters are never given out twice, even if their bearers are gone from the tables.
	meta := binary.AppendUvarint(nil, max(s.mu.appliedSeq, 1))
	meta = binary.AppendUvarint(meta, b.lastSID.Load())
	meta = binary.AppendUvarint(meta, b.filters.lastNumber())
	return append(rows, rowChange{[]byte{rowMeta}, meta})
}

// dirtyAgainLocked takes back collectLocked: the store did not take the rows.
func (s *shard) dirtyAgainLocked(rows []rowChange) {
	for i := range rows {
		key := rows[i].key
		number := uint64(0)
		if len(key) >= 9 {
			number = binary.BigEndian.Uint64(key[1:])
		}
		switch key[0] {
		case rowSession:
			s.mu.rows.session(number)
		case rowReceived:
			s.mu.rows.received(number)
		case rowGroup:
			s.mu.rows.group(number)
		case rowPromised:
			s.mu.rows.promise(number)
		case rowDelayed:
			mark(&s.mu.rows.delayed, number)
		case rowRetained, rowTenantRetained:
			tenant, topic, _ := retainedOfKey(key[0], key[1:])
			s.mu.rows.topics.add(tenant, topic)
		case rowGroupMeta, rowGroupMember, rowOffset:
			s.groupsAgainLocked(key)
		case rowTxnID, rowTxnOffsets:
			s.txnsAgainLocked(key)
		case rowProducerIDs:
			s.mu.rows.producerIDs = true
		case rowTopic:
			d := decoder{b: key[1:]}
			mark(&s.mu.rows.topicSpecs, topicIDKey{uint32(d.uvarint()), d.topicID()})
		case rowPartitionIDs:
			s.mu.rows.partitionIDs = true
		case rowEntry:
			s.entryAgainLocked(key)
		case rowTier:
			s.tierAgainLocked(key)
		case rowEpochs:
			s.rep.saved = 0
		case rowProducer, rowAborted, rowLogStart, rowRelayed:
			s.streamAgainLocked(&rows[i])
		case rowQueue:
			if rows[i].value == nil {
				s.mu.rows.gone = append(s.mu.rows.gone, key)
			} else if q := s.mu.queues[number]; q == nil || !q.unsaved(binary.BigEndian.Uint64(key[9:])) {
				s.mu.rows.gone = append(s.mu.rows.gone, key) // trimmed meanwhile, and perhaps written all the same
			}
		}
	}
}

// Checkpoint writes what changed since the last one to st, shard by shard, and lets go of the log before it. One goroutine at
// a time. The home loops go on.
func (b *Broker) Checkpoint(st Checkpoints) error {
	for _, s := range b.shards {
		end := b.committed()
		s.applying.Lock()
		s.mu.Lock()
		if s.mu.unapplied == 0 {
			s.mu.place = end // nothing of this shard is on its way: all its frames before that place are applied
		}
		applied, place := s.mu.applied, s.mu.place
		if place == (Place{}) || s.set > 0 && applied == 0 {
			s.mu.Unlock()
			s.applying.Unlock()
			continue // nothing was written since the log was opened empty, or of this shard ever
		}
		rows := s.collectLocked(b)
		s.mu.Unlock()
		s.applying.Unlock()
		err := st.Write(s.id, applied, place, func(w RowWriter) error {
			for i := range rows {
				var err error
				if rows[i].value == nil {
					err = w.Delete(rows[i].key)
				} else {
					err = w.Set(rows[i].key, rows[i].value)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.mu.Lock()
			s.dirtyAgainLocked(rows)
			s.mu.Unlock()
			return fmt.Errorf("checkpoint of shard %d: %w", s.id, err)
		}
	}
	return st.Flush()
}

func encodeSessionRow(dst []byte, sess *Session) []byte {
	d := sess.d
	dst = append(dst, 1) // version of the row
	dst = binary.AppendUvarint(dst, uint64(sess.tenant))
	dst = appendString(dst, sess.id)
	dst = binary.AppendUvarint(dst, uint64(d.expiry))
	dst = binary.AppendUvarint(dst, uint64(d.deadline))
	dst = binary.AppendUvarint(dst, uint64(d.willAt))
	dst = binary.AppendUvarint(dst, boolBit(d.connected))
	dst = appendWill(dst, sess.will)
	f := feed{position: d.position, restored: d.inflight}
	dst = appendBytes(dst, f.encode(nil, true))
	subs := d.subscriptions()
	dst = binary.AppendUvarint(dst, uint64(len(subs)))
	for i := range subs {
		p := &subs[i]
		dst = appendString(dst, p.group)
		dst = appendString(dst, p.filter)
		dst = binary.AppendUvarint(dst, p.number)
		dst = binary.AppendUvarint(dst, uint64(p.opts))
		dst = binary.AppendUvarint(dst, uint64(p.id))
		dst = appendSeqs(dst, p.starts)
	}
	return appendOwed(dst, d.owed)
}

func (s *shard) loadSession(b *Broker, id uint64, row []byte) bool {
	d := decoder{b: row}
	if d.uvarint() != 1 {
		return false
	}
	sess := &Session{tenant: uint32(d.uvarint()), id: d.string(), shard: s, d: &durable{id: id}}
	sess.d.expiry, sess.d.deadline, sess.d.willAt = time.Duration(d.uvarint()), int64(d.uvarint()), int64(d.uvarint())
	sess.d.connected = d.uvarint() == 1
	sess.will = d.will()
	progress := decoder{b: d.bytes()}
	sess.d.position, sess.d.inflight = progress.progress()
	var subs []durableSubscription
	for n := d.count(); n > 0 && !d.bad; n-- {
		subs = append(subs, d.subscription())
	}
	sess.d.owed = d.owed()
	if d.bad || progress.bad {
		return false
	}
	b.slots.alloc(sess)
	s.mu.Lock()
	s.mu.sessions.set(sess)
	if s.mu.byID == nil {
		s.mu.byID = make(map[uint64]*Session)
	}
	s.mu.byID[id] = sess
	s.armLocked(sess.d)
	s.mu.Unlock()
	b.raiseSID(id)
	b.countSession(sess, 1)
	b.addSubscriptions(sess, subs)
	return true
}

// Load reads the checkpoint. Before Replay.
func (b *Broker) Load(st Checkpoints) error {
	for _, s := range b.shards {
		applied, err := st.Load(s.id, func(key, value []byte) error {
			if len(key) == 0 || !s.loadRow(b, key[0], key[1:], value) {
				return fmt.Errorf("checkpoint of shard %d: bad row %q", s.id, key)
			}
			return b.refused
		})
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.mu.index, s.mu.applied = applied, applied
		s.rep.loadedLocked(applied)
		s.mu.Unlock()
	}
	return nil
}

func (s *shard) loadRow(b *Broker, kind byte, key, value []byte) bool {
	d := decoder{b: value}
	number := uint64(0)
	if len(key) >= 8 {
		number = binary.BigEndian.Uint64(key)
	}
	switch kind {
	case rowMeta:
		s.mu.nextSeq = d.uvarint()
		s.mu.appliedSeq = s.mu.nextSeq
		b.raiseSID(d.uvarint())
		b.filters.raise(d.uvarint())
	case rowSession:
		return s.loadSession(b, number, value)
	case rowReceived:
		s.mu.Lock()
		defer s.mu.Unlock()
		for len(d.b) > 0 {
			s.addReceivedLocked(number, uint16(d.uvarint()))
		}
		clear(s.mu.rows.ids)
	case rowQueue:
		bl, ok := decodeRefBlock(value)
		if !ok {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queueLocked(number).load(bl)
	case rowRetained, rowTenantRetained:
		tenant, topic, ok := retainedOfKey(kind, key)
		return ok && b.retained.load(b, tenant, topic, value)
	case rowGroup:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.groupLocked(number).saved = d.groupMark()
	case rowPromised:
		return s.loadPromises(number, value)
	case rowDelayed:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.addDelayedLocked(b, number, value)
	case rowGroupMeta, rowGroupMember, rowOffset:
		return s.loadGroupRow(kind, key, value)
	case rowProducer, rowAborted, rowLogStart, rowRelayed:
		return s.loadStreamRow(b, kind, key, value)
	case rowTopic, rowPartitionIDs:
		return s.loadTopicRow(b, kind, value)
	case rowEntry:
		return s.loadEntryRow(b, key, value)
	case rowTier:
		return s.loadTierRow(b, key, value)
	case rowEpochs:
		return s.loadEpochs(value)
	case rowTxnID, rowTxnOffsets, rowProducerIDs:
		return s.loadTxnIDRow(b, kind, key, value)
	default:
		return false
	}
	return d.ok()
}

// Replay applies a frame that the log holds beyond the checkpoint: the same apply that a live commit runs.
func (b *Broker) Replay(f record.Frame, end Place) error {
	if int(f.Shard) >= len(b.shards) {
		return fmt.Errorf("frame of shard %d, and there are %d", f.Shard, len(b.shards))
	}
	s := b.shards[f.Shard]
	s.mu.Lock()
	old := f.Index <= s.mu.applied
	s.mu.Unlock()
	before := b.setCommitted(end)
	if s.rep != nil {
		return b.replayReplicated(s, &f, before, end)
	}
	if old {
		return nil
	}
	if err := b.applyFrame(s, &f); err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.index, s.mu.applied, s.mu.place = f.Index, f.Index, end
	s.mu.Unlock()
	return nil
}

// applyFrame changes the tables by a frame as the log has it. The caller sees to it that it is the next one of its shard.
func (b *Broker) applyFrame(s *shard, f *record.Frame) error {
	switch f.Kind {
	case record.KindRecords:
		batch, _, err := record.ParseBatch(record.FrameBatch(f.Payload))
		if err != nil {
			return fmt.Errorf("frame %d of shard %d: %w", f.Index, f.Shard, err)
		}
		if s.set == 0 && f.Partition == unboundPartition(s.id) {
			s.applyRecords(b, record.FrameExtra(f.Payload), batch, uint64(batch.BaseOffset()))
		} else {
			s.replayBatch(b, f, batch)
		}
	case record.KindCommand:
		if s.id == 0 && b.refused != nil {
			return b.refused
		}
		s.applyCommands(b, f.Payload)
		if s.id == 0 {
			return b.refused
		}
	default:
		if f.Flags&record.FlagSkippable == 0 {
			return fmt.Errorf("frame %d of shard %d has kind %d, which this version does not know", f.Index, f.Shard, f.Kind)
		}
	}
	return nil
}

// Recovered ends recovery: sessions that were connected when the last run ended count as gone since now; groups go on behind
// what they had finished. Before Start.
func (b *Broker) Recovered() {
	b.recovering = false
	if b.opts.Replicated {
		b.raiseSeqsRecovered()
		b.revivePartitions()
		b.kickReplicas()
		return // the rest is the leader's, when it begins
	}
	now := b.nowMilli()
	known := make(map[uint64]bool)
	taken := make([]uint64, len(b.homes)) // the highest start of a subscription, by shard
	for _, s := range b.homes {
		s.mu.Lock()
		for id, sess := range s.mu.byID {
			known[id] = true
			highestStarts(sess.d.subscriptions(), taken)
			sess.client = nil
			d := sess.d
			if !d.connected {
				continue
			}
			d.connected = false
			d.deadline = deadlineOf(now, d.expiry)
			if sess.will != nil {
				d.willAt = now + int64(min(sess.will.Delay, d.expiry)/time.Millisecond) + 1
			}
			s.armLocked(d)
			s.mu.rows.session(id)
		}
		for n := range s.mu.queues {
			if shared, _ := b.filters.kind(n); shared {
				s.groupLocked(n)
			}
		}
		for _, g := range s.mu.groups {
			g.recoveredLocked()
			g.behind = true
			b.behindGroups.Add(1)
		}
		s.mu.Unlock()
	}
	for i, s := range b.homes {
		s.mu.Lock()
		s.mu.nextSeq = max(s.mu.nextSeq, taken[i]+1)
		s.mu.Unlock()
		s.dropStrays(b, known)
	}
	b.reviveGroups()
	b.revivePartitions()
	b.reviveTxns()
}

// raiseSeqsRecovered has each shard give its next record a number that no subscription counts as one before it.
func (b *Broker) raiseSeqsRecovered() {
	taken := make([]uint64, len(b.homes))
	for _, s := range b.homes {
		s.mu.Lock()
		for _, sess := range s.mu.byID {
			highestStarts(sess.d.subscriptions(), taken)
		}
		s.mu.Unlock()
	}
	b.raiseSeqs(taken)
}

func (b *Broker) raiseSeqs(taken []uint64) {
	for i, s := range b.homes {
		if taken[i] > 0 {
			s.mu.Lock()
			s.mu.nextSeq = max(s.mu.nextSeq, taken[i]+1)
			s.mu.Unlock()
		}
	}
}

// highestStarts raises highest, by shard, to where subscriptions count from. That may lie above all that was written: A publishes and
// waits for the log, B subscribes behind it, A's message fails or is lost by a crash, B's subscription is not. A record that took A's place
// would be none of B's.
func highestStarts(subs []durableSubscription, highest []uint64) {
	for i := range subs {
		for _, p := range subs[i].starts {
			if int(p.shard) < len(highest) {
				highest[p.shard] = max(highest[p.shard], p.seq)
			}
		}
	}
}

// dropStrays forgets what belongs to sessions and filters that ended while another shard's checkpoint was older.
func (s *shard) dropStrays(b *Broker, known map[uint64]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.mu.received {
		if !known[id] {
			delete(s.mu.received, id)
			s.mu.rows.received(id)
		}
	}
	for id := range s.mu.promised {
		if !known[id] {
			s.dropPromisesLocked(id)
		}
	}
	for n := range s.mu.queues {
		if _, known := b.filters.kind(n); !known {
			s.dropQueueLocked(n)
		}
	}
	for n := range s.mu.groups {
		if _, known := b.filters.kind(n); !known {
			s.dropQueueLocked(n)
		}
	}
}
