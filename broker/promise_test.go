package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// shared2 connects kept members of a group at QoS 2.
func (tb *testBroker) shared2(ids ...string) (list []*testClient) {
	tb.t.Helper()
	for i, id := range ids {
		c := tb.connect(i%tb.b.Loops(), kept(id))
		c.share("g", 2, "t/#")
		list = append(list, c)
	}
	return list
}

// receive answers the i-th delivery by PUBREC, and by PUBCOMP.
func (c *testClient) receive(i int) {
	c.tb.t.Helper()
	if out, err := c.l.Received(c.c, c.got[i].id, 77); err != nil || out != Pending {
		c.tb.t.Fatal(out, err)
	}
	c.tb.pump()
}

func (c *testClient) complete(i int) {
	c.l.Acked(c.c, c.got[i].id)
	c.tb.pump()
}

// quit ends the connection and has the session end with it.
func (c *testClient) quit() {
	c.l.Disconnect(c.c, DisconnectRequest{HasExpiry: true})
	c.tb.pump()
}

// checkpointed crashes the broker and starts it on its checkpoint and what was committed since.
func (tb *testBroker) checkpointed(loops int, points *memCheckpoints) *testBroker {
	tb.t.Helper()
	next, err := tb.restart(loops, points)
	if err != nil {
		tb.t.Fatal(err)
	}
	tb.t.Cleanup(next.b.Close)
	return next
}

// Conformance: MQTT-4.8.2-4 (5.0)
func TestSharedQoS2IsResumed(t *testing.T) {
	for _, loops := range []int{1, 2} {
		tb := newTestBroker(t, loops, nil)
		m := tb.shared2("a", "b")
		p := tb.connect(0, live("p"))
		for i := range 4 {
			p.publish("t/x", fmt.Sprint(i), 2, Token(i+1))
			tb.pump()
		}
		a, b := m[0], m[1]
		check(t, "split", [][]string{a.payloads(), b.payloads()}, [][]string{{"0", "2"}, {"1", "3"}})
		if a.got[0].id < CorePacketIDs {
			t.Fatalf("identifier %d is not the core's", a.got[0].id)
		}
		first := slices.Clone(a.got)
		a.receive(1)
		a.disconnect()
		check(t, "not to the other", len(b.got), 2)
		a = tb.connect(0, kept("a"))
		first[0].dup = true
		check(t, "again, as it was", fmt.Sprint(a.got), fmt.Sprint(first[:1]))
		check(t, "released", a.controls, []Control{{Kind: ControlRelease, PacketID: first[1].id}})
		tb = tb.crash(loops)
		b, a = tb.connect(0, kept("b")), tb.connect(0, kept("a"))
		check(t, "after a crash", fmt.Sprint(a.got), fmt.Sprint(first[:1]))
		check(t, "released", a.controls, []Control{{Kind: ControlRelease, PacketID: first[1].id}})
		check(t, "the other's own", b.payloads(), []string{"1", "3"})
		a.receive(0)
		a.complete(0)
		a.l.Acked(a.c, first[1].id)
		a.disconnect()
		a = tb.connect(0, kept("a"))
		check(t, "done", len(a.got)+len(a.controls), 0)
		tb = tb.crash(loops)
		a = tb.connect(0, kept("a"))
		check(t, "done after a crash", len(a.got)+len(a.controls), 0)
	}
}

// The group's place waits for a QoS 1 message that somebody has, and for what nobody could take; what came after it at QoS 2 is finished
// all the same.
func TestSharedQoS2BehindAnOpenOne(t *testing.T) {
	for _, tick := range []bool{false, true} {
		tb := newTestBroker(t, 2, nil)
		slow, a := tb.connect(0, kept("slow")), tb.connect(1, kept("a"))
		slow.share("g", 1, "t/#")
		p := tb.connect(0, live("p"))
		p.publish("t/x", "at QoS 1", 1, 1)
		tb.pump()
		slow.room = 0
		a.share("g", 2, "t/#")
		for i := range 6 {
			p.publish("t/x", fmt.Sprint(i), 2, Token(i+2))
			tb.pump()
		}
		check(t, "a", a.payloads(), numbered("", 0, 6))
		for i := range 6 {
			a.receive(i)
			a.complete(i)
		}
		if tick {
			tb.tick()
			tb.tick()
		}
		points := &memCheckpoints{}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		p.publish("t/x", "6", 2, 9)
		tb.pump()
		tb.tick()
		id := a.got[6].id
		tb = tb.checkpointed(1, points)
		b := tb.connect(0, live("b"))
		b.share("g", 2, "t/#")
		check(t, "only what was not finished goes to another", b.payloads(), []string{"at QoS 1"})
		a = tb.connect(0, kept("a"))
		check(t, "what was begun", []any{a.payloads(), a.got[0].id, a.got[0].dup}, []any{[]string{"6"}, id, true})
	}
}

// Conformance: MQTT-4.8.2-5 (5.0)
func TestSharedQoS2EndsWithItsSession(t *testing.T) {
	for _, crash := range []bool{false, true} {
		tb := newTestBroker(t, 2, nil)
		m := tb.shared2("a", "b")
		p := tb.connect(0, live("p"))
		p.publish("t/x", "1", 2, 1)
		tb.pump()
		check(t, "a has it", m[0].payloads(), []string{"1"})
		if crash {
			tb = tb.crash(1)
			m[0] = tb.connect(0, kept("a"))
			m[1] = tb.connect(0, kept("b"))
		}
		m[0].quit()
		tb.tick()
		check(t, "nobody else gets it", len(m[1].got), 0)
		points := &memCheckpoints{}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		tb = tb.checkpointed(1, points)
		for _, s := range tb.b.homes {
			check(t, "nothing is owed", len(s.mu.promised), 0)
		}
		b, a := tb.connect(0, kept("b")), tb.connect(0, kept("a"))
		a.share("g", 2, "t/#")
		check(t, "nor later", len(a.got)+len(b.got), 0)
	}
}

// What is begun with a live member ends with it, also if the broker goes with it.
//
// Conformance: MQTT-4.8.2-5 (5.0)
func TestSharedQoS2OfLiveMember(t *testing.T) {
	for _, crash := range []bool{false, true} {
		tb := newTestBroker(t, 2, nil)
		b := tb.shared2("b")[0]
		b.disconnect()
		a := tb.connect(1, live("a"))
		a.share("g", 2, "t/#")
		p := tb.connect(0, live("p"))
		p.publish("t/x", "1", 2, 1)
		tb.pump()
		check(t, "a has it", a.payloads(), []string{"1"})
		if crash {
			tb = tb.crash(1)
		} else {
			a.disconnect()
		}
		b = tb.connect(0, kept("b"))
		check(t, "nobody else gets it", len(b.got), 0)
		tb.connect(0, live("p")).publish("t/x", "2", 2, 1)
		tb.pump()
		check(t, "the group goes on", b.payloads(), []string{"2"})
		tb.tick()
		check(t, "nothing is out", tb.b.groupsOut(), 0)
	}
}

func (b *Broker) groupsOut() (n int) {
	for _, s := range b.homes {
		for _, g := range s.mu.groups {
			n += len(g.out) + len(g.again)
		}
	}
	return n
}

// A member that ends before anything was sent to it gives back what it was promised.
func TestSharedUnsentGoesBack(t *testing.T) {
	for _, how := range []string{"live", "kept", "refused", "crash"} {
		t.Run(how, func(t *testing.T) {
			tb := newTestBroker(t, 2, nil)
			b := tb.shared2("b")[0]
			b.disconnect()
			req := live("a")
			if how != "live" {
				req = kept("a")
			}
			a := tb.connect(1, req)
			a.share("g", 2, "t/#")
			a.room = 1 // takes the first, and has promised the others
			p := tb.connect(0, live("p"))
			for i := range 5 {
				p.publish("t/x", fmt.Sprint(i), 2, Token(i+1))
			}
			tb.pump()
			check(t, "a", a.payloads(), []string{"0"})
			b = tb.connect(0, kept("b"))
			check(t, "b waits", len(b.got), 0)
			if how == "refused" {
				tb.log.fail = errors.New("disk full")
				a.l.Disconnect(a.c, DisconnectRequest{})
				for range 4 {
					tb.b.Local(1).Drain()
					tb.b.Local(1).EndTurn()
					tb.log.commit()
					tb.b.Local(0).Drain()
				}
				tb.log.fail = nil
				tb.pump()
				check(t, "they stay with a", len(b.got), 0)
				a = tb.connect(1, kept("a"))
				check(t, "a gets them all", a.payloads(), numbered("", 0, 5))
				return
			}
			a.disconnect()
			check(t, "b gets the others", b.payloads(), numbered("", 1, 5))
			if how == "crash" {
				tb = tb.crash(2)
				a, b = tb.connect(0, kept("a")), tb.connect(1, kept("b"))
				check(t, "each its own", [][]string{a.payloads(), b.payloads()}, [][]string{{"0"}, numbered("", 1, 5)})
			}
		})
	}
}

// What was promised and not sent may come back: until then its group's queue holds it.
func TestSharedUnsentIsHeld(t *testing.T) {
	for _, applied := range []bool{false, true} {
		tb := newTestBroker(t, 1, nil)
		b := tb.shared2("b")[0]
		b.disconnect()
		a := tb.connect(0, kept("a"))
		a.share("g", 2, "t/#")
		a.room = 0
		tb.connect(0, live("p")).publish("t/x", "1", 2, 1)
		tb.pump()
		for range 3 {
			tb.tick()
		}
		check(t, "promised", len(a.c.unsent().list), 1)
		a.l.Disconnect(a.c, DisconnectRequest{})
		a.l.EndTurn()
		if applied {
			tb.pump()
		}
		points := &memCheckpoints{}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		tb.log.commit()
		for range 2 {
			tb.b.Local(0).Tick()
		}
		tb = tb.checkpointed(1, points)
		b = tb.connect(0, kept("b"))
		check(t, "b has it", b.payloads(), []string{"1"})
		b.complete(0)
		a = tb.connect(0, kept("a"))
		check(t, "a has not", len(a.got), 0)
	}
}

// A grant that the log does not take was not made.
func TestSharedPromiseRefused(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	b := tb.shared2("b")[0]
	b.disconnect()
	a := tb.connect(0, kept("a"))
	a.share("g", 2, "t/#")
	p := tb.connect(0, live("p"))
	p.publish("t/x", "1", 2, 1)
	tb.log.commit()
	l := tb.b.Local(0)
	for range 3 {
		l.Drain()
		l.EndTurn()
	}
	tb.log.fail = errors.New("disk full")
	tb.log.commit()
	tb.log.fail = nil
	tb.pump()
	check(t, "a is gone, and got nothing", []any{a.kicked != nil, len(a.got)}, []any{true, 0})
	b = tb.connect(0, kept("b"))
	check(t, "b has it", b.payloads(), []string{"1"})
	check(t, "one has it out", tb.b.groupsOut(), 0)
	a = tb.connect(0, kept("a"))
	check(t, "a has nothing", len(a.got), 0)
}

// The record of what was begun stays in the log, whatever the queues have let go of, also those of a group that has ended.
func TestSharedRecordIsHeld(t *testing.T) {
	for _, leave := range []bool{false, true} {
		tb := newTestBroker(t, 1, nil)
		m := tb.shared2("a", "b")
		a, b := m[0], m[1]
		p := tb.connect(0, live("p"))
		p.publish("t/x", "held", 2, 1)
		tb.pump()
		check(t, "a", a.payloads(), []string{"held"})
		if leave {
			for _, c := range m {
				if _, err := c.l.Unsubscribe(c.c, []SubscribeRequest{{Filter: []byte("t/#"), Group: []byte("g")}}, make([]error, 1), 1); err != nil {
					t.Fatal(err)
				}
			}
			tb.pump()
		}
		a.disconnect()
		for i := range 1200 {
			p.publish("t/x", fmt.Sprint(i), 2, Token(i+2))
			tb.pump()
			for k := range b.got {
				b.l.Acked(b.c, b.got[k].id)
			}
			b.got = nil
		}
		for range 3 {
			tb.tick()
		}
		s := tb.b.shardOf(0, []byte("t/x"))
		for _, q := range s.mu.queues {
			if q.first() > 0 && q.first() < 500 {
				t.Fatalf("the queue begins at %d", q.first())
			}
		}
		check(t, "log start", s.mu.logStart <= 1, true)
		points := &memCheckpoints{}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		tb = tb.checkpointed(1, points)
		tb.tick()
		a = tb.connect(0, kept("a"))
		check(t, "again", a.payloads(), []string{"held"})
		a.receive(0)
		for range 3 {
			tb.tick()
		}
		s = tb.b.shardOf(0, []byte("t/x"))
		check(t, "let go", s.mu.logStart > 1, true)
	}
}

func TestSharedHoldHasABound(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	tb.b.SetLimits(Limits{SessionAge: time.Minute})
	m := tb.shared2("a", "b")
	a, b, p := m[0], m[1], tb.connect(0, live("p"))
	p.publish("t/x", "1", 2, 1)
	tb.pump()
	id := a.got[0].id
	a.disconnect()
	tb.clock.Advance(2 * time.Minute)
	for i := range 600 {
		p.publish("t/x", "2", 2, Token(i+2))
		tb.pump()
		b.complete(i)
	}
	for range 3 {
		tb.tick()
	}
	a = tb.connect(0, kept("a"))
	check(t, "the identifier is released", a.controls, []Control{{Kind: ControlRelease, PacketID: id}})
}

// A session's own subscription and its groups bring the same record: each is its own.
func TestSharedBesideOwnSubscription(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	a := tb.connect(0, kept("a"))
	a.subscribe(2, "t/#")
	a.share("g", 2, "t/#")
	a.share("h", 2, "t/#")
	tb.connect(0, live("p")).publish("t/x", "1", 2, 1)
	tb.pump()
	check(t, "three times", a.payloads(), []string{"1", "1", "1"})
	tb = tb.crash(1)
	a = tb.connect(0, kept("a"))
	check(t, "three again", a.payloads(), []string{"1", "1", "1"})
	for i := range 3 {
		a.receive(i)
		a.complete(i)
	}
	a.disconnect()
	a = tb.connect(0, kept("a"))
	check(t, "done", len(a.got)+len(a.controls), 0)
}

// A member is promised no more than its window; when there is room, the group goes on.
func TestSharedQoS2Window(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	req := kept("a")
	req.ReceiveMax = 3
	a := tb.connect(1, req)
	a.share("g", 2, "t/#")
	p := tb.connect(0, live("p"))
	for i := range 20 {
		p.publish("t/x", fmt.Sprint(i), 2, Token(i+1))
	}
	tb.pump()
	check(t, "window", a.payloads(), numbered("", 0, 3))
	for i := range 20 {
		a.complete(i) // two stay open all the while
		check(t, "one more", len(a.got), min(20, i+4))
	}
	check(t, "in order", a.payloads(), numbered("", 0, 20))
}

// Identifiers of messages that are finished are taken again only when the log knows.
func TestPromisedIdentifiersComeRound(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	a := tb.connect(0, kept("a"))
	a.share("g", 2, "t/#")
	p := tb.connect(0, live("p"))
	a.c.feed.nextID, a.c.feed.reused = 0xFFFE, true
	p.publish("t/x", "held", 2, 1)
	tb.pump()
	held := a.got[0].id
	for i := range 3 {
		a.c.feed.nextID = held
		p.publish("t/x", fmt.Sprint(i), 2, 2)
		tb.pump()
		if id := a.got[i+1].id; id == held || i > 0 && id == a.got[i].id {
			t.Fatalf("identifier %d is in use: %v", id, a.got)
		}
		a.complete(i + 1)
	}
	tb.tick()
	check(t, "free again", len(a.c.feed.promised), 1)
}

// named gives a name of a prefix that lies in a shard of the wanted kind.
func (tb *testBroker) named(prefix string, want func(*shard) bool) string {
	for i := 0; ; i++ {
		if name := fmt.Sprint(prefix, i); want(tb.b.shardOf(0, []byte(name))) {
			return name
		}
	}
}

// The next connection of a session waits until what the one before has finished is applied, in whatever shard: it would send it again.
func TestNextConnectionWaitsForWhatIsKept(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	on := func(loop int) func(*shard) bool { return func(s *shard) bool { return s.home.id == loop } }
	client, topic := tb.named("c", on(0)), tb.named("t/", on(1))
	a := tb.connect(0, kept(client))
	a.share("g", 2, "t/#")
	tb.connect(0, live("p")).publish(topic, "1", 2, 1)
	tb.pump()
	a.l.Acked(a.c, a.got[0].id) // of no tick yet
	next, req := tb.client(0), kept(client)
	next.l.Connect(next.c, &req)
	for range 8 { // the home loop of the message's shard stands still
		tb.b.Local(0).Drain()
		tb.b.Local(0).EndTurn()
		tb.log.commit()
	}
	check(t, "waits", []bool{a.kicked != nil, next.connected != nil}, []bool{true, false})
	tb.pump()
	check(t, "nothing again", []int{len(next.got), len(next.controls)}, []int{0, 0})
}

// A shard's checkpoint may have promises to a session whose end is in another's, and in no frame any more.
func TestPromisesToNobodyAreDropped(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	in := func(id int) func(*shard) bool { return func(s *shard) bool { return int(s.id) == id } }
	client, topic := tb.named("c", in(0)), tb.named("t/", in(3))
	a := tb.connect(0, kept(client))
	a.share("g", 2, "t/#")
	tb.connect(0, live("p")).publish(topic, "1", 2, 1)
	tb.pump()
	points := &memCheckpoints{}
	if err := tb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	a.quit()
	n := 0
	points.step = func() error {
		if n++; n == 4 {
			return errors.New("refused")
		}
		return nil
	}
	if err := tb.b.Checkpoint(points); err == nil {
		t.Fatal("not refused")
	}
	points.flushEarly()
	tb = tb.checkpointed(1, points)
	check(t, "promised", len(tb.b.homes[3].mu.promised), 0)
}

// An identifier that was taken again for a promise is no more that of the message before, whose end was not journaled.
func TestPromiseTakesItsIdentifier(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	a := tb.connect(0, kept("a"))
	a.subscribe(2, "own")
	a.share("g", 2, "t/#")
	p := tb.connect(0, live("p"))
	p.publish("own", "1", 2, 1)
	tb.pump()
	id := a.got[0].id
	a.complete(0)
	a.c.feed.nextID = id
	p.publish("t/x", "2", 2, 2)
	tb.pump()
	check(t, "taken again", a.got[1].id, id)
	tb = tb.crash(1)
	a = tb.connect(0, kept("a"))
	check(t, "again", []any{a.payloads(), a.got[0].id, len(a.controls)}, []any{[]string{"2"}, id, 0})
	a.receive(0)
	a.complete(0)
	check(t, "done", a.c.feed.open, 0)
}

// What is on its way to a member is bounded in bytes too.
func TestPromisedBytesAreBounded(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	m := tb.shared2("a", "b")
	m[0].room, m[1].room = 0, 0
	p := tb.connect(0, live("p"))
	big := string(make([]byte, 200<<10))
	for i := range 30 {
		p.publish("t/x", fmt.Sprint(i)+big, 2, Token(i+1))
		tb.pump()
	}
	for _, c := range m {
		if n := c.c.unsent().bytes; n > unsentBytes+len(big)+100 || n < 0 {
			t.Errorf("%d bytes wait", n)
		}
	}
	for range 20 {
		for _, c := range m {
			c.room = -1
			c.l.Ready(c.c)
			tb.pump()
			for i := range c.got {
				c.l.Acked(c.c, c.got[i].id)
			}
			tb.pump()
		}
	}
	check(t, "all came", len(m[0].got)+len(m[1].got), 30)
	check(t, "nothing waits", m[0].c.unsent().bytes+m[1].c.unsent().bytes, 0)
}
