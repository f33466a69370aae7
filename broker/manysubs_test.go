package broker

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestManySubscriptions: what a packet of thousands of filters costs grows with it, not with its square, whatever is done with them; a repeated filter is kept once until
// the log has it.
func TestManySubscriptions(t *testing.T) {
	for what, mk := range map[string]func(string) ConnectRequest{"live": live, "kept": kept} {
		tb := newTestBroker(t, 2, nil)
		c := tb.connect(0, mk("c"))
		var filters []string
		for i := range 5000 {
			filters = append(filters, fmt.Sprint("f/", i))
		}
		var reqs []SubscribeRequest
		for _, f := range filters {
			reqs = append(reqs, SubscribeRequest{Filter: []byte(f)})
		}
		steps := []func(){func() { c.subscribe(1, filters...) }, func() { c.subscribe(1, filters...) }, func() { c.subscribe(0, filters...) }, func() {
			errs := make([]error, len(reqs))
			if _, err := c.l.Unsubscribe(c.c, reqs, errs, 1); err != nil || errors.Join(errs...) != nil {
				t.Error(err, errors.Join(errs...))
			}
			tb.pump()
		}}
		for i, step := range steps {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			step()
			runtime.ReadMemStats(&after)
			if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 100 { // with a copy of the list for each it was 900
				t.Errorf("%s, step %d: %d MiB were allocated", what, i, mib)
			}
		}
		_, left := tb.b.Subscriptions()
		check(t, what+": left", left, 0)
	}
}

// TestRetainedPilesUp: who asks for the same retained messages faster than they can be sent has them once more, not as often as it has asked; in one packet or in many, live or kept.
func TestRetainedPilesUp(t *testing.T) {
	for what, mk := range map[string]func(string) ConnectRequest{"live": live, "kept": kept} {
		tb := newTestBroker(t, 1, nil)
		c := tb.connect(0, mk("c"))
		for _, topic := range []string{"r", "s"} {
			m := Message{Topic: []byte(topic), Payload: []byte(topic), QoS: 1, Retain: true}
			if _, err := c.l.Publish(c.c, &m, false, 0); err != nil {
				t.Fatal(err)
			}
			tb.pump()
		}
		ask := func(n int) {
			t.Helper()
			var reqs []SubscribeRequest
			for range n {
				reqs = append(reqs, SubscribeRequest{Filter: []byte("r"), QoS: 1}, SubscribeRequest{Filter: []byte("s"), QoS: 1})
			}
			if _, err := c.l.Subscribe(c.c, reqs, make([]error, len(reqs)), 1); err != nil {
				t.Fatal(err)
			}
		}
		ask(500)
		for range 500 {
			ask(1)
		}
		if n := len(c.c.jobs()); n > 2 {
			t.Errorf("%s: %d jobs wait", what, n)
		}
		if mk("").Expiry > 0 {
			tb.log.commit()
			tb.b.Local(0).Drain()
			if n := len(c.c.jobs()); n > 1500 { // the log has had each packet of two
				t.Errorf("%s: %d jobs wait", what, n)
			}
		}
		tb.pump()
		c.takeAll()
		seen := map[string]int{}
		for _, p := range c.payloads() {
			seen[p]++
		}
		if seen["r"] == 0 || seen["s"] == 0 {
			t.Errorf("%s: %v", what, seen)
		}
	}
}

// TestManyAsOne: packets of many filters, some of them repeated, leave a session as the same filters one by one do.
func TestManyAsOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			leave bool
			reqs  []SubscribeRequest
		}
		var steps []step
		for range rapid.IntRange(1, 5).Draw(rt, "steps") {
			s := step{leave: rapid.IntRange(0, 3).Draw(rt, "leave") == 0}
			for range rapid.SampledFrom([]int{1, 3, 20, 60}).Draw(rt, "filters") {
				r := SubscribeRequest{Filter: fmt.Append(nil, "f/", rapid.IntRange(0, 30).Draw(rt, "filter")), QoS: QoS(rapid.IntRange(0, 2).Draw(rt, "qos"))}
				if rapid.IntRange(0, 4).Draw(rt, "shared") == 0 {
					r.Group = []byte("g")
				}
				s.reqs = append(s.reqs, r)
			}
			steps = append(steps, s)
		}
		var state [2]map[string]uint32
		for way := range 2 {
			tb := newTestBroker(t, 1, nil)
			c := tb.connect(0, kept("c"))
			for _, s := range steps {
				packets := [][]SubscribeRequest{s.reqs}
				if way == 1 {
					packets = nil
					for i := range s.reqs {
						packets = append(packets, s.reqs[i:i+1])
					}
				}
				for _, p := range packets {
					do := c.l.Subscribe
					if s.leave {
						do = c.l.Unsubscribe
					}
					if _, err := do(c.c, p, make([]error, len(p)), 1); err != nil {
						rt.Fatal(err)
					}
				}
				tb.pump()
			}
			for range 3 {
				tb.clock.Advance(time.Second)
				tb.tick()
			}
			if way == 0 {
				tb = tb.crash(1)
			}
			state[way] = map[string]uint32{}
			for _, sub := range tb.b.shardOf(0, []byte("c")).mu.byID[1].d.subscriptions() {
				state[way][sub.group+"/"+sub.filter] = sub.opts
			}
			_, n := tb.b.Subscriptions()
			if n != len(state[way]) {
				rt.Fatalf("%d subscriptions in the index, %d of the session", n, len(state[way]))
			}
		}
		if fmt.Sprint(state[0]) != fmt.Sprint(state[1]) {
			rt.Fatalf("together %v\none by one %v", state[0], state[1])
		}
	})
}
