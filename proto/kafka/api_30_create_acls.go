package kafka

import (
	"net/netip"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// createACLs makes ACLs. One that is there already is made again without a word.
func createACLs(r *request, m *kmsg.CreateACLsRequest) {
	resp := m.ResponseKind().(*kmsg.CreateACLsResponse)
	resp.Results = make([]kmsg.CreateACLsResponseResult, len(m.Creations))
	may := r.c.mayCluster(broker.OperationAlter)
	var list []broker.ACL
	var place []int
	for i := range m.Creations {
		k := &m.Creations[i]
		a := broker.ACL{Resource: broker.ResourceType(k.ResourceType), Pattern: broker.PatternType(k.ResourcePatternType), Name: k.ResourceName,
			Principal: k.Principal, Host: k.Host, Operation: broker.Operation(k.Operation), Permission: broker.Permission(k.PermissionType)}
		out := &resp.Results[i]
		*out = kmsg.NewCreateACLsResponseResult()
		code, why := wire.None, ""
		switch {
		case !may:
			code, why = wire.ClusterAuthorizationFailed, "not authorized for the cluster"
		case r.c.l.h.acls == nil:
			code, why = wire.SecurityDisabled, "this node keeps no ACLs"
		default:
			if why = aclFault(&a); why != "" {
				code = wire.InvalidRequest
			}
		}
		if code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
			continue
		}
		list, place = append(list, a), append(place, i)
	}
	if len(list) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.acls.CreateACLs(r.c.tenant(), list, func(errs []error) {
		t.later(l, func(r *request) {
			for k, i := range place {
				resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = told(errs[k])
			}
			r.respond(resp)
		})
	})
}

// told is an error with its words.
func told(err error) (code int16, why *string) {
	if err == nil {
		return 0, nil
	}
	text := err.Error()
	return int16(codeOf(err)), &text
}

// aclFault says what is wrong with an ACL that is to be made.
func aclFault(a *broker.ACL) string {
	switch {
	case a.Resource < broker.ResourceTopic || a.Resource > broker.ResourceUser:
		return "no such resource type, or one of filters"
	case a.Resource == broker.ResourceCluster && a.Name != broker.ClusterName:
		return "the one resource of type CLUSTER is named " + broker.ClusterName
	case a.Pattern != broker.PatternLiteral && a.Pattern != broker.PatternPrefixed:
		return "the pattern of an ACL is LITERAL or PREFIXED"
	case a.Operation < broker.OperationAll || a.Operation > broker.OperationTwoPhaseCommit:
		return "no such operation, or one of filters"
	case a.Permission != broker.PermissionDeny && a.Permission != broker.PermissionAllow:
		return "an ACL allows or denies"
	case a.Name == "":
		return "a resource's name is not empty"
	}
	if name, ok := strings.CutPrefix(a.Principal, "User:"); !ok || name == "" {
		return "want a principal User:NAME, or User:* for everybody"
	}
	if _, err := netip.ParseAddr(a.Host); a.Host != "*" && err != nil {
		return "want a host that is an IP address, or * for all"
	}
	return ""
}
