package broker

import (
	"encoding/binary"
	"errors"

	"github.com/sluicemq/sluice/journal/record"
)

// errUnbound says that a binding was taken away since it was looked up.
var errUnbound = errors.New("broker: the topic is bound no more")

// publishBound takes a message to a topic that a binding ties to a stream: it becomes a record there, and is acknowledged when that is in the
// log. Whoever subscribes by MQTT gets it from there (relay.go), in the order that the stream's readers see.
func (l *Local) publishBound(c *Client, m *Message, to *boundTopic, dedupe bool, t Token) (Outcome, error) {
	if err := l.b.streamable(); err != nil {
		return 0, err
	}
	if err := l.b.room(); err != nil {
		return 0, err
	}
	dedupe = dedupe && c != nil && c.sess.d != nil
	in, key := l.boundRecord(c, m, to.Binding)
	p := to.topic.partitionOf(key)
	n := record.InputSize(&in)
	if limit := to.topic.Spec().Config.MaxMessageBytes; limit > 0 && n+record.BatchHeaderSize > int(limit) {
		return 0, ErrQuota
	}
	s := p.shard
	s.mu.Lock()
	switch {
	case p.topic.Dropped(), p.topic.held.Load():
		s.mu.Unlock()
		return 0, ErrUnavailable
	case p.open.Load() == nil || p.until.Load() != stillBound: // A looks up the binding, B takes it away, A comes here
		s.mu.Unlock()
		return 0, errUnbound
	}
	if !l.b.batchFitsLocked(s, n) {
		if c != nil {
			s.waitLocked(c)
		}
		s.mu.Unlock()
		return 0, ErrBusy
	}
	acc := s.accumulateLocked(l.b, p, &in, n)
	if m.QoS > 0 && c != nil {
		acc.waiters = append(acc.waiters, waiter{c, t, m.Trace})
		s.mu.fill.sinceAtMost(l.times.began)
		c.waiting++
	}
	if dedupe {
		acc.taken = append(acc.taken, takenID{c.sess.d.id, uint16(t)})
		c.feed.received[uint16(t)] = s
	}
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	l.b.stats.Journaled.Add(1)
	return Pending, nil
}

// boundRecord makes m a record of a bound stream. Its slices are views of m and of the loop's scratch.
func (l *Local) boundRecord(c *Client, m *Message, bd *Binding) (in record.Input, key []byte) {
	client := ""
	if c != nil {
		client = c.sess.id
	}
	key = bd.key(m.Topic, client)
	in = record.Input{Key: key, Value: m.Payload, Timestamp: m.Timestamp}
	switch {
	case len(m.Payload) == 0 && m.Retain: // it clears what is retained: a tombstone, so that compaction does the same
		in.Value = nil
	case in.Value == nil:
		in.Value = []byte{}
	}
	l.headers, in.RawCount = appendMessageHeaders(l.headers[:0], m, 0)
	if len(key) != len(m.Topic) || &key[0] != &m.Topic[0] {
		l.headers = record.AppendHeaderString(l.headers, headerTopic, m.Topic)
		in.RawCount++
	}
	if c != nil && c.noLocal() {
		var who [publisherSize]byte
		if c.sess.d != nil {
			binary.BigEndian.PutUint64(who[:], c.sess.d.id)
		}
		binary.BigEndian.PutUint64(who[8:], l.b.run<<32|uint64(c.Slot))
		l.headers = record.AppendHeaderString(l.headers, headerPublisher, who[:])
		in.RawCount++
	}
	in.RawHeaders = l.headers
	return in, key
}

// publisherSize is the size of the publisher's header in a bound stream: the durable number of its session, and, for as long as the node runs,
// its slot.
const publisherSize = 16

// noLocal says whether some subscription of c's session wants none of its own messages.
func (c *Client) noLocal() bool {
	if c.sess.d != nil {
		return c.sess.d.noLocal.Load()
	}
	return c.flags&clientNoLocal != 0
}

// partitionOf picks the partition of a key as Kafka's clients do: by its murmur2 hash.
func (t *Topic) partitionOf(key []byte) *Partition {
	list := t.Partitions()
	return list[int(murmur2(key)&0x7fffffff)%len(list)]
}

// murmur2 is the 32-bit hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils), by Austin Appleby.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		k = (k ^ k>>r) * m
		h = h*m ^ k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}
