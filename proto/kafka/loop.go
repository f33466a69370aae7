package kafka

import (
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
)

// loopState is what the connections of one loop share. It belongs to the loop's goroutine.
type loopState struct {
	h    *Handler
	loop *engine.Loop
	core *broker.Local

	first    *conn                    // all connections, newest first
	slots    []*request               // all requests that were made, by slot
	free     []*request               // of them, those that are not in use
	out      []byte                   // scratch for a response
	outs     [][]byte                 // buffers for answers that nobody has now
	produces []*produceState          // the same
	topics   map[string]*broker.Topic // of the default tenant, by name
	n        counters
	shown    published

	tenantTopics map[tenantTopic]*broker.Topic // of the others

	awaiting uint16                        // sets of shards, a bit for each, whose requests wait for a leader: see await
	awaited  [setsMax + 1]broker.LoopTimer // for how long they wait for each
	seen     *View                         // by the last await

	logSecond int64
	logLines  int
}

// logLinesMax is how many lines about misbehaving clients a loop logs in a second.
const logLinesMax = 10

func (l *loopState) mayLog() bool {
	if now := l.loop.NowMono() / int64(time.Second); now != l.logSecond {
		l.logSecond, l.logLines = now, 0
	}
	l.logLines++
	return l.logLines <= logLinesMax
}

func newLoopState(h *Handler, el *engine.Loop, core *broker.Local) *loopState {
	return &loopState{h: h, loop: el, core: core}
}

// open begins a connection.
func (l *loopState) open(k link) *conn {
	c := &conn{link: k, l: l, next: l.first, tls: k.TLS() != nil}
	if l.first != nil {
		l.first.prev = c
	}
	l.first = c
	l.n.open++
	c.touch()
	c.greet()
	c.countConnection()
	if l.h.draining.Load() {
		c.shut(nil)
	}
	return c
}

// unlink takes c out of the loop's list.
func (l *loopState) unlink(c *conn) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	l.n.open--
}

// drain closes every connection that is owed nothing, and the others when they have got it.
func (l *loopState) drain() {
	for c := l.first; c != nil; {
		next := c.next
		c.drain()
		c = next
	}
}

// run has the loop call fn soon: for what another goroutine has found out.
func (l *loopState) run(fn func()) { l.loop.Post(engine.TaskFunc(func(*engine.Loop) { fn() })) }

func (l *loopState) tick() { l.shown.show(&l.n) }

func (l *loopState) newRequest() *request {
	if n := len(l.free); n > 0 {
		r := l.free[n-1]
		l.free = l.free[:n-1]
		return r
	}
	r := &request{slot: uint32(len(l.slots))}
	l.slots = append(l.slots, r)
	return r
}

func (l *loopState) freeRequest(r *request) {
	r.reset(l)
	l.free = append(l.free, r)
}
