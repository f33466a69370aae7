package link

import (
	"sync/atomic"

	"github.com/sluicemq/sluice/alloc"
)

// Receiver takes what a channel receives. Both methods run on the goroutine that reads the connection, so they must not block: whoever
// has work to do hands it on.
type Receiver interface {
	// Receive takes one message, in the order in which the peer sent them. The message is the receiver's until it calls Release.
	Receive(c *Channel, m Message)
	// Closed is called once for each channel, behind its last Receive, whatever has ended it. The reason is nil when either end closed it
	// in order.
	Closed(c *Channel, reason error)
}

// RoomReceiver is a Receiver that wants to know when there is room again.
type RoomReceiver interface {
	Receiver
	// Room is called once after a TrySend that was answered with ErrBusy, when half of the queue is free. It runs on the goroutine that
	// writes the connection, so it must not block.
	Room(c *Channel)
}

// Message is what a channel has received.
type Message struct {
	block *alloc.Block
	c     *Channel
	skip  int32 // bytes of a layer above, in front
	cost  int32 // of the channel's window
}

// Bytes is the message. It dies with Release.
func (m Message) Bytes() []byte {
	if m.block == nil {
		return nil
	}
	return m.block.Bytes()[m.skip:]
}

// Release gives the memory back, and credit to the peer. It must be called once for each message, from any goroutine, also after the channel
// has ended.
func (m Message) Release() {
	if m.block == nil {
		return
	}
	m.c.c.charge(m.c.kind, -m.block.Cap())
	m.block.Release()
	m.c.consumed(int(m.cost))
}

// Channel is one ordered stream of messages to a node, and one from it. It is safe for concurrent use; messages of one goroutine stay in
// order.
type Channel struct {
	c    *conn
	id   uint32
	kind Kind
	mine bool // opened by this end
	recv Receiver

	ended atomic.Bool // this end sends and receives nothing any more

	// What the peer may still send, and what was released and not yet given back to it.
	left, free atomic.Int64

	assembly assembly // of the reading goroutine

	// Under conn.mu.
	queue   queue
	queued  int // bytes, as cost counts them
	credit  int // what this end may send
	grant   int // credit that waits to be written
	ready   bool
	stalled bool
	wants   bool // Room
	listed  bool // in conn.mu.wanting
	asked   bool // the peer has closed it
	counted bool // in conn.mu.answers
	slot    bool // in conn.mu.open
	reason  Reason
	text    string
}

// entry is a message that waits, or the end of its channel.
type entry struct {
	data []byte
	sent int
	ref  alloc.Ref // released when the message is written
	end  bool
}

// queue is a list of entries that reuses its memory.
type queue struct {
	list []entry
	head int
}

func (q *queue) empty() bool   { return q.head == len(q.list) }
func (q *queue) first() *entry { return &q.list[q.head] }
func (q *queue) push(e entry) {
	if q.head > 64 && q.head*2 > len(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, e)
}

func (q *queue) pop() {
	q.list[q.head] = entry{}
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
}

// Peer is the node at the other end.
func (ch *Channel) Peer() NodeID { return ch.c.peer.ID }

// Kind is what the channel is for.
func (ch *Channel) Kind() Kind { return ch.kind }

// Send queues a copy of p. It waits while the queue is full, and ends with ErrEnded when the channel does. It must not be called from a
// Receiver.
func (ch *Channel) Send(p []byte) error { return ch.send(nil, p, true) }

// TrySend is Send, but answers ErrBusy instead of waiting.
func (ch *Channel) TrySend(p []byte) error { return ch.send(nil, p, false) }

// SendRef is TrySend without a copy: p lies in ref's memory and must not change. One count of ref passes to the channel, unless there is
// an error.
func (ch *Channel) SendRef(ref alloc.Ref, p []byte) error { return ch.put(ref, p, false) }

// SendRefWait is SendRef, but waits for room as Send does.
func (ch *Channel) SendRefWait(ref alloc.Ref, p []byte) error { return ch.put(ref, p, true) }

// Queue is TrySend, but for what can wait: it is written with what is sent next to the node, on whatever channel.
func (ch *Channel) Queue(p []byte) error {
	if ch.ended.Load() {
		return ErrEnded
	}
	if len(p) > ch.c.m.limits[ch.kind].Message {
		return ErrTooLarge
	}
	b := alloc.NewBlock(len(p))
	copy(b.Bytes(), p)
	c, n := ch.c, cost(len(p))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ch.ended.Load():
		b.Release()
		return ErrEnded
	case !c.roomLocked(ch, n):
		b.Release()
		return ErrBusy
	}
	ch.queue.push(entry{data: b.Bytes(), ref: b})
	c.countLocked(ch, n)
	c.listReadyLocked(ch)
	return nil
}

// send queues head and p as one message.
func (ch *Channel) send(head, p []byte, wait bool) error {
	if ch.ended.Load() {
		return ErrEnded
	}
	if len(head)+len(p) > ch.c.m.limits[ch.kind].Message {
		return ErrTooLarge
	}
	b := alloc.NewBlock(len(head) + len(p))
	copy(b.Bytes()[copy(b.Bytes(), head):], p)
	err := ch.put(b, b.Bytes(), wait)
	if err != nil {
		b.Release()
	}
	return err
}

func (ch *Channel) put(ref alloc.Ref, p []byte, wait bool) error {
	c, n := ch.c, cost(len(p))
	if len(p) > c.m.limits[ch.kind].Message {
		return ErrTooLarge
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case ch.ended.Load():
			return ErrEnded
		case c.roomLocked(ch, n):
			ch.queue.push(entry{data: p, ref: ref})
			c.countLocked(ch, n)
			c.readyLocked(ch)
			return nil
		case !wait:
			c.stats().busy.Add(1)
			if ch.wants = true; !ch.fullLocked(n) {
				c.listLocked(ch)
			}
			return ErrBusy
		}
		c.mu.waiting++
		c.mu.room.Wait()
		c.mu.waiting--
	}
}

// Close ends the channel once what is queued has been written. Messages that are received after it are dropped; a Receive that has begun
// may still run.
func (ch *Channel) Close() { ch.end(ReasonNone, "", false) }

// Abort ends the channel at once, with a reason for the peer; what is queued is dropped.
func (ch *Channel) Abort(text string) { ch.end(ReasonClosing, text, true) }

func (ch *Channel) end(r Reason, text string, drop bool) {
	c := ch.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.ended.Load() && !drop {
		return
	}
	c.endLocked(ch, r, text, drop)
}

// endLocked queues the end of this end, once.
func (c *conn) endLocked(ch *Channel, r Reason, text string, drop bool) {
	if drop {
		c.dropLocked(ch, ch.ended.Load())
	}
	if ch.ended.Swap(true) {
		c.readyLocked(ch)
		return
	}
	ch.reason, ch.text = r, text
	ch.queue.push(entry{end: true})
	c.readyLocked(ch)
	c.mu.room.Broadcast()
}

// dropLocked forgets what is queued, but for the end. The writer may be at a part of it, so it is the writer that releases it.
func (c *conn) dropLocked(ch *Channel, keepEnd bool) {
	had := false
	for !ch.queue.empty() {
		e := ch.queue.first()
		had = had || e.end
		if e.ref != nil {
			c.mu.dropped = append(c.mu.dropped, e.ref)
		}
		ch.queue.pop()
	}
	c.countLocked(ch, -ch.queued)
	if had && keepEnd {
		ch.queue.push(entry{end: true})
	}
}

// consumed counts n bytes of the window as free, and tells the peer once it is worth a frame.
func (ch *Channel) consumed(n int) {
	c := ch.c
	quarter := int64(c.m.limits[ch.kind].Window / 4)
	if ch.free.Add(int64(n)) < quarter || ch.ended.Load() {
		return
	}
	free := ch.free.Swap(0)
	if free == 0 {
		return // another goroutine gives it back
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch.asked || c.mu.err != nil {
		return
	}
	ch.left.Add(free)
	if ch.grant == 0 {
		c.mu.grants = append(c.mu.grants, ch)
	}
	ch.grant += int(free)
	c.wakeLocked()
}
