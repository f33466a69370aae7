package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// leaveGroup takes members out of a group.
func leaveGroup(r *request, m *kmsg.LeaveGroupRequest) {
	resp := m.ResponseKind().(*kmsg.LeaveGroupResponse)
	if code := r.c.groupFault(broker.OperationRead, m.Group); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	leavers := []broker.Leaver{{MemberID: m.MemberID}}
	if m.Version >= 3 {
		leavers = leavers[:0]
		for i := range m.Members {
			leavers = append(leavers, broker.Leaver{MemberID: m.Members[i].MemberID, InstanceID: str(m.Members[i].InstanceID)})
		}
	}
	l, t := r.c.l, r.ticket()
	l.h.broker.LeaveGroup(r.c.tenant(), m.Group, leavers, func(errs []error, err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode = coordinatorCode(err)
			for i, e := range errs {
				if m.Version < 3 {
					resp.ErrorCode = coordinatorCode(e)
					continue
				}
				o := kmsg.NewLeaveGroupResponseMember()
				o.MemberID, o.InstanceID, o.ErrorCode = m.Members[i].MemberID, m.Members[i].InstanceID, coordinatorCode(e)
				resp.Members = append(resp.Members, o)
			}
			r.respond(resp)
		})
	})
}
