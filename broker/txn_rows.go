package broker

import (
	"encoding/binary"
	"maps"
	"time"
)

// save writes the transactional id's state; done runs on its loop when that is in the log. One change is on its way at a time.
func (t *txn) save(done func(error)) {
	t.busy = true
	t.updated = t.l.b.nowMilli()
	cmd := appendGroupKey(binary.AppendUvarint(nil, cmdTxn), groupKey(t.key))
	cmd = appendBytes(cmd, t.encode(nil))
	settle := func(err error) {
		t.busy = false
		done(err)
		for len(t.waiting) > 0 && !t.busy {
			next := t.waiting[0]
			t.waiting = t.waiting[1:]
			next(nil)
		}
	}
	if err := t.l.b.command(t.s, cmd, entry{done: func() { settle(nil) }, failed: settle}); err != nil {
		settle(err)
	}
}

// txnVersion is the first byte of a transactional id's row.
const txnVersion = 1

func (t *txn) encode(dst []byte) []byte {
	dst = append(dst, txnVersion, byte(t.state))
	dst = binary.AppendUvarint(dst, uint64(t.producer))
	dst = binary.AppendUvarint(dst, uint64(uint16(t.epoch)))
	dst = binary.AppendUvarint(dst, uint64(uint16(t.last)))
	dst = binary.AppendUvarint(dst, uint64(t.timeout/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(t.started))
	dst = binary.AppendUvarint(dst, uint64(t.updated))
	dst = binary.AppendUvarint(dst, uint64(len(t.partitions)))
	for tp := range t.partitions {
		dst = appendTopicPartition(dst, tp)
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.groups)))
	for g := range t.groups {
		dst = appendString(dst, g)
	}
	return dst
}

func (t *txn) decode(b []byte) bool {
	d := decoder{b: b}
	if d.byte() != txnVersion {
		return false
	}
	t.state = TxnState(d.byte())
	t.producer, t.epoch, t.last = int64(d.uvarint()), int16(uint16(d.uvarint())), int16(uint16(d.uvarint()))
	t.timeout, t.started, t.updated = time.Duration(d.uvarint())*time.Millisecond, int64(d.uvarint()), int64(d.uvarint())
	t.partitions, t.groups = make(map[TopicPartition]struct{}), make(map[string]struct{})
	for n := d.count(); n > 0 && d.ok(); n-- {
		t.partitions[d.topicPartition()] = struct{}{}
	}
	for n := d.count(); n > 0 && d.ok(); n-- {
		t.groups[d.string()] = struct{}{}
	}
	return d.ok() && len(d.b) == 0 && t.state <= TxnCompleteAbort
}

// applyTxnID keeps a transactional id's state; an empty one forgets it.
func (s *shard) applyTxnID(d *decoder) {
	key, state := txnKey(d.groupKey()), d.bytes()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mark(&s.mu.rows.txnIDs, key)
	if len(state) == 0 {
		delete(s.mu.txnIDs, key)
		return
	}
	if s.mu.txnIDs == nil {
		s.mu.txnIDs = make(map[txnKey][]byte)
	}
	s.mu.txnIDs[key] = append([]byte(nil), state...)
}

// reviveTxns brings transactional ids to where the last run left them: what was decided is carried out, what was open goes on. Before the
// loops run.
func (b *Broker) reviveTxns() {
	for _, s := range b.homes {
		s.home.reviveTxns(s)
	}
}

// reviveTxns is the same for one shard, on its home loop.
func (l *Local) reviveTxns(s *shard) {
	s.mu.Lock()
	states := maps.Clone(s.mu.txnIDs)
	s.mu.Unlock()
	for key, state := range states {
		t := &txn{key: key, s: s, l: l}
		t.serial = t.nextSerial()
		if !t.decode(state) {
			l.b.logger.Error("transactional id cannot be read: it begins anew", "id", key.id)
			continue
		}
		if l.txns == nil {
			l.txns = make(map[txnKey]*txn)
		}
		l.txns[key] = t
		switch t.state {
		case TxnOngoing:
			for tp := range t.partitions {
				// Leaders of stream shards know of it, or are new, and ask.
				if p := t.partition(tp); p != nil && !p.shard.ofStreams() {
					p.announceTxn(t.producer, t.epoch)
				}
			}
			t.run()
		case TxnPrepareCommit, TxnPrepareAbort:
			t.ending = true
			l.timers.set(&t.expiry, 0, func() { t.writeMarkers(t.state == TxnPrepareCommit, func(error) {}) })
		case TxnEmpty, TxnCompleteCommit, TxnCompleteAbort:
		}
	}
}

// sweepTxns forgets transactional ids that nobody has used for long, those of one loop.
func (l *Local) sweepTxns(now int64) {
	old := now - l.b.limits.Load().Txn.Expiration.Milliseconds()
	for key, t := range l.txns {
		if t.updated >= old || t.busy || t.ending || t.state == TxnOngoing {
			continue
		}
		cmd := appendBytes(appendGroupKey(binary.AppendUvarint(nil, cmdTxn), groupKey(key)), nil)
		t.busy = true
		e := entry{done: func() { delete(l.txns, key) }, failed: func(error) { t.busy = false }}
		if err := l.b.command(t.s, cmd, e); err != nil {
			t.busy = false
		}
	}
}

// producerIDBlock is how many producer ids are set aside at once: a crash wastes those that were not given.
const producerIDBlock = 1000

// takeProducerID gives an id that no other producer ever has. done runs on some goroutine.
func (b *Broker) takeProducerID(done func(int64, error)) {
	p := &b.producerIDs
	p.Lock()
	if p.next < p.end {
		id := p.next
		p.next++
		p.Unlock()
		done(id, nil)
		return
	}
	p.waiting = append(p.waiting, done)
	first, floor := len(p.waiting) == 1, uint64(p.floor)
	p.Unlock()
	if !first {
		return
	}
	s := b.homes[0]
	s.mu.Lock()
	end := max(s.mu.producerIDs, floor) + producerIDBlock
	s.mu.Unlock()
	cmd := binary.AppendUvarint(binary.AppendUvarint(nil, cmdProducerIDs), end)
	e := entry{done: func() { b.producerIDsTaken(end, nil) }, failed: func(err error) { b.producerIDsTaken(end, err) }}
	if err := b.command(s, cmd, e); err != nil {
		b.producerIDsTaken(end, err)
	}
}

// producerIDsTaken serves who waits for a block.
func (b *Broker) producerIDsTaken(end uint64, err error) {
	p := &b.producerIDs
	p.Lock()
	waiting := p.waiting
	p.waiting = nil
	if err == nil && int64(end) > p.floor { // else it was asked for before the floor was raised
		p.next, p.end = max(int64(end-producerIDBlock), p.floor), int64(end)
	}
	p.Unlock()
	for _, done := range waiting {
		if err != nil {
			done(-1, err)
			continue
		}
		b.takeProducerID(done)
	}
}

// RaiseProducerIDs has all producer ids that are given from now on be at or above floor: below, a store has records of producers whom this node does not
// know, and a reader takes what one has aborted for the other's. done runs once, on some loop, when it is in the log, or at once with what
// refuses it.
func (b *Broker) RaiseProducerIDs(floor int64, done func(error)) {
	p := &b.producerIDs
	p.Lock()
	p.floor = max(p.floor, floor)
	if p.next < p.floor {
		p.next = min(p.floor, p.end)
	}
	p.Unlock()
	cmd := binary.AppendUvarint(binary.AppendUvarint(nil, cmdProducerIDs), uint64(max(floor, 0)))
	if err := b.command(b.homes[0], cmd, entry{done: func() { done(nil) }, failed: done}); err != nil {
		done(err)
	}
}

func (s *shard) applyProducerIDs(end uint64) {
	s.mu.Lock()
	s.mu.producerIDs = max(s.mu.producerIDs, end)
	s.mu.rows.producerIDs = true
	s.mu.Unlock()
}

// collectTxnIDsLocked encodes what changed of transactional ids since the last checkpoint.
func (s *shard) collectTxnIDsLocked(_ *Broker, rows []rowChange) []rowChange {
	for key := range s.mu.rows.txnIDs {
		rows = append(rows, rowChange{appendGroupKey([]byte{rowTxnID}, groupKey(key)), s.mu.txnIDs[key]})
	}
	for key := range s.mu.rows.txnGroups {
		c := rowChange{key: binary.AppendUvarint(appendGroupKey([]byte{rowTxnOffsets}, key.group), uint64(key.producer))}
		for tp, o := range s.mu.txnOffsets[key] {
			c.value = appendCommitted(appendTopicPartition(c.value, tp), &o)
		}
		rows = append(rows, c)
	}
	if s.mu.rows.producerIDs {
		rows = append(rows, rowChange{[]byte{rowProducerIDs}, binary.AppendUvarint(nil, s.mu.producerIDs)})
	}
	return rows
}

// txnsAgainLocked takes back collectTxnIDsLocked for one row.
func (s *shard) txnsAgainLocked(key []byte) {
	d := decoder{b: key[1:]}
	g := d.groupKey()
	if key[0] == rowTxnID {
		mark(&s.mu.rows.txnIDs, txnKey(g))
		return
	}
	mark(&s.mu.rows.txnGroups, txnGroupKey{g, int64(d.uvarint())})
}

func (s *shard) loadTxnIDRow(_ *Broker, kind byte, key, value []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, k := decoder{b: value}, decoder{b: key}
	switch kind {
	case rowProducerIDs:
		s.mu.producerIDs = d.uvarint()
		return d.ok()
	case rowTxnID:
		if s.mu.txnIDs == nil {
			s.mu.txnIDs = make(map[txnKey][]byte)
		}
		s.mu.txnIDs[txnKey(k.groupKey())] = append([]byte(nil), value...)
		return k.ok()
	}
	g := txnGroupKey{k.groupKey(), int64(k.uvarint())}
	for len(d.b) > 0 {
		tp, o := d.topicPartition(), d.committed()
		if !d.ok() {
			return false
		}
		s.setTxnOffsetLocked(g, tp, o)
	}
	return k.ok()
}
