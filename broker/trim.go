package broker

import "github.com/sluicemq/sluice/journal/record"

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
	moved := start > s.mu.logStart
	s.mu.logStart = max(start, s.mu.logStart)
	s.mu.Unlock()
	if moved && l.b.log != nil {
		l.b.log.SetLogStart(unboundPartition(s.id), record.Offset(start))
	}
}

func (l *Local) trimQueue(s *shard, number uint64, lim *Limits, now int64) {
	s.mu.Lock()
	enough := uint64(0) // who has not come so far holds everything
	if q := s.mu.queues[number]; q != nil && len(q.blocks) > 0 {
		enough = q.blocks[0].last
	}
	s.mu.Unlock()
	low, shared, known := l.lowest(s, number, enough)
	if !known {
		l.dropQueue(s, number)
		return
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
	if lim.SessionAge > 0 && len(q.blocks) > 0 && q.blocks[0].until < now-lim.SessionAge.Milliseconds() && !q.grown {
		q.grown = true
		s.mu.grown = append(s.mu.grown, q)
	}
}

// lowest is up to where all readers of a queue have finished it. It ends with the first that is below enough.
func (l *Local) lowest(s *shard, number, enough uint64) (low uint64, shared, known bool) {
	low = ^uint64(0)
	for from := 0; ; from += readersTurn {
		l.readers, shared, known = l.b.filters.readers(l.readers[:0], number, from, readersTurn)
		if !known || shared {
			return low, shared, known
		}
		for _, sess := range l.readers {
			if low = min(low, sess.low(s, number)); low < enough {
				l.b.filters.first(number, sess)
				return low, false, true
			}
		}
		if len(l.readers) < readersTurn {
			return low, false, true
		}
	}
}

// dropQueue removes a queue that has lost its filter: a message that matched was on its way when the last reader left.
func (l *Local) dropQueue(s *shard, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, _, known := l.b.filters.readers(nil, number, 0, 0); !known {
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
