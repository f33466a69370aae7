package kafka

import (
	"sort"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// describedMax bounds the partitions of one answer to DescribeTopicPartitions, whatever the client asks for.
const describedMax = 2000

// describeTopicPartitions shows topics in order of their names, in pages of so many partitions (KIP-966).
func describeTopicPartitions(r *request, m *kmsg.DescribeTopicPartitionsRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	names := r.c.namesToDescribe(m)
	left := min(int(m.ResponsePartitionLimit), describedMax)
	if left <= 0 {
		left = describedMax
	}
	for _, name := range names {
		first := int32(0)
		if m.Cursor != nil {
			if name < m.Cursor.Topic {
				continue
			}
			if name == m.Cursor.Topic {
				first = max(m.Cursor.Partition, 0)
			}
		}
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name}
			break
		}
		out, next := r.c.describePage(name, first, left)
		left -= len(out.Partitions)
		resp.Topics = append(resp.Topics, out)
		if next >= 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: next}
			break
		}
	}
	r.respond(resp)
}

// namesToDescribe are those asked for, or all that the client may know, in order.
func (c *conn) namesToDescribe(m *kmsg.DescribeTopicPartitionsRequest) (names []string) {
	tenant := c.tenant()
	if len(m.Topics) == 0 {
		c.l.h.broker.Topics(tenant, func(t *broker.Topic) bool {
			if c.mayName(t.Name()) {
				names = append(names, t.Name())
			}
			return true
		})
	}
	for i := range m.Topics {
		names = append(names, m.Topics[i].Topic)
	}
	sort.Strings(names)
	return names
}

// describePage is one topic from a partition on, at most so many. next: the partition to go on with, -1 for none.
func (c *conn) describePage(name string, first int32, most int) (out kmsg.DescribeTopicPartitionsResponseTopic, next int32) {
	out = kmsg.NewDescribeTopicPartitionsResponseTopic()
	out.Topic = &name
	t := c.l.h.broker.Topic(c.tenant(), name)
	switch {
	case !ValidTopicName(name):
		out.ErrorCode = int16(wire.InvalidTopicException)
		return out, -1
	case !c.mayName(name):
		out.ErrorCode = int16(wire.TopicAuthorizationFailed)
		return out, -1
	case t == nil:
		out.ErrorCode = int16(c.l.h.unknownTopic())
		return out, -1
	}
	spec := t.Spec()
	out.TopicID, out.IsInternal = spec.ID, spec.Internal
	told := c.tellPlaces(true)
	for n := first; int(n) < len(spec.Partitions); n++ {
		if len(out.Partitions) == most {
			return out, n
		}
		at := told.of(spec.Partitions[n].Shard)
		p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		p.Partition, p.ErrorCode, p.LeaderID, p.LeaderEpoch = n, int16(at.code), at.leader, at.Epoch
		p.Replicas, p.ISR = at.Replicas, at.ISR
		p.EligibleLeaderReplicas, p.LastKnownELR, p.OfflineReplicas = at.Eligible, []int32{}, at.offline // Java's client takes no null
		out.Partitions = append(out.Partitions, p)
	}
	return out, -1
}
