package broker

import (
	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/journal/record"
)

// StreamLog is the journal as streams see it, beside Log, with what was moved to a store from it. All methods are safe for concurrent use. Only
// ReadBatches without Tail waits for the disk and, without Local, for the store, and Seek may wait for the store: neither on a loop.
type StreamLog interface {
	// ReadBatches appends to dst views of whole stored batches. They stay as they are until held is released (nil: there are none). ok false:
	// the first of them lies on the disk, and r.Tail says not to go there, or in the store alone, and r.Tail or r.Local says not to go there.
	// ErrOffsetOutOfRange: r.From lies below the first offset or behind the end. ErrTier: the store does not answer now.
	ReadBatches(r ReadRequest, dst [][]byte) (batches [][]byte, held alloc.Ref, ok bool, err error)
	// LocalStart is the first offset of p that lies here, or the end if nothing does; below it records come from the store. After a restart it may
	// be lower for a while.
	LocalStart(p record.PartitionID) record.Offset
	// TieredEnd is behind the last offset of p that lies in the store, 0 if there is none.
	TieredEnd(p record.PartitionID) record.Offset
	// LocalSize is Size without what lies in the store alone.
	LocalSize(p record.PartitionID) int64
	// Bounds are the first offset of p that is there, and the one behind the last that is committed. Both are 0 for what is not known.
	Bounds(p record.PartitionID) (start, end record.Offset)
	// Seek answers an offset before which p has no batch whose maximum timestamp is at or above at, and soon behind which there is one: a
	// reader who looks for it begins there. With latest it looks for the highest maximum timestamp, time, instead. Control batches do not
	// count. found false: there is none.
	Seek(p record.PartitionID, at int64, latest bool) (from record.Offset, time int64, found bool)
	// Excess is the offset below which everything is older than before, in Unix milliseconds of maximum timestamps, or more than bytes: what
	// retention takes. It is the log start if that is nothing.
	Excess(p record.PartitionID, before, bytes int64) record.Offset
	// Size is how many bytes of p's records are stored, from its log start on.
	Size(p record.PartitionID) int64
	// Partitions are the ids of all partitions of which there is something.
	Partitions() []record.PartitionID
}

// ReadRequest is one read of whole batches.
type ReadRequest struct {
	Partition record.PartitionID
	// From is the first offset wanted: the first batch may begin below it, or behind it where there is a gap. No batch that begins at or
	// behind End is given.
	From, End record.Offset
	MaxBytes  int  // at least one batch is given, whatever its size
	Tail      bool // nothing that lies on the disk or in the store
	Local     bool // nothing that lies in the store alone
	// Copy asks for bytes that a loop may look at: none of a mapped file.
	Copy bool
}

// noStreams is the StreamLog of a log that keeps nothing.
type noStreams struct{}

// ReadBatches finds nothing, and neither do the others.
func (noStreams) ReadBatches(_ ReadRequest, dst [][]byte) ([][]byte, alloc.Ref, bool, error) {
	return dst, nil, true, nil
}

// LocalStart is nothing.
func (noStreams) LocalStart(record.PartitionID) record.Offset { return 0 }

// TieredEnd is nothing.
func (noStreams) TieredEnd(record.PartitionID) record.Offset { return 0 }

// LocalSize is nothing.
func (noStreams) LocalSize(record.PartitionID) int64 { return 0 }

// Bounds are nothing.
func (noStreams) Bounds(record.PartitionID) (start, end record.Offset) { return 0, 0 }

// Seek finds nothing.
func (noStreams) Seek(record.PartitionID, int64, bool) (from record.Offset, time int64, found bool) {
	return 0, 0, false
}

// Excess is nothing.
func (noStreams) Excess(record.PartitionID, int64, int64) record.Offset { return 0 }

// Size is nothing.
func (noStreams) Size(record.PartitionID) int64 { return 0 }

// Partitions are none.
func (noStreams) Partitions() []record.PartitionID { return nil }
