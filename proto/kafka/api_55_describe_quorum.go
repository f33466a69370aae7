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

// describeQuorum shows who decides on metadata: this node alone, with the log of the shard that keeps it.
func describeQuorum(r *request, m *kmsg.DescribeQuorumRequest) {
	resp := m.ResponseKind().(*kmsg.DescribeQuorumResponse)
	if resp.ErrorCode = refused(r.c.mayCluster(broker.OperationDescribe), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	h := r.c.l.h
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
				o.LeaderID, o.LeaderEpoch, o.HighWatermark = h.nodeID, leaderEpoch, end
				voter := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
				voter.ReplicaID, voter.LogEndOffset, voter.LastFetchTimestamp, voter.LastCaughtUpTimestamp = h.nodeID, end, now, now
				o.CurrentVoters = append(o.CurrentVoters, voter)
			}
			out.Partitions = append(out.Partitions, o)
		}
		resp.Topics = append(resp.Topics, out)
	}
	node := kmsg.NewDescribeQuorumResponseNode()
	node.NodeID = h.nodeID
	at := kmsg.NewDescribeQuorumResponseNodeListener()
	host, port := r.c.address()
	at.Name, at.Host, at.Port = r.c.securityProtocol(), host, uint16(port)
	node.Listeners = append(node.Listeners, at)
	resp.Nodes = append(resp.Nodes, node)
	r.respond(resp)
}
