package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// deleteGroups forgets groups that nobody is in.
func deleteGroups(r *request, m *kmsg.DeleteGroupsRequest) {
	resp := m.ResponseKind().(*kmsg.DeleteGroupsResponse)
	tenant := r.c.tenant()
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(m.Groups))
	gather(r, resp, len(m.Groups), func(i int, done func()) {
		resp.Groups[i] = kmsg.NewDeleteGroupsResponseGroup()
		resp.Groups[i].Group = m.Groups[i]
		if code := r.c.storable(r.c.groupFault(broker.OperationDelete, m.Groups[i])); code != wire.None {
			resp.Groups[i].ErrorCode = int16(code)
			done()
			return
		}
		r.c.l.h.broker.DeleteGroup(tenant, m.Groups[i], func(err error) {
			resp.Groups[i].ErrorCode = coordinatorCode(err)
			done()
		})
	})
}
