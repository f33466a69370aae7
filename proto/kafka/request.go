package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// request is one request under way. It belongs to its connection's loop, and is reused.
type request struct {
	c          *conn
	prev, next *request
	call       wire.Call
	done       bool // its answer is ready
	silent     bool // no answer is sent: produce with acks=0
	out        []byte
	produce    *produceState // of a produce request
	fetch      *fetchState
	throttle   time.Duration // that the client is told to wait for
	clientID   []byte        // a view, valid while the request is begun
	slot       uint32        // its place among the loop's
	serial     uint64        // moves when the request is reused: late completions are known by it
}

// reset lets the loop have what the request has made: one that waits holds nothing of what was answered before it.
func (r *request) reset(l *loopState) {
	if cap(r.out) > 0 && cap(r.out) <= 64<<10 && len(l.outs) < sparesKept {
		l.outs = append(l.outs, r.out[:0])
	}
	if r.produce != nil && len(l.produces) < sparesKept {
		r.produce.reset()
		l.produces = append(l.produces, r.produce)
	}
	*r = request{slot: r.slot, serial: r.serial + 1}
}

// sparesKept is how many buffers for answers, and how many produce requests' lists, a loop keeps for the next ones.
const sparesKept = pipelined

// buffer is where to append the answer.
func (r *request) buffer() []byte {
	if l := r.c.l; r.out == nil && len(l.outs) > 0 {
		n := len(l.outs) - 1
		r.out, l.outs[n], l.outs = l.outs[n], nil, l.outs[:n]
	}
	return r.out[:0]
}

// producing gives the request what a produce request needs.
func (r *request) producing() *produceState {
	switch l := r.c.l; {
	case r.produce != nil:
	case len(l.produces) > 0:
		n := len(l.produces) - 1
		r.produce, l.produces[n], l.produces = l.produces[n], nil, l.produces[:n]
	default:
		r.produce = new(produceState)
	}
	return r.produce
}

// respond answers with a message of kmsg's.
func (r *request) respond(m kmsg.Response) {
	r.tellThrottle(m)
	r.out = wire.AppendMessage(r.buffer(), r.call, m)
	r.finish()
}

// finish says that the answer in r.out, or in r.fetch, is complete. The request may be gone when it returns.
func (r *request) finish() {
	r.done = true
	if r.c.first == r {
		r.c.answered()
	}
}

// send hands the answer to the engine.
func (r *request) send() {
	switch {
	case r.silent:
	case r.fetch != nil:
		r.sendFetch()
	default:
		r.c.l.n.bytesOut += uint64(len(r.out))
		r.c.link.Write(r.out)
	}
}

// abandon is called when the connection ends before the answer.
func (r *request) abandon() {
	if r.fetch != nil {
		r.fetch.cancel()
	}
	if r.produce != nil {
		r.c.l.core.StopTimer(&r.produce.timer)
	}
}

// ticket names a request to somebody who answers from elsewhere: by then it may be gone.
type ticket struct {
	r      *request
	serial uint64
}

func (r *request) ticket() ticket { return ticket{r, r.serial} }

// later has fn run on the request's loop, if the request still waits then. Any goroutine may call it.
func (t ticket) later(l *loopState, fn func(r *request)) {
	l.run(func() {
		if t.r.serial == t.serial && !t.r.done && !t.r.c.closing {
			fn(t.r)
		}
	})
}
