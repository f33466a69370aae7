package bench

import (
	"encoding/binary"
	"fmt"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// klink is a producer's connection to a node, with the lanes of the partitions that the node leads. It belongs to its loop.
//
// Where there are several nodes, a lane whose batch is answered by NOT_LEADER_OR_FOLLOWER or the like, or whose connection ends, is stuck: what of
// it was under way comes back, what is made for it waits, and it goes on, in order and with the same sequence numbers, once all has come back and
// the table (knodes) was asked for after that. So an idempotent producer's batch that the old leader has stored and not answered is one that the new
// leader knows.
type klink struct {
	p     *kproducer
	node  int32
	c     *conn
	stats *nodeStats
	order picker // of the lanes that go over it

	opened []*lane   // with an open batch, the oldest first
	full   []*kbatch // to be sent, the oldest first
	flight []*krequest
	asked  int64 // when a request was overdue, and who leads was asked
}

// newLink makes a link, whose connection is yet to be opened.
func (p *kproducer) newLink(node int32) *klink {
	k := &klink{p: p, node: node, stats: p.r.statsOf(p.l, node)}
	k.c = p.r.newKafkaConn(p.l, p.name, node, k)
	p.links = append(p.links, k)
	return k
}

// linkTo gives the link to a node, and opens its connection if there is none. It is called on the loop.
func (p *kproducer) linkTo(node int32) *klink {
	var k *klink
	for _, x := range p.links {
		if x.node == node {
			k = x
		}
	}
	switch {
	case k == nil:
		k = p.newLink(node)
	case k.c.phase != phaseClosed:
		return k
	default:
		k.c = p.r.newKafkaConn(p.l, p.name, node, k)
	}
	k.c.dialedAt = p.l.now
	p.l.open(k.c)
	return k
}

func (k *klink) ready() {}

// stands tells whether the connection can be used.
func (k *klink) stands() bool { return k.c.phase == phaseReady }

// lost takes back what was under way, where there is another node to go to.
func (k *klink) lost(err error) bool {
	p := k.p
	if !p.r.following.Load() || complains(err) || lackOf(err) != nil {
		return false
	}
	k.stats.lost++
	p.r.cut(err, p.l.now)
	flight := k.flight
	k.flight = nil
	for len(k.order.lanes) > 0 {
		p.stick(k.order.lanes[0])
	}
	for _, q := range flight {
		for _, b := range q.batches {
			p.stick(b.lane)
			b.lane.retryAt = 0
			if len(b.lane.flying) > 0 && b.lane.flying[0] == b { // else it is answered
				b.lane.flying = b.lane.flying[:copy(b.lane.flying, b.lane.flying[1:])]
				b.doubt = true
				b.lane.again = append(b.lane.again, b)
			}
		}
	}
	if p.txn != nil {
		p.txn.lost(k)
	}
	p.r.nodes.mark()
	return true
}

// stick takes a lane off its link until it is known who leads.
func (p *kproducer) stick(l *lane) {
	l.stuckAt = p.l.now
	k := l.link
	if k == nil {
		return
	}
	l.link = nil
	p.stuck = append(p.stuck, l)
	k.order.lanes = without(k.order.lanes, l)
	k.opened = without(k.opened, l)
	rest := k.full[:0]
	for _, b := range k.full {
		if b.lane == l {
			l.behind = append(l.behind, b)
		} else {
			rest = append(rest, b)
		}
	}
	k.full = rest
}

// without takes x out of a list, in its place.
func without[T comparable](list []T, x T) []T {
	for i := range list {
		if list[i] == x {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// unstick has lanes go on of which it is known who leads.
func (p *kproducer) unstick() {
	if len(p.stuck) == 0 {
		return
	}
	t := p.r.nodes.table.Load()
	rest := p.stuck[:0]
	for _, l := range p.stuck {
		lead := t.leaders[l.part.number]
		switch {
		case len(l.flying) > 0, l.retryAt > p.l.now, l.retryAt == 0 && (!lead.known || t.asked <= l.stuckAt):
			rest = append(rest, l)
		default:
			p.attach(l, p.linkTo(lead.node))
		}
	}
	p.stuck = rest
}

// attach puts a lane on a link, with what waits for that.
func (p *kproducer) attach(l *lane, k *klink) {
	l.link, l.retryAt = k, 0
	k.order.lanes = append(k.order.lanes, l)
	if l.open != nil {
		k.opened = append(k.opened, l)
	}
	if len(l.again)+len(l.behind) == 0 {
		return
	}
	for _, b := range l.again {
		p.r.resent.Add(uint64(b.count))
		if b.doubt && !p.r.k.idempotent() {
			p.r.maybeTwice.Add(uint64(b.count))
		}
		b.doubt = false
	}
	front := append(append(make([]*kbatch, 0, len(l.again)+len(l.behind)+len(k.full)), l.again...), l.behind...)
	k.full = append(front, k.full...)
	l.again, l.behind = l.again[:0], l.behind[:0]
}

// watch looks for a connection that does not come to stand, and for a request that is not answered: a node that is cut off ends no connection.
func (k *klink) watch() {
	p := k.p
	now := p.l.now
	if !p.r.following.Load() || k.c.phase == phaseClosed {
		return
	}
	if !k.stands() {
		k.c.tooLate()
		return
	}
	if len(k.flight) == 0 {
		return
	}
	since := now - k.flight[0].at
	if since < overdueAfter {
		return
	}
	t := p.r.nodes.table.Load()
	if t.asked > k.flight[0].at {
		for _, b := range k.flight[0].batches {
			if lead := t.leaders[b.lane.part.number]; lead.known && lead.node != k.node {
				k.c.down(errOverdue)
				return
			}
		}
	}
	if since > requestPatience {
		k.c.down(errOverdue)
	} else if now-k.asked > overdueAfter {
		k.asked = now
		p.r.nodes.mark()
	}
}

// room says whether another request may be sent now.
func (k *klink) room() bool {
	p := k.p
	most := p.r.cfg.Inflight
	if p.txn != nil {
		if !p.txn.mayProduce() {
			return false
		}
		most = p.txn.inflight(most)
	}
	return k.stands() && len(k.flight) < most && !k.c.blocked()
}

// makeFull makes whole batches for the requests that may be sent.
func (k *klink) makeFull() {
	p := k.p
	if !k.stands() || len(k.order.lanes) == 0 {
		return
	}
	most := min(len(k.order.lanes), max(1, produceRequestMax/p.r.k.BatchBytes))
	keys := p.r.k.Keys > 0
	for free := p.r.cfg.Inflight - len(k.flight); free > 0 && len(k.full) < free*most && !p.limitReached(); {
		if p.txn != nil && !p.txn.mayProduce() {
			return
		}
		l := k.order.pick(keys)
		for before := len(k.full); len(k.full) == before && !p.limitReached(); {
			p.make(l, p.l.now)
			if keys {
				l = k.order.pick(keys)
			}
		}
	}
}

// send makes a request of what is ready, one batch of each lane at most. all: linger no longer.
func (k *klink) send(all bool) bool {
	p := k.p
	ripe := p.l.now - int64(p.r.k.Linger)
	for len(k.opened) > 0 && (all || k.opened[0].open.made <= ripe) {
		p.closeBatch(k.opened[0])
	}
	if len(k.full) == 0 {
		return false
	}
	q := p.newRequest()
	p.request++
	size, full := 0, false
	rest := k.full[:0]
	for _, b := range k.full {
		full = full || b.lane.in == p.request || size > 0 && size+len(b.buf) > produceRequestMax
		if full || p.txn != nil && b.txn != p.txn.current {
			rest = append(rest, b)
			continue
		}
		b.lane.in = p.request
		size += len(b.buf)
		q.batches = append(q.batches, b)
	}
	k.full = rest
	if len(q.batches) == 0 {
		p.spare = append(p.spare, q)
		return false
	}
	for _, b := range q.batches {
		if b.numbered { // sent before: the same again
			continue
		}
		b.numbered = true
		p.scratch = b.seal(&p.state, b.lane.sequence, p.r.codec, p.scratch)
		b.lane.sequence += int32(b.count)
		p.countSent(b)
	}
	if p.txn != nil {
		p.txn.produced()
	}
	k.write(q)
	return true
}

// write appends the request to what goes to the socket.
func (k *klink) write(q *krequest) {
	p := k.p
	out := k.c.buffer()
	start := len(out)
	out = k.c.kafka.begin(out, wire.Produce, produceVersion)
	q.corr, q.at = k.c.kafka.corr, p.l.now
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
	k.c.write(k.c.kafka.finish(append(out, 0), start))
	p.l.stats.tally.produces++
	if p.r.k.Acks == 0 {
		for _, b := range q.batches {
			k.acked(b)
		}
		p.spare = append(p.spare, q)
		return
	}
	q.left = len(q.batches)
	for _, b := range q.batches {
		b.lane.flying = append(b.lane.flying, b)
	}
	k.flight = append(k.flight, q)
}

// answer takes the response to the oldest request.
func (k *klink) answer(b []byte) error {
	p := k.p
	in := kreader{b: b}
	corr := in.i32()
	in.tags()
	if p.txn != nil && p.txn.link == k && p.txn.corr != 0 && p.txn.corr == corr {
		return p.txn.ended(&in)
	}
	if len(k.flight) == 0 || k.flight[0].corr != corr {
		return fmt.Errorf("the broker answered request %d out of turn", corr)
	}
	q := k.flight[0]
	k.flight = k.flight[:copy(k.flight, k.flight[1:])]
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
			k.outcome(b, code, text)
		}
		in.tags()
	}
	if in.bad || q.left != 0 {
		return errMalformed
	}
	p.spare = append(p.spare, q)
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
func (k *klink) outcome(b *kbatch, code wire.ErrorCode, text []byte) {
	p, l := k.p, b.lane
	following := p.r.following.Load()
	switch {
	case code == wire.None, code == wire.DuplicateSequenceNumber:
		k.acked(b)
	case code == wire.ConcurrentTransactions && p.txn != nil:
		p.stick(l) // the transaction before is not wholly written: the same again
		l.again = append(l.again, b)
		l.retryAt = p.l.now + txnRetry
		p.r.retries.Add(1)
	case following && (passes(code) || code == wire.OutOfOrderSequenceNumber && len(l.again) > 0):
		p.stick(l)
		l.retryAt = 0
		b.doubt = b.doubt || doubtful(code)
		l.again = append(l.again, b)
		p.r.passing.Add(1)
		p.r.nodes.mark()
	default:
		p.r.refused.Add(uint64(b.count))
		p.l.stats.marks[faultRefused].add(p.l.now, uint64(b.count))
		p.r.note(fmt.Sprintf("the broker refuses records: %v %s", code, text), p.l.now)
		if !b.aborted {
			l.lost = append(l.lost, span{b.first, b.first + uint64(b.count)})
		}
		p.drop(b)
	}
}

func (k *klink) acked(b *kbatch) {
	p := k.p
	st, now := &p.l.stats, p.l.now
	st.acked += uint64(b.count)
	k.stats.acked += uint64(b.count)
	if p.r.k.Acks != 0 {
		measured := p.r.measured(b.intended)
		st.ack(now-b.intended, measured)
		if measured && p.r.following.Load() {
			observeIn(&k.stats.acks, now-b.intended)
		}
		b.lane.part.acknowledged(now, b.intended, now >= p.r.measureFrom.Load())
	}
	if p.r.measured(now) {
		k.stats.ackedMeasured += uint64(b.count)
		k.stats.ackedBytes += uint64(len(b.buf))
	}
	if p.txn != nil {
		p.txn.acked(b)
	}
	p.drop(b)
}

// unsettled passes on the batches that are neither acknowledged nor refused. The loop has stopped.
func (p *kproducer) unsettled(f func(*kbatch)) {
	for _, l := range p.lanes {
		for _, list := range [][]*kbatch{l.flying, l.again, l.behind} {
			for _, b := range list {
				f(b)
			}
		}
		if l.open != nil {
			f(l.open)
		}
	}
	for _, k := range p.links {
		for _, b := range k.full {
			f(b)
		}
	}
}
