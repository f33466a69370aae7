package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Catalog is what the front asks of the cluster's metadata. Answers come on any goroutine, in their own time; whoever waits for one goes
// back to its loop.
type Catalog interface {
	// ClusterID names the cluster, in Kafka's form.
	ClusterID() string
	// CreateTopics creates each topic that it can; with validateOnly it says what would come of it. One result for each.
	CreateTopics(tenant uint32, topics []TopicCreation, validateOnly bool, done func([]TopicResult))
	// DeleteTopics deletes topics with their records.
	DeleteTopics(tenant uint32, ids []broker.TopicID, done func([]TopicResult))
	// CreatePartitions raises the number of partitions of each topic to Partitions.
	CreatePartitions(tenant uint32, topics []TopicCreation, validateOnly bool, done func([]TopicResult))
	// DescribeTopic gives every key of a topic's configuration with its value in force, in order of the keys; DescribeNode the node's own.
	// Neither blocks.
	DescribeTopic(t *broker.TopicSpec) []ConfigValue
	DescribeNode() []ConfigValue
	// AlterConfigs changes configurations of topics.
	AlterConfigs(tenant uint32, topics []TopicAlteration, validateOnly bool, done func([]TopicResult))
}

// TopicCreation is a topic as a client wants it.
type TopicCreation struct {
	Name              string
	Partitions        int32 // -1: the default
	ReplicationFactor int16 // -1: the default
	Configs           []ConfigEntry
}

// ConfigEntry is one key of a topic's configuration; a nil value is the default.
type ConfigEntry struct {
	Key   string
	Value *string
}

// ConfigValue is one key of a configuration, as it is. Source and Type are Kafka's numbers.
type ConfigValue struct {
	Key       string
	Value     *string // nil if Sensitive
	Default   *string // what it is without being set
	Source    kmsg.ConfigSource
	Type      kmsg.ConfigType
	ReadOnly  bool
	Sensitive bool
	Doc       string
}

// TopicAlteration changes a topic's configuration. Replace: what is not named goes back to its default.
type TopicAlteration struct {
	Name    string
	Replace bool
	Changes []ConfigChange
}

// ConfigChange is one step: Kafka's operations are set 0, delete 1, append 2 and subtract 3.
type ConfigChange struct {
	Key   string
	Op    int8
	Value *string
}

// TopicResult is what came of a change of a topic. Topic is set where there is one.
type TopicResult struct {
	Code    wire.ErrorCode
	Message string
	Topic   *broker.TopicSpec
}
