package broker

import (
	"container/heap"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

// LoopTimer is something that a loop does at a time. It is lazy: one that has been moved to a later time is found out about when its old
// time comes. Its zero value is idle. It belongs to the loop that set it.
type LoopTimer struct {
	at   time.Duration // by the clock's Mono; 0: idle
	when time.Duration // where it stands in the heap
	in   bool          // it stands there
	pos  int           // at this place
	fn   func()
}

// SetTimer has fn run on this loop after d. It replaces what t was set to; moving it to a later time costs nothing.
func (l *Local) SetTimer(t *LoopTimer, d time.Duration, fn func()) { l.timers.set(t, d, fn) }

// StopTimer makes t idle, and keeps nothing of it.
func (l *Local) StopTimer(t *LoopTimer) { l.timers.remove(t) }

// loopTimers are those of one loop: a heap, and one timer of the clock's for the earliest.
type loopTimers struct {
	l     *Local
	heap  timerHeap
	alarm clock.Timer
	due   time.Duration // when alarm goes off; 0: never
}

type timerHeap []*LoopTimer

// Len, Less, Swap, Push and Pop are heap.Interface.
func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].when < h[j].when }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

// Push adds a timer.
func (h *timerHeap) Push(x any) {
	t := x.(*LoopTimer)
	t.pos = len(*h)
	*h = append(*h, t)
}

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
func (ts *loopTimers) set(t *LoopTimer, d time.Duration, fn func()) {
	at := max(ts.l.b.clock.Mono()+max(d, 0), 1)
	t.at, t.fn = at, fn
	if t.in && t.when <= at {
		return
	}
	if t.in {
		t.when = at
		heap.Fix(&ts.heap, t.pos)
	} else {
		t.when, t.in = at, true
		heap.Push(&ts.heap, t)
	}
	ts.arm()
}

// stop makes t idle; it stays in the heap, to be set again soon, until its old time comes.
func (ts *loopTimers) stop(t *LoopTimer) { t.at, t.fn = 0, nil }

// remove makes t idle and takes it out of the heap.
func (ts *loopTimers) remove(t *LoopTimer) {
	ts.stop(t)
	if t.in {
		heap.Remove(&ts.heap, t.pos)
		t.in = false
	}
}

func (t *LoopTimer) fire() {
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
		t := heap.Pop(&ts.heap).(*LoopTimer)
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
