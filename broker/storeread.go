package broker

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// storeWorkers read from the store at a time. Each waits for the network most of the time.
	storeWorkers = 16
	// storeWaitingMax bounds the reads that wait for one of them: more are answered with ErrTier.
	storeWaitingMax = 1 << 14
	// storeTellEach is how often a store that gives nothing is told.
	storeTellEach = 10 * time.Second

	storeBackoff    = time.Second // before a read is tried again; it doubles
	storeBackoffMax = 30 * time.Second
)

// storePool is the bounded pool that reads from the store, beside the one that reads the log: who waits for a slow store delays none but those
// who wait for it too. Its workers are there while there is something to do.
type storePool struct {
	mu          sync.Mutex
	first, last *storeRead // those that wait, the oldest first
	waiting     int
	workers     int
	shut        bool
	done        sync.WaitGroup

	told   atomic.Int64 // when trouble was told last, in Unix milliseconds
	untold atomic.Int64 // times that it was not told since
}

// storeRead is one read from the store. Its zero value is idle; prev, next, state and left are guarded by the pool's lock.
type storeRead struct {
	run        func()
	prev, next *storeRead
	state      storeState
	left       bool // nobody waits for it any more
}

type storeState uint8

const (
	storeIdle storeState = iota
	storeWaits
	storeRuns
)

// submit has a read run. False: it will not, for nobody waits for it any more, or err says why.
func (sp *storePool) submit(r *storeRead) (ok bool, err error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	switch {
	case r.left:
		return false, nil
	case sp.shut:
		return false, ErrClosed
	case sp.waiting >= storeWaitingMax:
		return false, fmt.Errorf("%w: too many reads wait for it", ErrTier)
	}
	r.state, r.prev, r.next = storeWaits, sp.last, nil
	if sp.last != nil {
		sp.last.next = r
	} else {
		sp.first = r
	}
	sp.last = r
	sp.waiting++
	if sp.workers < storeWorkers {
		sp.workers++
		sp.done.Add(1)
		go sp.work()
	}
	return true, nil
}

// leave says that nobody waits for a read any more: it does not run if it has not begun. inStore: it has to do with the store, and nobody needs
// to wait for its end.
func (sp *storePool) leave(r *storeRead) (inStore bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	r.left = true
	if r.state == storeWaits {
		sp.takeLocked(r)
		return true
	}
	return r.state == storeRuns
}

// takeLocked takes a read out of the list.
func (sp *storePool) takeLocked(r *storeRead) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		sp.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		sp.last = r.prev
	}
	r.prev, r.next, r.state = nil, nil, storeIdle
	sp.waiting--
}

func (sp *storePool) work() {
	defer sp.done.Done()
	for {
		sp.mu.Lock()
		r := sp.first
		if r == nil || sp.shut {
			sp.workers--
			sp.mu.Unlock()
			return
		}
		sp.takeLocked(r)
		r.state = storeRuns
		run := r.run
		sp.mu.Unlock()
		run() // whoever waits for it may use r anew from here on
	}
}

// close drops what waits, and waits for what runs: the log, which is closed before, ends that.
func (sp *storePool) close() {
	sp.mu.Lock()
	sp.shut = true
	sp.mu.Unlock()
	sp.done.Wait()
}

// busy says whether a read waits or runs.
func (sp *storePool) busy() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.waiting > 0 || sp.workers > 0
}

// read has fn run in the pool that suits a partition: that of the store where some of it lies there alone. refused is told what that one says
// instead. Both run off the loop, or refused at once.
func (b *Broker) read(p *Partition, fn func(), refused func(error)) {
	if b.streams.LocalStart(p.id) <= p.LogStart() {
		b.fetcher.submit(fetchJob{run: fn})
		return
	}
	if _, err := b.storePool.submit(&storeRead{run: fn}); err != nil {
		refused(err)
	}
}

// storeTrouble counts a read that the store did not answer, and tells of it now and then: all who read meet the same trouble.
func (b *Broker) storeTrouble(what string, err error) {
	b.stats.TierFailed.Add(1)
	now, last := b.nowMilli(), b.storePool.told.Load()
	if now-last < storeTellEach.Milliseconds() || !b.storePool.told.CompareAndSwap(last, now) {
		b.storePool.untold.Add(1)
		return
	}
	b.logger.Warn("the store of old records does not answer; it is tried again", "what", what, "untold", b.storePool.untold.Swap(0), "err", err)
}

// backoff is how long to wait before the n-th read after one that failed, counted from 1.
func backoff(n int) time.Duration {
	return min(storeBackoff<<min(max(n-1, 0), 10), storeBackoffMax)
}
