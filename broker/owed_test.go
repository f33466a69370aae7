package broker

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// retain publishes retained messages at a QoS.
func (c *testClient) retain(qos QoS, topic, payload string) {
	c.tb.t.Helper()
	m := Message{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, Retain: true, Timestamp: c.tb.clock.Now().UnixMilli()}
	if _, err := c.l.Publish(c.c, &m, false, 500); err != nil {
		c.tb.t.Fatal(err)
	}
	c.tb.pump()
}

// subscribeAs is a subscription with an identifier and a retain handling.
func (c *testClient) subscribeAs(qos QoS, filter string, id uint32, handling uint8) {
	c.tb.t.Helper()
	errs := make([]error, 1)
	req := []SubscribeRequest{{Filter: []byte(filter), QoS: qos, SubscriptionID: id, RetainHandling: handling}}
	if _, err := c.l.Subscribe(c.c, req, errs, 9999); err != nil || errs[0] != nil {
		c.tb.t.Fatal(err, errs)
	}
	c.tb.pump()
}

// Conformance: MQTT-4.4.0-1 (3.1.1, 5.0)
func TestRetainedIsSentAgain(t *testing.T) {
	for _, change := range []string{"", "replaced", "cleared"} {
		for _, crash := range []bool{false, true} {
			tb := newTestBroker(t, 2, nil)
			p, s := tb.connect(0, live("p")), tb.connect(1, kept("s"))
			for qos := range QoS(3) {
				p.retain(qos, fmt.Sprint("r/", qos), fmt.Sprint("v", qos))
			}
			s.subscribeAs(2, "r/#", 7, 0)
			slices.SortFunc(s.got, func(a, b got) int { return int(a.qos) - int(b.qos) })
			check(t, "sent", s.payloads(), numbered("v", 0, 3))
			first := s.got[1:]
			for i := range first {
				if !first[i].retain || first[i].ids != "[7]" {
					t.Fatalf("%+v", first[i])
				}
				first[i].dup = true
			}
			s.disconnect()
			later := []string{}
			for qos := range QoS(3) {
				switch change {
				case "replaced":
					p.retain(1, fmt.Sprint("r/", qos), fmt.Sprint("new", qos))
					later = append(later, fmt.Sprint("new", qos))
				case "cleared":
					p.retain(1, fmt.Sprint("r/", qos), "")
					later = append(later, "")
				}
			}
			for range 3 {
				tb.tick()
			}
			if crash {
				points := &memCheckpoints{}
				if err := tb.b.Checkpoint(points); err != nil {
					t.Fatal(err)
				}
				tb = tb.checkpointed(1, points)
			}
			s = tb.connect(0, kept("s"))
			check(t, "again, as they were", fmt.Sprint(s.got[:2]), fmt.Sprint(first))
			rest := s.payloads()[2:]
			slices.Sort(rest)
			check(t, "then what came since", append([]string{}, rest...), later)
			s.receive(slices.IndexFunc(s.got, func(g got) bool { return g.payload == "v2" }))
			id := first[1].id
			s.ackAll()
			s.disconnect()
			s = tb.connect(0, kept("s"))
			check(t, "done", len(s.got)+len(s.controls), 0)
			check(t, "identifier", id >= CorePacketIDs, true)
			tb = tb.crash(1)
			s = tb.connect(0, kept("s"))
			check(t, "done after a crash", len(s.got)+len(s.controls), 0)
		}
	}
}

func TestRetainedReleaseIsSentAgain(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
	p.retain(2, "r", "v")
	s.subscribe(2, "r")
	s.receive(0)
	id := s.got[0].id
	tb = tb.crash(1)
	s = tb.connect(0, kept("s"))
	check(t, "no publish, a release", []any{len(s.got), s.controls}, []any{0, []Control{{Kind: ControlRelease, PacketID: id}}})
	s.l.Acked(s.c, id)
	s.disconnect()
	s = tb.connect(0, kept("s"))
	check(t, "done", len(s.got)+len(s.controls), 0)
}

// A subscription brings all of its retained messages within the window, once each, however often the connection and the broker break.
func TestRetainedGoesOnAfterReconnect(t *testing.T) {
	for _, crash := range []bool{false, true} {
		tb := newTestBroker(t, 2, nil)
		p, s := tb.connect(0, live("p")), tb.connect(1, kept("s"))
		const n = 300
		for i := range n {
			p.retain(2, fmt.Sprintf("r/%03d", i), fmt.Sprint(i))
		}
		s.subscribe(2, "r/+")
		var all []string
		for round := 0; len(all) < n; round++ {
			if round > n {
				t.Fatalf("stuck at %d", len(all))
			}
			open := 0
			for i := 0; i < len(s.got); i++ {
				if !s.got[i].dup {
					all = append(all, s.got[i].payload)
				}
				if i < 15 && (i%2 == round%2 || round%3 == 0) {
					s.complete(i)
				} else {
					open++
				}
			}
			if open > 10 {
				t.Fatalf("%d at once", open)
			}
			s.disconnect()
			if crash {
				tb = tb.crash(2)
			}
			s = tb.connect(round%2, kept("s"))
		}
		check(t, "each once, in order", all, numbered("", 0, n))
		s.ackAll()
		s.disconnect()
		s = tb.connect(0, kept("s"))
		check(t, "nothing is owed", []int{len(s.got), len(s.c.jobs()), len(s.c.sess.d.owed)}, []int{0, 0, 0})
	}
}

// What is published while a retained message is on its way comes behind it.
func TestRetainedComesBeforeItsSuccessor(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
	p.retain(1, "r", "old")
	req := []SubscribeRequest{{Filter: []byte("r"), QoS: 1}}
	if _, err := s.l.Subscribe(s.c, req, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	for s.c.feed.retaining == 0 {
		s.l.Drain()
		s.l.EndTurn()
		if s.c.feed.retaining == 0 {
			tb.log.commit()
		}
	}
	m := Message{Topic: []byte("r"), Payload: []byte("new"), QoS: 1, Retain: true}
	if _, err := p.l.Publish(p.c, &m, false, 1); err != nil {
		t.Fatal(err)
	}
	tb.pump()
	check(t, "order", s.payloads(), []string{"old", "new"})
	s.disconnect()
	s = tb.connect(0, kept("s"))
	check(t, "again", s.payloads(), []string{"old", "new"})
}

func TestRetainedOwedEndsWithItsSubscription(t *testing.T) {
	for _, how := range []string{"unsubscribe", "replace", "replace 0", "session"} {
		tb := newTestBroker(t, 1, nil)
		p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
		for i := range 30 {
			p.retain(1, fmt.Sprintf("r/%02d", i), fmt.Sprint(i))
		}
		s.subscribe(1, "r/+")
		check(t, "window", s.payloads(), numbered("", 0, 10))
		check(t, "owed", len(s.c.sess.d.owed), 1)
		switch how {
		case "unsubscribe":
			if _, err := s.l.Unsubscribe(s.c, []SubscribeRequest{{Filter: []byte("r/+")}}, make([]error, 1), 1); err != nil {
				t.Fatal(err)
			}
		case "replace":
			s.subscribeAs(1, "r/+", 3, 0)
		case "replace 0":
			s.subscribeAs(0, "r/+", 3, 2)
		case "session":
			s.disconnect()
			req := kept("s")
			req.CleanStart = true
			s = tb.connect(0, req)
			tb.tick()
			check(t, "nothing promised", len(s.c.sess.shard.mu.promised), 0)
			continue
		}
		tb.pump()
		for range 10 {
			s.ackAll()
		}
		want := numbered("", 0, 10)
		if how == "replace" {
			want = append(want, numbered("", 0, 30)...)
		}
		check(t, how, s.payloads(), want)
		check(t, "owed", len(s.c.sess.d.owed), 0)
	}
}

func TestRetainedRowsOfBefore(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	s := tb.connect(0, kept("s"))
	s.subscribe(1, "a", "b")
	row := encodeSessionRow(nil, s.c.sess)
	row = row[:len(row)-1] // without what is owed
	other := newTestBroker(t, 1, nil)
	if !other.b.shardOf(0, []byte("s")).loadSession(other.b, 5, row) {
		t.Fatal("not loaded")
	}
	d := decoder{b: []byte{7}}
	m := d.groupMark()
	check(t, "group", []any{d.ok(), m.cursor, len(m.open)}, []any{true, uint64(7), 0})
}

func TestRetainedExpiresBeforeItIsSent(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
	m := Message{Topic: []byte("r"), Payload: []byte("v"), QoS: 1, Retain: true, Deadline: tb.clock.Now().Add(time.Second).UnixMilli()}
	if _, err := p.l.Publish(p.c, &m, false, 1); err != nil {
		t.Fatal(err)
	}
	tb.pump()
	tb.clock.Advance(2 * time.Second)
	s.subscribe(1, "r")
	check(t, "nothing", len(s.got), 0)
}

// A full pending list holds retained messages up, and nothing is left out.
func TestRetainedWaitsForRoomInTheLog(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p := tb.connect(0, live("p"))
	for i := range 40 {
		p.retain(1, fmt.Sprintf("r/%02d", i), fmt.Sprint(i)+string(make([]byte, 20<<10)))
	}
	req := kept("s")
	req.ReceiveMax = 100
	s := tb.connect(0, req)
	s.subscribe(0, "none")
	sh := s.c.sess.shard
	sub := []SubscribeRequest{{Filter: []byte("r/#"), QoS: 1}}
	if _, err := s.l.Subscribe(s.c, sub, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	s.l.EndTurn()
	tb.log.commit()
	sh.mu.Lock()
	if _, ok := sh.fillLocked(pendingBytesMax); !ok {
		t.Fatal("no room at the beginning")
	}
	sh.mu.Unlock()
	for range 3 {
		s.l.Drain()
		s.l.EndTurn()
	}
	check(t, "waits", []int{len(s.got), len(s.c.jobs())}, []int{0, 1})
	sh.mu.Lock()
	sh.markDirtyLocked()
	sh.mu.Unlock()
	tb.b.dirtyShard(sh)
	tb.pump()
	check(t, "all", len(s.got), 40)
}

// What was promised to a connection that ended before it could be sent is no duplicate in the next one.
func TestRetainedUnsentIsNoDuplicate(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, s := tb.connect(0, live("p")), tb.connect(1, kept("s"))
	for i := range 6 {
		p.retain(2, fmt.Sprint("r/", i), fmt.Sprint(i))
	}
	s.room = 2
	s.subscribe(2, "r/+")
	check(t, "two", s.payloads(), numbered("", 0, 2))
	s.disconnect()
	s = tb.connect(0, kept("s"))
	check(t, "all", s.payloads(), numbered("", 0, 6))
	var dup []bool
	for _, g := range s.got {
		dup = append(dup, g.dup)
	}
	check(t, "again are two", dup, []bool{true, true, false, false, false, false})
	s.disconnect()
	s = tb.connect(1, kept("s"))
	for _, g := range s.got {
		check(t, "again", g.dup, true)
	}
}
