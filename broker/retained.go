package broker

import (
	"encoding/binary"
	"sync"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker/topics"
)

// retainedStore is the compacted view of retained messages: the index of their topics, and the messages themselves in an
// arena without pointers.
type retainedStore struct {
	index *topics.Retained
	mu    sync.RWMutex
	rows  alloc.Slab[retainedRow]
	arena alloc.Arena
}

type retainedRow struct {
	body     alloc.Handle
	deadline int64
	at       int64
	payload  uint32
	qos      QoS
}

func newRetainedStore(levels int) *retainedStore {
	return &retainedStore{index: topics.NewRetained(topics.RetainedOptions{MaxLevels: levels})}
}

func (r *retainedStore) empty() bool { return r.index.Len() == 0 }

// put makes m the retained message of its topic; one without payload clears it. It reports what was refused for want of room
// by leaving the old one in place.
func (r *retainedStore) put(tenant uint32, m *Message, b *Broker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.Payload) == 0 {
		r.dropLocked(r.index.Delete(tenant, m.Topic), b)
		return
	}
	body := make([]byte, 0, len(m.Payload)+len(m.Props))
	body = append(append(body, m.Payload...), m.Props...)
	slot := r.rows.Alloc()
	*r.rows.At(slot) = retainedRow{body: r.arena.Alloc(body), deadline: m.Deadline, at: m.Timestamp,
		payload: uint32(len(m.Payload)), qos: m.QoS}
	b.stats.RetainedMessages.Add(1)
	b.stats.RetainedBytes.Add(int64(len(body) + len(m.Topic)))
	old, err := r.index.Put(tenant, m.Topic, slot)
	if err != nil {
		old = slot
	}
	r.dropLocked(old, b)
}

func (r *retainedStore) dropLocked(slot uint32, b *Broker) {
	if slot == 0 {
		return
	}
	row := r.rows.At(slot)
	b.stats.RetainedMessages.Add(-1)
	b.stats.RetainedBytes.Add(-int64(len(r.arena.Get(row.body))))
	r.arena.Free(row.body)
	r.rows.Free(slot)
}

// view makes m a view of a row; it holds while the caller holds the read lock.
func (r *retainedStore) viewLocked(slot uint32, topic []byte, m *Message) {
	row := r.rows.At(slot)
	body := r.arena.Get(row.body)
	*m = Message{Topic: topic, Payload: body[:row.payload], Deadline: row.deadline, Timestamp: row.at, QoS: row.qos, Retain: true}
	if props := body[row.payload:]; len(props) > 0 {
		m.Props = props
	}
}

// retainedTurn is how many retained messages one connection gets in a turn.
const retainedTurn = 128

// sendRetained sends the next of what c is owed, and says whether more is left.
func (l *Local) sendRetained(c *Client) (more bool) {
	now := l.b.nowMilli()
	job := &c.retry[0]
	r := l.b.retained
	bu := getBundle()
	r.mu.RLock()
	var m Message
	r.index.Match(c.tenant, job.filter, &job.cursor, retainedTurn*8, func(slot uint32, topic []byte) bool {
		r.viewLocked(slot, topic, &m)
		if m.Deadline == 0 || m.Deadline > now {
			bu.add(&m)
		}
		return len(bu.msgs) < retainedTurn && len(bu.buf) < 256<<10
	})
	r.mu.RUnlock()
	ids := []uint32(nil)
	if job.id != 0 {
		ids = []uint32{job.id}
	}
	opts := job.opts
	if job.cursor.Done() {
		c.retry = c.retry[1:]
		if len(c.retry) == 0 {
			c.retry = nil
		}
	}
	v := &l.message
	for i := range bu.msgs {
		bu.view(i, v)
		v.Cache = &l.cache
		l.cache.Kind = 0
		d := &l.delivery
		*d = Delivery{SubscriptionIDs: ids, QoS: min(v.QoS, QoS(opts&optQoS)), Retain: true}
		c.sub.Deliver(v, d)
		if c.state != clientConnected {
			break
		}
	}
	putBundle(bu)
	return len(c.retry) > 0
}

// encodeRetained is the checkpoint row of a retained message; empty if there is none.
func (r *retainedStore) encode(dst []byte, tenant uint32, topic []byte) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	slot := r.index.Get(tenant, topic)
	if slot == 0 {
		return dst
	}
	row := r.rows.At(slot)
	dst = binary.AppendUvarint(dst, uint64(row.deadline))
	dst = binary.AppendUvarint(dst, uint64(row.at))
	dst = binary.AppendUvarint(dst, uint64(row.qos))
	dst = binary.AppendUvarint(dst, uint64(row.payload))
	return append(dst, r.arena.Get(row.body)...)
}

func (r *retainedStore) load(b *Broker, topic, row []byte) bool {
	d := decoder{b: row}
	m := Message{Topic: topic, Deadline: int64(d.uvarint()), Timestamp: int64(d.uvarint()), QoS: QoS(d.uvarint())}
	n := d.uvarint()
	if d.bad || n > uint64(len(d.b)) {
		return false
	}
	m.Payload, m.Props = d.b[:n], d.b[n:]
	r.put(0, &m, b)
	return true
}

// PublishRetained routes m and makes it its topic's retained message for as long as the node runs: for numbers that each node
// makes anew, such as $SYS. Nothing is journaled.
func (l *Local) PublishRetained(m *Message) {
	l.b.retained.put(0, m, l.b)
	if mt := l.route(0, m.Topic); mt.any {
		l.deliverAll(mt, m, Ref{})
	}
}
