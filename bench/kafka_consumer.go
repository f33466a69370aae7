package bench

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// kpart is a partition. Its read side belongs to the loop of its consumer.
type kpart struct {
	topic  *ktopic
	index  int32
	number int // in the run
	lanes  []*lane

	end     int64 // where reading is over, or begins anew; negative: never
	next    int64
	done    bool
	queued  bool
	passed  bool // read from beginning to end at least once
	aborted []abortedRange
	from    *kfetcher // nil: it is not known who leads
	stuckAt int64     // since when not

	ackedAt, pause, pauseEnd atomic.Int64 // the last acknowledgement, the longest pause and when that ended
}

// abortedRange is a transaction of which nothing may be seen from first on.
type abortedRange struct{ producer, first int64 }

// ktopic is a topic of the run.
type ktopic struct {
	name  string
	id    [16]byte
	parts []*kpart
}

// kconsumer reads partitions, over a connection to each node that leads some. It belongs to its loop.
type kconsumer struct {
	l        *loop
	name     string
	r        *kafkaRun
	parts    []*kpart
	fetchers []*kfetcher
	stuck    []*kpart // of which it is not known who leads
	again    bool     // at the end of a partition, from its beginning
	running  bool
	scratch  []byte
	left     int // partitions not read to the end
	failures int
}

// kfetcher is a consumer's connection to a node: one Fetch under way, in a session as clients have it.
type kfetcher struct {
	s       *kconsumer
	node    int32
	c       *conn
	stats   *nodeStats
	parts   []*kpart
	waiting bool // for an answer
	sentAt  int64
	asked   int64 // when a fetch was overdue, and who leads was asked
	corr    int32
	session int32
	epoch   int32
	anew    bool // parts has changed: the next fetch begins a session
	changed []*kpart
	unread  []fetched
	left    int // of parts, those not read to the end
}

// fetched are records to be looked at.
type fetched struct {
	part    *kpart
	records []byte
	from    int64 // the offset that was asked for
}

func (s *kconsumer) next() int64 { return math.MaxInt64 }

// newFetcher makes a fetcher, whose connection is yet to be opened.
func (s *kconsumer) newFetcher(node int32) *kfetcher {
	f := &kfetcher{s: s, node: node, stats: s.r.statsOf(s.l, node)}
	f.c = s.r.newKafkaConn(s.l, s.name, node, f)
	s.fetchers = append(s.fetchers, f)
	return f
}

// fetcherOf gives the fetcher of a node, if there is one.
func (s *kconsumer) fetcherOf(node int32) *kfetcher {
	for _, f := range s.fetchers {
		if f.node == node {
			return f
		}
	}
	return nil
}

// fetcherTo gives the fetcher of a node, and opens its connection if there is none.
func (s *kconsumer) fetcherTo(node int32) *kfetcher {
	f := s.fetcherOf(node)
	switch {
	case f == nil:
		f = s.newFetcher(node)
	case f.c.phase != phaseClosed:
		return f
	default:
		f.c = s.r.newKafkaConn(s.l, s.name, node, f)
	}
	f.c.dialedAt = s.l.now
	s.l.open(f.c)
	return f
}

// attach has a fetcher read a partition.
func (f *kfetcher) attach(p *kpart) {
	p.from = f
	f.parts = append(f.parts, p)
	f.anew = true
	if !p.done {
		f.left++
	}
}

// stick takes a partition off its fetcher until it is known who leads.
func (s *kconsumer) stick(p *kpart) {
	p.stuckAt = s.l.now
	f := p.from
	if f == nil {
		return
	}
	p.from, p.queued = nil, false
	s.stuck = append(s.stuck, p)
	f.parts, f.changed = without(f.parts, p), without(f.changed, p)
	f.anew = true
	if !p.done {
		f.left--
	}
}

// unstick has partitions read on of which it is known who leads.
func (s *kconsumer) unstick() {
	if len(s.stuck) == 0 {
		return
	}
	t := s.r.nodes.table.Load()
	rest := s.stuck[:0]
	for _, p := range s.stuck {
		if lead := t.leaders[p.number]; lead.known && t.asked > p.stuckAt {
			s.fetcherTo(lead.node).attach(p)
		} else {
			rest = append(rest, p)
		}
	}
	s.stuck = rest
}

// begin has the consumer read, until every partition with an end has come there.
func (s *kconsumer) begin() {
	s.left = 0
	follow := false
	for _, f := range s.fetchers {
		f.anew, f.left = true, 0
	}
	for _, p := range s.parts {
		follow = follow || p.end < 0
		p.done = p.end >= 0 && p.next >= p.end
		if p.done {
			continue
		}
		if p.end >= 0 {
			s.left++
		}
		if p.from != nil {
			p.from.left++
		}
	}
	s.running = follow || s.left > 0
}

// turn asks for more where nothing is under way.
func (s *kconsumer) turn() {
	s.unstick()
	for _, f := range s.fetchers {
		f.watch()
		if s.running && f.left > 0 && !f.waiting && f.c.phase == phaseReady {
			f.fetch()
		}
	}
}

// waits tells whether a fetch is under way.
func (s *kconsumer) waits() bool {
	for _, f := range s.fetchers {
		if f.waiting {
			return true
		}
	}
	return false
}

func (f *kfetcher) ready() {}

// lost has the partitions read from elsewhere, where there are several nodes.
func (f *kfetcher) lost(err error) bool {
	s := f.s
	if !s.r.following.Load() || complains(err) || lackOf(err) != nil {
		return false
	}
	f.stats.lost++
	s.r.cut(err, s.l.now)
	f.waiting = false
	for len(f.parts) > 0 {
		s.stick(f.parts[0])
	}
	s.r.nodes.mark()
	return true
}

// watch looks for a connection that does not come to stand, and for a fetch that is not answered.
func (f *kfetcher) watch() {
	s := f.s
	now := s.l.now
	if !s.r.following.Load() || f.c.phase == phaseClosed {
		return
	}
	if f.c.phase != phaseReady {
		f.c.tooLate()
		return
	}
	since := now - f.sentAt - int64(s.r.k.FetchWait)
	if !f.waiting || since < overdueAfter {
		return
	}
	t := s.r.nodes.table.Load()
	for _, p := range f.parts {
		if lead := t.leaders[p.number]; t.asked > f.sentAt && lead.known && lead.node != f.node {
			f.c.down(errOverdue)
			return
		}
	}
	if since > requestPatience {
		f.c.down(errOverdue)
	} else if now-f.asked > overdueAfter {
		f.asked = now
		s.r.nodes.mark()
	}
}

// fetch sends a Fetch: all partitions in the first one of a session, then those whose offset has changed.
func (f *kfetcher) fetch() {
	s, k := f.s, f.c.kafka
	cfg := &s.r.k
	if f.anew {
		f.session, f.epoch, f.anew = 0, 0, false
	}
	parts := f.changed
	if f.epoch == 0 {
		parts = parts[:0]
		for _, p := range f.parts {
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
	out := f.c.buffer()
	start := len(out)
	out = k.begin(out, wire.Fetch, fetchVersion)
	f.corr = k.corr
	be := binary.BigEndian
	out = be.AppendUint32(out, uint32(cfg.FetchWait.Milliseconds()))
	out = be.AppendUint32(out, uint32(cfg.FetchMin))
	out = be.AppendUint32(out, uint32(cfg.FetchMax))
	isolation := byte(wire.ReadUncommitted)
	if s.r.k.Commit > 0 {
		isolation = byte(wire.ReadCommitted)
	}
	out = append(out, isolation)
	out = be.AppendUint32(out, uint32(f.session))
	out = be.AppendUint32(out, uint32(f.epoch))
	out = s.appendParts(out, parts)
	out = append(out, 1) // nothing is forgotten
	out = append(out, 1) // no rack
	f.c.write(k.finish(append(out, 0), start))
	s.l.stats.tally.fetches++
	for _, p := range parts {
		p.queued = false
	}
	f.changed = parts[:0]
	f.waiting, f.sentAt = true, s.l.now
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
func (f *kfetcher) answer(b []byte) error {
	s := f.s
	in := kreader{b: b}
	if corr := in.i32(); corr != f.corr || !f.waiting {
		return fmt.Errorf("the broker answered request %d out of turn", corr)
	}
	f.waiting = false
	in.tags()
	in.i32() // throttle
	code := wire.ErrorCode(in.i16())
	session := in.i32()
	if code == wire.FetchSessionIDNotFound || code == wire.InvalidFetchSessionEpoch {
		return f.restart(code)
	}
	if code != wire.None {
		return fmt.Errorf("the broker refuses to fetch: %v", code)
	}
	f.unread = f.unread[:0]
	for range in.count(18) {
		var id [16]byte
		copy(id[:], in.take(16))
		t := s.r.byID[id]
		for range in.count(37) {
			if err := f.partition(&in, t); err != nil {
				return err
			}
		}
		in.tags()
	}
	in.tags()
	if in.bad {
		return errMalformed
	}
	f.session = session
	f.epoch++
	if session == 0 {
		f.epoch = 0 // no session: everything each time
	} else if f.epoch == math.MaxInt32 {
		f.epoch = 1
	}
	if s.running && f.left > 0 {
		f.fetch()
		f.c.flush()
	}
	for _, x := range f.unread {
		s.look(x, f)
	}
	return nil
}

// restart begins a new session after the broker has forgotten the one before.
func (f *kfetcher) restart(code wire.ErrorCode) error {
	s := f.s
	if s.failures++; s.failures > 100 {
		return fmt.Errorf("the broker refuses to fetch: %v", code)
	}
	f.anew = true
	return nil
}

// partition takes what a response says of one partition.
func (f *kfetcher) partition(in *kreader, t *ktopic) error {
	s := f.s
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
	if p.from != f { // it is stuck, or read from elsewhere
		return nil
	}
	if s.r.following.Load() && passes(code) {
		s.stick(p)
		s.r.passing.Add(1)
		s.r.nodes.mark()
		return nil
	}
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
		f.unread = append(f.unread, fetched{p, records, from})
		f.advanced(p)
	}
	return nil
}

// advanced notes that p has a new offset.
func (f *kfetcher) advanced(p *kpart) {
	s := f.s
	if p.end >= 0 && p.next >= p.end {
		if s.again && s.running {
			p.next = 0
		} else {
			p.done = true
			f.left--
			if s.left--; s.left == 0 {
				s.running = false
			}
		}
	}
	if !p.queued { // of one that is done too: the broker would send what the session's last offset asks for again and again
		p.queued = true
		f.changed = append(f.changed, p)
	}
}

// look verifies the batches of one partition.
func (s *kconsumer) look(f fetched, by *kfetcher) {
	st := &s.l.stats
	measured := s.r.measured(s.l.now)
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
			by.stats.receivedBytes += uint64(len(x.b))
		}
		switch {
		case !x.intact():
			st.corrupt += uint64(max(x.count(), 1))
			st.fault(faultCorrupt, s.l.now)
			s.r.note("a batch came whose checksum does not fit", s.l.now)
		case x.last() < at:
			// a broker may begin before what was asked for
		case x.base() < at && at > f.from:
			st.reordered++
			st.fault(faultReordered, s.l.now)
			s.r.note(fmt.Sprintf("a batch at offset %d came after one that ends at %d", x.base(), at-1), s.l.now)
		case s.hidden(p, x):
		default:
			s.records(p, x, at, by)
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
func (s *kconsumer) records(p *kpart, x rbatch, from int64, by *kfetcher) {
	st := &s.l.stats
	b, scratch, ok := x.records(s.scratch)
	s.scratch = scratch
	if !ok {
		st.corrupt += uint64(max(x.count(), 1))
		st.fault(faultCorrupt, s.l.now)
		s.r.note("a batch came that cannot be opened", s.l.now)
		return
	}
	skip := max(from-x.base(), 0)
	for n := range x.count() {
		_, value, rest, ok := cutRecord(b)
		if !ok {
			st.corrupt += uint64(x.count() - n)
			st.fault(faultCorrupt, s.l.now)
			s.r.note("a record came that cannot be read", s.l.now)
			return
		}
		b = rest
		if int64(n) >= skip {
			s.count(p, value, by)
		}
	}
}

// count verifies one record and takes its latency.
func (s *kconsumer) count(p *kpart, value []byte, by *kfetcher) {
	l := s.l
	st, r := &l.stats, s.r
	st.received++
	by.stats.received++
	st.tally.recordsOut++
	if r.measured(l.now) {
		st.receivedMeasured++
		by.stats.receivedMeasured++
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
		measured := r.measured(x.intended)
		st.latency(l.now-x.intended, measured)
		if measured && r.following.Load() {
			observeIn(&by.stats.delivery, l.now-x.intended)
		}
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
			s.l.stats.marks[faultLost].add(s.l.now, lost)
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
