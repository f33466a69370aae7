package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// topicIDVersion is from when on OffsetCommit and OffsetFetch name topics by id.
const topicIDVersion = 10

// offsetCommit stores where a group goes on.
func offsetCommit(r *request, m *kmsg.OffsetCommitRequest) {
	resp := m.ResponseKind().(*kmsg.OffsetCommitResponse)
	tenant := r.c.tenant()
	refusal := r.c.storable(r.c.groupFault(broker.OperationRead, m.Group))
	req := &broker.CommitRequest{Group: m.Group, MemberID: m.MemberID, InstanceID: str(m.InstanceID), Generation: m.Generation}
	b := r.c.l.h.broker
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewOffsetCommitResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		id, fault := broker.TopicID(t.TopicID), error(nil)
		if m.Version < topicIDVersion {
			if topic := b.Topic(tenant, t.Topic); topic != nil {
				id = topic.ID()
			} else {
				fault = broker.ErrUnknownTopic
			}
			if !r.c.mayTopic(broker.OperationRead, t.Topic) {
				fault = errTopicRefused
			}
		} else if topic := b.TopicByID(tenant, t.TopicID); topic != nil && !r.c.mayTopic(broker.OperationRead, topic.Name()) {
			fault = errTopicRefused
		}
		for k := range t.Partitions {
			p := &t.Partitions[k]
			req.Offsets = append(req.Offsets, broker.OffsetCommit{
				TopicPartition:  broker.TopicPartition{Topic: id, Partition: p.Partition},
				CommittedOffset: broker.CommittedOffset{Offset: offset(p.Offset), LeaderEpoch: p.LeaderEpoch, Metadata: str(p.Metadata)},
				Err:             fault,
			})
			o := kmsg.NewOffsetCommitResponseTopicPartition()
			o.Partition, o.ErrorCode = p.Partition, int16(refusal)
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	if refusal != wire.None {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	b.CommitOffsets(tenant, req, func(err error) {
		t.later(l, func(r *request) {
			at := 0
			for i := range resp.Topics {
				for k := range resp.Topics[i].Partitions {
					why := req.Offsets[at].Err
					if err != nil {
						why = err
					}
					code := coordinatorCode(why)
					if code == int16(wire.UnknownTopicOrPartition) && m.Version >= topicIDVersion && b.TopicByID(tenant, resp.Topics[i].TopicID) == nil {
						code = int16(wire.UnknownTopicID)
					}
					resp.Topics[i].Partitions[k].ErrorCode = code
					at++
				}
			}
			r.respond(resp)
		})
	})
}
