package broker

import (
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// splitBatches leaves in p as many batches as fit in room bytes, at least one, and gives the rest in a list of its own: the log's groups are
// bounded, and a list is applied as a whole. nil: all fit.
func (s *shard) splitBatchesLocked(p *pending, room int) (rest *pending) {
	p.endBatchesLocked()
	n, used := 0, p.size-p.batchBytes
	for ; n < len(p.batches); n++ {
		size := p.batches[n].size()
		if used+size > room && n > 0 {
			break
		}
		used += size
	}
	if n == len(p.batches) {
		return nil
	}
	s.mu.fill = nil
	rest = s.pendingLocked()
	rest.batches = append(rest.batches, p.batches[n:]...)
	clear(p.batches[n:])
	p.batches = p.batches[:n]
	for i := range rest.batches {
		rest.batchBytes += rest.batches[i].size()
	}
	rest.size = rest.batchBytes
	p.batchBytes -= rest.batchBytes
	p.size -= rest.batchBytes
	// What is left in p is copied into the group before anybody adds to the buffer again.
	rest.raw, p.raw = p.raw, rest.raw
	return rest
}

// size is what the batch counts for in its list.
func (pb *pendingBatch) size() int {
	n := len(pb.data)
	if pb.acc != nil {
		n = pb.acc.size
	}
	if n > 0 {
		n += batchCost
	}
	return n
}

// takeBatchesLocked counts the frames that p's batches become.
func (s *shard) takeBatchesLocked(p *pending) {
	p.endBatchesLocked()
	for i := range p.batches {
		if !p.batches[i].duplicate {
			p.frames++
		}
	}
	s.mu.index += uint64(p.frames)
	if p.flown = len(p.batches); p.flown > 0 {
		s.mu.flying = append(s.mu.flying, p)
		s.mu.flyingBatches += p.flown
	}
	s.resumeAppendersLocked()
}

// landedLocked takes p off the lists that are on their way.
func (s *shard) landedLocked(p *pending, flown int) {
	if flown == 0 {
		return
	}
	for i, f := range s.mu.flying {
		if f == p {
			n := copy(s.mu.flying[i:], s.mu.flying[i+1:])
			s.mu.flying[i+n] = nil
			s.mu.flying = s.mu.flying[:i+n]
			s.mu.flyingBatches -= flown
			break
		}
	}
	s.resumeAppendersLocked()
}

// appendBatchFrames appends the frames of p's batches, the first of them with this index, and lets go of their bytes.
func (b *Broker) appendBatchFrames(dst []byte, s *shard, p *pending, index uint64) []byte {
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.duplicate {
			continue
		}
		f := record.Frame{Kind: record.KindRecords, Shard: s.id, Epoch: p.epoch, Index: index, Partition: pb.part.id, Tenant: record.TenantID(pb.part.topic.Spec().Tenant)}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		b.extra = appendBatchExtra(b.extra[:0], pb)
		dst = record.BeginRecordsPayload(dst, b.extra)
		from := len(dst)
		dst = pb.appendData(dst)
		own := record.Batch(dst[from:])
		own.SetBaseOffset(pb.info.base)
		own.SetLeaderEpoch(p.epoch)
		if pb.appendTime >= 0 {
			own.SetMaxTimestamp(pb.appendTime)
		}
		dst = record.FinishFrame(dst, at)
		index++
		pb.letGo()
	}
	b.appending.Add(-int64(p.batchBytes))
	p.batchBytes = 0
	return dst
}

// appendData appends the batch's bytes.
func (pb *pendingBatch) appendData(dst []byte) []byte {
	if pb.acc == nil {
		return append(dst, pb.data...)
	}
	batch := pb.acc.finish()
	cfg := &pb.part.topic.Spec().Config
	if !cfg.Recompress || cfg.Compress.Codec == record.Uncompressed {
		return append(dst, batch...)
	}
	from := len(dst)
	dst = compress.AppendBatch(dst, cfg.Compress, batch)
	pb.info.size = int32(len(dst) - from)
	return dst
}

// letGo drops the batch's bytes.
func (pb *pendingBatch) letGo() {
	if pb.held != nil {
		pb.held.Release()
	}
	pb.data, pb.held = nil, nil
}

// applyBatches makes what was committed visible. The home loop calls it, under applying.
func (l *Local) applyBatches(s *shard, p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.duplicate {
			continue
		}
		pb.part.applyBatchLocked(&pb.info, pb.appendTime, true)
		if pb.acc != nil {
			for _, t := range pb.acc.taken {
				s.addReceivedLocked(t.session, t.packetID)
			}
		}
	}
	for i := range p.batches {
		p.batches[i].part.wokenLocked(false, l.wakeFn)
	}
}

// applyBatchLocked takes in a committed batch; recovery calls it as well. live says that it came by Append on this run.
func (p *Partition) applyBatchLocked(in *batchInfo, appendTime int64, live bool) {
	if p.mu.gone {
		return
	}
	end := in.last + 1
	if in.producer != record.NoProducer {
		p.applyProducerLocked(in, appendTime, live)
	}
	p.mu.next = max(p.mu.next, end)
	p.highWatermark.Store(int64(end))
	p.bytes.Add(int64(in.size))
	p.lastStable.Store(int64(p.stableLocked()))
	if p.open.Load() != nil {
		p.touchLocked()
	}
}

// replayBatch applies a frame of a stream that the log holds beyond the checkpoint.
func (s *shard) replayBatch(b *Broker, f *record.Frame, batch record.Batch) {
	p := b.partition(f.Partition)
	if p == nil || p.shard != s {
		return // its topic is gone
	}
	extra, ok := readBatchExtra(record.FrameExtra(f.Payload))
	if !ok {
		extra.at = batch.MaxTimestamp()
	}
	appendTime := int64(-1)
	if batch.Attributes()&record.LogAppendTime != 0 {
		appendTime = batch.MaxTimestamp()
	}
	in := infoOf(batch, batch.BaseOffset(), extra.at)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range extra.taken {
		s.addReceivedLocked(t.session, t.packetID)
	}
	switch {
	case extra.relayed != notRelayed:
		p.relayed.Store(max(p.relayed.Load(), extra.relayed))
		p.touchLocked()
	case p.relayed.Load() != notRelayed && ok: // it was not bound any more: what was written then is not for subscribers, whatever binds it now
		p.relayed.Store(notRelayed)
		p.touchLocked()
	}
	p.applyBatchLocked(&in, appendTime, false)
	p.wokenLocked(false, s.home.wakeFn) // of a follower's readers; at recovery there are none yet
}

// deliverBatches answers the appenders, once all of a commit is visible, and has MQTT subscribers get what is theirs. It counts the publishers
// that were answered.
func (l *Local) deliverBatches(p *pending) (acked uint64) {
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.acc != nil {
			acked += l.answerWaiters(pb, nil)
		}
		if pb.done != nil {
			pb.done(nil)
		}
		if pb.app != nil {
			l.appended(pb.app, pb.tok, AppendResult{Base: pb.info.base, AppendTime: pb.appendTime, LogStart: pb.part.LogStart()})
		}
		if pb.part.open.Load() != nil {
			l.relayPartition(pb.part)
		}
	}
	return acked
}

// answerWaiters answers the publishers of a batch that came record by record, and lets go of it.
func (l *Local) answerWaiters(pb *pendingBatch, err error) (acked uint64) {
	for _, w := range pb.acc.waiters {
		l.complete(w.c, Result{Token: w.tok, Err: err, Matched: err == nil, Trace: w.trace})
		acked++
	}
	pb.acc.free()
	pb.acc = nil
	return acked
}

// rollBackLocked takes back the places of batches that the log does not take: those of the list that failed and, so that nothing comes
// behind a gap, those of the list that collects. Whoever is told of it later may have sent its batch again by then, and finds its place free.
func (s *shard) rollBackLocked(p *pending) {
	s.mu.index -= p.took
	p.took = 0
	s.rollBackBatchesLocked(p)
	if s.rep != nil {
		s.rep.lostLocked(s, p)
	}
}

func (s *shard) rollBackBatchesLocked(p *pending) {
	if f := s.mu.fill; f != nil && f != p && len(f.batches) > 0 {
		f.endBatchesLocked()
		f.size -= f.batchBytes
		s.home.b.appending.Add(-int64(f.batchBytes))
		f.batchBytes = 0
		p.batches = append(p.batches, f.batches...)
		clear(f.batches)
		f.batches, f.raw = f.batches[:0], f.raw[:0]
	}
	s.home.b.appending.Add(-int64(p.batchBytes))
	p.batchBytes = 0
	for i := len(p.batches) - 1; i >= 0; i-- {
		pb := &p.batches[i]
		pb.letGo()
		pb.failed = true
		if !pb.duplicate {
			pb.part.mu.next = min(pb.part.mu.next, pb.info.base)
			if until := pb.part.until.Load(); until > int64(pb.part.mu.next) {
				pb.part.until.Store(int64(pb.part.mu.next)) // what takes its place is not bound
			}
		}
	}
	s.unexpectProducersLocked(p.batches)
}

// failBatches answers those whose batches could not be written. The tables never saw them.
func (l *Local) failBatches(p *pending, err error) {
	for i := range p.batches {
		pb := &p.batches[i]
		if pb.acc != nil {
			l.answerWaiters(pb, err)
		}
		if pb.done != nil {
			pb.done(err)
		}
		if pb.app != nil {
			res := AppendResult{Err: err, Base: -1, AppendTime: -1, LogStart: -1}
			if in := &pb.info; in.producer != record.NoProducer {
				res.Failed = &FailedBatch{Partition: pb.part, Producer: in.producer, Epoch: in.epoch, First: in.first}
			}
			pb.app.failing.Add(1)
			l.appended(pb.app, pb.tok, res)
		}
	}
}

// appended tells an appender, on whatever loop it lives.
func (l *Local) appended(a *Appender, t Token, r AppendResult) {
	l.acks[a.local.id] = append(l.acks[a.local.id], post{kind: postAppended, app: a, res: Result{Token: t}, appended: r})
	if a.local == l {
		l.kick()
	}
}
