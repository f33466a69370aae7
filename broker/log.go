package broker

import (
	"github.com/sluicemq/sluice/journal/record"
)

// Log is the journal as the core sees it. It asks for frames by calling the Broker's Gather and reports by Committed and
// Failed, all three on one goroutine of its own.
type Log interface {
	// Wake tells that frames wait. Any goroutine; never blocks.
	Wake()
	// Read calls fn with each whole stored batch of p from the one that holds from on (or the next after a gap), until fn
	// answers false or nothing is left. Batches are views, valid during the call. It may wait for the disk: never on a loop.
	Read(p record.PartitionID, from record.Offset, fn func(batch record.Batch) bool) error
	// SetLogStart says that nobody needs records before o.
	SetLogStart(p record.PartitionID, o record.Offset)
	// DropPartition says that nobody needs any record of p, those on their way included. Its id is never used again.
	DropPartition(p record.PartitionID)
}

// Place is where in the log a group ended; only the journal looks into it.
type Place struct {
	Segment uint64
	Offset  int64
}

// Checkpoints is where the tables are written behind to, one atomic batch for each shard.
type Checkpoints interface {
	// Write replaces rows of shard and remembers that every frame of it up to applied, all before at, is in them.
	Write(shard record.ShardID, applied uint64, at Place, fn func(w RowWriter) error) error
	// Load calls fn for every row of shard and answers the applied index.
	Load(shard record.ShardID, fn func(key, value []byte) error) (applied uint64, err error)
	// Flush makes all that durable, and lets go of the log before it.
	Flush() error
}

// RowWriter takes the rows of one shard's checkpoint. Keys and values are copied.
type RowWriter interface {
	Set(key, value []byte) error
	Delete(key []byte) error
}

// unboundPartition is the internal partition of a shard: the messages of topics that no binding claims. The ids from 1 to
// the number of shards are set aside for them.
func unboundPartition(s record.ShardID) record.PartitionID { return record.PartitionID(s) + 1 }
