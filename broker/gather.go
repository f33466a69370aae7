package broker

import (
	"fmt"

	"github.com/sluicemq/sluice/journal/record"
)

// gathered is one shard's part of the group that the committer is writing.
type gathered struct {
	s *shard
	p *pending
}

// Gather appends the frames of all pending lists to dst, at most max bytes unless a single list is larger. The committer
// calls it.
func (b *Broker) Gather(dst []byte, max int) (out []byte, more bool) {
	if b.reserved.Load() {
		b.reserved.Store(false)
	}
	if b.noRoom.Load() {
		b.noRoom.Store(false)
	}
	return b.gather(dst, max)
}

func (b *Broker) gather(dst []byte, max int) (out []byte, more bool) {
	b.dirty.Lock()
	list := b.dirty.shards
	b.dirty.shards = b.gatherList[:0]
	b.dirty.Unlock()
	start := len(dst)
	for i, s := range list {
		p, left := b.takePending(s, len(dst)-start, max)
		if p != nil {
			dst = b.sealPending(dst, s, p)
			b.flight = append(b.flight, gathered{s, p})
		}
		if left {
			b.putBack(list[i:])
			more = true
			break
		}
	}
	clear(list)
	b.gatherList = list[:0]
	if len(dst) == start && len(b.flight) > 0 {
		// Nothing that needs the log: there is no group to wait for.
		b.Committed(b.committed())
	}
	return dst, more
}

// GatherUrgent is Gather while the log goes on in what it has set aside for a full disk. From the first such call on, what would fill it
// further is refused: messages, batches, new sessions, subscriptions and topics. What lets go is taken: positions, acknowledgements,
// deletes, the ends of sessions and transactions. What was pending before is written with it. The committer calls it.
func (b *Broker) GatherUrgent(dst []byte, max int) (out []byte, more bool) {
	b.reserved.Store(true)
	b.noRoom.Store(false)
	return b.gather(dst, max)
}

// room says why nothing that takes space can be journaled now, if so. It has the log look again, for only that ends it.
func (b *Broker) room() error {
	if !b.reserved.Load() {
		return nil
	}
	b.log.Wake()
	if err := b.fullBy.Load(); err != nil {
		return *err
	}
	return errReserved
}

var errReserved = fmt.Errorf("%w: the disk is full", ErrUnavailable)

// SetFull says why there is no room while GatherUrgent is called: nil is a full disk. Any goroutine.
func (b *Broker) SetFull(err error) {
	if err == nil {
		b.fullBy.Store(nil)
		return
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	b.fullBy.Store(&err)
}

// groupSlack is what the frames of a list take beside what it counts.
const groupSlack = 3*record.FrameHeaderSize + 128

// takePending swaps out the pending list of s, or as much of it as a group has room for that has used bytes already; nil if that is
// nothing. left: s has more.
func (b *Broker) takePending(s *shard, used, max int) (p *pending, left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rep != nil {
		if p, left, done := b.takeReplicatedLocked(s, used, max); done {
			return p, left
		}
	}
	p = s.mu.fill
	if room := max - used - groupSlack; p.size > room {
		least := p.size - p.batchBytes
		if least == 0 && len(p.batches) > 0 {
			least = p.batches[0].size()
		}
		if used > 0 && least > room {
			return nil, true
		}
		left = s.splitBatchesLocked(p, room) != nil
	}
	if !left {
		s.mu.fill = nil
		s.mu.dirty = false
	}
	s.takeLocked(p)
	return p, left
}

// takeLocked gives the frames that p becomes their indexes, and lets those go on who waited for room.
func (s *shard) takeLocked(p *pending) {
	s.mu.unapplied++
	before := s.mu.index
	if p.records > 0 {
		s.mu.index++
	}
	s.takeBatchesLocked(p)
	if len(p.cmds) > 0 {
		s.mu.index++
	}
	p.index, p.took = s.mu.index, s.mu.index-before
	if s.rep != nil {
		p.epoch, p.gen = s.rep.epoch, s.rep.gen
	}
	if s.mu.waiting != nil {
		for _, c := range s.mu.waiting {
			c.local.post(post{kind: postResume, c: c})
		}
		clear(s.mu.waiting)
		s.mu.waiting = s.mu.waiting[:0]
	}
}

// putBack has the next group begin with what this one had no room for.
func (b *Broker) putBack(rest []*shard) {
	b.dirty.Lock()
	b.dirty.shards = append(b.dirty.shards, rest...) // grows it; then the new ones move behind
	n := len(b.dirty.shards) - len(rest)
	copy(b.dirty.shards[len(rest):], b.dirty.shards[:n])
	copy(b.dirty.shards, rest)
	b.dirty.Unlock()
}

// sealPending finishes the batch and appends the frames of p.
func (b *Broker) sealPending(dst []byte, s *shard, p *pending) []byte {
	if s.rep != nil {
		return b.sealReplicated(dst, s, p)
	}
	return b.sealFrames(dst, s, p)
}

func (b *Broker) sealFrames(dst []byte, s *shard, p *pending) []byte {
	index := p.index - uint64(p.frames)
	if len(p.cmds) > 0 {
		index--
	}
	if p.records > 0 {
		p.sealed = p.builder.Finish(&record.BatchOptions{BaseOffset: record.Offset(p.baseSeq)})
		p.batch = p.sealed
		f := record.Frame{Kind: record.KindRecords, Shard: s.id, Epoch: p.epoch, Index: index, Partition: unboundPartition(s.id)}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		dst = record.BeginRecordsPayload(dst, p.extra)
		dst = append(dst, p.sealed...)
		dst = record.FinishFrame(dst, at)
	}
	if len(p.batches) > 0 {
		dst = b.appendBatchFrames(dst, s, p, index+1)
	}
	if len(p.cmds) > 0 {
		f := record.Frame{Kind: record.KindCommand, Shard: s.id, Epoch: p.epoch, Index: p.index}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		dst = append(dst, p.cmds...)
		dst = record.FinishFrame(dst, at)
	}
	return dst
}

// Ahead says of the group gathered last whether other nodes may have anything of it before this one's log does: what is of shards that are open here; it calls hold with the others.
// Open shards have the begin of their epoch in the log, and after a crash get another epoch. A leader that is not open might begin its epoch anew, with other
// frames, and what is followed is for its leader to show. What was shown is not taken back and made otherwise, whatever else is in the group: a log that cannot write a group of which
// anything was shown takes nothing more, of any shard, so that the node has to give up all that it leads; and a crash ends the epochs of all shards that it led. Of a group of which
// nothing was shown, what is of open shards may fail and be made anew. The committer calls it.
func (b *Broker) Ahead(hold func(record.ShardID)) (some bool) {
	for _, g := range b.flight {
		switch {
		case g.s.rep == nil:
			return false
		case g.p.verbatim:
			hold(g.s.id)
		default:
			some = true
		}
	}
	return some
}

// Committed tells that the group gathered last is durable; end is where it ends. Each shard's home loop applies its part.
func (b *Broker) Committed(end Place) {
	before := b.setCommitted(end)
	for i, g := range b.flight {
		if g.s.rep != nil {
			b.replicatedDurable(g.s, g.p, before, end)
			b.flight[i] = gathered{}
			continue
		}
		g.s.home.post(post{kind: postApply, s: g.s, p: g.p, place: end})
		b.flight[i] = gathered{}
	}
	b.flight = b.flight[:0]
	if fn := b.opts.Flushed; fn != nil {
		fn()
	}
}

// Failed tells that the group gathered last was not written. What was in it, and what waits, is answered with an error and
// never applied. Lasting says that the log takes no more writes.
func (b *Broker) Failed(err error, lasting bool) {
	b.noRoom.Store(!lasting)
	if lasting {
		e := fmt.Errorf("%w: %w", ErrUnavailable, err)
		b.failure.Store(&e)
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	for i, g := range b.flight {
		g.s.mu.Lock()
		g.s.rollBackLocked(g.p)
		g.s.mu.Unlock()
		g.s.home.post(post{kind: postFailed, s: g.s, p: g.p, err: err})
		b.flight[i] = gathered{}
	}
	b.flight = b.flight[:0]
	b.failWaiting(err)
	if fn := b.opts.Lost; fn != nil {
		fn()
	}
}

// Failure is why the node ought not to lead; nil: nothing. The log has failed for good, or its disk is full, which it looks at again then. What the log has
// been given as its limit is no reason: other nodes have the same. Any goroutine.
func (b *Broker) Failure() error {
	if e := b.failure.Load(); e != nil {
		return *e
	}
	if b.noRoom.Load() || b.reserved.Load() && b.fullBy.Load() == nil {
		b.log.Wake()
		return errReserved
	}
	return nil
}

// failWaiting answers all that waits to be gathered with err. Any goroutine, once the log has failed for good.
func (b *Broker) failWaiting(err error) {
	b.dirty.Lock()
	list := b.dirty.shards
	b.dirty.shards = nil
	b.dirty.Unlock()
	for _, s := range list {
		s.mu.Lock()
		p := s.mu.fill
		s.mu.fill, s.mu.dirty = nil, false
		if p == nil { // of a replicated shard
			s.rep.lostLocked(s, nil)
			s.mu.Unlock()
			continue
		}
		s.takeLocked(p)
		s.rollBackLocked(p)
		s.mu.Unlock()
		s.home.post(post{kind: postFailed, s: s, p: p, err: err})
	}
}

// committed is where the log's last durable group ended.
func (b *Broker) committed() Place {
	b.end.Lock()
	defer b.end.Unlock()
	return b.end.place
}

func (b *Broker) setCommitted(p Place) (before Place) {
	b.end.Lock()
	defer b.end.Unlock()
	before, b.end.place = b.end.place, p
	return before
}

// writable says why nothing can be journaled now, if so.
func (b *Broker) writable() error {
	if e := b.failure.Load(); e != nil {
		return *e
	}
	return nil
}
