package kafka

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// syncGroup gives a member its part of what the leader has shared out.
func syncGroup(r *request, m *kmsg.SyncGroupRequest) {
	resp := m.ResponseKind().(*kmsg.SyncGroupResponse)
	if code := r.c.groupFault(broker.OperationRead, m.Group); code != wire.None {
		resp.ErrorCode, resp.MemberAssignment = int16(code), []byte{}
		r.respond(resp)
		return
	}
	req := &broker.SyncRequest{Group: m.Group, MemberID: m.MemberID, InstanceID: str(m.InstanceID), Generation: m.Generation,
		ProtocolType: str(m.ProtocolType), Protocol: str(m.Protocol), Assignments: make(map[string][]byte, len(m.GroupAssignment))}
	for i := range m.GroupAssignment {
		req.Assignments[m.GroupAssignment[i].MemberID] = bytes.Clone(m.GroupAssignment[i].MemberAssignment)
	}
	l, t := r.c.l, r.ticket()
	l.h.broker.SyncGroup(r.c.tenant(), req, func(res broker.SyncResult) {
		t.later(l, func(r *request) {
			resp.ErrorCode, resp.MemberAssignment = coordinatorCode(res.Err), res.Assignment
			if res.Err == nil {
				resp.ProtocolType, resp.Protocol = &res.ProtocolType, &res.Protocol
			}
			r.respond(resp)
		})
	})
}
