package broker

import (
	"cmp"
	"slices"

	"github.com/sluicemq/sluice/broker/topics"
)

// groupQueue is a shared group's place in one shard: what it has handed out and what came back. The queue itself is the
// group's filter queue. Guarded by the shard's lock, changed on the shard's home loop.
type groupQueue struct {
	number   uint64
	position uint64             // everything at or below is finished
	cursor   uint64             // everything above was never handed out
	lowest   uint64             // what the position waited for when it was last looked at: until that is finished it stands
	out      map[uint64]*Client // handed out
	again    []uint64           // came back: to be handed out anew, ascending
	saved    groupMark          // what the log has of it
	behind   bool               // nobody had room: the rest waits in the queue
	fetching bool
	changed  bool // something was finished since the last mark
}

// sharedOut is a message that a shared group has given to this connection and that is not finished.
type sharedOut struct {
	ref      Ref
	body     *bundle // of a message that no queue keeps
	row      topics.FilterID
	tenant   uint32 // of body
	id       uint16
	qos      QoS
	received bool // PUBREC came
}

// members answers the Picker.
type members struct{ b *Broker }

// Available says whether the member is connected and has room.
func (m members) Available(slot uint32) bool {
	c := m.b.slots.get(slot)
	return c != nil && !c.full.Load()
}

// Inflight is how many messages the member has out.
func (m members) Inflight(slot uint32) int {
	if c := m.b.slots.get(slot); c != nil {
		return int(c.shared.Load())
	}
	return 0
}

// pick chooses the member that gets m.
func (l *Local) pick(t *sharedTarget, m *Message) (*Client, topics.Entry) {
	msg := topics.Message{Topic: m.Topic}
	if p := &l.b.slots; m.Publisher != 0 {
		if c := p.get(m.Publisher); c != nil && c.sess != nil {
			msg.Client = []byte(c.sess.id)
		}
	}
	at := t.picker.Pick(topics.Strategy(l.b.strategy.Load()), t.members, msg, members{l.b})
	if at < 0 {
		return nil, topics.Entry{}
	}
	return l.b.slots.get(t.members[at].Subscriber), t.members[at]
}

// deliverShared gives m to one member of a shared group.
func (l *Local) deliverShared(t *sharedTarget, m *Message, ref Ref) {
	if ref.Seq != 0 && t.number != 0 {
		ref.Group = t.number
		l.deliverGroup(t, m, ref)
		return
	}
	c, e := l.pick(t, m)
	if c == nil {
		l.b.stats.QueueDropped[DropNoMember].Add(1)
		return
	}
	l.handOut(c, e, t.id, m, Ref{})
}

// handOut sends m to the member c, on whatever loop it lives.
func (l *Local) handOut(c *Client, e topics.Entry, row topics.FilterID, m *Message, ref Ref) {
	bu := l.bundleFor(c.local.id)
	d := bu.add(m)
	d.direct, d.opts, d.ref, d.row = c, e.Options, ref, row
	if e.SubscriptionID != 0 {
		d.ids = []uint32{e.SubscriptionID}
	}
	c.shared.Add(1)
	l.kick()
}

// deliverMember gives a message of a shared group to a connection of this loop.
func (l *Local) deliverMember(c *Client, m *Message, d *carried) {
	l.times.given++
	qos := min(m.QoS, QoS(d.opts&optQoS))
	if qos == 2 && d.ref.Seq != 0 {
		l.promiseShared(c, m, d)
		return
	}
	v := &l.delivery
	*v = Delivery{Ref: d.ref, SubscriptionIDs: d.ids, QoS: qos, Retain: m.Retain && d.opts&optRAP != 0, Shared: true}
	if v.Ref.Zero() && qos > 0 {
		v.Ref.Group = liveGroup
	}
	if qos == 0 {
		v.Ref = Ref{}
	}
	var id uint16
	ok := c.state == clientConnected
	if ok {
		id, ok = c.sub.Deliver(m, v)
	}
	out := sharedOut{ref: d.ref, id: id, qos: qos, row: d.row, tenant: c.tenant}
	switch {
	case !ok:
		c.full.Store(c.state == clientConnected)
		c.shared.Add(-1)
		if qos > 0 && d.ref.Seq == 0 {
			out.body = carry(m)
		}
		l.giveBack(&out)
	case qos == 0:
		c.shared.Add(-1)
		l.finishShared(d.ref)
	default:
		if d.ref.Seq == 0 {
			out.body = carry(m)
		}
		more := c.extras()
		more.sharedOut = append(more.sharedOut, out)
	}
}

// liveGroup marks the Ref of a shared message that no queue keeps: the core wants its Acked all the same.
const liveGroup = ^uint64(0)

// ackShared ends a shared delivery, if the identifier is one.
func (l *Local) ackShared(c *Client, packetID uint16) bool {
	list := c.sharedList()
	for i := range list {
		if list[i].id != packetID {
			continue
		}
		o := list[i]
		c.more.sharedOut = slices.Delete(list, i, i+1)
		l.freeMember(c)
		if o.body != nil {
			putBundle(o.body)
		}
		l.finishShared(o.ref)
		return true
	}
	return false
}

// freeMember counts one message less among those that a member has out, and has it looked at if it was full.
func (l *Local) freeMember(c *Client) {
	c.shared.Add(-1)
	if c.full.Load() {
		l.later(c)
	}
}

// finishShared tells the group's shard that a message is done with.
func (l *Local) finishShared(ref Ref) {
	if ref.Seq == 0 {
		return
	}
	s := l.b.homes[ref.Shard]
	s.home.Run(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.finishLocked(ref)
	})
}

func (s *shard) finishLocked(ref Ref) {
	if g := s.mu.groups[ref.Group]; g != nil {
		delete(g.out, ref.Seq)
		g.changed = true
		if ref.Seq <= g.lowest {
			g.advance()
		}
	}
}

// hand notes that c has seq.
func (g *groupQueue) hand(seq uint64, c *Client) {
	if len(g.out) == 0 && len(g.again) == 0 {
		g.lowest = seq
	}
	g.out[seq] = c
}

// advance moves the position up to what is still out.
func (g *groupQueue) advance() {
	low := g.cursor + 1
	for seq := range g.out {
		low = min(low, seq)
	}
	if len(g.again) > 0 {
		low = min(low, g.again[0])
	}
	g.lowest = low
	if low > g.position+1 {
		g.position, g.changed = low-1, true
	}
}

// returnShared gives what a connection had of shared groups to other members, at QoS 1. A QoS 2 message stays with whom it was sent
// to. These are of groups that keep nothing: if the session stays, of those the release alone can be sent again.
func (l *Local) returnShared(c *Client, stays bool) {
	list := c.sharedList()
	if c.more != nil {
		c.more.sharedOut = nil
	}
	for i := range list {
		o := &list[i]
		c.shared.Add(-1)
		if o.qos < 2 {
			l.giveBack(o)
			continue
		}
		if stays && c.feed != nil && o.received {
			c.feed.restored = append(c.feed.restored, outEntry{id: o.id, qos: 2, state: outReceived})
		}
		if o.body != nil {
			putBundle(o.body)
		}
	}
}

// giveBack finds another member for a message that one could not take or did not finish.
func (l *Local) giveBack(o *sharedOut) {
	if o.ref.Seq != 0 {
		s, ref := l.b.homes[o.ref.Shard], o.ref
		s.home.Run(func() { s.home.groupReturned(s, ref) })
		return
	}
	if o.body == nil {
		return
	}
	m := new(Message)
	o.body.view(0, m)
	l.b.index.Match(o.tenant, m.Topic, &l.matches)
	for i := range l.matches.Filters {
		f := &l.matches.Filters[i]
		if f.ID != o.row {
			continue
		}
		t := sharedTarget{id: f.ID, members: f.Entries, picker: l.b.filters.picker(f.ID)}
		if c, e := l.pick(&t, m); c != nil {
			l.handOut(c, e, f.ID, m, Ref{})
			putBundle(o.body)
			return
		}
	}
	putBundle(o.body)
	l.b.stats.QueueDropped[DropNoMember].Add(1)
}

func (s *shard) groupLocked(number uint64) *groupQueue {
	g := s.mu.groups[number]
	if g == nil {
		if s.mu.groups == nil {
			s.mu.groups = make(map[uint64]*groupQueue)
		}
		g = &groupQueue{number: number, out: make(map[uint64]*Client)}
		s.mu.groups[number] = g
	}
	return g
}

// deliverGroup hands out a message that the group's queue keeps. It runs on the home loop of the message's shard.
func (l *Local) deliverGroup(t *sharedTarget, m *Message, ref Ref) {
	s := l.b.homes[ref.Shard]
	s.mu.Lock()
	g := s.groupLocked(t.number)
	if g.behind || ref.Seq <= g.cursor || !s.handsOutLocked() {
		s.mu.Unlock()
		return
	}
	c, e := l.pick(t, m)
	if c == nil {
		g.behind = true
		s.mu.Unlock()
		l.b.behindGroups.Add(1)
		return
	}
	g.cursor = ref.Seq
	g.hand(ref.Seq, c)
	s.mu.Unlock()
	l.handOut(c, e, t.id, m, ref)
}

// groupReturned takes back a message that a member did not finish.
func (l *Local) groupReturned(s *shard, ref Ref) {
	s.mu.Lock()
	g := s.mu.groups[ref.Group]
	if g == nil || g.out[ref.Seq] == nil {
		s.mu.Unlock()
		return
	}
	delete(g.out, ref.Seq)
	at, found := slices.BinarySearch(g.again, ref.Seq)
	if !found {
		g.again = slices.Insert(g.again, at, ref.Seq)
	}
	if !g.behind {
		g.behind = true
		l.b.behindGroups.Add(1)
	}
	s.mu.Unlock()
	l.drainGroup(s, ref.Group)
}

// readyShared lets groups that wait for a member with room go on.
func (l *Local) readyShared(c *Client) {
	c.full.Store(false)
	if l.b.behindGroups.Load() > 0 {
		l.b.drainGroups()
	}
}

// drainGroups has each home loop look at its groups that are behind.
func (b *Broker) drainGroups() {
	for _, l := range b.locals {
		l.Run(func() {
			for _, s := range b.homes {
				if s.home != l {
					continue
				}
				var list []uint64
				s.mu.Lock()
				for n, g := range s.mu.groups {
					if g.behind {
						list = append(list, n)
					}
				}
				s.mu.Unlock()
				for _, n := range list {
					l.drainGroup(s, n)
				}
			}
		})
	}
}

// drainGroup asks for the next messages of a group that is behind, if a member could take them.
func (l *Local) drainGroup(s *shard, number uint64) {
	id, known := l.b.filters.row(number)
	if !known || !l.anyMember(id) {
		return
	}
	s.mu.Lock()
	g := s.mu.groups[number]
	if g == nil || !g.behind || g.fetching {
		s.mu.Unlock()
		return
	}
	seqs := append([]uint64(nil), g.again[:min(len(g.again), fetchRefs)]...)
	if q := s.mu.queues[number]; q != nil && len(seqs) < fetchRefs {
		seqs = q.after(seqs, g.cursor, fetchRefs-len(seqs))
	}
	if len(seqs) == 0 {
		g.behind = false
		l.b.behindGroups.Add(-1)
		s.mu.Unlock()
		return
	}
	g.fetching = true
	s.mu.Unlock()
	slices.Sort(seqs)
	l.b.fetcher.submit(fetchJob{shard: uint16(s.id), seqs: seqs, done: func(bu *bundle) {
		l.Run(func() { l.groupFetched(s, number, seqs, bu) })
	}})
}

// anyMember says whether a member of the group could take a message.
func (l *Local) anyMember(id topics.FilterID) bool {
	for _, e := range l.b.filters.members(id) {
		if (members{l.b}).Available(e.Subscriber) {
			return true
		}
	}
	return false
}

// groupFetched hands out what was read for a group. asked are the sequences that it asked for.
func (l *Local) groupFetched(s *shard, number uint64, asked []uint64, bu *bundle) {
	defer putBundle(bu)
	id, known := l.b.filters.row(number)
	t := sharedTarget{id: id, number: number, members: l.b.filters.members(id), picker: l.b.filters.picker(id)}
	m := new(Message)
	through := bu.through // all that was asked for up to here is handed out, or gone from the log
	for i := 0; known && i < len(bu.msgs); i++ {
		c := bu.view(i, m)
		ref := c.ref
		ref.Group = number
		to, e := l.pick(&t, m)
		if to == nil {
			through = ref.Seq - 1
			break
		}
		s.mu.Lock()
		g := s.mu.groups[number]
		taken := g != nil && g.take(ref.Seq, to)
		s.mu.Unlock()
		if taken {
			l.handOut(to, e, id, m, ref)
		}
	}
	s.mu.Lock()
	if g := s.mu.groups[number]; g != nil {
		g.fetching, g.changed = false, true
		for _, seq := range asked {
			if seq > through {
				break
			}
			g.cursor = max(g.cursor, seq)
			if at, ok := slices.BinarySearch(g.again, seq); ok && !bu.holds(seq) {
				g.again = slices.Delete(g.again, at, at+1)
			}
		}
		g.advance()
	}
	s.mu.Unlock()
	if !bu.failed {
		l.drainGroup(s, number)
	}
}

// holds says whether a fetch brought a sequence.
func (bu *bundle) holds(seq uint64) bool {
	_, ok := slices.BinarySearchFunc(bu.msgs, seq, func(c carried, seq uint64) int { return cmp.Compare(c.ref.Seq, seq) })
	return ok
}

// take marks seq as handed out to c, unless it is already.
func (g *groupQueue) take(seq uint64, c *Client) bool {
	if at, again := slices.BinarySearch(g.again, seq); again {
		g.again = slices.Delete(g.again, at, at+1)
	} else if seq <= g.cursor {
		return false
	}
	g.cursor = max(g.cursor, seq)
	g.hand(seq, c)
	return true
}
