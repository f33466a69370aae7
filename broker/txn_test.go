package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

// txnProducer is a client of the transaction coordinator.
type txnProducer struct {
	t  testing.TB
	gb *groupBench
	id string
	me ProducerIdentity
	n  int32 // next sequence
}

func (gb *groupBench) producer(t testing.TB, id string) *txnProducer {
	t.Helper()
	p := &txnProducer{t: t, gb: gb, id: id, me: ProducerIdentity{-1, -1}}
	for range 10 {
		var err error
		gb.b.InitProducer(0, id, time.Minute, ProducerIdentity{-1, -1}, func(who ProducerIdentity, e error) { p.me, err = who, e })
		gb.pump()
		if err == nil {
			return p
		}
		if !errors.Is(err, ErrConcurrentTransactions) {
			t.Fatal(err)
		}
	}
	t.Fatal("the transaction before does not end")
	return nil
}

func (p *txnProducer) add(parts ...TopicPartition) (err error) {
	err = errors.New("no answer")
	p.gb.b.AddToTxn(0, p.id, p.me, parts, "", func(e error) { err = e })
	p.gb.pump()
	return err
}

func (p *txnProducer) send(part *Partition, values ...string) error {
	b := batchOf(record.BatchOptions{Attributes: record.Transactional, Producer: record.Producer{Known: true, ID: p.me.ID, Epoch: p.me.Epoch, Sequence: p.n}}, values...)
	a := p.gb.appender(0)
	if err := a.a.local.Append(a.a, part, b, AppendOptions{Transactional: true}, 1); err != nil {
		return err
	}
	p.gb.pump()
	if a.results[1].Err == nil {
		p.n += int32(len(values))
	}
	return a.results[1].Err
}

func (p *txnProducer) end(commit, bump bool) (err error) {
	err = errors.New("no answer")
	p.gb.b.EndTxn(0, p.id, p.me, commit, bump, func(who ProducerIdentity, e error) {
		if err = e; e == nil && who.Epoch != p.me.Epoch {
			p.me, p.n = who, 0
		}
	})
	p.gb.pump()
	return err
}

// committed is what a reader of committed records sees of a partition.
func (gb *groupBench) committed(p *Partition) string {
	out := ""
	var f StreamFetch
	for from := record.Offset(0); ; {
		l := gb.b.Local(0)
		if l.FetchTail(p, from, 1<<20, true, &f); f.Bytes == 0 {
			return out
		}
		aborted := map[int64]record.Offset{}
		for _, raw := range f.Batches {
			b := record.Batch(raw)
			from = b.NextOffset()
			for _, a := range f.Aborted {
				if a.First <= b.BaseOffset() {
					aborted[a.ProducerID] = a.First
				}
			}
			if b.Attributes()&record.Control != 0 {
				if kind, _ := markerOf(b); kind == batchCommit {
					continue
				}
				delete(aborted, b.ProducerID())
				for i, a := range f.Aborted {
					if a.ProducerID == b.ProducerID() {
						f.Aborted = append(f.Aborted[:i], f.Aborted[i+1:]...)
						break
					}
				}
				continue
			}
			if _, gone := aborted[b.ProducerID()]; gone && b.Attributes()&record.Transactional != 0 {
				continue
			}
			for it := b.Records(); it.Next(); {
				out += string(it.Record().Value) + " "
			}
		}
	}
}

func TestTransactions(t *testing.T) {
	for _, bump := range []bool{false, true} {
		gb := newGroupBench(t)
		tp0, tp1 := TopicPartition{TopicID{1}, 0}, TopicPartition{TopicID{1}, 1}
		p0, p1 := gb.b.Topic(0, "t").Partition(0), gb.b.Topic(0, "t").Partition(1)
		p := gb.producer(t, "tx")
		if err := p.send(p0, "early"); !errors.Is(err, ErrTxnNotAnnounced) {
			t.Errorf("without a transaction: %v", err)
		}
		if err := errors.Join(p.add(tp0, tp1), p.send(p0, "a", "b"), gb.plain(p0, "plain")); err != nil {
			t.Fatal(err)
		}
		if got := gb.committed(p0); got != "" {
			t.Errorf("before the commit %q is seen", got)
		}
		if err := p.end(true, bump); err != nil {
			t.Fatal(err)
		}
		if got := gb.committed(p0); got != "a b plain " {
			t.Errorf("after it %q", got)
		}
		if err := errors.Join(p.add(tp0), p.send(p0, "x"), gb.plain(p0, "more"), p.end(false, bump)); err != nil {
			t.Fatal(err)
		}
		for _, when := range []string{"after an abort", "after a crash"} {
			if got := gb.committed(p0) + "| " + gb.committed(p1); got != "a b plain more | " {
				t.Errorf("bump %v: %s %q", bump, when, got)
			}
			gb = gb.crashed()
			p0, p1 = gb.b.Topic(0, "t").Partition(0), gb.b.Topic(0, "t").Partition(1)
		}
	}
}

func (gb *groupBench) plain(p *Partition, value string) error {
	a := gb.appender(0)
	err := a.append(p, batchOf(record.BatchOptions{}, value), 1)
	gb.pump()
	return err
}

// A second producer of the id ends what the first has left open, and the first can do nothing any more.
func TestTransactionFencing(t *testing.T) {
	gb := newGroupBench(t)
	p0 := gb.b.Topic(0, "t").Partition(0)
	tp0 := TopicPartition{TopicID{1}, 0}
	old := gb.producer(t, "tx")
	if err := errors.Join(old.add(tp0), old.send(p0, "left open")); err != nil {
		t.Fatal(err)
	}
	next := gb.producer(t, "tx")
	if next.me.ID != old.me.ID || next.me.Epoch <= old.me.Epoch {
		t.Errorf("%v follows %v", next.me, old.me)
	}
	if err := old.add(tp0); !errors.Is(err, ErrProducerFenced) {
		t.Errorf("the old one adds: %v", err)
	}
	if err := old.end(true, false); !errors.Is(err, ErrProducerFenced) {
		t.Errorf("the old one commits: %v", err)
	}
	if err := errors.Join(next.add(tp0), next.send(p0, "new"), next.end(true, false)); err != nil {
		t.Fatal(err)
	}
	if err := old.send(p0, "late"); err == nil {
		t.Error("the old one's batch was taken")
	}
	if got := gb.committed(p0); got != "new " {
		t.Errorf("seen is %q", got)
	}
}

// What is open when the node dies goes on; what nobody goes on with is aborted by its timeout; what was decided is carried out.
// An end that is asked for again while it is under way, as by a client whose connection broke, is no fenced producer's: it is told to come again, and then
// gets the epoch that it has not heard of.
func TestTransactionEndAskedAgain(t *testing.T) {
	for _, commit := range []bool{true, false} {
		gb := newGroupBench(t)
		p0 := gb.b.Topic(0, "t").Partition(0)
		p := gb.producer(t, "tx")
		if err := errors.Join(p.add(TopicPartition{TopicID{1}, 0}), p.send(p0, "x")); err != nil {
			t.Fatal(err)
		}
		var answers []string
		ask := func() {
			gb.b.EndTxn(0, p.id, p.me, commit, true, func(who ProducerIdentity, err error) {
				answers = append(answers, fmt.Sprintf("%d %v", who.Epoch, err))
			})
		}
		ask()
		ask()
		gb.pump()
		ask()
		gb.pump()
		want := []string{fmt.Sprintf("-1 %v", ErrConcurrentTransactions), "1 <nil>", "1 <nil>"}
		if !slices.Equal(answers, want) {
			t.Errorf("commit %v: %q, want %q", commit, answers, want)
		}
		gb.b.EndTxn(0, p.id, p.me, !commit, true, func(_ ProducerIdentity, err error) { answers = append(answers, err.Error()) })
		gb.pump()
		if got := answers[len(answers)-1]; got != ErrProducerFenced.Error() {
			t.Errorf("commit %v: the other end afterwards: %s", commit, got)
		}
	}
}

func TestTransactionCrash(t *testing.T) {
	gb := newGroupBench(t)
	tp0 := TopicPartition{TopicID{1}, 0}
	p := gb.producer(t, "tx")
	if err := errors.Join(p.add(tp0), p.send(gb.b.Topic(0, "t").Partition(0), "a")); err != nil {
		t.Fatal(err)
	}
	gb = gb.crashed()
	p.gb = gb
	p0 := gb.b.Topic(0, "t").Partition(0)
	if err := errors.Join(p.send(p0, "b"), p.end(true, false)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.add(tp0), p.send(p0, "c")); err != nil {
		t.Fatal(err)
	}
	gb.advance(61 * time.Second)
	if got := gb.committed(p0); got != "a b " {
		t.Errorf("after the timeout %q", got)
	}
	if err := p.end(true, false); !errors.Is(err, ErrProducerFenced) {
		t.Errorf("a commit after the timeout: %v", err)
	}
	// The decision is in the log, the markers are not: the next run writes them.
	q := gb.producer(t, "other")
	if err := errors.Join(q.add(tp0), q.send(p0, "d")); err != nil {
		t.Fatal(err)
	}
	groups := len(gb.log.groups)
	if err := q.end(true, false); err != nil {
		t.Fatal(err)
	}
	for cut := groups; cut <= len(gb.log.groups); cut++ {
		half := &groupBench{newTestBroker(t, 2, &testBroker{b: gb.b, clock: gb.clock, log: &memLog{groups: gb.log.groups[:cut]}})}
		half.advance(50 * time.Millisecond)
		want := "a b d "
		if cut == groups {
			want = "a b "
		}
		if got := half.committed(half.b.Topic(0, "t").Partition(0)); got != want {
			t.Errorf("with %d of %d groups %q is seen, want %q", cut-groups, len(gb.log.groups)-groups, got, want)
		}
	}
}

// Offsets of a transaction count when it commits, over a crash too, and are told as undecided before.
func TestTransactionOffsets(t *testing.T) {
	gb := newGroupBench(t)
	p := gb.producer(t, "tx")
	tp := TopicPartition{TopicID{1}, 0}
	commit := func(offset int64) (err error) {
		r := &CommitRequest{Group: "g", Generation: -1, Offsets: []OffsetCommit{place(0, offset)}}
		gb.b.AddToTxn(0, "tx", p.me, nil, "g", func(e error) { err = e })
		if gb.pump(); err != nil {
			return err
		}
		err = errors.New("no answer")
		gb.b.CommitTxnOffsets(0, "tx", p.me, r, func(e error) { err = e })
		gb.pump()
		return err
	}
	state := func() string {
		o := gb.b.FetchOffsets(0, "g", []TopicPartition{tp})[0]
		return fmt.Sprint(o.Offset, o.Unstable)
	}
	if err := commit(5); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "-1 true" {
		t.Errorf("before the end: %s", got)
	}
	gb = gb.crashed()
	p.gb = gb
	if got := state(); got != "-1 true" {
		t.Errorf("after a crash: %s", got)
	}
	if err := p.end(true, false); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "5 false" {
		t.Errorf("after the commit: %s", got)
	}
	if err := errors.Join(commit(9), p.end(false, false)); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "5 false" {
		t.Errorf("after an abort: %s", got)
	}
}

// Producer ids are given once, whatever crashes.
func TestProducerIDs(t *testing.T) {
	gb := newGroupBench(t)
	seen := map[int64]bool{}
	for range 3 {
		for range producerIDBlock/2 + 10 {
			var id int64 = -1
			gb.b.InitProducer(0, "", 0, ProducerIdentity{-1, -1}, func(who ProducerIdentity, err error) { id = who.ID })
			if id < 0 {
				gb.pump()
			}
			if id < 0 || seen[id] {
				t.Fatalf("id %d, given before: %v", id, seen[id])
			}
			seen[id] = true
		}
		gb = gb.crashed()
	}
}

// A transaction that was open has its whole time at the node that takes over, an hour ahead or behind by its wall clock, and no more.
func TestTransactionAtAnotherClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		gb := newGroupBench(t)
		tp0 := TopicPartition{TopicID{1}, 0}
		p := gb.producer(t, "tx")
		if err := errors.Join(p.add(tp0), p.send(gb.b.Topic(0, "t").Partition(0), "a")); err != nil {
			t.Fatal(err)
		}
		gb.clock.SetWall(gb.clock.Now().Add(off))
		gb = gb.crashed()
		p.gb = gb
		p0 := gb.b.Topic(0, "t").Partition(0)
		gb.advance(50 * time.Second)
		if err := errors.Join(p.send(p0, "b"), p.end(true, false), p.add(tp0), p.send(p0, "c")); err != nil {
			t.Fatalf("%v ahead: %v", off, err)
		}
		gb.clock.SetWall(gb.clock.Now().Add(-off))
		gb = gb.crashed()
		p.gb = gb
		p0 = gb.b.Topic(0, "t").Partition(0)
		gb.advance(61 * time.Second)
		if got := gb.committed(p0); got != "a b " {
			t.Errorf("%v ahead, after the timeout: %q", off, got)
		}
		if err := p.end(true, false); !errors.Is(err, ErrProducerFenced) {
			t.Errorf("%v ahead: a commit after the timeout: %v", off, err)
		}
	}
}

// A leader loses its shards while it ends a transaction, leads again and goes on from the tables: what is left of before ends no later transaction.
func TestTransactionOfAnEarlierLead(t *testing.T) {
	gb := &groupBench{newReplica(t)}
	lead := func(epoch record.Epoch, others ...uint64) {
		for i := range record.ShardID(modelShards) {
			with := others
			if i != trioShard {
				with = nil
			}
			gb.b.Lead(i, epoch, with, 1, func(err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		gb.pump()
	}
	acked := func() {
		if err := gb.b.Acked(trioShard, 1, 2, gb.b.Replica(trioShard).Durable); err != nil {
			t.Fatal(err)
		}
		gb.pump()
	}
	lead(1, 2)
	acked()
	id := "a"
	for gb.b.shardOf(0, []byte(id)).id == trioShard {
		id += "a"
	}
	tp0, p0 := TopicPartition{TopicID{1}, 0}, gb.part()
	p := gb.producer(t, id)
	if err := p.add(tp0); err != nil {
		t.Fatal(err)
	}
	_ = p.send(p0, "a") // answered once the other one has it
	acked()
	if err := p.end(true, false); err == nil || errors.Is(err, ErrNotLeader) {
		t.Fatalf("an end whose marker nobody else has: %v", err)
	}
	for _, s := range []record.ShardID{gb.b.shardOf(0, []byte(id)).id, trioShard} {
		gb.b.Resign(s, func() {})
		gb.pump()
	}
	lead(2)
	gb.advance(10 * time.Millisecond)
	if got := gb.committed(p0); got != "a " {
		t.Fatalf("what was decided: %q", got)
	}
	if err := errors.Join(p.add(tp0), p.send(p0, "b")); err != nil {
		t.Fatal(err)
	}
	gb.advance(3 * markerRetry)
	if got := gb.committed(p0); got != "a " {
		t.Errorf("a transaction that is open is seen: %q", got)
	}
	if err := p.end(false, false); err != nil {
		t.Error(err)
	}
	if got := gb.committed(p0); got != "a " {
		t.Errorf("a transaction that was taken back is seen: %q", got)
	}
}
