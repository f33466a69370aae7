package server

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/meta"
)

// keepTenants gives the core the catalog's tenants and their limits after each change.
func keepTenants(c *meta.Catalog, to *broker.TenantLimits) *follower {
	return follow(c, meta.TenantsChanged, func(s *meta.Snapshot) { to.Set(listTenants(s)) })
}

// tenantsSettled has fn called when everything that the catalog says of tenants now counts for who comes in, and for their limits.
func (n *node) tenantsSettled(fn func()) {
	n.tenantAuth.settled(func() { n.tenants.settled(fn) })
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

// tenantMetricHelp are the metrics of tenants beside the default one.
var tenantMetricHelp = map[string]string{
	"sluice_tenant_connections":    "Connections of a tenant's clients now, of MQTT and Kafka. Of tenants beside the default one.|tenant",
	"sluice_tenant_messages_total": "PUBLISH of MQTT that a tenant's clients have sent (in) and were sent (out).|tenant,direction",
	"sluice_tenant_bytes_total":    "Bytes of PUBLISH and of Kafka's Produce requests that a tenant's clients have sent (in), and of PUBLISH and fetched batches that they were sent (out).|tenant,direction",
	"sluice_tenant_refused_total":  "Times that a limit of a tenant has refused something, or for rates of messages and bytes, has made a client wait.|tenant,limit",
}

func (c *collector) collectTenants(k sink) {
	for _, u := range c.s.node.broker.Tenants().List() {
		name, n := u.Name(), u.Counts()
		if name == "" {
			continue // it was removed meanwhile
		}
		k.gauge("sluice_tenant_connections", float64(n.Connections), name)
		k.counter("sluice_tenant_messages_total", n.MessagesIn, name, "in")
		k.counter("sluice_tenant_messages_total", n.MessagesOut, name, "out")
		k.counter("sluice_tenant_bytes_total", n.BytesIn, name, "in")
		k.counter("sluice_tenant_bytes_total", n.BytesOut, name, "out")
		for kind, count := range n.Refused {
			k.counter("sluice_tenant_refused_total", count, name, broker.TenantLimit(kind).String())
		}
	}
}
