package broker

import (
	"encoding/binary"

	"github.com/sluicemq/sluice/journal/record"
)

// references iterates over a reference block, an item for each record.
type references struct {
	d        decoder
	flags    uint64
	size     int
	session  uint64
	packetID uint16
	numbers  []uint64
}

func (r *references) next() bool {
	if len(r.d.b) == 0 {
		return false
	}
	r.flags, r.size = r.d.uvarint(), int(r.d.uvarint())
	if r.flags&refDedupe != 0 {
		r.session, r.packetID = r.d.uvarint(), uint16(r.d.uvarint())
	}
	r.numbers = r.numbers[:0]
	for n := r.d.count(); n > 0; n-- {
		r.numbers = append(r.numbers, r.d.uvarint())
	}
	return r.d.ok()
}

// apply changes the tables by what a shard has committed, then gives live subscribers their messages and the publishers
// their answers, in index order. It runs on the shard's home loop.
func (l *Local) apply(s *shard, p *pending, at Place) {
	if p.records > 0 {
		s.applyRecords(l.b, p.extra, record.Batch(p.sealed), p.baseSeq)
	}
	if len(p.cmds) > 0 {
		s.applyCommands(l.b, p.cmds)
	}
	s.mu.Lock()
	s.mu.applied, s.mu.place = p.index, at
	s.mu.Unlock()
	l.deliverPending(s, p)
	p.reset()
	s.mu.Lock()
	s.mu.free = p
	s.mu.Unlock()
}

// applyRecords is the part of apply that recovery shares: QoS 2 identifiers, filter queues, retained messages.
func (s *shard) applyRecords(b *Broker, extra []byte, batch record.Batch, baseSeq uint64) {
	refs := references{d: decoder{b: extra}}
	retains := false
	s.mu.Lock()
	now := batch.MaxTimestamp()
	seq := baseSeq
	for ; refs.next(); seq++ {
		if refs.flags&refRetain != 0 {
			retains = true
		}
		if refs.flags&refDedupe != 0 {
			s.addReceivedLocked(refs.session, refs.packetID)
		}
		for _, n := range refs.numbers {
			s.queueLocked(n).add(seq, refs.size, now)
		}
	}
	s.mu.nextSeq = max(s.mu.nextSeq, seq)
	s.mu.appliedSeq = max(s.mu.appliedSeq, seq)
	s.mu.Unlock()
	if retains {
		s.applyRetained(b, extra, batch)
	}
}

func (s *shard) applyRetained(b *Broker, extra []byte, batch record.Batch) {
	refs := references{d: decoder{b: extra}}
	var props []byte
	for it := batch.Records(); it.Next() && refs.next(); {
		if refs.flags&refRetain == 0 {
			continue
		}
		var m Message
		props, _ = messageOf(&m, it.Record(), props)
		b.retained.put(0, &m, b)
		s.mu.Lock()
		s.mu.rows.retained(m.Topic)
		s.mu.Unlock()
	}
}

func (s *shard) queueLocked(number uint64) *queue {
	q := s.mu.queues[number]
	if q == nil {
		if s.mu.queues == nil {
			s.mu.queues = make(map[uint64]*queue)
		}
		q = &queue{number: number}
		s.mu.queues[number] = q
	}
	return q
}

func (s *shard) addReceivedLocked(session uint64, packetID uint16) {
	if s.mu.received == nil {
		s.mu.received = make(map[uint64]map[uint16]struct{})
	}
	ids := s.mu.received[session]
	if ids == nil {
		ids = make(map[uint16]struct{})
		s.mu.received[session] = ids
	}
	ids[packetID] = struct{}{}
	s.mu.rows.received(session)
}

// deliverPending routes and answers what apply has taken in, in order.
func (l *Local) deliverPending(s *shard, p *pending) {
	var it record.BatchReader
	refs := references{d: decoder{b: p.extra}}
	if p.records > 0 {
		it = record.Batch(p.sealed).Records()
	}
	seq := p.baseSeq
	m := &l.message
	for i := range p.entries {
		e := &p.entries[i]
		switch e.kind {
		case entryRecord:
			if it.Next() && refs.next() && e.live {
				l.props, _ = messageOf(m, it.Record(), l.props)
				m.Publisher = e.pub
				l.deliverKept(s, m, seq, &refs)
			}
			seq++
		case entryTransient:
			e.bundle.view(0, m)
			l.deliverAll(l.route(e.c.tenant, m.Topic), m, Ref{})
			putBundle(e.bundle)
		case entryCommand:
			if e.done != nil {
				e.done()
				continue
			}
		}
		l.complete(e.c, e.tok, nil)
	}
}

// deliverKept routes a committed record. Its durable subscribers know it by its sequence.
func (l *Local) deliverKept(s *shard, m *Message, seq uint64, refs *references) {
	mt := l.route(0, m.Topic)
	if !mt.any {
		return
	}
	ref := Ref{}
	if len(refs.numbers) > 0 {
		ref = Ref{Shard: uint16(s.id), Seq: seq}
	}
	l.deliverAll(mt, m, ref)
}

// fail answers everybody in a pending list that could not be written. The tables never saw it.
func (l *Local) fail(s *shard, p *pending, err error) {
	for i := range p.entries {
		e := &p.entries[i]
		if e.bundle != nil {
			putBundle(e.bundle)
		}
		if e.failed != nil {
			e.failed(err)
			continue
		}
		l.complete(e.c, e.tok, err)
	}
	p.reset()
	s.mu.Lock()
	s.mu.free = p
	s.mu.Unlock()
}

// The commands of a shard. Their numbers are on disk.
const (
	cmdSession     = 1 // create a session, or open one anew
	cmdDisconnect  = 2
	cmdRemove      = 3
	cmdSubscribe   = 4
	cmdUnsubscribe = 5
	cmdPosition    = 6
	cmdGrant       = 7
	cmdReceived    = 8
	cmdRelease     = 9
	cmdWillDone    = 10
	cmdGroup       = 11
)

// applyCommands applies a command frame; recovery calls it as well.
func (s *shard) applyCommands(b *Broker, cmds []byte) {
	for d := (decoder{b: cmds}); len(d.b) > 0; {
		c := decoder{b: d.bytes()}
		if !d.ok() {
			return
		}
		switch c.uvarint() {
		case cmdSession:
			s.applySession(b, &c)
		case cmdDisconnect:
			s.applyDisconnect(b, &c)
		case cmdRemove:
			s.applyRemove(b, c.uvarint())
		case cmdSubscribe:
			s.applySubscribe(b, &c)
		case cmdUnsubscribe:
			s.applyUnsubscribe(b, &c)
		case cmdPosition:
			s.applyPosition(&c)
		case cmdGrant:
			s.applyGrant(&c)
		case cmdReceived:
			s.applyReceived(&c)
		case cmdRelease:
			s.applyRelease(c.uvarint(), uint16(c.uvarint()))
		case cmdWillDone:
			s.applyWillDone(c.uvarint())
		case cmdGroup:
			s.applyGroup(c.uvarint(), c.uvarint())
		}
	}
}

func (s *shard) applyRelease(session uint64, packetID uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ids := s.mu.received[session]; ids != nil {
		delete(ids, packetID)
		if len(ids) == 0 {
			delete(s.mu.received, session)
		}
		s.mu.rows.received(session)
	}
}

func appendCommand(dst []byte, cmd, session uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, cmd), session)
}
