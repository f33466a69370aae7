package server

import "github.com/sluicemq/sluice/broker"

// JoinTxn makes it a kafka.Leader. There are no partitions yet that are led elsewhere than their coordinators.
func (k *kafkaLeader) JoinTxn(_ uint32, _ string, _ broker.ProducerIdentity, _ []broker.TopicPartition, _ bool, done func(error)) {
	done(broker.ErrNotLeader)
}
