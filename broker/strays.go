package broker

// endedSession is one that has ended, of which a shard's frames up to until may speak yet.
type endedSession struct{ id, until uint64 }

// forgetSessionLocked drops what the shard keeps for a session that has ended in its own shard. A follower applies each shard by itself: what this one has
// not applied yet may have come before that end, and is dropped when it is applied.
func (s *shard) forgetSessionLocked(id uint64) {
	s.dropSessionLocked(id)
	if r := s.rep; r != nil && !r.open && s.mu.applied < s.mu.index {
		r.ended = append(r.ended, endedSession{id, s.mu.index})
	}
}

func (s *shard) dropSessionLocked(id uint64) {
	if s.mu.received[id] != nil {
		delete(s.mu.received, id)
		s.mu.rows.received(id)
	}
	s.dropPromisesLocked(id)
}

// settleEndedLocked drops what frames have brought for sessions that had ended.
func (s *shard) settleEndedLocked() {
	r := s.rep
	if len(r.ended) == 0 { // nearly always: it is looked at for each frame
		return
	}
	left := r.ended[:0]
	for _, e := range r.ended {
		if e.until > s.mu.applied {
			left = append(left, e)
			continue
		}
		s.dropSessionLocked(e.id)
	}
	if r.ended = left; len(left) == 0 {
		r.ended = nil
	}
}

// dropEnded forgets what all shards have for sessions that are in none of them. The node leads all shards, and their tables have all that was committed before. A
// restart can leave such: the shards' checkpoints are of different moments.
func (b *Broker) dropEnded() {
	ids := make(map[uint64]bool) // collected first: what a session that begins now brings is not among them
	for _, s := range b.homes {
		s.mu.Lock()
		s.rep.ended = nil
		for id := range s.mu.received {
			ids[id] = true
		}
		for id := range s.mu.promised {
			ids[id] = true
		}
		s.mu.Unlock()
	}
	for _, s := range b.homes {
		if len(ids) == 0 {
			return
		}
		s.mu.Lock()
		if len(ids) < len(s.mu.byID) {
			for id := range ids {
				if s.mu.byID[id] != nil {
					delete(ids, id)
				}
			}
		} else {
			for id := range s.mu.byID {
				delete(ids, id)
			}
		}
		s.mu.Unlock()
	}
	for _, s := range b.homes {
		s.mu.Lock()
		for id := range ids {
			s.dropSessionLocked(id)
		}
		s.mu.Unlock()
	}
}

// dropEndedGroups forgets what shards have of shared groups that nobody is in any more: while they were followed it stayed, see dropQueues.
func (b *Broker) dropEndedGroups() {
	for _, s := range b.homes {
		s.mu.Lock()
		for n := range s.mu.groups {
			if _, known := b.filters.kind(n); !known {
				s.dropQueueLocked(n)
			}
		}
		s.mu.Unlock()
	}
}
