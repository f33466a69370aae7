package replica

import (
	"fmt"
	"log/slog"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// Set is shards that one node leads at a time: Shards of them, from First on. Sets share no shard.
type Set struct {
	Number int // as the streams name it: 0 to 255
	First  record.ShardID
	Shards int
}

// slot is where a shard is among those of the set; ok false: it is not one of them.
func (s *Set) slot(shard uint64) (i int, ok bool) {
	i = int(shard) - int(s.First)
	return i, shard <= maxShard && i >= 0 && i < s.Shards
}

// maxShard is the highest number of a shard: a frame has 16 bits for it.
const maxShard = 1<<16 - 1

// shard is the one at a slot.
func (s *Set) shard(i int) record.ShardID { return s.First + record.ShardID(i) }

// Sets are a node's streams, those of each set of shards apart: who leads a set, and what becomes of its streams, is nothing to the others. Its methods may be
// called from any goroutine.
type Sets struct {
	list     []*Replicas
	byNumber [1 << 8]*Replicas
	byShard  []*Replicas
}

// New makes the streams of all sets, and takes the mesh's channels for replication. It comes before anybody is connected. The sets' numbers and shards are the
// caller's to keep apart.
func New(o Options, sets ...Set) *Sets {
	all := new(Sets)
	for _, set := range sets {
		r := &Replicas{o: o, set: set, clk: o.Clock, log: o.Logger}
		if r.clk == nil {
			r.clk = clock.Real{}
		}
		if r.log == nil {
			r.log = slog.New(slog.DiscardHandler)
		}
		if set.Number != 0 {
			r.log = r.log.With("set", set.Number)
		}
		r.publishLocked()
		all.list = append(all.list, r)
		all.byNumber[set.Number] = r
		for i := range set.Shards {
			at := int(set.shard(i))
			for at >= len(all.byShard) {
				all.byShard = append(all.byShard, nil)
			}
			all.byShard[at] = r
		}
	}
	o.Mesh.Handle(link.KindReplication, all.accept)
	return all
}

// accept takes a follower's stream, for the set that it is of.
func (all *Sets) accept(ch *link.Channel, head []byte) (link.Receiver, error) {
	set, epoch, err := decodeHead(head)
	if err != nil {
		return nil, err
	}
	r := all.byNumber[set]
	if r == nil {
		return nil, fmt.Errorf("this node has no set %d of shards", set)
	}
	return r.accept(ch, epoch)
}

// Of are the streams of one set; nil: there is no such set.
func (all *Sets) Of(number int) *Replicas {
	if number < 0 || number >= len(all.byNumber) {
		return nil
	}
	return all.byNumber[number]
}

// Moved tells that a shard's ReplicaState has changed. It is cheap, and never blocks: broker.Options.ShardMoved.
func (all *Sets) Moved(shard record.ShardID) {
	if int(shard) < len(all.byShard) && all.byShard[shard] != nil {
		all.byShard[shard].Moved(shard)
	}
}

// Flushed tells that this node's log has another group, and Moved was told of its shards. It never blocks, and does nothing for sets that have not moved:
// broker.Options.Flushed.
func (all *Sets) Flushed() {
	for _, r := range all.list {
		r.Flushed()
	}
}

// Lost tells that what was on its way into this node's log is gone: the leaders are asked for it again. It never blocks: broker.Options.Lost.
func (all *Sets) Lost() {
	for _, r := range all.list {
		r.Lost()
	}
}

// Close ends all streams, and returns when nothing runs any more. The mesh is closed before or after.
func (all *Sets) Close() {
	for _, r := range all.list {
		r.Close()
	}
}
