package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// metadataTopic is what Kafka's tools call the log of the cluster's metadata.
const metadataTopic = "__cluster_metadata"

// securityProtocol is Kafka's name of how the client has come in.
func (c *conn) securityProtocol() string {
	if c.link.TLS() != nil {
		return "SSL"
	}
	return "PLAINTEXT"
}

// describeQuorum shows who decides on metadata: the nodes that have the shard that keeps it. What others have of its log is not known here.
func describeQuorum(r *request, m *kmsg.DescribeQuorumRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeQuorumResponse)
	if resp.ErrorCode = refused(r.c.mayNode(broker.OperationDescribe), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	h := r.c.l.h
	v := h.view()
	pl := v.controller()
	for i := range m.Topics {
		out := kmsg.NewDescribeQuorumResponseTopic()
		out.Topic = m.Topics[i].Topic
		for _, ask := range m.Topics[i].Partitions {
			o := kmsg.NewDescribeQuorumResponseTopicPartition()
			o.Partition = ask.Partition
			if out.Topic != metadataTopic || ask.Partition != 0 {
				o.ErrorCode = int16(wire.UnknownTopicOrPartition)
			} else {
				end, now := int64(h.broker.CatalogEnd()), r.c.l.loop.NowUnixMilli()
				o.LeaderID, o.LeaderEpoch, o.HighWatermark = pl.Leader, pl.Epoch, end
				for _, id := range pl.Replicas {
					voter := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
					if voter.ReplicaID, voter.LogEndOffset = id, -1; id == h.nodeID {
						voter.LogEndOffset, voter.LastFetchTimestamp, voter.LastCaughtUpTimestamp = end, now, now
					}
					o.CurrentVoters = append(o.CurrentVoters, voter)
				}
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	for _, e := range r.c.endpoints(v) {
		node := kmsg.NewDescribeQuorumResponseNode()
		node.NodeID = e.ID
		at := kmsg.NewDescribeQuorumResponseNodeListener()
		at.Name, at.Host, at.Port = r.c.securityProtocol(), e.Host, uint16(e.Port)
		node.Listeners = append(node.Listeners, at)
		resp.Nodes = append(resp.Nodes, node)
	}
	r.respond(resp)
}
