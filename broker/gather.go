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
	b.dirty.Lock()
	list := b.dirty.shards
	b.dirty.shards = b.gatherList[:0]
	b.dirty.Unlock()
	start := len(dst)
	for i, s := range list {
		used := len(dst) - start
		p := b.takePending(s, used, max)
		if p == nil {
			b.putBack(list[i:])
			more = true
			break
		}
		dst = b.sealPending(dst, s, p)
		b.flight = append(b.flight, gathered{s, p})
	}
	clear(list)
	b.gatherList = list[:0]
	if len(dst) == start && len(b.flight) > 0 {
		// Nothing that needs the log: there is no group to wait for.
		b.Committed(b.committed())
	}
	return dst, more
}

// takePending swaps out the pending list of s, or answers nil if the group has no room for it.
func (b *Broker) takePending(s *shard, used, max int) *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.mu.fill
	if used > 0 && used+p.size+3*record.FrameHeaderSize+128 > max {
		return nil
	}
	s.mu.fill = nil
	s.mu.dirty = false
	s.mu.unapplied++
	if p.records > 0 {
		s.mu.index++
	}
	for i := range p.batches {
		if p.batches[i].n > 0 {
			s.mu.index++
			p.frames++
		}
	}
	if len(p.cmds) > 0 {
		s.mu.index++
	}
	p.index = s.mu.index
	for _, a := range s.mu.appenders {
		a.local.post(post{kind: postResumeAppender, app: a})
	}
	clear(s.mu.appenders)
	s.mu.appenders = s.mu.appenders[:0]
	if s.mu.waiting != nil {
		for _, c := range s.mu.waiting {
			c.local.post(post{kind: postResume, c: c})
		}
		clear(s.mu.waiting)
		s.mu.waiting = s.mu.waiting[:0]
	}
	return p
}

func (b *Broker) putBack(rest []*shard) {
	b.dirty.Lock()
	b.dirty.shards = append(b.dirty.shards, rest...)
	b.dirty.Unlock()
}

// sealPending finishes the batch and appends the frames of p.
func (b *Broker) sealPending(dst []byte, s *shard, p *pending) []byte {
	index := p.index - uint64(p.frames)
	if len(p.cmds) > 0 {
		index--
	}
	if p.records > 0 {
		p.sealed = p.builder.Finish(&record.BatchOptions{BaseOffset: record.Offset(p.baseSeq)})
		p.batch = p.sealed
		f := record.Frame{Kind: record.KindRecords, Shard: s.id, Index: index, Partition: unboundPartition(s.id)}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		dst = record.BeginRecordsPayload(dst, p.extra)
		dst = append(dst, p.sealed...)
		dst = record.FinishFrame(dst, at)
	}
	dst, _ = s.appendBatchFrames(dst, p, index+1)
	if len(p.cmds) > 0 {
		f := record.Frame{Kind: record.KindCommand, Shard: s.id, Index: p.index}
		var at int
		dst, at = record.BeginFrame(dst, &f)
		dst = append(dst, p.cmds...)
		dst = record.FinishFrame(dst, at)
	}
	return dst
}

// Committed tells that the group gathered last is durable; end is where it ends. Each shard's home loop applies its part.
func (b *Broker) Committed(end Place) {
	b.setCommitted(end)
	for i, g := range b.flight {
		g.s.home.post(post{kind: postApply, s: g.s, p: g.p, place: end})
		b.flight[i] = gathered{}
	}
	b.flight = b.flight[:0]
}

// Failed tells that the group gathered last was not written. What was in it, and what waits, is answered with an error and
// never applied. Lasting says that the log takes no more writes.
func (b *Broker) Failed(err error, lasting bool) {
	if lasting {
		e := fmt.Errorf("%w: %w", ErrUnavailable, err)
		b.failure.Store(&e)
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	for i, g := range b.flight {
		g.s.home.post(post{kind: postFailed, s: g.s, p: g.p, err: err})
		b.flight[i] = gathered{}
	}
	b.flight = b.flight[:0]
	b.failWaiting(err)
}

// failWaiting answers all that waits to be gathered with err. Any goroutine, once the log has failed for good.
func (b *Broker) failWaiting(err error) {
	b.dirty.Lock()
	list := b.dirty.shards
	b.dirty.shards = nil
	b.dirty.Unlock()
	for _, s := range list {
		s.home.post(post{kind: postFailed, s: s, p: b.takePending(s, 0, 0), err: err})
	}
}

// committed is where the log's last durable group ended.
func (b *Broker) committed() Place {
	b.end.Lock()
	defer b.end.Unlock()
	return b.end.place
}

func (b *Broker) setCommitted(p Place) {
	b.end.Lock()
	defer b.end.Unlock()
	b.end.place = p
}

// writable says why nothing can be journaled now, if so.
func (b *Broker) writable() error {
	if e := b.failure.Load(); e != nil {
		return *e
	}
	return nil
}
