package wire

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/invariant"
)

// Versions of CreateTopics from which on its answer has a field.
const (
	createdThrottle = 2
	createdFlexible = 5
)

// CreatedTopics builds the answer to CreateTopics in parts: that of thousands of topics, with all that is configured of each, takes a loop too long at once.
// Begin, Append, Finish.
type CreatedTopics struct {
	buf      []byte
	start    int
	throttle int // where that belongs
	left     int // topics that are not in it yet
	version  int16
}

// Begin appends to dst the answer to c, of so many topics.
func (b *CreatedTopics) Begin(dst []byte, c Call, topics int) {
	*b = CreatedTopics{left: topics, version: c.Version}
	dst, b.start = BeginResponse(dst, c)
	b.throttle = len(dst)
	if b.version >= createdThrottle {
		dst = appendInt32(dst, 0)
	}
	b.buf = appendCount(dst, b.version >= createdFlexible, topics)
}

// Append appends the next topics.
func (b *CreatedTopics) Append(topics []kmsg.CreateTopicsResponseTopic) {
	invariant.Check(len(topics) <= b.left, "a response has a topic too many")
	b.left -= len(topics)
	m := kmsg.CreateTopicsResponse{Version: b.version, Topics: topics}
	at := len(b.buf)
	b.buf = m.AppendTo(b.buf)
	head := len(appendCount(nil, b.version >= createdFlexible, len(topics))) // goes, and so do its tags
	if b.version >= createdThrottle {
		head += 4
	}
	b.buf = append(b.buf[:at], b.buf[at+head:]...)
	if b.version >= createdFlexible {
		b.buf = b.buf[:len(b.buf)-1]
	}
}

// Finish gives the answer, which tells the client to wait for so long.
func (b *CreatedTopics) Finish(throttleMS int32) []byte {
	invariant.Check(b.left == 0, "a response lacks topics")
	if b.version >= createdThrottle {
		binary.BigEndian.PutUint32(b.buf[b.throttle:], uint32(throttleMS))
	}
	return FinishResponse(appendEndTags(b.buf, b.version >= createdFlexible), b.start, 0)
}
