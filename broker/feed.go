package broker

import "slices"

// feed is the live part of a durable session: how far it has been sent what its filter queues hold, and what of that is not
// yet acknowledged. It belongs to the connection's loop; the session's row gets its progress by command.
type feed struct {
	c         *Client
	shards    []feedShard
	out       []outEntry // in the order of sending; out[head:] is in use
	restored  []outEntry // of earlier connections, by shard and sequence: not met again yet on the way through the queues
	skip      map[shardSeq]struct{}
	head      int
	open      int // entries that the receiver still has to finish
	due       int // of restored and promised: those that are to be sent again before anything else
	window    int
	promised  map[uint16]promise // by identifier, those included whose end is on its way into the log
	owed      []uint16           // of promised: due, by shard and sequence
	kept      []keptPromise      // finished: to be journaled
	received  map[uint16]*shard  // QoS 2 identifiers of the client's own publishes, and where they are remembered
	position  []shardSeq
	parked    *bundle // fetched, and not taken yet
	parkedAt  int
	waiting   []outGrant // granted messages, in order, that wait for their commit or for room
	granted   int        // of waiting: those whose grant was handed to the journal
	rowGrants int        // grants in the session's row since its last position
	retaining int        // retained messages that are promised and not sent: what the queues hold of their topics is younger
	yields    bool       // the queues come first, once, before more retained messages
	fetching  int
	nextID    uint16
	reused    bool      // nextID may come to an identifier that is in use: it has been all around, or an earlier connection took some
	stalled   bool      // the receiver has no room
	changed   bool      // progress is to be journaled
	listed    bool      // on the Local's list of such
	granting  bool      // on the Local's list of those with new grants
	joining   []joining // what its own SUBSCRIBEs have asked for and is not committed yet
	lowered   bool      // on the Local's list of those with subscriptions that were lowered to QoS 0
	lookAgain bool      // one of its own publishes counts on that: nothing new is sent until then
	seen      map[string]subscribedTopic
	seenOf    *[]durableSubscription
}

// feedShard is how far one shard's queues were sent. behind: the rest has to come from the log.
type feedShard struct {
	shard  uint16
	behind bool
	cursor uint64
}

// newFeed takes up a session where its row says that it stopped.
func newFeed(b *Broker, c *Client) *feed {
	f := &feed{c: c, window: int(c.window), received: make(map[uint16]*shard), nextID: CorePacketIDs}
	d := c.sess.d
	s := c.sess.shard
	s.mu.Lock()
	f.position = append(f.position, d.position...)
	f.restored = append(f.restored, d.inflight...)
	f.rowGrants = len(d.inflight)
	s.mu.Unlock()
	slices.SortFunc(f.restored, func(a, b outEntry) int {
		if a.shard != b.shard {
			return int(a.shard) - int(b.shard)
		}
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for _, sh := range b.homes {
		sh.mu.Lock()
		for _, id := range sh.mu.received[d.id] {
			f.received[id] = sh
		}
		f.restorePromises(sh.mu.promised[d.id])
		sh.mu.Unlock()
	}
	f.reused = f.reused || len(f.restored) > 0
	for i := range f.restored {
		e := &f.restored[i]
		if _, promised := f.promised[e.id]; promised { // taken again since: e is done, which was not journaled yet
			e.state = outDone
		}
		e.due = e.state == outSent
		if e.due {
			f.due++
		}
		if e.state != outDone {
			f.open++
		}
		if e.seq > seqOf(f.position, e.shard) {
			if f.skip == nil {
				f.skip = make(map[shardSeq]struct{})
			}
			f.skip[shardSeq{e.shard, e.seq}] = struct{}{}
		}
	}
	return f
}

// windowOf is how many messages may be in flight to a client that asks for so many. Half of the core's identifiers stay free: one is
// taken again only when the end of its message is in the log.
func windowOf(receiveMax uint16) uint16 {
	if receiveMax == 0 || receiveMax > CorePacketIDs/2 {
		return CorePacketIDs / 2
	}
	return receiveMax
}

// release lets go of the buffers.
func (f *feed) release() {
	if f.parked != nil {
		putBundle(f.parked)
		f.parked = nil
	}
	for i := range f.waiting {
		putBundle(f.waiting[i].body)
	}
	f.waiting = nil
}

// at gives the progress in one shard.
func (f *feed) at(shard uint16) *feedShard {
	for i := range f.shards {
		if f.shards[i].shard == shard {
			return &f.shards[i]
		}
	}
	f.shards = append(f.shards, feedShard{shard: shard, cursor: seqOf(f.position, shard)})
	return &f.shards[len(f.shards)-1]
}

// startFeed resends what was in flight and finds out which queues hold something for the session.
func (l *Local) startFeed(c *Client) {
	f := c.feed
	for i := range f.restored {
		if e := &f.restored[i]; e.state == outReceived {
			c.sub.Control(Control{Kind: ControlRelease, PacketID: e.id})
		}
	}
	l.releasePromises(f)
	l.lookLowered(f)
	for _, s := range l.b.homes {
		if l.behind(f, s) {
			f.at(uint16(s.id)).behind = true
		}
	}
	l.later(c)
}

// behind says whether a queue in s holds something that c was not sent.
func (l *Local) behind(f *feed, s *shard) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.queues) == 0 {
		return false
	}
	cursor := seqOf(f.position, uint16(s.id))
	for _, sub := range f.c.sess.d.subscriptions() {
		if sub.number == 0 || sub.group != "" {
			continue
		}
		if q := s.mu.queues[sub.number]; q != nil && q.last() > max(cursor, seqOf(sub.starts, uint16(s.id))) {
			return true
		}
	}
	return false
}

// deliverQueued is the short way of a committed message to a durable session that keeps up. own: the session published it and wants
// none of its own.
func (l *Local) deliverQueued(c *Client, m *Message, opts uint32, ids []uint32, ref Ref, own bool) {
	f := c.feed
	if f == nil {
		return
	}
	fs := f.at(ref.Shard)
	if ref.Seq <= fs.cursor {
		return
	}
	if fs.behind || f.stalled || f.fetching > 0 || f.due > 0 || f.parked != nil || f.retaining > 0 || f.lookAgain {
		fs.behind = true
		l.traceBehind(c, m, ref)
		l.later(c)
		return
	}
	if own {
		f.done(ref)
		l.progressed(f)
	} else if !l.offer(f, m, opts, ids, ref) {
		fs.behind, f.stalled = true, true
		l.traceBehind(c, m, ref)
		return
	}
	fs.cursor = ref.Seq
}

// offer gives a queued message to the receiver, or starts its grant. False: no room.
func (l *Local) offer(f *feed, m *Message, opts uint32, ids []uint32, ref Ref) bool {
	if f.meet(ref) {
		return true
	}
	if m.Deadline != 0 && m.Deadline <= l.b.nowMilli() {
		l.b.stats.QueueDropped[DropExpired].Add(1)
		f.c.sess.d.dropped(DropExpired, 1)
		l.traceDropped(f.c, m, ref, DropExpired)
		f.done(ref)
		l.progressed(f)
		return true
	}
	d := &l.delivery
	*d = Delivery{Ref: ref, SubscriptionIDs: ids, QoS: min(m.QoS, QoS(opts&optQoS)), Retain: m.Retain && opts&optRAP != 0}
	switch d.QoS {
	case 0:
		d.Ref = Ref{}
		f.c.sub.Deliver(m, d)
		f.done(ref)
		l.progressed(f)
	case 1:
		if f.open >= f.window {
			return false
		}
		id, ok := f.c.sub.Deliver(m, d)
		if !ok {
			return false
		}
		f.push(outEntry{seq: ref.Seq, shard: ref.Shard, id: id, qos: 1, state: outSent})
	default:
		return l.grant(f, m, opts, ids, ref)
	}
	return true
}

// Acked tells that the receiver has finished with a delivery that carried a Ref (PUBACK, PUBCOMP, or a PUBREC with an error).
// Deliveries without a Ref need no Acked.
func (l *Local) Acked(c *Client, packetID uint16) {
	if l.ackShared(c, packetID) {
		return
	}
	f := c.feed
	if f == nil || !l.keptPromise(f, packetID) && !f.finish(packetID) {
		return
	}
	l.progressed(f)
	if f.stalled || f.parked != nil || len(c.jobs()) > 0 || c.full.Load() {
		f.stalled = false
		l.later(c)
	}
}

// progressed puts the session on the list of those whose progress the next tick journals.
func (l *Local) progressed(f *feed) {
	if (f.changed || len(f.kept) > 0) && !f.listed {
		f.listed = true
		l.changed = append(l.changed, f)
	}
}

// journalPosition makes the session's progress a command.
func (l *Local) journalPosition(f *feed) bool {
	cmd := appendCommand(l.headers[:0], cmdPosition, f.c.sess.d.id)
	cmd = f.encode(cmd, false)
	l.headers = cmd
	return l.b.command(f.c.sess.shard, cmd, entry{}) == nil
}

// Ready tells that c has room again after a Deliver that answered false.
func (l *Local) Ready(c *Client) {
	if c.state != clientConnected {
		return
	}
	if c.feed != nil {
		c.feed.stalled = false
	}
	if o := c.unsent(); o != nil {
		o.stalled = false
	}
	if c.feed == nil || c.feed.due == 0 {
		l.readyShared(c)
	}
	l.later(c)
}

// feed goes on with a client: what is to be sent again, retained messages that it is owed, then what its queues hold.
func (l *Local) feed(c *Client) {
	f := c.feed
	if f != nil && f.due > 0 { // these have their packet identifiers already: nothing else may take one before
		// A retained message is older than what came by the queues after it.
		if !f.stalled && f.fetching == 0 && !l.fetchPromised(f) {
			l.fetchDue(f)
		}
		return
	}
	if l.sendPromises(c); c.state != clientConnected {
		return
	}
	if c.full.Load() && c.canPromise() {
		l.readyShared(c)
	}
	if len(c.jobs()) > 0 && (f == nil || f.retaining == 0 && !f.yields) {
		if r, ok := c.sub.(interface{ Room() bool }); ok && !r.Room() {
			return // Ready brings it back
		}
		if l.sendRetained(c) {
			l.later(c)
		}
		if c.state != clientConnected {
			return
		}
	}
	if c.replaying() {
		if l.replay(c) {
			l.later(c)
		}
		if f == nil || c.state != clientConnected || c.replaying() {
			return
		}
	}
	if f == nil || f.stalled || f.retaining > 0 {
		return
	}
	l.sendGranted(f)
	if f.parked != nil && !f.stalled {
		l.takeParked(f)
	}
	if f.stalled || f.fetching > 0 || f.parked != nil || f.lookAgain || c.state != clientConnected {
		return
	}
	for i := range f.shards {
		if f.shards[i].behind {
			l.catchUp(f, &f.shards[i])
			if f.fetching > 0 {
				return
			}
		}
	}
	if f.yields {
		f.yields = false
		l.later(c)
	}
}

// dropTo skips what queues hold for c up to the given places: it is over its session's bounds.
func (l *Local) dropTo(c *Client, sess *Session, to []shardSeq, why DropReason) {
	f := c.feed
	if f == nil || c.sess != sess || c.state != clientConnected {
		return
	}
	for _, t := range to {
		if fs := f.at(t.shard); t.seq > fs.cursor {
			for _, p := range l.b.backlogOf(sess, []shardSeq{{t.shard, fs.cursor}}) {
				if p.shard == t.shard {
					n := p.n - p.block.above(t.seq)
					l.b.stats.QueueDropped[why].Add(n)
					sess.d.dropped(why, n)
				}
			}
			fs.cursor = t.seq
			f.done(Ref{Shard: t.shard, Seq: t.seq})
		}
	}
	l.progressed(f)
}
