package server

import (
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
)

// quotaKeeper is the catalog's quotas for those who ask and change them, and gives all of them to the core after each change.
type quotaKeeper struct {
	*follower
	catalog *meta.Catalog
}

func keepQuotas(c *meta.Catalog, q *broker.Quotas) *quotaKeeper {
	return &quotaKeeper{follow(c, meta.QuotasChanged, func(s *meta.Snapshot) { q.Set(listQuotas(s)) }), c}
}

func listQuotas(s *meta.Snapshot) []broker.Quota {
	list := make([]broker.Quota, 0, s.QuotaCount())
	for _, q := range s.Quotas() {
		list = append(list, coreQuota(q))
	}
	return list
}

// coreQuota leaves out keys that this program does not know: a newer one has set them.
func coreQuota(q *meta.Quota) broker.Quota {
	out := broker.Quota{Tenant: q.Tenant, Entity: broker.QuotaEntity{User: coreQuotaPart(q.User), ClientID: coreQuotaPart(q.ClientID), IP: coreQuotaPart(q.IP)}}
	for _, v := range q.Values {
		if k, ok := broker.QuotaKindOf(v.Key); ok {
			out.Set[k], out.Rate[k] = true, v.Value
		}
	}
	return out
}

func coreQuotaPart(n meta.QuotaName) broker.QuotaPart {
	return broker.QuotaPart{Said: n.Kind != meta.QuotaUnsaid, Default: n.Kind == meta.QuotaDefault, Name: n.Name}
}

func storedQuotaPart(p broker.QuotaPart) meta.QuotaName {
	switch {
	case p.Default:
		return meta.QuotaName{Kind: meta.QuotaDefault}
	case p.Said:
		return meta.QuotaName{Kind: meta.QuotaNamed, Name: p.Name}
	}
	return meta.QuotaName{}
}

// ListQuotas makes it a kafka.QuotaCatalog.
func (k *quotaKeeper) ListQuotas(tenant uint32) []broker.Quota {
	return slices.DeleteFunc(listQuotas(k.catalog.Load()), func(q broker.Quota) bool { return q.Tenant != tenant })
}

// AlterQuotas makes it a kafka.QuotaCatalog.
func (k *quotaKeeper) AlterQuotas(tenant uint32, changes []kafka.QuotaChange, validateOnly bool, done func([]error)) {
	errs := make([]error, len(changes))
	k.alter(tenant, changes, errs, 0, validateOnly, func() { k.settled(func() { done(errs) }) })
}

// quotasPerChange is how many quotas are changed by one command of the catalog.
const quotasPerChange = 200

// alter makes the changes in their order: many in one command, but one entity once.
func (k *quotaKeeper) alter(tenant uint32, changes []kafka.QuotaChange, errs []error, from int, validateOnly bool, done func()) {
	if from == len(changes) {
		done()
		return
	}
	named := make(map[broker.QuotaEntity]bool)
	to := from
	for to < len(changes) && to-from < quotasPerChange && !named[changes[to].Entity] {
		named[changes[to].Entity] = true
		to++
	}
	var faults []error
	k.catalog.Update(func(s *meta.Snapshot) (list []meta.Entry, _ error) {
		if err := tenantThere(s, tenant); err != nil {
			return nil, err
		}
		faults = make([]error, to-from)
		room := meta.QuotasMax - s.QuotaCount()
		for i := range faults {
			var e meta.Entry
			if e, faults[i] = changedQuota(s, tenant, &changes[from+i], &room); faults[i] == nil && e.Key != "" && !validateOnly {
				list = append(list, e)
			}
		}
		return list, nil
	}, func(err error) {
		for i := range to - from {
			if errs[from+i] = catalogFault(err); err == nil {
				errs[from+i] = faults[i]
			}
		}
		k.alter(tenant, changes, errs, to, validateOnly, done)
	})
}

// changedQuota is what is stored of a tenant's entity after a change; nothing if there was nothing. room is how many more entities there can be.
func changedQuota(s *meta.Snapshot, tenant uint32, c *kafka.QuotaChange, room *int) (e meta.Entry, err error) {
	next := meta.Quota{Tenant: tenant, User: storedQuotaPart(c.Entity.User), ClientID: storedQuotaPart(c.Entity.ClientID), IP: storedQuotaPart(c.Entity.IP)}
	for _, p := range []meta.QuotaName{next.User, next.ClientID} {
		if len(p.Name) > meta.QuotaNameMax {
			return e, fmt.Errorf("%w: a name in a quota has at most %d bytes, found %d", broker.ErrInvalidRequest, meta.QuotaNameMax, len(p.Name))
		}
	}
	have := s.Quota(&next)
	values := make(map[string]float64)
	if have != nil {
		for _, v := range have.Values {
			values[v.Key] = v.Value
		}
	}
	for kind := range broker.QuotaKinds {
		if c.Set[kind] {
			values[kind.String()] = c.Rate[kind]
		} else if c.Remove[kind] {
			delete(values, kind.String())
		}
	}
	next.SetValues(values)
	if have == nil && len(values) == 0 {
		return e, nil
	}
	if have == nil {
		if *room <= 0 {
			return e, fmt.Errorf("%w: %w", broker.ErrQuota, meta.ErrTooManyQuotas)
		}
		*room--
	}
	return next.Entry(), nil
}
