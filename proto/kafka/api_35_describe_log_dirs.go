package kafka

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// LogDir is where the node keeps its log, and the room of the volume that it lies on.
type LogDir struct {
	Path          string
	Total, Usable int64 // bytes; -1: not known
}

// describeLogDirs shows how many bytes of each partition are stored here, without what lies in a store alone: of all for a null list. The volume is asked, and sizes are summed up, off the
// loop.
func describeLogDirs(r *request, m *kmsg.DescribeLogDirsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	if resp.ErrorCode = refused(r.c.mayCluster(broker.OperationDescribe), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	l, t, tenant := r.c.l, r.ticket(), r.c.tenant()
	l.h.broker.OffLoop(func() {
		resp.Dirs = append(resp.Dirs, logDirOf(l.h, tenant, m))
		t.later(l, func(r *request) { r.respond(resp) })
	})
}

// tenantLogDir is what a tenant's clients are told of where the log lies. The node's volume is not theirs to know.
var tenantLogDir = LogDir{Path: "log", Total: -1, Usable: -1}

func logDirOf(h *Handler, tenant uint32, m *kmsg.DescribeLogDirsRequest) kmsg.DescribeLogDirsResponseDir {
	b := h.broker
	dir := kmsg.NewDescribeLogDirsResponseDir()
	where := tenantLogDir
	if tenant == 0 {
		where = h.logDir()
	}
	dir.Dir, dir.TotalBytes, dir.UsableBytes = where.Path, where.Total, where.Usable
	add := func(t *broker.Topic, wanted []int32) {
		out := kmsg.NewDescribeLogDirsResponseDirTopic()
		out.Topic = t.Name()
		for _, p := range t.Partitions() {
			if m.Topics != nil && !slices.Contains(wanted, p.Index()) {
				continue
			}
			o := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			o.Partition, o.Size = p.Index(), b.PartitionLocalBytes(p)
			out.Partitions = append(out.Partitions, o)
		}
		if len(out.Partitions) > 0 {
			dir.Topics = append(dir.Topics, out)
		}
	}
	if m.Topics == nil {
		b.Topics(tenant, func(t *broker.Topic) bool { add(t, nil); return true })
		slices.SortFunc(dir.Topics, func(a, b kmsg.DescribeLogDirsResponseDirTopic) int { return strings.Compare(a.Topic, b.Topic) })
	}
	for i := range m.Topics {
		if t := b.Topic(tenant, m.Topics[i].Topic); t != nil {
			add(t, m.Topics[i].Partitions)
		}
	}
	return dir
}
