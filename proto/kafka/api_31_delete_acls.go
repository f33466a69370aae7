package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// deleteACLs deletes what filters pick, and says what that was.
func deleteACLs(r *request, m *kmsg.DeleteACLsRequest) {
	resp := m.ResponseKind().(*kmsg.DeleteACLsResponse)
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(m.Filters))
	var list []broker.ACLFilter
	var place []int
	for i := range m.Filters {
		k := &m.Filters[i]
		f := broker.ACLFilter{Resource: broker.ResourceType(k.ResourceType), Pattern: broker.PatternType(k.ResourcePatternType), Name: k.ResourceName,
			Principal: k.Principal, Host: k.Host, Operation: broker.Operation(k.Operation), Permission: broker.Permission(k.PermissionType)}
		out := &resp.Results[i]
		*out = kmsg.NewDeleteACLsResponseResult()
		if code, why := r.c.filterFault(&f, broker.OperationAlter); code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
			continue
		}
		list, place = append(list, f), append(place, i)
	}
	if len(list) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.acls.DeleteACLs(r.c.tenant(), list, func(results []ACLDeletion) {
		t.later(l, func(r *request) {
			for k, i := range place {
				out := &resp.Results[i]
				out.ErrorCode, out.ErrorMessage = told(results[k].Err)
				for _, a := range results[k].Deleted {
					out.MatchingACLs = append(out.MatchingACLs, deletedACL(&a))
				}
			}
			r.respond(resp)
		})
	})
}

func deletedACL(a *broker.ACL) kmsg.DeleteACLsResponseResultMatchingACL {
	o := kmsg.NewDeleteACLsResponseResultMatchingACL()
	o.ResourceType, o.ResourcePatternType, o.ResourceName = kmsg.ACLResourceType(a.Resource), kmsg.ACLResourcePatternType(a.Pattern), a.Name
	o.Principal, o.Host, o.Operation, o.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
	return o
}
