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
		producers     map[int64]*producerState
		txns          *partitionTxns
		watchers      *Watcher // who waits for more
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

// revivePartitions has every partition end where the log does, and lets go of those whose topic is gone. Before the loops run.
func (b *Broker) revivePartitions() {
	for _, id := range b.log.Partitions() {
		if id > record.PartitionID(len(b.shards)) && b.partition(id) == nil {
			b.log.DropPartition(id) // its topic went just before the last run ended
		}
	}
	b.topicTable.partitions.Range(func(_, v any) bool {
		p := v.(*Partition)
		_, end := b.log.Bounds(p.id)
		p.shard.mu.Lock()
		p.mu.next, p.mu.highWatermark = max(p.mu.next, end), max(p.mu.highWatermark, end)
		p.shard.mu.Unlock()
		return true
	})
}

// dropPartition tells the journal that nobody needs the partition's records any more.
func (b *Broker) dropPartition(p *Partition) {
	if b.log != nil && !b.recovering {
		b.log.DropPartition(p.id)
	}
	s := p.shard
	s.mu.Lock()
	head := p.takeWatchersLocked()
	for id := range p.mu.producers {
		mark(&s.mu.rows.producers, producerKey{p.id, id})
	}
	if p.mu.txns != nil {
		mark(&s.mu.rows.txns, p.id)
	}
	p.mu.producers, p.mu.txns = nil, nil
	s.mu.Unlock()
	for w := head; w != nil; {
		next := w.next
		w.next = nil
		w.l.post(post{kind: postWatch, watcher: w})
		w = next
	}
}
