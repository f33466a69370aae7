package broker

import (
	"encoding/binary"
	"slices"
)

type outState uint8

const (
	outSent     outState = iota + 1
	outGranting          // its grant is to be handed to the journal at the end of the turn
	outReceived          // PUBREC came
	outDone
	outGranted // its grant waits for the commit, or for room
)

// outEntry is a message that was sent and not yet finished, or one that is done while an earlier one is not.
type outEntry struct {
	seq   uint64
	shard uint16
	id    uint16
	qos   QoS
	state outState
	due   bool // sent in an earlier connection, and not yet again in this one
}

func (e *outEntry) ref() Ref { return Ref{Shard: e.shard, Seq: e.seq} }

// push remembers a message that is on its way. What needs no acknowledgement moves the position at once if nothing is before it.
// The entries of one shard are pushed in the order of their sequences: that lets the position follow the head.
func (f *feed) push(e outEntry) {
	f.changed = true
	if e.state == outDone {
		if f.head == len(f.out) {
			f.advance(&e)
			return
		}
		if last := &f.out[len(f.out)-1]; last.state == outDone && last.shard == e.shard && last.id == 0 && e.id == 0 {
			last.seq = e.seq
			return
		}
	} else {
		f.open++
	}
	f.put(e)
}

func (f *feed) put(e outEntry) {
	if f.head > 64 && f.head*2 > len(f.out) {
		f.out = f.out[:copy(f.out, f.out[f.head:])]
		f.head = 0
	}
	f.out = append(f.out, e)
}

// done remembers a message that needs no acknowledgement.
func (f *feed) done(ref Ref) { f.push(outEntry{seq: ref.Seq, shard: ref.Shard, state: outDone}) }

func (f *feed) advance(e *outEntry) { f.position = setSeq(f.position, e.shard, e.seq) }

// find gives the open entry of a packet identifier.
func (f *feed) find(id uint16) *outEntry {
	for i := f.head; i < len(f.out); i++ {
		if e := &f.out[i]; e.id == id && (e.state == outSent || e.state == outReceived) {
			return e
		}
	}
	for i := range f.restored {
		if e := &f.restored[i]; e.id == id && e.state != outDone {
			return e
		}
	}
	return nil
}

// finish marks the open entry of a packet identifier done and moves the position over what is done from the front.
func (f *feed) finish(id uint16) bool {
	e := f.find(id)
	if e == nil {
		return false
	}
	f.close(e)
	return true
}

func (f *feed) close(e *outEntry) {
	if e.due {
		e.due = false
		f.due--
	}
	e.state = outDone
	f.open--
	f.changed = true
	for f.head < len(f.out) && f.out[f.head].state == outDone {
		f.advance(&f.out[f.head])
		f.head++
	}
	if f.head == len(f.out) {
		f.out, f.head = f.out[:0], 0
	}
}

// freeID gives a packet identifier of the core's own that nothing in flight has.
func (f *feed) freeID() uint16 {
	for {
		id := f.nextID
		f.nextID++
		if f.nextID < CorePacketIDs {
			f.nextID = CorePacketIDs
			f.reused = true
		}
		if !f.reused || !f.used(id) {
			return id
		}
	}
}

func (f *feed) used(id uint16) bool {
	for i := f.head; i < len(f.out); i++ {
		if f.out[i].id == id && f.out[i].state != outDone {
			return true
		}
	}
	for i := range f.restored {
		if f.restored[i].id == id && f.restored[i].state != outDone {
			return true
		}
	}
	_, used := f.promised[id]
	return used
}

// meet tells whether ref was sent in an earlier connection. Its entry takes its place in the order now, so that the position does not
// pass what lies before it.
func (f *feed) meet(ref Ref) bool {
	if len(f.skip) == 0 {
		return false
	}
	at := shardSeq{ref.Shard, ref.Seq}
	if _, sent := f.skip[at]; !sent {
		return false
	}
	delete(f.skip, at)
	i := slices.IndexFunc(f.restored, func(e outEntry) bool { return e.seq == ref.Seq && e.shard == ref.Shard })
	if i < 0 {
		return true
	}
	e := f.restored[i]
	f.restored = slices.Delete(f.restored, i, i+1)
	if e.state == outDone {
		f.push(e)
	} else {
		f.put(e)
	}
	return true
}

// encode appends the session's progress: its positions, and what is above them. all adds QoS 1 messages in flight, so that an
// orderly end keeps their packet identifiers; a grant that is not committed by then was never sent, and is made anew.
func (f *feed) encode(dst []byte, all bool) []byte {
	dst = appendSeqs(dst, f.position)
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	n := uint32(0)
	for _, e := range f.restored {
		if e.state != outDone || e.seq > seqOf(f.position, e.shard) {
			dst = appendOut(dst, e)
			n++
		}
	}
	for _, e := range f.out[f.head:] {
		switch {
		case e.state == outGranting, e.state == outGranted && all, e.qos == 1 && e.state == outSent && !all:
			continue
		case e.state == outGranted:
			e.state = outSent
		}
		dst = appendOut(dst, e)
		n++
	}
	binary.LittleEndian.PutUint32(dst[at:], n)
	return dst
}

func appendOut(dst []byte, e outEntry) []byte {
	dst = binary.AppendUvarint(dst, uint64(e.shard))
	dst = binary.AppendUvarint(dst, e.seq)
	dst = binary.AppendUvarint(dst, uint64(e.id))
	return append(dst, e.qos, byte(e.state))
}

func (d *decoder) out() outEntry {
	e := outEntry{shard: uint16(d.uvarint()), seq: d.uvarint(), id: uint16(d.uvarint())}
	e.qos, e.state = QoS(d.uvarint()), outState(d.uvarint())
	return e
}

// progress reads what feed.encode wrote.
func (d *decoder) progress() (position []shardSeq, inflight []outEntry) {
	position = d.seqs()
	if len(d.b) < 4 {
		d.bad, d.b = true, nil
		return nil, nil
	}
	n := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	for ; n > 0 && !d.bad; n-- {
		if e := d.out(); !d.bad {
			inflight = append(inflight, e)
		}
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
