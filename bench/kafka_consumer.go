package bench

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// kpart is a partition. Its read side belongs to the loop of its consumer.
type kpart struct {
	topic *ktopic
	index int32
	lanes []*lane

	end     int64 // where reading is over, or begins anew; negative: never
	next    int64
	done    bool
	queued  bool
	passed  bool // read from beginning to end at least once
	aborted []abortedRange
}

// abortedRange is a transaction of which nothing may be seen from first on.
type abortedRange struct{ producer, first int64 }

// ktopic is a topic of the run.
type ktopic struct {
	name  string
	id    [16]byte
	parts []*kpart
}

// kconsumer reads partitions on one connection: one Fetch under way, in a session as clients have it.
type kconsumer struct {
	c        *conn
	r        *kafkaRun
	parts    []*kpart
	again    bool // at the end of a partition, from its beginning
	running  bool
	waiting  bool // for an answer
	corr     int32
	session  int32
	epoch    int32
	changed  []*kpart
	unread   []fetched
	scratch  []byte
	left     int // partitions not read to the end
	failures int
}

// fetched are records to be looked at.
type fetched struct {
	part    *kpart
	records []byte
	from    int64 // the offset that was asked for
}

func (s *kconsumer) ready()      {}
func (s *kconsumer) next() int64 { return math.MaxInt64 }

// begin has the consumer read, until every partition with an end has come there.
func (s *kconsumer) begin() {
	s.left = 0
	s.session, s.epoch = 0, 0
	follow := false
	for _, p := range s.parts {
		follow = follow || p.end < 0
		p.done = p.end >= 0 && p.next >= p.end
		if !p.done && p.end >= 0 {
			s.left++
		}
	}
	s.running = follow || s.left > 0
}

// turn asks for more when nothing is under way.
func (s *kconsumer) turn() {
	if s.running && !s.waiting && s.c.phase == phaseReady {
		s.fetch()
	}
}

// fetch sends a Fetch: all partitions in the first one of a session, then those whose offset has changed.
func (s *kconsumer) fetch() {
	k := s.c.kafka
	cfg := &s.r.k
	parts := s.changed
	if s.epoch == 0 {
		parts = parts[:0]
		for _, p := range s.parts {
			if !p.done {
				parts = append(parts, p)
			}
		}
	}
	slices.SortFunc(parts, func(a, b *kpart) int { // partitions of a topic side by side
		if a.topic != b.topic {
			return slices.Compare(a.topic.id[:], b.topic.id[:])
		}
		return int(a.index - b.index)
	})
	out := s.c.buffer()
	start := len(out)
	out = k.begin(out, wire.Fetch, fetchVersion)
	s.corr = k.corr
	be := binary.BigEndian
	out = be.AppendUint32(out, uint32(cfg.FetchWait.Milliseconds()))
	out = be.AppendUint32(out, uint32(cfg.FetchMin))
	out = be.AppendUint32(out, uint32(cfg.FetchMax))
	isolation := byte(wire.ReadUncommitted)
	if s.r.k.Commit > 0 {
		isolation = byte(wire.ReadCommitted)
	}
	out = append(out, isolation)
	out = be.AppendUint32(out, uint32(s.session))
	out = be.AppendUint32(out, uint32(s.epoch))
	out = s.appendParts(out, parts)
	out = append(out, 1) // nothing is forgotten
	out = append(out, 1) // no rack
	s.c.write(k.finish(append(out, 0), start))
	s.c.l.stats.tally.fetches++
	for _, p := range parts {
		p.queued = false
	}
	s.changed = parts[:0]
	s.waiting = true
}

func (s *kconsumer) appendParts(out []byte, parts []*kpart) []byte {
	be := binary.BigEndian
	topics := 0
	for i, p := range parts {
		if i == 0 || p.topic != parts[i-1].topic {
			topics++
		}
	}
	out = compactLen(out, topics)
	for from := 0; from < len(parts); {
		t := parts[from].topic
		to := from
		for to < len(parts) && parts[to].topic == t {
			to++
		}
		out = compactLen(append(out, t.id[:]...), to-from)
		for _, p := range parts[from:to] {
			out = be.AppendUint32(out, uint32(p.index))
			out = be.AppendUint32(out, math.MaxUint32) // leader epoch not known
			out = be.AppendUint64(out, uint64(p.next))
			out = be.AppendUint32(out, math.MaxUint32)
			out = be.AppendUint64(out, math.MaxUint64)
			out = be.AppendUint32(out, uint32(s.r.k.FetchPartitionMax))
			out = append(out, 0)
		}
		out = append(out, 0)
		from = to
	}
	return out
}

// answer takes a Fetch response: first how far it goes, so that the next one is under way while its records are looked at.
func (s *kconsumer) answer(b []byte) error {
	in := kreader{b: b}
	if corr := in.i32(); corr != s.corr || !s.waiting {
		return fmt.Errorf("the broker answered request %d out of turn", corr)
	}
	s.waiting = false
	in.tags()
	in.i32() // throttle
	code := wire.ErrorCode(in.i16())
	session := in.i32()
	if code == wire.FetchSessionIDNotFound || code == wire.InvalidFetchSessionEpoch {
		return s.restart(code)
	}
	if code != wire.None {
		return fmt.Errorf("the broker refuses to fetch: %v", code)
	}
	s.unread = s.unread[:0]
	for range in.count(18) {
		var id [16]byte
		copy(id[:], in.take(16))
		t := s.r.byID[id]
		for range in.count(37) {
			if err := s.partition(&in, t); err != nil {
				return err
			}
		}
		in.tags()
	}
	in.tags()
	if in.bad {
		return errMalformed
	}
	s.session = session
	s.epoch++
	if session == 0 {
		s.epoch = 0 // no session: everything each time
	} else if s.epoch == math.MaxInt32 {
		s.epoch = 1
	}
	if s.running {
		s.fetch()
		s.c.flush()
	}
	for _, f := range s.unread {
		s.look(f)
	}
	return nil
}

// restart begins a new session after the broker has forgotten the one before.
func (s *kconsumer) restart(code wire.ErrorCode) error {
	if s.failures++; s.failures > 100 {
		return fmt.Errorf("the broker refuses to fetch: %v", code)
	}
	s.session, s.epoch = 0, 0
	return nil
}

// partition takes what a response says of one partition.
func (s *kconsumer) partition(in *kreader, t *ktopic) error {
	index := in.i32()
	code := wire.ErrorCode(in.i16())
	in.take(24) // high watermark, last stable offset, log start
	var aborted []abortedRange
	for range in.count(17) {
		aborted = append(aborted, abortedRange{in.i64(), in.i64()})
		in.tags()
	}
	in.i32() // preferred replica
	records := in.bytes()
	in.tags()
	if in.bad || t == nil || index < 0 || int(index) >= len(t.parts) {
		return errMalformed
	}
	p := t.parts[index]
	if code != wire.None {
		return fmt.Errorf("the broker refuses to fetch from %s/%d: %v", t.name, index, code)
	}
	if len(records) == 0 || p.done {
		return nil
	}
	p.aborted = append(p.aborted, aborted...)
	from := p.next
	for rest := records; ; {
		x, more, ok, bad := cutBatch(rest)
		if bad {
			return fmt.Errorf("what the broker stores in %s/%d at %d is no batch", t.name, index, p.next)
		}
		if !ok {
			break
		}
		p.next = max(p.next, x.last()+1)
		rest = more
	}
	if p.next > from {
		s.unread = append(s.unread, fetched{p, records, from})
		s.advanced(p)
	}
	return nil
}

// advanced notes that p has a new offset.
func (s *kconsumer) advanced(p *kpart) {
	if p.end >= 0 && p.next >= p.end {
		if s.again && s.running {
			p.next = 0
		} else {
			p.done = true
			if s.left--; s.left == 0 {
				s.running = false
			}
		}
	}
	if !p.queued { // of one that is done too: the broker would send what the session's last offset asks for again and again
		p.queued = true
		s.changed = append(s.changed, p)
	}
}

// look verifies the batches of one partition.
func (s *kconsumer) look(f fetched) {
	st := &s.c.l.stats
	measured := s.r.measured(s.c.l.now)
	p := f.part
	at := f.from
	for rest := f.records; ; {
		x, more, ok, _ := cutBatch(rest)
		if !ok {
			break
		}
		rest = more
		st.tally.batchesOut++
		st.tally.batchBytesOut += uint64(len(x.b))
		if measured {
			st.receivedBytes += uint64(len(x.b))
		}
		switch {
		case !x.intact():
			st.corrupt += uint64(max(x.count(), 1))
			st.fault(faultCorrupt, s.c.l.now)
			s.r.note("a batch came whose checksum does not fit", s.c.l.now)
		case x.last() < at:
			// a broker may begin before what was asked for
		case x.base() < at && at > f.from:
			st.reordered++
			st.fault(faultReordered, s.c.l.now)
			s.r.note(fmt.Sprintf("a batch at offset %d came after one that ends at %d", x.base(), at-1), s.c.l.now)
		case s.hidden(p, x):
		default:
			s.records(p, x, at)
		}
		at = max(at, x.last()+1)
	}
	if p.end >= 0 && at >= p.end && s.again {
		s.passed(p)
	}
}

// hidden tells whether a reader of committed records leaves x out.
func (s *kconsumer) hidden(p *kpart, x rbatch) bool {
	if x.control() {
		if x.marker() {
			p.aborted = slices.DeleteFunc(p.aborted, func(a abortedRange) bool { return a.producer == x.producer() && a.first <= x.last() })
		}
		return true
	}
	if !x.transaction() {
		return false
	}
	return slices.ContainsFunc(p.aborted, func(a abortedRange) bool { return a.producer == x.producer() && a.first <= x.last() })
}

// records verifies the records of a batch from an offset on.
func (s *kconsumer) records(p *kpart, x rbatch, from int64) {
	st := &s.c.l.stats
	b, scratch, ok := x.records(s.scratch)
	s.scratch = scratch
	if !ok {
		st.corrupt += uint64(max(x.count(), 1))
		st.fault(faultCorrupt, s.c.l.now)
		s.r.note("a batch came that cannot be opened", s.c.l.now)
		return
	}
	skip := max(from-x.base(), 0)
	for n := range x.count() {
		_, value, rest, ok := cutRecord(b)
		if !ok {
			st.corrupt += uint64(x.count() - n)
			st.fault(faultCorrupt, s.c.l.now)
			s.r.note("a record came that cannot be read", s.c.l.now)
			return
		}
		b = rest
		if int64(n) >= skip {
			s.count(p, value)
		}
	}
}

// count verifies one record and takes its latency.
func (s *kconsumer) count(p *kpart, value []byte) {
	l := s.c.l
	st, r := &l.stats, s.r
	st.received++
	st.tally.recordsOut++
	if r.measured(l.now) {
		st.receivedMeasured++
	}
	x, ok := readStamp(value, r.cfg.Payload)
	if !ok {
		st.corrupt++
		st.fault(faultCorrupt, l.now)
		r.note("a corrupt record came", l.now)
		return
	}
	id := x.publisher &^ abortedFlag
	if x.run != r.nonce && r.k.Scenario == "bound" {
		return // of an earlier run
	}
	if x.run != r.nonce || int(id) >= len(r.lanes) || r.lanes[id].part != nil && r.lanes[id].part != p || x.seq > r.lanes[id].track.next+strayMax {
		st.stray++
		st.fault(faultStray, l.now)
		r.note("a record came that was not sent to this partition", l.now)
		return
	}
	if x.publisher != id {
		r.shown.Add(1)
		st.fault(faultShown, l.now)
		r.note("a record of an aborted transaction came", l.now)
		return
	}
	if r.latencies {
		st.latency(l.now-x.intended, r.measured(x.intended))
	}
	switch r.lanes[id].track.see(x.seq, x.intended) {
	case seenDuplicate:
		st.duplicates++
		st.fault(faultDuplicate, l.now)
		r.note("a record came twice", l.now)
		return
	case seenLate:
		st.reordered++
		st.fault(faultReordered, l.now)
		r.note("a record came out of order", l.now)
	default:
	}
	st.fresh++
}

// passed judges one reading of a partition from beginning to end, and begins the next.
func (s *kconsumer) passed(p *kpart) {
	for _, l := range p.lanes {
		lost, excused := l.missing()
		if lost > 0 { // found at the end of the reading: when it came about, nobody knows
			s.c.l.stats.marks[faultLost].add(s.c.l.now, lost)
		}
		s.r.passLost.Add(lost)
		s.r.passUndecided.Add(excused)
		l.track = track{}
	}
	if !p.passed {
		p.passed = true
		s.r.passed.Add(1)
	}
	s.r.passes.Add(1)
}

// missing is what of a lane has not come, and of it what the broker never took over.
func (l *lane) missing() (lost, excused uint64) {
	return l.track.lost(l.seq, l.unanswered())
}

// unanswered are the numbers of the records that the broker never took over.
func (l *lane) unanswered() map[uint64]bool {
	open := map[uint64]bool{}
	for _, s := range l.lost {
		for n := s.from; n < s.to; n++ {
			open[n] = true
		}
	}
	return open
}
