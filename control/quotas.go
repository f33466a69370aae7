package control

import (
	"context"
	"math"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
)

// Quotas are the catalog's, of one tenant at a time.
type Quotas interface {
	List(tenant uint32) []broker.Quota
	// Alter sets what is set in set and takes away what is in remove. done is called when the change counts.
	Alter(tenant uint32, set broker.Quota, remove [broker.QuotaKinds]bool, done func(error))
}

// quotaService is the service Quotas.
type quotaService struct {
	api.UnsafeQuotasServer // a method that is missing does not compile
	s                      *Server
}

func quotaPart(p *api.QuotaPart) broker.QuotaPart {
	if p == nil {
		return broker.QuotaPart{}
	}
	return broker.QuotaPart{Said: true, Default: p.Default, Name: p.Name}
}

// entityOf reads who a quota is for.
func entityOf(what string, tenant uint32, r *api.QuotaEntity) (e broker.QuotaEntity, err error) {
	if r == nil {
		r = &api.QuotaEntity{}
	}
	e = broker.QuotaEntity{User: quotaPart(r.User), ClientID: quotaPart(r.ClientId), IP: quotaPart(r.Address)}
	for _, p := range []broker.QuotaPart{e.User, e.ClientID, e.IP} {
		if p.Said && (p.Name == "") != p.Default {
			return e, wrong("%s: want a name, or the default for those that have none of their own", what)
		}
	}
	switch {
	case !e.User.Said && !e.ClientID.Said && !e.IP.Said:
		return e, wrong("%s: want a user, a client id or an address", what)
	case e.IP.Said && tenant != defaultTenant:
		return e, wrong("%s: addresses are the node's, and no tenant has quotas of them", what)
	case e.IP.Said && (e.User.Said || e.ClientID.Said):
		return e, wrong("%s: a quota for an address is for no user or client id", what)
	case e.IP.Said && !e.IP.Default:
		a, err := netip.ParseAddr(e.IP.Name)
		if err != nil {
			return e, wrong("%s: want an IP address, found %s", what, quoted(e.IP.Name))
		}
		e.IP.Name = a.Unmap().WithZone("").String()
	}
	return e, nil
}

// kindOf reads a key of a quota for an entity.
func kindOf(what, key string, e *broker.QuotaEntity) (broker.QuotaKind, error) {
	k, ok := broker.QuotaKindOf(key)
	switch {
	case !ok:
		return k, wrong("%s: there is no quota %s; want producer_byte_rate, consumer_byte_rate, request_percentage, controller_mutation_rate or, "+
			"for an address, connection_creation_rate", what, quoted(key))
	case (k == broker.QuotaConnect) != e.IP.Said:
		return k, wrong("%s: connection_creation_rate is for addresses, and the other quotas are for users and client ids; found %s", what, key)
	}
	return k, nil
}

// checkRate says what is wrong with a rate. An address may be denied all connections; whoever is to have nothing else is denied it by a rule.
func checkRate(what string, k broker.QuotaKind, v float64) error {
	whole := k == broker.QuotaProduce || k == broker.QuotaConsume || k == broker.QuotaConnect
	switch {
	case !(v >= 0) || v > math.MaxInt64:
		return wrong("%s: %s: want a number that is not below 0, found %v", what, k, v)
	case whole && v != math.Trunc(v):
		return wrong("%s: %s: want a whole number, found %v", what, k, v)
	case v == 0 && k != broker.QuotaConnect:
		return wrong("%s: %s: want a number above 0; sluice acl add --deny keeps somebody out", what, k)
	}
	return nil
}

// Set sets bounds.
func (c *quotaService) Set(ctx context.Context, r *api.SetQuotaRequest) (*api.Quota, error) {
	const what = "set quota"
	e, err := entityOf(what, tenantOf(ctx), r.Entity)
	if err != nil {
		return nil, err
	}
	if len(r.Bounds) == 0 {
		return nil, wrong("%s: nothing is to be set", what)
	}
	q := broker.Quota{Entity: e}
	for key, v := range r.Bounds {
		k, err := kindOf(what, key, &e)
		if err != nil {
			return nil, err
		}
		if err := checkRate(what, k, v); err != nil {
			return nil, err
		}
		q.Set[k], q.Rate[k] = true, v
	}
	if have := c.find(ctx, e); have != nil {
		was(ctx, have)
	}
	if err := awaitError(ctx, func(done func(error)) { c.s.o.Quotas.Alter(tenantOf(ctx), q, [broker.QuotaKinds]bool{}, done) }); err != nil {
		return nil, refuse(err, what, "")
	}
	if have := c.find(ctx, e); have != nil {
		return have, nil
	}
	return &api.Quota{Entity: r.Entity}, nil // somebody has deleted it since
}

func (c *quotaService) find(ctx context.Context, e broker.QuotaEntity) *api.Quota {
	for _, q := range c.s.o.Quotas.List(tenantOf(ctx)) {
		if q.Entity == e {
			return shownQuota(&q)
		}
	}
	return nil
}

func shownQuotaPart(p broker.QuotaPart) *api.QuotaPart {
	if !p.Said {
		return nil
	}
	return &api.QuotaPart{Name: text(p.Name), Default: p.Default}
}

func shownQuota(q *broker.Quota) *api.Quota {
	out := &api.Quota{Bounds: make(map[string]float64), Entity: &api.QuotaEntity{User: shownQuotaPart(q.Entity.User),
		ClientId: shownQuotaPart(q.Entity.ClientID), Address: shownQuotaPart(q.Entity.IP)}}
	for k := range broker.QuotaKinds {
		if q.Set[k] {
			out.Bounds[k.String()] = q.Rate[k]
		}
	}
	return out
}

// List lists the quotas: addresses first, then client ids, then users, each by name.
func (c *quotaService) List(ctx context.Context, r *api.ListQuotasRequest) (*api.ListQuotasResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	page, next := pageOf(c.s.o.Quotas.List(tenantOf(ctx)), quotaKey, r.PageToken, size)
	out := &api.ListQuotasResponse{NextPageToken: next}
	for i := range page {
		out.Quotas = append(out.Quotas, shownQuota(&page[i]))
	}
	return out, nil
}

// quotaKey puts quotas in their order.
func quotaKey(q *broker.Quota) string {
	part := func(p broker.QuotaPart) string {
		switch {
		case !p.Said:
			return "0"
		case p.Default:
			return "1"
		}
		return "2" + p.Name
	}
	first := "0"
	if !q.Entity.IP.Said {
		first = "1"
	}
	return strings.Join([]string{first, part(q.Entity.User), part(q.Entity.ClientID), part(q.Entity.IP)}, "\x00")
}

// Delete takes bounds away.
func (c *quotaService) Delete(ctx context.Context, r *api.DeleteQuotaRequest) (*api.DeleteQuotaResponse, error) {
	const what = "delete quota"
	e, err := entityOf(what, tenantOf(ctx), r.Entity)
	if err != nil {
		return nil, err
	}
	have := c.find(ctx, e)
	var remove [broker.QuotaKinds]bool
	for _, key := range r.Keys {
		k, err := kindOf(what, key, &e)
		if err != nil {
			return nil, err
		}
		remove[k] = true
		if _, there := have.GetBounds()[key]; !there {
			have = nil
			break
		}
	}
	if have == nil {
		return nil, status.Errorf(codes.NotFound, "%s: there is none; sluice quota list shows what is there", what)
	}
	was(ctx, have)
	if len(r.Keys) == 0 {
		for k := range remove {
			remove[k] = true
		}
	}
	if err := awaitError(ctx, func(done func(error)) { c.s.o.Quotas.Alter(tenantOf(ctx), broker.Quota{Entity: e}, remove, done) }); err != nil {
		return nil, refuse(err, what, "")
	}
	return &api.DeleteQuotaResponse{}, nil
}
