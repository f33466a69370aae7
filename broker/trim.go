package broker

import (
	"slices"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// trimTurn is how many queues of a shard one tick looks at.
const (
	trimTurn    = 4096
	readersTurn = 256
)

// trim drops what all readers of a queue have finished, and tells the log what nobody needs. A tick looks at a part of the queues: a
// million of them must not stop the loop.
func (l *Local) trim(s *shard, lim *Limits, now int64) {
	s.mu.Lock()
	if len(s.mu.trimList) == 0 {
		for n := range s.mu.queues {
			s.mu.trimList = append(s.mu.trimList, n)
		}
	}
	n := min(len(s.mu.trimList), trimTurn)
	numbers := s.mu.trimList[len(s.mu.trimList)-n:]
	s.mu.trimList = s.mu.trimList[:len(s.mu.trimList)-n]
	last := len(s.mu.trimList) == 0
	s.mu.Unlock()
	for _, n := range numbers {
		l.trimQueue(s, n, lim, now)
	}
	if !last {
		return
	}
	s.mu.Lock()
	start := s.mu.appliedSeq
	for _, q := range s.mu.queues {
		if len(q.blocks) > 0 {
			start = min(start, q.first())
		}
	}
	start = s.promisedFromLocked(start, lim.oldest(now))
	moved := start > s.mu.logStart
	s.mu.logStart = max(start, s.mu.logStart)
	s.mu.Unlock()
	if moved && l.b.log != nil {
		l.b.log.SetLogStart(unboundPartition(s.id), record.Offset(start))
	}
	l.tellNeeded(s, start)
}

// neededEvery is how often followers are told at most from where on a shard's messages are needed.
const neededEvery = 10 * time.Second

// tellNeeded has the shard's log say from where on its messages are needed: followers cannot know who else reads a queue, as the shard of that session may be behind.
func (l *Local) tellNeeded(s *shard, start uint64) {
	now := l.b.clock.Mono()
	s.mu.Lock()
	due := s.rep != nil && start > s.mu.needed && (s.mu.neededAt == 0 || now-s.mu.neededAt >= neededEvery)
	if due {
		s.mu.neededAt = now
	}
	s.mu.Unlock()
	if due {
		_ = l.b.command(s, logStartCommand(unboundPartition(s.id), record.Offset(start)), entry{done: func() {}, failed: func(error) {}})
	}
}

// applyNeeded takes over from where on messages are needed. What is in queues before that goes with the ticks.
func (s *shard) applyNeeded(b *Broker, start uint64) {
	s.mu.Lock()
	s.mu.needed = max(s.mu.needed, start)
	moved := start > s.mu.logStart
	s.mu.logStart = max(s.mu.logStart, start)
	s.mu.Unlock()
	if moved && b.log != nil {
		b.log.SetLogStart(unboundPartition(s.id), record.Offset(start))
	}
}

// trimFollowed drops of the queues of a shard that is followed what the leader has said that nobody needs, in turns as trim.
func (l *Local) trimFollowed(s *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.trimList) == 0 {
		if s.mu.needed <= s.mu.trimmed {
			return
		}
		s.mu.trimmed = s.mu.needed
		for n := range s.mu.queues {
			s.mu.trimList = append(s.mu.trimList, n)
		}
	}
	n := len(s.mu.trimList) - min(len(s.mu.trimList), trimTurn)
	for _, number := range s.mu.trimList[n:] {
		q := s.mu.queues[number]
		if q == nil {
			continue
		}
		if gone := q.trim(s.mu.trimmed - 1); len(gone) > 0 {
			s.mu.rows.blocksGone(q, gone)
		}
		if _, known := l.b.filters.kind(number); !known && len(q.blocks) == 0 && s.mu.groups[number] == nil {
			s.dropQueueLocked(number)
		}
	}
	if s.mu.trimList = s.mu.trimList[:n]; n == 0 {
		s.mu.grown = slices.DeleteFunc(s.mu.grown, func(q *queue) bool { return s.mu.queues[q.number] != q })
	}
}

func (l *Local) trimQueue(s *shard, number uint64, lim *Limits, now int64) {
	shared, known := l.b.filters.kind(number)
	if !known {
		l.dropQueue(s, number)
		return
	}
	s.mu.Lock()
	q := s.mu.queues[number]
	if q == nil || len(q.blocks) == 0 {
		s.mu.Unlock()
		return
	}
	enough := q.blocks[0].last // who has not come so far holds everything
	applied, holder := s.mu.appliedSeq, q.holder
	low := uint64(0)
	if g := s.mu.groups[number]; shared && g != nil {
		low = min(g.saved.finished(), g.position) // what is promised and not sent may come back
	}
	s.mu.Unlock()
	if !shared {
		if low, holder = l.lowest(s, number, enough, holder); holder == nil {
			return // its first reader is on the way
		}
		low = min(low, applied-1) // who came meanwhile was perhaps missed, and is owed nothing that was applied before
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q = s.mu.queues[number]; q == nil {
		return
	}
	q.holder = holder
	if gone := q.trim(low); len(gone) > 0 {
		s.mu.rows.blocksGone(q, gone)
	}
	if lim.SessionAge > 0 && len(q.blocks) > 0 && q.blocks[0].until < now-lim.SessionAge.Milliseconds() && !q.grown {
		q.grown = true
		s.mu.grown = append(s.mu.grown, q)
	}
}

// lowest is up to where all readers of a queue have finished it, and who has come least far. It ends with the first that is below enough,
// and begins with the one that was in the way last time.
func (l *Local) lowest(s *shard, number, enough uint64, holder *Session) (low uint64, by *Session) {
	if holder != nil && l.b.filters.reads(number, holder) {
		if low = holder.low(s, number); low < enough {
			return low, holder
		}
	}
	low = ^uint64(0)
	for before := readersEnd; before > 0; {
		l.readers, before = l.b.filters.readers(l.readers[:0], number, before, readersTurn)
		for _, sess := range l.readers {
			if at := sess.low(s, number); at < low {
				low, by = at, sess
			}
			if low < enough {
				return low, by
			}
		}
	}
	return low, by
}

// dropQueue removes a queue that has lost its filter: a message that matched was on its way when the last reader left.
func (l *Local) dropQueue(s *shard, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := l.b.filters.kind(number); !known {
		s.dropQueueLocked(number)
	}
}

// low is up to where a session has finished a filter's queue in shard s.
func (sess *Session) low(s *shard, number uint64) uint64 {
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
