package server

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// The core has a limit for each of the catalog's.
func TestTenantLimitNames(t *testing.T) {
	names := meta.TenantLimits()
	if len(names) != int(broker.TenantLimitKinds) {
		t.Errorf("the catalog has %d limits, the core %d", len(names), broker.TenantLimitKinds)
	}
	for _, name := range names {
		if k, ok := broker.TenantLimitOf(name); !ok || k.String() != name {
			t.Errorf("the core has no limit %s", name)
		}
	}
}

// Where there are tenants, a client id that comes too often in the default one does not keep out somebody of whom nobody knows the tenant yet.
func TestFlappingBeforeTenantIsKnown(t *testing.T) {
	bans, limits := auth.NewBans(nil), &broker.TenantLimits{}
	bans.SetFlapping(auth.FlappingOptions{Connects: 1, Window: time.Hour, Ban: time.Hour})
	f := flapping{bans, limits}
	for range 2 {
		f.Connected(0, "x")
	}
	if !f.Flapping("x") {
		t.Error("without tenants it is asked about who it is")
	}
	limits.Set([]broker.LimitedTenant{{Number: 1, Name: "one"}})
	if f.Flapping("x") || f.Connected(0, "x") || !f.Connected(1, "x") {
		t.Error("with tenants the wrong one is kept out")
	}
}

// Each limit that a tenant can have in the catalog is one that the core holds it to, by the same name.
func TestTenantLimitsAreKnown(t *testing.T) {
	for _, name := range meta.TenantLimits() {
		if k, ok := broker.TenantLimitOf(name); !ok || k.String() != name {
			t.Errorf("%s: the core has %v, %v", name, k, ok)
		}
	}
	if n := len(meta.TenantLimits()); n != int(broker.TenantLimitKinds) {
		t.Errorf("the catalog knows %d limits, the core %d", n, broker.TenantLimitKinds)
	}
}
