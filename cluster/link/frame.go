package link

import (
	"encoding/binary"
	"hash/crc32"
)

// A frame is a header of 12 bytes {length u32, channel u32, type u8, flags u8, zero u16}, a CRC of 4 bytes where TLS is off, and length
// bytes. Numbers are little endian. docs/format/link.md draws it.
const (
	headerBytes = 12
	crcBytes    = 4
	// FrameMost is the largest payload of a frame, before compression.
	FrameMost = 256 << 10
	// frameCost is what the smallest frame costs of a window, for it pins as much.
	frameCost = 256
	// rawBytes is the length before compression, in front of what is compressed.
	rawBytes = 4
	// longBytes is the length of a message of several frames, in front of the first one's bytes.
	longBytes = 4
)

type frameType uint8

const (
	frameData   frameType = 1 // a message, or a part of one
	frameOpen   frameType = 2 // {kind u8, header}
	frameCredit frameType = 3 // {bytes u32}
	frameClose  frameType = 4 // {reason u8, text}
	framePing   frameType = 5 // {stamp u64}, channel 0
	framePong   frameType = 6 // {stamp u64}, channel 0
	frameBye    frameType = 7 // {reason u8, text}, channel 0
)

const (
	flagMore       = 1 // of data: the message goes on in the next data frame of the channel
	flagCompressed = 2 // of data: {raw length u32, s2 block}
	flagLong       = 4 // of data: the first of several frames, never compressed; {length of the message u32} comes before its bytes
	flagsKnown     = flagMore | flagCompressed | flagLong
)

const (
	headerMost = 4 << 10 // of an open frame's header
	textMost   = 512     // of a reason's text
	openBytes  = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a frame's, decoded.
type header struct {
	length  uint32
	channel uint32
	typ     frameType
	flags   uint8
}

// appendHeader appends a frame's header.
func appendHeader(dst []byte, h header) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, h.length)
	dst = binary.LittleEndian.AppendUint32(dst, h.channel)
	return append(dst, byte(h.typ), h.flags, 0, 0)
}

// decodeHeader reads headerBytes bytes and checks what can be known without the connection's state.
func decodeHeader(b []byte) (header, error) {
	h := header{length: binary.LittleEndian.Uint32(b), channel: binary.LittleEndian.Uint32(b[4:]), typ: frameType(b[8]), flags: b[9]}
	if b[10] != 0 || b[11] != 0 {
		return h, failure(ReasonMalformed, "frame header with bytes %x where zeros are", b[10:12])
	}
	least, most := 0, textMost+1
	onChannel := true
	switch h.typ {
	case frameData:
		most = FrameMost
		if h.flags&flagLong != 0 {
			least, most = longBytes, most+longBytes
		}
		if h.flags&flagCompressed != 0 {
			least, most = rawBytes, most+rawBytes
		}
	case frameOpen:
		least, most = openBytes, openBytes+headerMost
	case frameCredit:
		least, most = 4, 4
	case frameClose:
		least = 1
	case framePing, framePong:
		least, most, onChannel = 8, 8, false
	case frameBye:
		least, onChannel = 1, false
	default:
		return h, failure(ReasonMalformed, "frame of type %d", h.typ)
	}
	switch {
	case h.typ != frameData && h.flags != 0, h.flags&^flagsKnown != 0, h.flags&flagLong != 0 && h.flags != flagLong|flagMore:
		return h, failure(ReasonMalformed, "frame of type %d with flags %#x", h.typ, h.flags)
	case h.length > uint32(most):
		return h, failure(ReasonTooLarge, "frame of type %d with %d bytes, at most %d", h.typ, h.length, most)
	case h.length < uint32(least):
		return h, failure(ReasonMalformed, "frame of type %d with %d bytes, at least %d", h.typ, h.length, least)
	case onChannel != (h.channel != 0):
		return h, failure(ReasonMalformed, "frame of type %d on channel %d", h.typ, h.channel)
	}
	return h, nil
}

// appendControl appends a whole frame other than data.
func appendControl(dst []byte, crc bool, h header, payload ...[]byte) []byte {
	h.length = 0
	for _, p := range payload {
		h.length += uint32(len(p))
	}
	start := len(dst)
	dst = appendHeader(dst, h)
	if crc {
		dst = append(dst, 0, 0, 0, 0)
	}
	body := len(dst)
	for _, p := range payload {
		dst = append(dst, p...)
	}
	if crc {
		sum := crc32.Update(crc32.Checksum(dst[start:start+headerBytes], castagnoli), castagnoli, dst[body:])
		binary.LittleEndian.PutUint32(dst[start+headerBytes:], sum)
	}
	return dst
}

// cost is what a frame of n bytes, uncompressed, takes of its channel's window.
func cost(n int) int { return max(n, frameCost) }

// cut bounds a text for the wire.
func cut(text string) string { return text[:min(len(text), textMost)] }

// reasonPayload is that of close and bye.
func reasonPayload(r Reason, text string) []byte { return append([]byte{byte(r)}, cut(text)...) }

// decodeReason reads that of close and bye: at least one byte.
func decodeReason(b []byte) *Error {
	return &Error{Reason: Reason(b[0]), Text: printable(b[1:]), Peer: true}
}

// printable is a peer's text, fit for a log.
func printable(b []byte) string {
	out := make([]byte, 0, min(len(b), textMost))
	for _, c := range b[:min(len(b), textMost)] {
		if c < ' ' || c > '~' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}
