package broker

import (
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

func topicSpec(name string, id byte, partitions ...record.PartitionID) *TopicSpec {
	s := &TopicSpec{Name: name, ID: TopicID{id}}
	for _, p := range partitions {
		s.Partitions = append(s.Partitions, PartitionSpec{ID: p, Shard: record.ShardID(p % 4)})
	}
	return s
}

// A topic is found by name and id, grows by partitions, and is gone when it is dropped, the one that takes its name after it not.
func TestTopicTable(t *testing.T) {
	b := New(Options{Shards: 4})
	defer b.Close()
	b.SetTopic(topicSpec("a", 1, 100))
	a := b.Topic(0, "a")
	if a == nil || b.TopicByID(0, TopicID{1}) != a || b.Topic(1, "a") != nil || len(a.Partitions()) != 1 {
		t.Fatal("a is not as it was made")
	}
	first := a.Partition(0)
	b.SetTopic(topicSpec("a", 1, 100, 101, 102))
	if b.Topic(0, "a") != a || len(a.Partitions()) != 3 || a.Partition(0) != first {
		t.Error("more partitions made another topic, or other partitions")
	}
	if p := b.partition(102); p == nil || p.Index() != 2 || p.Topic() != a || a.Partition(3) != nil || a.Partition(-1) != nil {
		t.Error("partition 2 is not found by its id")
	}
	b.DropTopic(0, TopicID{1})
	b.SetTopic(topicSpec("a", 2, 103))
	b.DropTopic(0, TopicID{1})
	n := 0
	b.Topics(0, func(tp *Topic) bool { n++; return tp.ID() == TopicID{2} })
	if !a.Dropped() || b.partition(100) != nil || b.TopicByID(0, TopicID{1}) != nil || b.Topic(0, "a").Dropped() || n != 1 {
		t.Error("the dropped topic is there, or its successor is not")
	}
}
