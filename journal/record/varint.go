package record

import (
	"encoding/binary"
	"math/bits"
)

// Kafka's varints are zigzag-coded, seven bits a byte, least first: those of encoding/binary, bounded to 32 bits where a length
// or a delta of an offset is meant.

// maxVarint32 is the most bytes that a varint of 32 bits takes.
const maxVarint32 = 5

// VarintLen is the number of bytes of v as a varint.
func VarintLen(v int64) int {
	return (bits.Len64(uint64(v)<<1^uint64(v>>63)|1) + 6) / 7
}

// AppendVarint appends v as a varint.
func AppendVarint(dst []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	for u >= 0x80 {
		dst = append(dst, byte(u)|0x80)
		u >>= 7
	}
	return append(dst, byte(u))
}

// Varint reads a varint of up to 64 bits from the head of src; n is 0 if there is none.
func Varint(src []byte) (v int64, n int) {
	if len(src) > 0 && src[0] < 0x80 {
		return int64(src[0]>>1) ^ -int64(src[0]&1), 1
	}
	v, n = binary.Varint(src)
	if n <= 0 {
		return 0, 0
	}
	return v, n
}

// Varint32 reads a varint of up to 32 bits from the head of src; n is 0 if there is none.
func Varint32(src []byte) (v int32, n int) {
	if len(src) > 0 && src[0] < 0x80 {
		return int32(src[0]>>1) ^ -int32(src[0]&1), 1
	}
	if len(src) > 1 && src[1] < 0x80 { // lengths up to 8,191, as most values have
		u := uint32(src[0]&0x7F) | uint32(src[1])<<7
		return int32(u>>1) ^ -int32(u&1), 2
	}
	w, n := binary.Varint(src)
	if n <= 0 || n > maxVarint32 || w != int64(int32(w)) {
		return 0, 0
	}
	return int32(w), n
}
