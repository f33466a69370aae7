package kafka

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
)

// listGroups names the groups, those of the states and types asked for.
func listGroups(r *request, m *kmsg.ListGroupsRequest) {
	resp := m.ResponseKind().(*kmsg.ListGroupsResponse)
	l, t := r.c.l, r.ticket()
	all := r.c.mayCluster(broker.OperationDescribe)
	l.h.broker.ListGroups(r.c.tenant(), func(list []broker.GroupDescription) {
		t.later(l, func(r *request) {
			for i := range list {
				g := &list[i]
				if !all && !r.c.mayGroup(broker.OperationDescribe, g.ID) {
					continue
				}
				if !among(m.StatesFilter, g.State) || !among(m.TypesFilter, g.Type()) {
					continue
				}
				o := kmsg.NewListGroupsResponseGroup()
				o.Group, o.ProtocolType, o.GroupState, o.GroupType = g.ID, g.ProtocolType, g.State, g.Type()
				resp.Groups = append(resp.Groups, o)
			}
			r.respond(resp)
		})
	})
}

// among says whether a filter lets name through: an empty one does.
func among(filter []string, name string) bool {
	return len(filter) == 0 || slices.ContainsFunc(filter, func(s string) bool { return strings.EqualFold(s, name) })
}
