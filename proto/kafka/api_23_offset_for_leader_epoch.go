package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// offsetForLeaderEpoch tells where an epoch's records end, or those of the last one before it that has any (KIP-101, KIP-320): a consumer that is
// further has read what was lost. A node that is alone leads in the one epoch 0.
func offsetForLeaderEpoch(r *request, m *kmsg.OffsetForLeaderEpochRequest) {
	resp := m.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	tenant := r.c.tenant()
	h, v := r.c.l.h, r.c.l.h.view()
	var asks []epochAsk
	for i := range m.Topics {
		t := &m.Topics[i]
		out := kmsg.NewOffsetForLeaderEpochResponseTopic()
		out.Topic = t.Topic
		topic := h.broker.Topic(tenant, t.Topic)
		for k := range t.Partitions {
			ask := &t.Partitions[k]
			o := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			o.Partition, o.LeaderEpoch, o.EndOffset = ask.Partition, -1, -1
			switch {
			case !r.c.mayName(t.Topic):
				o.ErrorCode = int16(wire.TopicAuthorizationFailed)
			case topic == nil || topic.Partition(ask.Partition) == nil:
				o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			default:
				p := topic.Partition(ask.Partition)
				pl := v.of(p)
				switch o.ErrorCode = int16(h.leaderFault(pl, p, ask.CurrentLeaderEpoch)); {
				case o.ErrorCode != 0 || ask.LeaderEpoch < 0 || ask.LeaderEpoch > pl.Epoch:
				case ask.LeaderEpoch == pl.Epoch: // whether it has records or not
					o.LeaderEpoch, o.EndOffset = pl.Epoch, int64(p.HighWatermark())
				default:
					asks = append(asks, epochAsk{p, ask.LeaderEpoch, [2]int{i, k}})
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	core := r.c.l.core
	gather(r, resp, len(asks), func(i int, done func()) {
		a := &asks[i]
		core.EpochEnd(a.part, record.Epoch(a.epoch), func(epoch record.Epoch, end record.Offset, err error) {
			o := &resp.Topics[a.place[0]].Partitions[a.place[1]]
			if o.ErrorCode = int16(codeOf(err)); err == nil {
				o.LeaderEpoch, o.EndOffset = int32(epoch), int64(end)
			}
			done()
		})
	})
}

// epochAsk is one epoch whose end is looked for, and where the answer belongs.
type epochAsk struct {
	part  *broker.Partition
	epoch int32
	place [2]int
}
