package broker

import (
	"encoding/binary"
	"math"

	"github.com/sluicemq/sluice/journal/record"
)

// producerWindow is how many of a producer's last batches a partition knows: as many as an idempotent producer has under way.
const producerWindow = 5

// producerState is what a partition knows of one idempotent producer (KIP-98). Batches that are on their way into the log are in it
// already; those at or above the high watermark go if the log does not take them.
type producerState struct {
	id      int64
	epoch   int16
	n       int
	batches [producerWindow]producerBatch // oldest first
}

type producerBatch struct {
	epoch       int16
	first, last int32 // sequences
	base        record.Offset
	at          int64 // Unix milliseconds
}

// nextSequence follows s; sequences wrap around at 2^31.
func nextSequence(s int32) int32 {
	if s == math.MaxInt32 {
		return 0
	}
	return s + 1
}

// lastSequence is the sequence of a batch's last record.
func lastSequence(b record.Batch) int32 {
	return int32((int64(b.BaseSequence()) + int64(b.LastOffsetDelta())) % (math.MaxInt32 + 1))
}

// checkProducerLocked looks at a batch of an idempotent producer: a duplicate of one of its last ones, next in order, or refused.
func (p *Partition) checkProducerLocked(b record.Batch, transactional bool) (dup *producerBatch, err error) {
	if b.Attributes()&record.Transactional != 0 {
		t := p.openTxnLocked(b.ProducerID())
		switch {
		case !transactional:
			return nil, ErrInvalidTxnState
		case t == nil || t.epoch < b.ProducerEpoch():
			return nil, ErrTxnNotAnnounced
		case t.epoch > b.ProducerEpoch():
			return nil, ErrInvalidProducerEpoch
		}
	}
	st := p.mu.producers[b.ProducerID()]
	if st == nil {
		return nil, nil
	}
	epoch, first := b.ProducerEpoch(), b.BaseSequence()
	if epoch < st.epoch {
		return nil, ErrInvalidProducerEpoch
	}
	if epoch > st.epoch {
		if first != 0 {
			return nil, ErrOutOfOrderSequence
		}
		return nil, nil
	}
	last := lastSequence(b)
	for i := range st.n {
		if pb := &st.batches[i]; pb.epoch == epoch && pb.first == first && pb.last == last {
			return pb, nil
		}
	}
	if st.n > 0 && st.batches[st.n-1].epoch == epoch && nextSequence(st.batches[st.n-1].last) != first {
		return nil, ErrOutOfOrderSequence
	}
	return nil, nil
}

// noteProducerLocked remembers a batch that has been given its place.
func (p *Partition) noteProducerLocked(b record.Batch, base record.Offset, now int64) {
	if p.mu.producers == nil {
		p.mu.producers = make(map[int64]*producerState)
	}
	id := b.ProducerID()
	st := p.mu.producers[id]
	if st == nil {
		st = &producerState{id: id}
		p.mu.producers[id] = st
	}
	st.epoch = b.ProducerEpoch()
	if st.n == producerWindow {
		copy(st.batches[:], st.batches[1:])
		st.n--
	}
	st.batches[st.n] = producerBatch{epoch: st.epoch, first: b.BaseSequence(), last: lastSequence(b), base: base, at: now}
	st.n++
}

// applyProducerLocked brings the table to where a committed batch leaves it: live it is there already, at recovery it comes from here.
func (p *Partition) applyProducerLocked(b record.Batch) {
	mark(&p.shard.mu.rows.producers, producerKey{p.id, b.ProducerID()})
	if b.Attributes()&record.Control != 0 {
		return
	}
	if st := p.mu.producers[b.ProducerID()]; st != nil {
		for i := range st.n {
			if st.batches[i].base == b.BaseOffset() {
				return
			}
		}
		if st.n > 0 && st.batches[st.n-1].base > b.BaseOffset() {
			return // it has left the window since
		}
	}
	p.noteProducerLocked(b, b.BaseOffset(), b.MaxTimestamp())
}

// forgetPendingLocked takes back what was noted of batches that the log did not take.
func (p *Partition) forgetPendingLocked() {
	for id, st := range p.mu.producers {
		for st.n > 0 && st.batches[st.n-1].base >= p.mu.highWatermark {
			st.n--
		}
		if st.n == 0 {
			delete(p.mu.producers, id)
			continue
		}
		st.epoch = st.batches[st.n-1].epoch
	}
}

// producerKey names a producer's row.
type producerKey struct {
	partition record.PartitionID
	producer  int64
}

// collectProducersLocked encodes what changed of producers since the last checkpoint: batches that are committed.
func (s *shard) collectProducersLocked(b *Broker, rows []rowChange) []rowChange {
	for k := range s.mu.rows.producers {
		c := rowChange{key: binary.BigEndian.AppendUint64(key8(rowProducer, uint64(k.partition)), uint64(k.producer))}
		if p := b.partition(k.partition); p != nil {
			if st := p.mu.producers[k.producer]; st != nil {
				c.value = st.encode(nil, p.mu.highWatermark)
			}
		}
		rows = append(rows, c)
	}
	return rows
}

func (st *producerState) encode(dst []byte, end record.Offset) []byte {
	for i := range st.n {
		b := &st.batches[i]
		if b.base >= end {
			break
		}
		dst = binary.AppendUvarint(dst, uint64(uint16(b.epoch)))
		dst = binary.AppendUvarint(dst, uint64(uint32(b.first)))
		dst = binary.AppendUvarint(dst, uint64(uint32(b.last)))
		dst = binary.AppendUvarint(dst, uint64(b.base))
		dst = binary.AppendUvarint(dst, uint64(b.at))
	}
	return dst
}

func (s *shard) loadProducerRow(b *Broker, key, value []byte) bool {
	if len(key) != 16 {
		return false
	}
	p := b.partition(record.PartitionID(binary.BigEndian.Uint64(key)))
	if p == nil {
		return true // its topic is gone
	}
	st := &producerState{id: int64(binary.BigEndian.Uint64(key[8:]))}
	for d := (decoder{b: value}); len(d.b) > 0; st.n++ {
		if st.n == producerWindow {
			return false
		}
		st.batches[st.n] = producerBatch{epoch: int16(uint16(d.uvarint())), first: int32(uint32(d.uvarint())), last: int32(uint32(d.uvarint())),
			base: record.Offset(d.uvarint()), at: int64(d.uvarint())}
		if !d.ok() {
			return false
		}
		st.epoch = st.batches[st.n].epoch
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.mu.producers == nil {
		p.mu.producers = make(map[int64]*producerState)
	}
	p.mu.producers[st.id] = st
	return true
}
