package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// serveFunc begins a request. took false: it has to come again when what it waits for, which it has said by conn.block, is over. An error
// ends the connection. The body is a view.
type serveFunc func(r *request, q *wire.Request) (took bool, err error)

// apiKeys is one above the highest key.
const apiKeys = wire.DeleteShareGroupOffsets + 1

// served has what is spoken here. What is not in it is not advertised, and a request for it ends the connection.
var served [apiKeys]serveFunc // filled by init: handlers refer to it

func init() {
	served = [apiKeys]serveFunc{
		wire.Produce:                 produce,
		wire.Fetch:                   fetch,
		wire.ListOffsets:             serve(listOffsets),
		wire.Metadata:                serve(metadata),
		wire.OffsetCommit:            serve(offsetCommit),
		wire.OffsetFetch:             serve(offsetFetch),
		wire.FindCoordinator:         serve(findCoordinator),
		wire.JoinGroup:               serve(joinGroup),
		wire.Heartbeat:               serve(heartbeat),
		wire.LeaveGroup:              serve(leaveGroup),
		wire.SyncGroup:               serve(syncGroup),
		wire.DescribeGroups:          serve(describeGroups),
		wire.ListGroups:              serve(listGroups),
		wire.SASLHandshake:           serve(saslHandshake),
		wire.APIVersions:             serve(apiVersions),
		wire.CreateTopics:            serve(createTopics),
		wire.DeleteTopics:            serve(deleteTopics),
		wire.DescribeACLs:            serve(describeACLs),
		wire.CreateACLs:              serve(createACLs),
		wire.DeleteACLs:              serve(deleteACLs),
		wire.DescribeClientQuotas:    serve(describeClientQuotas),
		wire.AlterClientQuotas:       serve(alterClientQuotas),
		wire.DescribeConfigs:         serve(describeConfigs),
		wire.AlterConfigs:            serve(alterConfigs),
		wire.SASLAuthenticate:        serve(saslAuthenticate),
		wire.CreatePartitions:        serve(createPartitions),
		wire.DeleteGroups:            serve(deleteGroups),
		wire.IncrementalAlterConfigs: serve(incrementalAlterConfigs),
		wire.OffsetDelete:            serve(offsetDelete),
		wire.DescribeCluster:         serve(describeCluster),
		wire.InitProducerID:          serve(initProducerID),
		wire.AddPartitionsToTxn:      serve(addPartitionsToTxn),
		wire.AddOffsetsToTxn:         serve(addOffsetsToTxn),
		wire.EndTxn:                  serve(endTxn),
		wire.TxnOffsetCommit:         serve(txnOffsetCommit),
		wire.DescribeProducers:       serve(describeProducers),
		wire.DescribeTransactions:    serve(describeTransactions),
		wire.ListTransactions:        serve(listTransactions),
		wire.DeleteRecords:           serve(deleteRecords),
		wire.OffsetForLeaderEpoch:    serve(offsetForLeaderEpoch),
		wire.ElectLeaders:            serve(electLeaders),
		wire.DescribeTopicPartitions: serve(describeTopicPartitions),
		wire.ConsumerGroupHeartbeat:  serve(consumerGroupHeartbeat),
		wire.ConsumerGroupDescribe:   serve(consumerGroupDescribe),
		wire.CreateDelegationToken:   serve(createDelegationToken),
		wire.RenewDelegationToken:    serve(renewDelegationToken),
		wire.ExpireDelegationToken:   serve(expireDelegationToken),
		wire.DescribeDelegationToken: serve(describeDelegationToken),

		wire.DescribeUserScramCredentials: serve(describeUserSCRAMCredentials),
		wire.AlterUserScramCredentials:    serve(alterUserSCRAMCredentials),

		wire.WriteTxnMarkers:             serve(writeTxnMarkers),
		wire.AlterReplicaLogDirs:         serve(alterReplicaLogDirs),
		wire.DescribeLogDirs:             serve(describeLogDirs),
		wire.AlterPartitionReassignments: serve(alterPartitionReassignments),
		wire.ListPartitionReassignments:  serve(listPartitionReassignments),
		wire.DescribeQuorum:              serve(describeQuorum),
		wire.UpdateFeatures:              serve(updateFeatures),
		wire.UnregisterBroker:            serve(unregisterBroker),
		wire.ListConfigResources:         serve(listConfigResources),
	}
}

// serve registers an API whose messages are kmsg's.
func serve[T kmsg.Request](fn func(r *request, m T)) serveFunc {
	return func(r *request, q *wire.Request) (bool, error) {
		m, err := wire.DecodeMessage(q, elementsMax)
		if err != nil {
			return false, err
		}
		fn(r, m.(T))
		return true, nil
	}
}

// elementsMax bounds what the arrays of a request hold together: each element takes some hundred bytes of memory.
const elementsMax = 200_000
