package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestTakeOverOfWhoIsOnTheWay(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	a, b, c := tb.client(0), tb.client(1), tb.client(0)
	req := kept("x")
	for _, x := range []*testClient{a, b, c} {
		x.l.Connect(x.c, &req) // none is committed yet
		tb.b.Local(0).Drain()
		tb.b.Local(1).Drain()
	}
	tb.pump()
	up := 0
	for _, x := range []*testClient{a, b, c} {
		if x.connected != nil && x.connected.Err == nil && x.kicked == nil {
			up++
		}
	}
	check(t, "one has the session", up, 1)
	check(t, "the last one", c.connected != nil && c.connected.Err == nil, true)
}

func TestDisconnectWhileConnecting(t *testing.T) {
	for _, clean := range []bool{false, true} {
		for _, fail := range []bool{false, true} {
			tb := newTestBroker(t, 1, nil)
			first := tb.connect(0, kept("x"))
			first.subscribe(1, "t")
			first.disconnect()
			x, y := tb.client(0), tb.client(0)
			req := kept("x")
			req.CleanStart = clean
			x.l.Connect(x.c, &req)
			again := kept("x")
			y.l.Connect(y.c, &again) // waits for x
			x.l.Disconnect(x.c, DisconnectRequest{PublishWill: true})
			if fail {
				tb.log.fail = errors.New("disk full")
				tb.log.commit()
				tb.log.fail = nil
			}
			tb.pump()
			tb.tick()
			check(t, "answered nobody who has gone", x.connected == nil, true)
			if y.connected == nil || y.connected.Err != nil {
				t.Fatalf("clean %v, fail %v: the one that waits got %+v", clean, fail, y.connected)
			}
			check(t, "present", y.connected.Present, !clean || !fail || y.connected.Present)
			check(t, "tables", []int{len(y.c.sess.shard.mu.byID), int(tb.b.stats.Sessions.Load())}, []int{1, 1})
		}
	}
}

func TestExpiredSessionIsNotResumed(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	w := tb.connect(0, live("w"))
	w.subscribe(1, "will")
	x := tb.connect(0, ConnectRequest{ClientID: "x", Expiry: 10 * time.Second,
		Will: &Will{Topic: []byte("will"), Payload: []byte("gone"), QoS: 1, Delay: time.Minute}})
	x.subscribe(1, "t")
	x.l.Disconnect(x.c, DisconnectRequest{PublishWill: true})
	tb.pump()
	tb.clock.Advance(11 * time.Second) // no tick has seen it
	x = tb.connect(0, kept("x"))
	check(t, "present", x.connected.Present, false)
	check(t, "will, as the session ended", w.payloads(), []string{"gone"})
	tb.tick()
	tb.connect(0, live("p")).publish("t", "1", 1, 1)
	tb.pump()
	check(t, "no subscription", len(x.got), 0)
}

func TestTransientsNeedNoGroup(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, k, s := tb.connect(0, live("p")), tb.connect(1, kept("k")), tb.connect(1, live("s"))
	k.subscribe(1, "kept")
	s.subscribe(1, "live", "kept")
	check(t, "kept", p.publish("kept", "1", 1, 1), Pending)
	tb.log.commit()                                              // durable, and not applied
	check(t, "behind it", p.publish("live", "2", 1, 2), Pending) // a group of its own without a frame
	tb.pump()
	check(t, "both", p.completed, map[Token]error{1: nil, 2: nil})
	check(t, "in order", s.payloads(), []string{"1", "2"})
}

func TestCompletionStaysBehindDelivery(t *testing.T) {
	tb := newTestBroker(t, 3, nil)
	k := tb.connect(0, kept("k"))
	k.subscribe(1, "a")
	for i := range 3 {
		p, s := tb.connect(i, live(fmt.Sprint("p", i))), tb.connect((i+1)%3, live(fmt.Sprint("s", i)))
		s.subscribe(1, "a", "b")
		p.publish("a", "1", 1, 1)
		tb.log.commit()
		for len(p.completed) == 0 {
			for j := range 3 { // the publisher's loop runs last, and the others have not ended their turn
				if j != i {
					tb.b.Local(j).Drain()
				}
			}
			tb.b.Local(i).Drain()
			for j := range 3 {
				tb.b.Local(j).EndTurn()
			}
			tb.b.Local(i).Drain()
		}
		p.publish("b", "2", 1, 2)
		tb.b.Local(i).EndTurn()
		tb.pump()
		check(t, "order", s.payloads(), []string{"1", "2"})
	}
}

func TestFilterNumberOutlivesItsLastReader(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	x, y, z := tb.connect(0, kept("x")), tb.connect(1, kept("y")), tb.connect(0, kept("z"))
	x.subscribe(1, "t")
	req := []SubscribeRequest{{Filter: []byte("t"), QoS: 1}}
	if _, err := y.l.Subscribe(y.c, req, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := x.l.Unsubscribe(x.c, req, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	tb.pump()
	z.subscribe(1, "t")
	y.disconnect()
	z.disconnect()
	tb.connect(0, live("p")).publish("t", "1", 1, 1)
	tb.pump()
	y, z = tb.connect(0, kept("y")), tb.connect(1, kept("z"))
	check(t, "both", [][]string{y.payloads(), z.payloads()}, [][]string{{"1"}, {"1"}})
}

func TestResendKeepsWithinWindow(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
	s.subscribe(1, "t")
	for i := range 8 {
		p.publish("t", fmt.Sprint(i), 1, Token(i))
	}
	tb.pump()
	s.disconnect()
	req := kept("s")
	req.ReceiveMax = 2
	s = tb.connect(0, req)
	check(t, "two", s.payloads(), numbered("", 0, 2))
	for range 8 {
		s.ackAll()
	}
	check(t, "all", s.payloads(), numbered("", 0, 8))
	s.disconnect()
	s = tb.connect(0, req)
	check(t, "none again", len(s.got), 0)
}

func TestRetainedLimitsAndExpiry(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	tb.b.SetLimits(Limits{RetainedCount: 2})
	p := tb.connect(0, live("p"))
	put := func(topic, value string, deadline int64) error {
		_, err := p.l.Publish(p.c, &Message{Topic: []byte(topic), Payload: []byte(value), QoS: 1, Retain: true, Deadline: deadline}, false, 1)
		tb.pump()
		return err
	}
	soon := tb.clock.Now().Add(time.Second).UnixMilli()
	check(t, "room", []error{put("a", "1", soon), put("b", "1", 0)}, []error{nil, nil})
	check(t, "full", errors.Is(put("c", "1", 0), ErrQuota), true)
	check(t, "what is there changes", put("b", "22", 0), nil)
	tb.clock.Advance(2 * time.Second)
	tb.tick()
	check(t, "expired", tb.b.stats.RetainedMessages.Load(), int64(1))
	check(t, "room again", put("c", "1", 0), nil)
	_ = put("b", "", 0)
	_ = put("c", "", 0)
	check(t, "bytes", []int64{tb.b.stats.RetainedMessages.Load(), tb.b.stats.RetainedBytes.Load()}, []int64{0, 0})
}

func TestSessionLimitCountsAllQueues(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	tb.b.SetLimits(Limits{SessionMessages: 10})
	p, s, other := tb.connect(0, live("p")), tb.connect(1, kept("s")), tb.connect(0, kept("other"))
	s.subscribe(1, "t/#")
	other.subscribe(1, "t/0")
	s.disconnect()
	other.disconnect()
	for i := range 24 {
		p.publish(fmt.Sprint("t/", i%6), fmt.Sprint(i), 1, Token(i))
		tb.pump()
		tb.clock.Advance(time.Millisecond)
	}
	tb.tick()
	tb.tick()
	s, other = tb.connect(0, kept("s")), tb.connect(1, kept("other"))
	s.ackAll()
	s.ackAll()
	if n := len(s.got); n < 5 || n > 10 {
		t.Errorf("%d left of 10: %v", n, s.payloads())
	}
	check(t, "the other keeps its own", len(other.got), 4)
	check(t, "counted", tb.b.stats.QueueDropped[DropMessages].Load() >= 14, true)
}

func TestFailedLogLeavesNobodyWaiting(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, s := tb.connect(0, kept("p")), tb.connect(1, kept("s"))
	s.subscribe(2, "t")
	p.publish("t", "1", 2, 1)
	tb.pump()
	id := s.got[0].id
	p.publish("t", "2", 1, 2)
	if _, err := s.l.Received(s.c, id, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := p.l.Release(p.c, 1, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := s.l.Subscribe(s.c, []SubscribeRequest{{Filter: []byte("u"), QoS: 1}}, make([]error, 1), 5); err != nil {
		t.Fatal(err)
	}
	late := tb.client(0)
	req := kept("late")
	late.l.Connect(late.c, &req)
	tb.b.Failed(errors.New("i/o error"), true)
	tb.pump()
	check(t, "waiting", []int32{p.c.waiting, s.c.waiting, late.c.waiting}, []int32{0, 0, 0})
	check(t, "errors", []bool{errors.Is(p.completed[2], ErrUnavailable), errors.Is(s.completed[3], ErrUnavailable),
		errors.Is(p.completed[4], ErrUnavailable), errors.Is(s.completed[5], ErrUnavailable), errors.Is(late.connected.Err, ErrUnavailable)},
		[]bool{true, true, true, true, true})
	check(t, "nothing reserved", len(tb.b.filters.byNum), 1)
	_, err := p.l.Publish(p.c, &Message{Topic: []byte("t"), QoS: 1}, false, 6)
	check(t, "refused at once", errors.Is(err, ErrUnavailable), true)
	p.disconnect()
	s.disconnect()
	check(t, "gone", []clientState{p.c.state, s.c.state}, []clientState{clientClosed, clientClosed})
}
