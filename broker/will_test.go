package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestWillPace: connections that end together have their wills published at the rate, none lost and none twice, live and kept sessions, at once or
// after a delay, also if the node crashes in between as far as sessions are kept.
func TestWillPace(t *testing.T) {
	for what, o := range map[string]struct {
		expiry, delay time.Duration
		crash         bool
	}{"live": {}, "kept": {expiry: time.Hour}, "delayed": {expiry: time.Hour, delay: time.Minute}, "expiring": {expiry: time.Second, delay: time.Second},
		"crash": {expiry: time.Hour, crash: true}} {
		tb := newTestBroker(t, 2, nil)
		tb.b.SetLimits(Limits{WillRate: 100})
		w := tb.connect(0, kept("w"))
		w.subscribe(1, "will")
		const n = 500
		for i := range n {
			req := ConnectRequest{ClientID: fmt.Sprint("x", i), CleanStart: true, Expiry: o.expiry, ReceiveMax: 5,
				Will: &Will{Topic: []byte("will"), Payload: fmt.Append(nil, i), QoS: 1, Delay: o.delay}}
			c := tb.client(i % 2)
			c.l.Connect(c.c, &req)
			tb.pump()
			if c.connected == nil || c.connected.Err != nil {
				t.Fatal(c.connected)
			}
			c.l.Disconnect(c.c, DisconnectRequest{PublishWill: true})
		}
		tb.pump()
		if o.delay > 0 {
			check(t, what+" before the delay", len(w.got), 0)
			tb.clock.Advance(o.delay)
		}
		if o.crash {
			tb = tb.crash(2)
			tb.b.SetLimits(Limits{WillRate: 100})
			w = tb.connect(0, kept("w"))
		}
		seen, most := map[string]int{}, 0
		for step := range 80 {
			before := len(w.got)
			if step%10 == 0 {
				tb.tick()
			}
			tb.clock.Advance(100 * time.Millisecond)
			tb.pump()
			w.takeAll()
			if step > 0 {
				most = max(most, len(w.got)-before)
			}
		}
		for _, p := range w.payloads() {
			seen[p]++
		}
		if len(seen) != n || len(w.got) != n && !o.crash || most > 24 || most < 5 {
			t.Errorf("%s: %d of %d wills, %d different ones; at most %d in a tenth of a second", what, len(w.got), n, len(seen), most)
		}
	}
}

// TestWillBeforeReturn: a client that comes back while its will waits finds it published before anything that it does itself; one whose delay has
// not passed is cancelled.
func TestWillBeforeReturn(t *testing.T) {
	for what, expiry := range map[string]time.Duration{"live": 0, "kept": time.Hour} {
		tb := newTestBroker(t, 2, nil)
		tb.b.SetLimits(Limits{WillRate: 1})
		w := tb.connect(0, live("w"))
		w.subscribe(1, "will")
		req := ConnectRequest{ClientID: "x", Expiry: expiry, ReceiveMax: 5, Will: &Will{Topic: []byte("will"), Payload: []byte("gone"), QoS: 1}}
		var want []string
		for i := range 4 {
			x := tb.connect(i%2, req)
			x.publish("will", "back", 1, 1)
			tb.pump()
			x.l.Disconnect(x.c, DisconnectRequest{PublishWill: true})
			want = append(want, "back", "gone")
			tb.pump()
		}
		req.Will.Delay = time.Minute
		tb.connect(1, req)
		check(t, what, w.payloads(), want)
		if expiry > 0 {
			x := tb.connect(1, req)
			x.l.Disconnect(x.c, DisconnectRequest{PublishWill: true})
			tb.pump()
			tb.connect(1, req)
			tb.pass(2 * time.Minute)
			check(t, what+" cancelled", w.payloads(), want)
		}
	}
}

// turn has the loops do what they have, and the log nothing.
func (tb *testBroker) turn() {
	for range 3 {
		for i := range tb.b.Loops() {
			tb.b.Local(i).Drain()
			tb.b.Local(i).EndTurn()
		}
	}
}

// leave connects a client with a will and ends its connection.
func (tb *testBroker) leave(loop int, req ConnectRequest) {
	tb.t.Helper()
	c := tb.client(loop)
	c.l.Connect(c.c, &req)
	if tb.turn(); req.Expiry > 0 {
		tb.pump()
	}
	if c.connected == nil || c.connected.Err != nil {
		tb.t.Fatalf("connect %s: %+v", req.ClientID, c.connected)
	}
	c.l.Disconnect(c.c, DisconnectRequest{PublishWill: true})
	tb.turn()
}

func willing(id, payload string) ConnectRequest {
	return ConnectRequest{ClientID: id, CleanStart: true, ReceiveMax: 5, Will: &Will{Topic: []byte("will"), Payload: []byte(payload), QoS: 1}}
}

// TestWillsWaitBounded: while the log has no room wills wait, those beyond the bound are dropped and counted; what somebody who comes and goes
// leaves behind takes no more than his last will; all that wait are published once when there is room.
func TestWillsWaitBounded(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	w := tb.connect(0, kept("w"))
	w.subscribe(1, "will")
	full := func() {
		t.Helper()
		for size := pendingBytesMax / 4; size > 0; {
			m := Message{Topic: []byte("will"), Payload: make([]byte, size), QoS: 1}
			if _, err := tb.b.Local(0).Publish(nil, &m, false, 0); err != nil {
				check(t, "the list is full", errors.Is(err, ErrBusy), true)
				size /= 4
			}
		}
	}
	full()
	waiting := &tb.b.stats.WillsWaiting
	for range 1000 {
		tb.leave(0, willing("flaps", "f"))
	}
	s := tb.b.shardOf(0, []byte("flaps"))
	one := (&Will{Topic: []byte("will"), Payload: []byte("f")}).size(sessionKey{0, "flaps"})
	check(t, "wills of somebody who flaps", waiting.Load(), int64(1000*one)) // each is one that others are to see
	if n := len(s.mu.wills.list); n > 2*1000+65 {
		t.Errorf("%d places for 1000 wills", n)
	}
	waiting.Add(lateBytesMost - int64(1002*one))
	for i := range 10 {
		tb.leave(1, willing(fmt.Sprint("late", i), "late"))
	}
	check(t, "dropped", tb.b.stats.WillsDropped.Load() > 5, true)
	waiting.Add(int64(1002*one) - lateBytesMost)
	tb.b.SetLimits(Limits{WillRate: -1})
	for range 2000 {
		tb.pump()
		w.takeAll()
		tb.clock.Advance(willPace)
		if waiting.Load() == 0 {
			break
		}
	}
	tb.pump()
	w.takeAll()
	seen := map[string]int{}
	for _, g := range w.got {
		if g.payload == "f" || g.payload == "late" {
			seen[g.payload]++
		}
	}
	check(t, "published", seen["f"], 1000)
	check(t, "published of the last", int64(seen["late"])+tb.b.stats.WillsDropped.Load(), int64(10))
	check(t, "left", []int64{waiting.Load(), int64(len(s.mu.wills.list)), int64(len(s.mu.wills.by)), int64(s.mu.wills.bytes), int64(s.mu.wills.taken)}, make([]int64, 5))
}

// TestLateWills: the list of wills of a shard, against a plain one.
func TestLateWills(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q lateWills
		type item struct {
			key sessionKey
			w   *Will
		}
		var model []item
		for n := range rapid.IntRange(1, 400).Draw(t, "steps") {
			key := sessionKey{0, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")}
			switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
			case what < 6:
				w := &Will{Payload: fmt.Append(nil, n)}
				q.addLocked(key, w)
				model = append(model, item{key, w})
			case what < 8:
				q.skipLocked()
				if len(q.list) > 0 {
					if got := q.takeLocked(q.list[0]); got != model[0].w {
						t.Fatalf("the first is %s, want %s", got.Payload, model[0].w.Payload)
					}
					model = model[1:]
				} else if len(model) > 0 {
					t.Fatal("none is left")
				}
			default:
				var want []*Will
				model = slices.DeleteFunc(model, func(it item) bool {
					if it.key == key {
						want = append(want, it.w)
					}
					return it.key == key
				})
				if got := q.takeAllLocked(key); !slices.Equal(got, want) {
					t.Fatalf("%d wills of %s, want %d", len(got), key.id, len(want))
				}
			}
			bytes := 0
			for _, it := range model {
				bytes += it.w.size(it.key)
			}
			if q.bytes != bytes || len(q.list) > 2*len(model)+66 || len(q.list)-q.taken != len(model) {
				t.Fatalf("%d bytes, want %d; %d places, %d taken, for %d", q.bytes, bytes, len(q.list), q.taken, len(model))
			}
		}
	})
}

// TestExpiryBesideWills: sessions that have no will end in time, though hundreds of wills are before them and wait for their turn; those end with their wills.
func TestExpiryBesideWills(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	tb.b.SetLimits(Limits{WillRate: 10})
	w := tb.connect(0, kept("w"))
	w.subscribe(1, "will")
	const n = 300
	for i := range n {
		req := willing(fmt.Sprint("x", i), fmt.Sprint(i))
		req.Expiry, req.Will.Delay = time.Second, time.Second
		tb.leave(i%2, req)
		tb.pump()
	}
	for i := range n {
		tb.leave(i%2, ConnectRequest{ClientID: fmt.Sprint("y", i), CleanStart: true, Expiry: 1100 * time.Millisecond})
		tb.pump()
	}
	tb.clock.Advance(2 * time.Second)
	tb.tick()
	gone := tb.b.stats.SessionsExpired.Load()
	if gone < n || gone > n+10 {
		t.Errorf("%d sessions have ended, want the %d without a will and a few more", gone, n)
	}
	for range 400 {
		tb.clock.Advance(100 * time.Millisecond)
		tb.pump()
		w.takeAll()
	}
	check(t, "wills", len(w.got), n)
	check(t, "ended", tb.b.stats.SessionsExpired.Load(), int64(2*n))
	for _, s := range tb.b.homes {
		check(t, "waiting", len(s.mu.willing), 0)
	}
}

// TestWillOfReturning: who comes back while a will waits takes a turn for it, so that all wills together keep to the rate as far as they can; who waits keeps a quarter of it
// whatever comes back.
func TestWillOfReturning(t *testing.T) {
	for what, o := range map[string]struct{ back, least, most int }{"few": {5, 40, 60}, "many": {50, 20, 35}} {
		tb := newTestBroker(t, 1, nil)
		tb.b.SetLimits(Limits{WillRate: 100})
		w := tb.connect(0, kept("w"))
		w.subscribe(1, "will")
		for i := range 400 {
			tb.leave(0, willing(fmt.Sprint("waits", i), "waits"))
		}
		for i := range o.back {
			tb.leave(0, willing(fmt.Sprint("back", i), "back"))
		}
		tb.clock.Advance(2 * time.Second) // what was owed is paid
		count := func() map[string]int {
			tb.pump()
			w.takeAll()
			seen := map[string]int{}
			for _, p := range w.payloads() {
				seen[p]++
			}
			return seen
		}
		before := count()
		for range 10 {
			for i := range o.back {
				tb.leave(0, willing(fmt.Sprint("back", i), "back"))
			}
			tb.clock.Advance(100 * time.Millisecond)
			tb.pump()
			w.takeAll()
		}
		after := count()
		back, waits := after["back"]-before["back"], after["waits"]-before["waits"]
		if waits < o.least || waits > o.most {
			t.Errorf("%s: in a second %d wills of who came back, and %d of those that wait: want %d to %d", what, back, waits, o.least, o.most)
		}
	}
}
