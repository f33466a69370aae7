package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// txnClient is a producer as Kafka's clients are: one request at a time, sent again while that helps; else it begins anew with InitProducerId.
type txnClient struct {
	c      *txnCluster
	id     string
	modern bool // KIP-890: producing makes a partition part of the transaction, and each transaction has an epoch of its own
	me     ProducerIdentity
	seq    map[TopicPartition]int32

	known  bool // it has an identity
	asked  int  // the number of its last request
	busy   bool // that is not answered
	lost   bool // and will not be
	dirty  bool // what became of a batch is not known: it has to begin anew
	add    bool // partitions are to be added first
	sends  []txnSend
	now    *clientTxn
	decide bool
	all    []*clientTxn
}

// txnSend is a batch that is yet to be taken.
type txnSend struct {
	tp    TopicPartition
	value string
	join  bool
}

// clientTxn is a transaction as its producer knows it.
type clientTxn struct {
	values  map[TopicPartition][]string
	commit  bool
	outcome string // "": nobody knows
}

func (p *txnClient) idle() bool { return p.now == nil && !p.busy && p.known && !p.dirty }

// ask sends a request; what is answered is heard of if nothing has been asked since.
func (p *txnClient) ask(answer func(error)) func(error) {
	p.busy = true
	p.asked++
	n := p.asked
	return func(err error) {
		if p.asked == n && p.busy {
			p.busy = false
			answer(err)
		}
	}
}

// step does the next thing, or gives up on what was asked.
func (p *txnClient) step() {
	coordinator := p.c.nodes[p.c.sets[0].node]
	if !p.c.calm && p.c.rnd.IntN(8) == 0 {
		coordinator = p.c.nodes[p.c.rnd.IntN(txnNodes)]
	}
	switch {
	case p.busy:
		if p.lost || p.c.rnd.IntN(100) == 0 {
			p.giveUp()
		}
	case !p.known || p.dirty && p.now == nil:
		p.init(coordinator)
	case p.now == nil:
		if !p.c.calm {
			p.begin()
		}
	case p.decide:
		p.end(coordinator)
	case p.add:
		if !coordinator.b.Leading() {
			return
		}
		coordinator.b.AddToTxn(0, p.id, p.me, p.parts(), "", p.ask(func(err error) { p.went(err, func() { p.add = false }) }))
	case len(p.sends) > 0:
		p.send(coordinator)
	default:
		p.decide, p.now.commit = true, p.c.rnd.IntN(4) > 0
	}
	if p.now != nil && !p.busy && !p.decide && p.c.rnd.IntN(100) == 0 {
		p.decide = true // and not to commit
	}
}

func (p *txnClient) parts() (list []TopicPartition) {
	for _, s := range p.sends {
		if !slices.Contains(list, s.tp) {
			list = append(list, s.tp)
		}
	}
	return list
}

// again has the producer begin anew. What was asked to be committed may be.
func (p *txnClient) again(outcome string) {
	if p.now != nil {
		if p.now.commit {
			p.now.outcome = outcome
		} else {
			p.now.outcome = "aborted"
		}
	}
	p.now, p.sends, p.known, p.decide, p.dirty = nil, nil, false, false, false
}

// giveUp takes an answer for lost. It may be that of a batch.
func (p *txnClient) giveUp() {
	p.busy, p.lost = false, false
	if p.now == nil || p.decide || p.add || len(p.sends) == 0 || p.c.rnd.IntN(3) == 0 {
		p.again("")
		return
	}
	p.dirty, p.decide = true, true
}

// went looks at an answer; what may pass is asked again.
func (p *txnClient) went(err error, fn func()) {
	switch {
	case err == nil:
		fn()
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrConcurrentTransactions), errors.Is(err, ErrBusy):
	default:
		p.again("")
	}
}

func (p *txnClient) init(n *txnNode) {
	if !n.b.Leading() {
		return
	}
	var who ProducerIdentity
	answered := p.ask(func(err error) {
		if err == nil {
			p.me, p.known, p.dirty, p.seq = who, true, false, make(map[TopicPartition]int32)
		}
	})
	n.b.InitProducer(0, p.id, time.Minute, ProducerIdentity{-1, -1}, func(w ProducerIdentity, err error) {
		who = w
		answered(err)
	})
}

func (p *txnClient) begin() {
	p.now = &clientTxn{values: make(map[TopicPartition][]string)}
	p.all = append(p.all, p.now)
	p.add, p.decide, p.dirty = !p.modern, false, false
	for i := range 1 + p.c.rnd.IntN(4) {
		tp := p.c.parts[p.c.rnd.IntN(len(p.c.parts))]
		v := fmt.Sprintf("%s.%d.%d", p.id, len(p.all), i)
		p.now.values[tp] = append(p.now.values[tp], v)
		p.sends = append(p.sends, txnSend{tp: tp, value: v})
	}
}

// Appended and Resume make it an AppendSink.
func (s *clientSink) Appended(_ Token, r AppendResult) { s.done(r.Err) }
func (s *clientSink) Resume()                          {}

type clientSink struct{ done func(error) }

func (p *txnClient) send(coordinator *txnNode) {
	s := &p.sends[0]
	if s.join {
		coordinator.b.JoinTxn(0, p.id, p.me, []TopicPartition{s.tp}, !p.modern, p.ask(func(err error) { p.went(err, func() { p.sends[0].join = false }) }))
		return
	}
	n := p.c.leader(s.tp)
	if !p.c.calm && p.c.rnd.IntN(8) == 0 {
		n = p.c.nodes[p.c.rnd.IntN(txnNodes)]
	}
	b := batchOf(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: p.me.ID, Epoch: p.me.Epoch, Sequence: p.seq[s.tp]}}, s.value)
	l := n.b.Local(0)
	done := p.ask(func(err error) {
		p.dirty = p.dirty || err != nil
		p.went(err, func() {
			p.seq[s.tp]++
			p.sends = p.sends[1:]
			p.dirty = false
		})
	})
	late := p.c.late
	if p.c.rnd.IntN(2) == 0 {
		p.c.late = append(p.c.late, lateBatch{s.tp, b})
		if p.lost = !p.c.calm && p.c.rnd.IntN(10) == 0; p.lost {
			return // that is the only copy
		}
	}
	err := l.Append(l.NewAppender(&clientSink{done}), n.part(s.tp), b, AppendOptions{Transactional: true}, 1)
	switch {
	case errors.Is(err, ErrTxnNotAnnounced):
		p.busy, p.c.late = false, late // an answer says what became of all copies: where none of them was sent twice
		p.sends[0].join = true
	case err != nil:
		done(err)
	}
}

func (p *txnClient) end(n *txnNode) {
	if !n.b.Leading() {
		return
	}
	if len(p.sends) == len(flatten(p.now.values)) && !p.add && p.modern { // nothing was sent
		p.again("")
		return
	}
	var who ProducerIdentity
	answered := p.ask(func(err error) {
		p.went(err, func() {
			p.now.outcome = "aborted"
			if p.now.commit {
				p.now.outcome = "committed"
			}
			if who.Epoch != p.me.Epoch {
				p.me, p.seq = who, make(map[TopicPartition]int32)
			}
			p.now, p.sends, p.decide = nil, nil, false
		})
	})
	n.b.EndTxn(0, p.id, p.me, p.now.commit, p.modern, func(w ProducerIdentity, err error) {
		who = w
		answered(err)
	})
}

func flatten(m map[TopicPartition][]string) (list []string) {
	for _, v := range m {
		list = append(list, v...)
	}
	return list
}

// seen is what a reader of committed records finds in a node's log of a partition: of each producer, what its next marker commits.
func (n *txnNode) seen(tp TopicPartition) (visible []string) {
	p := n.part(tp)
	open := map[int64][]string{}
	for _, f := range n.logOf()[p.Shard()] {
		if f.Kind != record.KindRecords || f.Partition != p.ID() {
			continue
		}
		b, _, err := record.ParseBatch(record.FrameBatch(f.Payload))
		if err != nil {
			n.t.Fatal(err)
		}
		id := b.ProducerID()
		if b.Attributes()&record.Control != 0 {
			if kind, _ := markerOf(b); kind == batchCommit {
				visible = append(visible, open[id]...)
			}
			delete(open, id)
			continue
		}
		for it := b.Records(); it.Next(); {
			open[id] = append(open[id], string(it.Record().Value))
		}
	}
	for id, list := range open {
		n.t.Errorf("node %d, partition %d: a transaction of producer %d hangs, with %v", n.at, tp.Partition, id, list)
	}
	return visible
}

// check looks at all transactions, when nothing is under way any more.
func (c *txnCluster) check() {
	c.t.Helper()
	visible := map[TopicPartition][]string{}
	for _, tp := range c.parts {
		for _, n := range c.nodes {
			if p := n.part(tp); p.LastStable() != p.HighWatermark() {
				c.t.Errorf("node %d, partition %d: the last stable offset is %d of %d", n.at, tp.Partition, p.LastStable(), p.HighWatermark())
			}
			if got := n.seen(tp); n.at == 0 {
				visible[tp] = got
			} else if !slices.Equal(got, visible[tp]) {
				c.t.Errorf("partition %d: node %d has %v, node 0 %v", tp.Partition, n.at, got, visible[tp])
			}
		}
	}
	total := len(flatten(visible))
	for _, p := range c.producers {
		for i, txn := range p.all {
			found, want := 0, 0
			for tp, values := range txn.values {
				for _, v := range values {
					want++
					switch n := count(visible[tp], v); {
					case n > 1:
						c.t.Errorf("%s is seen %d times", v, n)
					case n == 1:
						found++
					}
				}
			}
			total -= found
			ok := found == 0 || found == want && txn.commit
			if txn.outcome == "committed" {
				ok = found == want
			}
			if !ok || txn.outcome == "aborted" && found > 0 {
				c.t.Errorf("transaction %d of %s: %d of %d records are seen; commit %v, outcome %q", i, p.id, found, want, txn.commit, txn.outcome)
			}
		}
	}
	if total != 0 {
		c.t.Errorf("%d records are of nobody", total)
	}
}

func count(list []string, v string) (n int) {
	for _, s := range list {
		if s == v {
			n++
		}
	}
	return n
}

// TestTransactionsOverSets: of transactions over partitions that several nodes lead, readers of committed records see all or nothing, none hangs, and the last stable offset
// comes to the end, whatever becomes of requests, coordinators and leaders.
func TestTransactionsOverSets(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newTxnCluster(t, seed)
			for i := range 3 {
				c.producers = append(c.producers, &txnClient{c: c, id: strings.Repeat(string(rune('a'+i)), 1+int(seed%3)), modern: i == 1})
			}
			for range 3000 {
				c.happen()
			}
			c.settle()
			c.check()
			for _, p := range c.producers {
				for _, txn := range p.all {
					outcomes[txn.outcome]++
				}
			}
		})
	}
	t.Logf("transactions: %v", outcomes)
	if !t.Failed() && (outcomes["committed"] < 100 || outcomes["aborted"] < 50) {
		t.Errorf("the test has not done much: %v", outcomes)
	}
}
