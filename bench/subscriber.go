package bench

import (
	"fmt"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// strayMax is how far ahead of the last a number can be before the delivery counts as a stray, not as a gap.
const strayMax = 1 << 30

// group is what several receivers get together, each message once: a shared subscription, or filters spread over
// connections. Its receivers all are on one loop.
type group struct {
	tracks []track // by publisher
}

// subscriber receives on one connection. It belongs to its loop.
type subscriber struct {
	c      *conn
	first  uint32  // the publisher whose track is tracks[0]
	tracks []track // of what this connection alone gets
	group  *group  // not nil: of a publisher, tracks has the order only and the group has the rest
	got    uint64

	unordered bool      // order is not promised: retained messages
	recs      *bitset16 // QoS 2: received and not released

	lastCell *cell
	credited uint64
}

// publish takes a PUBLISH.
func (s *subscriber) publish(h *wire.Header) error {
	c := s.c
	m, err := wire.DecodeServerPublish(h.Flags, h.Body, c.version)
	if err != nil {
		return err
	}
	c.l.stats.tally.out[m.QoS&3]++
	switch m.QoS {
	case 1:
		c.l.stats.tally.acksIn++
		c.write(wire.AppendShortAck(c.buffer(), wire.PUBACK, m.PacketID))
	case 2:
		c.l.stats.tally.acksIn++
		c.write(wire.AppendShortAck(c.buffer(), wire.PUBREC, m.PacketID))
		if s.recs == nil {
			s.recs = &bitset16{}
		}
		if s.recs.has(m.PacketID) {
			c.l.stats.resent++
			return nil // the same packet again, as QoS 2 allows before PUBREL
		}
		s.recs.add(m.PacketID)
	}
	s.count(&m)
	return nil
}

// release takes a PUBREL.
func (s *subscriber) release(h *wire.Header) error {
	a, err := wire.DecodeAck(h.Type, h.Body, s.c.version)
	if err != nil {
		return err
	}
	if s.recs != nil {
		s.recs.remove(a.PacketID)
	}
	s.c.l.stats.tally.acksIn++
	s.c.l.stats.tally.acksOut++
	s.c.write(wire.AppendShortAck(s.c.buffer(), wire.PUBCOMP, a.PacketID))
	return nil
}

// count verifies a message and takes its latency.
func (s *subscriber) count(m *wire.Publish) {
	l := s.c.l
	st := &l.stats
	st.received++
	r := l.run
	now := l.now
	if r.measured(now) {
		st.receivedMeasured++
	}
	x, ok := readStamp(m.Payload, r.cfg.Payload)
	if !ok {
		st.corrupt++
		st.fault(faultCorrupt, now)
		r.note("a corrupt message came", now)
		return
	}
	at := x.publisher - s.first
	if x.run != r.nonce || int(at) >= len(s.tracks) {
		st.stray++
		st.fault(faultStray, now)
		r.note("a message came that was not for this receiver", now)
		return
	}
	t := &s.tracks[at]
	if x.seq > t.next+strayMax {
		st.stray++
		st.fault(faultStray, now)
		return
	}
	s.got++
	if m.Dup {
		st.dup++
	}
	st.latency(now-x.intended, r.measured(x.intended))
	var verdict seen
	if s.group != nil {
		verdict = s.seeGroup(t, &x)
		t = &s.group.tracks[at]
	} else {
		verdict = t.see(x.seq, x.intended)
	}
	switch verdict {
	case seenDuplicate:
		st.duplicates++
		st.fault(faultDuplicate, now)
		if m.QoS != 1 {
			r.note(fmt.Sprintf("a message came twice at QoS %d", m.QoS), now)
		}
		return
	case seenLate:
		if !s.unordered {
			st.reordered++
			st.fault(faultReordered, now)
			r.note("a message came out of order", now)
		}
	default: // a first copy, in its place
	}
	st.fresh++
	if t.cell != s.lastCell {
		s.settle()
		s.lastCell = t.cell
	}
	s.credited++
}

// seeGroup judges a delivery to one member of a group: order by what this member saw, all else by what the group saw.
func (s *subscriber) seeGroup(own *track, x *stamp) seen {
	inOrder := own.seeOrder(x.seq)
	all := s.group.tracks[x.publisher-s.first].see(x.seq, x.intended)
	switch {
	case all == seenDuplicate:
		return seenDuplicate
	case !inOrder:
		return seenLate
	}
	return seenInOrder
}

// settle gives the credit collected since the last time.
func (s *subscriber) settle() {
	if s.credited > 0 && s.lastCell != nil {
		s.lastCell.credit(s.c.l, s.credited)
	}
	s.credited = 0
}
