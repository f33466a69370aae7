package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
)

// A stream's messages begin with their type. docs/format/replication.md has them.
const (
	msgHistory    = 1 // leader: of each shard of the set the starts of its epochs, and its end
	msgFrames     = 2 // leader: whole frames, as in the log
	msgWatermarks = 3 // leader: shards and their high watermarks
	msgGone       = 4 // leader: its log does not reach back so far
	msgFrom       = 5 // follower: of each shard of the set the frame that is to come first
	msgAcks       = 6 // follower: shards and the last frame that its log has
)

const (
	headVersion = 1 // of set 0, which was the only one
	headBytes   = 5
	setVersion  = 2 // of another set
	setBytes    = 6
	// framesBytes is about how much goes into one message. A frame that is larger goes alone.
	framesBytes = 512 << 10
)

var errMessage = errors.New("replica: a message that is none")

// appendHead appends the head of a set's stream. A node that knows of no sets refuses any but that of set 0.
func appendHead(dst []byte, set int, epoch record.Epoch) []byte {
	if set == 0 {
		return binary.LittleEndian.AppendUint32(append(dst, headVersion), uint32(epoch))
	}
	return append(binary.LittleEndian.AppendUint32(append(dst, setVersion), uint32(epoch)), uint8(set))
}

func decodeHead(b []byte) (set int, epoch record.Epoch, err error) {
	switch {
	case len(b) >= headBytes && b[0] == headVersion:
	case len(b) == setBytes && b[0] == setVersion && b[headBytes] != 0: // each set has one head
		set = int(b[headBytes])
	default:
		return 0, 0, fmt.Errorf("want a head of version %d, or of version %d with a set of shards", headVersion, setVersion)
	}
	return set, record.Epoch(binary.LittleEndian.Uint32(b[1:])), nil
}

// reader takes numbers off a message.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// history is what a replica knows of a shard.
type history struct {
	epochs []broker.EpochStart
	end    uint64
}

func appendHistory(dst []byte, h *history) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(h.epochs)))
	for _, e := range h.epochs {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(e.Epoch)), e.First)
	}
	return binary.AppendUvarint(dst, h.end)
}

func decodeHistories(b []byte, shards int) ([]history, error) {
	r := reader{b: b}
	list := make([]history, shards)
	for i := range list {
		for n := r.uvarint(); n > 0 && !r.bad; n-- {
			e, first := r.uvarint(), r.uvarint()
			if e > math.MaxUint32 {
				r.bad = true
			}
			list[i].epochs = append(list[i].epochs, broker.EpochStart{Epoch: record.Epoch(e), First: first})
		}
		list[i].end = r.uvarint()
	}
	if r.bad || len(r.b) > 0 {
		return nil, errMessage
	}
	return list, nil
}

func decodeFrom(b []byte, shards int) ([]uint64, error) {
	r := reader{b: b}
	list := make([]uint64, shards)
	for i := range list {
		list[i] = r.uvarint()
	}
	if r.bad || len(r.b) > 0 {
		return nil, errMessage
	}
	return list, nil
}

// eachPair calls fn with the slot of each shard of acknowledgements or watermarks, and its index. A shard of another set is none.
func eachPair(b []byte, set *Set, fn func(slot int, index uint64)) error {
	r := reader{b: b}
	for len(r.b) > 0 {
		shard, index := r.uvarint(), r.uvarint()
		slot, ok := set.slot(shard)
		if r.bad || !ok {
			return errMessage
		}
		fn(slot, index)
	}
	return nil
}

func appendPair(dst []byte, shard record.ShardID, index uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(shard)), index)
}

// epochAt is the epoch that a frame of this index has in a log with this history.
func epochAt(epochs []broker.EpochStart, index uint64) (e record.Epoch) {
	for i := len(epochs) - 1; i >= 0; i-- {
		if epochs[i].First <= index {
			return epochs[i].Epoch
		}
	}
	return 0
}

func trailing(b uint64) int { return bits.TrailingZeros64(b) }
