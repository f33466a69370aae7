package broker

import (
	"fmt"
	"testing"
	"time"
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
