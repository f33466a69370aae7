package control

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// scopesOfMethods says once more whose things each method is about: who adds one says it here, after a look at whether it reaches anything of another tenant's.
var scopesOfMethods = map[scope]string{
	scopeTenant: `Topics.Create Topics.List Topics.Describe Topics.Alter Topics.Delete Groups.List Groups.Describe Groups.Delete Groups.ResetOffsets
		Clients.List Clients.Describe Clients.Kick Sessions.List Sessions.Describe Sessions.Delete Subscriptions.List Subscriptions.Find
		Users.Add Users.List Users.SetPassword Users.SetDisabled Users.Delete Acls.Add Acls.List Acls.Delete Acls.Check Quotas.Set Quotas.List Quotas.Delete
		Explanations.ExplainClient Explanations.ExplainTopic Explanations.WatchTrace Explanations.ListSlow`,
	scopeNode: `Bans.Add Bans.List Bans.Remove Bindings.Add Bindings.List Bindings.Delete Bindings.Explain Backups.Create Backups.List Backups.Verify Backups.Delete
		Tiers.Describe Tiers.DescribeTopic Tiers.Verify Tiers.Rebuild Tiers.Prefetch Tiers.Offload Tiers.Adopt
		Explanations.ExplainMessage Nodes.List Nodes.Add Nodes.Remove Nodes.Replace Nodes.Drain Nodes.Hold
		Shards.Status Shards.Sets Shards.Replicas Shards.Move Shards.Balance Shards.ElectUnclean Tenants.Add Tenants.List Tenants.Describe Tenants.Set Tenants.Remove`,
	scopeNobody: `Health.Check Health.List Health.Watch ServerReflection.ServerReflectionInfo`,
}

// Every method is classed, in the table of rules and here, as the same.
func TestEveryMethodHasAScope(t *testing.T) {
	classed := make(map[string]scope)
	for of, names := range scopesOfMethods {
		for _, name := range strings.Fields(names) {
			classed[name] = of
		}
	}
	seen := make(map[string]bool)
	for method, r := range rules {
		name := methodName(method)
		seen[name] = true
		if r.scope == scopeUnknown || classed[name] != r.scope {
			t.Errorf("%s has the scope %d in rules, and %d here: say in both whose things it is about", name, r.scope, classed[name])
		}
	}
	for name := range classed {
		if !seen[name] {
			t.Errorf("%s is no method", name)
		}
	}
}

// twoTenants is a catalog with acme, number 1, and globex, number 2; gone is removed.
func twoTenants(t *testing.T) *meta.Catalog {
	t.Helper()
	c := meta.New(nil)
	if err := c.Recovered(); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"acme", "globex", "gone"} {
		tenant := meta.Tenant{Name: name, Number: uint32(i + 1), Removed: name == "gone"}
		c.Apply(0, []meta.Entry{tenant.Entry()})
	}
	return c
}

// saying adds the tenants that a call names.
func saying(ctx context.Context, names ...string) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	md.Set(tenantKey, names...)
	return metadata.NewIncomingContext(ctx, md)
}

var tenantPrincipals = NewPrincipals("token-of-the-node", []Principal{{Name: "ann", Role: RoleAdmin, Tenant: "acme", Token: "token-of-ann"},
	{Name: "eve", Role: RoleViewer, Tenant: "acme", Token: "token-of-eve"}, {Name: "home", Role: RoleAdmin, Tenant: "default", Token: "token-of-home"},
	{Name: "lost", Role: RoleAdmin, Tenant: "gone", Token: "token-of-lost"}})

// For each method: who may name which tenant, and what it is about then.
func TestTenantOfEveryMethod(t *testing.T) {
	s := New(Options{Principals: func() *Principals { return tenantPrincipals }, Logger: slog.New(slog.DiscardHandler), Catalog: twoTenants(t)})
	for method, r := range rules {
		name := methodName(method)
		check := func(token string, say []string, number uint32, code codes.Code, says string) {
			t.Helper()
			ctx := as(token)
			if say != nil {
				ctx = saying(ctx, say...)
			}
			c, err := s.admit(ctx, method)
			if status.Code(err) != code || code == codes.OK && c.in.number != number || code != codes.OK && !strings.Contains(err.Error(), says) {
				t.Errorf("%s with %s and %q: tenant %d, %v; want %d, %v %q", name, token, say, c.in.number, err, number, code, says)
			}
		}
		switch r.scope {
		case scopeTenant:
			check("token-of-the-node", nil, 0, codes.OK, "")
			check("token-of-the-node", []string{"default"}, 0, codes.OK, "")
			check("token-of-the-node", []string{"globex"}, 2, codes.OK, "")
			check("token-of-the-node", []string{"nobody"}, 0, codes.NotFound, name+`: there is no tenant "nobody"`)
			check("token-of-the-node", []string{"gone"}, 0, codes.NotFound, `there is no tenant "gone"`)
			check("token-of-the-node", []string{""}, 0, codes.InvalidArgument, "want a tenant's name")
			check("token-of-the-node", []string{"Acme\x00"}, 0, codes.InvalidArgument, "tenant name")
			check("token-of-the-node", []string{"acme", "globex"}, 0, codes.InvalidArgument, "want one tenant")
			check("token-of-ann", nil, 1, codes.OK, "")
			check("token-of-ann", []string{"acme"}, 1, codes.OK, "")
			for _, other := range []string{"globex", "default", "nobody", ""} {
				check("token-of-ann", []string{other}, 0, codes.PermissionDenied, `"ann" is of the tenant acme`)
			}
			check("token-of-ann", []string{"acme", "globex"}, 0, codes.InvalidArgument, "want one tenant")
			check("token-of-home", nil, 0, codes.OK, "")
			check("token-of-home", []string{"acme"}, 0, codes.PermissionDenied, "is of the tenant default")
			check("token-of-lost", nil, 0, codes.NotFound, `there is no tenant "gone"`)
			if r.least > RoleViewer {
				check("token-of-eve", nil, 0, codes.PermissionDenied, "needs the role")
			} else {
				check("token-of-eve", nil, 1, codes.OK, "")
			}
		case scopeNode:
			check("token-of-the-node", nil, 0, codes.OK, "")
			for _, any := range []string{"acme", "default", "nobody", ""} {
				check("token-of-the-node", []string{any}, 0, codes.InvalidArgument, name+" is about the node")
			}
			for _, token := range []string{"token-of-ann", "token-of-eve", "token-of-home", "token-of-lost"} {
				check(token, nil, 0, codes.PermissionDenied, name+" is about the node, and")
				check(token, []string{"acme"}, 0, codes.PermissionDenied, name+" is about the node, and")
			}
		default:
			check("token-of-ann", nil, 0, codes.OK, "")
			check("token-of-ann", []string{"globex"}, 0, codes.OK, "")
		}
	}
}

// The tenant of a call is the same at the node that leads, for calls that answer once and for those that answer more often, and is in the trail of it.
func TestForwardedTenant(t *testing.T) {
	l, trail, _ := forwarding(t, new(Principals))
	takes := New(Options{Node: 1, Peers: l, Catalog: twoTenants(t), Principals: func() *Principals { return tenantPrincipals }})
	t.Cleanup(func() { takes.Close(context.Background()) })
	answering(l.s, methodCreate, func(ctx context.Context, q *api.CreateTopicRequest) (any, error) {
		if got := tenantOf(ctx); got != 1 {
			t.Errorf("%s is created in tenant %d", q.GetName(), got)
		}
		return &api.Topic{Name: q.GetName()}, nil
	})
	here := func(context.Context, any) (any, error) { t.Error("answered here"); return nil, nil }
	call := func(ctx context.Context, name string) error {
		_, err := takes.unary(ctx, &api.CreateTopicRequest{Name: name}, &grpc.UnaryServerInfo{FullMethod: methodCreate}, here)
		return err
	}
	if err := call(saying(as("token-of-the-node"), "acme"), "named"); err != nil {
		t.Error(err)
	}
	if err := call(as("token-of-ann"), "bound"); err != nil {
		t.Error(err)
	}
	if err := call(saying(as("token-of-ann"), "globex"), "refused"); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	b, err := os.ReadFile(trail)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.Count(s, `"tenant":"acme"`) != 4 || strings.Contains(s, "refused") {
		t.Errorf("the trail is %s", s)
	}
}

// A stream has its caller, and with that its tenant, wherever it is answered.
func TestForwardedStreamTenant(t *testing.T) {
	const method = "/sluice.control.v1.Tiers/Prefetch"
	l, _, _ := streaming(t, nil)
	tenants := make(chan uint32, 1)
	r := *l.s.methods[method]
	r.stream = func(_ any, out grpc.ServerStream) error {
		if err := out.RecvMsg(new(api.PrefetchTierRequest)); err != nil {
			return err
		}
		tenants <- tenantOf(out.Context())
		return nil
	}
	l.s.methods[method] = &r
	takes := New(Options{Node: 1, Peers: l})
	t.Cleanup(func() { takes.Close(context.Background()) })
	ss := &caughtStream{ctx: context.Background(), req: &api.PrefetchTierRequest{}}
	if err := takes.forwardStream(caller{name: "x", role: RoleAdmin, in: tenancy{"acme", 7}}, 2, method, ss); err != nil {
		t.Fatal(err)
	}
	if got := testx.Receive(t, tenants, farPatience); got != 7 {
		t.Errorf("it is in tenant %d", got)
	}
}

// A node that does not lead asks the one that does what a tenant has, before it removes it.
func TestRemoveTenantAsksTheLeader(t *testing.T) {
	l, _, _ := forwarding(t, new(Principals))
	takes := New(Options{Node: 1, Peers: l, Catalog: twoTenants(t), Principals: func() *Principals { return tenantPrincipals }})
	t.Cleanup(func() { takes.Close(context.Background()) })
	answering(l.s, "/sluice.control.v1.Tenants/Describe", func(_ context.Context, q *api.DescribeTenantRequest) (any, error) {
		return &api.Tenant{Name: q.GetName(), Use: &api.TenantUse{Topics: 2, Retained: 1}}, nil
	})
	remove := func() error {
		_, err := takes.unary(as("token-of-the-node"), &api.RemoveTenantRequest{Name: "acme"}, &grpc.UnaryServerInfo{FullMethod: "/sluice.control.v1.Tenants/Remove"},
			func(ctx context.Context, req any) (any, error) {
				return (&tenantService{s: takes}).Remove(ctx, req.(*api.RemoveTenantRequest))
			})
		return err
	}
	if err := remove(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "it has 2 Kafka topics, 1 retained message; delete them first") {
		t.Error(err)
	}
	l.err = io.ErrUnexpectedEOF
	if err := remove(); status.Code(err) != codes.Unavailable {
		t.Errorf("the node that leads is not there: %v", err)
	}
	if takes.o.Catalog.Load().Tenant("acme") == nil {
		t.Error("it is removed")
	}
}

// What is refused to a principal for its tenant is in the trail with the tenant that it has named.
func TestRefusedTenantIsInTheTrail(t *testing.T) {
	path := t.TempDir() + "/audit"
	s := New(Options{Principals: func() *Principals { return tenantPrincipals }, Logger: slog.New(slog.DiscardHandler), Catalog: twoTenants(t)})
	s.SetAudit(path, false)
	_, err := s.unary(saying(as("token-of-ann"), "globex"), &api.CreateTopicRequest{Name: "theirs"}, &grpc.UnaryServerInfo{FullMethod: methodCreate}, nil)
	if status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	if _, err = s.unary(as("token-of-eve"), &api.CreateTopicRequest{Name: "ours"}, &grpc.UnaryServerInfo{FullMethod: methodCreate}, nil); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	s.Close(context.Background())
	b, err := os.ReadFile(path)
	if err != nil || strings.Count(string(b), `"event":"refused"`) != 2 || !strings.Contains(string(b), `"tenant":"globex"`) || !strings.Contains(string(b), `"tenant":"acme"`) {
		t.Errorf("%s, %v", b, err)
	}
}

// Over HTTP a header names the tenant.
func TestTenantOverHTTP(t *testing.T) {
	s := New(Options{Principals: func() *Principals { return tenantPrincipals }, Logger: slog.New(slog.DiscardHandler), Catalog: twoTenants(t)})
	defer s.Close(context.Background())
	answering(s, methodTopics, func(ctx context.Context, _ *api.ListTopicsRequest) (any, error) {
		return &api.ListTopicsResponse{Topics: []*api.Topic{{Partitions: int32(tenantOf(ctx))}}}, nil
	})
	g := &gateway{s: s, routes: map[string]*route{"/api/v1/topics/list": s.methods[methodTopics]}}
	for _, tt := range []struct {
		token, tenant string
		code          int
		says          string
	}{
		{"token-of-the-node", "", http.StatusOK, `"partitions":0`}, {"token-of-the-node", "globex", http.StatusOK, `"partitions":2`},
		{"token-of-ann", "", http.StatusOK, `"partitions":1`}, {"token-of-ann", "globex", http.StatusForbidden, "PERMISSION_DENIED"},
		{"token-of-the-node", "nobody", http.StatusNotFound, "there is no tenant"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/topics/list", nil)
		r.Header.Set("Authorization", "Bearer "+tt.token)
		if tt.tenant != "" {
			r.Header.Set(tenantHeader, tt.tenant)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Result().Body)
		if said := strings.ReplaceAll(string(body), " ", ""); w.Code != tt.code || !strings.Contains(said, strings.ReplaceAll(tt.says, " ", "")) {
			t.Errorf("%s in %q: %d %s, want %d %s", tt.token, tt.tenant, w.Code, body, tt.code, tt.says)
		}
	}
}
