package bench

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

const (
	// produceRequestMax bounds a Produce request as clients do by default.
	produceRequestMax = 1 << 20
	// producerBuffer is how much a producer holds that the broker has not taken; beyond, sends are held up.
	producerBuffer = 32 << 20
	// produceTimeoutMS is what a Produce request allows the broker.
	produceTimeoutMS = 30_000
	// txnRetry is after what a producer asks again when its last transaction is not wholly written yet.
	txnRetry = int64(2e6)
)

// lane is what one producer sends to one partition: numbered, so that loss and order can be judged.
type lane struct {
	id       uint32
	part     *kpart
	producer *kproducer
	seq      uint64 // of the next record
	began    int64  // when the first record was meant to be sent
	aborts   uint64 // of the next record of a transaction that is aborted
	sequence int32  // the idempotent producer's
	open     *kbatch
	in       uint64    // the request that has a batch of it
	key      []byte    // template; nil: none
	keys     uint64    // how many keys, of which each record has the next
	flying   []*kbatch // under way, the oldest first
	lost     []span    // what the broker never took over
	track    track     // what was read of it; belongs to the loop of the partition's consumer
}

// span are records from..to-1 of a lane.
type span struct{ from, to uint64 }

// krequest is a Produce request under way.
type krequest struct {
	corr    int32
	batches []*kbatch
	left    int       // of them, those not answered
	again   []*kbatch // of them, those to be sent again
}

// kproducer sends the records of one connection. It belongs to its loop.
type kproducer struct {
	c      *conn
	r      *kafkaRun
	state  producerState
	lanes  []*lane
	filler []byte
	limit  uint64 // how many records to send; 0: until the run says stop

	running  bool
	held     bool // what is due waits for the broker
	closed   bool // told the run that all it sent is answered
	start    int64
	interval float64 // ns; 0: as fast as the broker answers
	made     uint64  // records
	at       int     // the lane that comes next

	opened   []*lane   // with an open batch, the oldest first
	full     []*kbatch // to be sent, the oldest first
	free     []*kbatch
	buffered int
	request  uint64 // number of the request being made
	flight   []*krequest
	spare    []*krequest
	scratch  []byte

	txn *ktxn
}

// ready does nothing: the run says when to begin.
func (p *kproducer) ready() {}

// next says when something is due.
func (p *kproducer) next() int64 {
	if !p.running || p.closed {
		return math.MaxInt64
	}
	at := int64(math.MaxInt64)
	if p.interval > 0 && !p.limitReached() {
		if p.buffered > producerBuffer {
			// an answer must come first
		} else if due := p.due(p.made); due < p.r.stopAt.Load() {
			at = due
		}
	} else if p.interval == 0 && (p.made == 0 || p.r.k.Acks == 0 && !p.c.blocked()) {
		at = p.start
	}
	if len(p.opened) > 0 && p.room() {
		at = min(at, p.opened[0].open.made+int64(p.r.k.Linger))
	}
	if p.txn != nil {
		at = min(at, p.txn.next())
	}
	return at
}

func (p *kproducer) due(n uint64) int64 { return p.start + int64(float64(n)*p.interval) }

func (p *kproducer) limitReached() bool { return p.limit > 0 && p.made >= p.limit }

// room says whether another request may be sent now.
func (p *kproducer) room() bool {
	most := p.r.cfg.Inflight
	if p.txn != nil {
		if !p.txn.mayProduce() {
			return false
		}
		most = p.txn.inflight(most)
	}
	return len(p.flight) < most && !p.c.blocked()
}

// turn makes the records that are due and sends what may be sent.
func (p *kproducer) turn() {
	l := p.c.l
	if !p.running || p.closed || p.c.phase != phaseReady || l.now < p.start {
		return
	}
	stop := p.r.stopAt.Load()
	over := p.over(stop)
	if !over {
		if p.interval > 0 {
			p.makeDue(stop)
		} else {
			p.makeFull()
		}
	}
	for p.room() && p.send(over || p.txn != nil && p.txn.closing) {
	}
	if p.txn != nil {
		p.txn.turn(over)
	}
	if over && p.idle() && (p.txn == nil || p.txn.idle()) {
		p.closed = true
		p.r.producing.Add(-1)
	}
}

// over: nothing more is to be made. What was due before the stop and was held up still goes: to leave it out would leave the
// worst out of the latencies.
func (p *kproducer) over(stop int64) bool {
	if p.limitReached() {
		return true
	}
	return p.c.l.now >= stop && (p.interval == 0 || p.due(p.made) >= stop)
}

// idle: nothing waits and nothing is under way.
func (p *kproducer) idle() bool { return len(p.opened) == 0 && len(p.full) == 0 && len(p.flight) == 0 }

// makeDue makes the records of the timetable up to now.
func (p *kproducer) makeDue(stop int64) {
	l := p.c.l
	for n := 0; !p.limitReached(); n++ {
		due := p.due(p.made)
		if due > l.now || due >= stop {
			p.held = false
			return
		}
		if p.buffered > producerBuffer {
			p.held = true
			return
		}
		l.stats.send(l.now-due, p.held || !p.room(), p.r.measured(due))
		p.make(p.pick(), due)
		if n%64 == 63 {
			l.now = p.r.clock()
		}
	}
}

// makeFull makes whole batches for the requests that may be sent.
func (p *kproducer) makeFull() {
	most := min(len(p.lanes), max(1, produceRequestMax/p.r.k.BatchBytes))
	for free := p.r.cfg.Inflight - len(p.flight); free > 0 && len(p.full) < free*most && !p.limitReached(); {
		if p.txn != nil && !p.txn.mayProduce() {
			return
		}
		l := p.pick()
		for before := len(p.full); len(p.full) == before && !p.limitReached(); {
			p.make(l, p.c.l.now)
			if p.r.k.Keys > 0 {
				l = p.pick()
			}
		}
	}
}

// pick gives the lane of the next record: with keys each in turn, else the same one until its batch is full or gone.
func (p *kproducer) pick() *lane {
	l := p.lanes[p.at]
	if p.r.k.Keys > 0 {
		p.at++
	} else if l.open == nil && p.made > 0 {
		p.at++
	}
	if p.at == len(p.lanes) {
		p.at = 0
	}
	if p.r.k.Keys > 0 {
		return l
	}
	return p.lanes[p.at]
}

// make adds a record to the open batch of l.
func (p *kproducer) make(l *lane, intended int64) {
	unixMS := p.r.unixMS(p.c.l.now)
	b := l.open
	if b != nil && len(b.buf)+len(p.filler)+len(l.key)+recordOverhead > p.r.k.BatchBytes {
		p.closeBatch(l)
		b = nil
	}
	if b == nil {
		b = p.newBatch()
		b.start(l, unixMS)
		b.intended, b.made, b.first = intended, p.c.l.now, l.seq
		if p.txn != nil {
			b.txn, b.aborted = p.txn.number, p.txn.aborts(p.txn.number)
		}
		l.open = b
		p.opened = append(p.opened, l)
	}
	s := stamp{run: p.r.nonce, publisher: l.id, seq: l.seq, intended: intended}
	if b.aborted {
		s.publisher |= abortedFlag
		s.seq = l.aborts
		l.aborts++
	} else {
		l.seq++
	}
	if l.key != nil {
		putKey(l.key, s.seq%l.keys*uint64(len(p.r.lanes))+uint64(l.id))
	}
	before := len(b.buf)
	if s.seq == 0 {
		l.began = intended
	}
	b.append(l.key, p.filler, &s, unixMS)
	b.size += len(b.buf) - before
	p.buffered += len(b.buf) - before
	p.made++
	if len(b.buf) >= p.r.k.BatchBytes {
		p.closeBatch(l)
	}
}

// recordOverhead is what a record takes beside key and value, at most.
const recordOverhead = 24

// putKey writes n as hexadecimal digits into key.
func putKey(key []byte, n uint64) {
	const digits = "0123456789abcdef"
	for i := len(key) - 1; i >= 0; i-- {
		key[i] = digits[n&15]
		n >>= 4
	}
}

func (p *kproducer) newBatch() *kbatch {
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	return &kbatch{}
}

// closeBatch moves the open batch of l to those that are ready.
func (p *kproducer) closeBatch(l *lane) {
	p.full = append(p.full, l.open)
	l.open = nil
	for i, o := range p.opened { // near the front: lanes fill in the order in which they were opened
		if o == l {
			p.opened = append(p.opened[:i], p.opened[i+1:]...)
			return
		}
	}
}

// send makes a request of what is ready, one batch of each lane at most. all: linger no longer.
func (p *kproducer) send(all bool) bool {
	now := p.c.l.now
	ripe := now - int64(p.r.k.Linger)
	for len(p.opened) > 0 && (all || p.opened[0].open.made <= ripe) {
		p.closeBatch(p.opened[0])
	}
	if len(p.full) == 0 {
		return false
	}
	q := p.newRequest()
	p.request++
	size := 0
	for _, b := range p.full {
		if b.lane.in == p.request || size > 0 && size+len(b.buf) > produceRequestMax || p.txn != nil && b.txn != p.txn.current {
			break
		}
		b.lane.in = p.request
		size += len(b.buf)
		q.batches = append(q.batches, b)
	}
	if len(q.batches) == 0 {
		p.spare = append(p.spare, q)
		return false
	}
	p.full = p.full[:copy(p.full, p.full[len(q.batches):])]
	for _, b := range q.batches {
		p.scratch = b.seal(&p.state, b.lane.sequence, p.r.codec, p.scratch)
		b.lane.sequence += int32(b.count)
		p.countSent(b)
	}
	if p.txn != nil {
		p.txn.produced()
	}
	p.write(q)
	return true
}

func (p *kproducer) countSent(b *kbatch) {
	st := &p.c.l.stats
	st.sent += uint64(b.count)
	if b.aborted {
		p.r.abortedRecords.Add(uint64(b.count))
	}
	st.tally.records += uint64(b.count)
	st.tally.batches++
	st.tally.batchBytes += uint64(len(b.buf))
	if p.r.measured(p.c.l.now) {
		st.sentMeasured += uint64(b.count)
		st.sentBytes += uint64(len(b.buf))
	}
}

func (p *kproducer) newRequest() *krequest {
	if n := len(p.spare); n > 0 {
		q := p.spare[n-1]
		p.spare = p.spare[:n-1]
		q.batches, q.again = q.batches[:0], q.again[:0]
		return q
	}
	return &krequest{}
}

// write appends the request to what goes to the socket.
func (p *kproducer) write(q *krequest) {
	k := p.c.kafka
	out := p.c.buffer()
	start := len(out)
	out = k.begin(out, wire.Produce, produceVersion)
	q.corr = k.corr
	if p.state.transactional {
		out = compactString(out, p.txn.id)
	} else {
		out = append(out, 0)
	}
	out = binary.BigEndian.AppendUint16(out, uint16(p.r.k.Acks))
	out = binary.BigEndian.AppendUint32(out, produceTimeoutMS)
	topics := 1
	for i, b := range q.batches[1:] {
		if b.lane.part.topic != q.batches[i].lane.part.topic {
			topics++
		}
	}
	out = compactLen(out, topics)
	for from := 0; from < len(q.batches); {
		t := q.batches[from].lane.part.topic
		to := from
		for to < len(q.batches) && q.batches[to].lane.part.topic == t {
			to++
		}
		out = compactLen(compactString(out, t.name), to-from)
		for _, b := range q.batches[from:to] {
			out = binary.BigEndian.AppendUint32(out, uint32(b.lane.part.index))
			out = compactLen(out, len(b.buf))
			out = append(out, b.buf...)
			out = append(out, 0)
		}
		out = append(out, 0)
		from = to
	}
	p.c.write(k.finish(append(out, 0), start))
	p.c.l.stats.tally.produces++
	if p.r.k.Acks == 0 {
		for _, b := range q.batches {
			p.acked(b)
		}
		p.spare = append(p.spare, q)
		return
	}
	q.left = len(q.batches)
	for _, b := range q.batches {
		b.lane.flying = append(b.lane.flying, b)
	}
	p.flight = append(p.flight, q)
}

// answer takes the response to the oldest request.
func (p *kproducer) answer(b []byte) error {
	in := kreader{b: b}
	corr := in.i32()
	in.tags()
	if p.txn != nil && p.txn.corr != 0 && p.txn.corr == corr {
		return p.txn.ended(&in)
	}
	if len(p.flight) == 0 || p.flight[0].corr != corr {
		return fmt.Errorf("the broker answered request %d out of turn", corr)
	}
	q := p.flight[0]
	p.flight = p.flight[:copy(p.flight, p.flight[1:])]
	for range in.count(3) {
		t := p.r.byName[string(in.bytes())]
		for range in.count(33) {
			index := in.i32()
			code := wire.ErrorCode(in.i16())
			in.take(24) // base offset, time, log start
			for range in.count(6) {
				in.i32()
				in.bytes()
				in.tags()
			}
			text := in.bytes()
			in.tags()
			b := p.flown(t, index)
			if in.bad || b == nil {
				return errMalformed
			}
			q.left--
			p.outcome(q, b, code, text)
		}
		in.tags()
	}
	if in.bad || q.left != 0 {
		return errMalformed
	}
	if len(q.again) > 0 {
		p.txn.later(q)
	} else {
		p.spare = append(p.spare, q)
	}
	return nil
}

// flown gives the oldest batch under way to a partition. The broker answers for the partitions of a request in any order.
func (p *kproducer) flown(t *ktopic, index int32) *kbatch {
	if t == nil || index < 0 || int(index) >= len(t.parts) {
		return nil
	}
	for _, l := range t.parts[index].lanes {
		if l.producer == p && len(l.flying) > 0 {
			b := l.flying[0]
			l.flying = l.flying[:copy(l.flying, l.flying[1:])]
			return b
		}
	}
	return nil
}

// outcome takes what the broker says of one batch.
func (p *kproducer) outcome(q *krequest, b *kbatch, code wire.ErrorCode, text []byte) {
	switch {
	case code == wire.None, code == wire.DuplicateSequenceNumber:
		p.acked(b)
	case code == wire.ConcurrentTransactions && p.txn != nil:
		q.again = append(q.again, b) // the transaction before is not wholly written: the same again
	default:
		p.r.refused.Add(uint64(b.count))
		p.c.l.stats.marks[faultRefused].add(p.c.l.now, uint64(b.count))
		p.r.note(fmt.Sprintf("the broker refuses records: %v %s", code, text), p.c.l.now)
		if !b.aborted {
			b.lane.lost = append(b.lane.lost, span{b.first, b.first + uint64(b.count)})
		}
		p.drop(b)
	}
}

func (p *kproducer) acked(b *kbatch) {
	st := &p.c.l.stats
	st.acked += uint64(b.count)
	if p.r.k.Acks != 0 {
		st.ack(p.c.l.now-b.intended, p.r.measured(b.intended))
	}
	if p.txn != nil {
		p.txn.acked(b)
	}
	p.drop(b)
}

// drop frees what a batch took.
func (p *kproducer) drop(b *kbatch) {
	p.buffered = max(p.buffered-b.size, 0)
	p.free = append(p.free, b)
}
