package clock

import (
	"container/heap"
	"sync"
	"time"
)

// Manual is a clock that moves only when told. Callbacks run on the goroutine that moves it, in order of their deadlines, without
// a lock held, so that they may use the clock again.
type Manual struct {
	mu struct {
		sync.Mutex
		wall   time.Time
		mono   time.Duration
		timers timerHeap
		seq    uint64
	}
}

// NewManual returns a clock that stands at wall, with Mono at zero.
func NewManual(wall time.Time) *Manual {
	m := &Manual{}
	m.mu.wall = wall
	return m
}

// Now is the wall time last set, plus what the clock was moved since.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.wall
}

// Mono is the sum of all moves.
func (m *Manual) Mono() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.mono
}

// SetWall makes wall time jump; Mono and the timers stay.
func (m *Manual) SetWall(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.wall = t
}

// Advance moves wall and Mono time by d, stopping at each timer that falls due on the way to run it.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	end := m.mu.mono + d
	for len(m.mu.timers) > 0 && m.mu.timers[0].due <= end {
		t := heap.Pop(&m.mu.timers).(*manualTimer)
		if t.due > m.mu.mono {
			m.mu.wall = m.mu.wall.Add(t.due - m.mu.mono)
			m.mu.mono = t.due
		}
		m.mu.Unlock()
		t.f()
		m.mu.Lock()
	}
	if end > m.mu.mono {
		m.mu.wall = m.mu.wall.Add(end - m.mu.mono)
		m.mu.mono = end
	}
	m.mu.Unlock()
}

// Pending is the number of timers that have not run: a test waits on it before it moves the clock.
func (m *Manual) Pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mu.timers)
}

// AfterFunc calls f from within the Advance that reaches d from now; with d <= 0 from within the next one.
func (m *Manual) AfterFunc(d time.Duration, f func()) Timer {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &manualTimer{m: m, f: f, at: -1}
	m.addLocked(t, d)
	return t
}

func (m *Manual) addLocked(t *manualTimer, d time.Duration) {
	t.due = m.mu.mono + max(d, 0)
	m.mu.seq++
	t.seq = m.mu.seq
	heap.Push(&m.mu.timers, t)
}

type manualTimer struct {
	m   *Manual
	f   func()
	due time.Duration
	seq uint64 // order of timers with one deadline
	at  int    // place in the heap, -1 outside
}

func (t *manualTimer) Stop() bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	return t.stopLocked()
}

func (t *manualTimer) stopLocked() bool {
	if t.at < 0 {
		return false
	}
	heap.Remove(&t.m.mu.timers, t.at)
	return true
}

func (t *manualTimer) Reset(d time.Duration) bool {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	was := t.stopLocked()
	t.m.addLocked(t, d)
	return was
}

// timerHeap orders timers by deadline, then by age.
type timerHeap []*manualTimer

func (h timerHeap) Len() int { return len(h) }

func (h timerHeap) Less(i, j int) bool {
	if h[i].due != h[j].due {
		return h[i].due < h[j].due
	}
	return h[i].seq < h[j].seq
}

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*manualTimer)
	t.at = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.at = -1
	return t
}
