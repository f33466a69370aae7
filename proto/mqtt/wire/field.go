package wire

import (
	"encoding/binary"
	"unsafe"
)

// View gives the bytes of s without a copy, for the fields of packets to be encoded. They must not be written to.
func View(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// takeVarint reads a variable byte integer. n is 0 while it is not whole.
func takeVarint(b []byte) (v uint32, n int, err error) {
	for i := 0; i < len(b) && i < 4; i++ {
		c := b[i]
		v |= uint32(c&0x7F) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 {
				return 0, 0, errVarintPadded
			}
			return v, i + 1, nil
		}
	}
	if len(b) >= 4 {
		return 0, 0, errVarint
	}
	return 0, 0, nil
}

// appendVarint appends a variable byte integer; v is at most MaxRemainingLength.
func appendVarint(dst []byte, v uint32) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func sizeVarint(v uint32) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

func takeUint16(b []byte) (v uint16, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, b, false
	}
	return binary.BigEndian.Uint16(b), b[2:], true
}

func takeUint32(b []byte) (v uint32, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, b, false
	}
	return binary.BigEndian.Uint32(b), b[4:], true
}

// takeBytes reads binary data behind its two-byte length. The result is never nil when ok.
func takeBytes(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, b, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return nil, b, false
	}
	return b[2:n:n], b[n:], true
}

// takeText reads a UTF-8 string and checks it.
func takeText(b []byte) (v, rest []byte, err error) {
	v, rest, ok := takeBytes(b)
	if !ok {
		return nil, b, errTooShort
	}
	if !ValidText(v) {
		return nil, b, errText
	}
	return v, rest, nil
}

// takePacketID reads a packet identifier, which is never 0.
func takePacketID(b []byte) (id uint16, rest []byte, err error) {
	id, rest, ok := takeUint16(b)
	if !ok {
		return 0, b, errTooShort
	}
	if id == 0 {
		return 0, b, errPacketID
	}
	return id, rest, nil
}

// takeBlock reads a property length and cuts the block behind it off.
func takeBlock(b []byte) (block, rest []byte, err error) {
	length, n, err := takeVarint(b)
	if err != nil {
		return nil, b, err
	}
	if n == 0 {
		return nil, b, errTooShort
	}
	b = b[n:]
	if uint64(length) > uint64(len(b)) {
		return nil, b, errPropLength
	}
	return b[:length:length], b[length:], nil
}

func appendUint16(dst []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(dst, v) }
func appendUint32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// appendBytes appends b behind its two-byte length. Of more than 65,535 bytes the rest is cut off: a field cannot hold
// more, and a length that lies would spoil the stream.
func appendBytes(dst, b []byte) []byte {
	b = clip(b)
	return append(appendUint16(dst, uint16(len(b))), b...)
}

func clip(b []byte) []byte {
	if len(b) > 0xFFFF {
		b = b[:0xFFFF]
	}
	return b
}

func sizeBytes(b []byte) int { return 2 + len(clip(b)) }
