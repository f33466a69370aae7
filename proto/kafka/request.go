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
	produce    produceState
	fetch      *fetchState
	throttle   time.Duration // that the client is told to wait for
	clientID   []byte        // a view, valid while the request is begun
	slot       uint32        // its place among the loop's
	serial     uint64        // moves when the request is reused: late completions are known by it
}

func (r *request) reset() {
	out := r.out[:0]
	if cap(out) > 64<<10 {
		out = nil
	}
	r.produce.reset()
	*r = request{out: out, produce: r.produce, slot: r.slot, serial: r.serial + 1}
}

// respond answers with a message of kmsg's.
func (r *request) respond(m kmsg.Response) {
	r.tellThrottle(m)
	r.out = wire.AppendMessage(r.out[:0], r.call, m)
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
