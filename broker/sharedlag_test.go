package broker

import (
	"fmt"
	"testing"
)

// A shared group's lag is what none of its members has finished, whoever has it.
func TestSharedLag(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	a, p := tb.connect(0, kept("a")), tb.connect(1, live("p"))
	a.share("g", 1, "t/#")
	a.room = 3
	first := tb.b.nowMilli()
	for i := range 10 {
		p.publish(fmt.Sprintf("t/%d", i%4), fmt.Sprint(i), 1, Token(i+1))
		tb.pump()
	}
	list := tb.b.SharedGroups(0, 100)
	if len(list) != 1 {
		t.Fatalf("%d groups", len(list))
	}
	g := list[0]
	check(t, "the group", []any{g.Name, g.Filter, g.Members, g.Lag, g.Out, g.Oldest == first}, []any{"g", "t/#", 1, int64(10), int64(3), true})
	for len(a.got) < 10 {
		a.room = 100
		a.ackAll()
	}
	a.ackAll()
	tb.tick()
	g, ok := tb.b.SharedGroup(0, "g", "t/#")
	check(t, "all is finished", []any{ok, g.Lag, g.Out, g.Oldest}, []any{true, int64(0), int64(0), int64(0)})
	a.disconnect()
	p.publish("t/x", "away", 1, 99)
	tb.pump()
	tb = tb.crash(1)
	g, _ = tb.b.SharedGroup(0, "g", "t/#")
	check(t, "what nobody is there to take, after a crash", g.Lag, int64(1))
	check(t, "behind the last", len(tb.b.SharedGroups(g.Number, 10)), 0)
}
