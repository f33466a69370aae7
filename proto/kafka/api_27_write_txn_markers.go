package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// writeTxnMarkers ends transactions on single partitions. Coordinators of a cluster ask for it, and administrators who end what hangs.
func writeTxnMarkers(r *request, m *kmsg.WriteTxnMarkersRequest) {
	resp := m.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	tenant := r.c.tenant()
	type ask struct {
		p      *broker.Partition
		marker *kmsg.WriteTxnMarkersRequestMarker
		place  [3]int
	}
	var asks []ask
	v := r.c.l.h.view()
	may := r.c.mayNode(broker.OperationClusterAction) || r.c.mayNode(broker.OperationAlter)
	for i := range m.Markers {
		in := &m.Markers[i]
		marker := kmsg.NewWriteTxnMarkersResponseMarker()
		marker.ProducerID = in.ProducerID
		for j := range in.Topics {
			topic := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			topic.Topic = in.Topics[j].Topic
			t := r.c.l.h.broker.Topic(tenant, topic.Topic)
			for _, n := range in.Topics[j].Partitions {
				o := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				o.Partition, o.ErrorCode = n, int16(wire.UnknownTopicOrPartition)
				switch {
				case !may:
					o.ErrorCode = int16(wire.ClusterAuthorizationFailed)
				case t != nil && t.Partition(n) != nil:
					p := t.Partition(n)
					if o.ErrorCode = int16(r.c.l.h.leaderFault(v.of(p), p, -1)); o.ErrorCode != 0 {
						break
					}
					asks = append(asks, ask{p, in, [3]int{i, j, len(topic.Partitions)}})
				}
				topic.Partitions = append(topic.Partitions, o)
			}
			marker.Topics = append(marker.Topics, topic)
		}
		resp.Markers = append(resp.Markers, marker)
	}
	b := r.c.l.h.broker
	gather(r, resp, len(asks), func(i int, done func()) {
		a := &asks[i]
		who := broker.ProducerIdentity{ID: a.marker.ProducerID, Epoch: a.marker.ProducerEpoch}
		b.WriteMarker(a.p, who, a.marker.Committed, func(err error) {
			resp.Markers[a.place[0]].Topics[a.place[1]].Partitions[a.place[2]].ErrorCode = int16(codeOf(err))
			done()
		})
	})
}
