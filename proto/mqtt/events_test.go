package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// wants has the events of these kinds told.
func (w *world) wants(names ...string) { w.b.Events().Want(events.ParseSet(names)) }

// events takes what was told, in short.
func (w *world) events() string {
	var list []string
	for _, e := range w.b.Events().Take(nil) {
		s := e.Kind.String() + " " + e.ClientID
		switch e.Kind {
		case events.ClientDisconnected:
			s += fmt.Sprintf(" by %s %02x", e.By, e.Code)
		case events.ClientConnected:
			s += fmt.Sprintf(" %s clean=%t present=%t %ds", e.Protocol, e.CleanStart, e.Present, e.KeepAlive)
		case events.SessionSubscribed, events.SessionUnsubscribed:
			s += " " + e.Group + ":" + e.Filter
		default:
		}
		list = append(list, s)
	}
	return strings.Join(list, "; ")
}

func (w *world) told(what, want string) {
	w.t.Helper()
	w.turn()
	if got := w.events(); got != want {
		w.t.Errorf("%s: told\n%s\nwant\n%s", what, got, want)
	}
}

// The life of sessions, live and kept, is told in the order in which it happens.
func TestEvents(t *testing.T) {
	w := newWorld(t, Options{})
	w.connect(wire.V5, "before")
	w.told("nobody wants to know", "")
	w.wants("client", "session")
	keep := func(k *wire.Connect) { k.SessionExpiry, k.CleanStart, k.KeepAlive = 100, false, 9 }

	a := w.connect(wire.V311, "a")
	w.told("a live session", "client.connected a MQTT 3.1.1 clean=true present=false 0s; session.created a")
	a.subscribe(1, "t/1", "$share/g/t/2")
	w.told("its subscriptions", "session.subscribed a :t/1; session.subscribed a g:t/2")
	a.send(wire.AppendUnsubscribe(nil, a.version, &wire.UnsubscribeOut{PacketID: 2, Filters: [][]byte{[]byte("t/1"), []byte("not/there")}}))
	w.told("one of them is left", "session.unsubscribed a :t/1")
	a.c.onClose(errors.New("reset"))
	w.told("it is lost", "client.disconnected a by network 80; session.ended a")

	b := w.connect(wire.V5, "b", keep)
	b.subscribe(1, "t/#")
	w.told("a kept session", "client.connected b MQTT 5 clean=false present=false 9s; session.created b; session.subscribed b :t/#")
	b2 := w.connect(wire.V5, "b", keep)
	w.told("it is taken over", "session.taken_over b; client.disconnected b by server 8e; client.connected b MQTT 5 clean=false present=true 9s; session.resumed b")
	b2.send(wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{Reason: wire.DisconnectWithWill}))
	w.told("it stays", "client.disconnected b by client 04")
	b3 := w.connect(wire.V5, "b", func(k *wire.Connect) { k.SessionExpiry = 100 })
	w.told("it is discarded", "session.discarded b; client.connected b MQTT 5 clean=true present=false 0s; session.created b")
	b3.c.onClose(engine.ErrIdle)
	w.told("it is silent", "client.disconnected b by server 8d")
	w.b.EndSession(0, "b", func(error) {})
	w.told("an administrator ends it", "session.ended b")

	c := w.connect(wire.V5, "c", keep)
	w.events()
	c.c.Kicked(broker.ErrEnded)
	w.told("its connection with it", "client.disconnected c by server 98; session.ended c")
}

// Who is refused, and what is refused, is no event; kinds are switched one by one.
func TestEventsOfWhatIsRefused(t *testing.T) {
	w := newWorld(t, Options{Authorizer: &rules{deny: "no"}})
	w.wants("session.subscribed", "client.disconnected")
	p := w.dial()
	p.send(wire.AppendConnect(nil, &wire.Connect{Version: wire.V311, CleanStart: false}))
	w.told("refused", "")
	for _, expiry := range []uint32{0, 100} {
		s := w.connect(wire.V5, "s", func(k *wire.Connect) { k.SessionExpiry = expiry })
		s.subscribe(0, "no", "bad/#/filter", "yes")
		w.told("some are refused", "session.subscribed s :yes")
		w.hold = true
		s.send(wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 2, Filters: []wire.FilterRequest{{Filter: []byte("later")}}}))
		if expiry > 0 {
			w.told("not in the log yet", "")
		}
		w.hold = false
		w.told("in the log", "session.subscribed s :later")
		s.send(wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{}))
		w.told("gone", "client.disconnected s by client 00")
	}
}

// A packet of thousands of filters that waits for the log has its connection read no further, leaves the loop no room that it has taken, and tells of as many as there is room for.
func TestManyFilters(t *testing.T) {
	w := newWorld(t, Options{})
	w.wants("session.subscribed")
	s := w.connect(wire.V5, "s", func(k *wire.Connect) { k.SessionExpiry = 100 })
	packet := func(n int) []byte {
		var filters []wire.FilterRequest
		for i := range n {
			filters = append(filters, wire.FilterRequest{Filter: fmt.Append(nil, "f/", i)})
		}
		return wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 7, Filters: filters})
	}
	blocked := func(what string, want bool) {
		t.Helper()
		if got := s.c.blocked&blockRequests != 0; got != want {
			t.Errorf("%s: not read on: %v", what, got)
		}
	}
	w.hold = true
	s.send(packet(askedMax - 1))
	blocked("as many as may wait", false)
	s.send(packet(1))
	blocked("one more", true)
	if w.l.reqs != nil && cap(w.l.reqs) > scratchMax {
		t.Errorf("the loop keeps room for %d filters", cap(w.l.reqs))
	}
	w.hold = false
	w.turn()
	blocked("they are in the log", false)
	if n := len(w.b.Events().Take(nil)); n != askedMax {
		t.Errorf("%d events", n)
	}
	before := w.b.Events().Counts().Full
	s.send(packet(toldMax + 100))
	w.turn()
	if n, lost := len(w.b.Events().Take(nil)), w.b.Events().Counts().Full-before; n != toldMax || lost != 100 {
		t.Errorf("%d events, %d are counted as lost", n, lost)
	}
	if cap(w.l.reqs) > scratchMax || cap(w.l.codes) > scratchMax || s.c.in.asked != 0 {
		t.Errorf("the loop keeps room for %d filters, %d wait", cap(w.l.reqs), s.c.in.asked)
	}
}

// While the list of what waits for the log is full, SUBSCRIBE and UNSUBSCRIBE of kept sessions wait in their connections, and so does what a session begins with: nothing is lost, and
// the list does not grow.
func TestSubscribeWhileFull(t *testing.T) {
	w := newWorld(t, Options{})
	keep := func(k *wire.Connect) { k.SessionExpiry = 100 }
	asks, leaves, begins := w.connect(wire.V5, "asks", keep), w.connect(wire.V5, "leaves", keep), w.connect(wire.V5, "begins", keep)
	leaves.subscribe(1, "left")
	var filters []wire.FilterRequest
	for i := range 3000 {
		filters = append(filters, wire.FilterRequest{Filter: fmt.Appendf(nil, "f/%d/%0100d", i, i)})
	}
	w.wants("session")
	var fill []*peer
	for i := range 8 { // some of each shard
		fill = append(fill, w.connect(wire.V5, fmt.Sprint("fills", i), keep))
	}
	w.events()
	w.hold = true
	for _, f := range fill {
		f.send(wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 7, Filters: filters}))
	}
	asks.send(wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 8, Filters: []wire.FilterRequest{{Filter: []byte("asked")}}}))
	leaves.send(wire.AppendUnsubscribe(nil, wire.V5, &wire.UnsubscribeOut{PacketID: 9, Filters: [][]byte{[]byte("left")}}))
	s := *w.h.settings.Load()
	s.AutoSubscribe = []AutoSubscription{{Filter: "own/%c", QoS: 1}}
	w.h.settings.Store(&s)
	begins.c.beginAuto(&s)
	w.turn()
	for name, p := range map[string]*peer{"asks": asks, "leaves": leaves, "begins": begins} {
		if p.c.blocked&blockBusy == 0 {
			t.Errorf("%s does not wait", name)
		}
	}
	w.hold = false
	w.turn()
	asks.feed()
	leaves.feed()
	w.turn()
	told := w.events()
	for _, want := range []string{"session.subscribed asks :asked", "session.unsubscribed leaves :left", "session.subscribed begins :own/begins"} {
		if !strings.Contains(told, want) {
			t.Errorf("%s is not told", want)
		}
	}
	if begins.c.blocked != 0 || asks.c.blocked != 0 || leaves.c.blocked != 0 {
		t.Error("they are not read on")
	}
}

// What a session begins with is told once it has it.
func TestEventsOfAutoSubscriptions(t *testing.T) {
	s := DefaultSettings()
	s.AutoSubscribe = []AutoSubscription{{Filter: "own/%c", QoS: 1}, {Filter: "of/%u"}}
	w := newWorld(t, Options{Settings: &s})
	w.wants("session.subscribed")
	for _, expiry := range []uint32{0, 100} {
		w.connect(wire.V5, "s", func(k *wire.Connect) { k.SessionExpiry = expiry })
		w.told("a new session", "session.subscribed s :own/s")
	}
}

// BenchmarkConnect is a client that comes and goes, by who wants to know of it.
func BenchmarkConnect(b *testing.B) {
	for _, kinds := range []string{"off", "client", "client session"} {
		b.Run(kinds, func(b *testing.B) {
			w := newWorld(b, Options{})
			w.wants(strings.Fields(kinds)...)
			hello := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: []byte("device-000017"), CleanStart: true})
			bye := wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{})
			var spare []events.Event
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				c := w.l.open(&fakeLink{})
				c.onData(hello)
				c.onData(bye)
				c.onClose(nil)
				if n++; n == 1024 {
					spare, n = w.b.Events().Take(spare), 0
					w.b.Local(0).Drain()
				}
			}
		})
	}
}
