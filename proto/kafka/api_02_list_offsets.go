package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// offsetSpecs are the first versions that the places which are no times may be asked at: latest, earliest, maximum timestamp, earliest local,
// latest tiered, earliest that waits for its upload.
var offsetSpecs = map[int64]int16{-1: 1, -2: 1, -3: 7, -4: 8, -5: 9, earliestPendingUpload: 11}

// earliestPendingUpload asks for the first record that is to go to a remote tier (KIP-1023). There is none, as for the latest tiered one.
const earliestPendingUpload = -6

// offsetFault says what is wrong with a partition of the request.
func offsetFault(m *kmsg.ListOffsetsRequest, p *kmsg.ListOffsetsRequestTopicPartition, asked int) wire.ErrorCode {
	if asked > 1 {
		return wire.InvalidRequest
	}
	if first, known := offsetSpecs[p.Timestamp]; p.Timestamp < 0 && (!known || m.Version < first) {
		return wire.UnsupportedVersion
	}
	return epochCode(p.CurrentLeaderEpoch)
}

// listOffsets finds offsets by time, or the ends of partitions.
func listOffsets(r *request, m *kmsg.ListOffsetsRequest) {
	resp := m.ResponseKind().(*kmsg.ListOffsetsResponse)
	type ask struct {
		part  *broker.Partition
		at    int64
		place [2]int
	}
	var asks []ask
	type named struct {
		topic string
		index int32
	}
	asked := make(map[named]int)
	for i := range m.Topics {
		for k := range m.Topics[i].Partitions {
			asked[named{m.Topics[i].Topic, m.Topics[i].Partitions[k].Partition}]++
		}
	}
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewListOffsetsResponseTopic()
		out.Topic = t.Topic
		topic, visible := r.c.l.h.broker.Topic(tenant, t.Topic), r.c.mayName(t.Topic)
		for k := range t.Partitions {
			p := &t.Partitions[k]
			o := kmsg.NewListOffsetsResponseTopicPartition()
			o.Partition, o.Timestamp, o.Offset, o.LeaderEpoch = p.Partition, -1, -1, -1
			o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			if !visible {
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			} else if topic != nil {
				if part := topic.Partition(p.Partition); part != nil {
					o.ErrorCode = int16(offsetFault(m, p, asked[named{t.Topic, p.Partition}]))
					if o.ErrorCode == 0 && p.Timestamp != earliestPendingUpload {
						asks = append(asks, ask{part, p.Timestamp, [2]int{i, k}})
					}
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	committed := m.IsolationLevel == int8(wire.ReadCommitted)
	core := r.c.l.core
	gather(r, resp, len(asks), func(i int, done func()) {
		a := &asks[i]
		core.OffsetAt(a.part, a.at, committed, func(found broker.FoundOffset, err error) {
			o := &resp.Topics[a.place[0]].Partitions[a.place[1]]
			if o.ErrorCode = int16(codeOf(err)); err == nil {
				o.Timestamp, o.Offset = found.Timestamp, int64(found.Offset)
				if found.Offset >= 0 {
					o.LeaderEpoch = leaderEpoch
				}
			}
			done()
		})
	})
}
