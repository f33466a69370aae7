package server

import (
	"sync"

	"github.com/sluicemq/sluice/meta"
)

// follower hands a part of the catalog over to somebody after each change of it. That takes time when there is much of it, so it is done on a
// goroutine of its own, once for all changes that have come meanwhile; who has made a change is answered when it counts.
type follower struct {
	take   func(*meta.Snapshot)
	load   func() *meta.Snapshot
	cancel func()
	done   chan struct{}

	mu struct {
		sync.Mutex
		wake    *sync.Cond
		stale   bool
		closed  bool
		waiting []func()
	}
}

// follow hands over what there is, and again whenever changed says so.
func follow(c *meta.Catalog, changed func(old, now *meta.Snapshot) bool, take func(*meta.Snapshot)) *follower {
	f := &follower{take: take, load: c.Load, done: make(chan struct{})}
	f.mu.wake = sync.NewCond(&f.mu)
	f.cancel = c.Subscribe(func(old, now *meta.Snapshot) {
		if changed(old, now) {
			f.mu.Lock()
			f.mu.stale = true
			f.mu.wake.Signal()
			f.mu.Unlock()
		}
	})
	take(c.Load())
	go f.run()
	return f
}

func (f *follower) run() {
	defer close(f.done)
	for {
		f.mu.Lock()
		for !f.mu.stale && !f.mu.closed && len(f.mu.waiting) == 0 {
			f.mu.wake.Wait()
		}
		stale, waiting, closed := f.mu.stale, f.mu.waiting, f.mu.closed
		f.mu.stale, f.mu.waiting = false, nil
		f.mu.Unlock()
		if stale {
			f.take(f.load())
		}
		for _, fn := range waiting {
			fn()
		}
		if closed {
			return
		}
	}
}

// settled has fn called when everything that is in the catalog now has been handed over.
func (f *follower) settled(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.waiting = append(f.mu.waiting, fn)
	f.mu.wake.Signal()
}

// close ends the goroutine. It is called when nobody changes the catalog any more.
func (f *follower) close() {
	f.cancel()
	f.mu.Lock()
	f.mu.closed = true
	f.mu.wake.Signal()
	f.mu.Unlock()
	<-f.done
}
