package broker

import (
	"encoding/binary"
	"slices"

	"github.com/sluicemq/sluice/journal/record"
)

// references iterates over a reference block, an item for each record.
type references struct {
	d        decoder
	flags    uint64
	size     int
	session  uint64
	packetID uint16
	delayed  uint64 // number of the delayed message that it was
	tenant   uint32
	numbers  []uint64
}

func (r *references) reset(extra []byte) { r.d = decoder{b: extra} }

func (r *references) next() bool {
	if len(r.d.b) == 0 {
		return false
	}
	r.flags, r.size = r.d.uvarint(), int(r.d.uvarint()&(1<<31-1))
	if r.flags&refDedupe != 0 {
		r.session, r.packetID = r.d.uvarint(), uint16(r.d.uvarint())
	}
	if r.flags&refDelayed != 0 {
		r.delayed = r.d.uvarint()
	}
	if r.tenant = 0; r.flags&refTenant != 0 {
		r.tenant = uint32(r.d.uvarint())
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
	s.applying.Lock()
	if p.records > 0 {
		s.applyRecords(l.b, p.extra, record.Batch(p.sealed), p.baseSeq)
	}
	if len(p.batches) > 0 {
		l.applyBatches(s, p)
	}
	if len(p.cmds) > 0 {
		s.applyCommands(l.b, p.cmds)
	}
	s.mu.Lock()
	s.mu.applied, s.mu.place = p.index, at
	s.mu.Unlock()
	s.applying.Unlock()
	l.deliverPending(s, p)
	s.recycle(p)
}

// applyRecords is the part of apply that recovery shares: QoS 2 identifiers, filter queues, retained messages.
func (s *shard) applyRecords(b *Broker, extra []byte, batch record.Batch, baseSeq uint64) {
	refs := &s.refs
	refs.reset(extra)
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
		if refs.flags&refDelayed != 0 {
			s.dropDelayedLocked(b, refs.delayed)
		}
		for _, n := range refs.numbers {
			if q := s.queueLocked(n); q.add(seq, refs.size, now) && !q.grown {
				q.grown = true
				s.mu.grown = append(s.mu.grown, q)
			}
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
	refs := &s.refs
	refs.reset(extra)
	var props []byte
	for it := batch.Records(); it.Next() && refs.next(); {
		if refs.flags&refRetain == 0 {
			continue
		}
		var m Message
		props, _ = messageOf(&m, it.Record(), props)
		if refs.flags&refLoose != 0 && b.retained.younger(refs.tenant, &m) {
			continue
		}
		if b.retained.keep(refs.tenant, &m, b) {
			s.mu.Lock()
			s.mu.rows.topics.add(refs.tenant, m.Topic)
			s.mu.Unlock()
		}
	}
}

func (s *shard) queueLocked(number uint64) *queue {
	q := s.mu.queues[number]
	if q == nil {
		if s.mu.queues == nil {
			s.mu.queues = make(map[uint64]*queue)
		}
		q = &queue{number: number, total: &s.home.b.queued}
		s.mu.queues[number] = q
	}
	return q
}

func (s *shard) addReceivedLocked(session uint64, packetID uint16) {
	if s.mu.received == nil {
		s.mu.received = make(map[uint64][]uint16)
	}
	if ids := s.mu.received[session]; !slices.Contains(ids, packetID) {
		s.mu.received[session] = append(ids, packetID)
		s.mu.rows.received(session)
	}
}

// deliverPending routes and answers what apply has taken in, in order.
func (l *Local) deliverPending(s *shard, p *pending) {
	if p.since == 0 {
		l.deliverEntries(s, p)
		if len(p.batches) > 0 {
			l.deliverBatches(p)
		}
	} else {
		acked := uint64(0)
		l.timed(p.since, func() {
			acked = l.deliverEntries(s, p)
			if len(p.batches) > 0 {
				acked += l.deliverBatches(p)
			}
		})
		l.b.latencies.Ack.observe(l.b.clock.Mono()-p.since, acked)
	}
}

// deliverEntries is deliverPending for all but batches. It counts the publishers that were answered.
func (l *Local) deliverEntries(s *shard, p *pending) (acked uint64) {
	var it record.BatchReader
	refs := &s.refs
	refs.reset(p.extra)
	if p.records > 0 {
		it = record.Batch(p.sealed).Records()
	}
	seq := p.baseSeq
	m := &l.message
	for i := range p.entries {
		e := &p.entries[i]
		matched := false
		switch e.kind {
		case entryRecord:
			if e.trace.Asked() {
				l.traceKept(s, seq, e.trace)
			}
			if it.Next() && refs.next() && e.live {
				l.props, _ = messageOf(m, it.Record(), l.props)
				m.Publisher = e.pub
				m.Trace = e.trace
				matched = l.deliverKept(s, e.match, m, seq, refs)
			}
			seq++
		case entryTransient:
			e.bundle.view(0, m)
			mt := l.stillGood(e.match, e.tenant, m.Topic)
			matched = mt.any
			l.deliverAll(mt, m, Ref{})
			putBundle(e.bundle)
		case entryCommand:
			if e.done != nil {
				e.done()
				continue
			}
		}
		if e.c != nil && e.kind != entryCommand {
			acked++
		}
		l.complete(e.c, Result{Token: e.tok, Matched: matched, Trace: e.trace})
	}
	return acked
}

// deliverKept routes a committed record, and says whether it matched. Its durable subscribers know it by its sequence.
func (l *Local) deliverKept(s *shard, mt *match, m *Message, seq uint64, refs *references) (matched bool) {
	ref := Ref{}
	if len(refs.numbers) > 0 {
		ref = Ref{Shard: uint16(s.id), Seq: seq}
	}
	mt = l.stillGood(mt, refs.tenant, m.Topic)
	if mt.any {
		l.deliverAll(mt, m, ref)
	}
	return mt.any || len(refs.numbers) > 0
}

// fail answers everybody in a pending list that could not be written. The tables never saw it.
func (l *Local) fail(s *shard, p *pending, err error) {
	for i := range p.entries {
		l.failEntry(&p.entries[i], err)
	}
	if len(p.batches) > 0 {
		l.failBatches(p, err)
	}
	s.recycle(p)
}

func (l *Local) failEntry(e *entry, err error) {
	if e.bundle != nil {
		putBundle(e.bundle)
	}
	if e.failed != nil {
		e.failed(err)
		return
	}
	l.complete(e.c, Result{Token: e.tok, Err: err, Trace: e.trace})
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
	cmdPromise     = 12
	cmdKept        = 13
	cmdBack        = 14
	cmdRelayed     = 15
	cmdDelay       = 16
	cmdDelayGone   = 17
	cmdDelayCancel = 18

	// Of Kafka's groups.
	cmdGroupMeta   = 32 // of earlier versions
	cmdOffsets     = 33
	cmdOffsetsGone = 34
	cmdGroupGone   = 35
	cmdGroupChange = 36

	// Of streams.
	cmdLogStart      = 40
	cmdProducersGone = 41
	cmdRestore       = 42

	// Of transactions.
	cmdTxn           = 48
	cmdTxnOffsets    = 49
	cmdTxnOffsetsEnd = 50
	cmdProducerIDs   = 51

	// Of topics; in shard 0.
	cmdTopic     = 64
	cmdTopicGone = 65

	// Of the catalog; in shard 0.
	cmdEntries = 66

	// Of the tier.
	cmdTier = 67

	cmdPartitionIDs = 68 // in shard 0
)

// applyCommands applies a command frame; recovery calls it as well. Length: a case for each command.
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
			s.applyDisconnect(&c)
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
			s.applyGroup(b, &c)
		case cmdPromise:
			s.applyPromise(b, &c)
		case cmdKept:
			s.applyKept(&c)
		case cmdBack:
			s.applyBack(b, &c)
		case cmdRelayed:
			s.applyRelayed(b, &c)
		case cmdDelay:
			s.applyDelay(b, &c)
		case cmdDelayGone:
			s.applyDelayGone(b, c.uvarint())
		case cmdDelayCancel:
			s.applyDelayCancel(b, &c)
		case cmdGroupMeta:
			s.applyGroupMeta(&c)
		case cmdGroupChange:
			s.applyGroupChange(&c)
		case cmdOffsets:
			s.applyOffsets(&c)
		case cmdOffsetsGone:
			s.applyOffsetsGone(&c)
		case cmdGroupGone:
			s.applyGroupGone(&c)
		case cmdLogStart:
			s.applyLogStart(b, record.PartitionID(c.uvarint()), record.Offset(c.uvarint()))
		case cmdProducersGone:
			s.applyProducersGone(b, record.PartitionID(c.uvarint()), int64(c.uvarint()))
		case cmdTxn:
			s.applyTxnID(&c)
		case cmdTxnOffsets:
			s.applyTxnOffsets(&c)
		case cmdTxnOffsetsEnd:
			s.applyTxnOffsetsEnd(&c)
		case cmdProducerIDs:
			s.applyProducerIDs(c.uvarint())
		case cmdTopic:
			s.applyTopic(b, &c)
		case cmdTopicGone:
			s.applyTopicGone(b, &c)
		case cmdPartitionIDs:
			s.applyPartitionIDs(b, record.PartitionID(c.uvarint()))
		case cmdEntries:
			s.applyEntries(b, &c)
		case cmdRestore:
			s.applyRestore(b, &c)
		case cmdTier:
			s.applyTier(b, &c)
		}
	}
}

func (s *shard) applyRelease(session uint64, packetID uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.mu.received[session]
	i := slices.Index(ids, packetID)
	if i < 0 {
		return
	}
	s.mu.rows.received(session)
	if len(ids) == 1 {
		delete(s.mu.received, session)
		return
	}
	ids[i] = ids[len(ids)-1]
	s.mu.received[session] = ids[:len(ids)-1]
}

func appendCommand(dst []byte, cmd, session uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, cmd), session)
}
