package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/sluicemq/sluice/internal/invariant"
)

// FrameHeaderSize is the number of bytes before a frame's payload.
const FrameHeaderSize = 36

// MaxFrameSize bounds a whole frame: a length above it is a lie, whatever follows.
const MaxFrameSize = 1 << 30

// Where the fields of a frame lie; all are little endian.
const (
	frameLength    = 0
	frameCRC       = 4
	frameKind      = 8
	frameFlags     = 9
	frameShard     = 10
	frameEpoch     = 12
	frameIndex     = 16
	frameTenant    = 24
	framePartition = 28
)

// FrameKind says what a frame's payload is.
type FrameKind uint8

const (
	// KindRecords is a block that only the core reads, then one record batch; see BeginRecordsPayload.
	KindRecords FrameKind = 1
	// KindCommand is a change of a shard's state.
	KindCommand FrameKind = 2
	// KindCatalog is a change of the catalog.
	KindCatalog FrameKind = 3
	// KindTruncate takes back the frames of its shard above Index that lie before it in the log, where they never counted; frames with those
	// indexes may follow. The payload says where partitions end then; see AppendEnds.
	KindTruncate FrameKind = 4
	// KindWatermark says that the shard's frames up to Index are on all replicas that count. It has no payload and takes no index.
	KindWatermark FrameKind = 5
	// KindRaftUpdate is what one Raft group's replica saves at once: entries, term, vote, snapshot. Index is the first entry's.
	KindRaftUpdate FrameKind = 16
	// KindRaftCompact says that the entries of a Raft group's replica up to Index are dead.
	KindRaftCompact FrameKind = 17
	// KindRaftRemove says that a Raft group's replica has gone, with all it stored.
	KindRaftRemove FrameKind = 18
	// KindRaftBootstrap is the first membership of a Raft group.
	KindRaftBootstrap FrameKind = 19
)

// FlagSkippable marks a frame that a reader who does not know its kind may pass over. Any other unknown kind stops recovery.
const FlagSkippable uint8 = 1

var (
	// ErrShort means that src ends before what it announces: read more and try again.
	ErrShort = errors.New("record: more bytes needed")
	// ErrFrame means that a frame's length cannot be, or that its checksum does not match.
	ErrFrame = errors.New("record: bad frame")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frame is one unit of the log. As decoded it is a view: Payload aliases the bytes it was read from and dies with them.
type Frame struct {
	Kind      FrameKind
	Flags     uint8
	Shard     ShardID
	Epoch     Epoch
	Index     uint64 // place in the shard's order of changes
	Tenant    TenantID
	Partition PartitionID
	Payload   []byte
}

// Size is the number of bytes that the frame takes in the log.
func (f *Frame) Size() int { return FrameHeaderSize + len(f.Payload) }

// AppendFrame appends f, with its payload, to dst.
func AppendFrame(dst []byte, f *Frame) []byte {
	dst, start := BeginFrame(dst, f)
	dst = append(dst, f.Payload...)
	return FinishFrame(dst, start)
}

// BeginFrame appends f's header to dst. The caller appends the payload itself, then calls FinishFrame with the same start;
// f.Payload is not looked at.
func BeginFrame(dst []byte, f *Frame) (_ []byte, start int) {
	start = len(dst)
	var h [FrameHeaderSize]byte
	h[frameKind] = byte(f.Kind)
	h[frameFlags] = f.Flags
	binary.LittleEndian.PutUint16(h[frameShard:], uint16(f.Shard))
	binary.LittleEndian.PutUint32(h[frameEpoch:], uint32(f.Epoch))
	binary.LittleEndian.PutUint64(h[frameIndex:], f.Index)
	binary.LittleEndian.PutUint32(h[frameTenant:], uint32(f.Tenant))
	binary.LittleEndian.PutUint64(h[framePartition:], uint64(f.Partition))
	return append(dst, h[:]...), start
}

// FinishFrame sets length and checksum of the frame that began at start and ends where dst ends.
func FinishFrame(dst []byte, start int) []byte {
	b := dst[start:]
	invariant.Check(len(b) >= FrameHeaderSize && len(b) <= MaxFrameSize, "a frame's size")
	binary.LittleEndian.PutUint32(b[frameLength:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[frameCRC:], crc32.Update(0, castagnoli, b[frameKind:]))
	return dst
}

// DecodeFrame reads the frame at the head of src and says how many bytes it takes. The frame is a view of src. ErrShort: src ends
// before the frame does; ErrFrame: there is no frame here.
func DecodeFrame(src []byte) (f Frame, n int, err error) {
	n, err = FrameSize(src)
	if err != nil {
		return Frame{}, 0, err
	}
	if n > len(src) {
		return Frame{}, 0, ErrShort
	}
	b := src[:n:n]
	if binary.LittleEndian.Uint32(b[frameCRC:]) != crc32.Update(0, castagnoli, b[frameKind:]) {
		return Frame{}, 0, ErrFrame
	}
	return viewFrame(b), n, nil
}

// ViewFrame reads the frame at the head of src as DecodeFrame does, but trusts its checksum: for bytes that were verified before.
func ViewFrame(src []byte) (f Frame, n int, err error) {
	n, err = FrameSize(src)
	if err != nil {
		return Frame{}, 0, err
	}
	if n > len(src) {
		return Frame{}, 0, ErrShort
	}
	return viewFrame(src[:n:n]), n, nil
}

// FrameSize is the size that the frame at the head of src announces. It may be more than src holds.
func FrameSize(src []byte) (int, error) {
	if len(src) < FrameHeaderSize {
		return 0, ErrShort
	}
	n := binary.LittleEndian.Uint32(src[frameLength:])
	if n < FrameHeaderSize || n > MaxFrameSize {
		return 0, ErrFrame
	}
	return int(n), nil
}

// FrameShard is the shard of the frame at the head of src, of which FrameSize has said that it is there.
func FrameShard(src []byte) ShardID { return ShardID(binary.LittleEndian.Uint16(src[frameShard:])) }

func viewFrame(b []byte) Frame {
	return Frame{
		Kind:      FrameKind(b[frameKind]),
		Flags:     b[frameFlags],
		Shard:     ShardID(binary.LittleEndian.Uint16(b[frameShard:])),
		Epoch:     Epoch(binary.LittleEndian.Uint32(b[frameEpoch:])),
		Index:     binary.LittleEndian.Uint64(b[frameIndex:]),
		Tenant:    TenantID(binary.LittleEndian.Uint32(b[frameTenant:])),
		Partition: PartitionID(binary.LittleEndian.Uint64(b[framePartition:])),
		Payload:   b[FrameHeaderSize:],
	}
}

// PartitionEnd is the offset behind the last record that a partition has after a KindTruncate.
type PartitionEnd struct {
	Partition PartitionID
	End       Offset
}

// partitionEndSize is what one takes in a payload.
const partitionEndSize = 16

// AppendEnds appends the payload of a KindTruncate: the partitions that had records in what it takes back.
func AppendEnds(dst []byte, ends []PartitionEnd) []byte {
	for _, e := range ends {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Partition))
		dst = binary.LittleEndian.AppendUint64(dst, uint64(e.End))
	}
	return dst
}

// Ends reads the payload of a KindTruncate. ok is false if it is none.
func Ends(payload []byte) (ends []PartitionEnd, ok bool) {
	if len(payload)%partitionEndSize != 0 {
		return nil, false
	}
	for ; len(payload) > 0; payload = payload[partitionEndSize:] {
		e := PartitionEnd{PartitionID(binary.LittleEndian.Uint64(payload)), Offset(binary.LittleEndian.Uint64(payload[8:]))}
		if e.End < 0 {
			return nil, false
		}
		ends = append(ends, e)
	}
	return ends, true
}

// recordsPrefix is the size of the field before the core's block in a KindRecords payload.
const recordsPrefix = 4

// BeginRecordsPayload appends the head of a KindRecords payload whose core's block is extra. One batch must follow.
func BeginRecordsPayload(dst, extra []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(recordsPrefix+len(extra)))
	return append(dst, extra...)
}

// FrameBatch is the batch in the payload of a KindRecords frame, and nil if the payload is none. A view; not verified.
func FrameBatch(payload []byte) []byte {
	at, ok := batchOffset(payload)
	if !ok {
		return nil
	}
	return payload[at:]
}

// FrameExtra is the core's block in the payload of a KindRecords frame, and nil if the payload is none. A view.
func FrameExtra(payload []byte) []byte {
	at, ok := batchOffset(payload)
	if !ok {
		return nil
	}
	return payload[recordsPrefix:at:at]
}

func batchOffset(payload []byte) (int, bool) {
	if len(payload) < recordsPrefix {
		return 0, false
	}
	at := binary.LittleEndian.Uint32(payload)
	if at < recordsPrefix || uint64(at) > uint64(len(payload)) {
		return 0, false
	}
	return int(at), true
}
