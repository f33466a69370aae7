package broker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
)

// setClient is an idempotent producer of a partition, as librdkafka is one: it has up to five batches under way over one connection, and when one of them fails it waits for
// the answers to all, and sends again what was not acknowledged, in order, under the same sequences.
type setClient struct {
	topic  string
	part   int32
	id     int64
	made   int32 // records
	acked  int
	queue  []*setBatch // not acknowledged, oldest first
	conn   *setConn    // nil: none
	drains bool        // one of them has failed
}

type setBatch struct {
	first, n int32
	state    int
	token    Token
}

// Where a batch is.
const (
	setQueued = iota
	setSent   // and the node has not read it
	setRead
)

// setConn is the connection to a node, and what the door knows of it.
type setConn struct {
	app     *Appender
	at      int
	results map[Token]AppendResult
	gap     int32 // the first batch that has failed, and was not sent again; -1: none
	epoch   func() (leader int, epoch record.Epoch)
	own     bool         // this node led when it was noted,
	since   record.Epoch // in this epoch
}

func (c *setConn) Appended(t Token, r AppendResult) {
	if r.Failed != nil {
		c.failed(r.Failed.First)
	}
	c.results[t] = r
}

func (c *setConn) Resume() {}

func (c *setConn) failed(first int32) {
	if c.gap < 0 || first < c.gap {
		leader, epoch := c.epoch()
		c.gap, c.own, c.since = first, leader == c.at, epoch
	}
}

// refuses says whether the door refuses a batch for one before it, in order or not: nobody else can have led since.
func (c *setConn) refuses(first int32) bool {
	_, epoch := c.epoch()
	return c.gap >= 0 && first > c.gap && (epoch == c.since || c.own && epoch == c.since+1)
}

// hear takes the answers, in the order of the batches.
func (w *setWorld) hear(st *setClient) {
	w.t.Helper()
	for i := 0; i < len(st.queue); {
		b := st.queue[i]
		if b.state == setQueued {
			i++
			continue
		}
		r, ok := st.conn.results[b.token]
		if b.state == setSent || !ok {
			return
		}
		delete(st.conn.results, b.token)
		switch {
		case r.Err == nil:
			if r.Base != record.Offset(b.first) {
				w.t.Errorf("record %d of %s/%d was acknowledged at offset %d", b.first, st.topic, st.part, r.Base)
			}
			st.acked += int(b.n)
			st.queue = slices.Delete(st.queue, i, i+1)
			continue
		case !errors.Is(r.Err, ErrNotLeader) && !errors.Is(r.Err, ErrUnavailable):
			w.t.Errorf("batch %d of %s/%d, of %d: %v", b.first, st.topic, st.part, b.n, r.Err)
		}
		b.state, st.drains = setQueued, true
		i++
	}
}

// disconnect ends the connection: what the node has read goes on, and the rest is lost.
func (st *setClient) disconnect(gone bool) {
	if !gone {
		st.conn.app.Close()
	}
	st.conn, st.drains = nil, false
	for _, b := range st.queue {
		b.state = setQueued
	}
}

// send has a client hear of its batches and send, more of them if there is room.
func (w *setWorld) send(st *setClient, more bool) {
	w.t.Helper()
	if w.gone[st.topic] {
		return
	}
	if st.conn != nil {
		w.hear(st)
	}
	under := slices.ContainsFunc(st.queue, func(b *setBatch) bool { return b.state != setQueued })
	set := st.set(w)
	if set < 0 {
		return
	}
	if !under {
		if st.drains = false; st.conn != nil && st.conn.at != w.leader[set] {
			st.disconnect(false)
		}
		if st.conn == nil {
			n := w.nodes[w.leader[set]]
			if n.b.Topic(0, st.topic) == nil {
				return
			}
			st.conn = &setConn{at: w.leader[set], results: make(map[Token]AppendResult), gap: -1, epoch: func() (int, record.Epoch) { return w.leader[set], w.epoch[set] }}
			st.conn.app = n.b.Local(0).NewAppender(st.conn)
		}
	}
	if st.drains || st.conn == nil {
		return
	}
	for more && len(st.queue) < producerWindow && w.r.IntN(4) > 0 {
		n := int32(1 + w.r.IntN(3))
		st.queue = append(st.queue, &setBatch{first: st.made, n: n})
		st.made += n
	}
	for _, b := range st.queue {
		if b.state == setQueued {
			w.tokens++
			b.state, b.token = setSent, w.tokens
		}
	}
}

// sendAway has the door that waits for a leader hear that it is another node.
func (w *setWorld) sendAway(st *setClient, set int) {
	if st.conn == nil || st.conn.at == w.leader[set] || st.set(w) != set {
		return
	}
	for _, b := range st.queue {
		if b.state == setSent {
			b.state = setRead
			st.conn.failed(b.first)
			st.conn.results[b.token] = AppendResult{Err: ErrNotLeader}
		}
	}
}

// set is that of the client's partition; -1: it is not there yet.
func (st *setClient) set(w *setWorld) int {
	topic := w.nodes[0].b.Topic(0, st.topic)
	if topic == nil {
		return -1
	}
	return int(w.nodes[0].b.shards[topic.Partition(st.part).Shard()].set)
}

// exchange has a client send, and the node read, or the connection break.
func (w *setWorld) exchange(st *setClient) {
	w.t.Helper()
	if w.send(st, true); w.r.IntN(3) > 0 {
		w.read(st, 1+w.r.IntN(producerWindow))
	}
	if st.conn != nil && w.r.IntN(50) == 0 {
		st.disconnect(false)
	}
}

// read has the node take batches that a client has sent, at most so many.
func (w *setWorld) read(st *setClient, most int) {
	w.t.Helper()
	if st.conn == nil {
		return
	}
	n := w.nodes[st.conn.at]
	topic := n.b.Topic(0, st.topic)
	if topic == nil {
		return
	}
	p := topic.Partition(st.part)
	for _, b := range st.queue {
		if b.state != setSent {
			continue
		}
		if most--; most < 0 || w.leader[n.b.shards[p.Shard()].set] == st.conn.at && !n.b.LeadsPartition(p) {
			return // the door waits for the leader
		}
		var values []string
		for k := range b.n {
			values = append(values, fmt.Sprintf("%s-%d-%d", st.topic, st.part, b.first+k))
		}
		c := st.conn
		behind := c.gap >= 0 && b.first > c.gap
		if b.state = setRead; c.refuses(b.first) {
			c.results[b.token] = AppendResult{Err: ErrNotLeader}
			continue
		}
		err := n.b.Local(0).Append(c.app, p, fromProducer(st.id, 0, b.first, values...), AppendOptions{Later: behind}, b.token)
		if errors.Is(err, ErrBusy) {
			b.state = setSent
			return
		}
		switch {
		case err == nil:
			if behind || b.first == c.gap {
				c.gap = -1
			}
			continue
		case errors.Is(err, ErrOutOfOrderSequence) && behind: // as the door says it: it is behind one that has failed
			err = ErrNotLeader
		default:
			c.failed(b.first)
		}
		c.results[b.token] = AppendResult{Err: err}
	}
}

// withClients makes a spread topic of n partitions, each with a client of its own.
func (w *setWorld) withClients(n int) {
	from := len(w.streams)
	w.create(n, spreadOn)
	for _, st := range w.streams[from:] {
		w.clients = append(w.clients, &setClient{topic: st.topic, part: st.part, id: st.id})
	}
	w.streams = w.streams[:from]
}

// verifyClients wants all that clients have sent to be there once, in order.
func (w *setWorld) verifyClients() (acked int) {
	w.t.Helper()
	for _, st := range w.clients {
		for i, n := range w.nodes {
			topic := n.b.Topic(0, st.topic)
			if w.gone[st.topic] || topic == nil {
				continue
			}
			values := n.valuesOf(topic.Partition(st.part))
			for k, v := range values {
				if want := fmt.Sprintf("%s-%d-%d", st.topic, st.part, k); v != want {
					w.t.Errorf("record %d of %s/%d at node %d is %q", k, st.topic, st.part, i, v)
				}
			}
			if len(values) != st.acked || len(st.queue) > 0 || int(st.made) != st.acked {
				w.t.Errorf("%s/%d has %d records at node %d of %d that were made, %d were acknowledged", st.topic, st.part, len(values), i, st.made, st.acked)
			}
		}
		acked += st.acked
	}
	return acked
}
