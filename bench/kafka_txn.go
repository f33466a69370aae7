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
	owed    [2]int     // batches of each of the transactions, not acknowledged yet: of those with an even number, and of the others
	link    *klink     // to the coordinator
	stuckAt int64      // since when it is not known who is; 0: it is known
	at      int64      // when to send EndTxn again
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
func (t *ktxn) mayProduce() bool { return t.corr == 0 && t.sentAt == 0 }

// inflight is how many requests may be under way.
func (t *ktxn) inflight(most int) int {
	if !t.known {
		return 1
	}
	return most
}

func (t *ktxn) produced() {
	if t.began == 0 {
		t.began = t.p.l.now
	}
}

func (t *ktxn) acked(b *kbatch) {
	t.known = true
	if !b.aborted {
		t.held = append(t.held, heldSpan{b.lane, span{b.first, b.first + uint64(b.count)}})
	}
}

func (t *ktxn) next() int64 {
	switch {
	case t.sentAt != 0 && t.corr == 0:
		if t.stuckAt != 0 || !t.link.stands() {
			return math.MaxInt64
		}
		return t.at
	case t.began != 0 && !t.closing:
		return t.began + int64(t.p.r.k.Commit)
	}
	return math.MaxInt64
}

func (t *ktxn) idle() bool { return t.began == 0 }

// turn ends the transaction when its time has come, and all of it is acknowledged.
func (t *ktxn) turn(over bool) {
	p := t.p
	now := p.l.now
	if t.began != 0 && !t.closing && (over && p.made > 0 || now >= t.began+int64(p.r.k.Commit)) {
		t.closing = true
		t.number++
		for _, l := range p.lanes {
			if l.open != nil {
				p.closeBatch(l)
			}
		}
		for _, k := range p.links {
			for k.room() && k.send(true) {
			}
		}
	}
	if !t.closing || t.corr != 0 || t.owed[t.current&1] > 0 || now < t.at || !t.found() {
		return
	}
	t.end()
}

// found tells whether there is a connection to the coordinator, and looks for it if not.
func (t *ktxn) found() bool {
	p := t.p
	if t.stuckAt != 0 {
		x := p.r.nodes.table.Load()
		node, ok := x.coordinators[t.id]
		if x.asked <= t.stuckAt || !ok {
			return false
		}
		t.link, t.stuckAt = p.linkTo(node), 0
	}
	return t.link.stands()
}

// lost has the coordinator looked for again, if that was the link to it.
func (t *ktxn) lost(k *klink) {
	if t.link == k {
		t.corr = 0
		t.away()
	}
}

// away notes that it is not known who the coordinator is.
func (t *ktxn) away() {
	t.stuckAt = t.p.l.now
	t.p.r.nodes.mark()
}

// end sends EndTxn.
func (t *ktxn) end() {
	p := t.p
	if t.sentAt == 0 {
		t.sentAt = p.l.now
	}
	k := t.link.c.kafka
	out := k.c.buffer()
	start := len(out)
	out = k.begin(out, wire.EndTxn, endTxnVersion)
	t.corr = k.corr
	p.l.stats.tally.endTxns++
	out = compactString(out, t.id)
	out = binary.BigEndian.AppendUint64(out, uint64(p.state.id))
	out = binary.BigEndian.AppendUint16(out, uint16(p.state.epoch))
	commit := byte(1)
	if t.aborts(t.current) {
		commit = 0
	}
	k.c.write(k.finish(append(out, commit, 0), start))
}

// ended takes the answer to EndTxn.
func (t *ktxn) ended(in *kreader) error {
	p := t.p
	now := p.l.now
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
		if p.r.following.Load() && code != wire.ConcurrentTransactions {
			t.away()
		}
		return nil
	}
	if code != wire.None {
		return fmt.Errorf("the broker does not end a transaction: %v", code)
	}
	if p.r.measured(t.sentAt) {
		observe(p.r.commits[p.l.id], now-t.sentAt)
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
