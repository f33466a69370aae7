package broker

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// participant is a node that leads all shards alone, in epoch 5, and is asked by coordinators.
type participant struct {
	*groupBench
	part *Partition
}

func newParticipant(t *testing.T) *participant {
	t.Helper()
	tb := newSetBroker(t)
	tb.b.SetTopic(txnTopic(1))
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	p := &participant{groupBench: &groupBench{tb}, part: tb.b.Topic(0, "t").Partition(1)}
	p.leadAll(5)
	return p
}

func (p *participant) leadAll(epoch record.Epoch) {
	for set := range modelSets + 1 {
		p.leadAlone(epoch, shardsOf(set)...)
	}
}

func (p *participant) ended(lead record.Epoch, who ProducerIdentity, serial uint64, commit bool) (err error) {
	err = errLost
	p.b.TxnEnded(p.part, lead, who, serial, commit, func(e error) { err = e })
	p.pump()
	return err
}

// produce appends a transactional batch of a producer.
func (p *participant) produce(who ProducerIdentity, seq int32, value string) error {
	a := p.appender(0)
	if err := a.txn(p.part, who.ID, who.Epoch, seq, value); err != nil {
		return err
	}
	p.pump()
	return a.results[1].Err
}

func serialOf(home record.Epoch, n uint64) uint64 { return uint64(home)<<serialCountBits | n }

// TestTxnStepsRefused: what is not for this leader, is of a transaction that is over, of a coordinator that is none any more, or makes no sense, changes nothing.
func TestTxnStepsRefused(t *testing.T) {
	p := newParticipant(t)
	who, at := ProducerIdentity{7, 1}, serialOf(5, 10)
	if err := p.b.TxnAnnounced(p.part, 5, who, at); err != nil {
		t.Fatal(err)
	}
	home := p.b.Topic(0, "t").Partition(0)
	for name, c := range map[string]struct {
		part   *Partition
		lead   record.Epoch
		who    ProducerIdentity
		serial uint64
		want   error
	}{
		"an older leader":      {p.part, 4, who, at, ErrNotLeader},
		"a later leader":       {p.part, 6, who, at, ErrNotLeader},
		"a transaction before": {p.part, 5, who, at - 1, ErrStaleTxn},
		"an older coordinator": {p.part, 5, ProducerIdentity{8, 0}, serialOf(4, 99), ErrStaleTxn},
		"a home partition":     {home, 5, who, at, ErrInvalidRequest},
		"no producer":          {p.part, 5, ProducerIdentity{-1, 1}, at, ErrInvalidRequest},
		"no epoch":             {p.part, 5, ProducerIdentity{7, -1}, at, ErrInvalidRequest},
		"no serial":            {p.part, 5, who, 0, ErrInvalidRequest},
	} {
		if err := p.b.TxnAnnounced(c.part, c.lead, c.who, c.serial); !errors.Is(err, c.want) {
			t.Errorf("%s: announced: %v", name, err)
		}
		end := errLost
		p.b.TxnEnded(c.part, c.lead, c.who, c.serial, true, func(err error) { end = err })
		if !errors.Is(end, c.want) {
			t.Errorf("%s: ended: %v", name, end)
		}
	}
	if err := p.produce(who, 0, "a"); err != nil {
		t.Errorf("what was refused has ended the transaction: %v", err)
	}
	if got := p.committed(p.part); got != "" {
		t.Errorf("an open transaction is seen: %q", got)
	}
	if err := p.ended(5, who, at, true); err != nil || p.committed(p.part) != "a " {
		t.Errorf("its end: %v, %q is seen", err, p.committed(p.part))
	}
	if err := p.b.TxnAnnounced(p.part, 5, ProducerIdentity{7, 0}, at+1); !errors.Is(err, ErrInvalidProducerEpoch) {
		t.Errorf("a fenced producer: %v", err)
	}
	p.b.DropTopic(0, TopicID{1})
	if err := p.b.TxnAnnounced(p.part, 5, who, at+1); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("a topic that is gone: %v", err)
	}
	if err := p.ended(5, who, at+1, true); err != nil {
		t.Errorf("the end on a topic that is gone: %v", err)
	}
	if len(p.part.shard.mu.joined) != 0 {
		t.Error("transactions of a partition that is gone are remembered")
	}
}

// TestTxnEndAgain: an end that comes twice is written once, is not answered before the log has it, and does not end the next transaction of the same epoch; an
// announcement that comes behind it lets nothing in.
func TestTxnEndAgain(t *testing.T) {
	p := newParticipant(t)
	who, at := ProducerIdentity{7, 1}, serialOf(5, 10)
	first, second := errLost, errLost
	if err := errors.Join(p.b.TxnAnnounced(p.part, 5, who, at), p.produce(who, 0, "a")); err != nil {
		t.Fatal(err)
	}
	p.b.TxnEnded(p.part, 5, who, at, true, func(err error) { first = err })
	p.b.TxnEnded(p.part, 5, who, at, true, func(err error) { second = err })
	if !errors.Is(first, errLost) || !errors.Is(second, ErrConcurrentTransactions) {
		t.Errorf("before the log has it: %v, and %v", first, second)
	}
	p.pump()
	end := p.part.HighWatermark()
	if err := errors.Join(first, p.ended(5, who, at, true)); err != nil || p.part.HighWatermark() != end {
		t.Errorf("again: %v, from %d to %d", err, end, p.part.HighWatermark())
	}
	if err := p.b.TxnAnnounced(p.part, 5, who, at); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("announced behind its end: %v", err)
	}
	if err := p.produce(who, 1, "late"); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("a batch behind the end: %v", err)
	}
	if err := errors.Join(p.b.TxnAnnounced(p.part, 5, who, at+1), p.produce(who, 1, "b")); err != nil {
		t.Fatal(err)
	}
	if err := p.ended(5, who, at, true); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("the end of the one before: %v", err)
	}
	if got := p.committed(p.part); got != "a " {
		t.Errorf("%q is seen", got)
	}
	if err := p.ended(5, who, at+1, false); err != nil || p.part.LastStable() != p.part.HighWatermark() {
		t.Errorf("%v; stable up to %d of %d", err, p.part.LastStable(), p.part.HighWatermark())
	}
}

// TestTxnEndLogFails: an end that the log has not taken is written when it is asked for again.
func TestTxnEndLogFails(t *testing.T) {
	p := newParticipant(t)
	who, at := ProducerIdentity{7, 1}, serialOf(5, 10)
	if err := errors.Join(p.b.TxnAnnounced(p.part, 5, who, at), p.produce(who, 0, "a")); err != nil {
		t.Fatal(err)
	}
	p.log.fail = errors.New("the disk")
	if err := p.ended(5, who, at, true); err == nil {
		t.Fatal("an end that is not written is answered")
	}
	p.log.fail = nil
	if err := p.ended(5, who, at, true); err != nil || p.committed(p.part) != "a " {
		t.Errorf("again: %v, %q is seen", err, p.committed(p.part))
	}
}

// TestTxnLeadersChange: what was sent to an earlier leader is not taken by a later one, though that one knows nothing of what was before; what a coordinator of before
// sends is not taken where the next one has been.
func TestTxnLeadersChange(t *testing.T) {
	p := newParticipant(t)
	who, at := ProducerIdentity{7, 1}, serialOf(5, 10)
	if err := errors.Join(p.b.TxnAnnounced(p.part, 5, who, at), p.produce(who, 0, "a"), p.ended(5, who, at, true),
		p.b.TxnAnnounced(p.part, 5, who, at+1), p.produce(who, 1, "b")); err != nil {
		t.Fatal(err)
	}
	p.leadAlone(6, shardsOf(1)...)
	if err := p.produce(who, 2, "c"); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("a batch before the new leader knows of it: %v", err)
	}
	if err := p.ended(5, who, at, true); !errors.Is(err, ErrNotLeader) {
		t.Errorf("the end of one before, sent to the earlier leader: %v", err)
	}
	if got := p.committed(p.part); got != "a " {
		t.Errorf("%q is seen", got)
	}
	// The next coordinator takes the decision of this one over.
	if err := p.ended(6, who, serialOf(6, 1), true); err != nil || p.committed(p.part) != "a b " {
		t.Errorf("by another coordinator: %v, %q is seen", err, p.committed(p.part))
	}
	if err := errors.Join(p.b.TxnAnnounced(p.part, 6, who, serialOf(6, 2)), p.produce(who, 2, "c")); err != nil {
		t.Fatal(err)
	}
	p.leadAlone(7, shardsOf(1)...) // it knows of the coordinator before by its markers alone
	if err := p.ended(7, who, at+1, true); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("the coordinator before: %v", err)
	}
	if err := p.b.TxnAnnounced(p.part, 7, who, at+9); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("an announcement of the coordinator before: %v", err)
	}
	if got := p.committed(p.part); got != "a b " {
		t.Errorf("%q is seen", got)
	}
	if err := p.ended(7, who, serialOf(6, 2), true); err != nil || p.committed(p.part) != "a b c " {
		t.Errorf("its own end: %v, %q is seen", err, p.committed(p.part))
	}
}

// TestTxnsForgotten: a leader forgets producers whose transactions have ended, and whom it has forgotten it takes with a new serial alone; those that are open stay.
func TestTxnsForgotten(t *testing.T) {
	j := &joined{txns: make(map[int64]joinedTxn)}
	j.note(-1, joinedTxn{serial: 1})
	for i := range int64(10 * endedTxnsKept) {
		j.note(i, joinedTxn{uint64(i + 2), true})
		j.note(i, joinedTxn{uint64(i + 2), true})
		if len(j.txns) != j.ended+1 || j.ended > endedTxnsKept {
			t.Fatalf("%d are kept, %d of them have ended", len(j.txns), j.ended)
		}
		if last := j.txns[i]; last.serial <= j.floor {
			t.Fatalf("the last one, %d, is below the floor %d", last.serial, j.floor)
		}
	}
	for i := range int64(10 * endedTxnsKept) {
		if _, ok := j.txns[i]; !ok && uint64(i+2) > j.floor {
			t.Fatalf("%d is forgotten and above the floor %d", i+2, j.floor)
		}
	}
	if j.txns[-1].ended || j.txns[-1].serial != 1 {
		t.Error("one that is open is forgotten")
	}
	p := newParticipant(t)
	who, at := ProducerIdentity{7, 1}, serialOf(5, 10)
	p.part.shard.mu.Lock()
	p.part.joinedLocked().floor = at
	p.part.shard.mu.Unlock()
	if err := errors.Join(p.b.TxnAnnounced(p.part, 5, who, at)); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("at the floor: %v", err)
	}
	if err := p.ended(5, who, at, true); !errors.Is(err, ErrStaleTxn) {
		t.Errorf("an end at the floor: %v", err)
	}
	if err := p.b.TxnAnnounced(p.part, 5, who, at+1); err != nil {
		t.Errorf("above it: %v", err)
	}
}
