package mqtt

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// byName lets everybody in, in the tenant whose number is the user name.
type byName struct{}

func (byName) Authenticate(_ context.Context, c broker.Credentials) (broker.Identity, error) {
	n, err := strconv.ParseUint(c.Username, 10, 32)
	return broker.Identity{User: c.Username, ClientID: c.ClientID, Tenant: uint32(n), Source: "password"}, err
}

func (b byName) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	id, err := b.Authenticate(context.Background(), c)
	return id, true, err
}

// in is a CONNECT of a client of a tenant.
func in(tenant uint32) func(*wire.Connect) {
	return func(k *wire.Connect) { k.UserName = strconv.AppendUint(nil, uint64(tenant), 10) }
}

// limited has tenant 1 have a limit, and tenant 2 none.
func (w *world) limited(k broker.TenantLimit, most float64) *broker.TenantUse {
	one := broker.LimitedTenant{Number: 1, Name: "one"}
	one.Limits[k] = most
	w.b.Tenants().Set([]broker.LimitedTenant{one, {Number: 2, Name: "two"}})
	return w.b.Tenants().Use(1)
}

// refused connects a client that is not let in, and gives the code that it is told.
func (w *world) refused(version byte, id string, with ...func(*wire.Connect)) byte {
	w.t.Helper()
	p := w.dial()
	k := wire.Connect{Version: version, ClientID: []byte(id), CleanStart: true}
	for _, f := range with {
		f(&k)
	}
	p.send(wire.AppendConnect(nil, &k))
	got := p.packets()
	if len(got) != 1 || got[0].Type != wire.CONNACK || !p.k.closed {
		w.t.Fatalf("%s: %v, closed %v", id, got, p.k.closed)
	}
	p.c.onClose(nil)
	return got[0].Body[1]
}

func (p *peer) payloads(t *testing.T) (list []string) {
	t.Helper()
	for _, h := range p.packets() {
		if h.Type != wire.PUBLISH {
			continue
		}
		m, err := wire.DecodePublish(h.Flags, h.Body, p.version)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(m.Payload))
	}
	return list
}

// Clients of one id, in three tenants, on one loop, live beside each other: what they publish, by topic aliases too, what is retained and what they leave as their will
// stays in their tenant. What the node tells of clients and topics is of the default one's.
func TestTenantsAtTheDoor(t *testing.T) {
	s := DefaultSettings()
	s.BusyTopics = 3
	w := newWorld(t, Options{Authenticator: byName{}, Settings: &s})
	w.wants("client", "session")
	tenants := []uint32{0, 1, 2}
	var pubs, subs []*peer
	for _, n := range tenants {
		will := func(k *wire.Connect) {
			k.HasWill, k.Will = true, wire.Will{Topic: []byte("will"), Payload: fmt.Append(nil, "will ", n)}
		}
		pubs = append(pubs, w.connect(wire.V5, "pub", in(n), will))
		subs = append(subs, w.connect(wire.V311, "sub", in(n)))
		subs[n].subscribe(1, "#", "a/+")
	}
	for _, n := range tenants {
		if pubs[n].k.closed || subs[n].k.closed {
			t.Fatal("a client of the same id in another tenant takes over")
		}
		alias := wire.PublishOut{Topic: []byte("a/alias"), Payload: fmt.Append(nil, "set ", n), TopicAlias: 1}
		pubs[n].send(wire.AppendPublish(nil, wire.V5, &alias))
	}
	for _, n := range tenants {
		alias := wire.PublishOut{Payload: fmt.Append(nil, "alias ", n), TopicAlias: 1}
		pubs[n].send(wire.AppendPublish(nil, wire.V5, &alias))
		for qos := range byte(2) {
			out := wire.PublishOut{Topic: []byte("a/1"), Payload: fmt.Append(nil, "qos", qos, " ", n), QoS: qos, PacketID: uint16(qos), Retain: true}
			pubs[n].send(wire.AppendPublish(nil, wire.V5, &out))
		}
		pubs[n].c.onClose(nil)
		w.turn()
	}
	for _, n := range tenants {
		want := []string{"set", "alias", "qos0", "qos1", "will"}
		for i := range want {
			want[i] += fmt.Sprint(" ", n)
		}
		if got := subs[n].payloads(t); !slices.Equal(got, want) {
			t.Errorf("tenant %d got %q, want %q", n, got, want)
		}
		late := w.connect(wire.V5, "late", in(n))
		late.send(wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("a/#")}}}))
		if got := late.payloads(t); !slices.Equal(got, []string{fmt.Sprint("qos1 ", n)}) {
			t.Errorf("tenant %d has retained %q", n, got)
		}
	}
	w.l.tick()
	for _, b := range w.h.Busy() {
		if b.MessagesIn > 2 || b.MessagesOut > 3 {
			t.Errorf("%+v: counted with other tenants'", b)
		}
	}
	if told := w.events(); strings.Count(told, "client.connected pub") != 1 || strings.Count(told, "client.disconnected pub") != 1 ||
		strings.Count(told, "session.subscribed sub") != 2 {
		t.Errorf("told of other tenants' clients: %s", told)
	}
	for n := range uint32(3) {
		w.l.late = &slowTable{top: 10, rows: []broker.SlowSubscriber{{Tenant: 0, ClientID: "x"}, {Tenant: 1, ClientID: "x"}}}
		w.l.late.note(&broker.SlowSubscriber{Tenant: n, ClientID: "x", Late: 1}, nil)
		for _, r := range w.l.late.rows {
			if r.Late != 0 && r.Tenant != n {
				t.Errorf("tenant %d is slow for tenant %d", r.Tenant, n)
			}
		}
	}
}

// A client that comes in too often is kept out of its tenant, and who has its id in another one is not.
func TestTenantsFlapping(t *testing.T) {
	f := &often{}
	w := newWorld(t, Options{Authenticator: byName{}, Flapping: f})
	w.connect(wire.V5, "x", in(1))
	w.connect(wire.V5, "x", in(2))
	if want := []string{"1 x", "2 x"}; !slices.Equal(f.came, want) {
		t.Errorf("%q are counted, want %q", f.came, want)
	}
}

// often counts who comes.
type often struct{ came []string }

func (*often) Flapping(string) bool { return false }

func (o *often) Connected(tenant uint32, clientID string) bool {
	o.came = append(o.came, fmt.Sprint(tenant, " ", clientID))
	return true
}

// A tenant with as many connections as it may have gets no more, in the words of the version, until one goes. Who comes back is let in beside its last connection.
// Other tenants do not notice.
func TestTenantConnections(t *testing.T) {
	w := newWorld(t, Options{Authenticator: byName{}})
	use := w.limited(broker.TenantConnections, 2)
	w.connect(wire.V5, "a", in(1))
	b := w.connect(wire.V311, "b", in(1))
	if code := w.refused(wire.V5, "c", in(1)); code != byte(wire.QuotaExceeded) {
		t.Errorf("MQTT 5 is told %#x", code)
	}
	if code := w.refused(wire.V311, "c", in(1)); code != 3 {
		t.Errorf("MQTT 3.1.1 is told %d", code)
	}
	for i := range 5 {
		w.connect(wire.V5, fmt.Sprint(i), in(2))
		w.connect(wire.V5, fmt.Sprint(i), in(0))
	}
	again := w.connect(wire.V5, "b", in(1))
	if !b.k.closed {
		t.Error("it was not taken over")
	}
	b.c.onClose(nil)
	w.turn()
	if n := use.Counts(); n.Connections != 2 || n.Refused[broker.TenantConnections] != 2 {
		t.Errorf("%d connections are counted, %d refused", n.Connections, n.Refused[broker.TenantConnections])
	}
	again.c.onClose(nil)
	w.turn()
	w.connect(wire.V5, "c", in(1))
	if n := w.b.Tenants().Use(2).Counts(); n.Connections != 5 {
		t.Errorf("%d connections of the other tenant are counted", n.Connections)
	}
}

// A tenant's clients come in at its rate.
func TestTenantConnectRate(t *testing.T) {
	w := newWorld(t, Options{Authenticator: byName{}})
	w.limited(broker.TenantConnectRate, 3)
	for i := range 4 { // a second's worth, and one on credit
		w.connect(wire.V5, fmt.Sprint(i), in(1))
	}
	if code := w.refused(wire.V5, "x", in(1)); code != byte(wire.QuotaExceeded) {
		t.Errorf("MQTT 5 is told %#x", code)
	}
	if code := w.refused(wire.V311, "x", in(1)); code != 3 {
		t.Errorf("MQTT 3.1.1 is told %d", code)
	}
	w.connect(wire.V5, "x", in(2))
	w.loop.mono += int64(time.Second)
	w.connect(wire.V5, "x", in(1))
	if n := w.b.Tenants().Use(1).Counts().Connections; n != 5 {
		t.Errorf("%d connections are counted", n)
	}
}

// Two publishers of a tenant share its rate of messages or bytes; another tenant's client is never paused, and a rate that is raised counts soon.
func TestTenantPublishRate(t *testing.T) {
	const size = 400
	for _, k := range []broker.TenantLimit{broker.TenantMessagesIn, broker.TenantBytesIn} {
		most := 10.0 // messages
		if k == broker.TenantBytesIn {
			most *= size
		}
		clk := clock.NewManual(time.Unix(1_700_000_000, 0))
		w := newWorldAt(t, Options{Authenticator: byName{}}, clk)
		use := w.limited(k, most)
		a, b, other := w.connect(wire.V5, "a", in(1)), w.connect(wire.V311, "b", in(1)), w.connect(wire.V5, "a", in(2))
		payload := string(make([]byte, size-10))
		pass := func(d time.Duration) {
			clk.Advance(d)
			w.loop.mono += int64(d)
			w.turn()
		}
		published := 0
		const end = 60 * time.Second
		for now := time.Duration(0); now < end; now += 50 * time.Millisecond {
			for _, p := range []*peer{a, b} {
				for !p.k.paused {
					p.publish("t", payload, 0, 0)
					published++
				}
			}
			if other.publish("t", payload, 0, 0); other.k.paused {
				t.Fatal("a client of another tenant is paused")
			}
			pass(50 * time.Millisecond)
		}
		if rate := float64(published) / end.Seconds(); rate < 8.5 || rate > 11.5 {
			t.Errorf("%s: %.1f messages in a second, want 10", k, rate)
		}
		if s, ok := a.c.Explain(); !ok || a.k.paused && (s.ReadOwed == 0 || !slices.Contains(s.NotRead, broker.PauseTenant)) {
			t.Errorf("%s: it is paused, and nobody is told why: %+v", k, s)
		}
		n := use.Counts()
		if n.MessagesIn != uint64(published) || n.BytesIn < uint64(published)*size/2 || n.Refused[k] == 0 {
			t.Errorf("%s: counted %+v for %d messages", k, n, published)
		}
		for !a.k.paused {
			a.publish("t", payload, 0, 0)
		}
		w.limited(k, 1e9)
		pass(tenantWait)
		if a.k.paused || b.k.paused {
			t.Errorf("%s: paused though the limit is another one", k)
		}
	}
}

// Two subscribers of a tenant share its rate of messages or bytes: at QoS 0 what is over it is dropped, at QoS 1 it comes later, in order and all of it. Another
// tenant's subscriber gets everything at once.
func TestTenantDeliveryRate(t *testing.T) {
	const size, messages = 400, 100
	for _, k := range []broker.TenantLimit{broker.TenantMessagesOut, broker.TenantBytesOut} {
		for qos := range byte(2) {
			most := 10.0
			if k == broker.TenantBytesOut {
				most *= size + 10
			}
			clk := clock.NewManual(time.Unix(1_700_000_000, 0))
			w := newWorldAt(t, Options{Authenticator: byName{}}, clk)
			w.limited(k, most)
			subs := []*peer{w.connect(wire.V5, "a", in(1)), w.connect(wire.V311, "b", in(1))}
			fast := w.connect(wire.V5, "a", in(2))
			for _, p := range append(subs, fast) {
				p.subscribe(qos, "t")
			}
			for tenant := uint32(1); tenant <= 2; tenant++ {
				p := w.connect(wire.V5, "p", in(tenant))
				for i := range messages {
					p.publish("t", fmt.Sprintf("%0*d", size, i), qos, uint16(i+1))
				}
			}
			if n := len(fast.publishes(t, qos)); n != messages {
				t.Errorf("%s QoS %d: the other tenant's has got %d", k, qos, n)
			}
			var came [2][]int
			got := func() (all int) {
				for i, p := range subs {
					came[i] = append(came[i], p.publishes(t, qos)...)
					all += len(came[i])
				}
				return all
			}
			if n := got(); n == 0 || n > 13 {
				t.Errorf("%s QoS %d: %d came at once", k, qos, n)
			}
			took := time.Duration(0)
			for ; took < 40*time.Second && got()+int(w.l.n.Dropped[DropQuota]) < 2*messages; took += 100 * time.Millisecond {
				clk.Advance(100 * time.Millisecond)
				w.loop.mono += int64(100 * time.Millisecond)
				w.turn()
			}
			if qos == 0 {
				if got()+int(w.l.n.Dropped[DropQuota]) != 2*messages {
					t.Errorf("%s: %d came, %d are counted as dropped", k, got(), w.l.n.Dropped[DropQuota])
				}
				continue
			}
			for i := range came {
				if len(came[i]) != messages || !slices.IsSorted(came[i]) {
					t.Errorf("%s: %v came", k, came[i])
				}
			}
			if rate := 2 * messages / took.Seconds(); rate < 8 || rate > 12.5 {
				t.Errorf("%s: %.1f messages in a second", k, rate)
			}
		}
	}
}

// A tenant with as many kept sessions as it may have gets no new one, but those it has may come back, and others end with their connections.
func TestTenantSessions(t *testing.T) {
	w := newWorld(t, Options{Authenticator: byName{}})
	use := w.limited(broker.TenantSessions, 2)
	keep := func(k *wire.Connect) { k.CleanStart, k.SessionExpiry = false, 3600 }
	a := w.connect(wire.V5, "a", in(1), keep)
	w.connect(wire.V311, "b", in(1), keep)
	if code := w.refused(wire.V5, "c", in(1), keep); code != byte(wire.QuotaExceeded) {
		t.Errorf("MQTT 5 is told %#x", code)
	}
	if code := w.refused(wire.V311, "c", in(1), keep); code != 3 {
		t.Errorf("MQTT 3.1.1 is told %d", code)
	}
	w.connect(wire.V5, "c", in(1))
	w.connect(wire.V5, "c", in(2), keep)
	w.connect(wire.V5, "c", in(0), keep)
	a.c.onClose(nil)
	w.turn()
	w.connect(wire.V5, "a", in(1), keep)
	if n := use.Counts(); n.Sessions != 2 || n.Refused[broker.TenantSessions] != 2 {
		t.Errorf("counted %+v", n)
	}
}

// A tenant with as many retained messages as it may have can replace and clear them, and leaves no other one: the publisher is told at QoS 1 and 2.
func TestTenantRetained(t *testing.T) {
	w := newWorld(t, Options{Authenticator: byName{}})
	use := w.limited(broker.TenantRetained, 1)
	p, other := w.connect(wire.V5, "p", in(1)), w.connect(wire.V5, "p", in(2))
	id := uint16(0)
	retain := func(p *peer, topic, payload string, qos byte) wire.ReasonCode {
		t.Helper()
		id++
		p.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id, Retain: true}))
		if qos == 0 {
			return wire.Success
		}
		for _, h := range p.packets() {
			if h.Type == wire.PUBACK || h.Type == wire.PUBREC {
				a, err := wire.DecodeAck(h.Type, h.Body, wire.V5)
				if err != nil {
					t.Fatal(err)
				}
				return a.Reason
			}
		}
		t.Fatalf("%s: no answer", topic)
		return 0
	}
	if code := retain(p, "r/1", "x", 1); code.Failed() {
		t.Error("the first is refused:", code)
	}
	for qos := range byte(3) {
		dropped := w.l.n.Dropped[DropQuota]
		if code := retain(p, "r/2", "x", qos); qos > 0 && code != wire.QuotaExceeded {
			t.Errorf("QoS %d: told %s", qos, code)
		}
		if w.l.n.Dropped[DropQuota] != dropped+1 {
			t.Errorf("QoS %d: not counted", qos)
		}
		if code := retain(other, fmt.Sprint("r/", qos), "x", qos); code.Failed() {
			t.Errorf("another tenant's is refused: %s", code)
		}
	}
	if code := retain(p, "r/1", "y", 1); code.Failed() {
		t.Error("it cannot be replaced:", code)
	}
	if code := retain(p, "r/1", "", 1); code.Failed() {
		t.Error("it cannot be cleared:", code)
	}
	if code := retain(p, "r/2", "x", 1); code.Failed() {
		t.Error("there is room, and it is refused:", code)
	}
	if n := use.Counts(); n.Retained != 1 || n.Refused[broker.TenantRetained] != 3 || w.b.Tenants().Use(2).Counts().Retained != 3 {
		t.Errorf("counted %+v", n)
	}
}

// A message of a tenant with limits costs no memory.
func TestTenantsAllocateNothing(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	w := newWorld(t, Options{Authenticator: byName{}})
	one := broker.LimitedTenant{Number: 1, Name: "one"}
	for k := range one.Limits {
		one.Limits[k] = 1e15
	}
	w.b.Tenants().Set([]broker.LimitedTenant{one})
	sub, pub := w.connect(wire.V5, "sub", in(1)), w.connect(wire.V5, "pub", in(1))
	sub.subscribe(0, "t")
	b := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("t"), Payload: []byte("x")})
	sub.k.keep, pub.k.keep = false, false
	pass := func() {
		if pub.c.onData(b) != len(b) {
			t.Fatal("not taken")
		}
		w.l.endTurn()
	}
	pass()
	before := w.b.Tenants().Use(1).Counts()
	if n := testing.AllocsPerRun(100, pass); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if after := w.b.Tenants().Use(1).Counts(); after.MessagesIn-before.MessagesIn != 101 || after.MessagesOut-before.MessagesOut != 101 {
		t.Errorf("%+v are counted", after)
	}
}
