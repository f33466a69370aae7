package brokertest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKafkaAnswersForWhatItLacks asks for partitions and topics that there are not. It once panicked with its lock held, so that the test's
// end hung instead of failing.
func TestKafkaAnswersForWhatItLacks(t *testing.T) {
	k := StartKafka(t, KafkaFaults{})
	k.AddTopic("t", 2)
	var known [16]byte
	known[15] = 1
	fetch := kmsg.NewPtrFetchRequest()
	for _, x := range []struct {
		id        [16]byte
		partition int32
	}{{known, 7}, {known, -1}, {[16]byte{9}, 0}, {known, 1}} {
		topic, part := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		topic.TopicID, part.Partition = x.id, x.partition
		topic.Partitions = append(topic.Partitions, part)
		fetch.Topics = append(fetch.Topics, topic)
	}
	fetch.MaxWaitMillis = 1
	p := k.handle(fetch, 1).(*kmsg.FetchResponse)
	for i, want := range []int16{unknownPartition, unknownPartition, unknownTopicID, 0} {
		if got := p.Topics[i].Partitions[0].ErrorCode; got != want {
			t.Errorf("fetch %d: %d, want %d", i, got, want)
		}
	}
	offsets, topic, part := kmsg.NewPtrListOffsetsRequest(), kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	topic.Topic, part.Partition = "gone", 0
	topic.Partitions = append(topic.Partitions, part)
	offsets.Topics = append(offsets.Topics, topic)
	if got := k.handle(offsets, 1).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode; got != unknownPartition {
		t.Errorf("offsets of a topic that is gone: %d", got)
	}
	produce, pt, pp := kmsg.NewPtrProduceRequest(), kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	pt.Topic, pp.Partition, pp.Records = "t", 2, make([]byte, 70)
	pt.Partitions = append(pt.Partitions, pp)
	produce.Topics = append(produce.Topics, pt)
	if got := k.handle(produce, 1).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; got != unknownPartition {
		t.Errorf("produce to a partition that is not there: %d", got)
	}
}
