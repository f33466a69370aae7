// Package object is the format of what the journal keeps in a tier: immutable objects that hold runs of partitions, cut into blocks with a
// checksum each, and a tail that lists all of it. It owns the bytes and their names; it does no I/O but through the reader and the tier.Store
// that it is given, and never opens a batch. docs/format/object.md draws every byte. Its neighbours: package tier stores objects, package cache
// keeps their blocks.
package object

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/journal/record"
)

// Sizes of what stands in an object.
const (
	headerSize  = HeaderSize
	trailerSize = 48
	runSize     = 104
	blockSize   = 40
	abortSize   = 32

	headMagic = "SLUICEOB"
	tailMagic = "SLUICEOE"
	format    = 1

	// HeaderSize is what an object has before the batches of its first run. Runs lie behind each other, up to the tail.
	HeaderSize = 64
	// BlockBytes is when a block ends, without Options.BlockBytes.
	BlockBytes = 256 << 10
	// TailGuess is how many bytes of an object's end are read when the tail's size is not known.
	TailGuess = 256 << 10
	// MaxTail bounds a tail, and so what a reader allocates for one.
	MaxTail = 64 << 20
	// MaxName bounds a topic's name.
	MaxName = 1024
	// offsetMax is more than any log comes to: what is behind it can be counted on.
	offsetMax = 1 << 62
)

// NoTime is the time of what has none: batches of control records alone.
const NoTime int64 = math.MinInt64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt means that bytes are not those that were written. CorruptError has the place.
var ErrCorrupt = errors.New("object: corrupt")

// CorruptError tells what is wrong, and where in the object.
type CorruptError struct {
	Object string
	At     int64
	Reason string
}

// Error tells it in one line.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("object %s is corrupt at %d: %s", e.Object, e.At, e.Reason)
}

// Is finds ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// ID names an object for ever. Objects of one shard sort by epoch and sequence.
type ID struct {
	Tenant   record.TenantID
	Shard    record.ShardID
	Epoch    record.Epoch // of who wrote it
	Sequence uint64
}

// After tells whether id was made after other, in one line of nodes each of which goes on from what the one before has left.
func (id ID) After(other ID) bool {
	return cmp.Or(cmp.Compare(id.Epoch, other.Epoch), cmp.Compare(id.Sequence, other.Sequence)) > 0
}

// Name is the object's name in a store: tenant/shard/epoch-sequence, in hexadecimal digits of fixed number.
func (id ID) Name() string {
	return fmt.Sprintf("%08x/%04x/%08x-%016x", uint32(id.Tenant), uint16(id.Shard), uint32(id.Epoch), id.Sequence)
}

// ShardPrefix is what the names of a shard's objects begin with.
func ShardPrefix(t record.TenantID, s record.ShardID) string {
	return fmt.Sprintf("%08x/%04x/", uint32(t), uint16(s))
}

// ParseName gives the ID that has a name.
func ParseName(name string) (ID, bool) {
	f := strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == '-' })
	if len(f) != 4 {
		return ID{}, false
	}
	var n [4]uint64
	for i, bits := range []int{32, 16, 31, 64} {
		v, err := strconv.ParseUint(f[i], 16, bits)
		if err != nil {
			return ID{}, false
		}
		n[i] = v
	}
	id := ID{Tenant: record.TenantID(n[0]), Shard: record.ShardID(n[1]), Epoch: record.Epoch(n[2]), Sequence: n[3]}
	return id, id.Name() == name
}

// Topic says whose records a run has.
type Topic struct {
	ID        [16]byte // as Kafka's clients know it
	Name      string   // at the time of writing, for who has lost the catalog
	Index     int32    // of the partition in the topic
	Partition record.PartitionID
}

// Extent is a piece of a run: one batch, or neighbouring ones.
type Extent struct {
	First, Last record.Offset
	MaxTime     int64 // the latest timestamp, in milliseconds; NoTime
	Bytes       int64
}

// Aborted is an aborted transaction whose records a run may have, as Kafka's transaction index has it.
type Aborted struct {
	ProducerID  int64
	First, Last record.Offset
	LastStable  record.Offset
}

// RunFlags say what compaction has to do with a run.
type RunFlags uint32

// The flags.
const (
	// Sparse: it is of a compacted topic, and offsets may be missing.
	Sparse RunFlags = 1 << iota
	// Clean: a pass over the store has seen it and all that lies before it. Such runs and those of their partition before them have each key once.
	Clean
	// Replaces: it takes the place of all runs of its partition in older objects, those of a smaller epoch or sequence, that lie between First and Last.
	Replaces
	// Begins, beside Replaces: and of all that lie before First.
	Begins
)

// Has tells whether all flags of b are set.
func (f RunFlags) Has(b RunFlags) bool { return f&b == b }

// Run is what an object has of one partition: neighbouring batches, in order. Gaps of compaction aside it has all records between
// First and Last.
type Run struct {
	Topic
	First, Last record.Offset
	MaxTime     int64
	Pos, Bytes  int64 // of the batches in the object
	Flags       RunFlags
	Blocks      []Block
	Aborted     []Aborted // by Last
}

// Block is the unit of checksums, and of what is read at least.
type Block struct {
	First, Last record.Offset
	Pos         int64
	Bytes       int32
	CRC         uint32 // CRC-32C
	MaxTime     int64
}

// Summary is what a manifest keeps of an object.
type Summary struct {
	ID      ID
	Size    int64
	Tail    int64 // bytes of the tail: reading so many from the end reads all of it
	Created int64 // milliseconds since 1970
	Runs    []Run // without blocks, if it is of a writer that has not written yet: checksums come with the bytes
}
