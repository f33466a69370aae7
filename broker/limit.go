package broker

import (
	"cmp"
	"math"
	"slices"
)

// limitTurn is how many sessions one tick checks against their bounds.
const limitTurn = 4096

// collectGrown notes the readers of the queues that have grown. Where all queues together are within one session's bounds, so is each.
func (l *Local) collectGrown(s *shard, lim *Limits) {
	s.mu.Lock()
	grown := s.mu.grown
	s.mu.grown = nil
	numbers := make([]uint64, 0, len(grown))
	for _, q := range grown {
		q.grown = false
		numbers = append(numbers, q.number)
	}
	s.mu.Unlock()
	if lim.SessionAge <= 0 && l.b.queued.count.Load() <= lim.SessionMessages && l.b.queued.bytes.Load() <= lim.SessionBytes {
		return
	}
	for _, n := range numbers {
		if shared, _ := l.b.filters.kind(n); shared {
			l.limitGroup(s, n, lim)
		} else {
			l.limitWork, _ = l.b.filters.readers(l.limitWork, n, readersEnd, readersEnd)
		}
	}
}

// limit checks sessions whose queues have grown.
func (l *Local) limit(lim *Limits, now int64) {
	if len(l.limitWork) > 1 {
		slices.SortFunc(l.limitWork, func(a, b *Session) int { return cmp.Compare(a.d.id, b.d.id) })
		l.limitWork = slices.Compact(l.limitWork)
	}
	n := min(len(l.limitWork), limitTurn)
	for i, sess := range l.limitWork[:n] {
		l.limitSession(sess, lim, now)
		l.limitWork[i] = nil
	}
	l.limitWork = l.limitWork[n:]
	if len(l.limitWork) == 0 {
		l.limitWork = nil
	}
}

// backlogPart is what a block of a queue holds for a session.
type backlogPart struct {
	shard    uint16
	from     uint64 // everything above it counts
	n, bytes int64
	block    refBlock
}

// oldest is from when on messages are kept for sessions.
func (l *Limits) oldest(now int64) int64 {
	if l.SessionAge <= 0 {
		return math.MinInt64
	}
	return now - l.SessionAge.Milliseconds()
}

// limitSession moves a session's positions over what is beyond its bounds, oldest first. A message that several of its filters matched
// counts for each.
func (l *Local) limitSession(sess *Session, lim *Limits, now int64) {
	home := sess.shard
	home.mu.Lock()
	if sess.d.ending || home.mu.byID[sess.d.id] != sess {
		home.mu.Unlock()
		return
	}
	position := slices.Clone(sess.d.position)
	home.mu.Unlock()
	parts := l.b.backlogOf(sess, position)
	count, bytes := int64(0), int64(0)
	for i := range parts {
		count += parts[i].n
		bytes += parts[i].bytes
	}
	oldest := lim.oldest(now)
	slices.SortStableFunc(parts, func(a, b backlogPart) int { return cmp.Compare(a.block.since, b.block.since) })
	var to []shardSeq
	var dropped [DropReasons]int64
	for i := range parts {
		p := &parts[i]
		k, reason := int64(0), DropAge
		switch {
		case p.block.until < oldest:
			k = p.n
		case count > lim.SessionMessages:
			k, reason = min(count-lim.SessionMessages, p.n), DropMessages
		case bytes > lim.SessionBytes:
			each := max(p.bytes/p.n, 1)
			k, reason = min((bytes-lim.SessionBytes+each-1)/each, p.n), DropBytes
		}
		if k == 0 {
			break
		}
		part := queue{blocks: []*refBlock{&p.block}}
		seqs := part.after(nil, p.from, int(k))
		to = setSeq(to, p.shard, max(seqOf(to, p.shard), seqs[len(seqs)-1]))
		count -= k
		bytes -= p.bytes * k / p.n
		dropped[reason] += k
	}
	if len(to) > 0 {
		l.moveSession(sess, to, &dropped)
	}
}

// backlogOf lists what the queues hold for sess above its positions.
func (b *Broker) backlogOf(sess *Session, position []shardSeq) (parts []backlogPart) {
	subs := sess.d.subscriptions()
	for _, s := range b.homes {
		s.mu.Lock()
		for i := range subs {
			if subs[i].number == 0 || subs[i].group != "" {
				continue
			}
			q := s.mu.queues[subs[i].number]
			if q == nil {
				continue
			}
			from := max(seqOf(position, uint16(s.id)), seqOf(subs[i].starts, uint16(s.id)))
			for _, bl := range q.blocks {
				if bl.last <= from {
					continue
				}
				p := backlogPart{shard: uint16(s.id), from: from, n: int64(bl.n), bytes: bl.bytes, block: *bl}
				if bl.first <= from {
					p.n = bl.above(from)
					p.bytes = bl.bytes * p.n / int64(bl.n)
				}
				parts = append(parts, p)
			}
		}
		s.mu.Unlock()
	}
	return parts
}

// moveSession moves the positions of an absent session by command, and those of a connected one by way of its loop.
func (l *Local) moveSession(sess *Session, to []shardSeq, dropped *[DropReasons]int64) {
	home := sess.shard
	home.mu.Lock()
	if c := sess.client; c != nil {
		home.mu.Unlock()
		why := DropMessages
		for r, n := range dropped {
			if n > dropped[why] {
				why = DropReason(r)
			}
		}
		c.local.Run(func() { c.local.dropTo(c, sess, to, why) })
		return
	}
	if sess.d.ending || l.b.writable() != nil || !home.leadsLocked() {
		home.mu.Unlock()
		return
	}
	f := feed{position: slices.Clone(sess.d.position), restored: sess.d.inflight}
	for _, t := range to {
		f.position = setSeq(f.position, t.shard, max(t.seq, seqOf(f.position, t.shard)))
	}
	// Under the lock in which the session has no connection: whoever takes it up now comes behind this.
	first := home.commandLocked(f.encode(appendCommand(nil, cmdPosition, sess.d.id), true), entry{})
	home.mu.Unlock()
	if first {
		l.b.dirtyShard(home)
	}
	for r, n := range dropped {
		if n > 0 {
			l.b.stats.QueueDropped[r].Add(n)
			sess.d.dropped(DropReason(r), n)
		}
	}
}

// limitGroup cuts a shared group's queue to its bounds. They hold for each shard's part of it.
func (l *Local) limitGroup(s *shard, number uint64, lim *Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, g := s.mu.queues[number], s.mu.groups[number]
	if q == nil || g == nil {
		return
	}
	count, bytes := q.backlog(g.position)
	to, reason := uint64(0), DropMessages
	for _, b := range q.blocks {
		if count <= lim.SessionMessages && bytes <= lim.SessionBytes {
			break
		}
		if count <= lim.SessionMessages {
			reason = DropBytes
		}
		if b.last <= g.position {
			continue
		}
		count -= int64(b.n)
		bytes -= b.bytes
		to = b.last
	}
	if to <= g.cursor {
		return
	}
	had, _ := q.backlog(g.cursor)
	left, _ := q.backlog(to)
	l.b.stats.QueueDropped[reason].Add(had - left)
	g.cursor, g.changed = to, true
	g.again = slices.DeleteFunc(g.again, func(seq uint64) bool { return seq <= to })
	g.advance()
}
