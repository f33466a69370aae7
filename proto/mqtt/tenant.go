package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/broker"
)

// What is here holds clients to the limits of their tenant. Those of the default one have principal.use nil, and nothing of it is called for them.

// tenantState is what a connection waits for that its tenant's clients have used up together.
type tenantState struct {
	reading broker.LoopTimer // what they have published is paid for
	sending broker.LoopTimer // what they were sent is paid for
}

// tenantWait is how long a client waits at once: it looks again then, as others may have been faster, and the limit may be another one.
const tenantWait = time.Second

func (c *conn) tenantState() *tenantState {
	x := c.extras()
	if x.limit == nil {
		x.limit = &tenantState{}
	}
	return x.limit
}

// enterTenant counts the connection of a client that was verified; nil: it may come in. A client that comes back before its last connection has gone is let in beside
// that.
func (c *conn) enterTenant() *failure {
	use := c.who.use
	if use == nil {
		return nil
	}
	over, ok := use.Enter(c.l.loop.NowMono(), func() bool { return c.l.h.held(c.who.tenant, c.clientID()) })
	if ok {
		return nil
	}
	who := *c.who
	who.use = nil // it is not counted
	c.who = &who
	if over == broker.TenantConnectRate {
		return failTenantRate
	}
	return failTenantConns
}

// meterTenant counts what one call of onData has published. A client of a tenant that is over a limit is not read from until that is paid for.
func (c *conn) meterTenant(publishes, published int) {
	if d := c.who.use.In(publishes, published, c.l.loop.NowMono()); d > 0 && c.state == stateUp {
		c.block(blockTenant)
		c.l.core.SetTimer(&c.tenantState().reading, min(d, tenantWait), c.readOn)
	}
}

// readOn goes on with a client that has waited for its tenant.
func (c *conn) readOn() {
	if d := c.who.use.OwedIn(c.l.loop.NowMono()); d > 0 {
		c.l.core.SetTimer(&c.tenantState().reading, min(d, tenantWait), c.readOn)
		return
	}
	c.unblock(blockTenant)
}

// lookTenant has the client get nothing for as long as what its tenant's clients were sent is not paid for.
func (c *conn) lookTenant() {
	if c.flags&flagOverTenant != 0 {
		return
	}
	if d := c.who.use.OwedOut(c.l.loop.NowMono()); d > 0 {
		c.pauseTenant(d)
	}
}

// sentTenant counts a PUBLISH packet that leaves.
func (c *conn) sentTenant(size int) {
	if d := c.who.use.Out(1, size, c.l.loop.NowMono()); d > 0 {
		c.pauseTenant(d)
	}
}

func (c *conn) pauseTenant(d time.Duration) {
	c.flags |= flagOverTenant
	c.l.core.SetTimer(&c.tenantState().sending, min(d, tenantWait), c.tenantPaid)
}

// tenantPaid goes on with what waited for the tenant.
func (c *conn) tenantPaid() {
	if d := c.who.use.OwedOut(c.l.loop.NowMono()); d > 0 {
		c.pauseTenant(d)
		return
	}
	c.flags &^= flagOverTenant
	c.moveOn()
}
