package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// Bounds of a row. A writer of objects keeps to them, so that each object fits one row and each row one command.
const (
	// MaxRuns is how many runs an object of a manifest may have. A row of so many has 400 KiB as a rule, and 1 MiB at most.
	MaxRuns = 16384
	// MaxClass bounds the name of a storage class, MaxStore that of a store; in bytes.
	MaxClass = 64
	MaxStore = 1024
)

const (
	kindObject byte = 'o'
	kindEpoch  byte = 'e'
	version    byte = 1 // runs without flags
	flagged    byte = 2 // each run with flags
	adopted    byte = 2 // an epoch of another node's

	objectKeySize = 19
	epochKeySize  = 5
	minRunSize    = 7  // bytes of an encoded run
	maxRunSize    = 64 // so many varints of 9 or 10 bytes; MaxRuns of them are below a command's bound
)

// maxFlags bounds the flags of a run: one byte of a row.
const maxFlags = 127

// ErrRow means that a row is not one that this program writes. It names the key.
var ErrRow = errors.New("history: bad row of the manifest")

// Run is what an object has of one partition, as the manifest keeps it.
type Run struct {
	Partition   record.PartitionID // this node's; after a rebuild not the one that stands in the object
	Index       int                // of the run in the object
	First, Last record.Offset
	MaxTime     int64 // milliseconds of Unix time; object.NoTime: it has control records alone
	Bytes       int64 // of the batches
	Blocks      int
	Flags       object.RunFlags // the object's, and Clean where a pass has found nothing to change in it
}

// Object is what the manifest keeps of an object. It has one row, of one shard: the one that its ID names, where the node has that shard, or any.
type Object struct {
	ID      object.ID
	Size    int64
	Tail    int64 // bytes from its end to read
	Created int64 // milliseconds of Unix time; 0: not known, as a tail does not tell it
	Class   string
	Runs    []Run // by Index; those of partitions that this node does not know may be missing
	// Shard is whose row it is. Apply knows; it does not stand in the row.
	Shard record.ShardID
}

// Epoch is one that this node has minted, or has adopted from a node that is gone: only objects of such epochs may be orphans. Its row belongs to shard 0.
type Epoch struct {
	Epoch   record.Epoch
	Created int64  // milliseconds of Unix time
	Store   string // which store it was minted for, in words that differ for each
	Adopted bool   // another node has minted it: no new object gets it
}

// NewObject makes what the manifest keeps of an object that was written. partition gives this node's id of a run's partition; false leaves the run out.
func NewObject(s *object.Summary, class string, partition func(*object.Run) (record.PartitionID, bool)) *Object {
	o := &Object{ID: s.ID, Size: s.Size, Tail: s.Tail, Created: s.Created, Class: class, Runs: make([]Run, 0, len(s.Runs))}
	for i := range s.Runs {
		r := &s.Runs[i]
		if p, ok := partition(r); ok {
			o.Runs = append(o.Runs, Run{Partition: p, Index: i, First: r.First, Last: r.Last, MaxTime: r.MaxTime, Bytes: r.Bytes, Blocks: len(r.Blocks), Flags: r.Flags})
		}
	}
	return o
}

// Key is the key of the object's row.
func (o *Object) Key() []byte { return ObjectKey(o.ID) }

// ObjectKey is the key of an object's row. Keys sort as IDs do.
func ObjectKey(id object.ID) []byte {
	be := binary.BigEndian
	b := make([]byte, 0, objectKeySize)
	b = append(b, kindObject)
	b = be.AppendUint32(b, uint32(id.Tenant))
	b = be.AppendUint16(b, uint16(id.Shard))
	b = be.AppendUint32(b, uint32(id.Epoch))
	return be.AppendUint64(b, id.Sequence)
}

// Encode appends the value of the object's row.
func (o *Object) Encode(b []byte) []byte {
	flags := slices.ContainsFunc(o.Runs, func(r Run) bool { return r.Flags != 0 })
	if flags {
		b = append(b, flagged)
	} else {
		b = append(b, version)
	}
	b = binary.AppendUvarint(b, uint64(o.Size))
	b = binary.AppendUvarint(b, uint64(o.Tail))
	b = binary.AppendUvarint(b, uint64(o.Created))
	b = appendString(b, o.Class)
	b = binary.AppendUvarint(b, uint64(len(o.Runs)))
	index := -1
	for i := range o.Runs {
		r := &o.Runs[i]
		b = binary.AppendUvarint(b, uint64(r.Partition))
		b = binary.AppendUvarint(b, uint64(r.Index-index-1))
		b = binary.AppendUvarint(b, uint64(r.First))
		b = binary.AppendUvarint(b, uint64(r.Last-r.First))
		b = binary.AppendVarint(b, r.MaxTime-o.Created) // may wrap around: the decoder's sum wraps back
		b = binary.AppendUvarint(b, uint64(r.Bytes))
		b = binary.AppendUvarint(b, uint64(r.Blocks))
		if flags {
			b = binary.AppendUvarint(b, uint64(r.Flags))
		}
		index = r.Index
	}
	return b
}

// Check tells whether the object can be a row: what Decode would say of it.
func (o *Object) Check() error {
	if o.ID.Epoch < 0 || o.Size <= 0 || o.Tail <= 0 || o.Tail > min(o.Size, object.MaxTail) || o.Created < 0 || len(o.Class) > MaxClass {
		return fmt.Errorf("%w: object %s: its sizes, time or class", ErrRow, o.ID.Name())
	}
	if len(o.Runs) == 0 || len(o.Runs) > MaxRuns {
		return fmt.Errorf("%w: object %s: %d runs, of 1 to %d", ErrRow, o.ID.Name(), len(o.Runs), MaxRuns)
	}
	index := -1
	for i := range o.Runs {
		r := &o.Runs[i]
		if r.Index <= index || r.Index > math.MaxInt32 || r.First < 0 || r.Last < r.First || r.Last == math.MaxInt64 ||
			r.Bytes <= 0 || r.Bytes > o.Size || r.Blocks <= 0 || r.Blocks > math.MaxInt32 || r.Flags > maxFlags {
			return fmt.Errorf("%w: object %s: run %d is %+v", ErrRow, o.ID.Name(), i, *r)
		}
		index = r.Index
	}
	return nil
}

// Decode reads a row of an object. It takes memory in proportion to value, of which it keeps nothing. ErrRow.
func Decode(key, value []byte) (*Object, error) {
	o := new(Object)
	var ok bool
	if o.ID, ok = decodeKey(key); !ok {
		return nil, fmt.Errorf("%w: key %x", ErrRow, key)
	}
	d := decoder{b: value}
	form := d.byte()
	if form != version && form != flagged {
		return nil, fmt.Errorf("%w: object %s has version %d; this program knows %d and %d", ErrRow, o.ID.Name(), form, version, flagged)
	}
	o.Size, o.Tail, o.Created = d.int(), d.int(), d.int()
	o.Class = d.str(MaxClass)
	n := d.int()
	if d.bad || n > MaxRuns || n > int64(len(d.b)/minRunSize) {
		return nil, fmt.Errorf("%w: object %s is cut", ErrRow, o.ID.Name())
	}
	o.Runs = make([]Run, n)
	index := int64(-1)
	for i := range o.Runs {
		r := &o.Runs[i]
		r.Partition = record.PartitionID(d.uint())
		index += d.int() + 1
		r.First = record.Offset(d.int())
		r.Last = r.First + record.Offset(d.int())
		r.MaxTime = o.Created + d.sint()
		r.Bytes = d.int()
		blocks := d.int()
		if index > math.MaxInt32 || index < 0 || blocks > math.MaxInt32 {
			d.bad = true
			break
		}
		r.Index, r.Blocks = int(index), int(blocks)
		if form == flagged {
			r.Flags = object.RunFlags(min(d.uint(), maxFlags+1))
		}
	}
	if d.bad || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: object %s is cut, or has more than its runs", ErrRow, o.ID.Name())
	}
	return o, o.Check()
}

func decodeKey(key []byte) (id object.ID, ok bool) {
	if len(key) != objectKeySize || key[0] != kindObject {
		return id, false
	}
	be := binary.BigEndian
	id.Tenant, id.Shard = record.TenantID(be.Uint32(key[1:])), record.ShardID(be.Uint16(key[5:]))
	id.Epoch, id.Sequence = record.Epoch(be.Uint32(key[7:])), be.Uint64(key[11:])
	return id, id.Epoch >= 0
}

// EpochKey is the key of an epoch's row.
func EpochKey(e record.Epoch) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindEpoch}, uint32(e))
}

// Key is the key of the epoch's row.
func (e *Epoch) Key() []byte { return EpochKey(e.Epoch) }

// Encode appends the value of the epoch's row. A name of the store above MaxStore bytes is cut.
func (e *Epoch) Encode(b []byte) []byte {
	form := version
	if e.Adopted {
		form = adopted
	}
	b = append(b, form)
	b = binary.AppendUvarint(b, uint64(e.Created))
	return appendString(b, e.Store[:min(len(e.Store), MaxStore)])
}

// DecodeEpoch reads the row of an epoch. ErrRow.
func DecodeEpoch(key, value []byte) (e Epoch, err error) {
	if len(key) != epochKeySize || key[0] != kindEpoch || key[1] > math.MaxInt8 {
		return e, fmt.Errorf("%w: key %x", ErrRow, key)
	}
	e.Epoch = record.Epoch(binary.BigEndian.Uint32(key[1:]))
	d := decoder{b: value}
	v := d.byte()
	if v != version && v != adopted {
		return e, fmt.Errorf("%w: epoch %d has version %d; this program knows %d and %d", ErrRow, e.Epoch, v, version, adopted)
	}
	e.Adopted = v == adopted
	e.Created, e.Store = d.int(), d.str(MaxStore)
	if d.bad || len(d.b) > 0 {
		return e, fmt.Errorf("%w: epoch %d", ErrRow, e.Epoch)
	}
	return e, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder takes values from the front of b. What is not there makes it bad, and is 0.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// int is uint for what is not negative.
func (d *decoder) int() int64 {
	v := d.uint()
	if v > math.MaxInt64 {
		d.bad = true
		return 0
	}
	return int64(v)
}

func (d *decoder) sint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) str(most int) string {
	n := d.int()
	if n > int64(most) || n > int64(len(d.b)) {
		d.bad = true
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
