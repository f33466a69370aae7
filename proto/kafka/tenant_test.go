package kafka

import (
	"errors"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// A tenant's connections are counted until they end, and one too many of them is refused; another tenant, and the default one, do not notice. Who says by SASL that it
// is another tenant's is counted there.
func TestTenantConnections(t *testing.T) {
	a, _ := metered(t)
	limits := a.l.h.broker.Tenants()
	one := broker.LimitedTenant{Number: 1, Name: "one"}
	one.Limits[broker.TenantConnections] = 1
	limits.Set([]broker.LimitedTenant{one, {Number: 2, Name: "two"}})
	enter := func(c *conn, tenant uint32) error { return c.enterTenant(&broker.Identity{Tenant: tenant}) }
	b, c := &conn{link: a.link, l: a.l}, &conn{link: a.link, l: a.l}
	if err := errors.Join(enter(a, 1), enter(a, 1), enter(b, 2), enter(c, 0)); err != nil {
		t.Fatal(err)
	}
	if err := enter(b, 1); !errors.Is(err, errTenantFull) {
		t.Errorf("one too many: %v", err)
	}
	if one, two := limits.Use(1).Counts(), limits.Use(2).Counts(); one.Connections != 1 || one.Refused[broker.TenantConnections] != 1 || two.Connections != 1 {
		t.Errorf("counted %+v, %+v", one, two)
	}
	if err := errors.Join(enter(a, 2), enter(b, 1)); err != nil {
		t.Error("it has gone to another tenant, and there is no room:", err)
	}
	for _, k := range []*conn{a, b, c} {
		k.use.Leave()
	}
	if one, two := limits.Use(1).Counts(), limits.Use(2).Counts(); one.Connections != 0 || two.Connections != 0 {
		t.Errorf("counted %+v, %+v after all have gone", one, two)
	}
}

// What two clients of a tenant fetch is paid for together: each is told to wait. A fetch takes no more than a second's worth.
func TestTenantFetches(t *testing.T) {
	a, ka := metered(t)
	limits := a.l.h.broker.Tenants()
	one := broker.LimitedTenant{Number: 1, Name: "one"}
	one.Limits[broker.TenantBytesOut] = 1000
	limits.Set([]broker.LimitedTenant{one})
	b := &conn{link: &pausing{}, l: a.l, id: a.id}
	t.Cleanup(b.endQuota)
	for i, c := range []*conn{a, b} {
		if err := c.enterTenant(&broker.Identity{Tenant: 1}); err != nil {
			t.Fatal(err)
		}
		f := &fetchState{r: &request{c: c}, minBytes: 5000, maxBytes: 1 << 20}
		if f.boundFetch(); f.maxBytes != 1000 || f.minBytes != 1000 {
			t.Errorf("a fetch takes %d to %d bytes", f.minBytes, f.maxBytes)
		}
		f.r.wait(c.use.Out(0, 3000, c.l.loop.NowMono()))
		if want := time.Duration(2+3*i) * time.Second; f.r.throttle != want {
			t.Errorf("client %d is to wait %v, want %v", i, f.r.throttle, want)
		}
	}
	if !ka.paused {
		t.Error("it is read from though it is to wait")
	}
}
