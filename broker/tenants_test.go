package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/journal/record"
)

// threeTenants are the default one and two more. 300 takes two bytes as a varint.
var threeTenants = []uint32{0, 1, 300}

func of(tenant uint32, req ConnectRequest) ConnectRequest {
	req.Tenant = tenant
	return req
}

// everywhere connects a client with one id in each tenant, every other one on another loop.
func (tb *testBroker) everywhere(req ConnectRequest) (list []*testClient) {
	tb.t.Helper()
	for i, tenant := range threeTenants {
		list = append(list, tb.connect(i%tb.b.Loops(), of(tenant, req)))
	}
	return list
}

// wantOwn checks that each client got these payloads of its own tenant, in any order, and nothing else.
func wantOwn(t *testing.T, what string, list []*testClient, payloads ...string) {
	t.Helper()
	for i, c := range list {
		var want []string
		for _, p := range payloads {
			want = append(want, fmt.Sprint(p, " of ", threeTenants[i]))
		}
		got := c.payloads()
		slices.Sort(got)
		slices.Sort(want)
		check(t, fmt.Sprint(what, ", tenant ", threeTenants[i]), got, want)
	}
}

// Three tenants have clients of the same ids, with the same filters and shared groups, who publish to the same topics: everybody gets what is
// of its tenant, whatever the QoS, from the log as well, after a crash and from a checkpoint.
func TestTenantsAreApart(t *testing.T) {
	for _, loops := range []int{1, 2} {
		tb := newTestBroker(t, loops, nil)
		p, a, k := tb.everywhere(live("p")), tb.everywhere(live("a")), tb.everywhere(kept("k"))
		member, away := tb.everywhere(live("m")), tb.everywhere(kept("away"))
		for i := range threeTenants {
			a[i].subscribe(2, "t/#", "+/1")
			k[i].subscribe(2, "#")
			member[i].share("g", 2, "t/+")
			away[i].subscribe(2, "t/1")
			away[i].disconnect()
			if p[i].kicked != nil {
				t.Fatal("the same client id in another tenant takes over:", p[i].kicked)
			}
		}
		var all, stays []string
		for qos := range QoS(3) {
			for n := range 3 {
				what := fmt.Sprint("qos", qos, " ", n)
				for i, tenant := range threeTenants { // in turns, so that what one has cached is wrong for the next
					p[i].publish("t/1", fmt.Sprint(what, " of ", tenant), qos, Token(10*int(qos)+n))
				}
				if all = append(all, what); qos > 0 {
					stays = append(stays, what)
				}
			}
			tb.pump()
		}
		for _, list := range [][]*testClient{k, member} {
			for _, c := range list {
				c.takeAll()
			}
		}
		wantOwn(t, "live", a, all...)
		wantOwn(t, "kept", k, all...)
		wantOwn(t, "shared", member, all...)
		points := &memCheckpoints{}
		if err := tb.b.Checkpoint(points); err != nil {
			t.Fatal(err)
		}
		crashed := tb.crash(loops)
		wantOwn(t, "after a crash", crashed.everywhere(kept("away")), stays...)
		points.replay = len(tb.log.groups)
		again, err := tb.restart(loops, points)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(again.b.Close)
		wantOwn(t, "from a checkpoint", again.everywhere(kept("away")), stays...)
		for what, b := range map[string]*Broker{"live": tb.b, "after a crash": crashed.b, "from a checkpoint": again.b} {
			check(t, "kept sessions by count, "+what, b.Tenants().Use(300).Counts().Sessions, int64(2))
		}
	}
}

// A retained message is its tenant's: set, replaced, cleared and expired there alone, after a crash and from a checkpoint too.
func TestTenantsRetained(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	points := &memCheckpoints{}
	p := tb.everywhere(live("p"))
	for i, tenant := range threeTenants {
		for qos, topic := range []string{"r/0", "r/1", "r/2"} {
			p[i].retain(QoS(qos), topic, fmt.Sprint(topic, " of ", tenant))
		}
		m := Message{Topic: []byte("r/old"), Payload: fmt.Append(nil, "old of ", tenant), Retain: true, QoS: 1, Timestamp: tb.clock.Now().UnixMilli()}
		if tenant == 1 {
			m.Deadline = m.Timestamp + 1000
		}
		if _, err := p[i].l.Publish(p[i].c, &m, false, 77); err != nil {
			t.Fatal(err)
		}
		tb.pump()
	}
	if err := tb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	points.replay = len(tb.log.groups)
	p[2].retain(1, "r/1", "") // is gone in one
	tb.pass(2 * time.Second)  // r/old expires in another
	look := func(what string, tb *testBroker) {
		t.Helper()
		for i, c := range tb.everywhere(live("r")) {
			tenant := threeTenants[i]
			c.subscribe(1, "#")
			want := []string{}
			for _, topic := range []string{"r/0", "r/1", "r/2"} {
				if tenant != 300 || topic != "r/1" {
					want = append(want, fmt.Sprint(topic, " of ", tenant))
				}
			}
			if tenant != 1 {
				want = append(want, fmt.Sprint("old of ", tenant))
			}
			got := c.payloads()
			slices.Sort(got)
			slices.Sort(want)
			check(t, fmt.Sprint(what, ", tenant ", tenant), got, want)
			if u := tb.b.Tenants().Use(tenant); u != nil && u.Counts().Retained != int64(len(want)) {
				t.Errorf("%s: tenant %d has %d retained messages by its count, want %d", what, tenant, u.Counts().Retained, len(want))
			}
		}
	}
	look("live", tb)
	crashed := tb.crash(2)
	crashed.tick()
	look("after a crash", crashed)
	again, err := tb.restart(2, points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.b.Close)
	again.tick()
	look("from a checkpoint and the log", again)
	if err := again.b.Checkpoint(points); err != nil { // with what is gone
		t.Fatal(err)
	}
	points.replay = len(again.log.groups)
	last, err := again.restart(2, points)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(last.b.Close)
	look("from the next checkpoint", last)
}

// A will is published in the tenant of its client, at once, after its delay, and after a crash; retained ones are retained there.
func TestTenantsWills(t *testing.T) {
	for what, o := range map[string]struct {
		expiry, delay time.Duration
		crash         bool
	}{"live": {}, "kept": {expiry: time.Hour}, "delayed": {expiry: time.Hour, delay: time.Minute}, "crash": {expiry: time.Hour, delay: time.Minute, crash: true}} {
		tb := newTestBroker(t, 2, nil)
		w := tb.everywhere(kept("w"))
		for _, c := range w {
			c.subscribe(1, "#")
		}
		for i, tenant := range threeTenants {
			c := tb.connect(i%2, ConnectRequest{Tenant: tenant, ClientID: "x", CleanStart: true, Expiry: o.expiry, ReceiveMax: 5,
				Will: &Will{Topic: []byte("will"), Payload: fmt.Append(nil, "will of ", tenant), QoS: 1, Retain: true, Delay: o.delay}})
			c.l.Disconnect(c.c, DisconnectRequest{PublishWill: true})
		}
		tb.pump()
		if o.crash {
			tb = tb.crash(2)
			w = tb.everywhere(kept("w"))
		}
		tb.pass(o.delay + time.Second)
		wantOwn(t, what, w, "will")
		late := tb.everywhere(live("late"))
		for _, c := range late {
			c.subscribe(1, "will")
		}
		wantOwn(t, what+", retained", late, "will")
	}
}

// A delayed message comes in the tenant of its client, after a crash too, and is called back by nobody of another tenant.
func TestTenantsDelayed(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	p, a, k := tb.everywhere(live("p")), tb.everywhere(live("a")), tb.everywhere(kept("k"))
	for i, tenant := range threeTenants {
		a[i].subscribe(1, "#")
		k[i].subscribe(1, "#")
		for qos := range QoS(3) {
			if err := p[i].delay("d", fmt.Sprint("first", qos, " of ", tenant), qos, time.Minute, 7); err != nil {
				t.Fatal(err)
			}
			if err := p[i].delay("d", fmt.Sprint("second", qos, " of ", tenant), qos, time.Hour, 8); err != nil {
				t.Fatal(err)
			}
		}
	}
	tb.pass(time.Minute)
	wantOwn(t, "live", a, "first0", "first1", "first2")
	tb = tb.crash(2)
	a, k = tb.everywhere(live("a")), tb.everywhere(kept("k"))
	for _, c := range k {
		c.got = nil
	}
	p = tb.everywhere(live("p"))
	for _, c := range a {
		c.subscribe(1, "#")
	}
	p[1].cancelDelayed("d")
	tb.pass(time.Hour)
	check(t, "called back", len(a[1].got)+len(k[1].got), 0)
	for i, tenant := range threeTenants {
		if i != 1 {
			check(t, fmt.Sprint("tenant ", tenant, " after a crash"), len(a[i].got), 3)
			for _, m := range a[i].got {
				if m.payload[len("secondN"):] != fmt.Sprint(" of ", tenant) {
					t.Errorf("tenant %d got %q", tenant, m.payload)
				}
			}
		}
	}
}

// A delayed message that goes to nobody who keeps it waits behind others of its shard, while the next one, of another tenant, is on its way.
func TestTenantsDelayedTransient(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, a, k := tb.everywhere(live("p")), tb.everywhere(live("a")), tb.connect(0, kept("k"))
	k.subscribe(1, "t/keep")
	topic := ""
	for i := 0; topic == ""; i++ { // in the shard of another topic of the default tenant
		if name := fmt.Sprint("t/", i); tb.b.shardOf(1, []byte(name)) == tb.b.shardOf(0, []byte("t/keep")) && tb.b.shardOf(300, []byte(name)) == tb.b.shardOf(0, []byte("t/keep")) {
			topic = name
		}
		if i > 100_000 {
			t.Fatal("no such topic")
		}
	}
	for _, c := range a {
		c.subscribe(1, "#")
	}
	for _, d := range []struct {
		c              *testClient
		topic, payload string
	}{{p[0], "t/keep", "keep of 0"}, {p[1], topic, "one of 1"}, {p[2], topic, "one of 300"}} {
		if err := d.c.delay(d.topic, d.payload, 1, time.Minute, 7); err != nil {
			t.Fatal(err)
		}
	}
	tb.clock.Advance(time.Minute)
	tb.b.Local(0).Tick()
	if _, err := a[1].l.Subscribe(a[1].c, []SubscribeRequest{{Filter: []byte("z")}}, make([]error, 1), 1); err != nil { // routes are looked up anew
		t.Fatal(err)
	}
	tb.pump()
	for i, want := range []string{"keep of 0", "one of 1", "one of 300"} {
		check(t, want, a[i].payloads(), []string{want})
	}
}

// A filter that a client has exclusively is free in another tenant.
func TestTenantsExclusive(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	a, b := tb.everywhere(kept("a")), tb.everywhere(live("b"))
	for i := range threeTenants {
		wantExclusive(t, "the tenant's first", a[i], "t/+", true)
	}
	for i := range threeTenants {
		wantExclusive(t, "the tenant's second", b[i], "t/+", false)
	}
	a[1].unsubscribe("t/+")
	wantExclusive(t, "still another's", b[0], "t/+", false)
	wantExclusive(t, "free", b[1], "t/+", true)
}

// Bindings are the default tenant's: what others publish to a bound topic goes to no stream, what comes from the stream goes to none of them, and they
// replay nothing of it.
func TestTenantsBindings(t *testing.T) {
	bb := newBoundBench(t, "k/#")
	p, a := bb.everywhere(live("p")), bb.everywhere(live("a"))
	for i, tenant := range threeTenants {
		a[i].subscribe(1, "k/#")
		for qos := range QoS(3) {
			p[i].publish("k/1", fmt.Sprint(qos, " of ", tenant), qos, 5+Token(qos))
		}
		p[i].retain(1, "k/2", fmt.Sprint("kept of ", tenant))
	}
	bb.pump()
	wantOwn(t, "published", a, "0", "1", "2", "kept")
	bb.produce(bb.partition(0), records(record.BatchOptions{}, record.Input{Key: []byte("k/9"), Value: []byte("9 of 0")}), AppendOptions{})
	bb.pump()
	check(t, "the default tenant's from the stream", a[0].payloads()[len(a[0].got)-1], "9 of 0")
	check(t, "others' from the stream", len(a[1].got)+len(a[2].got), 8)
	n := int64(0)
	for _, part := range bb.b.Topic(0, "t").Partitions() {
		n += int64(part.HighWatermark())
	}
	check(t, "records in the stream", n, int64(5))
	for i, how := range []ConnectRequest{live("l"), kept("k")} {
		c := bb.connect(0, of(1, how))
		for _, from := range []ReplayKind{ReplayEarliest, ReplayLatest, ReplayOffset, ReplayTime} {
			errs := make([]error, 1)
			_, err := c.l.Subscribe(c.c, []SubscribeRequest{{Filter: []byte("k/#"), QoS: 1, From: ReplayFrom{Kind: from}}}, errs, Token(i))
			bb.pump()
			if !errors.Is(errs[0], ErrNoStream) && !errors.Is(err, ErrNoStream) {
				t.Errorf("a replay of another tenant's stream: %v, %v", errs, err)
			}
		}
		check(t, "replayed", len(c.got), 0)
	}
}

// Who traces a client, a topic or a message of its tenant sees nothing of another's of that name.
func TestTenantsTraces(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	p, k := tb.everywhere(live("p")), tb.everywhere(kept("k"))
	for _, c := range k {
		c.subscribe(1, "t")
		c.room = 0 // it stays in the log, of which the core tells
	}
	for _, tenant := range threeTenants {
		s, err := tb.b.Tracer().Open(trace.Probe{Tenant: tenant, Client: "k"})
		if err != nil {
			t.Fatal(err)
		}
		tb.pump()
		for i := range threeTenants {
			p[i].publish("t", fmt.Sprint("x of ", threeTenants[i]), 1, 9)
		}
		tb.pump()
		list, _ := s.Read()
		s.Close()
		tb.pump()
		marks := make(map[trace.Mark]bool)
		for _, e := range list {
			marks[e.Mark] = true
		}
		check(t, fmt.Sprint("messages traced for tenant ", tenant), len(marks), 1)
	}
}

// Events are told of the default tenant's sessions.
func TestTenantsEvents(t *testing.T) {
	tb := &testBroker{t: t}
	q := events.New()
	q.Want(events.ParseSet([]string{"session"}))
	tb.b = New(Options{Shards: modelShards, Events: q})
	t.Cleanup(tb.b.Close)
	for _, tenant := range threeTenants {
		tb.b.sessionGone(&Session{tenant: tenant, id: fmt.Sprint("x", tenant)}, events.SessionEnded, "why")
	}
	list := q.Take(nil)
	if len(list) != 1 || list[0].ClientID != "x0" {
		t.Errorf("%+v", list)
	}
}

// A tenant has as many topics as it may, also if they are asked for at once, and after a restart; one that is deleted makes room.
func TestTenantTopics(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	limited := func(b *Broker) *TenantUse {
		one := LimitedTenant{Number: 1, Name: "one"}
		one.Limits[TenantTopics] = 3
		b.Tenants().Set([]LimitedTenant{one, {Number: 300, Name: "two"}})
		return b.Tenants().Use(1)
	}
	use := limited(tb.b)
	ask := func(tb *testBroker, tenant uint32, names ...string) (made int) {
		t.Helper()
		left := len(names)
		for _, name := range names {
			tb.b.CreateTopic(tenant, name, TopicID{byte(tenant), byte(len(name)), name[0]}, 2, nil, func(_ *TopicSpec, err error) {
				left--
				if err == nil {
					made++
				} else if !errors.Is(err, ErrTenantTopics) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		tb.pump()
		if left != 0 {
			t.Errorf("%d of %v are not answered", left, names)
		}
		return made
	}
	check(t, "at once", ask(tb, 1, "a", "b", "c", "d", "e"), 3)
	check(t, "more", ask(tb, 1, "f"), 0)
	check(t, "the broker's own", ask(tb, 1, OffsetsTopic), 1)
	check(t, "counted", use.Counts().Topics, int64(3))
	check(t, "another tenant's", ask(tb, 300, "a", "b", "c", "d"), 4)
	check(t, "the default one's", ask(tb, 0, "a", "b", "c", "d"), 4)
	check(t, "refused", use.Counts().Refused[TenantTopics], uint64(3))
	tb.b.DeleteTopic(tb.b.Topic(1, "b"), func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	tb.pump()
	check(t, "after one is gone", ask(tb, 1, "f", "g"), 1)
	tb = tb.crash(2)
	use = limited(tb.b)
	check(t, "counted after a crash", use.Counts().Topics, int64(3))
	check(t, "after a crash", ask(tb, 1, "h"), 0)
	check(t, "of another tenant after a crash", tb.b.Tenants().Use(300).Counts().Topics, int64(4))
}

// Tenants that are gone leave no row behind once nothing of them is left; what is there of one that the catalog does not know yet is counted.
func TestTenantRows(t *testing.T) {
	var l TenantLimits
	l.Use(1).sessions.Add(1)
	if l.Any() || len(l.List()) != 0 || l.Use(0) != nil {
		t.Error("a tenant is there that nobody has named")
	}
	l.Set([]LimitedTenant{{Number: 1, Name: "b"}, {Number: 2, Name: "a"}})
	list := l.List()
	if !l.Any() || len(list) != 2 || list[0].Name() != "a" || list[1] != l.Use(1) || list[1].Counts().Sessions != 1 {
		t.Errorf("%v", list)
	}
	two := l.Use(2)
	l.Set(nil)
	if l.Any() || len(l.List()) != 0 || l.Use(2) == two || l.Use(1).Counts().Sessions != 1 {
		t.Error("the wrong rows are left")
	}
	var none *TenantUse
	if _, ok := none.Enter(1, nil); !ok || none.In(1, 1, 1) != 0 || none.Out(1, 1, 1) != 0 {
		t.Error("the default tenant is bounded")
	}
	none.Leave()
}

// A follower has what is retained in the tenant whose it is.
func TestTenantsFollow(t *testing.T) {
	tr := newTrio(t)
	topic := ""
	for i := 0; topic == ""; i++ {
		if name := fmt.Sprint("t/", i); tr.leader.b.ShardOf(300, name) == int(trioShard) && tr.leader.b.ShardOf(0, name) == int(trioShard) {
			topic = name
		}
	}
	l := tr.leader.b.Local(0)
	for _, tenant := range []uint32{0, 300} {
		m := Message{Topic: []byte(topic), Payload: make([]byte, tenant+1), QoS: 1, Retain: true, Timestamp: tr.leader.clock.Now().UnixMilli()}
		if _, err := l.publish(nil, tenant, &m, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	tr.leader.pump()
	tr.carry(1)
	for _, tenant := range threeTenants {
		info, ok := tr.follower.b.RetainedOf(tenant, topic)
		if want := map[uint32]int{0: 1, 300: 301}[tenant]; ok != (want > 0) || info.Bytes != want {
			t.Errorf("the follower has %d bytes retained of tenant %d, want %d", info.Bytes, tenant, want)
		}
	}
}
