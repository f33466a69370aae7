package kafka

import (
	"math"
	"net/netip"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alterClientQuotas sets and removes quotas (KIP-546).
func alterClientQuotas(r *request, m *kmsg.AlterClientQuotasRequest) {
	resp := m.ResponseKind().(*kmsg.AlterClientQuotasResponse)
	may := r.c.mayCluster(broker.OperationAlterConfigs)
	var changes []QuotaChange
	var place []int
	for i := range m.Entries {
		out := kmsg.NewAlterClientQuotasResponseEntry()
		for k := range m.Entries[i].Entity {
			e := kmsg.NewAlterClientQuotasResponseEntryEntity()
			e.Type, e.Name = m.Entries[i].Entity[k].Type, m.Entries[i].Entity[k].Name
			out.Entity = append(out.Entity, e)
		}
		change, why := quotaChange(&m.Entries[i])
		code := wire.InvalidRequest
		switch {
		case !may:
			code, why = wire.ClusterAuthorizationFailed, "not authorized for the cluster"
		case change.Entity.IP.Said && r.c.tenant() != 0:
			code, why = wire.ClusterAuthorizationFailed, "quotas of addresses are the node's"
		case r.c.l.h.quotaCatalog == nil:
			code, why = wire.UnsupportedVersion, "this node keeps no quotas"
		}
		if why != "" {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
		} else {
			changes, place = append(changes, change), append(place, i)
		}
		resp.Entries = append(resp.Entries, out)
	}
	if len(changes) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.quotaCatalog.AlterQuotas(r.c.tenant(), changes, m.ValidateOnly, func(errs []error) {
		t.later(l, func(r *request) {
			for k, i := range place {
				resp.Entries[i].ErrorCode, resp.Entries[i].ErrorMessage = told(errs[k])
			}
			r.respond(resp)
		})
	})
}

// quotaChange reads one entry of the request; why says what is wrong with it.
func quotaChange(m *kmsg.AlterClientQuotasRequestEntry) (change QuotaChange, why string) {
	for i := range m.Entity {
		p := entityPart(&change.Entity, m.Entity[i].Type)
		switch name := m.Entity[i].Name; {
		case p == nil:
			return change, "quotas are for user, client-id and ip, not for " + m.Entity[i].Type
		case p.Said:
			return change, m.Entity[i].Type + " is named more than once"
		case name == nil:
			*p = broker.QuotaPart{Said: true, Default: true}
		case *name == "":
			return change, "the name of a " + m.Entity[i].Type + " is not empty"
		default:
			*p = broker.QuotaPart{Said: true, Name: *name}
		}
	}
	e := &change.Entity
	switch {
	case !e.User.Said && !e.ClientID.Said && !e.IP.Said:
		return change, "a quota is for somebody"
	case e.IP.Said && (e.User.Said || e.ClientID.Said):
		return change, "a quota for an ip is for no user or client-id"
	case e.IP.Said && !e.IP.Default:
		a, err := netip.ParseAddr(e.IP.Name)
		if err != nil {
			return change, "want an IP address, found " + e.IP.Name
		}
		e.IP.Name = a.Unmap().WithZone("").String()
	}
	for i := range m.Ops {
		op := &m.Ops[i]
		k, ok := broker.QuotaKindOf(op.Key)
		if !ok || (k == broker.QuotaConnect) != e.IP.Said {
			return change, op.Key + " is no quota for this kind of entity"
		}
		if change.Set[k], change.Remove[k] = !op.Remove, op.Remove; op.Remove {
			continue
		}
		if why = rateFault(k, op.Value); why != "" {
			return change, why
		}
		change.Rate[k] = op.Value
	}
	return change, ""
}

// rateFault says what is wrong with a rate. Who is to have nothing is denied it by an ACL.
func rateFault(k broker.QuotaKind, rate float64) string {
	whole := k == broker.QuotaProduce || k == broker.QuotaConsume || k == broker.QuotaConnect
	switch {
	case math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0 || rate > math.MaxInt64:
		return k.String() + " is a number that is not below 0"
	case whole && rate != math.Trunc(rate):
		return k.String() + " is a whole number"
	case rate == 0:
		return k.String() + " is above 0"
	}
	return ""
}
