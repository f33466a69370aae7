package bench

import (
	"encoding/binary"
	"hash/crc32"
)

// A payload begins with these fields, little endian, ends with a CRC32-C over all before it, and has filler between:
//
//	0  run       u32  random for each run: what an earlier run left behind is told apart
//	4  publisher u32
//	8  sequence  u64  from 0, for each publisher
//	16 intended  i64  ns since the run's base: when the message was meant to be sent
const (
	payloadFields = 24
	// MinPayload is the smallest payload that can be verified.
	MinPayload = payloadFields + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp is what a payload says.
type stamp struct {
	run, publisher uint32
	seq            uint64
	intended       int64
}

// put writes s and the checksum into b, whose filler stays as it is.
func (s *stamp) put(b []byte) {
	binary.LittleEndian.PutUint32(b, s.run)
	binary.LittleEndian.PutUint32(b[4:], s.publisher)
	binary.LittleEndian.PutUint64(b[8:], s.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(s.intended))
	end := len(b) - 4
	binary.LittleEndian.PutUint32(b[end:], crc32.Update(0, castagnoli, b[:end]))
}

// readStamp reads a payload of the given size; ok is false if it is not what some publisher wrote.
func readStamp(b []byte, size int) (s stamp, ok bool) {
	if len(b) != size {
		return s, false
	}
	end := len(b) - 4
	if binary.LittleEndian.Uint32(b[end:]) != crc32.Update(0, castagnoli, b[:end]) {
		return s, false
	}
	s.run = binary.LittleEndian.Uint32(b)
	s.publisher = binary.LittleEndian.Uint32(b[4:])
	s.seq = binary.LittleEndian.Uint64(b[8:])
	s.intended = int64(binary.LittleEndian.Uint64(b[16:]))
	return s, true
}
