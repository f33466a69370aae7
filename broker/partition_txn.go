package broker

import (
	"encoding/binary"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
)

// openTxn is a transaction that has been announced on a partition. first is its first record's offset, -1 while it has none.
type openTxn struct {
	producer int64
	epoch    int16
	first    record.Offset
}

// abortedTxn is one that was aborted: its records lie from first to the marker at last.
type abortedTxn struct {
	producer    int64
	first, last record.Offset
}

// partitionTxns is what a partition knows of transactions; made with the first.
type partitionTxns struct {
	open    []openTxn
	aborted []abortedTxn // by last
}

func (p *Partition) openTxnLocked(producer int64) *openTxn {
	if p.mu.txns == nil {
		return nil
	}
	i := slices.IndexFunc(p.mu.txns.open, func(t openTxn) bool { return t.producer == producer })
	if i < 0 {
		return nil
	}
	return &p.mu.txns.open[i]
}

// announceTxn lets a producer's transactional batches in.
func (p *Partition) announceTxn(producer int64, epoch int16) {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := p.openTxnLocked(producer); t != nil {
		t.epoch = epoch
		return
	}
	if p.mu.txns == nil {
		p.mu.txns = &partitionTxns{}
	}
	p.mu.txns.open = append(p.mu.txns.open, openTxn{producer: producer, epoch: epoch, first: -1})
}

// lastStableLocked is behind the last record whose transaction is decided.
func (p *Partition) lastStableLocked() record.Offset {
	end := p.mu.highWatermark
	if p.mu.txns == nil {
		return end
	}
	for i := range p.mu.txns.open {
		if f := p.mu.txns.open[i].first; f >= 0 {
			end = min(end, f)
		}
	}
	return end
}

// abortedBetween adds the transactions that a reader of committed records leaves out of f's batches.
func (p *Partition) abortedBetween(from record.Offset, f *StreamFetch) {
	if len(f.Batches) == 0 {
		return
	}
	end := record.Batch(f.Batches[len(f.Batches)-1]).NextOffset()
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	if p.mu.txns == nil {
		return
	}
	list := p.mu.txns.aborted
	i, _ := slices.BinarySearchFunc(list, from, func(a abortedTxn, o record.Offset) int { return int(a.last - o) })
	for ; i < len(list); i++ {
		if list[i].first < end {
			f.Aborted = append(f.Aborted, AbortedTxn{ProducerID: list[i].producer, First: list[i].first})
		}
	}
}

// applyTxnLocked brings the partition's transactions to where a committed batch leaves them.
func (p *Partition) applyTxnLocked(b record.Batch) {
	a := b.Attributes()
	if a&record.Transactional == 0 {
		return
	}
	if p.mu.txns == nil {
		p.mu.txns = &partitionTxns{}
	}
	t := p.openTxnLocked(b.ProducerID())
	if a&record.Control == 0 {
		if t == nil {
			p.mu.txns.open = append(p.mu.txns.open, openTxn{producer: b.ProducerID(), epoch: b.ProducerEpoch(), first: b.BaseOffset()})
		} else if t.first < 0 {
			t.first = b.BaseOffset()
		}
		mark(&p.shard.mu.rows.txns, p.id)
		return
	}
	if t == nil {
		return
	}
	if t.first >= 0 && !commitMarker(b) {
		p.mu.txns.aborted = append(p.mu.txns.aborted, abortedTxn{t.producer, t.first, b.BaseOffset()})
	}
	p.mu.txns.open = slices.DeleteFunc(p.mu.txns.open, func(o openTxn) bool { return o.producer == b.ProducerID() })
	mark(&p.shard.mu.rows.txns, p.id)
}

// Types of control records.
const (
	markerAbort  = 0
	markerCommit = 1
)

// commitMarker tells whether a control batch commits its producer's transaction.
func commitMarker(b record.Batch) bool {
	it := b.Records()
	if !it.Next() {
		return false
	}
	k := it.Record().Key
	return len(k) >= 4 && binary.BigEndian.Uint16(k[2:]) == markerCommit
}

// markerBatch makes the control batch that ends a producer's transaction on a partition.
func markerBatch(producer int64, epoch int16, commit bool, now int64) record.Batch {
	kind := byte(markerAbort)
	if commit {
		kind = markerCommit
	}
	var b record.BatchBuilder
	b.Begin(nil, now)
	b.Append(&record.Input{Key: []byte{0, 0, 0, kind}, Value: []byte{0, 0, 0, 0, 0, 0}, Timestamp: now})
	out := b.Finish(&record.BatchOptions{Attributes: record.Transactional | record.Control,
		Producer: record.Producer{Known: true, ID: producer, Epoch: epoch, Sequence: record.NoProducer}})
	return record.Batch(out)
}

// appendMarker ends a transaction on a partition. done runs on the partition's home loop when it is in the log.
func (b *Broker) appendMarker(p *Partition, producer int64, epoch int16, commit bool, done func(error)) {
	if err := b.writable(); err != nil {
		done(err)
		return
	}
	marker := markerBatch(producer, epoch, commit, b.nowMilli())
	s := p.shard
	s.mu.Lock()
	if p.topic.Dropped() {
		s.mu.Unlock()
		done(nil)
		return
	}
	f := s.pendingLocked()
	pb := pendingBatch{part: p, done: done, at: len(f.raw), n: len(marker), base: p.mu.next, last: p.mu.next, appendTime: -1}
	f.raw = append(f.raw, marker...)
	record.Batch(f.raw[pb.at:]).SetBaseOffset(pb.base)
	p.mu.next++
	s.home.addBatch(s, f, &pb)
}

// rowTxns is a partition's row: open transactions, then aborted ones.
func (t *partitionTxns) encode(dst []byte) []byte {
	n := 0
	for i := range t.open {
		if t.open[i].first >= 0 {
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for i := range t.open {
		o := &t.open[i]
		if o.first < 0 {
			continue // the coordinator announces it again
		}
		dst = binary.AppendUvarint(dst, uint64(o.producer))
		dst = binary.AppendUvarint(dst, uint64(uint16(o.epoch)))
		dst = binary.AppendUvarint(dst, uint64(o.first))
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.aborted)))
	for i := range t.aborted {
		a := &t.aborted[i]
		dst = binary.AppendUvarint(dst, uint64(a.producer))
		dst = binary.AppendUvarint(dst, uint64(a.first))
		dst = binary.AppendUvarint(dst, uint64(a.last))
	}
	return dst
}

func (d *decoder) partitionTxns() *partitionTxns {
	t := &partitionTxns{}
	for n := d.count(); n > 0 && d.ok(); n-- {
		t.open = append(t.open, openTxn{int64(d.uvarint()), int16(uint16(d.uvarint())), record.Offset(d.uvarint())})
	}
	for n := d.count(); n > 0 && d.ok(); n-- {
		t.aborted = append(t.aborted, abortedTxn{int64(d.uvarint()), record.Offset(d.uvarint()), record.Offset(d.uvarint())})
	}
	return t
}

// collectTxnsLocked encodes what changed of partitions' transactions since the last checkpoint. Those whose records are gone go with them.
func (s *shard) collectTxnsLocked(b *Broker, rows []rowChange) []rowChange {
	for id := range s.mu.rows.txns {
		c := rowChange{key: key8(rowTxns, uint64(id))}
		if p := b.partition(id); p != nil && p.mu.txns != nil {
			if start := b.logStart(p); len(p.mu.txns.aborted) > 0 && p.mu.txns.aborted[0].last < start {
				p.mu.txns.aborted = slices.DeleteFunc(p.mu.txns.aborted, func(a abortedTxn) bool { return a.last < start })
			}
			c.value = p.mu.txns.encode(nil)
		}
		rows = append(rows, c)
	}
	return rows
}

func (s *shard) loadTxnsRow(b *Broker, key, value []byte) bool {
	if len(key) != 8 {
		return false
	}
	d := decoder{b: value}
	t := d.partitionTxns()
	if p := b.partition(record.PartitionID(binary.BigEndian.Uint64(key))); p != nil {
		s.mu.Lock()
		p.mu.txns = t
		s.mu.Unlock()
	}
	return d.ok()
}
