package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var clockStart = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func live(id string) ConnectRequest { return ConnectRequest{ClientID: id, CleanStart: true} }
func kept(id string) ConnectRequest {
	return ConnectRequest{ClientID: id, Expiry: NeverExpires, ReceiveMax: 10}
}

func numbered(prefix string, from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}

func TestLiveRouting(t *testing.T) {
	for loops := 1; loops <= 3; loops++ {
		tb := newTestBroker(t, loops, nil)
		p, s, w := tb.connect(0, live("p")), tb.connect(loops-1, live("s")), tb.connect(0, live("w"))
		s.subscribe(1, "a/b", "a/+")
		w.subscribe(0, "#")
		check(t, "outcome", p.publish("a/b", "1", 1, 1), Routed)
		check(t, "outcome", p.publish("a/c", "2", 0, 2), Routed)
		tb.pump()
		check(t, "s", s.payloads(), []string{"1", "2"})
		check(t, "w", w.payloads(), []string{"1", "2"})
		check(t, "qos", []QoS{s.got[0].qos, w.got[0].qos}, []QoS{1, 0})
		s.disconnect()
		w.disconnect()
		check(t, "nobody", p.publish("a/b", "3", 1, 3), NoMatch)
	}
}

func TestDurableSessionAbsentAndBack(t *testing.T) {
	for _, loops := range []int{1, 2} {
		tb := newTestBroker(t, loops, nil)
		p, s := tb.connect(0, live("p")), tb.connect(loops-1, kept("s"))
		s.subscribe(1, "a/#", "a/+/x")
		check(t, "kept", p.publish("a/1/x", "m0", 1, 1), Pending)
		tb.pump()
		check(t, "acknowledged", p.completed, map[Token]error{1: nil})
		check(t, "online", s.payloads(), []string{"m0"})
		s.ackAll()
		s.disconnect()
		for i := 1; i < 30; i++ {
			p.publish("a/1/x", fmt.Sprintf("m%d", i), 1, Token(i+1))
			p.publish("a/q0", "zero", 0, 0)
		}
		tb.pump()
		tb = tb.crash(loops)
		s = tb.connect(0, kept("s"))
		check(t, "present", s.connected.Present, true)
		check(t, "window", s.payloads(), numbered("m", 1, 11))
		s.ackAll()
		s.ackAll()
		check(t, "all", s.payloads(), numbered("m", 1, 30))
		s.ackAll()
		tb.tick()
		tb = tb.crash(loops)
		s = tb.connect(0, kept("s"))
		check(t, "nothing twice", len(s.got), 0)
	}
}

func TestRedeliveryKeepsIdentifier(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, live("p")), tb.connect(0, kept("s"))
	s.subscribe(1, "t")
	p.publish("t", "x", 1, 1)
	p.publish("t", "y", 1, 2)
	tb.pump()
	first := s.got
	s.disconnect()
	s = tb.connect(0, kept("s"))
	for i := range first {
		first[i].dup = true
	}
	if d := cmp.Diff(first, s.got, cmp.AllowUnexported(got{})); d != "" {
		t.Fatal(d)
	}
}

func TestQoS2AcrossCrash(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, s := tb.connect(0, kept("p")), tb.connect(0, kept("s"))
	s.subscribe(2, "t")
	check(t, "pending", p.publish("t", "x", 2, 7), Pending)
	tb.pump()
	check(t, "sent once", s.payloads(), []string{"x"})
	id := s.got[0].id
	if id < CorePacketIDs {
		t.Fatalf("identifier %d is not the core's", id)
	}
	tb = tb.crash(1)
	p, s = tb.connect(0, kept("p")), tb.connect(0, kept("s"))
	check(t, "remembered", p.connected.Received, []uint16{7})
	check(t, "again, same identifier", []any{s.payloads(), s.got[0].id, s.got[0].dup}, []any{[]string{"x"}, id, true})
	if out, err := s.l.Received(s.c, id, 5); out != Pending || err != nil {
		t.Fatal(out, err)
	}
	tb.pump()
	if out, _ := p.l.Release(p.c, 7, 6); out != Pending {
		t.Fatal(out)
	}
	tb.pump()
	tb = tb.crash(1)
	p, s = tb.connect(0, kept("p")), tb.connect(0, kept("s"))
	check(t, "released", len(p.connected.Received), 0)
	check(t, "no publish, a release", []any{len(s.got), s.controls}, []any{0, []Control{{Kind: ControlRelease, PacketID: id}}})
	s.l.Acked(s.c, id)
	tb.tick()
	tb = tb.crash(1)
	s = tb.connect(0, kept("s"))
	check(t, "done", len(s.got)+len(s.controls), 0)
}

func TestRetained(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p := tb.connect(0, live("p"))
	for i := range 300 {
		m := Message{Topic: fmt.Appendf(nil, "r/%d", i), Payload: []byte("v"), QoS: QoS(i % 2), Retain: true}
		if _, err := p.l.Publish(p.c, &m, false, Token(i)); err != nil {
			t.Fatal(err)
		}
	}
	tb.pump()
	tb = tb.crash(2)
	s := tb.connect(1, live("s"))
	s.subscribe(1, "r/+")
	check(t, "all", len(s.got), 300)
	p = tb.connect(0, live("p"))
	if _, err := p.l.Publish(p.c, &Message{Topic: []byte("r/7"), QoS: 1, Retain: true}, false, 1); err != nil {
		t.Fatal(err)
	}
	tb.pump()
	tb = tb.crash(1)
	s = tb.connect(0, live("s"))
	s.subscribe(1, "r/7", "r/8")
	check(t, "cleared", len(s.got), 1)
}

func TestTakeOver(t *testing.T) {
	for _, req := range []ConnectRequest{live("x"), kept("x")} {
		tb := newTestBroker(t, 2, nil)
		a := tb.connect(0, req)
		a.subscribe(1, "t")
		b := tb.connect(1, req)
		check(t, "kicked", errors.Is(a.kicked, ErrTakenOver), true)
		check(t, "present", b.connected.Present, !req.CleanStart)
		p := tb.connect(0, live("p"))
		p.publish("t", "1", 1, 1)
		tb.pump()
		check(t, "delivered", len(b.got) > 0, !req.CleanStart)
		check(t, "not to the old", len(a.got), 0)
	}
}

func TestSessionExpiresAndWill(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	w := tb.connect(0, live("w"))
	w.subscribe(1, "will")
	req := ConnectRequest{ClientID: "x", Expiry: 10 * time.Second, ReceiveMax: 5,
		Will: &Will{Topic: []byte("will"), Payload: []byte("gone"), QoS: 1, Delay: 3 * time.Second}}
	x := tb.connect(0, req)
	x.l.Disconnect(x.c, DisconnectRequest{PublishWill: true})
	tb.pump()
	tb.tick()
	check(t, "not yet", len(w.got), 0)
	tb = tb.crash(1)
	w = tb.connect(0, live("w"))
	w.subscribe(1, "will")
	tb.clock.Advance(4 * time.Second)
	tb.tick()
	check(t, "will", w.payloads(), []string{"gone"})
	tb.clock.Advance(20 * time.Second)
	tb.tick()
	check(t, "one will", w.payloads(), []string{"gone"})
	x = tb.connect(0, req)
	check(t, "expired", x.connected.Present, false)
}

func TestSharedGroup(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, a, b := tb.connect(0, live("p")), tb.connect(0, live("a")), tb.connect(1, live("b"))
	a.share("g", 1, "t/#")
	b.share("g", 1, "t/#")
	for i := range 10 {
		p.publish("t/x", fmt.Sprint(i), 1, Token(i))
	}
	tb.pump()
	check(t, "split", []int{len(a.got), len(b.got)}, []int{5, 5})
	a.disconnect()
	check(t, "redelivered", len(b.got), 10)
}

func TestSharedGroupDurable(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, a := tb.connect(0, live("p")), tb.connect(1, kept("a"))
	a.share("g", 1, "t/#")
	a.disconnect()
	for i := range 10 {
		check(t, "kept", p.publish("t/x", fmt.Sprint(i), 1, Token(i)), Pending)
	}
	tb.pump()
	tb = tb.crash(2)
	b := tb.connect(0, live("b"))
	b.share("g", 1, "t/#")
	check(t, "another member gets them", b.payloads(), numbered("", 0, 10))
	b.ackAll()
	tb.tick()
	tb = tb.crash(2)
	a = tb.connect(1, kept("a"))
	check(t, "finished", len(a.got), 0)
}
