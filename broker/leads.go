package broker

import "github.com/sluicemq/sluice/journal/record"

// SetShards is how many shards a set of shards of streams has. They lie behind those that have all else, one set after the other.
const SetShards = 4

// Shard is the shard that the partition lies in.
func (p *Partition) Shard() record.ShardID { return p.shard.id }

// LeadsPartition says whether this node takes commands for the partition. It takes no lock. Any goroutine.
func (b *Broker) LeadsPartition(*Partition) bool { return b.Leading() }
