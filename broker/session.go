package broker

import (
	"encoding/binary"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/events"
)

type clientState uint8

const (
	clientNew clientState = iota
	clientConnecting
	clientConnected
	clientClosing // Disconnect was called; commits are outstanding
	clientClosed
)

// Client is the core's handle of one connection. It belongs to the Local it was made for. A million of them may be idle: what not every one
// needs hangs on more.
type Client struct {
	local  *Local
	sub    Subscriber
	sess   *Session
	req    *ConnectRequest // until connected; the Local's scratch as long as Connect runs
	feed   *feed           // of a durable session
	more   *clientMore     // nil until needed
	shared atomic.Int32    // messages of shared groups out
	full   atomic.Bool     // answered false to a shared group
	// Slot is the subscriber slot of the client's session, for Message.Publisher. Valid once connected.
	Slot    uint32
	tenant  uint32
	waiting int32 // requests whose commit is outstanding
	window  uint16
	state   clientState
	flags   clientFlags
}

type clientFlags uint8

const (
	clientStarved clientFlags = 1 << iota // on a shard's list of those that a full pending list turned away
	clientQueued                          // on its Local's list of clients to go on with
	clientPresent                         // its session was resumed
	clientNoLocal                         // of a live session: some subscription wants none of its own messages
)

// clientMore is what only some connections have.
type clientMore struct {
	bye       DisconnectRequest // what Disconnect said, as long as commits are outstanding
	retry     []retainedJob
	replays   []*replay
	sharedOut []sharedOut
	unsent    *unsentList // promises on their way into the log, or that wait for room
}

func (c *Client) extras() *clientMore {
	if c.more == nil {
		c.more = &clientMore{}
	}
	return c.more
}

// jobs are the retained messages that c is owed.
func (c *Client) jobs() []retainedJob {
	if c.more == nil {
		return nil
	}
	return c.more.retry
}

// sharedList is what c has of shared groups that keep nothing.
func (c *Client) sharedList() []sharedOut {
	if c.more == nil {
		return nil
	}
	return c.more.sharedOut
}

// unsent is what c was promised and not sent yet, or nil.
func (c *Client) unsent() *unsentList {
	if c.more == nil {
		return nil
	}
	return c.more.unsent
}

// ClientID is the name of the client's session, empty until it is connected. It is for c's loop.
func (c *Client) ClientID() string {
	if c.sess == nil {
		return ""
	}
	return c.sess.id
}

// Session is what a client id stands for: a live one ends with its connection, a durable one is a row of its shard.
type Session struct {
	id     string
	shard  *shard
	client *Client // who holds it; this and next under the shard's lock
	next   *Client // who comes next: it waits for client, or with none its turn is on the way to it
	will   *Will
	subs   *[]topics.FilterID // of a live session that has any; its loop's
	d      *durable
	tenant uint32
	slot   uint32
}

func (s *Session) key() sessionKey { return sessionKey{s.tenant, s.id} }

// subscribed are the filters of a live session.
func (s *Session) subscribed() []topics.FilterID {
	if s.subs == nil {
		return nil
	}
	return *s.subs
}

// durable is the kept part of a session. What is not atomic is guarded by the shard's lock and changes only in apply.
type durable struct {
	id        uint64
	expiry    time.Duration
	deadline  int64 // Unix milliseconds at which the session ends; 0: connected, or never
	willAt    int64 // Unix milliseconds at which the will is due; 0: not armed
	armed     int64 // the timer that is set
	connected bool
	willing   bool                                  // it is in the shard's list of this name
	ending    bool                                  // its removal is on its way into the log: it is not resumed
	noLocal   atomic.Bool                           // some subscription wants none of the session's own messages
	subs      atomic.Pointer[[]durableSubscription] // copied on write
	position  []shardSeq
	inflight  []outEntry
	owed      []owedRetained
	drops     atomic.Pointer[[DropReasons]atomic.Int64] // nil until something was dropped; since the node has started
}

// dropped counts messages that the session's queues held, and that it will not get.
func (d *durable) dropped(why DropReason, n int64) {
	p := d.drops.Load()
	if p == nil {
		d.drops.CompareAndSwap(nil, new([DropReasons]atomic.Int64))
		p = d.drops.Load()
	}
	p[why].Add(n)
}

// durableSubscription is one subscription of a durable session. number is its filter's durable number: 0 at QoS 0 (see lowered), which
// no queue keeps.
type durableSubscription struct {
	filter, group string
	number        uint64
	opts, id      uint32
	starts        []shardSeq // where the filter's queues stood when it was added
}

// shardSeq is a place in one shard's order of records.
type shardSeq struct {
	shard uint16
	seq   uint64
}

func seqOf(list []shardSeq, shard uint16) uint64 {
	for i := range list {
		if list[i].shard == shard {
			return list[i].seq
		}
	}
	return 0
}

func setSeq(list []shardSeq, shard uint16, seq uint64) []shardSeq {
	for i := range list {
		if list[i].shard == shard {
			list[i].seq = seq
			return list
		}
	}
	return append(list, shardSeq{shard, seq})
}

func (d *durable) subscriptions() []durableSubscription {
	if p := d.subs.Load(); p != nil {
		return *p
	}
	return nil
}

// NewClient makes the handle of a connection on this loop. It costs nothing that needs releasing until Connect.
func (l *Local) NewClient(sub Subscriber) *Client { return &Client{local: l, sub: sub} }

// Connect opens or resumes c's session. It always ends in one Subscriber.Connected, possibly before it returns. A session
// that another connection holds is taken over: that one is Kicked with ErrTakenOver and Connected comes when it has let go.
// Until Connected no other call but Disconnect is allowed on c.
func (l *Local) Connect(c *Client, req *ConnectRequest) {
	r := &l.request
	*r = *req
	if limit := l.b.limits.Load().SessionExpiry; limit > 0 && r.Expiry > limit {
		r.Expiry = limit
	}
	if l.b.opts.Volatile {
		r.Expiry = 0
	}
	c.req, c.tenant, c.state = r, r.Tenant, clientConnecting
	l.enter(c)
	if c.req == r { // it waits, for the log or for another connection
		kept := *r
		c.req = &kept
	}
	*r = ConnectRequest{}
}

// resumable says whether a connection can go on with the session. The caller holds the shard's lock.
func (s *Session) resumable(now int64) bool {
	if s == nil || s.d == nil || s.d.ending {
		return false
	}
	return s.d.connected || s.d.deadline == 0 || s.d.deadline > now
}

// journalConnect makes the end of the old session, if there is one, and the opening of the new one commands, and goes on when they
// are applied.
func (l *Local) journalConnect(c *Client, old *Session) {
	s, sess := c.sess.shard, c.sess
	e := entry{
		done:   func() { c.local.post(post{kind: postConnected, c: c}) },
		failed: func(err error) { c.local.post(post{kind: postConnected, c: c, err: err}) },
	}
	var err error
	if old != nil {
		first := entry{done: func() { l.b.sessionGone(old, events.SessionDiscarded, "its client wanted a new one") }, failed: func(error) { s.unend(old) }}
		if sess.d == nil {
			first.done = func() {
				l.b.sessionGone(old, events.SessionDiscarded, "its client wanted a new one")
				e.done()
			}
			first.failed = func(err error) {
				s.unend(old)
				e.failed(err)
			}
		}
		l.endedWill(old)
		if err = l.b.command(s, appendCommand(nil, cmdRemove, old.d.id), first); err != nil {
			s.unend(old)
		}
	}
	if sess.d != nil && err == nil {
		err = l.b.command(s, encodeSession(nil, sess, c.req.Expiry, c.req.Will), e)
	}
	if err != nil {
		l.connected(c, err)
	}
}

// unend takes back a removal that the log did not take. Another session may have the name by now: then the old one expires at once.
func (s *shard) unend(sess *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := sess.d
	if s.mu.byID[d.id] != sess {
		return
	}
	d.ending = false
	switch s.mu.sessions.get(sess.key()) {
	case nil:
		s.mu.sessions.set(sess)
	case sess:
	default:
		d.connected, d.deadline = false, 1
	}
	s.armLocked(d)
}

func encodeSession(dst []byte, sess *Session, expiry time.Duration, w *Will) []byte {
	dst = appendCommand(dst, cmdSession, sess.d.id)
	dst = binary.AppendUvarint(dst, uint64(sess.tenant))
	dst = appendString(dst, sess.id)
	dst = binary.AppendUvarint(dst, uint64(expiry))
	return appendWill(dst, w)
}

// applySession opens a durable session: a new one, or one that was there.
func (s *shard) applySession(b *Broker, d *decoder) {
	id, key := d.uvarint(), sessionKey{tenant: uint32(d.uvarint()), id: d.string()}
	expiry, will := time.Duration(d.uvarint()), d.will()
	if !d.ok() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.mu.byID[id]
	if sess == nil {
		sess = s.mu.sessions.get(key)
		if sess == nil || sess.d == nil || sess.d.id != id {
			sess = &Session{tenant: key.tenant, id: key.id, shard: s, d: &durable{id: id}}
			b.slots.alloc(sess)
			s.mu.sessions.set(sess)
		}
		if s.mu.byID == nil {
			s.mu.byID = make(map[uint64]*Session)
		}
		s.mu.byID[id] = sess
		b.countSession(sess, 1)
		b.raiseSID(id)
	}
	sess.will = will
	sess.d.expiry, sess.d.deadline, sess.d.willAt, sess.d.connected, sess.d.ending = expiry, 0, 0, true, false
	s.mu.rows.session(id)
}

func (b *Broker) raiseSID(id uint64) {
	for {
		have := b.lastSID.Load()
		if id <= have || b.lastSID.CompareAndSwap(have, id) {
			return
		}
	}
}

// connected ends Connect, on c's loop.
func (l *Local) connected(c *Client, err error) {
	if c.state == clientClosing { // Disconnect came before
		if err == nil {
			c.more.bye.PublishWill = false // nobody was told that it is kept
			l.detach(c)
			return
		}
		l.letGo(c)
		c.state = clientClosed
	}
	if c.state != clientConnecting {
		return
	}
	if err != nil {
		l.letGo(c)
		c.state = clientClosed
		c.sub.Connected(ConnectResult{Err: err})
		return
	}
	sess := c.sess
	c.state, c.Slot, c.window = clientConnected, sess.slot, windowOf(c.req.ReceiveMax)
	res := ConnectResult{Present: c.flags&clientPresent != 0, Expiry: c.req.Expiry}
	if sess.d != nil {
		c.feed = newFeed(l.b, c)
		if jobs := c.feed.owedJobs(); len(jobs) > 0 {
			c.extras().retry = jobs
		}
		for id := range c.feed.received {
			res.Received = append(res.Received, id)
		}
		c.full.Store(c.feed.due > 0) // what is to be sent again comes before what a shared group has
	}
	l.b.slots.set(sess.slot, c)
	if c.feed != nil && len(sess.d.subscriptions()) > 0 {
		l.b.attached.Add(1) // cached routes lack this connection
	}
	c.req = nil
	l.b.stats.Connected.Add(1)
	c.sub.Connected(res)
	if c.feed != nil && c.state == clientConnected {
		l.startFeed(c)
		if c.feed != nil && c.feed.due == 0 {
			l.readyShared(c)
		}
	}
}

// Disconnect ends c. It must be called exactly once for each Client on which Connect was called, when its connection is
// gone or is to be dropped. Nothing is called on its Subscriber afterwards.
func (l *Local) Disconnect(c *Client, req DisconnectRequest) {
	switch c.state {
	case clientConnecting:
		if c.sess == nil { // waits for a take-over
			l.letGo(c)
			c.state = clientClosed
			return
		}
		c.state, c.extras().bye = clientClosing, req // connected comes yet, and lets go
	case clientConnected:
		l.b.stats.Connected.Add(-1)
		c.state, c.extras().bye = clientClosing, req
		c.endReplays()
		l.b.slots.set(c.sess.slot, nil)
		if c.waiting == 0 {
			l.detach(c)
		}
	default: // nothing to do
	}
}

// detach is the end of a connection, when nothing of it is outstanding any more.
func (l *Local) detach(c *Client) {
	if l.settlePromises(c) {
		return // comes again
	}
	c.state, c.more.retry = clientClosed, nil
	sess, bye := c.sess, c.more.bye
	s := sess.shard
	s.mu.Lock()
	will, expiry := sess.will, time.Duration(0)
	if sess.d != nil {
		expiry = sess.d.expiry
	}
	s.mu.Unlock()
	if sess.d != nil && bye.HasExpiry {
		expiry = min(bye.Expiry, l.maxExpiry())
	}
	if !bye.PublishWill {
		will = nil
	}
	l.returnShared(c, expiry > 0)
	if expiry == 0 {
		l.endSession(c, will)
		return
	}
	willAt := int64(0)
	now := l.b.nowMilli()
	switch {
	case will == nil:
	case will.Delay > 0:
		willAt = now + max(int64(min(will.Delay, expiry)/time.Millisecond), 1)
	case !l.mayWill(), !l.publishWill(sess.key(), will):
		willAt = now + 1 // it waits for its turn, or for room: see due
	}
	cmd := appendCommand(nil, cmdDisconnect, sess.d.id)
	cmd = binary.AppendUvarint(cmd, uint64(expiry))
	cmd = binary.AppendUvarint(cmd, uint64(deadlineOf(now, expiry)))
	cmd = binary.AppendUvarint(cmd, uint64(willAt))
	cmd = l.appendProgress(cmd, c)
	e := entry{
		done: func() { l.Run(func() { l.vacate(sess, c) }) },
		failed: func(err error) { // the log is as after a crash; this process knows better
			if !errors.Is(err, ErrNotLeader) {
				s.applyDisconnect(afterHeader(cmd))
			}
			l.Run(func() { l.vacate(sess, c) })
		},
	}
	if err := l.b.command(s, cmd, e); err != nil {
		if !errors.Is(err, ErrNotLeader) {
			s.applyDisconnect(afterHeader(cmd))
		}
		l.vacate(sess, c)
	}
}

// appendProgress appends where the session stands, and lets go of its feed. One that never came to be connected stands where it was.
func (l *Local) appendProgress(cmd []byte, c *Client) []byte {
	f := c.feed
	if f == nil {
		s := c.sess.shard
		s.mu.Lock()
		defer s.mu.Unlock()
		f = &feed{position: c.sess.d.position, restored: c.sess.d.inflight}
		return f.encode(cmd, true)
	}
	cmd = f.encode(cmd, true)
	f.release()
	c.feed = nil
	return cmd
}

// afterHeader reads a command's fields behind its kind.
func afterHeader(cmd []byte) *decoder {
	d := &decoder{b: cmd}
	d.uvarint()
	return d
}

func (l *Local) maxExpiry() time.Duration {
	if limit := l.b.limits.Load().SessionExpiry; limit > 0 {
		return limit
	}
	return NeverExpires
}

func deadlineOf(now int64, expiry time.Duration) int64 {
	if expiry == NeverExpires {
		return math.MaxInt64
	}
	return now + int64(expiry/time.Millisecond)
}

func boolBit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// leaveSlice is how many live subscriptions a session that ends is taken out of at once: a fraction of a millisecond.
const leaveSlice = 256

// endSession removes a session with its connection. A live one with many subscriptions leaves them a slice at a time, so that it does
// not hold the loop; who connects meanwhile with its identifier waits, as for any session that ends.
func (l *Local) endSession(c *Client, will *Will) {
	sess := c.sess
	if l.leaveSome(sess); len(sess.subscribed()) > 0 {
		l.Run(func() { l.endSession(c, will) })
		return
	}
	if will != nil {
		l.giveWill(sess, will)
	}
	if sess.d == nil {
		l.b.sessionGone(sess, events.SessionEnded, endedWithClient)
		l.forget(sess, c)
		return
	}
	if c.feed != nil {
		c.feed.release()
		c.feed = nil
	}
	s := sess.shard
	s.mu.Lock()
	sess.d.ending = true
	s.mu.Unlock()
	e := entry{
		done: func() {
			l.b.sessionGone(sess, events.SessionEnded, endedWithClient)
			l.Run(func() { l.forget(sess, c) })
		},
		failed: func(err error) {
			s.outlive(sess, err)
			l.Run(func() { l.vacate(sess, c) })
		},
	}
	if err := l.b.command(s, appendCommand(nil, cmdRemove, sess.d.id), e); err != nil {
		s.outlive(sess, err)
		l.vacate(sess, c)
	}
}

// leaveSome takes a session out of up to leaveSlice of its live subscriptions.
func (l *Local) leaveSome(sess *Session) {
	list := sess.subscribed()
	rest := max(len(list)-leaveSlice, 0)
	for _, sub := range list[rest:] {
		_, group, filter := l.b.index.Filter(sub)
		l.b.index.Unsubscribe(sess.tenant, group, filter, sess.slot)
		if group != nil {
			l.b.filters.part(sub, sess.slot)
		} else {
			l.b.exclusive.release(sess, filter)
		}
	}
	if sess.subs = nil; rest > 0 {
		list = list[:rest]
		sess.subs = &list
	}
}

// outlive keeps a session whose removal the log did not take, to be removed by its timer.
func (s *shard) outlive(sess *Session, err error) {
	if !errors.Is(err, ErrNotLeader) { // then another one ends it
		s.mu.Lock()
		sess.d.connected, sess.d.deadline = false, 1
		s.mu.Unlock()
	}
	s.unend(sess)
}

// applyDisconnect keeps where a durable session stopped.
func (s *shard) applyDisconnect(d *decoder) {
	id, expiry, deadline, willAt := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	position, inflight := d.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.mu.byID[id]
	if sess == nil || !d.ok() {
		return
	}
	row := sess.d
	row.expiry, row.deadline, row.willAt, row.connected = time.Duration(expiry), int64(deadline), int64(willAt), false
	row.position, row.inflight = position, inflight
	if willAt == 0 {
		sess.will = nil
	}
	s.mu.rows.session(id)
	s.armLocked(row)
}

// applyRemove ends a durable session.
func (s *shard) applyRemove(b *Broker, id uint64) {
	s.mu.Lock()
	sess := s.mu.byID[id]
	if sess == nil {
		s.mu.Unlock()
		return
	}
	delete(s.mu.byID, id)
	sess.d.ending = true
	s.dropLocked(sess)
	s.mu.rows.session(id)
	subs := sess.d.subscriptions()
	s.mu.Unlock()
	for i := range subs {
		b.dropSubscription(sess, &subs[i])
	}
	b.slots.release(sess.slot)
	b.countSession(sess, -1)
	for _, other := range b.homes {
		other.mu.Lock()
		other.forgetSessionLocked(id)
		other.mu.Unlock()
	}
}
