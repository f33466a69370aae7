package kafka

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// QuotaCatalog is what the front asks of the catalog's quotas. Answers may come on any goroutine, and count from then on.
type QuotaCatalog interface {
	// ListQuotas gives all of a tenant's, in an order that stays the same. It does not block.
	ListQuotas(tenant uint32) []broker.Quota
	// AlterQuotas makes changes of a tenant's, each alone; with validateOnly it says what would come of it. One result for each.
	AlterQuotas(tenant uint32, changes []QuotaChange, validateOnly bool, done func([]error))
}

// QuotaChange sets and removes rates of one entity.
type QuotaChange struct {
	Entity broker.QuotaEntity
	Set    [broker.QuotaKinds]bool
	Rate   [broker.QuotaKinds]float64
	Remove [broker.QuotaKinds]bool
}

// The parts of an entity, by Kafka's names.
const (
	entityUser   = "user"
	entityClient = "client-id"
	entityIP     = "ip"
)

// entityPart finds a part of an entity by its name, nil for none.
func entityPart(e *broker.QuotaEntity, name string) *broker.QuotaPart {
	switch name {
	case entityUser:
		return &e.User
	case entityClient:
		return &e.ClientID
	case entityIP:
		return &e.IP
	}
	return nil
}

// How a component of a filter is compared.
const (
	matchExact   = 0
	matchDefault = 1
	matchAny     = 2
)

// describeClientQuotas shows the quotas that a filter picks (KIP-546).
func describeClientQuotas(r *request, m *kmsg.DescribeClientQuotasRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
	tenant := r.c.tenant()
	if code, why := r.c.quotaFilterFault(m); code != wire.None {
		resp.ErrorCode, resp.ErrorMessage = int16(code), &why
		r.respond(resp)
		return
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	if catalog := r.c.l.h.quotaCatalog; catalog != nil {
		for _, q := range catalog.ListQuotas(tenant) {
			if quotaPicked(&q.Entity, m) {
				resp.Entries = append(resp.Entries, describedQuota(&q))
			}
		}
	}
	r.respond(resp)
}

func (c *conn) quotaFilterFault(m *kmsg.DescribeClientQuotasRequest) (wire.ErrorCode, string) {
	if !c.mayCluster(broker.OperationDescribeConfigs) {
		return wire.ClusterAuthorizationFailed, "not authorized for the cluster"
	}
	if c.tenant() != 0 && slices.ContainsFunc(m.Components, func(k kmsg.DescribeClientQuotasRequestComponent) bool { return k.EntityType == entityIP }) {
		return wire.ClusterAuthorizationFailed, "quotas of addresses are the node's"
	}
	seen := make(map[string]bool)
	for i := range m.Components {
		k := &m.Components[i]
		switch {
		case k.EntityType == "":
			return wire.InvalidRequest, "a component of the filter has no type"
		case entityPart(&broker.QuotaEntity{}, k.EntityType) == nil:
			return wire.UnsupportedVersion, "quotas are for user, client-id and ip, not for " + k.EntityType
		case seen[k.EntityType]:
			return wire.InvalidRequest, k.EntityType + " is named more than once"
		case k.MatchType < matchExact || k.MatchType > matchAny || (k.MatchType == matchExact) != (k.Match != nil):
			return wire.InvalidRequest, "no such way to compare, or no name for it"
		}
		seen[k.EntityType] = true
	}
	if seen[entityIP] && (seen[entityUser] || seen[entityClient]) {
		return wire.InvalidRequest, "a quota for an ip is for no user or client-id"
	}
	return wire.None, ""
}

// quotaPicked says whether an entity has what the filter names, and with a strict filter nothing else.
func quotaPicked(e *broker.QuotaEntity, m *kmsg.DescribeClientQuotasRequest) bool {
	rest := *e
	for i := range m.Components {
		k := &m.Components[i]
		p := entityPart(&rest, k.EntityType)
		if !p.Said || k.MatchType == matchDefault && !p.Default || k.MatchType == matchExact && (p.Default || p.Name != *k.Match) {
			return false
		}
		*p = broker.QuotaPart{}
	}
	return !m.Strict || rest == broker.QuotaEntity{}
}

func describedQuota(q *broker.Quota) kmsg.DescribeClientQuotasResponseEntry {
	out := kmsg.NewDescribeClientQuotasResponseEntry()
	for _, name := range []string{entityUser, entityClient, entityIP} {
		p := entityPart(&q.Entity, name)
		if !p.Said {
			continue
		}
		e := kmsg.NewDescribeClientQuotasResponseEntryEntity()
		e.Type = name
		if !p.Default {
			e.Name = &p.Name
		}
		out.Entity = append(out.Entity, e)
	}
	for k := range broker.QuotaKinds {
		if q.Set[k] {
			v := kmsg.NewDescribeClientQuotasResponseEntryValue()
			v.Key, v.Value = k.String(), q.Rate[k]
			out.Values = append(out.Values, v)
		}
	}
	return out
}
