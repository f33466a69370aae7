package server

import (
	"testing"

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
