package broker

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
)

// Bits of a reference item's flags.
const (
	refRetain  = 1 << iota // the record is its topic's retained message; without a value it clears it
	refDedupe              // a session number and a packet identifier follow
	refLive                // route it to live subscribers
	refLoose               // of a retained one: what is retained already may be younger, and stays then
	refDelayed             // it was a delayed message, whose number follows, and is one no more
	refTenant              // it is a tenant's other than the default one, whose number follows
)

// Publish takes one message from c (nil for the broker's own). m is a view. When dedupe is set (QoS 2), the packet identifier
// in the low 16 bits of t is remembered until Release: for a durable session on stable storage, for a live one not at all
// (the protocol keeps those itself). On ErrBusy nothing was taken: stop reading, leave the packet in the input, and come
// again after ControlResume.
func (l *Local) Publish(c *Client, m *Message, dedupe bool, t Token) (Outcome, error) {
	if c == nil {
		return l.publish(nil, 0, m, dedupe, t)
	}
	m.Publisher = c.Slot
	return l.publish(c, c.tenant, m, dedupe, t)
}

// publish is Publish for a tenant: c's, or that of somebody who is gone.
func (l *Local) publish(c *Client, tenant uint32, m *Message, dedupe bool, t Token) (Outcome, error) {
	l.begin()
	if m.Retain && !l.b.retained.admits(tenant, m, l.b) {
		return 0, ErrQuota
	}
	mt := l.route(tenant, m.Topic)
	if m.Trace.Asked() {
		l.traceRoute(tenant, m, mt)
	}
	for mt.bound != nil {
		out, err := l.publishBound(c, m, mt.bound, dedupe, t)
		if !errors.Is(err, errUnbound) {
			return out, err
		}
		mt = l.route(tenant, m.Topic) // the bindings have changed before its stream heard of that
	}
	l.joinedBy(c, m)
	keep := m.QoS > 0 && len(mt.durable)+len(l.joined) > 0
	dedupe = dedupe && c != nil && c.sess.d != nil
	if !keep && !m.Retain && !dedupe {
		if c == nil || c.waiting == 0 || m.QoS == 0 {
			if m.QoS > 0 {
				l.times.acked++
			}
			return l.routeNow(mt, m), nil
		}
		return l.transient(c, mt, m, t)
	}
	if m.QoS == 0 && !keep {
		// The live part of a retained QoS 0 message does not wait for the disk; its retained part has no acknowledgement.
		if _, err := l.journal(c, tenant, mt, m, false, false, 0); err != nil {
			return 0, err
		}
		return l.routeNow(mt, m), nil
	}
	return l.journal(c, tenant, mt, m, dedupe, true, t)
}

// routeNow gives m to whoever is there.
func (l *Local) routeNow(mt *match, m *Message) Outcome {
	if !mt.any {
		return NoMatch
	}
	l.deliverAll(mt, m, Ref{})
	return Routed
}

// transient puts a message that nobody keeps behind the publisher's earlier ones, which wait for their commit, so that order
// holds.
func (l *Local) transient(c *Client, mt *match, m *Message, t Token) (Outcome, error) {
	s := l.b.shardOf(c.tenant, m.Topic)
	s.mu.Lock()
	if !s.leadsLocked() {
		s.mu.Unlock()
		return 0, ErrNotLeader
	}
	p, ok := s.fillLocked(len(m.Topic) + len(m.Payload) + len(m.Props))
	if !ok {
		s.waitLocked(c)
		s.mu.Unlock()
		return 0, ErrBusy
	}
	p.sinceAtMost(l.times.began)
	p.entries = append(p.entries, entry{kind: entryTransient, c: c, tenant: c.tenant, tok: t, bundle: carry(m), match: mt, trace: m.Trace})
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	c.waiting++
	return Pending, nil
}

// journal puts m, whose match is mt, into its topic's shard's pending list. waits says that c is to be told when it is committed.
func (l *Local) journal(c *Client, tenant uint32, mt *match, m *Message, dedupe, waits bool, t Token) (Outcome, error) {
	if err := l.b.writable(); err != nil {
		return 0, err
	}
	if len(m.Payload) > 0 || !m.Retain { // clearing a retained message makes room
		if err := l.b.room(); err != nil {
			return 0, err
		}
	}
	in := record.Input{Key: m.Topic, Value: m.Payload, Timestamp: m.Timestamp}
	if in.Value == nil {
		in.Value = []byte{}
	}
	var publisher uint64
	if c != nil && c.sess.d != nil && (c.sess.d.noLocal.Load() || len(l.joined) > 0) {
		publisher = c.sess.d.id
	}
	l.headers, in.RawCount = appendMessageHeaders(l.headers[:0], m, publisher)
	in.RawHeaders = l.headers
	s := l.b.shardOf(tenant, m.Topic)
	s.mu.Lock()
	if !s.leadsLocked() {
		s.mu.Unlock()
		return 0, ErrNotLeader
	}
	p, ok := s.fillLocked(record.InputSize(&in))
	if !ok {
		if c != nil {
			s.waitLocked(c)
		}
		s.mu.Unlock()
		return 0, ErrBusy
	}
	// A subscription that was activated since the match counts from before this record: it must be among its references.
	mt = l.stillGood(mt, tenant, m.Topic)
	before := len(p.extra)
	l.reference(p, c, tenant, m, mt, dedupe, waits, uint16(t))
	p.size += len(p.extra) - before
	s.appendRecordLocked(p, &in)
	e := entry{kind: entryRecord, live: waits, pub: m.Publisher, match: mt, trace: m.Trace}
	if waits {
		e.c, e.tok = c, t
	}
	p.sinceAtMost(l.times.began)
	p.entries = append(p.entries, e)
	first := s.markDirtyLocked()
	s.mu.Unlock()
	if first {
		l.b.dirtyShard(s)
	}
	if waits && c != nil {
		c.waiting++
	}
	if dedupe {
		c.feed.received[uint16(t)] = s
	}
	l.b.stats.Journaled.Add(1)
	return Pending, nil
}

// waitLocked has c told when the pending list has been gathered. A client waits in one list at a time.
func (s *shard) waitLocked(c *Client) {
	if c.flags&clientStarved == 0 {
		c.flags |= clientStarved
		s.mu.waiting = append(s.mu.waiting, c)
	}
}

// reference appends the record's item to the reference block: flags, size, dedupe, tenant, and the durable filters that matched.
func (l *Local) reference(p *pending, c *Client, tenant uint32, m *Message, mt *match, dedupe, live bool, packetID uint16) {
	flags := uint64(0)
	if m.Retain {
		flags |= refRetain
	}
	if dedupe {
		flags |= refDedupe
	}
	if live {
		flags |= refLive
	}
	if m.delayed != 0 {
		flags |= refDelayed
	}
	if tenant != 0 {
		flags |= refTenant
	}
	x := binary.AppendUvarint(p.extra, flags)
	x = binary.AppendUvarint(x, uint64(len(m.Topic)+len(m.Payload)+len(m.Props)))
	if dedupe {
		x = binary.AppendUvarint(x, c.sess.d.id)
		x = binary.AppendUvarint(x, uint64(packetID))
	}
	if m.delayed != 0 {
		x = binary.AppendUvarint(x, m.delayed)
	}
	if tenant != 0 {
		x = binary.AppendUvarint(x, uint64(tenant))
	}
	if m.QoS == 0 {
		p.extra = binary.AppendUvarint(x, 0)
		return
	}
	late := l.joined
	if len(late) > 0 {
		late = slices.DeleteFunc(late, func(n uint64) bool { return slices.Contains(mt.durable, n) })
	}
	x = binary.AppendUvarint(x, uint64(len(mt.durable)+len(late)))
	for _, numbers := range [2][]uint64{mt.durable, late} {
		for _, n := range numbers {
			x = binary.AppendUvarint(x, n)
		}
	}
	p.extra = x
}

// Release ends a QoS 2 publish of a durable session (PUBREL). Routed: answer now; Pending: Completed follows.
func (l *Local) Release(c *Client, packetID uint16, t Token) (Outcome, error) {
	if c.feed == nil {
		return Routed, nil
	}
	d := c.sess.d
	s, ok := c.feed.received[packetID]
	if !ok {
		return Routed, nil
	}
	cmd := binary.AppendUvarint(l.headers[:0], cmdRelease)
	cmd = binary.AppendUvarint(cmd, d.id)
	cmd = binary.AppendUvarint(cmd, uint64(packetID))
	l.headers = cmd
	if err := l.b.command(s, cmd, entry{c: c, tok: t}); err != nil {
		return 0, err
	}
	delete(c.feed.received, packetID)
	c.waiting++
	return Pending, nil
}
