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
	list, _, end := tb.b.SharedGroups(0, 100)
	if len(list) != 1 || !end {
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
	list, _, end = tb.b.SharedGroups(1, 10)
	check(t, "behind the last", []any{len(list), end}, []any{0, true})
}

// A way through all shared groups sees each once that is there from its beginning to its end, a few at a time, whoever comes and goes.
func TestSharedGroupsInPages(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	a := tb.connect(0, kept("a"))
	const n = 100
	for i := range n {
		a.share(fmt.Sprint("g", i), 1, "t")
	}
	seen := map[string]int{}
	for at, end, step := 0, false, 0; !end; step++ {
		var list []SharedGroupState
		list, at, end = tb.b.SharedGroups(at, 7)
		if len(list) > 7 {
			t.Fatalf("%d groups at once", len(list))
		}
		for _, g := range list {
			seen[g.Name]++
		}
		if gone := fmt.Sprint("g", 5*step); step%2 == 0 && 5*step < n {
			req := []SubscribeRequest{{Filter: []byte("t"), Group: []byte(gone)}}
			if _, err := a.l.Unsubscribe(a.c, req, make([]error, 1), 1); err != nil {
				t.Fatal(err)
			}
			tb.pump()
			delete(seen, gone)
			a.share(fmt.Sprint("new", step), 1, "t")
		}
	}
	for i := range n {
		name := fmt.Sprint("g", i)
		if _, there := tb.b.SharedGroup(0, name, "t"); there && seen[name] != 1 {
			t.Errorf("%s is seen %d times", name, seen[name])
		}
	}
}
