package broker

import (
	"fmt"

	"github.com/sluicemq/sluice/journal/record"
)

// takeReplicatedLocked is takePending for a shard that does not lead, or may not go on. done: there is no more to it.
func (b *Broker) takeReplicatedLocked(s *shard, used, max int) (p *pending, left, done bool) {
	r := s.rep
	if r.open && s.mu.fill != nil && len(r.inbound) == 0 && !r.truncating {
		if r.bytes <= leadBytesMax {
			return nil, false, false
		}
		s.mu.dirty = false // until the followers have come on
		return nil, false, true
	}
	if len(r.inbound) == 0 && !r.truncating && !r.mark {
		s.mu.dirty = s.mu.fill != nil
		return nil, s.mu.dirty, true
	}
	room := max - used - 2*groupSlack
	n := 0
	for n < len(r.inbound) {
		size, err := record.FrameSize(r.inbound[n:])
		if err != nil || n+size > room && (n > 0 || used > 0) {
			break
		}
		n += size
	}
	if n == 0 && len(r.inbound) > 0 && used > 0 {
		return nil, true, true
	}
	p = s.pendingLocked()
	s.mu.fill = nil
	p.verbatim, p.epoch, p.gen = true, r.epoch, r.gen
	if n == len(r.inbound) {
		p.kept, r.inbound = r.inbound, p.kept[:0]
	} else {
		p.kept = append(p.kept[:0], r.inbound[:n]...)
		r.inbound = r.inbound[:copy(r.inbound, r.inbound[n:])]
	}
	p.truncates, p.truncTo = r.truncating, r.truncTo
	r.truncating = false
	s.mu.unapplied++
	left = len(r.inbound) > 0
	s.mu.dirty = left
	return p, left, true
}

// sealReplicated is sealPending for a replicated shard: its list keeps a copy of the frames.
func (b *Broker) sealReplicated(dst []byte, s *shard, p *pending) []byte {
	at := len(dst)
	if p.verbatim {
		if p.truncates {
			f := record.Frame{Kind: record.KindTruncate, Shard: s.id, Epoch: p.epoch, Index: p.truncTo}
			s.mu.Lock()
			f.Payload = record.AppendEnds(nil, s.rep.endsLocked(p.truncTo))
			s.mu.Unlock()
			dst = record.AppendFrame(dst, &f)
		}
		dst = append(dst, p.kept...)
	} else {
		dst = b.sealFrames(dst, s, p)
		p.kept = append(p.kept[:0], dst[at:]...)
	}
	now := b.clock.Mono()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rep
	r.since += len(dst) - at
	if r.hw <= r.marked || !r.mark && now-r.markedAt < markEvery && r.since < markBytes {
		r.mark = false
		return dst
	}
	r.marked, r.markedAt, r.since, r.mark = r.hw, now, 0, false
	return record.AppendFrame(dst, &record.Frame{Kind: record.KindWatermark, Flags: record.FlagSkippable, Shard: s.id, Epoch: r.epoch, Index: r.hw})
}

// endsLocked are the partitions with records above index in what the log has beyond the tables, and where they end without those. No group is on
// its way.
func (r *replica) endsLocked(index uint64) (ends []record.PartitionEnd) {
	at := make(map[record.PartitionID]int)
	for i := range r.lists {
		eachFrame(r.lists[i].p.kept, func(f *record.Frame) {
			if f.Index <= index || f.Index > r.lists[i].last || f.Kind != record.KindRecords {
				return
			}
			base := record.Batch(record.FrameBatch(f.Payload)).BaseOffset()
			k, ok := at[f.Partition]
			if !ok {
				at[f.Partition] = len(ends)
				ends = append(ends, record.PartitionEnd{Partition: f.Partition, End: base})
				return
			}
			ends[k].End = min(ends[k].End, base)
		})
	}
	return ends
}

func eachFrame(b []byte, fn func(f *record.Frame)) {
	for len(b) > 0 {
		f, n, err := record.ViewFrame(b)
		if err != nil {
			return
		}
		fn(&f)
		b = b[n:]
	}
}

// replicatedDurable takes a list that is in the log now. The committer calls it.
func (b *Broker) replicatedDurable(s *shard, p *pending, before, end Place) {
	s.mu.Lock()
	r := s.rep
	var dropped []*pending
	if p.truncates {
		dropped = r.cutLists(p.truncTo)
	}
	w := waitingList{p: p, before: before, end: end}
	if p.verbatim {
		if w.next, w.last = p.bounds(); w.next == 0 { // it has none
			if w.last = r.durable; p.truncates {
				w.last = p.truncTo
			} else if n := len(r.lists); n > 0 {
				w.last = r.lists[n-1].last
			}
			w.next = w.last + 1
		}
	} else {
		w.next, w.last = p.index-p.took+1, p.index
	}
	if p.gen == r.gen && (p.truncates || len(p.kept) > 0) {
		r.durable = w.last
	}
	r.lists = append(r.lists, w)
	r.bytes += len(p.kept)
	r.look = r.look || !p.verbatim && (p.early || r.role != RoleLeader || p.epoch != r.epoch)
	b.advance(s)
	for _, old := range dropped {
		s.home.post(post{kind: postFailed, s: s, p: old, err: ErrNotLeader})
	}
}

// bounds are the indexes of the first and last of a list's frames; 0: it has none.
func (p *pending) bounds() (first, last uint64) {
	eachFrame(p.kept, func(f *record.Frame) {
		if first == 0 {
			first = f.Index
		}
		last = f.Index
	})
	return first, last
}

// cutLists has the lists end with a frame, and answers those of which nothing is left.
func (r *replica) cutLists(index uint64) (dropped []*pending) {
	for n := len(r.lists); n > 0 && r.lists[n-1].last > index; n-- {
		w := &r.lists[n-1]
		if w.next <= index {
			w.last, w.cut = index, true
			break
		}
		r.bytes -= len(w.p.kept)
		dropped = append(dropped, w.p)
		r.lists = r.lists[:n-1]
	}
	return dropped
}

// lostLocked takes back what was on its way into the log when a group failed, p among it: whoever sent it sends it again.
func (r *replica) lostLocked(s *shard, p *pending) {
	if p != nil && p.truncates && (!r.truncating || p.truncTo < r.truncTo) { // one that was asked for since goes deeper
		r.truncating, r.truncTo = true, p.truncTo
	}
	if r.role == RoleFollower {
		r.synced = false // Options.Lost: nothing else would ask for it, if nothing comes behind it
	}
	r.inbound = r.inbound[:0]
	if s.mu.index = r.durable; r.truncating {
		s.mu.index = r.truncTo
	}
	r.cutEpochs(s.mu.index)
	if r.role == RoleLeader && !r.open {
		r.claimLocked(s)
	}
}

// claimLocked makes the frame with which a leader begins its epoch.
func (r *replica) claimLocked(s *shard) {
	s.mu.index++
	r.claim = s.mu.index
	r.inbound = record.AppendFrame(r.inbound, &record.Frame{Kind: record.KindCommand, Shard: s.id, Epoch: r.epoch, Index: r.claim})
	r.began(r.epoch, r.claim)
}

// applyReplicated applies what the high watermark has passed. The shard's home loop calls it.
func (l *Local) applyReplicated(s *shard) {
	r := s.rep
	s.mu.Lock()
	r.posted, r.look = false, false
	s.mu.Unlock()
	l.disownStale(s)
	for l.applyNext(s) {
		continue
	}
	s.mu.Lock()
	opens := r.role == RoleLeader && !r.open && s.mu.applied >= r.claim && r.claim > 0
	again := r.open && s.mu.fill != nil && !s.mu.dirty && r.bytes <= leadBytesMax && s.markDirtyLocked()
	s.mu.Unlock()
	if opens {
		l.openShard(s)
	}
	if again {
		l.b.dirtyShard(s)
	}
	if fn := l.b.opts.ShardMoved; fn != nil {
		fn(s.id)
	}
}

// disownStale answers those who wait for lists of a leader that this node is no more, and those who wait for its own log alone.
func (l *Local) disownStale(s *shard) {
	var stale, early []*pending
	s.mu.Lock()
	for i := range s.rep.lists {
		switch p := s.rep.lists[i].p; {
		case p.verbatim:
		case s.rep.role != RoleLeader || p.epoch != s.rep.epoch:
			stale = append(stale, p)
		case p.early:
			p.early = false
			early = append(early, p)
		}
	}
	s.mu.Unlock()
	for _, p := range stale {
		l.disown(s, p)
	}
	for _, p := range early {
		l.answerEarly(p)
	}
}

// disown answers those who wait for a list that is in the log. What becomes of it is the next leader's.
func (l *Local) disown(s *shard, p *pending) {
	for i := range p.entries {
		l.failEntry(&p.entries[i], ErrNotLeader)
	}
	if len(p.batches) > 0 {
		l.failBatches(p, ErrNotLeader)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landedLocked(p, p.flown)
	clear(p.entries)
	clear(p.batches)
	p.entries, p.batches, p.flown, p.since, p.verbatim = p.entries[:0], p.batches[:0], 0, 0, true
}

// answerEarly answers those who asked for the leader's own log alone (acks=1).
func (l *Local) answerEarly(p *pending) {
	for i := range p.batches {
		if pb := &p.batches[i]; pb.early && pb.app != nil {
			l.appended(pb.app, pb.tok, AppendResult{Base: pb.info.base, AppendTime: pb.appendTime, LogStart: pb.part.LogStart()})
			pb.app = nil
		}
	}
}

// applyNext applies the first list, or what it may of it, and says whether that was all of it.
func (l *Local) applyNext(s *shard) (more bool) {
	r := s.rep
	s.mu.Lock()
	if len(r.lists) == 0 {
		s.mu.Unlock()
		return false
	}
	w := r.lists[0]
	if !w.p.verbatim && w.last > r.hw {
		s.mu.Unlock()
		return false
	}
	if !w.p.verbatim {
		r.popLocked()
		s.mu.Unlock()
		l.apply(s, w.p, w.end)
		return true
	}
	until := min(w.last, r.hw)
	s.mu.Unlock()
	if err := l.b.applyVerbatim(s, &w, until); err != nil {
		l.b.logger.Error("a frame of the log cannot be applied; the shard stands still", "shard", s.id, "err", err)
		return false
	}
	s.mu.Lock()
	head := &r.lists[0] // the committer may have cut its end
	head.next, head.off = w.next, w.off
	whole := head.next > head.last
	if whole {
		s.mu.place = w.end
		r.popLocked()
	}
	s.mu.Unlock()
	if whole {
		s.recycle(w.p)
	}
	return whole
}

// popLocked takes the first list off.
func (r *replica) popLocked() {
	r.bytes -= len(r.lists[0].p.kept)
	n := copy(r.lists, r.lists[1:])
	r.lists[n] = waitingList{}
	r.lists = r.lists[:n]
}

// known says whether the frame's partition has been made, and be it that it is gone again: it is made by shard 0, whose frames come in an order of
// their own. What comes before its partition waits.
func (b *Broker) known(f *record.Frame) bool {
	if f.Kind != record.KindRecords || f.Partition <= record.PartitionID(len(b.homes)) || b.partition(f.Partition) != nil {
		return true
	}
	s := b.homes[0]
	s.mu.Lock()
	known := f.Partition < s.mu.nextPartition
	s.mu.Unlock()
	if !known {
		b.met(f.Partition)
	}
	return known
}

// kickReplicas has all shards look again whether they can go on.
func (b *Broker) kickReplicas() {
	if !b.opts.Replicated || b.recovering {
		return
	}
	for _, s := range b.shards {
		s.mu.Lock()
		if s.set > 0 && len(s.rep.lists) == 0 { // as long as there are no sets: nothing waits
			s.mu.Unlock()
			continue
		}
		b.advance(s)
	}
}

// applyVerbatim applies frames as recovery does, up to an index, and moves w behind them. It stops early before records of a partition that is not
// known yet.
func (b *Broker) applyVerbatim(s *shard, w *waitingList, until uint64) error {
	if w.next > until {
		return nil
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	for w.next <= until {
		f, n, err := record.ViewFrame(w.p.kept[w.off:])
		if err != nil {
			return fmt.Errorf("frame %d of shard %d: %w", w.next, s.id, err)
		}
		if !b.known(&f) {
			return nil
		}
		if err := b.applyFrame(s, &f); err != nil {
			return err
		}
		w.off += n
		w.next = f.Index + 1
		s.mu.Lock()
		s.mu.applied, s.mu.place = f.Index, w.before
		s.settleEndedLocked()
		s.mu.Unlock()
	}
	return nil
}

// replayReplicated takes a frame of the log at recovery: the tables go as far as the log says that the high watermark went, the rest waits.
func (b *Broker) replayReplicated(s *shard, f *record.Frame, before, end Place) error {
	r := s.rep
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.Kind {
	case record.KindWatermark:
		r.hw = max(r.hw, f.Index)
		r.marked = r.hw
		return b.replayUntilLocked(s)
	case record.KindTruncate:
		for _, p := range r.cutLists(f.Index) {
			p.reset()
			s.mu.unapplied--
		}
		r.cutEpochs(max(f.Index, s.mu.applied))
		s.mu.index, r.durable = f.Index, f.Index
		return nil
	default: // the shard's own
	}
	s.mu.index, r.durable = f.Index, f.Index
	if f.Index <= s.mu.applied {
		return nil
	}
	r.began(f.Epoch, f.Index)
	n := len(r.lists)
	if n == 0 || r.lists[n-1].cut || r.lists[n-1].last+1 != f.Index || len(r.lists[n-1].p.kept) > pendingBytesMax {
		p := new(pending)
		p.verbatim = true
		r.lists = append(r.lists, waitingList{p: p, before: before, next: f.Index})
		s.mu.unapplied++
		n++
	}
	w := &r.lists[n-1]
	from := len(w.p.kept)
	w.p.kept = record.AppendFrame(w.p.kept, f)
	w.last, w.end = f.Index, end
	r.bytes += len(w.p.kept) - from
	return b.replayUntilLocked(s)
}

// replayUntilLocked applies what lies below the high watermark. It lets go of the lock meanwhile.
func (b *Broker) replayUntilLocked(s *shard) error {
	r := s.rep
	for len(r.lists) > 0 && r.lists[0].next <= r.hw {
		w := &r.lists[0]
		until := min(w.last, r.hw)
		s.mu.Unlock()
		err := b.applyVerbatim(s, w, until)
		s.mu.Lock()
		if err != nil {
			return err
		}
		if w.next <= w.last {
			break
		}
		s.mu.place = w.end
		r.popLocked()
		s.mu.unapplied--
	}
	return nil
}

// endOf is where a partition ends without what waits for the high watermark. At recovery.
func (r *replica) endOf(id record.PartitionID, end record.Offset) record.Offset {
	if r == nil {
		return end
	}
	for i := range r.lists {
		w := &r.lists[i]
		eachFrame(w.p.kept[w.off:], func(f *record.Frame) {
			if f.Kind == record.KindRecords && f.Partition == id && f.Index <= w.last {
				end = min(end, record.Batch(record.FrameBatch(f.Payload)).BaseOffset())
			}
		})
	}
	return end
}
