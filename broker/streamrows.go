package broker

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/journal/record"
)

// streamRowVersion is the first byte of a partition's rows.
const streamRowVersion = 1

// touchLocked notes that the partition has rows to be written by the next checkpoint.
func (p *Partition) touchLocked() {
	if !p.mu.listed {
		p.mu.listed = true
		p.shard.mu.rows.streams = append(p.shard.mu.rows.streams, p)
	}
}

func producerKey(p record.PartitionID, producer int64) []byte {
	return binary.BigEndian.AppendUint64(key8(rowProducer, uint64(p)), uint64(producer))
}

func abortedKey(p record.PartitionID, last record.Offset) []byte {
	return binary.BigEndian.AppendUint64(key8(rowAborted, uint64(p)), uint64(last))
}

// collectStreamsLocked encodes what changed of partitions since the last checkpoint.
func (s *shard) collectStreamsLocked(rows []rowChange) []rowChange {
	r := &s.mu.rows
	for _, key := range r.goneKeys {
		rows = append(rows, rowChange{key: key})
	}
	for _, p := range r.streams {
		p.mu.listed = false
		if p.mu.moved {
			p.mu.moved = false
			v := binary.AppendUvarint([]byte{streamRowVersion}, uint64(p.LogStart()))
			if p.mu.restored > 0 {
				v = binary.AppendUvarint(v, uint64(p.mu.restored))
			}
			rows = append(rows, rowChange{key8(rowLogStart, uint64(p.id)), v})
		}
		if at := p.relayed.Load(); at != notRelayed {
			p.mu.relayedSaved = true
			rows = append(rows, rowChange{key8(rowRelayed, uint64(p.id)), binary.AppendUvarint([]byte{streamRowVersion}, uint64(at))})
		} else if p.mu.relayedSaved {
			p.mu.relayedSaved = false
			rows = append(rows, rowChange{key: key8(rowRelayed, uint64(p.id))})
		}
		for i := range p.mu.producers.rows {
			if row := &p.mu.producers.rows[i]; row.dirty {
				row.dirty = false
				rows = append(rows, rowChange{producerKey(p.id, row.id), row.state.encode(nil)})
			}
		}
		rows = appendAborted(rows, p.id, p.mu.aborted[p.mu.abortedSaved:])
		p.mu.abortedSaved = len(p.mu.aborted)
	}
	return rows
}

// appendAborted encodes aborted transactions, in one row those that end at the same offset: of a partition that was restored, where what was
// lost has their markers.
func appendAborted(rows []rowChange, p record.PartitionID, list []abortedTxn) []rowChange {
	for len(list) > 0 {
		v, last := []byte{streamRowVersion}, list[0].last
		for ; len(list) > 0 && list[0].last == last; list = list[1:] {
			v = binary.AppendUvarint(v, uint64(list[0].producer))
			v = binary.AppendUvarint(v, uint64(list[0].first))
		}
		rows = append(rows, rowChange{abortedKey(p, last), v})
	}
	return rows
}

// streamAgainLocked takes back a row that the store did not take.
func (s *shard) streamAgainLocked(c *rowChange) {
	id := record.PartitionID(binary.BigEndian.Uint64(c.key[1:]))
	p := s.home.b.partition(id)
	if c.key[0] == rowRelayed && p != nil {
		p.mu.relayedSaved = true
		p.touchLocked()
		return
	}
	if c.key[0] == rowLogStart || c.key[0] == rowRelayed {
		if c.value != nil && p != nil {
			p.mu.moved = true
			p.touchLocked()
		} else {
			s.mu.rows.goneKeys = append(s.mu.rows.goneKeys, c.key)
		}
		return
	}
	number := binary.BigEndian.Uint64(c.key[9:])
	switch {
	case p == nil || c.value == nil:
		if p != nil && c.key[0] == rowProducer && p.mu.producers.find(int64(number)) != nil {
			return // it is there again, and dirty
		}
		s.mu.rows.goneKeys = append(s.mu.rows.goneKeys, c.key)
		return
	case c.key[0] == rowAborted:
		p.mu.abortedSaved = 0 // once more all of them: it is not often
	default:
		row := p.mu.producers.find(int64(number))
		if row == nil {
			s.mu.rows.goneKeys = append(s.mu.rows.goneKeys, c.key) // gone meanwhile, and perhaps written all the same
			return
		}
		row.dirty = true
	}
	p.touchLocked()
}

// forgetRowsLocked empties the tables of a partition that is gone.
func (p *Partition) forgetRowsLocked() {
	r := &p.shard.mu.rows
	for i := range p.mu.producers.rows {
		r.goneKeys = append(r.goneKeys, producerKey(p.id, p.mu.producers.rows[i].id))
	}
	r.goneKeys = append(r.goneKeys, key8(rowLogStart, uint64(p.id)), key8(rowRelayed, uint64(p.id)))
	p.shard.home.b.stats.Producers.Add(-int64(len(p.mu.producers.rows)))
	for i := range p.mu.abortedSaved {
		r.goneKeys = append(r.goneKeys, abortedKey(p.id, p.mu.aborted[i].last))
	}
	p.mu.producers, p.mu.open, p.mu.aborted, p.mu.abortedSaved = producerTable{}, nil, nil, 0
	p.mu.moved, p.mu.gone = false, true
	delete(p.shard.mu.joined, p)
}

// encode appends the state's row. Numbers that may be -1 are written one higher.
func (st *producerState) encode(dst []byte) []byte {
	dst = append(dst, streamRowVersion)
	for _, v := range [...]int64{int64(st.epoch), int64(st.coordinator), int64(st.txn)} {
		dst = binary.AppendUvarint(dst, uint64(v+1))
	}
	dst = binary.AppendUvarint(dst, uint64(st.at))
	for i := range st.n {
		b := &st.batches[i]
		dst = binary.AppendUvarint(dst, uint64(b.base))
		dst = binary.AppendUvarint(dst, uint64(b.first))
		dst = binary.AppendUvarint(dst, uint64(b.last))
		dst = binary.AppendUvarint(dst, uint64(b.appendTime+1))
	}
	return dst
}

func decodeProducer(row []byte) (st producerState, ok bool) {
	d := decoder{b: row}
	if d.uvarint() != streamRowVersion {
		return st, false
	}
	st.epoch, st.coordinator = int16(d.uvarint()-1), int32(d.uvarint()-1)
	st.txn = record.Offset(d.uvarint()) - 1
	st.at = int64(d.uvarint())
	for ; len(d.b) > 0; st.n++ {
		if st.n == producerWindow {
			return st, false
		}
		st.batches[st.n] = producerBatch{base: record.Offset(d.uvarint()), first: int32(d.uvarint()), last: int32(d.uvarint()), appendTime: int64(d.uvarint()) - 1}
	}
	return st, d.ok() && st.epoch >= 0
}

// loadStreamRow takes a row in. The partition may come later: the catalog's own checkpoint can be older than the shard's.
func (s *shard) loadStreamRow(b *Broker, kind byte, key, value []byte) bool {
	if len(key) != 16 && (kind != rowLogStart && kind != rowRelayed || len(key) != 8) {
		return false
	}
	id := record.PartitionID(binary.BigEndian.Uint64(key))
	c := rowChange{append([]byte{kind}, key...), append([]byte(nil), value...)}
	if p := b.partition(id); p != nil {
		return p.loadRow(&c)
	}
	if b.strays == nil {
		b.strays = make(map[record.PartitionID][]strayRow)
	}
	b.strays[id] = append(b.strays[id], strayRow{s, c})
	return true
}

// strayRow is a row of a partition that is not known yet.
type strayRow struct {
	s *shard
	c rowChange
}

// claimRows gives a new partition its rows.
func (b *Broker) claimRows(p *Partition) {
	rows := b.strays[p.id]
	delete(b.strays, p.id)
	for i := range rows {
		if !p.loadRow(&rows[i].c) {
			b.logger.Error("checkpoint has a bad row of a partition", "partition", p.id, "key", rows[i].c.key)
		}
	}
}

// dropStrayRows has the next checkpoint delete the rows of partitions that are gone.
func (b *Broker) dropStrayRows() {
	for _, rows := range b.strays {
		for i := range rows {
			s := rows[i].s
			s.mu.Lock()
			s.mu.rows.goneKeys = append(s.mu.rows.goneKeys, rows[i].c.key)
			s.mu.Unlock()
		}
	}
	b.strays = nil
}

// loadRow enters a row of the checkpoint. Rows come in the order of their keys.
func (p *Partition) loadRow(c *rowChange) bool {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	d := decoder{b: c.value}
	version := d.uvarint()
	if c.key[0] == rowLogStart {
		if p.logStart.Store(int64(d.uvarint())); len(d.b) > 0 {
			p.mu.restored = record.Offset(d.uvarint())
		}
		return version == streamRowVersion && d.ok()
	}
	if c.key[0] == rowRelayed {
		p.relayed.Store(int64(d.uvarint()))
		p.mu.relayedSaved = true
		return version == streamRowVersion && d.ok()
	}
	number := binary.BigEndian.Uint64(c.key[9:])
	if c.key[0] == rowAborted {
		for more := true; more; more = len(d.b) > 0 {
			a := abortedTxn{producer: int64(d.uvarint()), first: record.Offset(d.uvarint()), last: record.Offset(number)}
			if version != streamRowVersion || !d.ok() {
				return false
			}
			p.mu.aborted = append(p.mu.aborted, a)
			p.mu.abortedSaved++
		}
		return true
	}
	st, ok := decodeProducer(c.value)
	if !ok {
		return false
	}
	p.addProducerLocked(int64(number)).state = st
	if st.txn != noOffset {
		i := 0
		for i < len(p.mu.open) && p.mu.open[i].first < st.txn {
			i++
		}
		p.mu.open = append(p.mu.open, openTxn{})
		copy(p.mu.open[i+1:], p.mu.open[i:])
		p.mu.open[i] = openTxn{int64(number), st.txn}
	}
	return true
}
