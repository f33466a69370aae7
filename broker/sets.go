package broker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sluicemq/sluice/journal/record"
)

// SetShards is how many shards a set has, other than the first, whose number is Options.Shards. It is part of the data's format.
const SetShards = 4

// Errors of topics whose partitions lie in sets of shards.
var (
	// ErrNoSets says that there are no sets of shards over which a topic could be spread.
	ErrNoSets = errors.New("broker: there are no sets of shards beside the first")
	// ErrSpread says that whether a topic is spread over sets of shards does not change.
	ErrSpread = errors.New("broker: leader.spread is set when the topic is made, and not changed")
	// ErrNoShard says that the data has partitions in shards that the node does not have.
	ErrNoShard = errors.New("broker: no such shard here")
)

// SetStreamSets tells how many sets of shards there are beside the first: over these topics with Spread are laid that are made, or grow, from now on. More than
// Options.StreamSets are not. Any goroutine.
func (b *Broker) SetStreamSets(n int) { b.streamSets.Store(int32(max(min(n, b.opts.StreamSets), 0))) }

// Leads says whether the n shards from first on take commands here. It takes no lock. Any goroutine.
func (b *Broker) Leads(first record.ShardID, n int) bool {
	if n < 0 || int(first)+n > len(b.shards) {
		return false
	}
	for _, s := range b.shards[int(first) : int(first)+n] {
		if !s.takesCommands() {
			return false
		}
	}
	return true
}

// LeadsPartition says whether this node leads a partition: for one of a home shard whether it leads all of them, as Leading does. It takes no lock. Any goroutine.
func (b *Broker) LeadsPartition(p *Partition) bool {
	if p.shard.set == 0 {
		return b.Leading()
	}
	return p.shard.takesCommands()
}

// takesCommands is leads without the lock.
func (s *shard) takesCommands() bool { return s.rep == nil || s.leading.Load() }

// mayPlace says why a topic can get no partitions.
func (b *Broker) mayPlace(spec *TopicSpec) error {
	if spec.Config.Spread && b.streamSets.Load() == 0 {
		return ErrNoSets
	}
	return nil
}

// checkShards says whether the node has the shards of a topic's partitions. It may not: data of a node that was one of several has more of them than a node that is alone.
func (b *Broker) checkShards(spec *TopicSpec) error {
	for i, ps := range spec.Partitions {
		if int(ps.Shard) >= len(b.shards) {
			return fmt.Errorf("%w: partition %d of topic %q lies in shard %d, of set %d, and this node has %d: a node that is alone has no sets of shards", ErrNoShard, i, spec.Name,
				ps.Shard, 1+(int(ps.Shard)-len(b.homes))/SetShards, len(b.shards))
		}
	}
	return nil
}

// met notes that there are records of a partition that shard 0 has not made yet.
func (b *Broker) met(id record.PartitionID) {
	for old := b.metID.Load(); uint64(id) > old && !b.metID.CompareAndSwap(old, uint64(id)); old = b.metID.Load() {
	}
}

// passGhosts has records of partitions pass that shard 0 will never make. Only an election of its leader that was not clean leaves such: that a topic was made is lost, and
// its partitions' set has another leader and records of them, which would wait for good, and with them all that comes behind. Shard 0 leads here: it has made all that was
// made before it opened, and nothing is on its way.
func (l *Local) passGhosts() {
	b, s := l.b, l.b.homes[0]
	id := record.PartitionID(b.metID.Load())
	if id == 0 || b.streamSets.Load() == 0 || !s.takesCommands() { // with sets all nodes know the command
		return
	}
	b.topicStore.mu.Lock()
	busy := len(b.topicStore.running) > 0
	b.topicStore.mu.Unlock()
	s.mu.Lock()
	passed := id < s.mu.nextPartition
	s.mu.Unlock()
	if busy || passed {
		return
	}
	b.logger.Warn("records of partitions whose topic was lost are passed over", "up_to", id)
	cmd := binary.AppendUvarint(binary.AppendUvarint(nil, cmdPartitionIDs), uint64(id)+1)
	_ = b.command(s, cmd, entry{done: func() {}, failed: func(error) {}}) // the next tick does it again
}

// applyPartitionIDs has no partition get an id below next any more.
func (s *shard) applyPartitionIDs(b *Broker, next record.PartitionID) {
	s.mu.Lock()
	s.mu.nextPartition = max(s.mu.nextPartition, next)
	s.mu.rows.partitionIDs = true
	s.mu.Unlock()
	b.kickReplicas()
}
