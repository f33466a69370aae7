package broker

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// B waits for A, and its turn is on the way when C comes: C is the later one, so the session is C's.
func TestTurnOnTheWayIsNoTakeOver(t *testing.T) {
	for _, req := range []ConnectRequest{live("x"), kept("x")} {
		tb := newTestBroker(t, 3, nil)
		a, b, c := tb.connect(0, req), tb.client(1), tb.client(2)
		b.l.Connect(b.c, &req)
		a.l.Drain() // kicked, it lets go
		for tb.log.commit() {
			tb.b.Local(0).Drain()
			tb.b.Local(2).Drain()
		}
		check(t, "let go", errors.Is(a.kicked, ErrTakenOver) && b.connected == nil, true)
		c.l.Connect(c.c, &req)
		tb.pump()
		check(t, "b", b.connected != nil && errors.Is(b.connected.Err, ErrTakenOver), true)
		check(t, "c", c.connected != nil && c.connected.Err == nil && c.kicked == nil, true)
		check(t, "present", c.connected.Present, !req.CleanStart)
	}
}

// A live session with many subscriptions leaves them a slice at a time, with other work between the slices, and who comes with its
// identifier waits until the last one has gone.
func TestManySubscriptionsLeaveInSlices(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	a := tb.connect(0, live("x"))
	a.subscribe(1, numbered("f", 0, 3*leaveSlice)...)
	a.share("g", 1, "f/shared")
	b := tb.client(1)
	req := live("x")
	b.l.Connect(b.c, &req)
	a.l.Disconnect(a.c, DisconnectRequest{})
	for left, slices := 2*leaveSlice+1, 0; ; slices++ {
		_, n := tb.b.index.Len()
		check(t, "left", n, max(left, 0))
		check(t, "in", b.connected != nil, false)
		if left -= leaveSlice; n == 0 {
			check(t, "slices", slices, 3)
			break
		}
		for now := n; now == n && a.l.one(); {
			_, now = tb.b.index.Len()
		}
	}
	tb.pump()
	check(t, "in", b.connected != nil && b.connected.Err == nil, true)
	p := tb.connect(0, live("p"))
	p.publish("f1", "1", 0, 1)
	tb.pump()
	check(t, "delivered", len(b.got), 0)
}

// takeOver drives connections that fight for one client identifier, one post at a time.
type takeOver struct {
	tb      *testBroker
	all     []*testClient // in the order of their CONNECTs
	gone    map[*testClient]bool
	failing bool // a group failed: answers may be errors
	broken  bool // the log has failed for good
	token   Token
}

// one handles the next post of a loop, and nothing else of a turn.
func (l *Local) one() bool {
	l.inbox.mu.Lock()
	if len(l.inbox.posts) == 0 {
		l.inbox.mu.Unlock()
		return false
	}
	p := l.inbox.posts[0]
	l.inbox.posts = l.inbox.posts[1:]
	l.inbox.mu.Unlock()
	l.handle(&p)
	return true
}

func (w *takeOver) connect(t *rapid.T) {
	req := ConnectRequest{ClientID: "x", ReceiveMax: 5, CleanStart: rapid.Bool().Draw(t, "clean")}
	req.Expiry = rapid.SampledFrom([]time.Duration{0, time.Second, NeverExpires}).Draw(t, "expiry")
	if rapid.Bool().Draw(t, "will") {
		req.Will = &Will{Topic: []byte("t"), Payload: []byte("w"), QoS: 1, Retain: true, Delay: rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(t, "delay")}
	}
	c := w.tb.client(rapid.IntRange(0, w.tb.b.Loops()-1).Draw(t, "loop"))
	w.all = append(w.all, c)
	c.l.Connect(c.c, &req)
}

func (w *takeOver) pick(t *rapid.T, which func(*testClient) bool) *testClient {
	var list []*testClient
	for _, c := range w.all {
		if !w.gone[c] && which(c) {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		t.Skip("none")
	}
	return list[rapid.IntRange(0, len(list)-1).Draw(t, "client")]
}

func (c *testClient) isUp() bool {
	return c.connected != nil && c.connected.Err == nil && c.kicked == nil
}

func (w *takeOver) disconnect(t *rapid.T) {
	c := w.pick(t, func(c *testClient) bool { return c.kicked == nil })
	w.gone[c] = true
	req := DisconnectRequest{PublishWill: rapid.Bool().Draw(t, "will")}
	if c.isUp() && rapid.Bool().Draw(t, "has expiry") {
		req.HasExpiry, req.Expiry = true, rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "expiry")
	}
	c.l.Disconnect(c.c, req)
}

func (w *takeOver) request(t *rapid.T) {
	c := w.pick(t, (*testClient).isUp)
	w.token++
	var err error
	if rapid.Bool().Draw(t, "subscribe") {
		_, err = c.l.Subscribe(c.c, []SubscribeRequest{{Filter: []byte("t"), QoS: 2}}, make([]error, 1), w.token)
	} else {
		// Nobody wants u, so it is transient behind others; three large ones are more than a pending list takes.
		m := Message{Topic: []byte(rapid.SampledFrom([]string{"t", "u"}).Draw(t, "topic")), QoS: QoS(rapid.IntRange(0, 2).Draw(t, "qos"))}
		m.Payload = make([]byte, rapid.SampledFrom([]int{1, pendingBytesMax / 2}).Draw(t, "bytes"))
		m.Retain = rapid.Bool().Draw(t, "retain")
		_, err = c.l.Publish(c.c, &m, m.QoS == 2, w.token)
	}
	if err != nil && !errors.Is(err, ErrBusy) && !w.broken {
		t.Fatal(err)
	}
}

func (w *takeOver) acknowledge(t *rapid.T) {
	c := w.pick(t, func(c *testClient) bool { return c.isUp() && len(c.refs) > 0 })
	if id := c.refs[0]; id >= CorePacketIDs {
		if _, err := c.l.Received(c.c, id, 1<<20); err != nil && !w.broken {
			t.Fatal(err)
		}
	}
	c.l.Acked(c.c, c.refs[0])
	c.refs = c.refs[1:]
}

func (w *takeOver) step(t *rapid.T) {
	l := w.tb.b.Local(rapid.IntRange(0, w.tb.b.Loops()-1).Draw(t, "loop"))
	for range rapid.IntRange(1, 3).Draw(t, "posts") {
		l.one()
	}
	l.EndTurn()
}

func (w *takeOver) commit(*rapid.T) { w.tb.log.commit() }

func (w *takeOver) fail(*rapid.T) {
	if w.broken {
		return
	}
	w.failing = true
	w.tb.log.fail = errors.New("disk full")
	w.tb.log.commit()
	w.tb.log.fail = nil
}

func (w *takeOver) ruin(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		t.Skip("not now")
	}
	w.broken, w.failing = true, true
	w.tb.log.fail = errors.New("i/o error")
	w.tb.b.Failed(w.tb.log.fail, true)
}

func (w *takeOver) tick(t *rapid.T) {
	w.tb.clock.Advance(time.Second)
	w.tb.b.Local(rapid.IntRange(0, w.tb.b.Loops()-1).Draw(t, "loop")).Tick()
}

// settle lets all come to rest and looks at who was answered what.
func (w *takeOver) settle(t *rapid.T) {
	w.tb.pump()
	up := 0
	for i, c := range w.all {
		if c.c.waiting != 0 {
			t.Errorf("%d waits for %d completions", i, c.c.waiting)
		}
		if w.gone[c] {
			continue
		}
		if c.connected == nil && c.kicked == nil {
			t.Errorf("CONNECT %d of %d was never answered", i, len(w.all))
		}
		if c.isUp() {
			up++
			if i != len(w.all)-1 && !w.failing {
				t.Errorf("%d has the session, and is not the last of %d", i, len(w.all))
			}
		}
	}
	last := w.all[len(w.all)-1]
	full := last.connected != nil && errors.Is(last.connected.Err, ErrQuota) && w.tb.b.stats.Sessions.Load() >= w.tb.b.limits.Load().Sessions
	if !w.gone[last] && !last.isUp() && !w.failing && !full {
		t.Errorf("the last CONNECT was answered %+v, kicked %v", last.connected, last.kicked)
	}
	if up > 1 {
		t.Errorf("%d have the session", up)
	}
}

func TestConnectIsAlwaysAnswered(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &takeOver{tb: newTestBroker(t, rapid.IntRange(1, 3).Draw(rt, "loops"), nil), gone: map[*testClient]bool{}}
		defer w.tb.b.Close()
		k := w.tb.connect(0, kept("k"))
		k.subscribe(2, "t")
		w.tb.b.SetLimits(Limits{Sessions: rapid.Int64Range(1, 3).Draw(rt, "sessions")})
		rt.Repeat(map[string]func(*rapid.T){
			"connect": w.connect, "connect2": w.connect, "disconnect": w.disconnect, "request": w.request, "acknowledge": w.acknowledge,
			"step": w.step, "step2": w.step, "step3": w.step, "commit": w.commit, "fail": w.fail, "ruin": w.ruin, "tick": w.tick,
		})
		if len(w.all) == 0 {
			return
		}
		w.settle(rt)
		// Whatever came before, the next one comes in.
		for i := range 3 {
			for range 2 {
				w.tb.clock.Advance(2 * time.Second)
				w.tb.tick()
			}
			c := w.tb.client(i % w.tb.b.Loops())
			req := kept("x")
			req.CleanStart = i == 1
			w.all = append(w.all, c)
			c.l.Connect(c.c, &req)
			w.failing = w.broken
			w.settle(rt)
		}
	})
}

// A session whose opening the log did not take is nobody's to resume: its slot is free for others.
func TestNextDoesNotResumeWhatNeverWas(t *testing.T) {
	for _, clean := range []bool{false, true} {
		tb := newTestBroker(t, 1, nil)
		a, b := tb.client(0), tb.client(0)
		req := kept("x")
		a.l.Connect(a.c, &req)
		req.CleanStart = clean
		b.l.Connect(b.c, &req)
		tb.b.Local(0).Drain() // a is told that b comes, and goes
		tb.log.fail = errors.New("disk full")
		tb.log.commit()
		tb.log.fail = nil
		tb.pump()
		if b.connected == nil || b.connected.Err != nil {
			t.Fatalf("%+v", b.connected)
		}
		check(t, "present", b.connected.Present, false)
		other := tb.connect(0, kept("y"))
		check(t, "slots", b.c.Slot != other.c.Slot, true)
	}
}
