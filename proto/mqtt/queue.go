package mqtt

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/trace"
)

// messageQueue holds messages that wait for a place in the window of a session that nothing outlives: copies, end to end in one
// buffer. The zero value is empty and holds no memory.
type messageQueue struct {
	buf   []byte // of the loop's pool
	head  int
	count int
}

// queuedHead is the fixed part of a record: total u32, topic u16, props u32, ids u16, deadline i64, QoS u8, flags u8.
const queuedHead = 4 + 2 + 4 + 2 + 8 + 1 + 1

const (
	queuedRetain = 1 << iota
	queuedDup
	queuedTraced // a mark follows the payload: u64
)

func (q *messageQueue) empty() bool { return q.count == 0 }

// bytes is what the queue pins.
func (q *messageQueue) bytes() int { return len(q.buf) - q.head }

// queuedSize is how many bytes a message takes in a queue.
func queuedSize(m *broker.Message, d *broker.Delivery) int {
	n := queuedHead + len(m.Topic) + len(m.Props) + 4*len(d.SubscriptionIDs) + len(m.Payload)
	if m.Trace != 0 {
		n += 8
	}
	return n
}

// push copies a message to the end. The caller has looked at the bound.
func (q *messageQueue) push(p *alloc.Pool, m *broker.Message, d *broker.Delivery) {
	n := queuedSize(m, d)
	if q.head > len(q.buf)/2 {
		q.buf = append(q.buf[:0], q.buf[q.head:]...)
		q.head = 0
	}
	if q.buf == nil {
		q.buf = p.Get(n)
	}
	q.buf = p.Grow(q.buf, n)
	flags := byte(0)
	if d.Retain {
		flags |= queuedRetain
	}
	if d.Dup {
		flags |= queuedDup
	}
	if m.Trace != 0 {
		flags |= queuedTraced
	}
	b := binary.LittleEndian.AppendUint32(q.buf, uint32(n))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(m.Topic)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Props)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(d.SubscriptionIDs)))
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Deadline))
	b = append(b, d.QoS, flags)
	for _, id := range d.SubscriptionIDs {
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	b = append(b, m.Topic...)
	b = append(b, m.Props...)
	b = append(b, m.Payload...)
	if m.Trace != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(m.Trace))
	}
	q.buf = b
	q.count++
}

// peek fills m and d with views of the oldest message, which pop takes out. ids is scratch for the subscription identifiers.
func (q *messageQueue) peek(m *broker.Message, d *broker.Delivery, ids []uint32) (grown []uint32) {
	b := q.buf[q.head:]
	b = b[:binary.LittleEndian.Uint32(b)]
	topic, props := int(binary.LittleEndian.Uint16(b[4:])), int(binary.LittleEndian.Uint32(b[6:]))
	count := int(binary.LittleEndian.Uint16(b[10:]))
	*m = broker.Message{Deadline: int64(binary.LittleEndian.Uint64(b[12:])), QoS: b[20]}
	*d = broker.Delivery{QoS: b[20], Retain: b[21]&queuedRetain != 0, Dup: b[21]&queuedDup != 0}
	if b[21]&queuedTraced != 0 {
		m.Trace = trace.Mark(binary.LittleEndian.Uint64(b[len(b)-8:]))
		b = b[:len(b)-8]
	}
	b = b[queuedHead:]
	ids = ids[:0]
	for range count {
		ids = append(ids, binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	d.SubscriptionIDs = ids
	m.Topic, b = b[:topic:topic], b[topic:]
	m.Props, m.Payload = b[:props:props], b[props:]
	return ids
}

// pop takes the oldest message out.
func (q *messageQueue) pop(p *alloc.Pool) {
	q.head += int(binary.LittleEndian.Uint32(q.buf[q.head:]))
	if q.count--; q.count == 0 {
		q.free(p)
	}
}

// free gives the memory back.
func (q *messageQueue) free(p *alloc.Pool) {
	if q.buf != nil {
		p.Put(q.buf)
	}
	*q = messageQueue{}
}
