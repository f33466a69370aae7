package kafka

import "github.com/twmb/franz-go/pkg/kmsg"

// heartbeat says that a member is alive.
func heartbeat(r *request, m *kmsg.HeartbeatRequest) {
	resp := m.ResponseKind().(*kmsg.HeartbeatResponse)
	l, t := r.c.l, r.ticket()
	l.h.broker.Heartbeat(tenant, m.Group, m.MemberID, str(m.InstanceID), m.Generation, func(err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode = coordinatorCode(err)
			r.respond(resp)
		})
	})
}
