package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// offsetSpecs are the first versions that the places which are no times may be asked at: latest, earliest, maximum timestamp, earliest local,
// latest tiered, earliest that waits for its upload (KIP-1023).
var offsetSpecs = map[int64]int16{broker.LatestOffset: 1, broker.EarliestOffset: 1, broker.MaxTimestampOffset: 7, broker.EarliestLocalOffset: 8,
	broker.LatestTieredOffset: 9, broker.EarliestToTier: 11}

// searchWait bounds a search by time that waits for a store, where the client does not say how long it waits: Kafka's clients give a request up
// after 30 seconds.
const searchWait = 20 * time.Second

// offsetFault says what is wrong with a partition of the request.
func (h *Handler) offsetFault(v *View, part *broker.Partition, m *kmsg.ListOffsetsRequest, p *kmsg.ListOffsetsRequestTopicPartition, asked int) wire.ErrorCode {
	if asked > 1 {
		return wire.InvalidRequest
	}
	if first, known := offsetSpecs[p.Timestamp]; p.Timestamp < 0 && (!known || m.Version < first) {
		return wire.UnsupportedVersion
	}
	return h.leaderFault(v.of(part), part, p.CurrentLeaderEpoch)
}

// listOffsets finds offsets by time, or the ends of partitions.
func listOffsets(r *request, m *kmsg.ListOffsetsRequest) {
	resp := m.ResponseKind().(*kmsg.ListOffsetsResponse)
	tenant := r.c.tenant()
	var asks []offsetAsk
	type named struct {
		topic string
		index int32
	}
	asked := make(map[named]int)
	v := r.c.l.h.view()
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
					o.ErrorCode = int16(r.c.l.h.offsetFault(v, part, m, p, asked[named{t.Topic, p.Partition}]))
					if o.ErrorCode == 0 {
						asks = append(asks, offsetAsk{part: part, at: p.Timestamp, leader: v.of(part).Epoch, place: [2]int{i, k}})
					}
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	searchOffsets(r, m, resp, asks)
}

// offsetAsk is one search, and where its answer belongs.
type offsetAsk struct {
	part   *broker.Partition
	at     int64
	leader int32 // its epoch
	place  [2]int
	done   func() // nil: it is answered
}

// searchOffsets asks the core, and answers REQUEST_TIMED_OUT for what a store does not give in time.
func searchOffsets(r *request, m *kmsg.ListOffsetsRequest, resp *kmsg.ListOffsetsResponse, asks []offsetAsk) {
	committed := m.IsolationLevel == int8(wire.ReadCommitted)
	h, core, left := r.c.l.h, r.c.l.core, len(asks)
	var timer broker.LoopTimer
	settle := func(i int, found broker.FoundOffset, code wire.ErrorCode) {
		a := &asks[i]
		if a.done == nil {
			return // it came too late
		}
		o := &resp.Topics[a.place[0]].Partitions[a.place[1]]
		if o.ErrorCode = int16(code); code == wire.None {
			o.Timestamp, o.Offset = found.Timestamp, int64(found.Offset)
			if found.Offset >= 0 && (a.at == broker.LatestOffset || h.cluster == nil) {
				o.LeaderEpoch = a.leader // of what lies further back it is not known, which clients are content with
			}
		}
		done := a.done
		a.done = nil
		if left--; left == 0 {
			core.StopTimer(&timer)
		}
		done()
	}
	gather(r, resp, len(asks), func(i int, done func()) {
		asks[i].done = done
		core.OffsetAt(asks[i].part, asks[i].at, committed, func(found broker.FoundOffset, err error) { settle(i, found, codeOf(err)) })
	})
	if left == 0 {
		return
	}
	wait := searchWait
	if m.TimeoutMillis > 0 {
		wait = time.Duration(m.TimeoutMillis) * time.Millisecond
	}
	core.SetTimer(&timer, wait, func() {
		for i := range asks {
			settle(i, broker.FoundOffset{}, wire.RequestTimedOut)
		}
	})
}
