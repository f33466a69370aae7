package bench

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// ktxn has a producer end its transaction every KafkaConfig.Commit. It speaks version 2 of the protocol: a partition joins the
// transaction with its first batch, and each end raises the producer's epoch.
type ktxn struct {
	p       *kproducer
	id      string
	number  uint64 // of the transaction that new batches go into
	current uint64 // of the one that is written
	began   int64  // 0: nothing has been sent
	closing bool
	known   bool       // the coordinator has taken the first batch: more may be under way
	again   *krequest  // to be sent again
	at      int64      // when to send it, or EndTxn, again
	corr    int32      // of the EndTxn under way
	sentAt  int64      // of the first EndTxn of the transaction
	held    []heldSpan // acknowledged, not committed
}

// heldSpan is a span of a lane.
type heldSpan struct {
	lane *lane
	span
}

// aborts tells whether a transaction is one to be aborted.
func (t *ktxn) aborts(number uint64) bool {
	every := uint64(t.p.r.k.AbortEvery)
	return every > 0 && number%every == every-1
}

// mayProduce: no end of the transaction is under way.
func (t *ktxn) mayProduce() bool { return t.corr == 0 && t.sentAt == 0 && t.again == nil }

// inflight is how many requests may be under way.
func (t *ktxn) inflight(most int) int {
	if !t.known {
		return 1
	}
	return most
}

func (t *ktxn) produced() {
	if t.began == 0 {
		t.began = t.p.c.l.now
	}
}

func (t *ktxn) acked(b *kbatch) {
	t.known = true
	if !b.aborted {
		t.held = append(t.held, heldSpan{b.lane, span{b.first, b.first + uint64(b.count)}})
	}
}

// later keeps what of q is to be sent again.
func (t *ktxn) later(q *krequest) {
	q.batches, q.again = append(q.batches[:0], q.again...), q.again[:0]
	t.again, t.at = q, t.p.c.l.now+txnRetry
	t.p.r.retries.Add(1)
}

func (t *ktxn) next() int64 {
	switch {
	case t.again != nil, t.sentAt != 0 && t.corr == 0:
		return t.at
	case t.began != 0 && !t.closing:
		return t.began + int64(t.p.r.k.Commit)
	}
	return math.MaxInt64
}

func (t *ktxn) idle() bool { return t.began == 0 && t.again == nil }

// turn ends the transaction when its time has come, and all of it is acknowledged.
func (t *ktxn) turn(over bool) {
	p := t.p
	now := p.c.l.now
	if t.again != nil {
		if now >= t.at {
			q := t.again
			t.again = nil
			p.write(q)
		}
		return
	}
	if t.began != 0 && !t.closing && (over && p.made > 0 || now >= t.began+int64(p.r.k.Commit)) {
		t.closing = true
		t.number++
		for len(p.opened) > 0 {
			p.closeBatch(p.opened[0])
		}
		for p.room() && p.send(true) {
		}
	}
	if !t.closing || t.corr != 0 || len(p.flight) > 0 || len(p.full) > 0 && p.full[0].txn == t.current || now < t.at {
		return
	}
	t.end()
}

// end sends EndTxn.
func (t *ktxn) end() {
	p := t.p
	if t.sentAt == 0 {
		t.sentAt = p.c.l.now
	}
	k := p.c.kafka
	out := p.c.buffer()
	start := len(out)
	out = k.begin(out, wire.EndTxn, endTxnVersion)
	t.corr = k.corr
	p.c.l.stats.tally.endTxns++
	out = compactString(out, t.id)
	out = binary.BigEndian.AppendUint64(out, uint64(p.state.id))
	out = binary.BigEndian.AppendUint16(out, uint16(p.state.epoch))
	commit := byte(1)
	if t.aborts(t.current) {
		commit = 0
	}
	p.c.write(k.finish(append(out, commit, 0), start))
}

// ended takes the answer to EndTxn.
func (t *ktxn) ended(in *kreader) error {
	p := t.p
	now := p.c.l.now
	in.i32() // throttle
	code := wire.ErrorCode(in.i16())
	id, epoch := in.i64(), in.i16()
	if in.bad {
		return errMalformed
	}
	t.corr = 0
	if code == wire.ConcurrentTransactions || code.Retriable() {
		t.at = now + txnRetry
		p.r.retries.Add(1)
		return nil
	}
	if code != wire.None {
		return fmt.Errorf("the broker does not end a transaction: %v", code)
	}
	if p.r.measured(t.sentAt) {
		observe(p.r.commits[p.c.l.id], now-t.sentAt)
	}
	if t.aborts(t.current) {
		p.r.aborted.Add(1)
	} else {
		p.r.committed.Add(1)
	}
	if id >= 0 && (id != p.state.id || epoch != p.state.epoch) {
		p.state.id, p.state.epoch = id, epoch
		for _, l := range p.lanes {
			l.sequence = 0
		}
	}
	t.current++
	t.number = t.current
	t.began, t.sentAt, t.closing, t.known = 0, 0, false, false
	t.held = t.held[:0]
	return nil
}
