package wire

import (
	"encoding/binary"
	"math/bits"
)

// reader takes fields from the head of a body. After a field that is cut or has a bad length, bad is set, nothing is left, and
// every further field reads as zero: look at bad once, at the end.
type reader struct {
	rest []byte
	flex bool // compact lengths, tagged fields
	bad  bool
}

func (r *reader) fail() {
	r.bad, r.rest = true, nil
}

func (r *reader) int8() int8 {
	if len(r.rest) < 1 {
		r.fail()
		return 0
	}
	v := int8(r.rest[0])
	r.rest = r.rest[1:]
	return v
}

func (r *reader) int16() int16 {
	if len(r.rest) < 2 {
		r.fail()
		return 0
	}
	v := int16(binary.BigEndian.Uint16(r.rest))
	r.rest = r.rest[2:]
	return v
}

func (r *reader) int32() int32 {
	if len(r.rest) < 4 {
		r.fail()
		return 0
	}
	v := int32(binary.BigEndian.Uint32(r.rest))
	r.rest = r.rest[4:]
	return v
}

func (r *reader) int64() int64 {
	if len(r.rest) < 8 {
		r.fail()
		return 0
	}
	v := int64(binary.BigEndian.Uint64(r.rest))
	r.rest = r.rest[8:]
	return v
}

func (r *reader) uuid() (v UUID) {
	copy(v[:], r.span(len(v)))
	return v
}

// span takes n bytes; n may be anything.
func (r *reader) span(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.fail()
		return nil
	}
	v := r.rest[:n:n]
	r.rest = r.rest[n:]
	return v
}

// uvarint takes an unsigned varint of up to 32 bits. Longer forms than need be are taken, as by Kafka.
func (r *reader) uvarint() uint32 {
	if len(r.rest) > 0 && r.rest[0] < 0x80 {
		v := uint32(r.rest[0])
		r.rest = r.rest[1:]
		return v
	}
	var v uint64
	for i, c := range r.rest {
		v |= uint64(c&0x7F) << (7 * i)
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			r.rest = r.rest[i+1:]
			return uint32(v)
		}
		if i == maxUvarint-1 {
			break
		}
	}
	r.fail()
	return 0
}

// maxUvarint is the most bytes that an unsigned varint of 32 bits takes.
const maxUvarint = 5

// compactLen takes a compact length: one more than the length, 0 for null, which is returned as -1.
func (r *reader) compactLen() int { return int(r.uvarint()) - 1 }

// nullableString takes a string with a length of two bytes, whatever the version.
func (r *reader) nullableString() []byte {
	n := int(r.int16())
	if n == -1 {
		return nil
	}
	return r.span(n)
}

// stringOrNull takes a string; nil is null.
func (r *reader) stringOrNull() []byte {
	if !r.flex {
		return r.nullableString()
	}
	n := r.compactLen()
	if n < 0 {
		return nil
	}
	return r.span(n)
}

// string takes a string that must not be null.
func (r *reader) string() []byte {
	v := r.stringOrNull()
	if v == nil {
		r.fail()
	}
	return v
}

// bytesOrNull takes bytes; nil is null.
func (r *reader) bytesOrNull() []byte {
	var n int
	if r.flex {
		n = r.compactLen()
	} else {
		n = int(r.int32())
	}
	if n == -1 {
		return nil
	}
	return r.span(n)
}

// count takes the length of an array that must not be null, whose elements have at least min bytes each. A count that the bytes
// left cannot hold is refused before anybody counts on it.
func (r *reader) count(min int) int {
	n := r.countOrNull(min)
	if n < 0 {
		r.fail()
		return 0
	}
	return n
}

// countOrNull is count for an array that may be null, which is -1.
func (r *reader) countOrNull(min int) int {
	var n int
	if r.flex {
		n = r.compactLen()
	} else {
		n = int(r.int32())
	}
	if n < -1 || (n > 0 && n > len(r.rest)/min) {
		r.fail()
		return 0
	}
	return n
}

// tagged takes the number of tagged fields, each of at least two bytes.
func (r *reader) tagged() int {
	n := int(r.uvarint())
	if n > len(r.rest)/2 {
		r.fail()
		return 0
	}
	return n
}

// tag takes one tagged field.
func (r *reader) tag() (tag uint32, field reader) {
	tag = r.uvarint()
	return tag, reader{rest: r.span(int(r.uvarint())), flex: true}
}

// skipTags takes all tagged fields and keeps none.
func (r *reader) skipTags() {
	for range r.tagged() {
		r.tag()
	}
}

// endTags is skipTags at the end of a structure, which has tagged fields in a flexible version alone.
func (r *reader) endTags() {
	if !r.flex {
		return
	}
	if len(r.rest) > 0 && r.rest[0] == 0 { // as nearly always
		r.rest = r.rest[1:]
		return
	}
	r.skipTags()
}

func appendInt16(dst []byte, v int16) []byte { return binary.BigEndian.AppendUint16(dst, uint16(v)) }
func appendInt32(dst []byte, v int32) []byte { return binary.BigEndian.AppendUint32(dst, uint32(v)) }
func appendInt64(dst []byte, v int64) []byte { return binary.BigEndian.AppendUint64(dst, uint64(v)) }

func appendUvarint(dst []byte, v uint32) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func sizeUvarint(v uint32) int { return (bits.Len32(v|1) + 6) / 7 }

// appendCount appends the length of an array.
func appendCount(dst []byte, flex bool, n int) []byte {
	if flex {
		return appendUvarint(dst, uint32(n)+1)
	}
	return appendInt32(dst, int32(n))
}

// stringMax is what a length of two bytes can say. Of longer strings the rest is cut off: a length that lies would spoil the
// stream. The names that are sent back came with such a length; only messages can be longer.
const stringMax = 1<<15 - 1

// appendString appends a string that is not null.
func appendString[S string | []byte](dst []byte, flex bool, s S) []byte {
	if flex {
		return append(appendUvarint(dst, uint32(len(s))+1), s...)
	}
	s = s[:min(len(s), stringMax)]
	return append(appendInt16(dst, int16(len(s))), s...)
}

// appendStringOrNull appends a string that is null if it is empty.
func appendStringOrNull(dst []byte, flex bool, s string) []byte {
	if s != "" {
		return appendString(dst, flex, s)
	}
	if flex {
		return append(dst, 0)
	}
	return append(dst, 0xFF, 0xFF)
}

// appendEndTags ends a structure that has no tagged fields.
func appendEndTags(dst []byte, flex bool) []byte {
	if flex {
		dst = append(dst, 0)
	}
	return dst
}
