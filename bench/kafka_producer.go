package bench

import (
	"math"
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
	link     *klink // to the node that leads the partition; nil: stuck
	seq      uint64 // of the next record
	began    int64  // when the first record was meant to be sent
	aborts   uint64 // of the next record of a transaction that is aborted
	sequence int32  // the idempotent producer's
	open     *kbatch
	in       uint64    // the request that has a batch of it
	key      []byte    // template; nil: none
	keys     uint64    // how many keys, of which each record has the next
	flying   []*kbatch // under way, the oldest first
	again    []*kbatch // stuck: to be sent again, the oldest first
	behind   []*kbatch // stuck: to be sent behind those
	stuckAt  int64     // since when; it ends with a table that was asked for later
	retryAt  int64     // stuck: until then, whatever the table says; 0: until there is a new table
	lost     []span    // what the broker never took over
	track    track     // what was read of it; belongs to the loop of the partition's consumer
}

// span are records from..to-1 of a lane.
type span struct{ from, to uint64 }

// krequest is a Produce request under way.
type krequest struct {
	corr    int32
	at      int64 // when it was sent
	batches []*kbatch
	left    int // of them, those not answered
}

// kproducer sends records over a connection to each node that leads partitions of its lanes. It belongs to its loop.
type kproducer struct {
	l      *loop
	name   string
	r      *kafkaRun
	state  producerState
	lanes  []*lane
	order  picker // of lanes
	links  []*klink
	stuck  []*lane // whose leader is not known, or not believed
	filler []byte
	limit  uint64 // how many records to send; 0: until the run says stop

	running  bool
	held     bool // what is due waits for the broker
	closed   bool // told the run that all it sent is answered
	start    int64
	interval float64 // ns; 0: as fast as the broker answers
	made     uint64  // records

	owed     int // batches that are neither acknowledged nor refused
	free     []*kbatch
	buffered int
	request  uint64 // number of the request being made
	spare    []*krequest
	scratch  []byte

	txn *ktxn
}

// picker gives the lanes of a list in turn.
type picker struct {
	lanes []*lane
	at    int
	begun bool
}

// pick gives the lane of the next record: with keys each in turn, else the same one until its batch is full or gone.
func (o *picker) pick(keys bool) *lane {
	if o.at >= len(o.lanes) {
		o.at = 0
	}
	l := o.lanes[o.at]
	if keys || l.open == nil && o.begun {
		o.at = (o.at + 1) % len(o.lanes)
	}
	if o.begun = true; keys {
		return l
	}
	return o.lanes[o.at]
}

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
	} else if p.interval == 0 && (p.made == 0 || p.r.k.Acks == 0 && p.writable()) {
		at = p.start
	}
	for _, k := range p.links {
		if len(k.opened) > 0 && k.room() {
			at = min(at, k.opened[0].open.made+int64(p.r.k.Linger))
		}
	}
	for _, l := range p.stuck {
		if l.retryAt > 0 && len(l.flying) == 0 {
			at = min(at, l.retryAt)
		}
	}
	if p.txn != nil {
		at = min(at, p.txn.next())
	}
	return at
}

// writable tells whether a connection takes something.
func (p *kproducer) writable() bool {
	for _, k := range p.links {
		if k.stands() && !k.c.blocked() && len(k.order.lanes) > 0 {
			return true
		}
	}
	return false
}

func (p *kproducer) due(n uint64) int64 { return p.start + int64(float64(n)*p.interval) }

func (p *kproducer) limitReached() bool { return p.limit > 0 && p.made >= p.limit }

// turn makes the records that are due and sends what may be sent.
func (p *kproducer) turn() {
	l := p.l
	p.unstick()
	for _, k := range p.links {
		k.watch()
	}
	if !p.running || p.closed || l.now < p.start || !p.stands() {
		return
	}
	stop := p.r.stopAt.Load()
	over := p.over(stop)
	if !over {
		if p.interval > 0 {
			p.makeDue(stop)
		} else {
			for _, k := range p.links {
				k.makeFull()
			}
		}
	}
	for _, k := range p.links {
		for k.room() && k.send(over || p.txn != nil && p.txn.closing) {
		}
	}
	if p.txn != nil {
		p.txn.turn(over)
	}
	if over && p.owed == 0 && (p.txn == nil || p.txn.idle()) {
		p.closed = true
		p.r.producing.Add(-1)
	}
}

// stands tells whether a producer that has one node alone has its connection.
func (p *kproducer) stands() bool {
	return len(p.links) != 1 || p.r.following.Load() || p.links[0].stands()
}

// over: nothing more is to be made. What was due before the stop and was held up still goes: to leave it out would leave the
// worst out of the latencies.
func (p *kproducer) over(stop int64) bool {
	if p.limitReached() {
		return true
	}
	return p.l.now >= stop && (p.interval == 0 || p.due(p.made) >= stop)
}

// makeDue makes the records of the timetable up to now.
func (p *kproducer) makeDue(stop int64) {
	l := p.l
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
		x := p.order.pick(p.r.k.Keys > 0)
		l.stats.send(l.now-due, p.held || x.link == nil || !x.link.room(), p.r.measured(due))
		p.make(x, due)
		if n%64 == 63 {
			l.now = p.r.clock()
		}
	}
}

// make adds a record to the open batch of l.
func (p *kproducer) make(l *lane, intended int64) {
	unixMS := p.r.unixMS(p.l.now)
	b := l.open
	if b != nil && len(b.buf)+len(p.filler)+len(l.key)+recordOverhead > p.r.k.BatchBytes {
		p.closeBatch(l)
		b = nil
	}
	if b == nil {
		b = p.newBatch()
		b.start(l, unixMS)
		b.intended, b.made, b.first = intended, p.l.now, l.seq
		if p.txn != nil {
			b.txn, b.aborted = p.txn.number, p.txn.aborts(p.txn.number)
			p.txn.owed[b.txn&1]++
		}
		l.open = b
		if l.link != nil {
			l.link.opened = append(l.link.opened, l)
		}
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
	p.owed++
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	return &kbatch{}
}

// closeBatch moves the open batch of l to those that are ready.
func (p *kproducer) closeBatch(l *lane) {
	b, k := l.open, l.link
	l.open = nil
	if k == nil {
		l.behind = append(l.behind, b)
		return
	}
	k.full = append(k.full, b)
	for i, o := range k.opened { // near the front: lanes fill in the order in which they were opened
		if o == l {
			k.opened = append(k.opened[:i], k.opened[i+1:]...)
			return
		}
	}
}

func (p *kproducer) countSent(b *kbatch) {
	st := &p.l.stats
	st.sent += uint64(b.count)
	if b.aborted {
		p.r.abortedRecords.Add(uint64(b.count))
	}
	st.tally.records += uint64(b.count)
	st.tally.batches++
	st.tally.batchBytes += uint64(len(b.buf))
	if p.r.measured(p.l.now) {
		st.sentMeasured += uint64(b.count)
		st.sentBytes += uint64(len(b.buf))
	}
}

func (p *kproducer) newRequest() *krequest {
	if n := len(p.spare); n > 0 {
		q := p.spare[n-1]
		p.spare = p.spare[:n-1]
		q.batches = q.batches[:0]
		return q
	}
	return &krequest{}
}

// drop frees what a batch took.
func (p *kproducer) drop(b *kbatch) {
	p.buffered = max(p.buffered-b.size, 0)
	p.owed--
	if p.txn != nil {
		p.txn.owed[b.txn&1]--
	}
	p.free = append(p.free, b)
}
