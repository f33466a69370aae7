package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/internal/heavy"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// loopState is what the connections of one loop share. All of it but shown belongs to the loop's goroutine.
type loopState struct {
	h    *Handler
	loop loop
	core core

	walk walk
	who  *principal // the last one

	// Scratch of one call; nothing in it survives the call.
	msg        broker.Message // a publish, inbound
	queued     broker.Message // a message from a queue
	handed     broker.Delivery
	ids        []uint32
	out        wire.PublishOut
	forward    []byte
	context    []byte // properties with the context of a message that is traced
	rewrite    []byte // topics that rules made, and filters under prefixes
	mounted    []byte // a topic under its prefix
	properties propertyScratch
	reqs       []broker.SubscribeRequest
	errs       []error
	codes      []wire.ReasonCode
	place      []int // of reqs in codes
	setups     []*setup
	identity   broker.Identity
	connect    broker.ConnectRequest

	payload *alloc.Block // of the message that is fanned out, if it is large; see conn.sendLarge

	trace *trace.Loop // nil: nobody asks what becomes of messages
	fate  fate        // of the message that was delivered last

	late *slowTable   // nil: nobody wants to know who is slow
	busy *heavy.Table // nil: nobody wants to know of topics

	faded     int64 // the second in which busy was
	shownLate shownSlow

	events *events.Queue // hears of clients, sessions and subscriptions; may be nil

	metered  []*conn // that were sent something in this turn, and have a quota of it
	quotaNow uint16  // what quotas there are, as of the last turn's end; 0: none

	slow  []*conn // over their bound or waiting for room; looked at once a second
	later []after // what must not be done inside of a call from the core

	logSecond  int64
	logLines   int
	logSkipped uint64

	n     Counters
	_     [64]byte
	shown published
}

// after is something put off until the core's call has returned.
type after struct {
	c    *conn
	ack  uint16   // the delivery that the core is told is done, or
	fail *failure // what the connection ends with, or
	auto bool     // its session is subscribed to what it begins with
}

// open begins a connection.
func (l *loopState) open(k link) *conn {
	c := &conn{link: k, l: l, state: stateNew}
	l.n.Open++
	if d := l.h.settings.Load().FirstPacketTimeout; d > 0 {
		k.SetDeadline(l.loop.NowMono() + int64(d))
	}
	return c
}

// put puts a off until the calls that run now have returned.
func (l *loopState) put(a after) {
	l.later = append(l.later, a)
	if len(l.later) == 1 {
		l.loop.Post((*laterTask)(l))
	}
}

// laterTask does what was put off.
type laterTask loopState

// Run does what was put off until now; what comes up meanwhile waits for its own turn.
func (t *laterTask) Run(*engine.Loop) {
	l := (*loopState)(t)
	due := l.later
	l.later = nil
	for _, a := range due {
		switch {
		case a.c.client == nil:
		case a.fail != nil:
			a.c.end(*a.fail)
		case a.auto:
			a.c.autoSubscribe()
		default:
			l.core.Acked(a.c.client, a.ack)
			a.c.moveOn()
		}
	}
}

// endTurn lets go of what a turn's fan-out shared, and counts what was sent.
func (l *loopState) endTurn() {
	if l.payload != nil {
		l.payload.Release()
		l.payload = nil
	}
	l.endTurnQuotas()
}

// tick looks after slow clients and publishes the counters, once a second.
func (l *loopState) tick() {
	now := l.loop.NowMono()
	s := l.h.settings.Load()
	slow := l.slow[:0]
	for _, c := range l.slow {
		if c.state != stateUp {
			c.flags &^= flagSlow
			continue
		}
		if c.look(now, s) {
			slow = append(slow, c)
		} else {
			c.flags &^= flagSlow
		}
	}
	clear(l.slow[len(slow):])
	l.slow = slow
	l.tickSlow(s)
	l.tickBusy(s)
	l.show()
}

// slowNote is when a connection was found slow, and how it stood then.
type slowNote struct {
	since  int64
	queued int
}

// markSlow has tick look at c.
func (c *conn) markSlow() {
	if c.flags&flagSlow != 0 {
		return
	}
	c.flags |= flagSlow
	c.outbound().slow = slowNote{since: c.l.loop.NowMono(), queued: c.link.Queued()}
	c.l.slow = append(c.l.slow, c)
}

// look tells whether c still has to be looked at; a client that has taken nothing for too long is ended.
func (c *conn) look(now int64, s *Settings) bool {
	c.moveOn()
	if c.state != stateUp {
		return false
	}
	queued := c.link.Queued()
	if queued <= s.QueueBytes {
		return c.flags&flagStarved != 0 || !c.out.queue.empty()
	}
	if note := &c.out.slow; queued < note.queued {
		*note = slowNote{since: now, queued: queued}
	} else if s.StuckTimeout > 0 && now-note.since > int64(s.StuckTimeout) {
		c.end(*failStuck)
		return false
	}
	return true
}

// seconds is d in whole seconds, rounded up, as far as four bytes can say.
func seconds(d time.Duration) uint32 {
	s := d / time.Second
	if d%time.Second != 0 {
		s++
	}
	return uint32(min(s, 1<<32-1))
}
