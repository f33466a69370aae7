package mqtt

import (
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// walkStep is how many connections one turn of a loop looks at.
const walkStep = 256

// walk is a loop's way through all its connections, in steps. Others wait for it.
type walk struct {
	at    int
	do    func(c *conn) // nil: none
	queue []func(c *conn)
}

// Recheck has every client looked at again after users, certificates or rules have changed: those who would not come in any more are
// closed, the others' cached decisions are void. It returns at once; each loop goes through its connections in bounded turns.
func (h *Handler) Recheck() {
	h.each(func(c *conn) {
		if c.extra != nil {
			c.extra.acl = nil
		}
		if c.state != stateUp {
			return
		}
		if h.recheck != nil && h.recheck.Recheck(c.identity(), c.certificates()) != nil {
			c.end(*failNoLongerAllowed)
		}
	})
}

// Shutdown refuses new clients and ends those that are there with this reason: ServerShuttingDown, UseAnotherServer or ServerMoved.
// It returns at once; Snapshot's Open, or engine.Drain, tells when they have gone.
func (h *Handler) Shutdown(reason wire.ReasonCode) {
	why := failShuttingDown
	switch reason {
	case wire.UseAnotherServer:
		why = failUseAnother
	case wire.ServerMoved:
		why = failMoved
	default: // shutting down
	}
	h.draining.Store(why)
	h.each(func(c *conn) {
		switch c.state {
		case stateUp:
			c.end(*why)
		case stateClosing:
		default:
			c.refuse(*why)
		}
	})
}

// each has every loop call do for each of its connections.
func (h *Handler) each(do func(c *conn)) {
	for _, l := range h.loops {
		l.loop.Post(engine.TaskFunc(func(*engine.Loop) { l.startWalk(do) }))
	}
}

func (l *loopState) startWalk(do func(c *conn)) {
	l.walk.queue = append(l.walk.queue, do)
	if l.walk.do == nil {
		l.nextWalk()
	}
}

func (l *loopState) nextWalk() {
	if len(l.walk.queue) == 0 {
		l.walk = walk{}
		return
	}
	l.walk.do, l.walk.queue = l.walk.queue[0], l.walk.queue[1:]
	l.walk.at = 0
	l.step()
}

// step goes on with a walk. Of the connections that come meanwhile some are seen and some not: they came in by the new rules.
func (l *loopState) step() {
	l.walk.at = l.loop.States(l.walk.at, walkStep, func(state any) {
		if c, ok := state.(*conn); ok && c.l == l {
			l.walk.do(c)
		}
	})
	if l.walk.at < 0 {
		l.nextWalk()
		return
	}
	l.loop.Post(engine.TaskFunc(func(*engine.Loop) { l.step() }))
}
