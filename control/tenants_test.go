package control_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/sluicemq/sluice/control/api"
)

func (n *node) tenants() api.TenantsClient { return api.NewTenantsClient(n.conn) }

// in has a call be about a tenant.
func in(ctx context.Context, tenant string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "sluice-tenant", tenant)
}

// addTenant adds a tenant.
func (n *node) addTenant(name string) {
	n.t.Helper()
	if _, err := n.tenants().Add(n.t.Context(), &api.AddTenantRequest{Name: name}); err != nil {
		n.t.Fatal(err)
	}
}

func TestTenants(t *testing.T) {
	dir := "node.data=" + t.TempDir()
	n := start(t, dir)
	ctx := t.Context()
	got, err := n.tenants().Add(ctx, &api.AddTenantRequest{Name: "acme", Limits: map[string]float64{"connections": 10, "messages_in": 0.5}})
	if err != nil || got.Name != "acme" || got.Number != 1 || got.Disabled || len(got.Limits) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	n.addTenant("globex")
	list, err := n.tenants().List(ctx, &api.ListTenantsRequest{PageSize: 2})
	if err != nil || len(list.Tenants) != 2 || list.Tenants[0].Name != "default" || list.Tenants[0].Number != 0 || list.Tenants[1].Name != "acme" || list.Tenants[1].Use == nil {
		t.Fatalf("%v, %v", list, err)
	}
	if list, err = n.tenants().List(ctx, &api.ListTenantsRequest{PageToken: list.NextPageToken}); err != nil || len(list.Tenants) != 1 || list.Tenants[0].Number != 2 || len(list.NextPageToken) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	disabled := true
	got, err = n.tenants().Set(ctx, &api.SetTenantRequest{Name: "acme", Limits: map[string]float64{"topics": 3}, Remove: []string{"connections"}, Disabled: &disabled})
	if err != nil || !got.Disabled || len(got.Limits) != 2 || got.Limits["topics"] != 3 || got.Limits["messages_in"] != 0.5 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err = n.tenants().Set(ctx, &api.SetTenantRequest{Name: "acme", Remove: []string{"topics"}}); err != nil || !got.Disabled || len(got.Limits) != 1 {
		t.Errorf("what is not named has changed: %v, %v", got, err)
	}
	if _, err := n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "globex"}); err != nil {
		t.Error(err)
	}
	_ = n.conn.Close()
	if err := n.s.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	if got, err = n.tenants().Describe(ctx, &api.DescribeTenantRequest{Name: "acme"}); err != nil || !got.Disabled || got.Limits["messages_in"] != 0.5 {
		t.Errorf("after a restart: %v, %v", got, err)
	}
	if got, err = n.tenants().Add(ctx, &api.AddTenantRequest{Name: "globex"}); err != nil || got.Number != 3 {
		t.Errorf("a tenant gets the number of one that is gone: %v, %v", got, err)
	}
}

func TestTenantsRefused(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	n.addTenant("acme")
	add := func(name string, limits map[string]float64) error {
		_, err := n.tenants().Add(ctx, &api.AddTenantRequest{Name: name, Limits: limits})
		return err
	}
	set := func(r *api.SetTenantRequest) error {
		_, err := n.tenants().Set(ctx, r)
		return err
	}
	remove := func(name string) error {
		_, err := n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: name})
		return err
	}
	wants(t, add("acme", nil), codes.AlreadyExists, "there already")
	wants(t, add("default", nil), codes.AlreadyExists, "there already")
	wants(t, add("", nil), codes.InvalidArgument, "1 to 63 bytes")
	wants(t, add("a/b", nil), codes.InvalidArgument, "want a letter")
	wants(t, add("b", map[string]float64{"cows": 1}), codes.InvalidArgument, "no limit \"cows\"; want one of bytes_in, ")
	wants(t, add("b", map[string]float64{"topics": 0}), codes.InvalidArgument, "a number above 0")
	wants(t, add("b", map[string]float64{"topics": 1.5}), codes.InvalidArgument, "a whole number")
	wants(t, set(&api.SetTenantRequest{Name: "acme"}), codes.InvalidArgument, "nothing is to be changed")
	wants(t, set(&api.SetTenantRequest{Name: "acme", Remove: []string{"cows"}}), codes.InvalidArgument, "no limit")
	wants(t, set(&api.SetTenantRequest{Name: "acme", Remove: []string{"topics"}, Limits: map[string]float64{"topics": 1}}), codes.InvalidArgument, "taken away")
	for _, err := range []error{set(&api.SetTenantRequest{Name: "default", Limits: map[string]float64{"topics": 1}}), remove("default")} {
		wants(t, err, codes.FailedPrecondition, "it is there always")
	}
	for _, err := range []error{set(&api.SetTenantRequest{Name: "b", Limits: map[string]float64{"topics": 1}}), remove("b")} {
		wants(t, err, codes.NotFound, "sluice tenant list")
	}
	_, err := n.tenants().Describe(ctx, &api.DescribeTenantRequest{Name: "b"})
	wants(t, err, codes.NotFound, "sluice tenant list")
}

// Names of two tenants have nothing to do with each other, and what a tenant has keeps it from being removed, by name.
func TestThingsOfTenants(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	acme, globex := in(ctx, "acme"), in(ctx, "globex")
	n.addTenant("acme")
	n.addTenant("globex")
	for i, c := range []context.Context{ctx, acme, globex} {
		if _, err := n.topics().Create(c, &api.CreateTopicRequest{Name: "orders", Partitions: int32(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []context.Context{ctx, acme, globex} {
		list, err := n.topics().List(c, &api.ListTopicsRequest{})
		if err != nil || len(list.Topics) != 1 || list.Topics[0].Partitions != int32(i+1) {
			t.Errorf("tenant %d: %v, %v", i, list, err)
		}
	}
	if _, err := n.topics().Delete(acme, &api.DeleteTopicRequest{Name: "orders"}); err != nil {
		t.Fatal(err)
	}
	_, err := n.topics().Describe(acme, &api.DescribeTopicRequest{Name: "orders"})
	wants(t, err, codes.NotFound, "there is none")
	if d, err := n.topics().Describe(globex, &api.DescribeTopicRequest{Name: "orders"}); err != nil || d.Topic.Partitions != 3 {
		t.Errorf("%v, %v", d, err)
	}
	_, err = n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "globex"})
	wants(t, err, codes.FailedPrecondition, "it has 1 Kafka topic; delete")
	if _, err := n.users().Add(globex, &api.AddUserRequest{Name: "hank", Credentials: stored(t, "one")}); err != nil {
		t.Fatal(err)
	}
	_, err = n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "globex"})
	wants(t, err, codes.FailedPrecondition, "it has 1 user, 1 Kafka topic; delete")
	if log := n.log.String(); !strings.Contains(log, "Topics/Delete subject=orders") || !strings.Contains(log, "tenant=acme") {
		t.Errorf("the log is %s", log)
	}
}

// A user is one tenant's, and nobody finds it in another; its name is taken for all.
func TestUsersOfTenants(t *testing.T) {
	n := start(t, "auth.password_file="+passwordFile(t, "filed"))
	ctx := t.Context()
	n.addTenant("acme")
	acme := in(ctx, "acme")
	if _, err := n.users().Add(acme, &api.AddUserRequest{Name: "ann", Credentials: stored(t, "one")}); err != nil {
		t.Fatal(err)
	}
	for c, want := range map[context.Context]string{ctx: "filed", acme: "ann"} {
		list, err := n.users().List(c, &api.ListUsersRequest{})
		if err != nil || len(list.Users) != 1 || list.Users[0].Name != want {
			t.Errorf("%v, %v; want %s", list, err, want)
		}
	}
	for _, name := range []string{"ann", "filed"} {
		other := map[string]context.Context{"ann": ctx, "filed": acme}[name]
		_, err := n.users().Add(other, &api.AddUserRequest{Name: name, Credentials: stored(t, "two")})
		wants(t, err, codes.AlreadyExists, "the name is taken")
		_, err = n.users().SetPassword(other, &api.SetPasswordRequest{Name: name, Credentials: stored(t, "two")})
		wants(t, err, codes.NotFound, "there is none")
		_, err = n.users().SetDisabled(other, &api.SetDisabledRequest{Name: name, Disabled: true})
		wants(t, err, codes.NotFound, "there is none")
		_, err = n.users().Delete(other, &api.DeleteUserRequest{Name: name})
		wants(t, err, codes.NotFound, "there is none")
	}
	if u, err := n.users().SetDisabled(acme, &api.SetDisabledRequest{Name: "ann", Disabled: true}); err != nil || !u.Disabled {
		t.Errorf("%v, %v", u, err)
	}
	if _, err := n.users().SetPassword(acme, &api.SetPasswordRequest{Name: "ann", Credentials: stored(t, "two")}); err != nil {
		t.Error(err)
	}
	_, err := n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "acme"})
	wants(t, err, codes.FailedPrecondition, "it has 1 user;")
	if _, err := n.users().Delete(acme, &api.DeleteUserRequest{Name: "ann"}); err != nil {
		t.Error(err)
	}
	if _, err := n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "acme"}); err != nil {
		t.Error(err)
	}
	_, err = n.users().List(acme, &api.ListUsersRequest{})
	wants(t, err, codes.NotFound, "there is no tenant \"acme\"")
}

// Quotas of addresses are the node's.
func TestQuotasOfTenants(t *testing.T) {
	n := start(t)
	n.addTenant("acme")
	_, err := n.quotas().Set(in(t.Context(), "acme"), &api.SetQuotaRequest{Entity: &api.QuotaEntity{Address: &api.QuotaPart{Name: "10.0.0.7"}},
		Bounds: map[string]float64{"connection_creation_rate": 5}})
	wants(t, err, codes.InvalidArgument, "addresses are the node's")
}
