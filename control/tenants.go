package control

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// tenantService is the service Tenants.
type tenantService struct {
	api.UnsafeTenantsServer // a method that is missing does not compile
	s                       *Server
}

// tenantRate says whether a limit is one of a second that need not be whole.
func tenantRate(limit string) bool {
	return limit == meta.TenantConnectRate || limit == meta.TenantMessagesIn || limit == meta.TenantMessagesOut
}

// checkLimits says what is wrong with limits that are to be set.
func checkLimits(what string, limits map[string]float64) error {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		v := limits[name]
		switch {
		case !slices.Contains(meta.TenantLimits(), name):
			return unknownLimit(what, name)
		case !(v > 0) || v > math.MaxInt64:
			return wrong("%s: %s: want a number above 0, found %v; a limit that is not there bounds nothing", what, name, v)
		case !tenantRate(name) && v != math.Trunc(v):
			return wrong("%s: %s: want a whole number, found %v", what, name, v)
		}
	}
	return nil
}

func unknownLimit(what, name string) error {
	return wrong("%s: a tenant has no limit %s; want one of %s", what, quoted(name), strings.Join(meta.TenantLimits(), ", "))
}

func shownTenant(t *meta.Tenant) *api.Tenant {
	out := &api.Tenant{Name: t.Name, Number: t.Number, Disabled: t.Disabled, Limits: make(map[string]float64, len(t.Limits))}
	for _, l := range t.Limits {
		out.Limits[l.Key] = l.Value
	}
	return out
}

// named finds the tenant that a request is about.
func (c *tenantService) named(what, name string) (*meta.Tenant, error) {
	if err := meta.CheckTenantName(name); err != nil {
		return nil, wrong("%s: %v", what, err)
	}
	t := c.s.o.Catalog.Load().Tenant(name)
	if t == nil {
		return nil, noTenant(what, name)
	}
	return t, nil
}

// changeable is named for a change: the default tenant is not changed.
func (c *tenantService) changeable(what, name string) (*meta.Tenant, error) {
	t, err := c.named(what, name)
	if err == nil && t.Number == defaultTenant {
		return nil, status.Errorf(codes.FailedPrecondition, "%s: it is there always, and has no limits; those of the node (limits) bound it", what)
	}
	return t, err
}

// uses counts what tenants have, by their numbers. It goes through all who are connected.
func (c *tenantService) uses(ctx context.Context) (map[uint32]*api.TenantUse, error) {
	all := make(map[uint32]*api.TenantUse)
	of := func(tenant uint32) *api.TenantUse {
		u := all[tenant]
		if u == nil {
			u = &api.TenantUse{}
			all[tenant] = u
		}
		return u
	}
	b, s := c.s.o.Broker, c.s.o.Catalog.Load()
	rest := of(defaultTenant) // has what others have not
	rest.Topics, rest.Sessions, rest.Retained = b.TopicCount(), b.Stats().Sessions.Load(), b.Stats().RetainedMessages.Load()
	for _, t := range s.Tenants() {
		kept, u := b.Tenants().Use(t.Number).Counts(), of(t.Number)
		u.Topics, u.Sessions, u.Retained = kept.Topics, kept.Sessions, kept.Retained
		rest.Topics, rest.Sessions, rest.Retained = max(rest.Topics-kept.Topics, 0), max(rest.Sessions-kept.Sessions, 0), max(rest.Retained-kept.Retained, 0)
	}
	for _, u := range s.Users() {
		of(u.Tenant).Users++
	}
	for _, a := range s.ACLs() {
		of(a.Tenant).Rules++
	}
	for _, q := range s.Quotas() {
		of(q.Tenant).Quotas++
	}
	clients := &clientService{s: c.s}
	var at broker.RowPlace
	for end := false; !end; {
		some, err := clients.visit(ctx, at, sliceRows, false, func(i *broker.ClientInfo) bool { return true })
		if err != nil {
			return nil, err
		}
		for i := range some.list {
			of(some.list[i].Tenant).Connections++
		}
		at, end = some.next, some.end
	}
	return all, nil
}

// change makes a change of the tenants, and waits until it counts for who comes in.
func (c *tenantService) change(ctx context.Context, rule func(s *meta.Snapshot) ([]meta.Entry, error)) error {
	return awaitError(ctx, func(done func(error)) {
		c.s.o.Catalog.Update(rule, func(err error) {
			if err != nil || c.s.o.Tenants == nil {
				done(err)
				return
			}
			c.s.o.Tenants(func() { done(nil) })
		})
	})
}

// Add adds a tenant.
func (c *tenantService) Add(ctx context.Context, r *api.AddTenantRequest) (*api.Tenant, error) {
	what := "add tenant " + quoted(r.Name)
	if err := meta.CheckTenantName(r.Name); err != nil {
		return nil, wrong("%s: %v", what, err)
	}
	if err := checkLimits(what, r.Limits); err != nil {
		return nil, err
	}
	t := meta.Tenant{Name: r.Name, Disabled: r.Disabled}
	t.SetLimits(r.Limits)
	err := c.change(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.AddTenant(s, t) })
	if err != nil {
		return nil, refuse(err, what, "")
	}
	return c.after(&t), nil
}

// after is what a change answers.
func (c *tenantService) after(t *meta.Tenant) *api.Tenant {
	if now := c.s.o.Catalog.Load().Tenant(t.Name); now != nil {
		return shownTenant(now)
	}
	return shownTenant(t) // somebody has removed it since
}

// List lists the tenants.
func (c *tenantService) List(ctx context.Context, r *api.ListTenantsRequest) (*api.ListTenantsResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	s := c.s.o.Catalog.Load()
	list := []*meta.Tenant{s.Tenant(meta.DefaultTenant)}
	for _, t := range s.Tenants() {
		list = append(list, t)
	}
	uses, err := c.uses(ctx)
	if err != nil {
		return nil, err
	}
	page, next := pageOf(list, tenantRow, r.PageToken, size)
	out := &api.ListTenantsResponse{NextPageToken: next}
	for _, t := range page {
		row := shownTenant(t)
		if row.Use = uses[t.Number]; row.Use == nil {
			row.Use = &api.TenantUse{}
		}
		out.Tenants = append(out.Tenants, row)
	}
	return out, nil
}

// tenantRow puts tenants in their order.
func tenantRow(t **meta.Tenant) string {
	if (*t).Number == defaultTenant {
		return "0"
	}
	return "1" + (*t).Name
}

// Describe shows a tenant.
func (c *tenantService) Describe(ctx context.Context, r *api.DescribeTenantRequest) (*api.Tenant, error) {
	t, err := c.named("describe tenant "+quoted(r.Name), r.Name)
	if err != nil {
		return nil, err
	}
	uses, err := c.uses(ctx)
	if err != nil {
		return nil, err
	}
	out := shownTenant(t)
	if out.Use = uses[t.Number]; out.Use == nil {
		out.Use = &api.TenantUse{}
	}
	return out, nil
}

// Set changes a tenant.
func (c *tenantService) Set(ctx context.Context, r *api.SetTenantRequest) (*api.Tenant, error) {
	what := "set tenant " + quoted(r.Name)
	t, err := c.changeable(what, r.Name)
	if err != nil {
		return nil, err
	}
	if err := checkLimits(what, r.Limits); err != nil {
		return nil, err
	}
	for _, name := range r.Remove {
		if _, both := r.Limits[name]; both {
			return nil, wrong("%s: %s is to be set, and to be taken away", what, name)
		}
		if !slices.Contains(meta.TenantLimits(), name) {
			return nil, unknownLimit(what, name)
		}
	}
	if len(r.Limits)+len(r.Remove) == 0 && r.Disabled == nil {
		return nil, wrong("%s: nothing is to be changed", what)
	}
	was(ctx, shownTenant(t))
	change := func(t *meta.Tenant) {
		limits := make(map[string]float64)
		for _, l := range t.Limits {
			limits[l.Key] = l.Value
		}
		maps.Copy(limits, r.Limits)
		for _, name := range r.Remove {
			delete(limits, name)
		}
		t.SetLimits(limits)
		if r.Disabled != nil {
			t.Disabled = *r.Disabled
		}
	}
	err = c.change(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.ChangeTenant(s, r.Name, change) })
	if err != nil {
		return nil, refuse(err, what, "")
	}
	return c.after(t), nil
}

// Remove removes a tenant. What its clients make between the look at what it has and the removal stays under its number, which nobody gets again.
func (c *tenantService) Remove(ctx context.Context, r *api.RemoveTenantRequest) (*api.RemoveTenantResponse, error) {
	what := "remove tenant " + quoted(r.Name)
	t, err := c.changeable(what, r.Name)
	if err != nil {
		return nil, err
	}
	const describe = "/sluice.control.v1.Tenants/Describe"
	q := &api.DescribeTenantRequest{Name: r.Name}
	var has *api.Tenant
	if leader, elsewhere := c.s.elsewhere(describe); elsewhere {
		has, err = askFor[*api.Tenant](ctx, c.s, leader, describe, q)
	} else {
		has, err = c.Describe(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	if list := holdings(has.Use); len(list) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "%s: it has %s; delete them first by commands with --tenant %s%s",
			what, strings.Join(list, ", "), r.Name, retainedHint(has.Use))
	}
	was(ctx, shownTenant(t))
	err = c.change(ctx, func(s *meta.Snapshot) ([]meta.Entry, error) { return meta.RemoveTenant(s, r.Name) })
	if err != nil {
		return nil, refuse(err, what, "")
	}
	return &api.RemoveTenantResponse{}, nil
}

// retainedHint says how retained messages are deleted, for which there is no command.
func retainedHint(u *api.TenantUse) string {
	if u.GetRetained() == 0 {
		return ""
	}
	return ", and retained messages by empty ones that a user of it publishes (sluice pub --retain --empty)"
}

// holdings are what keeps a tenant from being removed, in words. Its connections do not: they are closed.
func holdings(u *api.TenantUse) (list []string) {
	for _, h := range []struct {
		n         int64
		one, many string
	}{{u.GetUsers(), "user", "users"}, {u.GetRules(), "rule", "rules"}, {u.GetQuotas(), "quota", "quotas"}, {u.GetTopics(), "Kafka topic", "Kafka topics"},
		{u.GetSessions(), "kept session", "kept sessions"}, {u.GetRetained(), "retained message", "retained messages"}} {
		switch h.n {
		case 0:
		case 1:
			list = append(list, "1 "+h.one)
		default:
			list = append(list, fmt.Sprintf("%d %s", h.n, h.many))
		}
	}
	return list
}
