package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/broker"
)

// quotaState is a connection's part in quotas: that of its user and client id, as for Kafka's clients. It is made when there are any for it,
// with what it first publishes or is sent.
type quotaState struct {
	use      *broker.QuotaUse
	reading  broker.LoopTimer // what was published, or took the loop's time, is paid for
	sending  broker.LoopTimer // what was sent is paid for
	sent     int              // bytes of PUBLISH packets of this turn, and
	sentMost int              // how many there may be
}

// requestThrottleMax is the longest that a client waits at once for its part of the loop's time, as for Kafka's clients.
const requestThrottleMax = time.Second

// quotas gives the connection's part in quotas, nil if there are none for it. Nothing is asked or kept for one that has none.
func (c *conn) quotas() *quotaState {
	if x := c.extra; x != nil && x.quota != nil {
		return x.quota
	}
	if c.quotaSeen == c.l.quotaNow || c.l.quotaNow == 0 || c.client == nil || c.state != stateUp {
		return nil
	}
	c.quotaSeen = c.l.quotaNow
	// Not by c.identity: another connection may be at work with that.
	id := broker.Identity{User: c.who.user}
	if !c.l.h.quotas.Bound(c.who.tenant, id.Principal(), c.clientID()) {
		return nil
	}
	q := &quotaState{use: c.l.h.quotas.Use(c.who.tenant, id.Principal(), c.clientID())}
	c.extras().quota = q
	return q
}

// startWatch begins to measure what packets cost the loop, if that is bounded for the client. Zero: it is not.
func (c *conn) startWatch() (began time.Time) {
	if q := c.quotas(); q != nil {
		if _, ok := q.use.Bounds(broker.QuotaRequest, c.l.loop.NowMono()); ok {
			began = time.Now()
		}
	}
	return began
}

// meter counts what one call of onData has taken: the bytes of PUBLISH packets, and the loop's time. A client that is over a quota is not read
// from until that is paid for.
func (c *conn) meter(published int, began time.Time) {
	q := c.quotas()
	if q == nil || c.state != stateUp {
		return
	}
	now := c.l.loop.NowMono()
	d := q.use.Take(broker.QuotaProduce, float64(published), now)
	if !began.IsZero() {
		d = max(d, min(q.use.Take(broker.QuotaRequest, float64(time.Since(began)), now), requestThrottleMax))
	}
	if d > 0 {
		c.block(blockQuota)
		c.l.core.SetTimer(&q.reading, d, func() { c.unblock(blockQuota) })
	}
}

// sentOnCredit is the part of a second's worth that a client may be sent in one turn though it is not paid for yet.
const sentOnCredit = 0.1

// meterSent counts a PUBLISH packet that leaves. The turn's are taken from the quota together when it ends; more than what is left of the quota
// is not sent in a turn.
func (c *conn) meterSent(size int) {
	q := c.quotas()
	if q == nil {
		return
	}
	if c.flags&flagMetered == 0 {
		now := c.l.loop.NowMono()
		most, ok := q.use.Bounds(broker.QuotaConsume, now)
		if !ok {
			return
		}
		left, _ := q.use.Left(broker.QuotaConsume, now)
		c.flags |= flagMetered
		q.sent, q.sentMost = 0, int(max(left, most*sentOnCredit))
		c.l.metered = append(c.l.metered, c)
	}
	if q.sent += size; q.sent >= q.sentMost {
		c.flags |= flagOverQuota
	}
}

// endTurnQuotas takes what was sent in this turn from the receivers' quotas. One that is over its own gets nothing until that is paid for.
func (l *loopState) endTurnQuotas() {
	l.quotaNow = l.h.quotas.Generation()
	for i, c := range l.metered {
		l.metered[i] = nil
		c.flags &^= flagMetered
		if c.state != stateUp || c.extra == nil || c.extra.quota == nil {
			continue
		}
		q := c.extra.quota
		d := q.use.Take(broker.QuotaConsume, float64(q.sent), l.loop.NowMono())
		if d > 0 || c.flags&flagOverQuota != 0 {
			c.flags |= flagOverQuota
			l.core.SetTimer(&q.sending, d, c.sendOn)
		}
	}
	l.metered = l.metered[:0]
}

// sendOn goes on with what waited for the quota.
func (c *conn) sendOn() {
	c.flags &^= flagOverQuota
	c.moveOn()
}

// endQuota lets go of what the connection holds.
func (c *conn) endQuota() {
	if x := c.extra; x != nil && x.limit != nil {
		c.l.core.StopTimer(&x.limit.reading)
		c.l.core.StopTimer(&x.limit.sending)
		x.limit = nil
	}
	if x := c.extra; x != nil && x.quota != nil {
		c.l.core.StopTimer(&x.quota.reading)
		c.l.core.StopTimer(&x.quota.sending)
		x.quota.use.Release(c.l.loop.NowMono())
		x.quota = nil
	}
}
