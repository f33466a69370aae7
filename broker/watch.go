package broker

import "github.com/sluicemq/sluice/journal/record"

// Watcher is a reader that waits for a partition to have something new. It belongs to the loop that armed it. Waiting costs a place in the
// partition's list and nothing else; its zero value is idle.
type Watcher struct {
	l          *Local
	p          *Partition
	fn         func()
	prev, next *Watcher // in the partition's list, guarded by its shard's lock
	listed     bool     // the same
	armed      bool     // the loop's
}

// Watch has fn run once, on this loop, when the partition has records at or behind from, or is dropped; at the next turn if it has already.
func (l *Local) Watch(p *Partition, from record.Offset, w *Watcher, fn func()) {
	w.l, w.p, w.fn, w.armed = l, p, fn, true
	s := p.shard
	s.mu.Lock()
	ready := p.mu.highWatermark > from || p.topic.Dropped()
	if !ready {
		w.listed = true
		if w.next = p.mu.watchers; w.next != nil {
			w.next.prev = w
		}
		p.mu.watchers = w
	}
	s.mu.Unlock()
	if ready {
		l.post(post{kind: postWatch, watcher: w})
	}
}

// Unwatch makes w idle: fn does not run any more.
func (l *Local) Unwatch(w *Watcher) {
	if !w.armed {
		return
	}
	w.armed = false
	s := w.p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.listed {
		return
	}
	w.listed = false
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		w.p.mu.watchers = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// takeWatchersLocked empties the list and answers its head; the watchers are linked by next.
func (p *Partition) takeWatchersLocked() *Watcher {
	head := p.mu.watchers
	p.mu.watchers = nil
	for w := head; w != nil; w = w.next {
		w.listed, w.prev = false, nil
	}
	return head
}

// wakeWatchers tells who waits for the partitions of a commit: one post for each loop, at the end of the turn.
func (l *Local) wakeWatchers(s *shard, p *pending) {
	for i := range p.batches {
		part := p.batches[i].part
		s.mu.Lock()
		head := part.takeWatchersLocked()
		s.mu.Unlock()
		l.wake1(head)
	}
}

func (l *Local) wake1(head *Watcher) {
	for w := head; w != nil; {
		next := w.next
		w.next = nil
		to := w.l
		l.acks[to.id] = append(l.acks[to.id], post{kind: postWatch, watcher: w})
		if to == l {
			l.kick()
		}
		w = next
	}
}

// woken runs on the watcher's loop.
func (w *Watcher) woken() {
	if w.armed {
		w.armed = false
		w.fn()
	}
}
