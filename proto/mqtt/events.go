package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// What is here tells of connections, sessions and subscriptions, for as long as somebody wants to know: see internal/events. None of it is on the way of a
// message.

// wants says whether somebody wants to know of the client's events of a kind. They go to topics of the default tenant, and tell of its clients alone.
func (c *conn) wants(k events.Kind) bool { return c.tenant() == 0 && c.l.events.Wants(k) }

// event begins an event of the connection's.
func (c *conn) event(k events.Kind) events.Event {
	e := events.Event{Kind: k, At: c.l.loop.NowUnixMilli(), ClientID: c.clientID(), User: c.who.user}
	if m, ok := c.link.(meter); ok {
		e.Connection = m.ID()
	}
	return e
}

// peerEvent is event with who is at the other end.
func (c *conn) peerEvent(k events.Kind) events.Event {
	e := c.event(k)
	e.Remote, e.Listener, e.Protocol, e.TLS = c.link.Remote(), c.link.Listener(), c.protocol(), c.link.TLS() != nil
	return e
}

// eventConnected tells that a client has come in, and by what session.
func (c *conn) eventConnected(st *setup, r *broker.ConnectResult) {
	q := c.l.events
	if c.wants(events.ClientConnected) {
		e := c.peerEvent(events.ClientConnected)
		e.CleanStart, e.Present, e.KeepAlive, e.Will = st.clean, r.Present, st.keepAlive, st.will != nil
		e.Expiry, e.Reason = events.Seconds(r.Expiry, broker.NeverExpires), wire.Success.String()
		q.Add(e)
	}
	kind := events.SessionCreated
	if r.Present {
		kind = events.SessionResumed
	}
	if c.wants(kind) {
		q.Add(c.event(kind))
	}
}

// Who has ended a connection.
const (
	byClient  = "client"
	byServer  = "server"
	byNetwork = "network"
)

// eventEnd tells that the connection of a client who had come in has ended. It is called before the session is let go.
func (c *conn) eventEnd(by string, f failure) {
	q := c.l.events
	if c.state != stateUp || !c.wants(events.ClientDisconnected) {
		return
	}
	e := c.peerEvent(events.ClientDisconnected)
	e.By, e.Code, e.Reason, e.Detail = by, uint8(f.code), f.code.String(), f.detail
	if m, ok := c.link.(meter); ok {
		e.BytesIn, e.BytesOut = m.Traffic()
		e.Since = e.At - (c.l.loop.NowMono()-m.Opened())/int64(time.Millisecond)
	}
	q.Add(e)
}

// eventTakenOver tells that another connection takes the session.
func (c *conn) eventTakenOver() {
	if c.state == stateUp && c.wants(events.SessionTakenOver) {
		c.l.events.Add(c.event(events.SessionTakenOver))
	}
}

// toldMax bounds the events of one request, which wait with it: there is no room in the list for more at a time anyway.
const toldMax = 4096

// subscriptionEvents are those of what the core was asked for, but for what it has refused: nil while nobody wants to know.
func (c *conn) subscriptionEvents(k events.Kind) (list []events.Event) {
	l := c.l
	if !c.wants(k) {
		return nil
	}
	for i := range l.reqs {
		if l.errs[i] != nil {
			continue
		}
		r := &l.reqs[i]
		if len(list) >= toldMax {
			l.events.Lose(1)
			continue
		}
		e := c.event(k)
		e.Filter, e.Group, e.QoS, e.NoLocal = string(r.Filter), string(r.Group), r.QoS, r.NoLocal
		list = append(list, e)
	}
	return list
}

// subscriptionKind is the kind of a request's events.
func subscriptionKind(typ wire.PacketType) events.Kind {
	if typ == wire.SUBACK {
		return events.SessionSubscribed
	}
	return events.SessionUnsubscribed
}
