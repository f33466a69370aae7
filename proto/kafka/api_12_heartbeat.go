package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// heartbeat says that a member is alive.
func heartbeat(r *request, m *kmsg.HeartbeatRequest) {
	resp := m.ResponseKind().(*kmsg.HeartbeatResponse)
	if code := r.c.groupFault(broker.OperationRead, m.Group); code != wire.None {
		resp.ErrorCode = int16(code)
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	l.h.broker.Heartbeat(r.c.tenant(), m.Group, m.MemberID, str(m.InstanceID), m.Generation, func(err error) {
		t.later(l, func(r *request) {
			resp.ErrorCode = coordinatorCode(err)
			r.respond(resp)
		})
	})
}
