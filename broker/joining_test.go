package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPublishBehindOwnSubscribe(t *testing.T) {
	for loops := 1; loops <= 3; loops++ {
		for _, qos := range []QoS{1, 2} {
			for _, topic := range []string{"t/a", "t/b", "t/c", "t/d"} {
				tb := newTestBroker(t, loops, nil)
				x := tb.connect(0, kept("x"))
				if _, err := x.l.Subscribe(x.c, []SubscribeRequest{{Filter: []byte("t/+"), QoS: 2}}, make([]error, 1), 1); err != nil {
					t.Fatal(err)
				}
				x.publish(topic, "1", qos, 2) // SUBACK has not come
				x.publish(topic, "2", qos, 3)
				tb.pump()
				check(t, "delivered", x.payloads(), []string{"1", "2"})
				x.disconnect()
				x = tb.connect(loops-1, kept("x"))
				check(t, "delivered again", x.payloads(), []string{"1", "2"})
				tb = tb.crash(loops)
				x = tb.connect(0, kept("x"))
				check(t, "after a crash", x.payloads(), []string{"1", "2"})
			}
		}
	}
}

func TestRequestsBehindOwnSubscribe(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	x := tb.connect(0, kept("x"))
	ask := func(r SubscribeRequest) {
		if _, err := x.l.Subscribe(x.c, []SubscribeRequest{r}, make([]error, 1), 1); err != nil {
			t.Fatal(err)
		}
	}
	ask(SubscribeRequest{Filter: []byte("own"), QoS: 1, NoLocal: true})
	x.publish("own", "none of its own", 1, 2)
	ask(SubscribeRequest{Filter: []byte("never"), QoS: 1})
	errs := make([]error, 1)
	if _, err := x.l.Unsubscribe(x.c, []SubscribeRequest{{Filter: []byte("never")}}, errs, 3); err != nil || errs[0] != nil {
		t.Fatal(err, errs)
	}
	tb.pump()
	p := tb.connect(1, live("p"))
	p.publish("never", "unsubscribed", 1, 1)
	p.publish("own", "1", 1, 2)
	tb.pump()
	check(t, "delivered", x.payloads(), []string{"1"})
	check(t, "nothing is joining", x.c.feed.joining == nil, true)

	ask(SubscribeRequest{Filter: []byte("failed"), QoS: 1})
	tb.log.fail = errors.New("disk full")
	x.publish("failed", "1", 1, 4)
	tb.log.commit()
	tb.log.fail = nil
	tb.pump()
	check(t, "failed", x.completed[4] != nil && x.c.feed.joining == nil, true)
	x.publish("failed", "2", 1, 5)
	tb.pump()
	x.disconnect()
	check(t, "nothing came", x.payloads(), []string{"1"})
}

// eager is a kept session that waits for no answer, beside a publisher that does.
type eager struct {
	tb    *testBroker
	x, y  *testClient
	asked map[string]bool
	n     int
	must  map[string][]string // what x is owed, by topic
	seen  map[string]string   // what came last, by topic and publisher
	taken int                 // of x.got
}

var eagerTopics = []string{"a", "b", "c", "d", "e"}

// look notes what has come, and lets nothing come twice or out of order on one connection.
func (e *eager) look(t *rapid.T) {
	for _, g := range e.x.got[e.taken:] {
		stream := g.topic + g.payload[:1]
		if g.payload <= e.seen[stream] {
			t.Fatalf("%s: %s came behind %s", g.topic, g.payload, e.seen[stream])
		}
		e.seen[stream] = g.payload
	}
	e.taken = len(e.x.got)
}

func (e *eager) subscribe(t *rapid.T) {
	f := rapid.SampledFrom(eagerTopics).Draw(t, "filter")
	if _, err := e.x.l.Subscribe(e.x.c, []SubscribeRequest{{Filter: []byte(f), QoS: 2}}, make([]error, 1), 1); err != nil {
		t.Fatal(err)
	}
	e.asked[f] = true
}

func (e *eager) publish(t *rapid.T) {
	e.n++
	topic, payload := rapid.SampledFrom(eagerTopics).Draw(t, "topic"), fmt.Sprintf("y%03d", e.n)
	p := e.y
	if rapid.Bool().Draw(t, "own") {
		p, payload = e.x, fmt.Sprintf("x%03d", e.n)
		if e.asked[topic] {
			e.must[topic] = append(e.must[topic], payload)
		}
	}
	p.publish(topic, payload, 1, Token(10+e.n))
}

func (e *eager) step(t *rapid.T) {
	l := e.tb.b.Local(rapid.IntRange(0, e.tb.b.Loops()-1).Draw(t, "loop"))
	for range rapid.IntRange(1, 3).Draw(t, "posts") {
		l.one()
	}
	if rapid.Bool().Draw(t, "end of turn") {
		l.resume()
		l.EndTurn()
	}
	e.look(t)
}

func (e *eager) acknowledge(t *rapid.T) {
	if len(e.x.refs) == 0 {
		t.Skip("nothing came")
	}
	e.x.l.Acked(e.x.c, e.x.refs[0])
	e.x.refs = e.x.refs[1:]
}

func (e *eager) comeBack(t *rapid.T) {
	e.look(t)
	e.x.l.Disconnect(e.x.c, DisconnectRequest{})
	e.tb.pump()
	e.x, e.taken = e.tb.connect(rapid.IntRange(0, e.tb.b.Loops()-1).Draw(t, "loop"), kept("x")), 0
	clear(e.seen) // what was not acknowledged comes again
}

func TestOwnPublishesAreNeverLost(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tb := newTestBroker(t, rapid.IntRange(1, 3).Draw(rt, "loops"), nil)
		defer tb.b.Close()
		e := &eager{tb: tb, x: tb.connect(0, kept("x")), y: tb.connect(tb.b.Loops()-1, live("y")), asked: map[string]bool{},
			must: map[string][]string{}, seen: map[string]string{}}
		all := map[string][]string{}
		note := func(f func(*rapid.T)) func(*rapid.T) {
			return func(t *rapid.T) {
				f(t)
				for _, g := range e.x.got {
					if !slices.Contains(all[g.topic], g.payload) {
						all[g.topic] = append(all[g.topic], g.payload)
					}
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"subscribe": e.subscribe, "publish": e.publish, "publish2": e.publish, "step": note(e.step), "step2": note(e.step), "step3": note(e.step),
			"commit": func(*rapid.T) { tb.log.commit() }, "acknowledge": note(e.acknowledge), "back": note(e.comeBack),
		})
		for range 20 {
			tb.pump()
			e.x.ackAll()
		}
		e.look(rt)
		note(func(*rapid.T) {})(rt)
		for topic, must := range e.must {
			for _, m := range must {
				if !slices.Contains(all[topic], m) {
					rt.Errorf("%s: %s of %v never came, only %v", topic, m, must, all[topic])
				}
			}
		}
	})
}

// What a session was owed when it lowered its subscription to QoS 0 still comes; afterwards the filter needs no queue.
func TestLoweredSubscriptionHasNoGap(t *testing.T) {
	for _, back := range []bool{false, true} {
		tb := newTestBroker(t, 2, nil)
		p, x := tb.connect(0, live("p")), tb.connect(1, kept("x"))
		x.subscribe(1, "t")
		x.room = 0
		for i := range 3 {
			p.publish("t", fmt.Sprint(i), 1, Token(i))
		}
		tb.pump()
		x.subscribe(0, "t")
		p.publish("t", "3", 1, 3)
		tb.pump()
		tb.tick()
		if back {
			x.disconnect()
			x = tb.connect(0, kept("x"))
		}
		x.room = -1
		x.l.Ready(x.c)
		tb.pump()
		check(t, "all", x.payloads(), numbered("", 0, 4))
		for range 3 {
			tb.tick()
		}
		p.publish("t", "4", 1, 4)
		check(t, "live", p.completed[4], nil)
		tb.pump()
		check(t, "nothing is queued for it", len(tb.b.filters.byNum), 0)
		check(t, "all", x.payloads(), numbered("", 0, 5))
		x.disconnect()
		p.publish("t", "gone", 1, 5)
		tb.pump()
		check(t, "QoS 0 is not kept", tb.connect(0, kept("x")).payloads(), []string(nil))
	}
}
