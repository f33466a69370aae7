package broker

import (
	"encoding/binary"
	"slices"

	"github.com/sluicemq/sluice/broker/topics"
)

// feed is the live part of a durable session: how far it has been sent what its filter queues hold, and what of that is not
// yet acknowledged. It belongs to the connection's loop; the session's row gets its progress by command.
type feed struct {
	c        *Client
	shards   []feedShard
	out      []outEntry // in the order of sending; out[head:] is in use
	head     int
	open     int // entries that the receiver still has to finish
	window   int
	received map[uint16]*shard // QoS 2 identifiers of the client's own publishes, and where they are remembered
	resumed  map[Ref]*outEntry // sent in an earlier connection, above the position; they join out when the cursor passes them
	order    []*outEntry       // resumed in the order of their sending
	position []shardSeq
	parked   *bundle // fetched, and not taken yet
	parkedAt int
	waiting  []outGrant // granted messages, in order, that wait for their commit or for room
	nextID   uint16
	fetching int
	granted  int  // of waiting: those whose grant was handed to the journal
	stalled  bool // the receiver has no room
	changed  bool // progress is to be journaled
	listed   bool // on the Local's list of such
	seen     map[string]subscribedTopic
	seenOf   *[]durableSubscription
}

// feedShard is how far one shard's queues were sent. behind: the rest has to come from the log.
type feedShard struct {
	shard  uint16
	behind bool
	cursor uint64
}

type outState uint8

const (
	outSent     outState = iota + 1
	outGranting          // its grant waits for the commit, or for room
	outReceived          // PUBREC came
	outDone
)

// outEntry is a message that was sent and not yet finished.
type outEntry struct {
	ref   Ref
	id    uint16
	qos   QoS
	state outState
}

// outGrant is a QoS 2 message whose packet identifier is being put on stable storage.
type outGrant struct {
	body      *bundle
	opts      uint32
	ids       []uint32
	ref       Ref
	id        uint16
	committed bool
}

type subscribedTopic struct {
	opts uint32
	ids  []uint32
}

// newFeed takes up a session where its row says that it stopped.
func newFeed(b *Broker, c *Client) *feed {
	f := &feed{c: c, window: int(c.req.ReceiveMax), received: make(map[uint16]*shard), nextID: CorePacketIDs}
	if f.window == 0 {
		f.window = 65535
	}
	d := c.sess.d
	s := c.sess.shard
	s.mu.Lock()
	f.position = append(f.position, d.position...)
	inflight := append([]outEntry(nil), d.inflight...)
	s.mu.Unlock()
	for i := range inflight {
		e := &inflight[i]
		if e.state != outDone {
			f.open++
		}
		if e.ref.Seq <= seqOf(f.position, e.ref.Shard) {
			f.out = append(f.out, *e)
			continue
		}
		if f.resumed == nil {
			f.resumed = make(map[Ref]*outEntry)
		}
		f.resumed[e.ref] = e
		f.order = append(f.order, e)
	}
	for _, sh := range b.shards {
		sh.mu.Lock()
		for id := range sh.mu.received[d.id] {
			f.received[id] = sh
		}
		sh.mu.Unlock()
	}
	return f
}

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

// subscribed looks for queues that a new subscription shares with others.
func (f *feed) subscribed() { f.seen = nil }

// startFeed resends what was in flight and finds out which queues hold something for the session.
func (l *Local) startFeed(c *Client) {
	f := c.feed
	resend := map[uint16][]uint64{}
	for _, e := range f.order {
		switch e.state {
		case outReceived:
			c.sub.Control(Control{Kind: ControlRelease, PacketID: e.id})
		case outSent:
			resend[e.ref.Shard] = append(resend[e.ref.Shard], e.ref.Seq)
		}
	}
	for sh, seqs := range resend {
		f.fetching++
		l.b.fetcher.submit(fetchJob{c: c, shard: sh, seqs: seqs, resend: true})
	}
	for _, s := range l.b.shards {
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

// deliverQueued is the short way of a committed message to a durable session that keeps up.
func (l *Local) deliverQueued(c *Client, m *Message, opts uint32, ids []uint32, ref Ref) {
	f := c.feed
	if f == nil {
		return
	}
	fs := f.at(ref.Shard)
	if ref.Seq <= fs.cursor {
		return
	}
	if fs.behind || f.stalled || f.fetching > 0 || f.parked != nil {
		fs.behind = true
		l.later(c)
		return
	}
	if !l.offer(f, m, opts, ids, ref) {
		fs.behind, f.stalled = true, true
		return
	}
	fs.cursor = ref.Seq
}

// offer gives a queued message to the receiver, or starts its grant. False: no room.
func (l *Local) offer(f *feed, m *Message, opts uint32, ids []uint32, ref Ref) bool {
	if e := f.resumed[ref]; e != nil {
		delete(f.resumed, ref)
		if e.state != outDone {
			f.open--
		}
		f.push(*e)
		return true
	}
	d := &l.delivery
	*d = Delivery{Ref: ref, SubscriptionIDs: ids, QoS: min(m.QoS, QoS(opts&optQoS)), Retain: m.Retain && opts&optRAP != 0}
	if m.Deadline != 0 && m.Deadline <= l.b.nowMilli() {
		l.b.stats.QueueDropped[DropExpired].Add(1)
		f.push(outEntry{ref: ref, state: outDone})
		return true
	}
	switch d.QoS {
	case 0:
		d.Ref = Ref{}
		f.c.sub.Deliver(m, d)
		f.push(outEntry{ref: ref, state: outDone})
	case 1:
		if f.open >= f.window || len(f.waiting) > 0 && f.open+len(f.waiting) > f.window {
			return false
		}
		id, ok := f.c.sub.Deliver(m, d)
		if !ok {
			return false
		}
		f.push(outEntry{ref: ref, id: id, qos: 1, state: outSent})
	default:
		return l.grant(f, m, opts, ids, ref)
	}
	return true
}

// push remembers a message that is on its way. What needs no acknowledgement moves the position at once if nothing is before it.
func (f *feed) push(e outEntry) {
	f.changed = true
	if e.state == outDone {
		if f.head == len(f.out) {
			f.advance(e.ref)
			return
		}
		if last := &f.out[len(f.out)-1]; last.state == outDone && last.ref.Shard == e.ref.Shard && last.id == 0 {
			last.ref = e.ref
			return
		}
	} else {
		f.open++
	}
	if f.head > 64 && f.head*2 > len(f.out) {
		f.out = f.out[:copy(f.out, f.out[f.head:])]
		f.head = 0
	}
	f.out = append(f.out, e)
}

func (f *feed) advance(ref Ref) {
	if ref.Group == 0 {
		f.position = setSeq(f.position, ref.Shard, ref.Seq)
	}
}

// find gives the open entry of a packet identifier.
func (f *feed) find(id uint16) *outEntry {
	for i := f.head; i < len(f.out); i++ {
		if e := &f.out[i]; e.id == id && e.state != outDone && e.state != outGranting {
			return e
		}
	}
	for _, e := range f.resumed {
		if e.id == id && e.state != outDone {
			return e
		}
	}
	return nil
}

// finish marks an entry done and moves the position over what is done from the front.
func (f *feed) finish(e *outEntry) {
	e.state = outDone
	f.open--
	f.changed = true
	for f.head < len(f.out) && f.out[f.head].state == outDone {
		f.advance(f.out[f.head].ref)
		f.head++
	}
	if f.head == len(f.out) {
		f.out, f.head = f.out[:0], 0
	}
}

// grant takes a packet identifier for a QoS 2 message and has it put on stable storage before the message is sent.
func (l *Local) grant(f *feed, m *Message, opts uint32, ids []uint32, ref Ref) bool {
	if f.open >= f.window {
		return false
	}
	id := f.freeID()
	f.push(outEntry{ref: ref, id: id, qos: 2, state: outGranting})
	f.waiting = append(f.waiting, outGrant{body: carry(m), opts: opts, ids: ids, ref: ref, id: id})
	l.granting(f.c)
	return true
}

// freeID gives a packet identifier of the core's own that nothing in flight has.
func (f *feed) freeID() uint16 {
	for {
		id := f.nextID
		f.nextID++
		if f.nextID < CorePacketIDs {
			f.nextID = CorePacketIDs
		}
		used := false
		for i := f.head; i < len(f.out) && !used; i++ {
			used = f.out[i].id == id && f.out[i].state != outDone
		}
		for _, e := range f.resumed {
			used = used || e.id == id && e.state != outDone
		}
		if !used {
			return id
		}
	}
}

// granting remembers that c has grants to be journaled at the end of this turn: one command for all of them.
func (l *Local) granting(c *Client) {
	for _, have := range l.grants {
		if have == c {
			return
		}
	}
	l.grants = append(l.grants, c)
	l.kick()
}

// flushGrants makes this turn's grants commands.
func (l *Local) flushGrants() {
	for i, c := range l.grants {
		l.grants[i] = nil
		f := c.feed
		if f == nil || c.state != clientConnected {
			continue
		}
		cmd := appendCommand(nil, cmdGrant, c.sess.d.id)
		n, first := 0, f.granted
		var body []byte
		for _, g := range f.waiting[min(first, len(f.waiting)):] {
			body = appendOut(body, outEntry{ref: g.ref, id: g.id, qos: 2, state: outSent})
			n++
		}
		if n == 0 {
			continue
		}
		f.granted = len(f.waiting)
		cmd = append(binary.AppendUvarint(cmd, uint64(n)), body...)
		e := entry{
			done:   func() { l.Run(func() { l.grantsCommitted(c, n) }) },
			failed: func(err error) { l.Run(func() { l.kickSelf(c, err) }) },
		}
		if err := l.b.command(c.sess.shard, cmd, e); err != nil {
			l.kickSelf(c, err)
		}
	}
	l.grants = l.grants[:0]
}

func (l *Local) kickSelf(c *Client, err error) {
	if c.state == clientConnected {
		c.sub.Kicked(err)
	}
}

// grantsCommitted sends the next n granted messages.
func (l *Local) grantsCommitted(c *Client, n int) {
	if c.state != clientConnected || c.feed == nil {
		return
	}
	for i := range c.feed.waiting {
		if g := &c.feed.waiting[i]; !g.committed && n > 0 {
			g.committed = true
			n--
		}
	}
	l.sendGranted(c.feed)
	l.later(c)
}

// sendGranted sends committed grants while the receiver has room.
func (l *Local) sendGranted(f *feed) {
	m := &l.message
	for len(f.waiting) > 0 && f.waiting[0].committed {
		g := &f.waiting[0]
		g.body.view(0, m)
		m.Cache = &l.cache
		l.cache.Kind = 0
		d := &l.delivery
		*d = Delivery{Ref: g.ref, SubscriptionIDs: g.ids, QoS: 2, Retain: m.Retain && g.opts&optRAP != 0, PacketID: g.id}
		if _, ok := f.c.sub.Deliver(m, d); !ok {
			f.stalled = true
			return
		}
		for i := f.head; i < len(f.out); i++ {
			if e := &f.out[i]; e.id == g.id && e.state == outGranting {
				e.state = outSent
				break
			}
		}
		putBundle(g.body)
		f.waiting = f.waiting[1:]
		f.granted--
		if f.c.state != clientConnected {
			return
		}
	}
	if len(f.waiting) == 0 {
		f.waiting = nil
	}
}

// Acked tells that the receiver has finished with a delivery that carried a Ref (PUBACK, PUBCOMP, or a PUBREC with an error).
// Deliveries without a Ref need no Acked.
func (l *Local) Acked(c *Client, packetID uint16) {
	if l.ackShared(c, packetID) {
		return
	}
	f := c.feed
	if f == nil {
		return
	}
	e := f.find(packetID)
	if e == nil {
		return
	}
	f.finish(e)
	l.progressed(f)
	if f.stalled || f.parked != nil {
		f.stalled = false
		l.later(c)
	}
}

// progressed puts the session on the list of those whose progress the next tick journals.
func (l *Local) progressed(f *feed) {
	if f.changed && !f.listed {
		f.listed = true
		l.changed = append(l.changed, f)
	}
}

// Received tells that the receiver has a QoS 2 message that carried a Ref (PUBREC). Routed: send PUBREL now; Pending: at
// Completed.
func (l *Local) Received(c *Client, packetID uint16, t Token) (Outcome, error) {
	f := c.feed
	if f == nil {
		return Routed, nil
	}
	e := f.find(packetID)
	if e == nil || e.state != outSent {
		return Routed, nil
	}
	e.state = outReceived
	cmd := appendCommand(l.headers[:0], cmdReceived, c.sess.d.id)
	cmd = binary.AppendUvarint(cmd, uint64(packetID))
	l.headers = cmd
	if err := l.b.command(c.sess.shard, cmd, entry{c: c, tok: t}); err != nil {
		return 0, err
	}
	c.waiting++
	return Pending, nil
}

// Ready tells that c has room again after a Deliver that answered false.
func (l *Local) Ready(c *Client) {
	if c.feed != nil {
		c.feed.stalled = false
	}
	l.readyShared(c)
	l.later(c)
}

// fetchRefs is how many references one fetch asks for.
const fetchRefs = 256

// feed goes on with a client: retained messages that it is owed, then what its queues hold.
func (l *Local) feed(c *Client) {
	if len(c.retry) > 0 {
		if r, ok := c.sub.(Roomy); ok && !r.Room() {
			return // Ready brings it back
		}
		if l.sendRetained(c) {
			l.later(c)
		}
	}
	f := c.feed
	if f == nil || f.stalled {
		return
	}
	l.sendGranted(f)
	if f.parked != nil && !f.stalled {
		l.takeParked(f)
	}
	if f.stalled || f.fetching > 0 || f.parked != nil {
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
}

// catchUp asks for the next messages of one shard, or finds that the session has them all.
func (l *Local) catchUp(f *feed, fs *feedShard) {
	s := l.b.shards[fs.shard]
	seqs := l.seqs[:0]
	s.mu.Lock()
	for _, sub := range f.c.sess.d.subscriptions() {
		if sub.number == 0 || sub.group != "" {
			continue
		}
		if q := s.mu.queues[sub.number]; q != nil {
			seqs = q.after(seqs, max(fs.cursor, seqOf(sub.starts, fs.shard)), fetchRefs)
		}
	}
	s.mu.Unlock()
	l.seqs = seqs
	if len(seqs) == 0 {
		fs.behind = false
		return
	}
	seqs = mergeSeqs(seqs, fetchRefs)
	f.fetching++
	l.b.fetcher.submit(fetchJob{c: f.c, shard: fs.shard, seqs: append([]uint64(nil), seqs...)})
}

// fetched takes what the pool has read.
func (l *Local) fetched(c *Client, bu *bundle) {
	f := c.feed
	if f == nil || c.state != clientConnected {
		putBundle(bu)
		return
	}
	f.fetching--
	if bu.failed {
		l.failedFeeds = append(l.failedFeeds, c)
	}
	if bu.resend {
		l.resend(f, bu)
		failed := bu.failed
		putBundle(bu)
		if !failed {
			l.later(c)
		}
		return
	}
	f.parked, f.parkedAt = bu, 0
	failed := bu.failed
	l.takeParked(f)
	if !failed {
		l.later(c)
	}
}

// resend sends again what was in flight when the session's last connection ended.
func (l *Local) resend(f *feed, bu *bundle) {
	m := &l.message
	found := make(map[Ref]int, len(bu.msgs))
	for i := range bu.msgs {
		found[bu.msgs[i].ref] = i
	}
	for _, e := range f.order {
		if f.c.state != clientConnected {
			return
		}
		if e.state != outSent || e.ref.Shard != bu.shard || f.resumed[e.ref] != e {
			continue
		}
		at, ok := found[e.ref]
		if !ok {
			if _, asked := bu.asked[e.ref.Seq]; asked && !bu.failed {
				l.b.stats.QueueDropped[DropLost].Add(1)
				f.finish(e)
			}
			continue
		}
		bu.view(at, m)
		m.Cache = &l.cache
		l.cache.Kind = 0
		t := l.subscribedTo(f, m.Topic)
		d := &l.delivery
		*d = Delivery{Ref: e.ref, SubscriptionIDs: t.ids, QoS: e.qos, Retain: m.Retain && t.opts&optRAP != 0, Dup: true, PacketID: e.id}
		f.c.sub.Deliver(m, d)
	}
}

// takeParked offers fetched messages until the receiver is full.
func (l *Local) takeParked(f *feed) {
	bu := f.parked
	fs := f.at(bu.shard)
	m := &l.message
	for f.parkedAt < len(bu.msgs) {
		c := bu.view(f.parkedAt, m)
		if c.ref.Seq > fs.cursor {
			m.Cache = &l.cache
			l.cache.Kind = 0
			t := l.subscribedTo(f, m.Topic)
			switch {
			case t.opts&optDurable == 0, t.opts&optNoLocal != 0 && c.publisher == f.c.sess.d.id:
				f.push(outEntry{ref: c.ref, state: outDone})
			case !l.offer(f, m, t.opts, t.ids, c.ref):
				f.stalled = true
				l.progressed(f)
				return
			}
			fs.cursor = c.ref.Seq
			if f.c.state != clientConnected {
				return
			}
		}
		f.parkedAt++
	}
	if bu.through > fs.cursor { // references whose record is gone
		fs.cursor = bu.through
		f.push(outEntry{ref: Ref{Shard: bu.shard, Seq: bu.through}, state: outDone})
	}
	f.parked = nil
	putBundle(bu)
	l.progressed(f)
}

// subscribedTo merges the session's subscriptions that match a topic.
func (l *Local) subscribedTo(f *feed, topic []byte) subscribedTopic {
	subs := f.c.sess.d.subs.Load()
	if f.seenOf != subs || f.seen == nil || len(f.seen) > 1024 {
		f.seen, f.seenOf = make(map[string]subscribedTopic), subs
	}
	t, ok := f.seen[string(topic)]
	if ok {
		return t
	}
	first := true
	for _, s := range f.c.sess.d.subscriptions() {
		if s.group != "" || !topics.FilterMatches([]byte(s.filter), topic) {
			continue
		}
		if first {
			t.opts, first = s.opts, false
			if s.id != 0 {
				t.ids = []uint32{s.id}
			}
			continue
		}
		t.opts, t.ids = mergeOptions(t.opts, t.ids, s.opts, s.id)
	}
	f.seen[string(topic)] = t
	return t
}

// encode appends the session's progress: its positions, and what is above them. all adds QoS 1 messages in flight, so that an
// orderly end keeps their packet identifiers.
func (f *feed) encode(dst []byte, all bool) []byte {
	dst = appendSeqs(dst, f.position)
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	n := uint32(0)
	for _, e := range f.order {
		if f.resumed[e.ref] == e {
			dst = appendOut(dst, *e)
			n++
		}
	}
	for i := f.head; i < len(f.out); i++ {
		e := f.out[i]
		if e.qos == 1 && e.state == outSent && !all {
			continue
		}
		if e.state == outGranting {
			if all {
				continue // never sent: it is fetched anew
			}
			e.state = outSent
		}
		dst = appendOut(dst, e)
		n++
	}
	binary.LittleEndian.PutUint32(dst[at:], n)
	return dst
}

func appendOut(dst []byte, e outEntry) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.ref.Shard))
	dst = binary.AppendUvarint(dst, e.ref.Seq)
	dst = binary.AppendUvarint(dst, uint64(e.id))
	return append(dst, e.qos, byte(e.state))
}

func (d *decoder) out() outEntry {
	e := outEntry{ref: Ref{Shard: uint16(d.uvarint()), Seq: d.uvarint()}, id: uint16(d.uvarint())}
	e.qos, e.state = QoS(d.uvarint()), outState(d.uvarint())
	return e
}

// progress reads what feed.encode wrote.
func (d *decoder) progress() (position []shardSeq, inflight []outEntry) {
	position = d.seqs()
	if len(d.b) < 4 {
		d.bad = true
		return nil, nil
	}
	n := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	for ; n > 0 && !d.bad; n-- {
		inflight = append(inflight, d.out())
	}
	return position, inflight
}

func (s *shard) applyPosition(d *decoder) {
	id := d.uvarint()
	position, inflight := d.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.mu.byID[id]; sess != nil && !d.bad {
		sess.d.position, sess.d.inflight = position, inflight
		s.mu.rows.session(id)
	}
}

func (s *shard) applyGrant(d *decoder) {
	id := d.uvarint()
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.mu.byID[id]
	for n := d.count(); n > 0 && !d.bad; n-- {
		e := d.out()
		if sess == nil || d.bad {
			continue
		}
		// An identifier is taken again only once its message is done, which may not have been journaled yet.
		for i := range sess.d.inflight {
			if o := &sess.d.inflight[i]; o.id == e.id && o.ref != e.ref {
				o.state = outDone
			}
		}
		// A position that was journaled while the grant was being made has the entry already.
		if !slices.ContainsFunc(sess.d.inflight, func(o outEntry) bool { return o.id == e.id && o.ref == e.ref }) {
			sess.d.inflight = append(sess.d.inflight, e)
		}
	}
	s.mu.rows.session(id)
}

func (s *shard) applyReceived(d *decoder) {
	id, packet := d.uvarint(), uint16(d.uvarint())
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.mu.byID[id]
	if sess == nil {
		return
	}
	for i := range sess.d.inflight {
		if e := &sess.d.inflight[i]; e.id == packet && e.state == outSent {
			e.state = outReceived
		}
	}
	s.mu.rows.session(id)
}
