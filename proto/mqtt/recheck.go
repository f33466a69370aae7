package mqtt

import (
	"bytes"
	"errors"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// walkStep is how many connections one turn of a loop looks at.
const walkStep = 256

// walk is a loop's way through all its connections, in steps. Others wait for it.
type walk struct {
	at    int
	do    func(c *conn) // nil: none
	queue []walkJob
}

type walkJob struct {
	do      func(c *conn)
	recheck bool
}

// Recheck has every client looked at again after users, certificates or rules have changed: those who would not come in any more, or who
// are subscribed to what they may not read any more, are closed; the others' cached decisions are void. It returns at once; each loop goes
// through its connections in bounded turns, once for all calls that have come before.
func (h *Handler) Recheck() {
	for _, l := range h.loops {
		l.loop.Post(engine.TaskFunc(func(*engine.Loop) {
			for _, j := range l.walk.queue {
				if j.recheck {
					return
				}
			}
			l.startWalk(walkJob{(*conn).recheck, true})
		}))
	}
}

func (c *conn) recheck() {
	if c.extra != nil {
		c.extra.acl = nil
	}
	switch c.state {
	case stateUp:
		if f := c.unwelcome(); f != nil {
			c.end(*f)
		}
	case stateConnecting: // Connected looks: nothing else does
		c.flags |= flagRecheck
	default: // it is looked at before it is let in
	}
}

// unwelcome says why a client may not stay; nil: it may.
func (c *conn) unwelcome() *failure {
	h := c.l.h
	var why error
	if h.recheck != nil {
		id := c.identity()
		id.Listener = c.link.Listener()
		why = h.recheck.Recheck(id, c.certificates())
	}
	switch {
	case errors.Is(why, broker.ErrBanned):
		return failBannedNow
	case why != nil:
		return &failure{wire.NotAuthorized, "no longer allowed: " + why.Error()}
	case c.revoked():
		return failNoLongerAllowed
	}
	return nil
}

// revoked ends the subscriptions that the client may not have any more, and says whether there were any. MQTT has no word for that: the
// client is closed, and is told when it asks for them again. If the core is busy they are found when the client comes back.
func (c *conn) revoked() bool {
	a, l := c.l.h.authz, c.l
	if a == nil || c.client == nil {
		return false
	}
	id := c.identity()
	var reqs []broker.SubscribeRequest
	l.core.Subscribed(c.client, func(group, filter []byte) {
		if !a.Authorize(id, broker.ActionSubscribe, filter) {
			reqs = append(reqs, broker.SubscribeRequest{Group: bytes.Clone(group), Filter: bytes.Clone(filter)})
		}
	})
	if len(reqs) == 0 {
		return false
	}
	_, _ = l.core.Unsubscribe(c.client, reqs, make([]error, len(reqs)), token(tokenRevoke, 0, 0))
	return true
}

// Shutdown refuses new clients and ends those that are there with this reason: ServerShuttingDown, UseAnotherServer or ServerMoved. Where Settings name another
// server the first one is UseAnotherServer.
// It returns at once; Snapshot's Open, or engine.Drain, tells when they have gone.
func (h *Handler) Shutdown(reason wire.ReasonCode) {
	why := failShuttingDown
	switch reason {
	case wire.UseAnotherServer:
		why = failUseAnother
	case wire.ServerMoved:
		why = failMoved
	default: // shutting down
		if h.settings.Load().ServerReference != "" {
			why = failUseAnother
		}
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
		l.loop.Post(engine.TaskFunc(func(*engine.Loop) { l.startWalk(walkJob{do: do}) }))
	}
}

func (l *loopState) startWalk(j walkJob) {
	l.walk.queue = append(l.walk.queue, j)
	if l.walk.do == nil {
		l.nextWalk()
	}
}

func (l *loopState) nextWalk() {
	if len(l.walk.queue) == 0 {
		l.walk = walk{}
		return
	}
	l.walk.do, l.walk.queue = l.walk.queue[0].do, l.walk.queue[1:]
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
