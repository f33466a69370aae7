package broker

import (
	"container/heap"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker/topics"
)

// retainedStore is the compacted view of retained messages: the index of their topics, and the messages themselves in an
// arena without pointers.
type retainedStore struct {
	index    *topics.Retained
	mu       sync.RWMutex
	rows     alloc.Slab[retainedRow]
	arena    alloc.Arena
	expiries expiries
	spare    uint32       // a row for the next new topic; 0: none
	own      atomic.Int64 // rows that the node made itself: the limits are for what clients leave
	body     []byte       // scratch
}

// retainedRow is one retained message. Its body is topic, payload and properties; the topic only if the message expires.
type retainedRow struct {
	body     alloc.Handle
	deadline int64
	armed    int64 // the expiry that is set for the slot
	at       int64
	payload  uint32
	tenant   uint32
	topic    uint16
	qos      QoS
	own      bool
	noted    bool // its shard knows that the checkpoint lacks it
}

func newRetainedStore(levels int) *retainedStore {
	return &retainedStore{index: topics.NewRetained(topics.RetainedOptions{MaxLevels: levels})}
}

func (r *retainedStore) empty() bool { return r.index.Len() == 0 }

// admits says whether the limits let m be its topic's retained message. What a topic has already may be replaced.
func (r *retainedStore) admits(tenant uint32, m *Message, b *Broker) bool {
	lim := b.limits.Load()
	if len(m.Payload) == 0 {
		return true
	}
	size := int64(len(m.Topic) + len(m.Payload) + len(m.Props))
	full := b.stats.RetainedMessages.Load()-r.own.Load() >= lim.RetainedCount || b.stats.RetainedBytes.Load()+size > lim.RetainedBytes
	u := b.tenants.Use(tenant)
	if !full && u == nil {
		return true
	}
	if r.index.Get(tenant, m.Topic) != 0 {
		return true
	}
	return !full && !u.over(TenantRetained, u.retained.Load()+1)
}

// younger says whether a topic's retained message is younger than m. What comes by a binding that was taken away may be older than what has
// been published since.
func (r *retainedStore) younger(tenant uint32, m *Message) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	slot := r.index.Get(tenant, m.Topic)
	return slot != 0 && r.rows.At(slot).at > m.Timestamp
}

// put makes m the retained message of its topic; one without payload clears it.
func (r *retainedStore) put(tenant uint32, m *Message, b *Broker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.Payload) > 0 {
		r.putLocked(tenant, m, b)
	} else if slot := r.index.Get(tenant, m.Topic); slot != 0 {
		r.dropLocked(slot, tenant, m.Topic, b)
	}
}

// keep is put for what the checkpoint has to know. It says whether the topic is to be noted for that: once until encode has it, however
// often it changes.
func (r *retainedStore) keep(tenant uint32, m *Message, b *Broker) (note bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.Payload) > 0 {
		row := r.putLocked(tenant, m, b)
		if row == nil {
			return true
		}
		note, row.noted = !row.noted, true
		return note
	}
	slot := r.index.Get(tenant, m.Topic)
	if slot == 0 {
		return true
	}
	note = !r.rows.At(slot).noted
	r.dropLocked(slot, tenant, m.Topic, b)
	return note
}

// putOwn is put for a message of the node's own.
func (r *retainedStore) putOwn(m *Message, b *Broker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if row := r.putLocked(0, m, b); row != nil && !row.own {
		row.own = true
		r.own.Add(1)
	}
}

// putLocked gives the row that m has now; nil for a topic beyond the levels that are allowed.
func (r *retainedStore) putLocked(tenant uint32, m *Message, b *Broker) *retainedRow {
	if r.spare == 0 {
		r.spare = r.rows.Alloc()
	}
	slot, err := r.index.PutNew(tenant, m.Topic, r.spare)
	if err != nil {
		return nil
	}
	row := r.rows.At(slot)
	if slot == r.spare {
		r.spare = 0
		b.countRetained(tenant, 1)
		*row = retainedRow{}
	}
	r.freeLocked(row, len(m.Topic), b)
	row.topic = 0
	r.body = r.body[:0]
	if m.Deadline != 0 {
		r.body = append(r.body, m.Topic...)
		row.topic = uint16(len(m.Topic))
	}
	r.body = append(append(r.body, m.Payload...), m.Props...)
	row.body, row.payload, row.qos, row.at, row.deadline = r.arena.Alloc(r.body), uint32(len(m.Payload)), m.QoS, m.Timestamp, m.Deadline
	row.tenant = tenant
	b.stats.RetainedBytes.Add(int64(len(r.body) + len(m.Topic)))
	if cap(r.body) > bundleBytesKept {
		r.body = nil
	}
	r.armLocked(slot, row)
	return row
}

// freeLocked lets go of a row's body.
func (r *retainedStore) freeLocked(row *retainedRow, topic int, b *Broker) {
	if row.body == 0 {
		return
	}
	b.stats.RetainedBytes.Add(-int64(len(r.arena.Get(row.body)) + topic))
	r.arena.Free(row.body)
	row.body = 0
}

func (r *retainedStore) dropLocked(slot, tenant uint32, topic []byte, b *Broker) {
	row := r.rows.At(slot)
	r.freeLocked(row, len(topic), b)
	b.countRetained(tenant, -1)
	if row.own {
		r.own.Add(-1)
	}
	r.index.Delete(tenant, topic)
	*row = retainedRow{}
	r.rows.Free(slot)
}

// expiry is when a slot is to be looked at.
type expiry struct {
	at   int64
	slot uint32
}

type expiries []expiry

// Len, Less, Swap, Push and Pop are heap.Interface.
func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].at < e[j].at }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }

// Push adds an expiry.
func (e *expiries) Push(x any) { *e = append(*e, x.(expiry)) }

// Pop removes the last.
func (e *expiries) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// armLocked sets an expiry, unless one is set that comes first: it sets the next.
func (r *retainedStore) armLocked(slot uint32, row *retainedRow) {
	if row.deadline != 0 && (row.armed == 0 || row.deadline < row.armed) {
		row.armed = row.deadline
		heap.Push(&r.expiries, expiry{row.deadline, slot})
	}
}

// expireTurn is how many retained messages one tick removes.
const expireTurn = 1000

// expireRetained removes what has expired. No command: everybody sees the deadline, and a restart removes it again.
func (l *Local) expireRetained(now int64) {
	r := l.b.retained
	type name struct {
		tenant uint32
		topic  []byte
	}
	var gone []name
	r.mu.Lock()
	for n := 0; n < expireTurn && len(r.expiries) > 0 && r.expiries[0].at <= now; n++ {
		e := heap.Pop(&r.expiries).(expiry)
		row := r.rows.At(e.slot)
		if row.armed != e.at {
			continue // the slot is another's by now
		}
		row.armed = 0
		if row.deadline == 0 || row.deadline > now {
			r.armLocked(e.slot, row)
			continue
		}
		n := name{row.tenant, append([]byte(nil), r.arena.Get(row.body)[:row.topic]...)}
		r.dropLocked(e.slot, n.tenant, n.topic, l.b)
		gone = append(gone, n)
	}
	r.mu.Unlock()
	for _, n := range gone {
		s := l.b.shardOf(n.tenant, n.topic)
		s.mu.Lock()
		s.mu.rows.topics.add(n.tenant, n.topic)
		s.mu.Unlock()
	}
}

// view makes m a view of a row; it holds while the caller holds the read lock.
func (r *retainedStore) viewLocked(slot uint32, topic []byte, m *Message) {
	row := r.rows.At(slot)
	body := r.arena.Get(row.body)[row.topic:]
	*m = Message{Topic: topic, Payload: body[:row.payload], Deadline: row.deadline, Timestamp: row.at, QoS: row.qos, Retain: true}
	if props := body[row.payload:]; len(props) > 0 {
		m.Props = props
	}
}

// retainedTurn is how many retained messages one connection gets in a turn.
const retainedTurn = 128

// retainedBytes is from how many bytes on a turn takes no more, and for a durable session, to which each message is journaled, the same.
const (
	retainedBytes     = 256 << 10
	retainedBytesKept = 64 << 10
)

// sendRetained sends the next of what c is owed, and says whether more is left and can come now.
func (l *Local) sendRetained(c *Client) (more bool) {
	job := &c.more.retry[0]
	if job.number != 0 {
		return l.promiseRetained(c, job)
	}
	bu, _ := l.matchRetained(c, job, retainedTurn)
	done := job.cursor.Done()
	l.sendUnkept(c, job, bu)
	putBundle(bu)
	if done && c.state == clientConnected {
		c.nextJob()
	}
	return len(c.jobs()) > 0
}

func (c *Client) nextJob() {
	more := c.more
	if more.retry = more.retry[1:]; len(more.retry) == 0 {
		more.retry = nil
	}
}

// matchRetained collects the next messages of a job. Of those that have to be kept for the session there are at most room; size is what
// they take.
func (l *Local) matchRetained(c *Client, job *retainedJob, room int) (bu *bundle, size int) {
	now := l.b.nowMilli()
	r := l.b.retained
	bu = getBundle()
	limit := retainedBytes
	if job.number != 0 {
		limit = retainedBytesKept
	}
	var m Message
	r.mu.RLock()
	r.index.Match(c.tenant, job.filter, &job.cursor, retainedTurn*8, func(slot uint32, topic []byte) bool {
		r.viewLocked(slot, topic, &m)
		if m.Deadline == 0 || m.Deadline > now {
			bu.add(&m)
			if job.keeps(&m) {
				size += len(m.Topic) + len(m.Payload) + len(m.Props) + 64
				room--
			}
		}
		return room > 0 && len(bu.msgs) < retainedTurn && len(bu.buf) < limit
	})
	r.mu.RUnlock()
	return bu, size
}

// sendUnkept sends those messages of a job that nobody keeps for the session.
func (l *Local) sendUnkept(c *Client, job *retainedJob, bu *bundle) {
	v, ids := &l.message, job.ids()
	for i := range bu.msgs {
		bu.view(i, v)
		if job.keeps(v) {
			continue
		}
		v.Cache = &l.cache
		l.cache.Kind = 0
		d := &l.delivery
		*d = Delivery{SubscriptionIDs: ids, QoS: min(v.QoS, QoS(job.opts&optQoS)), Retain: true}
		c.sub.Deliver(v, d)
		if c.state != clientConnected {
			break
		}
	}
}

// encode is the checkpoint row of a retained message; empty if there is none. What changes from now on is to be noted again.
func (r *retainedStore) encode(dst []byte, tenant uint32, topic []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := r.index.Get(tenant, topic)
	if slot == 0 {
		return dst
	}
	row := r.rows.At(slot)
	row.noted = false
	dst = binary.AppendUvarint(dst, uint64(row.deadline))
	dst = binary.AppendUvarint(dst, uint64(row.at))
	dst = binary.AppendUvarint(dst, uint64(row.qos))
	dst = binary.AppendUvarint(dst, uint64(row.payload))
	return append(dst, r.arena.Get(row.body)[row.topic:]...)
}

func (r *retainedStore) load(b *Broker, tenant uint32, topic, row []byte) bool {
	d := decoder{b: row}
	m := Message{Topic: topic, Deadline: int64(d.uvarint()), Timestamp: int64(d.uvarint()), QoS: QoS(d.uvarint())}
	n := d.uvarint()
	if d.bad || n > uint64(len(d.b)) {
		return false
	}
	m.Payload, m.Props = d.b[:n], d.b[n:]
	r.put(tenant, &m, b)
	return true
}

// PublishRetained routes m and makes it its topic's retained message for as long as the node runs: for numbers that each node
// makes anew, such as $SYS. Nothing is journaled.
func (l *Local) PublishRetained(m *Message) {
	l.b.retained.putOwn(m, l.b)
	if mt := l.route(0, m.Topic); mt.any {
		l.deliverAll(mt, m, Ref{})
	}
}
