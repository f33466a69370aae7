package broker

import "github.com/sluicemq/sluice/journal/record"

// Watcher is a reader that waits for a partition to have something new. It belongs to the loop that armed it. Waiting costs a place in the
// partition's list and nothing else; its zero value is idle.
type Watcher struct {
	l          *Local
	p          *Partition
	fn         func()
	committed  bool          // it waits for the last stable offset instead of the high watermark
	from       record.Offset // it is woken when that is behind this one
	until      int64         // and the partition has so many bytes
	prev, next *Watcher      // in the partition's list, guarded by its shard's lock
	listed     bool          // the same
	armed      bool          // the loop's
	serial     Token         // of the last Watch: a wake-up of an earlier one is none
}

// watchList is who waits for a partition. Guarded by the shard's lock.
type watchList struct {
	head *Watcher
	at   int64 // at so many bytes of the partition somebody is to be woken
}

// Watch has fn run once, on this loop, when the partition has records at or behind from, or is dropped; at the next turn if it has already.
func (l *Local) Watch(p *Partition, from record.Offset, w *Watcher, fn func()) {
	l.watch(p, w, fn, false, from, 0)
}

// WatchRead is Watch for what a read has not seen: of the records that it could see, at least so many bytes more than were there, or, for a
// reader of committed records, anything. A reader of n partitions that wants b bytes in all waits for b/n in each, and looks again.
func (l *Local) WatchRead(p *Partition, f *StreamFetch, committed bool, bytes int64, w *Watcher, fn func()) {
	if committed {
		l.watch(p, w, fn, true, f.LastStable, 0)
		return
	}
	l.watch(p, w, fn, false, f.HighWatermark, f.seen+bytes)
}

func (l *Local) watch(p *Partition, w *Watcher, fn func(), committed bool, from record.Offset, until int64) {
	l.Unwatch(w)
	w.l, w.p, w.fn, w.armed = l, p, fn, true
	w.committed, w.from, w.until = committed, from, until
	w.serial++
	s := p.shard
	s.mu.Lock()
	ready := w.readyLocked() || p.topic.Dropped()
	if !ready {
		w.listed = true
		list := &p.mu.watchers
		if w.next = list.head; w.next != nil {
			w.next.prev = w
			list.at = min(list.at, w.until)
		} else {
			list.at = w.until
		}
		list.head = w
	}
	s.mu.Unlock()
	if ready {
		l.post(w.post())
	}
}

// readyLocked says whether there is what w waits for.
func (w *Watcher) readyLocked() bool {
	end := w.p.HighWatermark()
	if w.committed {
		end = w.p.LastStable()
	}
	return end > w.from && w.p.bytes.Load() >= w.until
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
	if w.listed {
		w.p.mu.watchers.removeLocked(w)
	}
}

func (list *watchList) removeLocked(w *Watcher) {
	w.listed = false
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		list.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
}

// wokenLocked takes those out of the list who have something to see now, or all of them, and calls fn with what their loops are to be told.
// Once the lock is let go of they are their loops' alone.
func (p *Partition) wokenLocked(all bool, fn func(to *Local, what post)) {
	list := &p.mu.watchers
	if list.head == nil || p.bytes.Load() < list.at && !all {
		return
	}
	list.at = 1<<63 - 1
	for w := list.head; w != nil; {
		next := w.next
		if all || w.readyLocked() {
			list.removeLocked(w)
			fn(w.l, w.post())
		} else {
			list.at = min(list.at, w.until)
		}
		w = next
	}
}

func (w *Watcher) post() post { return post{kind: postWatch, watcher: w, res: Result{Token: w.serial}} }

// wakeLater has a loop told at the end of the turn, of all that there is with one post.
func (l *Local) wakeLater(to *Local, what post) {
	l.acks[to.id] = append(l.acks[to.id], what)
	if to == l {
		l.kick()
	}
}

// woken runs on the watcher's loop.
func (w *Watcher) woken(serial Token) {
	if w.armed && w.serial == serial {
		w.armed = false
		w.fn()
	}
}
