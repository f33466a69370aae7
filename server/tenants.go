package server

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// keepTenants gives the core the catalog's tenants and their limits after each change.
func keepTenants(c *meta.Catalog, to *broker.TenantLimits) *follower {
	return follow(c, meta.TenantsChanged, func(s *meta.Snapshot) { to.Set(listTenants(s)) })
}

// listTenants leaves out limits that this program does not know: a newer one has set them.
func listTenants(s *meta.Snapshot) (list []broker.LimitedTenant) {
	for name, t := range s.Tenants() {
		l := broker.LimitedTenant{Number: t.Number, Name: name}
		for _, v := range t.Limits {
			if k, ok := broker.TenantLimitOf(v.Key); ok {
				l.Limits[k] = v.Value
			}
		}
		list = append(list, l)
	}
	return list
}
