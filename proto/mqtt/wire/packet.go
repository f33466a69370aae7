// Package wire turns MQTT 3.1, 3.1.1 and 5.0 packets into values and back, for both ends of a connection.
//
// It owns the layout of bytes: fixed headers, fields, properties, the grammar of topics, and which reason code each
// breach of them has. It does no I/O, reads no clock, keeps no state and starts no goroutine: what depends on earlier
// packets (is this alias known, may this client speak now) is its parent's, proto/mqtt. sluice pub, sub and bench use the
// client's half.
//
// # Whose bytes
//
// A decoded packet is a view: every []byte in it aliases the body that was decoded and dies with it. Encoders append to
// the slice they are given and keep nothing. Neither way allocates; errors are package-level values.
//
// # Reading a stream
//
// Scan looks at the bytes that have come so far and names the next whole packet, or says how many bytes it needs. It
// refuses what can be refused by the fixed header alone, before the body has come. The Decode function of the packet's
// type then takes Header.Body.
package wire

import "fmt"

// Protocol versions, as the CONNECT packet's protocol level gives them.
const (
	V31  byte = 3 // MQTT 3.1, protocol name MQIsdp
	V311 byte = 4 // MQTT 3.1.1
	V5   byte = 5 // MQTT 5.0
)

// PacketType is the high half of a packet's first byte.
type PacketType byte

// The packet types. AUTH exists in MQTT 5 alone.
const (
	CONNECT     PacketType = 1
	CONNACK     PacketType = 2
	PUBLISH     PacketType = 3
	PUBACK      PacketType = 4
	PUBREC      PacketType = 5
	PUBREL      PacketType = 6
	PUBCOMP     PacketType = 7
	SUBSCRIBE   PacketType = 8
	SUBACK      PacketType = 9
	UNSUBSCRIBE PacketType = 10
	UNSUBACK    PacketType = 11
	PINGREQ     PacketType = 12
	PINGRESP    PacketType = 13
	DISCONNECT  PacketType = 14
	AUTH        PacketType = 15
)

var packetNames = [16]string{"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

// String gives the packet type's name as the specification writes it.
func (t PacketType) String() string {
	if int(t) < len(packetNames) {
		return packetNames[t]
	}
	return fmt.Sprintf("PacketType(%d)", byte(t))
}

// MaxRemainingLength is the largest remaining length that four bytes can say.
const MaxRemainingLength = 268_435_455

// Flag bits of a PUBLISH's first byte.
const (
	flagRetain = 0x01
	flagQoS    = 0x06
	flagDup    = 0x08
)

// Header is the fixed header of one packet, and its body. Body is a view of the scanned bytes.
type Header struct {
	Type  PacketType
	Flags byte   // the low half of the first byte, checked against the type
	Size  int    // the whole packet; with ErrShort, how many bytes Scan must see to come further
	Body  []byte // what follows the fixed header: variable header and payload
}

// Scan names the first packet in b. version is the connection's, or 0 for a server that still waits for CONNECT: then any
// other type is refused. A packet of more than maxPacket bytes is refused as soon as its length is known (0: no limit).
//
// While the packet is not whole, the error is ErrShort and Header.Size tells how many bytes, counted from the start of b,
// are needed to come further: the whole packet once its length is known. Any other error is a *ProtocolError, after
// which the stream cannot be read on; Header.Type is set then as far as it was known.
func Scan(b []byte, maxPacket uint32, version byte) (Header, error) {
	if len(b) == 0 {
		return Header{Size: 2}, ErrShort
	}
	typ := PacketType(b[0] >> 4)
	if e := firstByte[version&7][b[0]]; e != nil {
		return Header{Type: typ}, e
	}
	var length uint32
	n := 1
	if len(b) >= 2 && b[1] < 0x80 { // the short form, which most packets have
		length = uint32(b[1])
	} else {
		var err error
		if length, n, err = takeVarint(b[1:]); err != nil {
			return Header{Type: typ}, err
		}
		if n == 0 {
			return Header{Type: typ, Size: len(b) + 1}, ErrShort
		}
	}
	size := 1 + n + int(length)
	if maxPacket != 0 && uint64(size) > uint64(maxPacket) {
		return Header{Type: typ, Size: size}, ErrPacketTooLarge
	}
	if e := checkLength(typ, length, version); e != nil {
		return Header{Type: typ, Size: size}, e
	}
	if len(b) < size {
		return Header{Type: typ, Size: size}, ErrShort
	}
	return Header{Type: typ, Flags: b[0] & 0x0F, Size: size, Body: b[1+n : size : size]}, nil
}

// firstByte says by version what is wrong with a packet's first byte. An unknown version refuses all.
var firstByte = func() (table [8][256]*ProtocolError) {
	for version := range byte(8) {
		for b := range 256 {
			table[version][b] = errTypeReserved
			if version == 0 || (version >= V31 && version <= V5) {
				table[version][b] = checkFirst(PacketType(b>>4), byte(b)&0x0F, version)
			}
		}
	}
	return table
}()

// checkFirst judges a packet's first byte.
func checkFirst(t PacketType, flags, version byte) *ProtocolError {
	if t == PUBLISH && version != 0 {
		return checkPublishFlags(flags, version)
	}
	if t == 0 {
		return errTypeReserved
	}
	if version == 0 && t != CONNECT {
		return ErrConnectExpected
	}
	if t == AUTH && version != V5 {
		return errTypeReserved
	}
	want := byte(0)
	if t == PUBREL || t == SUBSCRIBE || t == UNSUBSCRIBE {
		want = 0x02
		if version == V31 {
			flags &^= flagDup // MQTT 3.1 marks what is sent again in these too
		}
	}
	if flags != want {
		return errFlags
	}
	return nil
}

func checkPublishFlags(flags, version byte) *ProtocolError {
	if flags&flagQoS == flagQoS {
		return errPublishQoS
	}
	if flags&(flagDup|flagQoS) == flagDup && version != V31 {
		return errDupQoS0
	}
	return nil
}

// lengthRange is the remaining length that a packet type can have whatever it carries; max 0 means any.
type lengthRange struct{ min, max uint32 }

// lengths31 holds for MQTT 3.1 and 3.1.1, lengths5 for 5.0. They refuse a packet of impossible length before its body
// has come, so that an announced 256 MiB acknowledgement costs nobody a buffer.
var (
	lengths31 = [16]lengthRange{
		CONNECT: {12, 0}, CONNACK: {2, 2}, PUBLISH: {3, 0}, PUBACK: {2, 2}, PUBREC: {2, 2}, PUBREL: {2, 2}, PUBCOMP: {2, 2},
		SUBSCRIBE: {5, 0}, SUBACK: {3, 0}, UNSUBSCRIBE: {4, 0}, UNSUBACK: {2, 2},
	}
	lengths5 = [16]lengthRange{
		CONNECT: {13, 0}, CONNACK: {2, 0}, PUBLISH: {3, 0}, PUBACK: {2, 0}, PUBREC: {2, 0}, PUBREL: {2, 0}, PUBCOMP: {2, 0},
		SUBSCRIBE: {3, 0}, SUBACK: {4, 0}, UNSUBSCRIBE: {3, 0}, UNSUBACK: {4, 0}, DISCONNECT: {0, 0}, AUTH: {0, 0},
	}
)

func checkLength(t PacketType, length uint32, version byte) *ProtocolError {
	r := &lengths31[t]
	if version == V5 {
		r = &lengths5[t]
	}
	if length < r.min {
		if t == SUBSCRIBE || t == UNSUBSCRIBE {
			return nil // the decoder can tell an empty list of filters from a cut packet
		}
		return errTooShort
	}
	empty := t == PINGREQ || t == PINGRESP || (t == DISCONNECT && version != V5)
	if (r.max != 0 && length > r.max) || (empty && length != 0) {
		return errTrailing
	}
	return nil
}

// AppendPingreq appends a PINGREQ.
func AppendPingreq(dst []byte) []byte { return append(dst, byte(PINGREQ)<<4, 0) }

// AppendPingresp appends a PINGRESP.
func AppendPingresp(dst []byte) []byte { return append(dst, byte(PINGRESP)<<4, 0) }

// appendHeader appends a fixed header for a packet of the given remaining length.
func appendHeader(dst []byte, t PacketType, flags byte, length int) []byte {
	return appendVarint(append(dst, byte(t)<<4|flags), uint32(length))
}

// packetSize is the size of a whole packet of the given remaining length.
func packetSize(length int) int { return 1 + sizeVarint(uint32(length)) + length }
