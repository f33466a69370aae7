package broker

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"sync"
)

// delayed is a message that is published at a later time: a row of its topic's shard, which lies there when its command is in the log.
// It never changes; prev and next are the others of its client in the shard.
type delayed struct {
	number     uint64
	due        int64  // Unix milliseconds
	body       []byte // as appendDelayed wrote it
	owner      sessionKey
	topic      []byte // a view of body
	out        bool   // it is being published; under the shard's lock
	prev, next *delayed
}

// delayedRows are those of one shard. Guarded by its lock.
type delayedRows struct {
	last   uint64 // number that was given last
	rows   map[uint64]*delayed
	owners map[sessionKey]*delayed // the first of each client
	timers timers
	feeder *Client // whose messages they are while they are published
	busy   bool    // a turn of the loop is on its way that goes on with what is due
}

// delayedStore counts the delayed messages of all shards, and those that are on their way into the log.
type delayedStore struct {
	mu       sync.Mutex // comes after a shard's
	messages int64
	bytes    int64
	owners   map[sessionKey]int64
	comingN  int64
	comingB  int64
}

// DelayedMessages counts the messages that wait for their time, and what they take. Any goroutine.
func (b *Broker) DelayedMessages() (messages, bytes int64) {
	d := &b.delayed
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.messages, d.bytes
}

// reserve keeps room for a message of owner, or says that there is none.
func (ds *delayedStore) reserve(owner sessionKey, size int64, lim *Limits) error {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.messages+ds.comingN >= lim.Delayed || ds.bytes+ds.comingB+size > lim.DelayedBytes || ds.owners[owner] >= lim.DelayedPerClient {
		return ErrQuota
	}
	ds.comingN++
	ds.comingB += size
	ds.ownedLocked(owner, 1)
	return nil
}

// release ends what reserve began: the message is among the rows by now, or it never will be.
func (ds *delayedStore) release(owner sessionKey, size int64) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.comingN--
	ds.comingB -= size
	ds.ownedLocked(owner, -1)
}

func (ds *delayedStore) count(row *delayed, n int64) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.messages += n
	ds.bytes += n * int64(len(row.body))
	ds.ownedLocked(row.owner, n)
}

func (ds *delayedStore) ownedLocked(owner sessionKey, n int64) {
	if ds.owners == nil {
		ds.owners = make(map[sessionKey]int64)
	}
	if ds.owners[owner] += n; ds.owners[owner] == 0 {
		delete(ds.owners, owner)
	}
}

// SetDelayable says whether Delay and CancelDelayed may write their commands, which older programs do not read: they answer ErrNotYet if not. They may until it is
// called. Any goroutine.
func (b *Broker) SetDelayable(all bool) { b.noDelay.Store(!all) }

// Delay takes a message of c that is published at a later time, due in Unix milliseconds, with m.Deadline as it is then. m is a view. It is
// answered as Publish answers, always Pending: when it is in the log. Its publishing outlives c and the node. ErrQuota says that a limit is reached, ErrNotYet that SetDelayable forbids it;
// on ErrBusy nothing was taken, see Publish. At QoS 2 dedupe is as there.
func (l *Local) Delay(c *Client, m *Message, due int64, dedupe bool, t Token) (Outcome, error) {
	if l.b.noDelay.Load() {
		return 0, ErrNotYet
	}
	owner := sessionKey{c.tenant, c.sess.id}
	body := appendDelayed(nil, owner, due, m)
	size := int64(len(body))
	if err := l.b.room(); err != nil {
		return 0, err
	}
	if err := l.b.delayed.reserve(owner, size, l.b.limits.Load()); err != nil {
		return 0, err
	}
	s := l.b.shardOf(c.tenant, m.Topic)
	build := func() []byte { // under the shard's lock
		s.mu.delayed.last++
		cmd := l.beginDelayed(c, cmdDelay, dedupe && c.sess.d != nil, uint16(t))
		cmd = binary.AppendUvarint(cmd, s.mu.delayed.last)
		return append(cmd, body...)
	}
	out, err := l.delayCommand(s, c, m, dedupe, t, size, build, func() { l.b.delayed.release(owner, size) })
	if err != nil {
		l.b.delayed.release(owner, size)
	}
	return out, err
}

// CancelDelayed forgets the delayed messages of c's client identifier to m's topic that were taken before it. Those that are being published
// at that moment are not called back. It is answered as Delay is.
func (l *Local) CancelDelayed(c *Client, m *Message, dedupe bool, t Token) (Outcome, error) {
	if l.b.noDelay.Load() {
		return 0, ErrNotYet
	}
	s := l.b.shardOf(c.tenant, m.Topic)
	build := func() []byte {
		cmd := l.beginDelayed(c, cmdDelayCancel, dedupe && c.sess.d != nil, uint16(t))
		cmd = binary.AppendUvarint(cmd, uint64(c.tenant))
		return appendBytes(appendString(cmd, c.sess.id), m.Topic)
	}
	return l.delayCommand(s, c, m, dedupe, t, int64(len(m.Topic)), build, func() {})
}

// beginDelayed begins a command with the identifier that is to be remembered, if any.
func (l *Local) beginDelayed(c *Client, kind uint64, dedupe bool, packetID uint16) []byte {
	cmd := binary.AppendUvarint(l.headers[:0], kind)
	cmd = binary.AppendUvarint(cmd, boolBit(dedupe))
	if dedupe {
		cmd = binary.AppendUvarint(cmd, c.sess.d.id)
		cmd = binary.AppendUvarint(cmd, uint64(packetID))
	}
	return cmd
}

// delayCommand puts a command of a client's message into the pending list of s. make gives it under the shard's lock; settled runs on the
// shard's home loop when it is applied or has failed.
func (l *Local) delayCommand(s *shard, c *Client, m *Message, dedupe bool, t Token, size int64, build func() []byte, settled func()) (Outcome, error) {
	l.begin()
	if err := l.b.writable(); err != nil {
		return 0, err
	}
	waits, mark := m.QoS > 0, m.Trace
	e := entry{
		done: func() {
			settled()
			if waits {
				s.home.complete(c, Result{Token: t, Matched: true, Trace: mark})
			}
		},
		failed: func(err error) {
			settled()
			if waits {
				s.home.complete(c, Result{Token: t, Err: err, Trace: mark})
			}
		}}
	s.mu.Lock()
	if !s.leadsLocked() {
		s.mu.Unlock()
		return 0, ErrNotLeader
	}
	if p := s.pendingLocked(); p.size > 0 && p.size-p.batchBytes+int(size) > pendingBytesMax {
		s.waitLocked(c)
		s.mu.Unlock()
		return 0, ErrBusy
	}
	cmd := build()
	if cap(cmd) <= bundleBytesKept {
		l.headers = cmd[:0]
	}
	first := s.commandLocked(cmd, e)
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	if waits {
		c.waiting++
		if dedupe && c.sess.d != nil {
			c.feed.received[uint16(t)] = s
		}
	}
	return Pending, nil
}

// appendDelayed is the row of a message.
func appendDelayed(dst []byte, owner sessionKey, due int64, m *Message) []byte {
	dst = binary.AppendUvarint(dst, uint64(due))
	dst = binary.AppendUvarint(dst, uint64(owner.tenant))
	dst = appendString(dst, owner.id)
	dst = binary.AppendUvarint(dst, uint64(m.QoS))
	dst = binary.AppendUvarint(dst, boolBit(m.Retain))
	dst = binary.AppendUvarint(dst, uint64(m.Deadline))
	dst = appendBytes(dst, m.Topic)
	dst = appendBytes(dst, m.Payload)
	return appendBytes(dst, m.Props)
}

// delayedMessage reads what appendDelayed wrote. All in m are views.
func delayedMessage(body []byte, m *Message) (due int64, owner sessionKey, ok bool) {
	d := decoder{b: body}
	due = int64(d.uvarint())
	owner = sessionKey{uint32(d.uvarint()), d.string()}
	*m = Message{QoS: QoS(min(d.uvarint(), 2)), Retain: d.uvarint() == 1, Deadline: int64(d.uvarint()), Topic: d.bytes(), Payload: d.bytes(), Props: d.bytes()}
	if len(m.Props) == 0 {
		m.Props = nil
	}
	return due, owner, d.ok() && len(d.b) == 0 && len(m.Topic) > 0 && due >= 0
}

// applyDelay takes a message in; recovery calls it as well.
func (s *shard) applyDelay(b *Broker, d *decoder) {
	s.applyDelayReceived(d)
	number := d.uvarint()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addDelayedLocked(b, number, d.b) {
		s.noteDelayedLocked(b, number)
	}
}

// applyDelayReceived remembers the identifier of a QoS 2 message.
func (s *shard) applyDelayReceived(d *decoder) {
	if d.uvarint() != 1 {
		return
	}
	session, packetID := d.uvarint(), uint16(d.uvarint())
	if !d.ok() {
		return
	}
	s.mu.Lock()
	s.addReceivedLocked(session, packetID)
	s.mu.Unlock()
}

// addDelayedLocked makes a row of a body, which is copied. False: it is none.
func (s *shard) addDelayedLocked(b *Broker, number uint64, body []byte) bool {
	ds := &s.mu.delayed
	row := &delayed{number: number, body: bytes.Clone(body)}
	var m Message
	due, owner, ok := delayedMessage(row.body, &m)
	if !ok || ds.rows[number] != nil {
		return false
	}
	row.due, row.owner, row.topic = due, owner, m.Topic
	if ds.rows == nil {
		ds.rows, ds.owners = make(map[uint64]*delayed), make(map[sessionKey]*delayed)
	}
	ds.last = max(ds.last, number)
	ds.rows[number] = row
	if row.next = ds.owners[owner]; row.next != nil {
		row.next.prev = row
	}
	ds.owners[owner] = row
	heap.Push(&ds.timers, timer{due, number})
	b.delayed.count(row, 1)
	return true
}

func (s *shard) noteDelayedLocked(b *Broker, number uint64) {
	if !b.opts.Volatile {
		mark(&s.mu.rows.delayed, number)
	}
}

// dropDelayedLocked forgets a row: it was published, or cancelled.
func (s *shard) dropDelayedLocked(b *Broker, number uint64) {
	ds := &s.mu.delayed
	row := ds.rows[number]
	if row == nil {
		return
	}
	delete(ds.rows, number)
	if row.next != nil {
		row.next.prev = row.prev
	}
	switch {
	case row.prev != nil:
		row.prev.next = row.next
	case row.next != nil:
		ds.owners[row.owner] = row.next
	default:
		delete(ds.owners, row.owner)
	}
	b.delayed.count(row, -1)
	s.noteDelayedLocked(b, number)
	if len(ds.timers) > 2*len(ds.rows)+64 { // of those that were cancelled, or that another node has published
		ds.timers = ds.timers[:0]
		for n, r := range ds.rows {
			if !r.out {
				ds.timers = append(ds.timers, timer{r.due, n})
			}
		}
		heap.Init(&ds.timers)
	}
}

func (s *shard) applyDelayGone(b *Broker, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropDelayedLocked(b, number)
}

func (s *shard) applyDelayCancel(b *Broker, d *decoder) {
	s.applyDelayReceived(d)
	owner, topic := sessionKey{uint32(d.uvarint()), d.string()}, d.bytes()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for row := s.mu.delayed.owners[owner]; row != nil; {
		next := row.next
		if bytes.Equal(row.topic, topic) { // though it may be on its way out: what a leader has begun others do not know
			s.dropDelayedLocked(b, row.number)
		}
		row = next
	}
}

// collectDelayedLocked encodes what changed of delayed messages since the last checkpoint.
func (s *shard) collectDelayedLocked(rows []rowChange) []rowChange {
	for number := range s.mu.rows.delayed {
		c := rowChange{key: key8(rowDelayed, number)}
		if row := s.mu.delayed.rows[number]; row != nil {
			c.value = row.body
		}
		rows = append(rows, c)
	}
	return rows
}

// delayedTurn is how many delayed messages a shard publishes before others have their turn on the loop.
const delayedTurn = 64

// publishDelayed publishes the delayed messages of s whose time has come, a turn at a time.
func (l *Local) publishDelayed(s *shard, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ds := &s.mu.delayed
	for n := 0; len(ds.timers) > 0 && ds.timers[0].at <= now; {
		if n++; n > delayedTurn {
			l.goOnDelayedLocked(s)
			return
		}
		t := heap.Pop(&ds.timers).(timer)
		row := ds.rows[t.id]
		if row == nil || row.out {
			continue
		}
		row.out = true
		s.mu.Unlock()
		again := l.publishRow(s, row, now)
		s.mu.Lock()
		if again != 0 {
			row.out = false
			heap.Push(&ds.timers, timer{again, row.number})
			if again <= now {
				return // the list is full: ControlResume follows
			}
		}
	}
}

// goOnDelayedLocked has the loop come back to what is due.
func (l *Local) goOnDelayedLocked(s *shard) {
	if s.mu.delayed.busy {
		return
	}
	s.mu.delayed.busy = true
	l.Run(func() {
		s.mu.Lock()
		s.mu.delayed.busy = false
		leads := s.leadsLocked()
		s.mu.Unlock()
		if leads {
			l.publishDelayed(s, l.b.nowMilli())
		}
	})
}

// publishRow publishes a message whose time has come, as if its client did it now. It is done with the row when that is in the log: with what
// is kept of the message in one write, else behind it. So a crash in between publishes again what nobody had to keep. again is when it is to
// be tried again, zero for never.
func (l *Local) publishRow(s *shard, row *delayed, now int64) (again int64) {
	m := &Message{}
	_, owner, _ := delayedMessage(row.body, m)
	m.Timestamp, m.delayed = now, row.number
	if m.Deadline != 0 && m.Deadline <= now { // the node was down for longer than it was to live
		l.dropDelayed(s, row, DelayedExpired, nil)
		return 0
	}
	c := s.mu.delayed.feeder
	if c == nil {
		c = l.NewClient(&delayFeeder{l: l, s: s})
		c.state = clientConnected
		s.mu.delayed.feeder = c
	}
	c.tenant = owner.tenant
	c.sess = &Session{id: owner.id, tenant: owner.tenant, shard: s}
	out, err := l.Publish(c, m, false, Token(row.number))
	switch {
	case errors.Is(err, ErrBusy):
		return now
	case passes(err):
		return now + retryAfter
	case errors.Is(err, ErrQuota), errors.Is(err, ErrMessageTooLarge):
		l.dropDelayed(s, row, DelayedLimit, err)
	case err != nil:
		l.dropDelayed(s, row, DelayedRefused, err)
	case out != Pending || m.QoS == 0:
		l.endDelayed(s, row, func() {})
	}
	return 0
}

// passes says whether what a publishing has failed for ends by itself: the disk has room again, another node leads.
func passes(err error) bool {
	for _, e := range []error{ErrUnavailable, ErrNotLeader, ErrClosed, ErrTier, ErrConcurrent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// dropDelayed gives up a message: tried again each second, it would be refused for ever.
func (l *Local) dropDelayed(s *shard, row *delayed, why DelayedReason, err error) {
	l.endDelayed(s, row, func() { // before that is in the log it may come again
		l.b.stats.DelayedDropped[why].Add(1)
		l.dropped.warn(l, "delayed message not published: "+why.String(), row.owner, err)
	})
}

// endDelayed has the log forget a row; done runs when it has.
func (l *Local) endDelayed(s *shard, row *delayed, done func()) {
	cmd := appendCommand(nil, cmdDelayGone, row.number)
	again := func(error) { s.rearmDelayed(row, l.b.nowMilli()+retryAfter) }
	if err := l.b.command(s, cmd, entry{done: done, failed: again}); err != nil {
		again(err)
	}
}

// rearmDelayed has a row published again: what was to become of it was not written. Another leader does it otherwise.
func (s *shard) rearmDelayed(row *delayed, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.delayed.rows[row.number] == row {
		row.out = false
		heap.Push(&s.mu.delayed.timers, timer{at, row.number})
	}
}

// delayFeeder is who publishes the delayed messages of a shard. It is told what became of them.
type delayFeeder struct {
	l *Local
	s *shard
}

// Deliver is never called: it has no subscriptions.
func (f *delayFeeder) Deliver(*Message, *Delivery) (uint16, bool) { return 0, true }

// Connected is never called.
func (f *delayFeeder) Connected(ConnectResult) {}

// Kicked is never called.
func (f *delayFeeder) Kicked(error) {}

// Completed ends a message that was kept for somebody, or failed.
func (f *delayFeeder) Completed(r Result) {
	f.s.mu.Lock()
	row := f.s.mu.delayed.rows[uint64(r.Token)]
	f.s.mu.Unlock()
	switch {
	case row == nil: // gone with the record
	case r.Err == nil:
		f.l.endDelayed(f.s, row, func() {})
	case !passes(r.Err):
		f.l.dropDelayed(f.s, row, DelayedRefused, r.Err)
	default:
		f.s.rearmDelayed(row, f.l.b.nowMilli()+retryAfter)
	}
}

// Control goes on when there is room again.
func (f *delayFeeder) Control(Control) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.l.goOnDelayedLocked(f.s)
}
