package broker

import (
	"container/heap"
	"encoding/binary"

	"github.com/sluicemq/sluice/journal/record"
)

// Tick is the loop's slow work: progress of sessions into the journal, sessions and wills whose time has come, queues that
// nobody needs any more. The server calls it about once a second.
func (l *Local) Tick() {
	for i, f := range l.changed {
		l.changed[i] = nil
		f.listed = false
		if f.c.feed != f || !f.changed {
			continue
		}
		f.changed = false
		cmd := appendCommand(l.headers[:0], cmdPosition, f.c.sess.d.id)
		cmd = f.encode(cmd, false)
		l.headers = cmd
		if l.b.command(f.c.sess.shard, cmd, entry{}) != nil {
			f.changed = true
		}
	}
	l.changed = l.changed[:0]
	for _, c := range l.failedFeeds {
		l.later(c)
	}
	l.failedFeeds = nil
	now := l.b.nowMilli()
	for _, s := range l.b.shards {
		if s.home == l {
			l.due(s, now)
			l.groupProgress(s)
			l.trim(s)
			l.limit(s, now)
		}
	}
	if l.id == 0 && l.b.behindGroups.Load() > 0 {
		l.b.drainGroups()
	}
}

// timer is when a durable session wants to be looked at.
type timer struct {
	at int64
	id uint64
}

type timers []timer

// Len, Less, Swap, Push and Pop are heap.Interface.
func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push adds a timer.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop removes the last.
func (t *timers) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

// due ends sessions and publishes wills whose time has come. The commands that do it are the owner's: apply reads no clock.
func (l *Local) due(s *shard, now int64) {
	for {
		s.mu.Lock()
		if len(s.mu.rows.timers) == 0 || s.mu.rows.timers[0].at > now {
			s.mu.Unlock()
			return
		}
		t := heap.Pop(&s.mu.rows.timers).(timer)
		sess := s.mu.byID[t.id]
		if sess == nil || sess.d.connected || sess.client != nil {
			s.mu.Unlock()
			continue
		}
		var will *Will
		if sess.d.willAt != 0 && sess.d.willAt <= now {
			will = sess.will
		}
		expired := sess.d.deadline != 0 && sess.d.deadline <= now
		s.mu.Unlock()
		if will != nil {
			l.publishWill(sess, will)
		}
		var err error
		switch {
		case expired:
			l.b.stats.SessionsExpired.Add(1)
			err = l.b.command(s, appendCommand(nil, cmdRemove, t.id), entry{})
		case will != nil:
			err = l.b.command(s, appendCommand(nil, cmdWillDone, t.id), entry{})
		}
		if err != nil {
			return
		}
	}
}

// trim drops what all readers of a queue have finished, and tells the log what nobody needs.
func (l *Local) trim(s *shard) {
	s.mu.Lock()
	numbers := make([]uint64, 0, len(s.mu.queues))
	for n := range s.mu.queues {
		numbers = append(numbers, n)
	}
	s.mu.Unlock()
	for _, n := range numbers {
		l.trimQueue(s, n)
	}
	s.mu.Lock()
	start := s.mu.appliedSeq
	for _, q := range s.mu.queues {
		if len(q.blocks) > 0 {
			start = min(start, q.first())
		}
	}
	moved := start > s.mu.logStart
	s.mu.logStart = max(start, s.mu.logStart)
	s.mu.Unlock()
	if moved && l.b.log != nil {
		l.b.log.SetLogStart(unboundPartition(s.id), record.Offset(start))
	}
}

func (l *Local) trimQueue(s *shard, number uint64) {
	readers, shared, known := l.b.filters.readers(l.readers[:0], number)
	l.readers = readers
	if !known {
		return // being subscribed right now, or being dropped
	}
	low := ^uint64(0)
	for _, sess := range readers {
		if shared {
			break
		}
		low = min(low, l.sessionLow(sess, s, number))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.mu.queues[number]
	if q == nil {
		return
	}
	if shared {
		low = 0
		if g := s.mu.groups[number]; g != nil {
			low = g.position
		}
	}
	if low == ^uint64(0) {
		return
	}
	if gone := q.trim(low); len(gone) > 0 {
		s.mu.rows.blocksGone(q, gone)
	}
}

// sessionLow is up to where a session has finished a filter's queue in shard s.
func (l *Local) sessionLow(sess *Session, s *shard, number uint64) uint64 {
	home := sess.shard
	home.mu.Lock()
	low := seqOf(sess.d.position, uint16(s.id))
	home.mu.Unlock()
	for _, sub := range sess.d.subscriptions() {
		if sub.number == number {
			return max(low, seqOf(sub.starts, uint16(s.id)))
		}
	}
	return low
}

// limit moves the positions of sessions that have let too much gather. Only queues that are over a bound by themselves are looked
// at: a session's bound is checked against the queues it reads in this shard and scaled by the number of shards it has
// queues in.
func (l *Local) limit(s *shard, now int64) {
	lim := l.b.limits.Load()
	var over []*queue
	s.mu.Lock()
	for _, q := range s.mu.queues {
		old := lim.SessionAge > 0 && len(q.blocks) > 0 && q.blocks[0].since < now-lim.SessionAge.Milliseconds()
		if q.count > lim.SessionMessages || q.bytes > lim.SessionBytes || old {
			over = append(over, q)
		}
	}
	var drops []drop
	for _, q := range over {
		drops = append(drops, q.excess(lim, now))
	}
	s.mu.Unlock()
	for i, q := range over {
		l.dropOldest(s, q.number, drops[i])
	}
}

// drop says up to where a queue is to be cut, and why.
type drop struct {
	to     uint64
	reason DropReason
}

// excess finds the first block from which on the queue is within its bounds.
func (q *queue) excess(lim *Limits, now int64) (d drop) {
	count, bytes := q.count, q.bytes
	for _, b := range q.blocks {
		switch {
		case count > lim.SessionMessages:
			d = drop{b.last, DropMessages}
		case bytes > lim.SessionBytes:
			d = drop{b.last, DropBytes}
		case lim.SessionAge > 0 && b.since < now-lim.SessionAge.Milliseconds():
			d = drop{b.last, DropAge}
		default:
			return d
		}
		count -= int64(b.n)
		bytes -= b.bytes
	}
	return d
}

// dropOldest moves absent readers of a queue over what is beyond their bound.
func (l *Local) dropOldest(s *shard, number uint64, d drop) {
	if d.to == 0 {
		return
	}
	readers, shared, _ := l.b.filters.readers(nil, number)
	if shared {
		s.mu.Lock()
		if g := s.mu.groups[number]; g != nil && g.position < d.to {
			g.cursor = max(g.cursor, d.to)
			g.again = nil
			g.advance()
		}
		s.mu.Unlock()
		return
	}
	for _, sess := range readers {
		low := l.sessionLow(sess, s, number)
		if low >= d.to {
			continue
		}
		home := sess.shard
		home.mu.Lock()
		absent := sess.client == nil
		var cmd []byte
		if absent {
			f := feed{position: setSeq(append([]shardSeq(nil), sess.d.position...), uint16(s.id), d.to), out: sess.d.inflight}
			cmd = f.encode(appendCommand(nil, cmdPosition, sess.d.id), true)
		}
		home.mu.Unlock()
		if !absent {
			continue
		}
		s.mu.Lock()
		n := int64(0)
		if q := s.mu.queues[number]; q != nil {
			a, _ := q.backlog(low)
			b, _ := q.backlog(d.to)
			n = a - b
		}
		s.mu.Unlock()
		l.b.stats.QueueDropped[d.reason].Add(n)
		if err := l.b.command(home, cmd, entry{}); err != nil {
			return
		}
	}
}

// groupProgress journals how far shared groups have come.
func (l *Local) groupProgress(s *shard) {
	var cmd []byte
	s.mu.Lock()
	for _, g := range s.mu.groups {
		if g.changed {
			g.changed = false
			c := binary.AppendUvarint(nil, cmdGroup)
			c = binary.AppendUvarint(c, g.number)
			c = binary.AppendUvarint(c, g.position)
			cmd = appendBytes(cmd, c)
		}
	}
	s.mu.Unlock()
	for d := (decoder{b: cmd}); len(d.b) > 0; {
		if l.b.command(s, d.bytes(), entry{}) != nil {
			return
		}
	}
}

func (s *shard) applyGroup(number, position uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groupLocked(number)
	g.position = max(g.position, position)
	g.cursor = max(g.cursor, position)
	s.mu.rows.group(number)
}
