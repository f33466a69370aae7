package broker

import (
	"errors"
	"testing"
)

// exclusive asks for filters exclusively and gives what is said of each, after the log has it.
func (c *testClient) exclusive(filter string) error {
	c.tb.t.Helper()
	const tok = 7777
	errs := make([]error, 1)
	delete(c.completed, tok)
	out, err := c.l.Subscribe(c.c, []SubscribeRequest{{Filter: []byte(filter), QoS: 1, Exclusive: true}}, errs, tok)
	if err != nil {
		return err
	}
	c.tb.pump()
	if out == Pending {
		err, done := c.completed[tok]
		if !done {
			c.tb.t.Fatal("never completed")
		}
		return err
	}
	return errs[0]
}

func (c *testClient) unsubscribe(filter string) {
	c.tb.t.Helper()
	errs := make([]error, 1)
	if _, err := c.l.Unsubscribe(c.c, []SubscribeRequest{{Filter: []byte(filter)}}, errs, 1); err != nil || errs[0] != nil {
		c.tb.t.Fatal(err, errs)
	}
	c.tb.pump()
}

func wantExclusive(t *testing.T, what string, c *testClient, filter string, free bool) {
	t.Helper()
	err := c.exclusive(filter)
	if free && err != nil || !free && !errors.Is(err, ErrExclusive) {
		t.Fatalf("%s: %v", what, err)
	}
}

// A filter is one session's, live or kept, on whichever loop, until it unsubscribes or ends.
func TestExclusiveSubscription(t *testing.T) {
	for what, how := range map[string]func(string) ConnectRequest{"live": live, "kept": kept} {
		tb := newTestBroker(t, 2, nil)
		p, a, b := tb.connect(0, live("p")), tb.connect(0, how("a")), tb.connect(1, how("b"))
		wantExclusive(t, what, a, "t/+", true)
		wantExclusive(t, what+" again", a, "t/+", true)
		wantExclusive(t, what+" taken", b, "t/+", false)
		wantExclusive(t, what+" another filter", b, "t/#", true)
		b.unsubscribe("t/#")
		b.subscribe(1, "t/+") // in the ordinary way it is everybody's
		p.publish("t/1", "1", 1, 1)
		tb.pump()
		check(t, what+" holder", a.payloads(), []string{"1"})
		check(t, what+" other", b.payloads(), []string{"1"})
		a.unsubscribe("t/+")
		wantExclusive(t, what+" after unsubscribe", b, "t/+", true)
		wantExclusive(t, what+" the other way round", a, "t/+", false)
		b.subscribe(1, "t/+")
		wantExclusive(t, what+" after it was replaced by an ordinary one", a, "t/+", true)
		wantExclusive(t, what+" and back", b, "t/+", false)
		a.disconnect()
		wantExclusive(t, what+" after the connection", b, "t/+", what == "live")
		a = tb.connect(1, live("a")) // ends a kept session
		wantExclusive(t, what+" after the session", b, "t/+", true)
		b.l.Disconnect(b.c, DisconnectRequest{HasExpiry: true})
		tb.pump()
		wantExclusive(t, what+" after the session ended itself", a, "t/+", true)
		a.disconnect()
		if n := len(tb.b.exclusive.rows); n != 0 {
			t.Errorf("%s: %d filters are still somebody's", what, n)
		}
	}
}

// What the log has not yet is reserved, and what it did not take is free.
func TestExclusiveOnItsWay(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	a, b := tb.connect(0, kept("a")), tb.connect(1, kept("b"))
	ask := []SubscribeRequest{{Filter: []byte("t"), QoS: 1, Exclusive: true}}
	errs := make([]error, 1)
	if out, err := a.l.Subscribe(a.c, ask, errs, 1); out != Pending || err != nil || errs[0] != nil {
		t.Fatal(out, err, errs)
	}
	if out, err := b.l.Subscribe(b.c, ask, errs, 1); out != Routed || err != nil || !errors.Is(errs[0], ErrExclusive) {
		t.Fatal("two have it on its way: ", out, err, errs)
	}
	tb.log.fail = errors.New("broken")
	tb.pump()
	tb.log.fail = nil
	if a.completed[1] == nil {
		t.Fatal("it was not written")
	}
	wantExclusive(t, "after it was not written", b, "t", true)

	// An ordinary one on its way ends an exclusive one, and an exclusive one behind it begins another: nobody comes between.
	if _, err := b.l.Subscribe(b.c, []SubscribeRequest{{Filter: []byte("t")}}, errs, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := b.l.Subscribe(b.c, ask, errs, 3); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	wantExclusive(t, "replaced twice", a, "t", false)
}

// A restart knows the holder, in whichever order the shards are replayed, and a free filter.
func TestExclusiveAcrossCrash(t *testing.T) {
	for _, first := range []int{0, modelShards - 1} {
		tb, points := newTestBroker(t, 2, nil), &memCheckpoints{}
		one, two := onShard(tb, first), onShard(tb, modelShards-1-first)
		a, b := tb.connect(0, kept(one)), tb.connect(1, kept(two))
		wantExclusive(t, "free", a, "t", true)
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		wantExclusive(t, "taken", b, "t", false)
		a.unsubscribe("t")
		wantExclusive(t, "free again", b, "t", true)
		// The holder's shard is as it is after that, the other one's as it was before.
		before := points.flushed
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		points.flushed[a.c.sess.shard.id] = before[a.c.sess.shard.id]
		points.replay = 0
		next, err := tb.restart(2, points)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(next.b.Close)
		wantExclusive(t, "taken after a restart", next.connect(1, kept(one)), "t", false)
		wantExclusive(t, "the holder's after a restart", next.connect(1, kept(two)), "t", true)
		next = next.crash(1)
		wantExclusive(t, "taken after a crash", next.connect(0, live("c")), "t", false)
		next.connect(0, live(two))
		wantExclusive(t, "free after the session", next.connect(0, live("c")), "t", true)
	}
}
