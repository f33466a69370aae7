package record

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Header is one header of a record to be written.
type Header struct{ Key, Value []byte }

// Input is one record to be written. The builder copies what it needs before Append returns. Headers and RawHeaders exclude each
// other.
type Input struct {
	OffsetDelta int32  // distance from the batch's base offset: above the record's before it
	Timestamp   int64  // milliseconds of Unix time
	Key, Value  []byte // nil: null
	Headers     []Header
	RawHeaders  []byte // headers encoded by AppendHeader
	RawCount    int    // how many those are
}

// BatchOptions is what a finished batch says about itself. The zero value is what a broker writes for protocols without producers.
type BatchOptions struct {
	BaseOffset  Offset
	LeaderEpoch Epoch
	Attributes  Attributes
	// LastDelta is the distance to the last offset that the batch stands for, if that lies above the last record's: compaction
	// took records from its end.
	LastDelta int32
	Producer  Producer
}

// Producer is who made a batch, for idempotence. The zero value is nobody.
type Producer struct {
	Known    bool
	ID       int64
	Epoch    int16
	Sequence int32 // number of the first record
}

// BatchBuilder writes one batch at the end of a caller's buffer. Its zero value is ready for Begin; it keeps the buffer until
// Finish, and can be used again afterwards. It allocates only when the buffer must grow.
type BatchBuilder struct {
	buf       []byte
	start     int
	count     int32
	lastDelta int32
	baseTime  int64
	maxTime   int64
}

// Begin starts a batch at the end of dst, which belongs to the builder until Finish. Records' timestamps are counted from
// baseTimestamp, which is by custom the first one's.
func (b *BatchBuilder) Begin(dst []byte, baseTimestamp int64) {
	b.start = len(dst)
	b.count, b.lastDelta = 0, -1
	b.baseTime, b.maxTime = baseTimestamp, baseTimestamp
	var zero [BatchHeaderSize]byte
	b.buf = append(dst, zero[:]...)
}

// Append adds a record.
func (b *BatchBuilder) Append(in *Input) {
	invariant.Check(in.OffsetDelta > b.lastDelta, "a record's offset does not lie above the one before it")
	body := recordBodySize(in, in.Timestamp-b.baseTime)
	buf := AppendVarint(b.buf, int64(body))
	buf = append(buf, 0)
	buf = AppendVarint(buf, in.Timestamp-b.baseTime)
	buf = AppendVarint(buf, int64(in.OffsetDelta))
	buf = appendBytes(buf, in.Key)
	buf = appendBytes(buf, in.Value)
	if in.RawHeaders != nil {
		buf = AppendVarint(buf, int64(in.RawCount))
		buf = append(buf, in.RawHeaders...)
	} else {
		buf = AppendVarint(buf, int64(len(in.Headers)))
		for i := range in.Headers {
			buf = appendBytes(buf, in.Headers[i].Key)
			buf = appendBytes(buf, in.Headers[i].Value)
		}
	}
	b.buf = buf
	b.count++
	b.lastDelta = in.OffsetDelta
	b.maxTime = max(b.maxTime, in.Timestamp)
}

// Count is the number of records so far.
func (b *BatchBuilder) Count() int { return int(b.count) }

// Size is the size of the batch so far, header included.
func (b *BatchBuilder) Size() int { return len(b.buf) - b.start }

// NextDelta is the least offset delta that the next record may have.
func (b *BatchBuilder) NextDelta() int32 { return b.lastDelta + 1 }

// Finish sets the header and returns the buffer that Begin was given, with the batch behind what was in it. A batch without
// records is not to be stored: Finish then returns the buffer as it was.
func (b *BatchBuilder) Finish(o *BatchOptions) []byte {
	if b.count == 0 {
		buf := b.buf
		b.buf = nil
		return buf[:b.start]
	}
	return b.seal(o)
}

func (b *BatchBuilder) seal(o *BatchOptions) []byte {
	buf := b.buf
	b.buf = nil
	h := buf[b.start:]
	invariant.Check(len(h) <= MaxBatchSize, "a batch's size")
	binary.BigEndian.PutUint64(h[batchBaseOffset:], uint64(o.BaseOffset))
	binary.BigEndian.PutUint32(h[batchLength:], uint32(len(h)-batchLengthBase))
	binary.BigEndian.PutUint32(h[batchLeaderEpoch:], uint32(o.LeaderEpoch))
	h[batchMagic] = 2
	binary.BigEndian.PutUint16(h[batchAttributes:], uint16(o.Attributes))
	binary.BigEndian.PutUint32(h[batchLastDelta:], uint32(max(b.lastDelta, o.LastDelta)))
	binary.BigEndian.PutUint64(h[batchBaseTimestamp:], uint64(b.baseTime))
	binary.BigEndian.PutUint64(h[batchMaxTimestamp:], uint64(b.maxTime))
	id, epoch, seq := int64(NoProducer), int16(NoProducer), int32(NoProducer)
	if o.Producer.Known {
		id, epoch, seq = o.Producer.ID, o.Producer.Epoch, o.Producer.Sequence
	}
	binary.BigEndian.PutUint64(h[batchProducerID:], uint64(id))
	binary.BigEndian.PutUint16(h[batchProducerEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(h[batchBaseSequence:], uint32(seq))
	binary.BigEndian.PutUint32(h[batchCount:], uint32(b.count))
	binary.BigEndian.PutUint32(h[batchCRC:], Batch(h).ComputeCRC())
	return buf
}

// AppendEmpty appends a batch without records, which stands for the offsets from o.BaseOffset to o.LastDelta behind it: what compaction
// leaves where nothing is left. ms is its time.
func AppendEmpty(dst []byte, o *BatchOptions, ms int64) []byte {
	var b BatchBuilder
	b.Begin(dst, ms)
	return b.seal(o)
}

// InputSize is the most bytes that in adds to a batch, whatever its base timestamp: what an accumulator reserves.
func InputSize(in *Input) int {
	body := recordBodySize(in, -1<<63)
	return VarintLen(int64(body)) + body
}

// AppendHeader appends one header in its encoded form: what Input.RawHeaders is made of.
func AppendHeader(dst, key, value []byte) []byte {
	return appendBytes(appendBytes(dst, key), value)
}

// AppendHeaderString is AppendHeader for a name that is a constant.
func AppendHeaderString(dst []byte, key string, value []byte) []byte {
	dst = AppendVarint(dst, int64(len(key)))
	dst = append(dst, key...)
	return appendBytes(dst, value)
}

func recordBodySize(in *Input, timeDelta int64) int {
	n := 1 + VarintLen(timeDelta) + VarintLen(int64(in.OffsetDelta)) + bytesSize(in.Key) + bytesSize(in.Value)
	if in.RawHeaders != nil {
		return n + VarintLen(int64(in.RawCount)) + len(in.RawHeaders)
	}
	n += VarintLen(int64(len(in.Headers)))
	for i := range in.Headers {
		n += bytesSize(in.Headers[i].Key) + bytesSize(in.Headers[i].Value)
	}
	return n
}

func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return VarintLen(int64(len(b))) + len(b)
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 1) // -1
	}
	dst = AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}
