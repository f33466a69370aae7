package bench

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/record/compress"
)

// The generator writes batches by itself and reads what a broker stored by itself: what would be wrong in the server's codec is
// then found, and a record costs a copy and a checksum. Only the codecs are the server's.

// Where the fields of a batch of magic 2 begin.
const (
	batchBase     = 0  // i64
	batchLength   = 8  // i32, of what follows
	batchEpoch    = 12 // i32
	batchMagic    = 16
	batchCRC      = 17 // u32, over all that follows
	batchAttrs    = 21 // i16
	batchLast     = 23 // i32, last offset - base
	batchFirstMS  = 27 // i64
	batchMaxMS    = 35 // i64
	batchProducer = 43 // i64
	batchFence    = 51 // i16, the producer's epoch
	batchSequence = 53 // i32
	batchCount    = 57 // i32
	batchHeader   = 61

	attrCodec         = 0x07
	attrTransactional = 0x10
	attrControl       = 0x20
)

// abortedFlag in a stamp's publisher says that the record belongs to a transaction that its producer aborts: no reader of
// committed records may see it.
const abortedFlag = 1 << 31

// kbatch is a batch that is being filled, or waits, or is in flight.
type kbatch struct {
	lane     *lane
	buf      []byte // header and records; once sealed, whole
	count    int
	first    uint64 // number of the first record
	intended int64  // of the first record
	made     int64  // when it was opened
	size     int    // of its records, before compression
	txn      uint64
	aborted  bool
	sealed   bool
	numbered bool // it has been sent: it keeps its sequence number
	doubt    bool // it may be stored, and was not answered so
	baseMS   int64
	lastMS   int64
}

// start makes b an empty batch of l.
func (b *kbatch) start(l *lane, unixMS int64) {
	*b = kbatch{lane: l, buf: append(b.buf[:0], make([]byte, batchHeader)...), baseMS: unixMS, lastMS: unixMS}
}

// append adds a record: key may be nil; the value is filler with s in it.
func (b *kbatch) append(key, filler []byte, s *stamp, unixMS int64) {
	ms, delta := unixMS-b.baseMS, int64(b.count)
	size := 1 + varintLen(ms) + varintLen(delta) + varintLen(int64(len(filler))) + len(filler) + 1
	if key == nil {
		size += varintLen(-1)
	} else {
		size += varintLen(int64(len(key))) + len(key)
	}
	out := binary.AppendVarint(b.buf, int64(size))
	out = append(out, 0)
	out = binary.AppendVarint(out, ms)
	out = binary.AppendVarint(out, delta)
	if key == nil {
		out = binary.AppendVarint(out, -1)
	} else {
		out = binary.AppendVarint(out, int64(len(key)))
		out = append(out, key...)
	}
	out = binary.AppendVarint(out, int64(len(filler)))
	at := len(out)
	out = append(out, filler...)
	s.put(out[at:])
	b.buf = append(out, 0) // no headers
	b.count++
	b.lastMS = unixMS
}

// producerState is what a batch says of its producer.
type producerState struct {
	id            int64 // -1: none
	epoch         int16
	transactional bool
}

// seal sets the header, and compresses with c before, in scratch, which it returns.
func (b *kbatch) seal(p *producerState, sequence int32, c compress.Settings, scratch []byte) []byte {
	if c.Codec != record.Uncompressed && !b.sealed {
		scratch = compress.Append(scratch[:0], c, b.buf[batchHeader:])
		b.buf = append(b.buf[:batchHeader], scratch...)
	}
	b.sealed = true
	h := b.buf
	attrs := uint16(c.Codec)
	if p.transactional {
		attrs |= attrTransactional
	}
	be := binary.BigEndian
	be.PutUint64(h[batchBase:], 0)
	be.PutUint32(h[batchLength:], uint32(len(h)-batchEpoch))
	be.PutUint32(h[batchEpoch:], 0xffffffff)
	h[batchMagic] = 2
	be.PutUint16(h[batchAttrs:], attrs)
	be.PutUint32(h[batchLast:], uint32(b.count-1))
	be.PutUint64(h[batchFirstMS:], uint64(b.baseMS))
	be.PutUint64(h[batchMaxMS:], uint64(b.lastMS))
	be.PutUint64(h[batchProducer:], uint64(p.id))
	be.PutUint16(h[batchFence:], uint16(p.epoch))
	be.PutUint32(h[batchSequence:], uint32(sequence))
	be.PutUint32(h[batchCount:], uint32(b.count))
	be.PutUint32(h[batchCRC:], crc32.Checksum(h[batchAttrs:], castagnoli))
	return scratch
}

// varintLen is the size of v as binary.AppendVarint writes it.
func varintLen(v int64) int {
	n := 1
	for u := uint64(v)<<1 ^ uint64(v>>63); u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

// rbatch is a batch that came in a Fetch response: a view.
type rbatch struct {
	b []byte
}

// cutBatch takes the first batch of b. ok is false at the end, where a broker may have cut one off; bad says that what is there
// is no batch.
func cutBatch(b []byte) (x rbatch, rest []byte, ok, bad bool) {
	if len(b) < batchHeader {
		return x, nil, false, false
	}
	n := int(int32(binary.BigEndian.Uint32(b[batchLength:])))
	if n < batchHeader-batchEpoch || b[batchMagic] != 2 {
		return x, nil, false, true
	}
	if len(b) < batchEpoch+n {
		return x, nil, false, false
	}
	return rbatch{b[:batchEpoch+n]}, b[batchEpoch+n:], true, false
}

func (x rbatch) base() int64 { return int64(binary.BigEndian.Uint64(x.b[batchBase:])) }
func (x rbatch) last() int64 {
	return x.base() + int64(int32(binary.BigEndian.Uint32(x.b[batchLast:])))
}
func (x rbatch) attrs() uint16     { return binary.BigEndian.Uint16(x.b[batchAttrs:]) }
func (x rbatch) producer() int64   { return int64(binary.BigEndian.Uint64(x.b[batchProducer:])) }
func (x rbatch) count() int        { return int(int32(binary.BigEndian.Uint32(x.b[batchCount:]))) }
func (x rbatch) control() bool     { return x.attrs()&attrControl != 0 }
func (x rbatch) transaction() bool { return x.attrs()&attrTransactional != 0 }

// intact checks the batch's checksum.
func (x rbatch) intact() bool {
	return binary.BigEndian.Uint32(x.b[batchCRC:]) == crc32.Checksum(x.b[batchAttrs:], castagnoli)
}

// records opens the records, into scratch if they are compressed.
func (x rbatch) records(scratch []byte) (b, _ []byte, ok bool) {
	b = x.b[batchHeader:]
	codec := record.Codec(x.attrs() & attrCodec)
	if codec == record.Uncompressed {
		return b, scratch, true
	}
	out, err := compress.Open(scratch[:0], codec, b, openMax)
	return out, out, err == nil
}

// openMax bounds what the generator opens of one compressed batch.
const openMax = 256 << 20

// marker tells what a control batch ends: its first record's key is a version and a type, 0 for an abort.
func (x rbatch) marker() (abort bool) {
	key, _, _, ok := cutRecord(x.b[batchHeader:])
	return ok && len(key) >= 4 && binary.BigEndian.Uint16(key[2:]) == 0
}

// cutRecord takes the first record of b.
func cutRecord(b []byte) (key, value, rest []byte, ok bool) {
	size, n := binary.Varint(b)
	if n <= 0 || size < 0 || size > int64(len(b)-n) {
		return nil, nil, nil, false
	}
	rest = b[n+int(size):]
	b = b[n : n+int(size)]
	if len(b) < 1 {
		return nil, nil, nil, false
	}
	b = b[1:]
	for range 2 { // time and offset
		if _, n = binary.Varint(b); n <= 0 {
			return nil, nil, nil, false
		}
		b = b[n:]
	}
	if key, b, ok = cutBytes(b); !ok {
		return nil, nil, nil, false
	}
	value, _, ok = cutBytes(b)
	return key, value, rest, ok
}

func cutBytes(b []byte) (v, rest []byte, ok bool) {
	size, n := binary.Varint(b)
	if n <= 0 || size > int64(len(b)-n) {
		return nil, nil, false
	}
	if size < 0 {
		return nil, b[n:], true
	}
	return b[n : n+int(size)], b[n+int(size):], true
}
