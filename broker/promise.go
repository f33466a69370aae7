package broker

import (
	"encoding/binary"
	"slices"
)

// promise is a delivery that a durable session is owed outside the order of its queues: a QoS 2 message of a shared group, which is
// the session's own from the commit on, or a retained message that a subscription brings. It lies in the shard of its record, and the
// log holds that until the promise is kept.
type promise struct {
	from     uint64 // the filter's number: the shared group's, or the subscription's
	seq      uint64
	at       int64 // Unix milliseconds of when it was made
	shard    uint16
	id       uint16
	qos      QoS
	state    outState
	retained bool
	due      bool // of an earlier connection, and not yet sent in this one
	fresh    bool // surely sent by no connection: known to the process that made it
	lent     bool // counts among what the group's member has out
}

func (p *promise) ref() Ref { return Ref{Shard: p.shard, Seq: p.seq, Group: p.from} }

// Bits of a promise's flags; the lowest two are its QoS.
const (
	promiseRetained = 1 << 2
	promiseReceived = 1 << 3
)

func appendPromise(dst []byte, p *promise) []byte {
	flags := p.qos
	if p.retained {
		flags |= promiseRetained
	}
	if p.state == outReceived {
		flags |= promiseReceived
	}
	dst = binary.AppendUvarint(dst, p.from)
	dst = binary.AppendUvarint(dst, p.seq)
	dst = binary.AppendUvarint(dst, uint64(p.id))
	dst = binary.AppendUvarint(dst, uint64(p.at))
	return append(dst, flags)
}

func (d *decoder) promise(shard uint16) promise {
	p := promise{from: d.uvarint(), seq: d.uvarint(), id: uint16(d.uvarint()), at: int64(d.uvarint()), shard: shard, state: outSent}
	flags := d.uvarint()
	p.qos, p.retained = QoS(flags&3), flags&promiseRetained != 0
	if flags&promiseReceived != 0 {
		p.state = outReceived
	}
	return p
}

// applyPromise makes promises. Session 0 is a live member of a shared group: its group is done with the message, and nobody is owed it.
func (s *shard) applyPromise(b *Broker, d *decoder) {
	id := d.uvarint()
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := d.count(); n > 0; n-- {
		p := d.promise(uint16(s.id))
		if d.bad {
			return
		}
		if !p.retained {
			s.begunLocked(b, p.from, p.seq)
		}
		if id != 0 {
			s.promiseLocked(id, p)
		}
	}
	for n := d.count(); n > 0; n-- {
		number, left, place := d.uvarint(), d.uvarint(), d.bytes()
		if sess := s.mu.byID[id]; sess != nil && !d.bad {
			sess.d.movedOn(number, left != 0, place)
			s.mu.rows.session(id)
		}
	}
}

func (s *shard) promiseLocked(session uint64, p promise) {
	if s.mu.promised == nil {
		s.mu.promised = make(map[uint64][]promise)
	}
	s.mu.promised[session] = append(s.mu.promised[session], p)
	s.mu.rows.promise(session)
}

// neverSent notes that a connection ended before it sent what was promised: the next one sends it for the first time.
func (s *shard) neverSent(session uint64, packetID uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.mu.promised[session] {
		if p := &s.mu.promised[session][i]; p.id == packetID {
			p.fresh = true
		}
	}
}

// applyKept ends promises that were kept.
func (s *shard) applyKept(d *decoder) {
	id := d.uvarint()
	var ids []uint16
	for n := d.count(); n > 0 && !d.bad; n-- {
		ids = append(ids, uint16(d.uvarint()))
	}
	if d.bad {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unpromiseLocked(id, ids)
}

func (s *shard) unpromiseLocked(session uint64, ids []uint16) {
	slices.Sort(ids)
	list := slices.DeleteFunc(s.mu.promised[session], func(p promise) bool {
		_, found := slices.BinarySearch(ids, p.id)
		return found
	})
	if len(list) == 0 {
		delete(s.mu.promised, session)
	} else {
		s.mu.promised[session] = list
	}
	s.mu.rows.promise(session)
}

// applyBack gives messages back to their shared groups: they were never sent.
func (s *shard) applyBack(b *Broker, d *decoder) {
	id := d.uvarint()
	var ids []uint16
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := d.count(); n > 0; n-- {
		p := d.promise(uint16(s.id))
		if d.bad {
			break
		}
		ids = append(ids, p.id)
		if g := s.savedGroupLocked(b, p.from); g != nil {
			g.saved.reopen(p.seq)
		}
	}
	if id != 0 {
		s.unpromiseLocked(id, ids)
	}
}

// dropPromises forgets what a session is owed that has ended.
func (s *shard) dropPromisesLocked(session uint64) {
	if s.mu.promised[session] != nil {
		delete(s.mu.promised, session)
		s.mu.rows.promise(session)
	}
}

// promisedFrom is the first sequence that a promise still needs, or start if that is lower. What is older than the bound on what waits
// for a session is not held.
func (s *shard) promisedFromLocked(start uint64, oldest int64) uint64 {
	for _, list := range s.mu.promised {
		for i := range list {
			if p := &list[i]; p.state == outSent && p.at >= oldest {
				start = min(start, p.seq)
			}
		}
	}
	return start
}

func (s *shard) encodePromisesLocked(session uint64) (row []byte) {
	for i := range s.mu.promised[session] {
		row = appendPromise(row, &s.mu.promised[session][i])
	}
	return row
}

func (s *shard) loadPromises(session uint64, row []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := decoder{b: row}
	for len(d.b) > 0 {
		if p := d.promise(uint16(s.id)); !d.bad {
			s.promiseLocked(session, p)
		}
	}
	clear(s.mu.rows.promises)
	return d.ok()
}
