package kafka

import (
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// As Kafka does it (KIP-219), a client that is over a quota is answered at once, with the time that it is to wait, and is not read from until
// that is over. What is asked here is asked once for each request, and only while there are quotas.

// quotaState is a connection's part in quotas. It is made when there are any.
type quotaState struct {
	use   *broker.QuotaUse
	timer broker.LoopTimer
	until int64 // muted until then
}

const (
	// requestThrottleMax is the longest that a client waits at once for its part of the loop's time: Kafka's window.
	requestThrottleMax = time.Second
	// connectThrottleMax is the longest that a connection too many is kept before it is closed.
	connectThrottleMax = time.Second
)

// quotaUse is that of the request's client.
func (c *conn) quotaUse(clientID []byte) *broker.QuotaUse {
	s, tenant, user := c.quotaState(), c.tenant(), c.id.Principal()
	if s.use == nil || !s.use.Is(tenant, user, clientID) {
		c.releaseQuota()
		s.use = c.l.h.quotas.Use(tenant, user, string(clientID))
	}
	return s.use
}

func (c *conn) quotaState() *quotaState {
	if c.quota == nil {
		c.quota = &quotaState{}
	}
	return c.quota
}

func (c *conn) releaseQuota() {
	if s := c.quota; s != nil && s.use != nil {
		s.use.Release(c.l.loop.NowMono())
		s.use = nil
	}
}

// endQuota lets go of what the connection holds.
func (c *conn) endQuota() {
	if c.quota != nil {
		c.l.core.StopTimer(&c.quota.timer)
		c.releaseQuota()
	}
}

// meter counts a request that begins.
func (c *conn) meter(r *request, q *wire.Request) {
	if c.id == nil {
		return
	}
	now, u := c.l.loop.NowMono(), c.quotaUse(q.ClientID)
	d := min(u.Owed(broker.QuotaRequest, now), requestThrottleMax)
	if q.Key == wire.Produce {
		d = max(d, u.Take(broker.QuotaProduce, float64(q.Size), now))
	}
	r.wait(d)
}

// wait has the client told to wait for d, and does not read from it meanwhile.
func (r *request) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	r.throttle = max(r.throttle, d)
	c := r.c
	s := c.quotaState()
	if until := c.l.loop.NowMono() + int64(d); until > s.until || c.blocked&blockQuota == 0 {
		s.until = until
		c.block(blockQuota)
		c.l.core.SetTimer(&s.timer, d, func() { c.unblock(blockQuota) })
	}
}

// throttleMS is what the answer says of it.
func (r *request) throttleMS() int32 {
	return int32((r.throttle + time.Millisecond - 1) / time.Millisecond)
}

// tellThrottle puts it into an answer.
func (r *request) tellThrottle(m kmsg.Response) {
	if t, ok := m.(kmsg.SetThrottleResponse); ok && r.throttle > 0 {
		t.SetThrottle(r.throttleMS())
	}
}

// boundFetch has a fetch take no more than its client may have at once.
func (f *fetchState) boundFetch() {
	c := f.r.c
	if most, ok := c.use.MostOut(); ok {
		f.boundTo(most)
	}
	if c.id == nil || !c.l.h.quotas.Any() {
		return
	}
	if most, ok := c.quotaUse(f.r.clientID).Bounds(broker.QuotaConsume, c.l.loop.NowMono()); ok {
		f.boundTo(most)
	}
}

func (f *fetchState) boundTo(most float64) {
	f.maxBytes = min(f.maxBytes, max(int(most), 1))
	f.minBytes = min(f.minBytes, f.maxBytes)
}

// meterFetch counts what is about to leave.
func (f *fetchState) meterFetch() {
	if use := f.r.c.use; use != nil {
		f.r.wait(use.Out(0, f.bytes(), f.r.c.l.loop.NowMono()))
	}
	if s := f.r.c.quota; s != nil && s.use != nil {
		f.r.wait(s.use.Take(broker.QuotaConsume, float64(f.bytes()), f.r.c.l.loop.NowMono()))
	}
}

// mayMutate counts partitions that are about to be made or deleted. strict: of a client that knows how it is told to come again later.
func (r *request) mayMutate(partitions int, strict bool) bool {
	c := r.c
	if !c.l.h.quotas.Any() {
		return true
	}
	now, u := c.l.loop.NowMono(), c.quotaUse(r.clientID)
	if d := u.Owed(broker.QuotaMutate, now); d > 0 && strict {
		r.wait(d)
		return false
	}
	r.wait(u.Take(broker.QuotaMutate, float64(partitions), now))
	return true
}

const mutationsExceeded = "the quota of changes is used up: come again when the throttle time is over"

// stopwatch measures what the requests of one turn cost the loop, if that is bounded for their client.
type stopwatch struct{ began time.Time }

func (c *conn) startWatch() (w stopwatch) {
	if s := c.quota; s != nil && s.use != nil {
		if _, ok := s.use.Bounds(broker.QuotaRequest, c.l.loop.NowMono()); ok {
			w.began = time.Now()
		}
	}
	return w
}

func (w stopwatch) stop(c *conn) {
	if s := c.quota; !w.began.IsZero() && s != nil && s.use != nil {
		s.use.Take(broker.QuotaRequest, float64(time.Since(w.began)), c.l.loop.NowMono())
	}
}

// countConnection closes a connection that is one too many of its address, after a while, so that its client does not come back at once.
func (c *conn) countConnection() {
	a, ok := c.link.RemoteAddr().(*net.TCPAddr)
	if !ok || a == nil || !c.l.h.quotas.Any() {
		return
	}
	if d := c.l.h.quotas.Connect(a.AddrPort().Addr(), c.l.loop.NowMono()); d > 0 {
		c.shutIn(min(d, connectThrottleMax), errTooManyConnections)
	}
}

// shutIn closes a connection that is one too many after a while, and does not read from it meanwhile.
func (c *conn) shutIn(d time.Duration, why error) {
	c.block(blockQuota)
	c.l.core.SetTimer(&c.quotaState().timer, d, func() { c.shut(why) })
}

// enterTenant counts the connection for the tenant of who its client is. An error that is errTenantFull: it is one too many, and is to be closed without a word
// after a while. Clients take any answer to their credentials for a refusal of them, and do not come again.
func (c *conn) enterTenant(id *broker.Identity) error {
	use := c.l.h.broker.Tenants().Use(id.Tenant)
	if use == c.use {
		return nil
	}
	if over, ok := use.Enter(c.l.loop.NowMono(), nil); !ok {
		return fmt.Errorf("%w: %s", errTenantFull, over)
	}
	c.use.Leave()
	c.use = use
	return nil
}
