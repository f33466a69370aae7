package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// ACLs is what the front asks of the catalog's ACLs. Answers may come on any goroutine, and count from then on.
type ACLs interface {
	// ListACLs gives those of a tenant that f picks, in an order that stays the same. It does not block.
	ListACLs(tenant uint32, f *broker.ACLFilter) []broker.ACL
	// CreateACLs makes those of a tenant that are not there yet. One result for each.
	CreateACLs(tenant uint32, list []broker.ACL, done func([]error))
	// DeleteACLs deletes what any of the filters picks of a tenant's, and says for each what that was.
	DeleteACLs(tenant uint32, filters []broker.ACLFilter, done func([]ACLDeletion))
}

// ACLDeletion is what came of one filter.
type ACLDeletion struct {
	Deleted []broker.ACL
	Err     error
}

// describeACLs shows the ACLs that a filter picks, those of one pattern together.
func describeACLs(r *request, m *kmsg.DescribeACLsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeACLsResponse)
	f := broker.ACLFilter{Resource: broker.ResourceType(m.ResourceType), Pattern: broker.PatternType(m.ResourcePatternType), Name: m.ResourceName,
		Principal: m.Principal, Host: m.Host, Operation: broker.Operation(m.Operation), Permission: broker.Permission(m.PermissionType)}
	code, why := r.c.filterFault(&f, broker.OperationDescribe)
	if code != wire.None {
		resp.ErrorCode, resp.ErrorMessage = int16(code), &why
		r.respond(resp)
		return
	}
	type resource struct {
		t    broker.ResourceType
		p    broker.PatternType
		name string
	}
	places := make(map[resource]int)
	for _, a := range r.c.l.h.acls.ListACLs(r.c.tenant(), &f) {
		key := resource{a.Resource, a.Pattern, a.Name}
		at, ok := places[key]
		if !ok {
			at = len(resp.Resources)
			places[key] = at
			o := kmsg.NewDescribeACLsResponseResource()
			o.ResourceType, o.ResourcePatternType, o.ResourceName = kmsg.ACLResourceType(a.Resource), kmsg.ACLResourcePatternType(a.Pattern), a.Name
			resp.Resources = append(resp.Resources, o)
		}
		o := kmsg.NewDescribeACLsResponseResourceACL()
		o.Principal, o.Host, o.Operation, o.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
		resp.Resources[at].ACLs = append(resp.Resources[at].ACLs, o)
	}
	r.respond(resp)
}

// filterFault says why the client may not do op with the ACLs that f picks.
func (c *conn) filterFault(f *broker.ACLFilter, op broker.Operation) (code wire.ErrorCode, why string) {
	switch {
	case !c.mayCluster(op):
		return wire.ClusterAuthorizationFailed, "not authorized for the cluster"
	case c.l.h.acls == nil:
		return wire.SecurityDisabled, "this node keeps no ACLs"
	case f.Resource < broker.ResourceAny || f.Resource > broker.ResourceUser:
		return wire.InvalidRequest, "the filter has an unknown resource type"
	case f.Pattern < broker.PatternAny || f.Pattern > broker.PatternPrefixed:
		return wire.InvalidRequest, "the filter has an unknown pattern type"
	case f.Operation < broker.OperationAny || f.Operation > broker.OperationTwoPhaseCommit:
		return wire.InvalidRequest, "the filter has an unknown operation"
	case f.Permission < broker.PermissionAny || f.Permission > broker.PermissionAllow:
		return wire.InvalidRequest, "the filter has an unknown permission type"
	}
	return wire.None, ""
}
