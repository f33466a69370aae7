package broker

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/sluicemq/sluice/journal/record"
)

// openTxn is a transaction of a partition that is not decided. Guarded by the shard's lock.
type openTxn struct {
	producer int64
	first    record.Offset
}

// abortedTxn is one that is: readers of committed records leave its records out. Guarded by the shard's lock.
type abortedTxn struct {
	producer    int64
	first, last record.Offset // last is the marker's
}

// applyTxnLocked opens or ends the transaction of a committed batch's producer; before and after are where it begins.
func (p *Partition) applyTxnLocked(in *batchInfo, before, after record.Offset) {
	switch before {
	case after:
		return
	case noOffset:
		p.mu.open = append(p.mu.open, openTxn{in.producer, after}) // offsets rise, so the list is in order
		return
	}
	if i := slices.Index(p.mu.open, openTxn{in.producer, before}); i >= 0 {
		p.mu.open = slices.Delete(p.mu.open, i, i+1)
	}
	if len(p.mu.open) == 0 {
		p.mu.open = nil
	}
	if in.kind == batchAbort {
		p.mu.aborted = append(p.mu.aborted, abortedTxn{in.producer, before, in.last})
		p.touchLocked()
	}
}

// stableLocked is behind the last record whose transaction is decided.
func (p *Partition) stableLocked() record.Offset {
	end := p.HighWatermark()
	if len(p.mu.open) > 0 {
		end = min(end, p.mu.open[0].first)
	}
	return end
}

// abortedBetween adds the transactions that a reader of committed records from one offset to another leaves out, by where they begin.
func (p *Partition) abortedBetween(dst []AbortedTxn, from, to record.Offset) []AbortedTxn {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	list := p.mu.aborted
	for i := sort.Search(len(list), func(i int) bool { return list[i].last >= from }); i < len(list); i++ {
		if a := &list[i]; a.first < to {
			dst = append(dst, AbortedTxn{ProducerID: a.producer, First: a.first})
		}
	}
	slices.SortFunc(dst, func(a, b AbortedTxn) int { return cmp.Compare(a.First, b.First) })
	return dst
}

// trimAbortedLocked forgets the aborted transactions that lie before the log start.
func (p *Partition) trimAbortedLocked(start record.Offset) {
	n := sort.Search(len(p.mu.aborted), func(i int) bool { return p.mu.aborted[i].last >= start })
	if n == 0 {
		return
	}
	for i := range min(n, p.mu.abortedSaved) {
		p.shard.mu.rows.goneKeys = append(p.shard.mu.rows.goneKeys, abortedKey(p.id, p.mu.aborted[i].last))
	}
	p.mu.abortedSaved -= min(n, p.mu.abortedSaved)
	p.mu.aborted = append([]abortedTxn(nil), p.mu.aborted[n:]...)
}

// announceTxn lets a producer's transactional batches in, until the transaction's end is appended.
func (p *Partition) announceTxn(producer int64, epoch int16) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	if !p.mu.gone {
		p.announceTxnLocked(producer, epoch)
	}
}

func (p *Partition) announceTxnLocked(producer int64, epoch int16) {
	r := p.mu.producers.find(producer)
	if r == nil {
		r = p.addProducerLocked(producer)
	}
	r.announced = epoch
}

// appendMarker ends a transaction on a partition, behind all batches that were appended before. done runs on the partition's home loop when
// it is in the log.
func (b *Broker) appendMarker(p *Partition, producer int64, epoch int16, commit bool, done func(error)) {
	if err := b.streamable(); err != nil {
		done(err)
		return
	}
	now := b.nowMilli()
	pb := markerOn(p, markerBatch(producer, epoch, commit, now), now, done)
	s := p.shard
	s.mu.Lock()
	if p.topic.Dropped() {
		s.mu.Unlock()
		done(nil)
		return
	}
	if !s.leadsLocked() {
		s.mu.Unlock()
		done(ErrNotLeader)
		return
	}
	s.placeMarker(&pb)
}

func markerOn(p *Partition, marker record.Batch, now int64, done func(error)) pendingBatch {
	return pendingBatch{part: p, done: done, data: marker, appendTime: -1, info: infoOf(marker, 0, now)}
}

// placeMarker puts a marker into the pending list, and lets go of the shard's lock.
func (s *shard) placeMarker(pb *pendingBatch) {
	s.placeLocked(pb)
	pb.part.expectProducerLocked(&pb.info, -1)
	s.home.addBatch(s, s.pendingLocked(), pb)
}

// WriteMarker ends a transaction that a producer has open on a partition, whatever its coordinator thinks of it. Where none is open there is
// nothing to do. done runs on some loop.
func (b *Broker) WriteMarker(p *Partition, who ProducerIdentity, commit bool, done func(error)) {
	s := p.shard
	s.mu.Lock()
	r := p.mu.producers.find(who.ID)
	open, fenced := false, false
	if r != nil {
		open, fenced = r.state.txn != noOffset, who.Epoch < r.state.epoch
	}
	s.mu.Unlock()
	switch {
	case fenced:
		done(ErrInvalidProducerEpoch)
	case !open:
		done(nil)
	default:
		b.appendMarker(p, who.ID, who.Epoch, commit, done)
	}
}

// markerBatch makes the control batch that ends a producer's transaction on a partition of a home shard. These are led where the coordinator is: it need not be
// known which one that was.
func markerBatch(producer int64, epoch int16, commit bool, now int64) record.Batch {
	return markerBatchOf(producer, epoch, commit, now, 0)
}

// markerBatchOf bears the epoch of the home shards that the coordinator leads in.
func markerBatchOf(producer int64, epoch int16, commit bool, now int64, coordinator int32) record.Batch {
	var key [markerKeySize]byte
	var value [markerValueSize]byte
	binary.BigEndian.PutUint32(value[2:], uint32(coordinator))
	if commit {
		binary.BigEndian.PutUint16(key[2:], markerCommit)
	}
	var b record.BatchBuilder
	b.Begin(nil, now)
	b.Append(&record.Input{Key: key[:], Value: value[:], Timestamp: now})
	return b.Finish(&record.BatchOptions{
		Attributes: record.Control | record.Transactional,
		Producer:   record.Producer{Known: true, ID: producer, Epoch: epoch, Sequence: record.NoProducer},
	})
}
