package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alterReplicaLogDirs moves nothing: there is one directory. A partition that is asked to be there is there.
func alterReplicaLogDirs(r *request, m *kmsg.AlterReplicaLogDirsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterReplicaLogDirsResponse)
	tenant := r.c.tenant()
	may := r.c.mayNode(broker.OperationAlter)
	for i := range m.Dirs {
		code := wire.None
		switch {
		case !may:
			code = wire.ClusterAuthorizationFailed
		case m.Dirs[i].Dir != r.c.l.h.logPath:
			code = wire.LogDirNotFound
		}
		for j := range m.Dirs[i].Topics {
			t := &m.Dirs[i].Topics[j]
			out := kmsg.NewAlterReplicaLogDirsResponseTopic()
			out.Topic = t.Topic
			topic := r.c.l.h.broker.Topic(tenant, t.Topic)
			for _, n := range t.Partitions {
				o := kmsg.NewAlterReplicaLogDirsResponseTopicPartition()
				o.Partition, o.ErrorCode = n, int16(code)
				if code == wire.None && (topic == nil || topic.Partition(n) == nil) {
					o.ErrorCode = int16(wire.UnknownTopicOrPartition)
				}
				out.Partitions = append(out.Partitions, o)
			}
			resp.Topics = append(resp.Topics, out)
		}
	}
	r.respond(resp)
}
