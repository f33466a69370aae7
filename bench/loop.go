package bench

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBufferBytes = 256 << 10
	// outMax is how much may wait in a connection's out buffer before its publisher holds back.
	outMax = 1 << 20
	// sendBurst is how many messages one turn sends before it reads again.
	sendBurst = 1024
	// sweepEvery is how often a loop looks for keep-alives and stalled cells.
	sweepEvery = int64(100 * time.Millisecond)
)

// loop owns connections, on a goroutine and a thread of its own. Everything in it belongs to that goroutine, but for
// inbox and counts.
type loop struct {
	id       int
	run      *run
	poll     *poller
	now      int64 // ns since the run's base, refreshed each turn and each read
	read     []byte
	plain    []byte // decrypted
	conns    []*conn
	slots    []int // of conns that are free
	dirty    []*conn
	ready    []*publisher // to be looked at before the turn ends
	dialing  []*conn      // to be dialed
	opening  int          // dialed and not yet ready
	dialed   float64      // allowance of a paced dialing
	dialAt   int64
	sweepAt  int64
	cutAt    int64 // when the second under way is over
	live     int   // connections that are ready
	blocked  int   // connections that wait for room to write
	sched    schedule
	roles    []kafkaTurn // Kafka's producers and consumers
	buffers  [][]byte
	stats    stats
	cutPoint Point // what has been handed over
	done     chan struct{}
	err      error

	counts counts
	inbox  struct {
		sync.Mutex
		fns    []func(*loop)
		closed bool
	}
}

// counts are what other goroutines read of a loop while it runs: stored once per turn.
type counts struct {
	sent, acked, fresh, ready, failed, pongs atomic.Uint64
	heard, live, blocked                     atomic.Uint64 // bytes, connections, connections
}

func newLoop(r *run, id int) (*loop, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	l := &loop{id: id, run: r, poll: p, read: make([]byte, readBufferBytes), done: make(chan struct{}), cutAt: 1e9}
	l.stats.init()
	return l, nil
}

// post runs fn on the loop, soon. After the loop has ended, fn is dropped and post returns false.
func (l *loop) post(fn func(*loop)) bool {
	l.inbox.Lock()
	defer l.inbox.Unlock()
	if l.inbox.closed {
		return false
	}
	l.inbox.fns = append(l.inbox.fns, fn)
	if len(l.inbox.fns) == 1 {
		l.poll.wake()
	}
	return true
}

// call runs fn on the loop and waits for it.
func (l *loop) call(fn func(*loop)) {
	done := make(chan struct{})
	if l.post(func(l *loop) { fn(l); close(done) }) {
		select {
		case <-done:
		case <-l.done:
		}
	}
}

// main is the loop's goroutine. It ends when quit is set by a posted function.
func (l *loop) main() {
	defer close(l.done)
	prepareThread()
	for l.err == nil && !l.run.quit.Load() {
		l.turn()
	}
	l.inbox.Lock()
	l.inbox.closed = true
	l.inbox.Unlock()
	for _, c := range l.conns {
		if c != nil {
			c.close()
		}
	}
	l.now = l.run.clock()
	l.cutAt = (l.now/1e9 + 1) * 1e9
	l.cut()
	l.poll.close()
}

func (l *loop) turn() {
	events, err := l.poll.wait(l.timeout())
	if err != nil {
		l.err = err
		l.run.fail(err)
		return
	}
	l.now = l.run.clock()
	for _, e := range events {
		c := l.conns[e.slot]
		if c == nil {
			continue
		}
		if e.writable {
			c.writable()
		}
		if e.readable && c.fd >= 0 && c.phase != phaseDialing {
			c.readable()
		}
	}
	l.runInbox()
	if l.now >= l.cutAt {
		l.cut()
	}
	if l.now >= l.sweepAt {
		l.sweep()
	}
	l.dial()
	l.sched.send(l)
	l.sched.open(l)
	for i := 0; i < len(l.ready); i++ { // pump may append
		p := l.ready[i]
		p.queued = false
		p.pump()
	}
	l.ready = l.ready[:0]
	for _, role := range l.roles {
		role.turn()
	}
	l.flush()
	l.counts.sent.Store(l.stats.sent)
	l.counts.acked.Store(l.stats.acked)
	l.counts.fresh.Store(l.stats.fresh)
	l.counts.heard.Store(l.stats.tally.wireOut)
	l.counts.live.Store(uint64(l.live))
	l.counts.blocked.Store(uint64(l.blocked))
}

// timeout is how long the loop may sleep.
func (l *loop) timeout() time.Duration {
	if len(l.ready) > 0 || len(l.dirty) > 0 {
		return 0
	}
	wait := l.sweepAt - l.run.clock()
	if due, ok := l.sched.next(l.run.stopAt.Load()); ok {
		// A sleep ends some 50 µs late on many machines: its end is waited for awake.
		wait = min(wait, max(due-l.run.clock()-max(int64(l.run.cfg.Spin), 0), 0))
	}
	for _, role := range l.roles {
		if at := role.next(); at != math.MaxInt64 {
			wait = min(wait, max(at-l.run.clock()-max(int64(l.run.cfg.Spin), 0), 0))
		}
	}
	if len(l.dialing) > 0 && l.opening < l.run.cfg.ConnectBurst {
		wait = min(wait, int64(time.Millisecond))
	}
	return time.Duration(wait)
}

func (l *loop) runInbox() {
	l.inbox.Lock()
	fns := l.inbox.fns
	l.inbox.fns = nil
	l.inbox.Unlock()
	for _, fn := range fns {
		fn(l)
	}
}

func (l *loop) flush() {
	for i := 0; i < len(l.dirty); i++ {
		c := l.dirty[i]
		c.dirty = false
		c.flush()
	}
	l.dirty = l.dirty[:0]
}

// wantPump has p looked at before the turn ends.
func (l *loop) wantPump(p *publisher) {
	if !p.queued {
		p.queued = true
		l.ready = append(l.ready, p)
	}
}

// open queues c to be dialed.
func (l *loop) open(c *conn) {
	c.l = l
	c.fd = -1
	l.dialing = append(l.dialing, c)
}

// dial starts connections as far as burst and rate allow.
func (l *loop) dial() {
	if len(l.dialing) == 0 {
		return
	}
	cfg := &l.run.cfg
	if rate := cfg.ConnectRate / float64(cfg.Threads); rate > 0 {
		l.dialed = min(l.dialed+float64(l.now-l.dialAt)/1e9*rate, float64(cfg.ConnectBurst))
	} else {
		l.dialed = float64(len(l.dialing))
	}
	l.dialAt = l.now
	n := 0
	for n < len(l.dialing) && l.opening < cfg.ConnectBurst && l.dialed >= 1 && n < 64 {
		c := l.dialing[n]
		l.dialing[n] = nil
		n++
		l.dialed--
		l.opening++
		c.dial()
	}
	if l.dialing = l.dialing[n:]; len(l.dialing) == 0 {
		l.dialing = nil
	}
}

// add gives c a slot and watches its socket.
func (l *loop) add(c *conn, want uint32) error {
	if n := len(l.slots); n > 0 {
		c.slot, l.slots = l.slots[n-1], l.slots[:n-1]
	} else {
		c.slot = len(l.conns)
		l.conns = append(l.conns, nil)
	}
	l.conns[c.slot] = c
	return l.poll.add(c.fd, c.slot, want)
}

// sweep sends the pings that are due and lets stalled cells go on.
func (l *loop) sweep() {
	l.sweepAt = l.now + sweepEvery
	for _, c := range l.conns {
		if c != nil && c.keepAlive > 0 && c.phase == phaseReady && l.now-c.lastOut > c.keepAlive*7/10 {
			c.ping()
		}
	}
	for _, p := range l.sched.pubs {
		p.unstall()
	}
}

// getBuffer and putBuffer keep the out buffers of connections that have something to send.
func (l *loop) getBuffer() []byte {
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers = l.buffers[:n-1]
		return b
	}
	return make([]byte, 0, 4<<10)
}

func (l *loop) putBuffer(b []byte) {
	if cap(b) > 0 && cap(b) <= 2*outMax && len(l.buffers) < 1024 {
		l.buffers = append(l.buffers, b[:0])
	}
}

// schedule is the timetable of a loop's publishers. With an interval, message k of the loop is meant to go at
// start+k*interval, from publisher k modulo their number: what a publisher sends when follows from its own count, however
// late it is.
type schedule struct {
	pubs     []*publisher
	start    int64
	interval float64 // ns; 0: publishers are driven by what comes back
	k        uint64
	running  bool
	opened   bool // publishers without a timetable have begun
}

func (s *schedule) due(k uint64) int64 { return s.start + int64(float64(k)*s.interval) }

// open lets publishers without a timetable begin, once.
func (s *schedule) open(l *loop) {
	if !s.running || s.interval > 0 || s.opened || l.now < s.start {
		return
	}
	s.opened = true
	for _, p := range s.pubs {
		l.wantPump(p)
	}
}

// next tells when the loop has to send next, before stop.
func (s *schedule) next(stop int64) (int64, bool) {
	if !s.running || len(s.pubs) == 0 {
		return 0, false
	}
	if s.interval == 0 {
		return s.start, !s.opened
	}
	due := s.due(s.k)
	return due, due < stop
}

// send passes on what has become due.
func (s *schedule) send(l *loop) {
	if !s.running || s.interval == 0 || len(s.pubs) == 0 {
		return
	}
	stop := l.run.stopAt.Load()
	for n := 0; n < sendBurst; n++ {
		due := s.due(s.k)
		if due > l.now || due >= stop {
			return
		}
		p := s.pubs[s.k%uint64(len(s.pubs))]
		p.owed++
		p.pump()
		s.k++
		if n%64 == 63 {
			l.now = l.run.clock()
		}
	}
}

// begin starts the publishers at start.
func (l *loop) begin(start int64, interval float64) {
	for i, p := range l.sched.pubs {
		p.place = uint64(i)
	}
	s := &l.sched
	s.start, s.interval, s.k, s.running, s.opened = start, interval, 0, true, false
}

// failConn tells the run that a connection could not be had, or was lost.
func (l *loop) failConn(c *conn, err error) {
	l.counts.failed.Add(1)
	switch {
	case lackOf(err) != nil: // no fault of the broker
	case c.stood:
		l.stats.fault(faultDisconnected, l.now)
	default:
		l.stats.fault(faultNotConnected, l.now)
	}
	l.run.connFailed(fmt.Errorf("client %s: %w", c.clientID, err), l.now)
}
