package broker

import (
	"errors"
	"testing"
	"time"
)

// onNode is a producer whose coordinator is at a node of a cluster. Nothing comes to another node before the test says so.
func (c *txnCluster) onNode(n *txnNode, id string) *txnProducer {
	c.t.Helper()
	p := &txnProducer{t: c.t, gb: &groupBench{n.testBroker}, id: id, me: ProducerIdentity{-1, -1}}
	err := errLost
	n.b.InitProducer(0, id, time.Minute, p.me, func(who ProducerIdentity, e error) { p.me, err = who, e })
	c.pass()
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// pass lets all that is under way arrive once, in order.
func (c *txnCluster) pass() {
	for range 4 {
		for _, n := range c.nodes {
			n.pump()
		}
		list := c.wire
		c.wire = nil
		for _, r := range list {
			c.arrive(r, true)
		}
		for i := range c.sets {
			c.carry(i)
		}
	}
}

func (c *txnCluster) add(p *txnProducer, parts ...TopicPartition) error {
	err := errLost
	p.gb.b.AddToTxn(0, p.id, p.me, parts, "", func(e error) { err = e })
	c.pass()
	return err
}

func (c *txnCluster) join(p *txnProducer, verify bool, parts ...TopicPartition) error {
	err := errLost
	p.gb.b.JoinTxn(0, p.id, p.me, parts, verify, func(e error) { err = e })
	c.pass()
	return err
}

// end starts the end; told is what became of it.
func (c *txnCluster) end(p *txnProducer, commit bool) (told *error) {
	err := errLost
	p.gb.b.EndTxn(0, p.id, p.me, commit, false, func(_ ProducerIdentity, e error) { err = e })
	c.pass()
	return &err
}

// put appends a batch where its partition is led; seq is its sequence.
func (c *txnCluster) put(p *txnProducer, tp TopicPartition, seq int32, value string) error {
	n := c.leader(tp)
	a := (&groupBench{n.testBroker}).appender(0)
	if err := a.txn(n.part(tp), p.me.ID, p.me.Epoch, seq, value); err != nil {
		return err
	}
	c.pass()
	return a.results[1].Err
}

func (c *txnCluster) visible(tp TopicPartition) string {
	n := c.leader(tp)
	return (&groupBench{n.testBroker}).committed(n.part(tp))
}

// TestTxnHangingSet: while one set of shards has no leader that can be reached, a transaction's other partitions have its end, once, and are free, and its end is answered, as it is
// decided; the next one does not begin. When the set has a leader, the end comes there, and the next one goes its way.
func TestTxnHangingSet(t *testing.T) {
	c := newTxnCluster(t, 1)
	p := c.onNode(c.nodes[0], "a")
	home, far, away := c.parts[0], c.parts[1], c.parts[3]
	if err := errors.Join(c.add(p, home, far, away), c.put(p, home, 0, "a"), c.put(p, far, 0, "b"), c.put(p, away, 0, "c")); err != nil {
		t.Fatal(err)
	}
	c.nodes[0].view[2] = setLead{c.sets[2].node, 99} // it is of no use to ask there
	told := c.end(p, true)
	if !errors.Is(*told, errLost) {
		t.Errorf("answered at once: %v", *told)
	}
	ends := [2]any{c.leader(home).part(home).HighWatermark(), c.leader(far).part(far).HighWatermark()}
	for range 5 {
		for _, n := range c.nodes {
			n.clock.Advance(markerRetry)
		}
		c.pass()
	}
	if got := c.visible(home) + c.visible(far) + "|" + c.visible(away); got != "a b |" || *told != nil {
		t.Errorf("while it hangs %q is seen; answered: %v", got, *told)
	}
	if now := [2]any{c.leader(home).part(home).HighWatermark(), c.leader(far).part(far).HighWatermark()}; now != ends {
		t.Errorf("partitions that have the end: from %v to %v", ends, now)
	}
	if err := c.add(p, home); !errors.Is(err, ErrConcurrentTransactions) {
		t.Errorf("a next transaction: %v", err)
	}
	if again := c.end(p, true); !errors.Is(*again, ErrConcurrentTransactions) {
		t.Errorf("its end, asked for again: %v", *again)
	}
	c.move(2, 0, false) // the coordinator's own node
	c.tell()
	c.pass()
	for _, n := range c.nodes {
		n.clock.Advance(markerRetry)
	}
	c.pass()
	if got := c.visible(away); got != "c " {
		t.Errorf("behind it %q is seen", got)
	}
	if err := errors.Join(c.add(p, home, away), c.put(p, home, 1, "d"), c.put(p, away, 1, "e")); err != nil {
		t.Fatal(err)
	}
	told = c.end(p, false)
	if got := c.visible(home) + c.visible(away); got != "a c " || *told != nil {
		t.Errorf("behind the next one %q is seen; answered: %v", got, *told)
	}
}

// TestTxnEndNotAnswered: where a node that is asked for the end does not answer, it is answered all the same, and the next transaction waits.
func TestTxnEndNotAnswered(t *testing.T) {
	c := newTxnCluster(t, 3)
	p := c.onNode(c.nodes[0], "a")
	home, away := c.parts[0], c.parts[3]
	if err := errors.Join(c.add(p, home, away), c.put(p, away, 0, "c")); err != nil {
		t.Fatal(err)
	}
	told := errLost
	p.gb.b.EndTxn(0, p.id, p.me, true, true, func(who ProducerIdentity, err error) { p.me, told = who, err })
	n := c.nodes[0]
	n.pump()
	c.carry(0)
	n.pump()
	if len(c.wire) != 1 || !errors.Is(told, errLost) {
		t.Fatalf("%d requests are on their way; answered: %v", len(c.wire), told)
	}
	n.clock.Advance(markerRetry)
	n.pump()
	if told != nil || p.me.Epoch != 1 {
		t.Errorf("answered: %v, epoch %d", told, p.me.Epoch)
	}
	wire := c.wire
	c.wire = nil
	if err := c.add(p, home); !errors.Is(err, ErrConcurrentTransactions) {
		t.Errorf("a next transaction: %v", err)
	}
	c.wire = wire
	c.pass()
	if got := c.visible(away); got != "c " {
		t.Errorf("%q is seen", got)
	}
	if err := c.add(p, home); err != nil {
		t.Errorf("a next transaction: %v", err)
	}
}

// TestJoinTxn: a new leader is told of the transaction when it is asked for; a partition that is none of it is refused, or becomes part of it.
func TestJoinTxn(t *testing.T) {
	c := newTxnCluster(t, 2)
	p := c.onNode(c.nodes[0], "a")
	one, other := c.parts[1], c.parts[3]
	if err := errors.Join(c.add(p, one), c.put(p, one, 0, "a")); err != nil {
		t.Fatal(err)
	}
	c.move(1, 2, false)
	c.tell()
	c.pass()
	if err := c.put(p, one, 1, "b"); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("to a new leader: %v", err)
	}
	if err := errors.Join(c.join(p, true, one), c.put(p, one, 1, "b")); err != nil {
		t.Errorf("after it has been told: %v", err)
	}
	if err := c.join(p, true, one, other); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("a partition that was not added: %v", err)
	}
	if err := c.put(p, other, 0, "c"); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("which takes nothing: %v", err)
	}
	if err := errors.Join(c.join(p, false, other), c.put(p, other, 0, "c")); err != nil {
		t.Errorf("and is added: %v", err)
	}
	c.nodes[0].view[2] = setLead{c.sets[2].node, 99}
	if err := c.join(p, true, other); !errors.Is(err, ErrNotLeader) {
		t.Errorf("of a leader that cannot be reached: %v", err)
	}
	c.tell()
	elsewhere := *p
	elsewhere.gb = &groupBench{c.nodes[1].testBroker}
	if err := c.join(&elsewhere, true, one); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a node that is not the coordinator: %v", err)
	}
	fenced := *p
	fenced.me.Epoch--
	if err := c.join(&fenced, false, one); !errors.Is(err, ErrProducerFenced) {
		t.Errorf("of another epoch: %v", err)
	}
	if told := c.end(p, true); *told != nil || c.visible(one)+c.visible(other) != "a b c " {
		t.Errorf("%v; %q and %q are seen", *told, c.visible(one), c.visible(other))
	}
	if err := c.join(p, true, one); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("behind the end: %v", err)
	}
}

// TestTxnAddLogFails: a partition that the log has not taken into a transaction is none of it, whoever asks and however often: the next coordinator would not end it there.
func TestTxnAddLogFails(t *testing.T) {
	c := newTxnCluster(t, 1)
	p := c.onNode(c.nodes[0], "a")
	one, other := c.parts[1], c.parts[3]
	c.nodes[0].log.fail = errors.New("the disk")
	if err := c.add(p, other); err == nil || errors.Is(err, errLost) {
		t.Fatalf("what is not written is answered: %v", err)
	}
	if told := c.end(p, true); !errors.Is(*told, ErrInvalidTxnState) {
		t.Errorf("the end of what has not begun: %v", *told)
	}
	c.nodes[0].log.fail = nil
	if err := errors.Join(c.add(p, one), c.put(p, one, 0, "a")); err != nil {
		t.Fatal(err)
	}
	c.nodes[0].log.fail = errors.New("the disk")
	for range 2 {
		if err := c.add(p, one, other); err == nil || errors.Is(err, errLost) {
			t.Errorf("what is not written is answered: %v", err)
		}
		if err := c.join(p, true, other); !errors.Is(err, ErrTxnNotAnnounced) {
			t.Errorf("a partition that is none of the transaction's: %v", err)
		}
	}
	c.nodes[0].log.fail = nil
	if err := c.put(p, other, 0, "b"); !errors.Is(err, ErrTxnNotAnnounced) {
		t.Errorf("a batch for it: %v", err)
	}
	if err := errors.Join(c.add(p, other), c.put(p, other, 0, "b")); err != nil {
		t.Fatal(err)
	}
	if told := c.end(p, true); *told != nil || c.visible(one)+c.visible(other) != "a b " {
		t.Errorf("%v; %q and %q are seen", *told, c.visible(one), c.visible(other))
	}
}

// TestTxnForgottenSerial: a coordinator whose serial a leader takes for an old one comes again with a new one, to announce and to end, and gets through.
func TestTxnForgottenSerial(t *testing.T) {
	c := newTxnCluster(t, 3)
	p := c.onNode(c.nodes[0], "a")
	one := c.parts[1]
	part := c.leader(one).part(one)
	raise := func() {
		part.shard.mu.Lock()
		j := part.joinedLocked()
		clear(j.txns)
		j.ended, j.floor = 0, serialOf(c.sets[0].epoch, c.nodes[0].b.txnSerials.Load())
		part.shard.mu.Unlock()
	}
	if err := c.add(p, c.parts[0]); err != nil { // the transaction has its serial
		t.Fatal(err)
	}
	raise()
	if err := errors.Join(c.add(p, one), c.put(p, one, 0, "a")); err != nil {
		t.Errorf("announced again: %v", err)
	}
	raise()
	told := c.end(p, true)
	c.nodes[0].clock.Advance(markerRetry)
	c.pass()
	if *told != nil || c.visible(one) != "a " {
		t.Errorf("its end: %v, %q is seen", *told, c.visible(one))
	}
}

// TestTxnTopicAgain: what is to be ended on a topic that is gone is over, also if one of its name has been made since.
func TestTxnTopicAgain(t *testing.T) {
	c := newTxnCluster(t, 4)
	p := c.onNode(c.nodes[0], "a")
	one := c.parts[1]
	if err := errors.Join(c.add(p, one), c.put(p, one, 0, "a")); err != nil {
		t.Fatal(err)
	}
	late := *c.old[len(c.old)-1]
	for _, n := range c.nodes {
		n.b.DropTopic(0, TopicID{1})
		n.b.SetTopic(txnTopic(2))
	}
	if told := c.end(p, true); *told != nil {
		t.Errorf("the end: %v", *told)
	}
	again := TopicPartition{TopicID{2}, 1}
	if err := errors.Join(c.add(p, again), c.put(p, again, 0, "b")); err != nil {
		t.Fatal(err)
	}
	if n := c.leader(again); n.b.TopicByID(0, late.tp.Topic) != nil {
		t.Error("what is late would find the topic")
	}
	if told := c.end(p, false); *told != nil || c.visible(again) != "" {
		t.Errorf("an abort on the next topic: %v, %q is seen", *told, c.visible(again))
	}
	if part := c.leader(again).part(again); part.LastStable() != part.HighWatermark() {
		t.Errorf("stable up to %d of %d", part.LastStable(), part.HighWatermark())
	}
}

// TestTxnEndWithoutLead: who has asked for the end of a transaction hears that the coordinator is none any more, while a set of shards cannot be reached.
func TestTxnEndWithoutLead(t *testing.T) {
	c := newTxnCluster(t, 5)
	p := c.onNode(c.nodes[0], "a")
	one := c.parts[1]
	if err := errors.Join(c.add(p, one), c.put(p, one, 0, "a")); err != nil {
		t.Fatal(err)
	}
	c.nodes[0].view[1] = setLead{c.sets[1].node, 99}
	told := c.end(p, true)
	if !errors.Is(*told, errLost) {
		t.Fatalf("before: %v", *told)
	}
	c.move(0, 2, false)
	if !errors.Is(*told, ErrNotLeader) {
		t.Errorf("then: %v", *told)
	}
	c.tell()
	c.pass()
	c.nodes[2].clock.Advance(time.Millisecond)
	c.pass()
	if got := c.visible(one); got != "a " {
		t.Errorf("the next coordinator: %q is seen", got)
	}
}

// TestTxnEndOfAnotherCoordinator: a coordinator that is none any more, and does not know, does not say of a later transaction what it knows of an earlier one.
func TestTxnEndOfAnotherCoordinator(t *testing.T) {
	c := newTxnCluster(t, 6)
	before := c.onNode(c.nodes[0], "a")
	one := c.parts[1]
	if err := errors.Join(c.add(before, one), c.put(before, one, 0, "a"), *c.end(before, true), *c.end(before, true)); err != nil {
		t.Fatal(err)
	}
	c.move(0, 2, true)
	c.tell()
	c.pass()
	p := *before
	p.gb = &groupBench{c.nodes[2].testBroker}
	if err := errors.Join(c.add(&p, one), c.put(&p, one, 1, "b")); err != nil {
		t.Fatal(err)
	}
	told := c.end(before, true)
	if *told == nil {
		t.Error("it says that the transaction is committed")
	}
	c.wake(0)
	c.pass()
	if !errors.Is(*told, ErrNotLeader) || c.visible(one) != "a " {
		t.Errorf("when it knows: %v, %q is seen", *told, c.visible(one))
	}
	if told := c.end(&p, true); *told != nil || c.visible(one) != "a b " {
		t.Errorf("the later one: %v, %q is seen", *told, c.visible(one))
	}
}
