package broker

import (
	"container/heap"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

// loopTimer is something that a loop does at a time. It is lazy: one that has been moved to a later time is found out about when its old
// time comes. Its zero value is idle.
type loopTimer struct {
	at   time.Duration // by the clock's Mono; 0: idle
	when time.Duration // where it stands in the heap
	in   bool          // it stands there
	fn   func()
}

// loopTimers are those of one loop: a heap, and one timer of the clock's for the earliest.
type loopTimers struct {
	l     *Local
	heap  timerHeap
	alarm clock.Timer
	due   time.Duration // when alarm goes off; 0: never
}

type timerHeap []*loopTimer

// Len, Less, Swap, Push and Pop are heap.Interface.
func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].when < h[j].when }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push adds a timer.
func (h *timerHeap) Push(x any) { *h = append(*h, x.(*loopTimer)) }

// Pop removes the last.
func (h *timerHeap) Pop() any {
	old := *h
	n := len(old) - 1
	t := old[n]
	old[n] = nil
	*h = old[:n]
	return t
}

// set has fn run after d; it replaces what t was set to. Moving it to a later time costs nothing.
func (ts *loopTimers) set(t *loopTimer, d time.Duration, fn func()) {
	at := max(ts.l.b.clock.Mono()+max(d, 0), 1)
	t.at, t.fn = at, fn
	if t.in && t.when <= at {
		return
	}
	if t.in {
		// Earlier than where it stands: a second place; when its old one comes it is found idle, or moved.
		moved := t
		t = &loopTimer{at: at, fn: func() {
			if moved.at == at {
				moved.fire()
			}
		}}
	}
	t.when, t.in = at, true
	heap.Push(&ts.heap, t)
	ts.arm()
}

// stop makes t idle.
func (ts *loopTimers) stop(t *loopTimer) { t.at, t.fn = 0, nil }

func (t *loopTimer) fire() {
	fn := t.fn
	t.at, t.fn = 0, nil
	if fn != nil {
		fn()
	}
}

// arm sees to it that the loop is woken for the earliest.
func (ts *loopTimers) arm() {
	if len(ts.heap) == 0 {
		return
	}
	at := ts.heap[0].when
	if ts.due != 0 && ts.due <= at {
		return
	}
	d := max(at-ts.l.b.clock.Mono(), 0)
	ts.due = at
	if ts.alarm != nil {
		ts.alarm.Stop()
	}
	ts.alarm = ts.l.b.clock.AfterFunc(d, func() { ts.l.Run(ts.run) })
}

// run does what is due.
func (ts *loopTimers) run() {
	ts.due = 0
	now := ts.l.b.clock.Mono()
	for len(ts.heap) > 0 && ts.heap[0].when <= now {
		t := heap.Pop(&ts.heap).(*loopTimer)
		t.in = false
		switch {
		case t.at == 0:
		case t.at > now:
			t.when, t.in = t.at, true
			heap.Push(&ts.heap, t)
		default:
			t.fire()
		}
	}
	ts.arm()
}
