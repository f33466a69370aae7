package mqtt

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func TestPublishReachesSubscriber(t *testing.T) {
	for _, version := range []byte{wire.V31, wire.V311, wire.V5} {
		for qos := byte(0); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("version %d QoS %d", version, qos), func(t *testing.T) {
				w := newWorld(t, Options{})
				sub, pub := w.connect(version, "sub"), w.connect(version, "pub")
				sub.subscribe(qos, "a/+")
				pub.publish("a/b", "hello", qos, 7)
				got := sub.packets()
				if len(got) != 1 || got[0].Type != wire.PUBLISH {
					t.Fatalf("subscriber got %v", got)
				}
				m, err := wire.DecodeServerPublish(got[0].Flags, got[0].Body, version)
				if err != nil || string(m.Topic) != "a/b" || string(m.Payload) != "hello" || m.QoS != qos {
					t.Fatalf("%+v %v", m, err)
				}
				want := []string{"", "PUBACK", "PUBREC"}[qos]
				if got := pub.types(); got != want {
					t.Fatalf("publisher got %q, want %q", got, want)
				}
				if qos == 2 {
					pub.send(wire.AppendShortAck(nil, wire.PUBREL, 7))
					if got := pub.types(); got != "PUBCOMP" {
						t.Fatalf("after PUBREL: %q", got)
					}
					sub.send(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID))
					if got := sub.types(); got != "PUBREL" {
						t.Fatalf("after PUBREC: %q", got)
					}
					sub.send(wire.AppendShortAck(nil, wire.PUBCOMP, m.PacketID))
				}
				if qos == 1 {
					sub.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
				}
				if sub.c.out != nil && sub.c.out.flight.len() != 0 {
					t.Error("something is still in flight")
				}
			})
		}
	}
}

func TestDuplicateQoS2IsRoutedOnce(t *testing.T) {
	w := newWorld(t, Options{})
	sub, pub := w.connect(wire.V5, "sub"), w.connect(wire.V311, "pub")
	sub.subscribe(0, "a")
	pub.publish("a", "x", 2, 9)
	pub.send(wire.AppendPublish(nil, pub.version, &wire.PublishOut{Dup: true, QoS: 2, PacketID: 9, Topic: []byte("a"), Payload: []byte("x")}))
	if got := pub.types(); got != "PUBREC PUBREC" {
		t.Fatalf("publisher got %q", got)
	}
	if got := sub.types(); got != "PUBLISH" {
		t.Fatalf("subscriber got %q", got)
	}
	pub.send(wire.AppendShortAck(nil, wire.PUBREL, 9))
	pub.publish("a", "y", 2, 9)
	if got := sub.types(); got != "PUBLISH" {
		t.Fatalf("after release the subscriber got %q", got)
	}
}

// Acknowledgements leave in the order of receipt, although a message that is kept is finished later than one that is not.
func TestAcksKeepTheirOrder(t *testing.T) {
	w := newWorld(t, Options{})
	durable := w.connect(wire.V5, "durable", func(k *wire.Connect) { k.SessionExpiry = 100 })
	durable.subscribe(1, "kept")
	pub := w.connect(wire.V5, "pub")
	w.hold = true
	pub.publish("kept", "1", 1, 1)
	pub.publish("other", "2", 1, 2)
	pub.publish("other", "3", 2, 3)
	pub.publish("kept", "4", 2, 4)
	if got := pub.types(); got != "" {
		t.Fatalf("before the commit: %q", got)
	}
	w.hold = false
	w.turn()
	var got []string
	for _, h := range pub.packets() {
		a, err := wire.DecodeAck(h.Type, h.Body, wire.V5)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(h.Type, " ", a.PacketID))
	}
	if want := "PUBACK 1, PUBACK 2, PUBREC 3, PUBREC 4"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestReceiveMaximumBreach(t *testing.T) {
	s := DefaultSettings()
	s.ReceiveMax = 2
	w := newWorld(t, Options{Settings: &s})
	pub := w.connect(wire.V5, "pub")
	for id := uint16(1); id <= 3; id++ {
		pub.publish("a", "x", 2, id)
	}
	if got := pub.lastDisconnect(); got != wire.ReceiveMaximumExceeded || !pub.k.closed {
		t.Errorf("%v", got)
	}
	if !strings.Contains(w.lines.String(), "client_id=pub") {
		t.Errorf("log: %s", w.lines)
	}
}

// A client of a version without receive maximum is not read from while too much of it is unanswered.
func TestUnansweredIsBoundedBelowVersion5(t *testing.T) {
	s := DefaultSettings()
	s.ReceiveMax = 4
	w := newWorld(t, Options{Settings: &s})
	durable := w.connect(wire.V5, "durable", func(k *wire.Connect) { k.SessionExpiry = 100 })
	durable.subscribe(1, "a")
	pub := w.connect(wire.V311, "pub")
	w.hold = true
	var b []byte
	for id := uint16(1); id <= 9; id++ {
		b = wire.AppendPublish(b, wire.V311, &wire.PublishOut{Topic: []byte("a"), QoS: 1, PacketID: id})
	}
	pub.send(b)
	if !pub.k.paused || len(pub.k.in) == 0 {
		t.Fatal("still read from")
	}
	w.hold = false
	w.turn()
	pub.send(nil)
	if got := pub.types(); strings.Count(got, "PUBACK") != 9 || pub.k.paused {
		t.Errorf("%q, paused %v", got, pub.k.paused)
	}
}

// A bridge of the node's own may have all identifiers under way, and keeps its session for as long as it wants.
func TestInsidersHaveNoBounds(t *testing.T) {
	for _, insiders := range []string{"test", "other"} {
		s := DefaultSettings()
		s.ReceiveMax, s.SessionExpiryMax, s.Insiders = 4, time.Minute, insiders
		w := newWorld(t, Options{Settings: &s})
		p := w.dial()
		p.send(wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: []byte("b"), SessionExpiry: math.MaxUint32}))
		a, err := wire.DecodeConnack(p.packets()[0].Body, wire.V5)
		if err != nil || (a.ReceiveMaximum == 0) != (insiders == "test") || a.HasSessionExpiry != (insiders != "test") {
			t.Errorf("%s: %+v, %v", insiders, a, err)
		}
		for id := range uint16(9) {
			p.publish("a", "x", 2, id+1)
		}
		if p.k.closed != (insiders != "test") {
			t.Errorf("%s: closed %v", insiders, p.k.closed)
		}
	}
}

func TestWindowAndQueueOfLiveSession(t *testing.T) {
	w := newWorld(t, Options{})
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.ReceiveMaximum = 2 })
	sub.subscribe(1, "#")
	pub := w.connect(wire.V5, "pub")
	for i := range 6 {
		pub.publish("t", fmt.Sprint(i), 1, uint16(i+1))
	}
	var payloads []string
	for len(payloads) < 6 {
		got := sub.packets()
		if len(got) == 0 || len(got) > 2 {
			t.Fatalf("%d packets after %v", len(got), payloads)
		}
		for _, h := range got {
			m, err := wire.DecodeServerPublish(h.Flags, h.Body, wire.V5)
			if err != nil {
				t.Fatal(err)
			}
			payloads = append(payloads, string(m.Payload))
			sub.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
		}
	}
	if got := strings.Join(payloads, ""); got != "012345" {
		t.Errorf("order %s", got)
	}
	if sub.c.out.queue.buf != nil {
		t.Error("an empty queue holds memory")
	}
}

func TestQueueBoundEndsSession(t *testing.T) {
	s := DefaultSettings()
	s.QueueBytes = 1000
	w := newWorld(t, Options{Settings: &s})
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.ReceiveMaximum = 1 })
	sub.subscribe(1, "#")
	pub := w.connect(wire.V5, "pub")
	for i := range 4 {
		pub.publish("t", strings.Repeat("x", 400), 1, uint16(i+1))
	}
	if got := sub.lastDisconnect(); got != wire.QuotaExceeded {
		t.Errorf("%v", got)
	}
	if pub.k.closed {
		t.Error("the publisher suffers")
	}
}

func TestSlowReaderLosesQoS0(t *testing.T) {
	s := DefaultSettings()
	s.StuckTimeout = 5 * time.Second
	w := newWorld(t, Options{Settings: &s})
	sub := w.connect(wire.V311, "sub")
	sub.subscribe(0, "#")
	pub := w.connect(wire.V5, "pub")
	sub.k.held = s.QueueBytes + 1
	pub.publish("t", "x", 0, 0)
	if got := sub.types(); got != "" || w.l.n.Dropped[DropSlowReader] != 1 {
		t.Fatalf("%q, %d dropped", got, w.l.n.Dropped[DropSlowReader])
	}
	w.loop.mono += int64(6 * time.Second)
	w.l.tick()
	if !sub.k.closed {
		t.Error("a client that takes nothing stays")
	}
}

func TestDurableSessionWaitsInTheCore(t *testing.T) {
	w := newWorld(t, Options{})
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.ReceiveMaximum, k.SessionExpiry = 2, 100 })
	sub.subscribe(1, "t")
	pub := w.connect(wire.V5, "pub")
	for i := range 20 {
		pub.publish("t", fmt.Sprint(i), 1, uint16(i+1))
	}
	var seen []string
	for len(seen) < 20 {
		got := sub.packets()
		if len(got) == 0 {
			testx.Eventually(t, 5*time.Second, func() bool { w.turn(); return len(sub.k.out) > 0 }, seen)
			continue
		}
		for _, h := range got {
			m, err := wire.DecodeServerPublish(h.Flags, h.Body, wire.V5)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, string(m.Payload))
			sub.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
		}
	}
	for i, p := range seen {
		if p != fmt.Sprint(i) {
			t.Fatalf("order: %v", seen)
		}
	}
}

func TestMaximumPacketSizeOfClient(t *testing.T) {
	w := newWorld(t, Options{})
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.MaximumPacketSize, k.SessionExpiry = 200, 100 })
	sub.subscribe(1, "t")
	pub := w.connect(wire.V5, "pub")
	pub.publish("t", strings.Repeat("x", 300), 1, 1)
	pub.publish("t", "small", 1, 2)
	got := sub.packets()
	if len(got) != 1 || w.l.n.Dropped[DropTooLarge] != 1 {
		t.Fatalf("%d packets, %d dropped", len(got), w.l.n.Dropped[DropTooLarge])
	}
	if n := sub.c.out.flight.len(); n != 1 {
		t.Errorf("%d in flight", n)
	}
}

func TestAliasesBothWays(t *testing.T) {
	w := newWorld(t, Options{})
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.TopicAliasMaximum = 1 })
	sub.subscribe(0, "#")
	pub := w.connect(wire.V5, "pub")
	for _, m := range []wire.PublishOut{{Topic: []byte("one"), TopicAlias: 3}, {TopicAlias: 3}, {Topic: []byte("two"), TopicAlias: 3}, {TopicAlias: 3}} {
		pub.send(wire.AppendPublish(nil, wire.V5, &m))
	}
	var got []string
	for _, h := range sub.packets() {
		m, err := wire.DecodeServerPublish(h.Flags, h.Body, wire.V5)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s/%d", m.Topic, m.Props.TopicAlias))
	}
	if want := "one/1 /1 two/0 two/0"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	pub.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{TopicAlias: 33, Topic: []byte("x")}))
	if got := pub.lastDisconnect(); got != wire.TopicAliasInvalid {
		t.Errorf("%v", got)
	}
}

func TestVerificationOffTheLoop(t *testing.T) {
	a := &slowAuthn{gate: make(chan struct{})}
	w := newWorld(t, Options{Authenticator: a})
	p := w.dial()
	b := wire.AppendConnect(nil, &wire.Connect{Version: wire.V311, CleanStart: true, ClientID: []byte("c"), UserName: []byte("u"), Password: []byte("secret")})
	p.send(wire.AppendPingreq(b))
	if !p.k.paused || p.types() != "" {
		t.Fatal("the client is read from before it is known")
	}
	close(a.gate)
	testx.Eventually(t, 5*time.Second, func() bool { w.turn(); return !p.k.paused })
	p.send(nil)
	if got := p.types(); got != "CONNACK PINGRESP" {
		t.Errorf("%q", got)
	}
	if id := p.c.identity(); id.User != "u" || id.ClientID != "c" || id.Remote.String() != "127.0.0.1" {
		t.Errorf("%+v", id)
	}

	a.err = fmt.Errorf("wrong: %w", broker.ErrBadCredentials)
	q := w.dial()
	q.send(b)
	testx.Eventually(t, 5*time.Second, func() bool { w.turn(); return q.k.closed })
	got := q.packets()
	if k, err := wire.DecodeConnack(got[0].Body, wire.V311); err != nil || k.Reason != wire.BadUserNameOrPassword {
		t.Errorf("%+v %v", k, err)
	}
	if strings.Contains(w.lines.String(), "secret") {
		t.Error("the log tells the password")
	}
}

func TestDecisionsAreCachedUntilRulesChange(t *testing.T) {
	r := &rules{}
	w := newWorld(t, Options{Authorizer: r})
	p := w.connect(wire.V5, "c")
	for range 5 {
		p.publish("a", "x", 0, 0)
	}
	if r.asked != 1 {
		t.Errorf("asked %d times", r.asked)
	}
	r.deny, r.generation = "a", 1
	p.publish("a", "x", 1, 1)
	got := p.packets()
	if a, err := wire.DecodeAck(wire.PUBACK, got[0].Body, wire.V5); err != nil || a.Reason != wire.NotAuthorized || len(a.ReasonString) == 0 {
		t.Errorf("%+v %v", a, err)
	}
}

func TestWalkEndsAllClients(t *testing.T) {
	w := newWorld(t, Options{})
	var all []*peer
	for i := range 3*walkStep/2 + 7 {
		all = append(all, w.connect(wire.V5, fmt.Sprint(i)))
	}
	w.h.Shutdown(wire.ServerShuttingDown)
	w.turn()
	for _, p := range all {
		if got := p.lastDisconnect(); got != wire.ServerShuttingDown {
			t.Fatalf("%v", got)
		}
		p.c.onClose(p.k.err)
	}
	if w.l.n.Open != 0 || w.l.n.Connected != 0 {
		t.Errorf("%d open, %d connected", w.l.n.Open, w.l.n.Connected)
	}
	late := w.dial()
	late.send(wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true}))
	got := late.packets()
	if k, err := wire.DecodeConnack(got[0].Body, wire.V5); err != nil || k.Reason != wire.ServerUnavailable {
		t.Errorf("%+v %v", k, err)
	}
}

// Whatever way the bytes are cut, the answers are the same.
func TestAnySplitOfTheInput(t *testing.T) {
	b := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true, ClientID: []byte("c"), ReceiveMaximum: 7})
	b = wire.AppendSubscribe(b, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("x/#"), QoS: 2}}})
	b = wire.AppendPublish(b, wire.V5, &wire.PublishOut{Topic: []byte("x/y"), QoS: 2, PacketID: 5, Payload: bytes.Repeat([]byte("z"), 300)})
	b = wire.AppendShortAck(b, wire.PUBREL, 5)
	b = wire.AppendPingreq(b)
	run := func(cuts []int) []byte {
		w := newWorld(t, Options{})
		p := w.dial()
		from := 0
		for _, c := range append(cuts, len(b)) {
			p.send(b[from:c])
			from = c
		}
		out := p.k.out
		p.c.onClose(nil)
		return out
	}
	want := run(nil)
	rapid.Check(t, func(r *rapid.T) {
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(b)), 0, 6).Draw(r, "cuts")
		slices.Sort(cuts)
		if got := run(cuts); !bytes.Equal(got, want) {
			r.Fatalf("cuts %v give %x, want %x", cuts, got, want)
		}
	})
}

func FuzzConnection(f *testing.F) {
	hello := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true, ClientID: []byte("c"), TopicAliasMaximum: 5})
	f.Add(hello)
	f.Add(wire.AppendSubscribe(bytes.Clone(hello), wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("#"), QoS: 2}}}))
	f.Add(wire.AppendPublish(bytes.Clone(hello), wire.V5, &wire.PublishOut{Topic: []byte("a"), QoS: 2, PacketID: 1, TopicAlias: 2}))
	f.Add(append(bytes.Clone(hello), 0x82, 0x05, 0, 1, 0, 0, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t, Options{})
		p := w.dial()
		p.send(b)
		if !p.k.closed {
			p.c.onClose(nil)
		} else {
			p.c.onClose(p.k.err)
		}
		w.turn()
		if w.l.n.Open != 0 || w.l.n.Connected != 0 {
			t.Errorf("%d open, %d connected", w.l.n.Open, w.l.n.Connected)
		}
	})
}

func TestIdentifierTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var table idTable
		model := map[uint16]uint8{}
		ids := rapid.OneOf(rapid.Uint16Range(1, 40), rapid.Uint16Range(1, 65535), rapid.Map(rapid.Uint16Range(1, 200), func(v uint16) uint16 { return v * 64 }))
		for range rapid.IntRange(0, 300).Draw(r, "steps") {
			id := ids.Draw(r, "id")
			if rapid.Bool().Draw(r, "put") {
				state := rapid.Uint8().Draw(r, "state")
				table.put(id, state)
				model[id] = state
			} else {
				_, was := model[id]
				delete(model, id)
				if table.del(id) != was {
					r.Fatalf("del %d", id)
				}
			}
			if table.len() != len(model) {
				r.Fatalf("len %d, want %d", table.len(), len(model))
			}
			moved := int32(0)
			for i, v := range table.slots {
				if v != 0 && int(uint16(v))&(len(table.slots)-1) != i {
					moved++
				}
			}
			if table.moved != moved {
				r.Fatalf("%d entries are said not to be in their own slot, and %d are not", table.moved, moved)
			}
			for id, want := range model {
				if got, ok := table.get(id); !ok || got != want {
					r.Fatalf("get %d: %d %v, want %d", id, got, ok, want)
				}
			}
		}
	})
}

func TestAckRingAgainstSlice(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var ring ackRing
		ring.head = rapid.SampledFrom([]uint32{0, 1<<32 - 3}).Draw(r, "start")
		ring.tail = ring.head
		type item struct {
			seq  uint32
			id   uint16
			done bool
		}
		var model []item
		for i := range rapid.IntRange(0, 200).Draw(r, "steps") {
			switch {
			case rapid.IntRange(0, 2).Draw(r, "op") > 0 || len(model) == 0:
				id := uint16(i + 1)
				model = append(model, item{ring.push(ack{id: id}), id, false})
			default:
				k := rapid.IntRange(0, len(model)-1).Draw(r, "which")
				model[k].done = true
				ring.finish(model[k].seq, wire.Success)
			}
			for len(model) > 0 && model[0].done {
				a, ok := ring.pop()
				if !ok || a.id != model[0].id {
					r.Fatalf("pop %+v %v, want %d", a, ok, model[0].id)
				}
				model = model[1:]
			}
			if _, ok := ring.pop(); ok {
				r.Fatal("popped what is not done")
			}
		}
	})
}

func TestConnectionIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 144 {
		t.Errorf("a connection takes %d bytes here", n)
	}
}

// The way of a message through this package, from the bytes of a PUBLISH to those that its receiver gets.
func TestNoAllocationsPerMessage(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, qos := range []byte{0, 1, 2} {
		for _, version := range []byte{wire.V311, wire.V5} {
			w := newWorld(t, Options{Authorizer: &rules{}, Quotas: generous()})
			sub, pub := w.connect(version, "sub"), w.connect(version, "pub")
			sub.subscribe(qos, "a/b")
			sub.k.keep, pub.k.keep = false, false
			in := wire.AppendPublish(nil, version, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: qos, PacketID: 1})
			rel := wire.AppendShortAck(nil, wire.PUBREL, 1)
			ack := make([]byte, 0, 8)
			n := testing.AllocsPerRun(500, func() {
				pub.c.onData(in)
				w.l.endTurn()
				if qos == 0 {
					return
				}
				id := sub.c.out.nextID
				if qos == 1 {
					sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, id))
					return
				}
				pub.c.onData(rel)
				sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBREC, id))
				sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBCOMP, id))
			})
			if n != 0 {
				t.Errorf("QoS %d, version %d: %v allocations", qos, version, n)
			}
			if w.l.n.MessagesOut[qos] < 500 {
				t.Errorf("QoS %d, version %d: %d delivered", qos, version, w.l.n.MessagesOut[qos])
			}
		}
	}
}

// A full pending list stops the reading of its publisher; nothing is lost, doubled or out of order when it goes on.
func TestBusyCorePausesReading(t *testing.T) {
	s := DefaultSettings()
	s.ReceiveMax = 65535
	w := newWorld(t, Options{Settings: &s})
	keeper := w.connect(wire.V5, "keeper", func(k *wire.Connect) { k.SessionExpiry = 100 })
	keeper.subscribe(1, "a")
	pub := w.connect(wire.V5, "pub")
	w.hold = true
	payload := bytes.Repeat([]byte("p"), 60_000)
	sent := uint16(0)
	for !pub.k.paused && sent < 1000 {
		sent++
		pub.k.in = wire.AppendPublish(pub.k.in, wire.V5, &wire.PublishOut{Topic: []byte("a"), Payload: payload, QoS: 1, PacketID: sent})
		pub.feed()
	}
	if !pub.k.paused || len(pub.k.in) == 0 || pub.k.deadline != 0 {
		t.Fatalf("after %d messages: paused %v, %d bytes left, deadline %d", sent, pub.k.paused, len(pub.k.in), pub.k.deadline)
	}
	w.hold = false
	w.turn()
	pub.send(wire.AppendPingreq(nil))
	next := uint16(1)
	for _, h := range pub.packets() {
		if h.Type != wire.PUBACK {
			continue
		}
		if a, err := wire.DecodeAck(h.Type, h.Body, wire.V5); err != nil || a.PacketID != next {
			t.Fatalf("%+v %v, want %d", a, err, next)
		}
		next++
	}
	if next != sent+1 {
		t.Errorf("%d of %d are acknowledged", next-1, sent)
	}
}

// TestConnSize: an idle connection is one of these, and no more than the collector's class for it.
func TestConnSize(t *testing.T) {
	if n := reflect.TypeFor[conn]().Size(); n > 96 {
		t.Errorf("a conn has %d bytes", n)
	}
}
