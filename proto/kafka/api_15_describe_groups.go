package kafka

import (
	"math"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describeGroups shows groups. From version 6 on one that is not there is an error, before it is a dead group.
func describeGroups(r *request, m *kmsg.DescribeGroupsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeGroupsResponse)
	tenant := r.c.tenant()
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(m.Groups))
	gather(r, resp, len(m.Groups), func(i int, done func()) {
		if code := r.c.groupFault(broker.OperationDescribe, m.Groups[i]); code != wire.None {
			resp.Groups[i] = kmsg.NewDescribeGroupsResponseGroup()
			resp.Groups[i].Group, resp.Groups[i].ErrorCode = m.Groups[i], int16(code)
			done()
			return
		}
		operations := int32(math.MinInt32)
		if m.IncludeAuthorizedOperations {
			operations = r.c.operationsOf(broker.ResourceGroup, m.Groups[i])
		}
		r.c.l.h.broker.DescribeGroup(tenant, m.Groups[i], func(d broker.GroupDescription) {
			resp.Groups[i] = describedGroup(&d, m.Version)
			resp.Groups[i].AuthorizedOperations = operations
			done()
		})
	})
}

func describedGroup(d *broker.GroupDescription, version int16) kmsg.DescribeGroupsResponseGroup {
	out := kmsg.NewDescribeGroupsResponseGroup()
	out.Group, out.State, out.ProtocolType, out.Protocol = d.ID, d.State, d.ProtocolType, d.Protocol
	if d.State == broker.GroupDead.String() && version >= 6 {
		why := "there is no group " + d.ID
		out.ErrorCode, out.ErrorMessage = int16(wire.GroupIDNotFound), &why
	}
	for i := range d.Members {
		md := &d.Members[i]
		o := kmsg.NewDescribeGroupsResponseGroupMember()
		o.MemberID, o.ClientID, o.ClientHost, o.ProtocolMetadata, o.MemberAssignment = md.ID, md.ClientID, md.ClientHost, md.Metadata, md.Assignment
		if md.InstanceID != "" {
			o.InstanceID = &md.InstanceID
		}
		out.Members = append(out.Members, o)
	}
	return out
}

// gather asks n questions, whose answers may come on any goroutine, and responds when all have been answered.
func gather(r *request, resp kmsg.Response, n int, ask func(i int, done func())) {
	if n == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	var left atomic.Int32
	left.Store(int32(n))
	for i := range n {
		ask(i, func() {
			if left.Add(-1) == 0 {
				t.later(l, func(r *request) { r.respond(resp) })
			}
		})
	}
}
