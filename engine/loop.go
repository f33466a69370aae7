package engine

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/alloc"
)

const (
	// readBytes is what one read takes at most. headroom before it is where what is left of a packet is put in front of its rest.
	readBytes = 64 << 10
	headroom  = 64 << 10

	// wheelTick is how exact deadlines are; wheelSlots of it make one turn of the wheel.
	wheelTick  = 100 * time.Millisecond
	wheelSlots = 1024

	// trimEvery is how often a loop gives unused buffers back.
	trimEvery = 5 * time.Second
)

// Loop owns a share of the connections. All of it but ID, Post, Every and OnTurnEnd belongs to its own goroutine.
type Loop struct {
	e    *Engine
	id   int
	poll poller
	pool alloc.Pool

	slots   []*Conn  // by slot; slot 0 is never used
	gens    []uint32 // by slot: told to the kernel with it, so that an event for the slot's last owner is known
	wheelAt []uint32 // by slot: the tick at which the wheel looks at it, 0: not in the wheel
	spare   []uint32 // free slots

	scratch []byte // headroom, then what was read
	plain   []byte // headroom, then what TLS made of it
	trash   []byte // what is written to a closed connection

	now     int64 // monotonic ns, once per turn
	unixMs  int64
	wheel   *alloc.Wheel
	tickers []*ticker

	dirty    []*Conn // have output
	flushes  []*Conn // dirty's other half
	ready    []*Conn // have input that was kept while they were paused
	readies  []*Conn
	gone     []*Conn // closed, OnClose is due
	goners   []*Conn
	hooks    []func()
	queues   []*outQueue // free ones
	pendings []*pending
	iov      iovecs
	bufs     [][]byte // what is offered to a Pipe

	tasks    []Task // inbox's other half
	stopping bool
	local    loopCounters // published at the end of a turn
	_        [64]byte
	counters sharedCounters
	wakers   atomic.Int32 // goroutines that are waking the loop right now
	_        [64]byte
	inbox    struct {
		sync.Mutex
		tasks    []Task
		hooks    []func()
		tickers  []*ticker
		sleeping bool // the loop waits, or is about to: the next to post wakes it
		stop     bool
		ended    bool
	}
}

func newLoop(e *Engine, id int) (*Loop, error) {
	l := &Loop{
		e: e, id: id,
		slots: make([]*Conn, 1, 64), gens: make([]uint32, 1, 64), wheelAt: make([]uint32, 1, 64),
		scratch: make([]byte, headroom+readBytes),
		wheel:   alloc.NewWheel(wheelTick, wheelSlots),
	}
	l.readClock()
	return l, l.poll.open()
}

// ID is the loop's index in Engine.Loops.
func (l *Loop) ID() int { return l.id }

// Post has the loop run t, in the order of posting, soon. Any goroutine may call it; it never blocks. A burst wakes the loop once.
// After the loop has ended t is dropped.
func (l *Loop) Post(t Task) { l.post(t) }

// post says whether the loop will run t.
func (l *Loop) post(t Task) bool {
	l.inbox.Lock()
	if l.inbox.ended {
		l.inbox.Unlock()
		return false
	}
	l.inbox.tasks = append(l.inbox.tasks, t)
	l.unlockAndWake()
	return true
}

// unlockAndWake lets go of the inbox and wakes the loop if it sleeps. The loop may end meanwhile for another reason, and must not close what
// wake writes to: it waits for wakers.
func (l *Loop) unlockAndWake() {
	wake := l.inbox.sleeping
	l.inbox.sleeping = false
	if wake {
		l.wakers.Add(1)
	}
	l.inbox.Unlock()
	if wake {
		l.poll.wake()
		l.wakers.Add(-1)
	}
}

// NowMono is the monotonic time of this turn in ns, as in SetDeadline; 0 was when the engine was made.
func (l *Loop) NowMono() int64 { return l.now }

// NowUnixMilli is the wall time of this turn.
func (l *Loop) NowUnixMilli() int64 { return l.unixMs }

// States calls visit with the state of each open connection of the next n places from at on, and returns where the rest begins, negative
// when there is none: a way through all connections in turns, which begins at 0. One that stays is seen once; those that come and go
// meanwhile may be. The connections may be of any listener.
func (l *Loop) States(at, n int, visit func(state any)) (next int) {
	next = at + n
	for ; at < min(next, len(l.slots)); at++ {
		if c := l.slots[at]; c != nil && c.flags&flagOpen != 0 {
			visit(c.state)
		}
	}
	if next >= len(l.slots) {
		return -1
	}
	return next
}

// Pool is the loop's buffers.
func (l *Loop) Pool() *alloc.Pool { return &l.pool }

// OnTurnEnd has f run at the end of each turn, before connections are flushed, and again if flushing has ended some. Any goroutine may call
// it; f runs on the loop.
func (l *Loop) OnTurnEnd(f func()) {
	l.inbox.Lock()
	l.inbox.hooks = append(l.inbox.hooks, f)
	l.inbox.Unlock()
	l.Post(noTask{})
}

// Every has f run each d, no oftener, until stop. Any goroutine may call Every and stop; f runs on the loop. A loop with a ticker
// wakes for it: few users.
func (l *Loop) Every(d time.Duration, f func()) (stop func()) {
	t := &ticker{every: max(int64(d), int64(time.Millisecond)), f: f}
	t.next = int64(time.Since(l.e.base)) + t.every
	l.inbox.Lock()
	l.inbox.tickers = append(l.inbox.tickers, t)
	l.inbox.Unlock()
	l.Post(noTask{})
	return t.stop
}

type noTask struct{}

func (noTask) Run(*Loop) {}

func (l *Loop) readClock() {
	t := time.Now()
	l.now = int64(t.Sub(l.e.base))
	l.unixMs = t.UnixMilli()
}

func (l *Loop) stop() {
	l.inbox.Lock()
	l.inbox.stop = true
	l.unlockAndWake()
}

func (l *Loop) run() {
	defer l.e.wg.Done()
	nextTrim := l.now + int64(trimEvery)
	for !l.stopping {
		l.poll.wait(l, l.timeout())
		l.turn()
		if l.now >= nextTrim {
			l.pool.Trim()
			l.counters.poolBytes.Store(l.pool.Bytes() + int64(len(l.scratch)+len(l.plain)))
			nextTrim = l.now + int64(trimEvery)
		}
	}
	l.end()
}

// timeout is how long the loop may wait, in ns; negative is for ever. It says under the inbox's lock that the loop sleeps, so that whoever
// posts behind this look wakes it: P posts before the look and is seen, or after it and sees sleeping.
func (l *Loop) timeout() int64 {
	if len(l.dirty)+len(l.ready)+len(l.gone) > 0 {
		return 0
	}
	d := l.untilTimer()
	if d == 0 {
		return 0
	}
	l.inbox.Lock()
	defer l.inbox.Unlock()
	if len(l.inbox.tasks) > 0 || l.inbox.stop {
		return 0
	}
	l.inbox.sleeping = true
	return d
}

// turn is all that follows a wait, whose events are in l.poll.
func (l *Loop) turn() {
	l.readClock()
	l.poll.dispatch(l)
	l.runReady()
	l.runTasks()
	l.runTimers()
	l.reportGone()
	for {
		for _, f := range l.hooks {
			f()
		}
		l.flushDirty()
		if len(l.gone) == 0 {
			break
		}
		l.reportGone() // a write has found these broken: what their end leaves for the hooks must not wait for another turn
	}
	l.publish()
}

func (l *Loop) runTasks() {
	l.inbox.Lock()
	l.inbox.sleeping = false
	l.tasks, l.inbox.tasks = l.inbox.tasks, l.tasks[:0]
	if len(l.inbox.hooks)+len(l.inbox.tickers) > 0 {
		l.hooks = append(l.hooks, l.inbox.hooks...)
		l.tickers = append(l.tickers, l.inbox.tickers...)
		l.inbox.hooks, l.inbox.tickers = nil, nil
	}
	l.stopping = l.inbox.stop
	l.inbox.Unlock()
	for i, t := range l.tasks {
		t.Run(l)
		l.tasks[i] = nil
	}
	if cap(l.tasks) > inboxKeep {
		l.tasks = nil
	}
}

// inboxKeep is the largest inbox that is kept for reuse: a storm must not be pinned for ever.
const inboxKeep = 64 << 10

func (l *Loop) runReady() {
	l.ready, l.readies = l.readies[:0], l.ready
	for i, c := range l.readies {
		l.readies[i] = nil
		c.flags &^= flagReady
		c.redeliver()
	}
}

func (l *Loop) reportGone() {
	for len(l.gone) > 0 {
		l.gone, l.goners = l.goners[:0], l.gone
		for i, c := range l.goners {
			l.goners[i] = nil
			c.reportClose()
		}
	}
}

// end closes what is left, and answers nobody afterwards.
func (l *Loop) end() {
	for _, c := range l.slots {
		if c != nil {
			c.shut(ErrShutdown)
		}
	}
	l.reportGone()
	l.inbox.Lock()
	l.inbox.ended = true
	left := l.inbox.tasks
	l.inbox.tasks = nil
	l.inbox.Unlock()
	for _, t := range left {
		if o, ok := t.(*opening); ok {
			o.Run(l) // its descriptor must not leak
		}
	}
	for _, c := range l.slots {
		if c != nil {
			c.shut(ErrShutdown)
		}
	}
	l.reportGone()
	l.publish()
	for l.wakers.Load() > 0 {
		runtime.Gosched()
	}
	l.poll.close()
}

// takeSlot gives c a place in the loop's tables.
func (l *Loop) takeSlot(c *Conn) {
	if n := len(l.spare); n > 0 {
		c.slot = l.spare[n-1]
		l.spare = l.spare[:n-1]
		l.slots[c.slot] = c
		return
	}
	c.slot = uint32(len(l.slots))
	l.slots = append(l.slots, c)
	l.gens = append(l.gens, 0)
	l.wheelAt = append(l.wheelAt, 0)
}

func (l *Loop) freeSlot(c *Conn) {
	l.slots[c.slot] = nil
	l.gens[c.slot]++
	l.spare = append(l.spare, c.slot)
}
