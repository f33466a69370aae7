package broker

import "github.com/sluicemq/sluice/journal/record"

// Partition is one ordered log of a topic. It belongs to a shard, whose lock guards mu and whose home loop applies what was
// committed. An idle one costs this struct and nothing else.
type Partition struct {
	id    record.PartitionID
	topic *Topic
	index int32
	shard *shard
	mu    struct {
		next          record.Offset // of the next record that is appended
		highWatermark record.Offset // every record below was applied: readers see those
	}
}

// ID is the number under which the journal keeps the partition.
func (p *Partition) ID() record.PartitionID { return p.id }

// Index is the partition's number in its topic.
func (p *Partition) Index() int32 { return p.index }

// Topic is the topic that it belongs to.
func (p *Partition) Topic() *Topic { return p.topic }

func (b *Broker) newPartition(t *Topic, index int32, ps PartitionSpec) *Partition {
	return &Partition{id: ps.ID, topic: t, index: index, shard: b.shards[int(ps.Shard)%len(b.shards)]}
}

// dropPartition tells the journal that nobody needs the partition's records any more.
func (b *Broker) dropPartition(p *Partition) {
	if b.log != nil && !b.recovering {
		b.log.DropPartition(p.id)
	}
}
