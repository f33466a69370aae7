package identity

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

// A limit that a tenant is given counts when that is answered: its clients are refused by whatever door they come, others are not, and /metrics tells of it.
func TestTenantLimitIsAtOnce(t *testing.T) {
	n := tenanted(t)
	limit := func(r *api.SetTenantRequest) {
		t.Helper()
		n.control("", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := api.NewTenantsClient(conn).Set(ctx, r)
			return err
		})
	}
	for range 3 {
		limit(&api.SetTenantRequest{Name: "plant", Limits: map[string]float64{"connections": 1}})
		first := n.connect("mqtt.tcp", "first", nil, as("plant-user", "secret"))
		if _, err := n.try("mqtt.plant", "second", nil); err == nil || !strings.Contains(err.Error(), "as many connections as it may") {
			t.Errorf("one too many: %v", err)
		}
		n.connect("mqtt.lab", "second", nil)
		n.connect("mqtt.tcp", "second", nil)
		limit(&api.SetTenantRequest{Name: "plant", Remove: []string{"connections"}})
		n.connect("mqtt.plant", "second", nil)
		if err := first.Ping(); err != nil {
			t.Error(err)
		}
		for _, c := range []string{"first", "second"} { // both go, and are counted no more
			n.control("plant", func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := api.NewClientsClient(conn).Kick(ctx, &api.KickClientRequest{Id: c})
				return err
			})
		}
		testx.Eventually(t, patience, func() bool {
			v, ok := n.metric("sluice_tenant_connections{", `tenant="plant"`)
			return ok && v == 0
		}, "plant has no connections")
	}
	if v, ok := n.metric("sluice_tenant_refused_total{", `tenant="plant"`, `limit="connections"`); !ok || v != 3 {
		t.Errorf("%v refusals are counted, %v", v, ok)
	}
	if v, ok := n.metric("sluice_tenant_refused_total{", `tenant="lab"`, `limit="connections"`); !ok || v != 0 {
		t.Errorf("%v refusals of the other tenant are counted, %v", v, ok)
	}
	if _, ok := n.metric("sluice_tenant_", `tenant="default"`); ok {
		t.Error("the default tenant is counted")
	}
}
