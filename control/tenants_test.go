package control_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
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

// inTenant connects a client of MQTT as a user of a tenant, who may everything there.
func (n *node) inTenant(tenant, user, id string, expiry uint32) *mqttclient.Client {
	n.t.Helper()
	if _, err := n.users().Add(in(n.t.Context(), tenant), &api.AddUserRequest{Name: user, Credentials: stored(n.t, "one")}); err != nil && status.Code(err) != codes.AlreadyExists {
		n.t.Fatal(err)
	}
	c, _, err := mqttclient.Connect(n.t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"],
		Connect: wire.Connect{Version: wire.V5, ClientID: []byte(id), SessionExpiry: expiry, UserName: []byte(user), Password: []byte("one")}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Clients of one id in two tenants are two, and a call finds the one of its own; what they leave keeps their tenant from being removed.
func TestClientsOfTenants(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	n.addTenant("acme")
	n.addTenant("globex")
	acme, globex := in(ctx, "acme"), in(ctx, "globex")
	ann, hank := n.inTenant("acme", "ann", "pump", 3600), n.inTenant("globex", "hank", "pump", 3600)
	n.subscribe(ann, "plant/#")
	for c, want := range map[context.Context]string{acme: "ann", globex: "hank"} {
		list, err := n.clients().List(c, &api.ListClientsRequest{})
		if err != nil || len(list.Clients) != 1 || list.Clients[0].User != want {
			t.Fatalf("%v, %v; want %s", list, err, want)
		}
		d, err := n.clients().Describe(c, &api.DescribeClientRequest{Id: "pump"})
		if err != nil || len(d.Clients) != 1 || d.Clients[0].User != want || d.Session == nil || (len(d.Subscriptions) == 1) != (want == "ann") {
			t.Errorf("%v, %v", d, err)
		}
		x, err := n.explain().ExplainClient(c, &api.ExplainClientRequest{Id: "pump"})
		if err != nil || len(x.Connections) != 1 || x.Connections[0].Client.User != want {
			t.Errorf("%v, %v", x, err)
		}
	}
	if list, err := n.clients().List(ctx, &api.ListClientsRequest{}); err != nil || len(list.Clients) != 0 {
		t.Errorf("the default tenant has %v, %v", list, err)
	}
	number, err := n.clients().List(acme, &api.ListClientsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.clients().Kick(globex, &api.KickClientRequest{Connection: number.Clients[0].Connection})
	wants(t, err, codes.NotFound, "it is not connected")
	_, err = n.clients().Kick(ctx, &api.KickClientRequest{Id: "pump"})
	wants(t, err, codes.NotFound, "it is not connected")
	if found, err := n.subscriptions().Find(globex, &api.FindSubscriptionsRequest{Topic: "plant/1"}); err != nil || found.Subscribers != 0 {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := hank.Publish(&wire.PublishOut{Topic: []byte("plant/1"), Payload: []byte("x"), QoS: 1, Retain: true}); err != nil {
		t.Fatal(err)
	}
	if x, err := n.explain().ExplainTopic(acme, &api.ExplainTopicRequest{Topic: "plant/1"}); err != nil || x.Retained != nil || x.Subscribers != 1 {
		t.Errorf("%v, %v", x, err)
	}
	if k, err := n.clients().Kick(globex, &api.KickClientRequest{Id: "pump"}); err != nil || k.Kicked != 1 {
		t.Errorf("%v, %v", k, err)
	}
	ended(t, hank, wire.AdministrativeAction)
	if err := ann.Ping(); err != nil {
		t.Errorf("the client of the other tenant is closed: %v", err)
	}
	if d, err := n.tenants().Describe(ctx, &api.DescribeTenantRequest{Name: "globex"}); err != nil || d.Use.Sessions != 1 || d.Use.Retained != 1 || d.Use.Users != 1 || d.Use.Connections != 0 {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := n.users().Delete(globex, &api.DeleteUserRequest{Name: "hank"}); err != nil {
		t.Fatal(err)
	}
	_, err = n.tenants().Remove(ctx, &api.RemoveTenantRequest{Name: "globex"})
	wants(t, err, codes.FailedPrecondition, "it has 1 kept session, 1 retained message; delete")
	_, err = n.sessions().Delete(ctx, &api.DeleteSessionRequest{Id: "pump"})
	wants(t, err, codes.NotFound, "there is none")
	if _, err := n.sessions().Delete(globex, &api.DeleteSessionRequest{Id: "pump"}); err != nil {
		t.Error(err)
	}
	if _, err := n.sessions().Describe(acme, &api.DescribeSessionRequest{Id: "pump"}); err != nil {
		t.Errorf("the session of the other tenant is gone: %v", err)
	}
}

// Who is there when its tenant is disabled is closed and kept out, until it is enabled; nobody else notices.
func TestDisabledTenantsClients(t *testing.T) {
	n := start(t)
	n.addTenant("acme")
	n.addTenant("globex")
	ann, hank := n.inTenant("acme", "ann", "pump", 0), n.inTenant("globex", "hank", "pump", 0)
	set := func(disabled bool) {
		t.Helper()
		if _, err := n.tenants().Set(t.Context(), &api.SetTenantRequest{Name: "acme", Disabled: &disabled}); err != nil {
			t.Fatal(err)
		}
	}
	set(true)
	ended(t, ann, wire.NotAuthorized)
	_, err := n.login("pump", "ann", "one")
	refusedWith(t, err, wire.NotAuthorized)
	if err := hank.Ping(); err != nil {
		t.Errorf("the client of the other tenant is closed: %v", err)
	}
	set(false)
	if _, err := n.login("pump", "ann", "one"); err != nil {
		t.Error(err)
	}
}

// Who is there when its tenant is removed is closed, and finds no way in.
func TestRemovedTenantsClients(t *testing.T) {
	n := start(t, "listeners.mqtt.named=[{name: lab, address: '127.0.0.1:0', tenant: acme}]")
	n.addTenant("acme")
	connect := func() (*mqttclient.Client, error) {
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: n.at["mqtt.lab"], Connect: wire.Connect{Version: wire.V5, ClientID: []byte("pump"), CleanStart: true}})
		return c, err
	}
	c, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if d, err := n.tenants().Describe(t.Context(), &api.DescribeTenantRequest{Name: "acme"}); err != nil || d.Use.Connections != 1 {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := n.tenants().Remove(t.Context(), &api.RemoveTenantRequest{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	ended(t, c, wire.NotAuthorized)
	_, err = connect()
	refusedWith(t, err, wire.NotAuthorized)
}

// A tenant's admin has its own users and rules, and reaches nothing else.
func TestTenantAdmin(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the-token-of-acme"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "auth.control_token=the-token-of-all", `control.principals=[{name: ann, role: admin, tenant: acme, token: 'file:`+token+`'}]`)
	all, ann := withToken(t.Context(), "the-token-of-all"), withToken(t.Context(), "the-token-of-acme")
	_, err := n.users().List(ann, &api.ListUsersRequest{})
	wants(t, err, codes.NotFound, `there is no tenant "acme"`)
	if _, err := n.tenants().Add(all, &api.AddTenantRequest{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.users().Add(ann, &api.AddUserRequest{Name: "hank", Credentials: stored(t, "one")}); err != nil {
		t.Fatal(err)
	}
	rule := &api.Acl{Resource: "topic", Pattern: "literal", Name: "plant/1", Principal: "User:hank", Host: "*", Operation: "publish", Permission: "allow"}
	if r, err := n.acls().Add(ann, &api.AddAclsRequest{Acls: []*api.Acl{rule}}); err != nil || r.Added != 1 {
		t.Errorf("%v, %v", r, err)
	}
	entity := &api.QuotaEntity{User: &api.QuotaPart{Name: "hank"}}
	if _, err := n.quotas().Set(ann, &api.SetQuotaRequest{Entity: entity, Bounds: map[string]float64{"producer_byte_rate": 1000}}); err != nil {
		t.Error(err)
	}
	if u, err := n.users().List(all, &api.ListUsersRequest{}); err != nil || len(u.Users) != 0 {
		t.Errorf("%v, %v", u, err)
	}
	if a, err := n.acls().List(all, &api.ListAclsRequest{}); err != nil || len(a.Acls) != 0 {
		t.Errorf("%v, %v", a, err)
	}
	if q, err := n.quotas().List(all, &api.ListQuotasRequest{}); err != nil || len(q.Quotas) != 0 {
		t.Errorf("%v, %v", q, err)
	}
	if c, err := n.acls().Check(ann, &api.CheckAclRequest{User: "hank", Operation: "publish", Name: "plant/1"}); err != nil || !c.Allowed {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := n.acls().Check(in(all, "acme"), &api.CheckAclRequest{User: "eve", Operation: "publish", Name: "plant/1"}); err != nil || c.Allowed {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := n.acls().Delete(all, &api.DeleteAclsRequest{All: true, Filter: &api.AclFilter{}}); status.Code(err) != codes.NotFound {
		t.Errorf("rules of another tenant are deleted: %v", err)
	}
	_, err = n.users().List(in(ann, "default"), &api.ListUsersRequest{})
	wants(t, err, codes.PermissionDenied, "is of the tenant acme")
	_, err = n.tenants().List(ann, &api.ListTenantsRequest{})
	wants(t, err, codes.PermissionDenied, "Tenants.List is about the node")
	_, err = n.bans().Add(ann, &api.AddBanRequest{Target: &api.BanTarget{User: "hank"}})
	wants(t, err, codes.PermissionDenied, "Bans.Add is about the node")
	if u, err := n.users().List(in(all, "acme"), &api.ListUsersRequest{}); err != nil || len(u.Users) != 1 {
		t.Errorf("%v, %v", u, err)
	}
	_, err = n.tenants().Remove(all, &api.RemoveTenantRequest{Name: "acme"})
	wants(t, err, codes.FailedPrecondition, "it has 1 user, 1 rule, 1 quota;")
}
