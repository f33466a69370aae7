package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/broker"
)

// quotaState is a connection's part in quotas: that of its user and client id, as for Kafka's clients. It is made with the first message that
// is published while there are any.
type quotaState struct {
	use   *broker.QuotaUse
	timer broker.LoopTimer
}

// meter counts the bytes of PUBLISH packets of one turn. A client that is over its quota is not read from until that is paid for.
func (c *conn) meter(published int) {
	if c.client == nil || c.state != stateUp {
		return
	}
	x := c.extras()
	if x.quota == nil {
		x.quota = &quotaState{use: c.l.h.quotas.Use(c.identity().Principal(), c.clientID())}
	}
	if d := x.quota.use.Take(broker.QuotaProduce, float64(published), c.l.loop.NowMono()); d > 0 {
		c.throttle(d)
	}
}

func (c *conn) throttle(d time.Duration) {
	c.block(blockQuota)
	c.l.core.SetTimer(&c.extra.quota.timer, d, func() { c.unblock(blockQuota) })
}

// endQuota lets go of what the connection holds.
func (c *conn) endQuota() {
	if x := c.extra; x != nil && x.quota != nil {
		c.l.core.StopTimer(&x.quota.timer)
		x.quota.use.Release(c.l.loop.NowMono())
		x.quota = nil
	}
}
