package broker

import "encoding/binary"

// outGrant is a QoS 2 message whose packet identifier is being put on stable storage.
type outGrant struct {
	body      *bundle
	opts      uint32
	ids       []uint32
	ref       Ref
	id        uint16
	committed bool
}

// grant takes a packet identifier for a QoS 2 message and has it put on stable storage before the message is sent.
func (l *Local) grant(f *feed, m *Message, opts uint32, ids []uint32, ref Ref) bool {
	if f.open >= f.window {
		return false
	}
	id := f.freeID()
	f.push(outEntry{seq: ref.Seq, shard: ref.Shard, id: id, qos: 2, state: outGranting})
	f.waiting = append(f.waiting, outGrant{body: carry(m), opts: opts, ids: ids, ref: ref, id: id})
	if !f.granting {
		f.granting = true
		l.grants = append(l.grants, f)
		l.kick()
	}
	return true
}

// flushGrants makes this turn's grants commands, one for each session.
func (l *Local) flushGrants() {
	for i, f := range l.grants {
		l.grants[i] = nil
		f.granting = false
		c := f.c
		if c.feed != f || c.state != clientConnected || f.granted == len(f.waiting) {
			continue
		}
		fresh := f.waiting[f.granted:]
		n := len(fresh)
		// Applied grants pile up in the session's row until a position replaces them: what is open bounds them.
		if f.rowGrants += n; f.rowGrants > 64+2*f.open && l.journalPosition(f) {
			f.rowGrants = n
		}
		cmd := appendCommand(nil, cmdGrant, c.sess.d.id)
		cmd = binary.AppendUvarint(cmd, uint64(n))
		for k := range fresh {
			g := &fresh[k]
			cmd = appendOut(cmd, outEntry{seq: g.ref.Seq, shard: g.ref.Shard, id: g.id, qos: 2, state: outSent})
		}
		e := entry{
			done:   func() { l.Run(func() { l.grantsCommitted(f, n) }) },
			failed: func(err error) { l.Run(func() { l.kickSelf(c, err) }) },
		}
		if err := l.b.command(c.sess.shard, cmd, e); err != nil {
			l.kickSelf(c, err)
			continue
		}
		f.granted = len(f.waiting)
		for k := f.head; k < len(f.out); k++ {
			if f.out[k].state == outGranting {
				f.out[k].state = outGranted
			}
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
func (l *Local) grantsCommitted(f *feed, n int) {
	if f.c.feed != f || f.c.state != clientConnected {
		return
	}
	for i := range f.waiting {
		if g := &f.waiting[i]; !g.committed && n > 0 {
			g.committed = true
			n--
		}
	}
	l.sendGranted(f)
	l.later(f.c)
}

// sendGranted sends committed grants while the receiver has room.
func (l *Local) sendGranted(f *feed) {
	m := &l.message
	for len(f.waiting) > 0 && f.waiting[0].committed {
		g := f.waiting[0]
		g.body.view(0, m)
		m.Cache = &l.cache
		l.cache.Kind = 0
		d := &l.delivery
		*d = Delivery{Ref: g.ref, SubscriptionIDs: g.ids, QoS: 2, Retain: m.Retain && g.opts&optRAP != 0, PacketID: g.id}
		_, ok := f.c.sub.Deliver(m, d)
		if f.c.state != clientConnected {
			return // release has let go of what waited
		}
		if !ok {
			f.stalled = true
			return
		}
		for i := f.head; i < len(f.out); i++ {
			if e := &f.out[i]; e.id == g.id && e.state == outGranted {
				e.state = outSent
				break
			}
		}
		putBundle(g.body)
		f.waiting[0] = outGrant{}
		f.waiting = f.waiting[1:]
		f.granted--
	}
	if len(f.waiting) == 0 {
		f.waiting = nil
	}
}

// Received tells that the receiver has a QoS 2 message that carried a Ref (PUBREC). Routed: send PUBREL now; Pending: at
// Completed.
func (l *Local) Received(c *Client, packetID uint16, t Token) (Outcome, error) {
	for i, list := 0, c.sharedList(); i < len(list); i++ {
		if list[i].id == packetID {
			list[i].received = true
			return Routed, nil
		}
	}
	f := c.feed
	if f == nil {
		return Routed, nil
	}
	if p, ok := f.promised[packetID]; ok && p.state == outSent {
		return l.receivedPromise(f, p, t)
	}
	e := f.find(packetID)
	if e == nil || e.state != outSent {
		return Routed, nil
	}
	cmd := appendCommand(l.headers[:0], cmdReceived, c.sess.d.id)
	cmd = binary.AppendUvarint(cmd, uint64(packetID))
	l.headers = cmd
	failed := func(err error) { l.Run(func() { l.notReceived(f, packetID, t, err) }) }
	if err := l.b.command(c.sess.shard, cmd, entry{c: c, tok: t, failed: failed}); err != nil {
		return 0, err
	}
	e.state = outReceived
	if e.due {
		e.due = false
		f.due--
	}
	c.waiting++
	return Pending, nil
}

// notReceived takes back Received, which the log did not take: PUBREL must not be sent.
func (l *Local) notReceived(f *feed, packetID uint16, t Token, err error) {
	if e := f.find(packetID); e != nil && e.state == outReceived {
		e.state = outSent
	}
	l.completed(f.c, Result{Token: t, Err: err})
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
		// An identifier is taken again only once its message is done, which may not have been journaled yet. An entry that is
		// there already came with a position.
		have := false
		for i := range sess.d.inflight {
			o := &sess.d.inflight[i]
			switch {
			case o.id != e.id:
			case o.seq == e.seq && o.shard == e.shard:
				have = true
			default:
				o.state = outDone
			}
		}
		if !have {
			sess.d.inflight = append(sess.d.inflight, e)
		}
	}
	s.mu.rows.session(id)
}

func (s *shard) applyReceived(d *decoder) {
	id, packet := d.uvarint(), uint16(d.uvarint())
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.mu.promised[id] {
		if p := &s.mu.promised[id][i]; p.id == packet {
			p.state = outReceived
			s.mu.rows.promise(id)
			return
		}
	}
	sess := s.mu.byID[id]
	if sess == nil {
		return
	}
	// One at most is open under an identifier: what had it before was done, which applyGrant notes. It is among the last.
	for i := len(sess.d.inflight) - 1; i >= 0; i-- {
		if e := &sess.d.inflight[i]; e.id == packet && e.state == outSent {
			e.state = outReceived
			break
		}
	}
	s.mu.rows.session(id)
}
