package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/sluicemq/sluice/internal/invariant"
)

// BatchHeaderSize is the number of bytes before a batch's first record.
const BatchHeaderSize = 61

// batchLengthBase is what the length field of a batch does not count: the base offset and itself.
const batchLengthBase = 12

// Where the fields of a batch lie; all are big endian.
const (
	batchBaseOffset    = 0
	batchLength        = 8
	batchLeaderEpoch   = 12
	batchMagic         = 16
	batchCRC           = 17
	batchAttributes    = 21
	batchLastDelta     = 23
	batchBaseTimestamp = 27
	batchMaxTimestamp  = 35
	batchProducerID    = 43
	batchProducerEpoch = 51
	batchBaseSequence  = 53
	batchCount         = 57
)

// MaxBatchSize bounds a batch: the length field has 31 bits, of which no honest producer needs the last.
const MaxBatchSize = 1 << 30

// NoProducer stands for a batch without a producer, as id, epoch and sequence.
const NoProducer = -1

var (
	// ErrBatch means that there is no batch of magic 2 here, or one whose lengths contradict each other.
	ErrBatch = errors.New("record: bad batch")
	// ErrChecksum means that a batch's bytes are not those that its producer sent.
	ErrChecksum = errors.New("record: batch checksum does not match")
	// ErrCompressed means that the records of a batch are compressed: package compress opens them.
	ErrCompressed = errors.New("record: batch is compressed")
)

// Attributes are the flags of a batch.
type Attributes int16

const (
	// CompressionMask selects the codec; 0 is none.
	CompressionMask Attributes = 0x07
	// LogAppendTime says that all records have the batch's MaxTimestamp, given by the broker.
	LogAppendTime Attributes = 0x08
	// Transactional says that the batch belongs to a transaction.
	Transactional Attributes = 0x10
	// Control says that the records are markers for the log's readers.
	Control Attributes = 0x20
	// DeleteHorizon says that the base timestamp is the time from which on compaction may drop the batch's tombstones and markers.
	DeleteHorizon Attributes = 0x40
)

// Codec is what the records of a batch are compressed with.
type Codec uint8

// The codecs of Kafka. None has the numbers 5 to 7.
const (
	Uncompressed Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// String gives the codec's name as Kafka's configuration has it.
func (c Codec) String() string {
	if c.Known() {
		return codecNames[c]
	}
	return "unknown"
}

// Known tells whether there is such a codec.
func (c Codec) Known() bool { return int(c) < len(codecNames) }

// Codec is the codec that is set.
func (a Attributes) Codec() Codec { return Codec(a & CompressionMask) }

// Compressed tells whether a codec is set.
func (a Attributes) Compressed() bool { return a&CompressionMask != 0 }

// Batch is a whole record batch as it is stored and sent: a view of bytes that ParseBatch or BatchBuilder has delimited. All
// methods but Verify and Records believe the header.
type Batch []byte

// ParseBatch delimits the batch at the head of src and says how many bytes it takes; the batch is a view of src. It checks lengths
// and magic; Verify checks the rest. ErrShort: src ends before the batch does; ErrBatch: there is no batch here.
func ParseBatch(src []byte) (b Batch, n int, err error) {
	n, err = BatchSize(src)
	if err != nil {
		return nil, 0, err
	}
	if n > len(src) {
		return nil, 0, ErrShort
	}
	b = Batch(src[:n:n])
	// Each record takes at least a length, attributes, two deltas, two lengths and a count: 7 bytes. Compressed ones may take less.
	count, delta := b.Count(), b.LastOffsetDelta()
	if count < 0 || delta < 0 || int64(delta) < int64(count)-1 {
		return nil, 0, ErrBatch
	}
	if !b.Attributes().Compressed() && int64(count)*minRecordSize > int64(n-BatchHeaderSize) {
		return nil, 0, ErrBatch
	}
	return b, n, nil
}

// BatchSize is the size that the batch at the head of src announces. It may be more than src holds.
func BatchSize(src []byte) (int, error) {
	if len(src) < batchMagic+1 {
		return 0, ErrShort
	}
	n := int64(int32(binary.BigEndian.Uint32(src[batchLength:]))) + batchLengthBase
	if src[batchMagic] != 2 || n < BatchHeaderSize || n > MaxBatchSize {
		return 0, ErrBatch
	}
	return int(n), nil
}

// BaseOffset is the offset of the first record that the batch was made with.
func (b Batch) BaseOffset() Offset { return Offset(binary.BigEndian.Uint64(b[batchBaseOffset:])) }

// SetBaseOffset places the batch in its partition. The checksum does not cover it.
func (b Batch) SetBaseOffset(o Offset) { binary.BigEndian.PutUint64(b[batchBaseOffset:], uint64(o)) }

// LeaderEpoch is the epoch of the leader that appended the batch.
func (b Batch) LeaderEpoch() Epoch { return Epoch(binary.BigEndian.Uint32(b[batchLeaderEpoch:])) }

// SetLeaderEpoch says which leader appended the batch. The checksum does not cover it.
func (b Batch) SetLeaderEpoch(e Epoch) { binary.BigEndian.PutUint32(b[batchLeaderEpoch:], uint32(e)) }

// LastOffsetDelta is the distance from the base offset to the last one; a batch may have gaps.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[batchLastDelta:])) }

// LastOffset is the offset of the last record that the batch was made with.
func (b Batch) LastOffset() Offset { return b.BaseOffset() + Offset(b.LastOffsetDelta()) }

// NextOffset is the base offset of the batch that follows.
func (b Batch) NextOffset() Offset { return b.LastOffset() + 1 }

// Count is the number of records.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[batchCount:])) }

// Attributes are the batch's flags.
func (b Batch) Attributes() Attributes {
	return Attributes(binary.BigEndian.Uint16(b[batchAttributes:]))
}

// BaseTimestamp is what the records' timestamps are counted from, in milliseconds of Unix time.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[batchBaseTimestamp:])) }

// MaxTimestamp is the latest timestamp, in milliseconds of Unix time.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[batchMaxTimestamp:])) }

// ProducerID is the idempotent producer's id, or NoProducer.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[batchProducerID:])) }

// ProducerEpoch is the producer's epoch, or NoProducer.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[batchProducerEpoch:])) }

// BaseSequence is the producer's number of the first record, or NoProducer.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[batchBaseSequence:])) }

// CRC is the checksum that the batch carries.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[batchCRC:]) }

// ComputeCRC is the checksum of the bytes that it covers: all from the attributes on.
func (b Batch) ComputeCRC() uint32 { return crc32.Update(0, castagnoli, b[batchAttributes:]) }

// SetMaxTimestamp stamps the whole batch with the broker's time and sets the checksum anew.
func (b Batch) SetMaxTimestamp(ms int64) {
	attrs := b.Attributes() | LogAppendTime
	binary.BigEndian.PutUint16(b[batchAttributes:], uint16(attrs))
	binary.BigEndian.PutUint64(b[batchMaxTimestamp:], uint64(ms))
	binary.BigEndian.PutUint32(b[batchCRC:], b.ComputeCRC())
}

// CorrectMaxTimestamp sets the latest timestamp, which its producer told wrong, and the checksum anew.
func (b Batch) CorrectMaxTimestamp(ms int64) {
	binary.BigEndian.PutUint64(b[batchMaxTimestamp:], uint64(ms))
	binary.BigEndian.PutUint32(b[batchCRC:], b.ComputeCRC())
}

// Reseal makes a batch of the header of another one and what stands behind it in b, which are records in the form that codec
// gives them: it sets codec, length and checksum.
func Reseal(b []byte, codec Codec) Batch {
	invariant.Check(len(b) >= BatchHeaderSize && len(b) <= MaxBatchSize, "a batch's size")
	attrs := Batch(b).Attributes()&^CompressionMask | Attributes(codec)
	binary.BigEndian.PutUint32(b[batchLength:], uint32(len(b)-batchLengthBase))
	binary.BigEndian.PutUint16(b[batchAttributes:], uint16(attrs))
	binary.BigEndian.PutUint32(b[batchCRC:], Batch(b).ComputeCRC())
	return b
}

// Verify checks a batch made by others: its checksum, and, unless it is compressed, each record, their number, and that their
// offsets rise and do not pass LastOffset. Timestamps are the producer's business.
func (b Batch) Verify() error {
	if b.CRC() != b.ComputeCRC() {
		return ErrChecksum
	}
	if b.Attributes().Compressed() {
		return nil
	}
	r := b.Records()
	last := b.BaseOffset() - 1
	for r.Next() {
		rec := r.Record()
		if rec.Offset <= last {
			return ErrBatch
		}
		last = rec.Offset
		for h := rec.Headers; h.Next(); {
			if h.Key() == nil {
				return ErrBatch
			}
		}
	}
	if err := r.Err(); err != nil {
		return err
	}
	if last > b.LastOffset() {
		return ErrBatch
	}
	return nil
}
