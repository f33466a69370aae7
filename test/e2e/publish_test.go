package e2e

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Conformance: MQTT-3.3.1-5 (3.1.1, 5.0), MQTT-3.3.1-6 (3.1.1, 5.0), MQTT-3.3.1-7 (3.1.1, 5.0), MQTT-3.3.1-8 (3.1.1, 5.0)
// Conformance: MQTT-3.3.1-9 (3.1.1), MQTT-3.3.1-10 (3.1.1), MQTT-3.3.1-11 (3.1.1), MQTT-3.3.1-12 (3.1.1, 5.0)
func TestRetained(t *testing.T) {
	each(t, both, func(w *world) {
		pub, watch := w.connect("pub"), w.connect("watch")
		watch.sub(2, "r/1")
		pub.pub("r/1", "first", 1, retain)
		pub.pub("r/1", "second", 1, retain)
		pub.pub("r/2", "other", 2, retain)
		pub.pub("r/1", "not kept", 1)
		for _, m := range watch.expect("first", "second", "not kept") {
			if m.Retain {
				w.Fatalf("%s came with retain to an established subscription", m.Payload)
			}
		}
		late := w.connect("late")
		late.sub(2, "r/+")
		got := map[string]byte{}
		for range 2 {
			m := late.recv()
			if !m.Retain {
				w.Fatalf("%s came without retain to a new subscription", m.Payload)
			}
			got[string(m.Payload)] = m.QoS
		}
		if len(got) != 2 || got["second"] != 1 || got["other"] != 2 {
			w.Fatalf("%v", got)
		}
		late.quiet("r/9")

		pub.pub("r/1", "at QoS 0", 0, retain)
		gone := w.connect("gone")
		gone.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(w.name("r/2")), QoS: 1, RetainHandling: 2}}})
		pub.pub("r/2", "", 1, retain)
		watch.expect("at QoS 0")
		if err := pub.Ping(); err != nil {
			w.Fatal(err)
		}
		if w.version != wire.V5 {
			gone.expect("other") // retain handling is MQTT 5's
		}
		gone.expect("") // the empty message is delivered like any other
		again := w.connect("again")
		again.sub(1, "r/2", "r/1")
		again.expect("at QoS 0")
		again.quiet("r/1")
	})
}

// Conformance: MQTT-3.3.1-9 (5.0), MQTT-3.3.1-10 (5.0), MQTT-3.3.1-11 (5.0), MQTT-3.8.4-4 (5.0)
func TestRetainHandling(t *testing.T) {
	each(t, only5, func(w *world) {
		pub := w.connect("pub")
		pub.pub("r", "kept", 1, retain)
		for handling, want := range [][]int{{1, 1}, {1, 0}, {0, 0}} {
			c := w.connect(fmt.Sprint("c", handling))
			for _, n := range want {
				c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(w.name("r")), QoS: 1, RetainHandling: byte(handling)}}})
				for range n {
					c.expect("kept")
				}
			}
			c.quiet("r")
		}
	})
}

// Conformance: MQTT-3.3.1-12 (5.0), MQTT-3.3.1-13 (5.0)
func TestRetainAsPublished(t *testing.T) {
	each(t, only5, func(w *world) {
		pub := w.connect("pub")
		for _, asPublished := range []bool{false, true} {
			c := w.connect(fmt.Sprint("c", asPublished))
			c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(w.name("r")), QoS: 1, RetainAsPublished: asPublished, RetainHandling: 2}}})
			pub.pub("r", "with", 1, retain)
			pub.pub("r", "without", 1)
			got := c.expect("with", "without")
			if got[0].Retain != asPublished || got[1].Retain {
				w.Errorf("as published %v: %v %v", asPublished, got[0].Retain, got[1].Retain)
			}
		}
	})
}

// What a publisher says about its message reaches the subscriber as it was.
//
// Conformance: MQTT-3.3.2-4 (5.0), MQTT-3.3.2-15 (5.0), MQTT-3.3.2-16 (5.0), MQTT-3.3.2-17 (5.0), MQTT-3.3.2-18 (5.0)
// Conformance: MQTT-3.3.2-20 (5.0)
func TestPropertiesAreHandedOn(t *testing.T) {
	each(t, only5, func(w *world) {
		var block []byte
		for _, p := range []wire.Property{
			{ID: wire.PropUser, Data: []byte("z"), Value: []byte("1")},
			{ID: wire.PropPayloadFormat, Int: 1},
			{ID: wire.PropContentType, Data: []byte("text/plain")},
			{ID: wire.PropUser, Data: []byte("a"), Value: []byte("2")},
			{ID: wire.PropResponseTopic, Data: []byte("reply/to")},
			{ID: wire.PropCorrelationData, Data: []byte{0, 1, 2}},
			{ID: wire.PropUser, Data: []byte("z"), Value: []byte("3")},
		} {
			block = wire.AppendProperty(block, p)
		}
		pub, c, old := w.connect("pub"), w.connect("c"), w.connect("kept", kept)
		c.sub(2, "a")
		old.sub(1, "a")
		for qos := byte(0); qos <= 2; qos++ {
			pub.pub("a", "payload", qos, func(p *wire.PublishOut) { p.Forward = block })
			for _, to := range []*client{c, old} {
				if to == old && qos == 0 {
					to.recv()
					continue
				}
				m := to.recv()
				if got, _ := m.Props.Forward(nil); !bytes.Equal(got, block) {
					w.Errorf("QoS %d: % x, want % x", qos, got, block)
				}
				if got := pairs(m.Props.User()); got != "z=1 a=2 z=3" {
					w.Errorf("user properties %s", got)
				}
			}
		}
	})
}

// Conformance: MQTT-3.3.2-5 (5.0), MQTT-3.3.2-6 (5.0)
func TestMessageExpiry(t *testing.T) {
	each(t, only5, func(w *world) {
		expires := func(sec uint32) func(p *wire.PublishOut) {
			return func(p *wire.PublishOut) { p.HasExpiry, p.Expiry = true, sec }
		}
		pub, live, away := w.connect("pub"), w.connect("live"), w.connect("away", kept)
		live.sub(1, "a")
		away.sub(1, "a")
		away.bye()
		pub.pub("a", "short", 1, expires(1))
		pub.pub("a", "long", 1, expires(100))
		pub.pub("a", "for ever", 1)
		if got := live.expect("short", "long", "for ever"); got[1].Props.Expiry != 100 || got[2].Props.HasExpiry {
			w.Errorf("%+v", got)
		}
		pass := time.NewTimer(2100 * time.Millisecond)
		defer pass.Stop()
		<-pass.C
		away = w.connect("away", kept)
		got := away.expect("long", "for ever")
		if e := got[0].Props.Expiry; e > 98 || e < 90 {
			w.Errorf("%d s are left", e)
		}
	})
}

// Conformance: MQTT-3.3.5-1 (3.1.1), MQTT-3.3.4-2 (5.0), MQTT-3.3.4-3 (5.0), MQTT-3.3.4-4 (5.0), MQTT-3.3.4-5 (5.0)
func TestOverlappingSubscriptions(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub, c := w.connect("pub"), w.connect("c", o)
			for i, f := range []wire.FilterRequest{{Filter: []byte(w.name("a/b"))}, {Filter: []byte(w.name("a/+")), QoS: 2}, {Filter: []byte(w.name("a/#")), QoS: 1}} {
				s := wire.SubscribeOut{Filters: []wire.FilterRequest{f}}
				if w.version == wire.V5 {
					s.SubscriptionID = uint32(i + 1)
				}
				c.subWith(&s)
			}
			pub.pub("a/b", "x", 2)
			m := c.recv()
			ids := map[uint32]bool{}
			for _, id := range m.Props.SubscriptionIDs(nil) {
				ids[id] = true
			}
			if m.QoS != 2 || w.version == wire.V5 && (len(ids) != 3 || !ids[1] || !ids[2] || !ids[3]) {
				w.Errorf("QoS %d, identifiers %v", m.QoS, ids)
			}
			pub.pub("a/c", "y", 1)
			if m = c.recv(); m.QoS != 1 {
				w.Errorf("QoS %d", m.QoS)
			}
			c.quiet("a/b")
			c.bye()
		}
	})
}

// Conformance: MQTT-3.1.2-26 (5.0), MQTT-3.1.2-27 (5.0), MQTT-3.3.2-7 (5.0), MQTT-3.3.2-11 (5.0), MQTT-3.3.2-12 (5.0)
func TestTopicAliases(t *testing.T) {
	each(t, only5, func(w *world) {
		plain := w.connect("plain")
		plain.sub(0, "#")
		short := w.connect("short", func(k *wire.Connect) { k.TopicAliasMaximum = 2 })
		short.sub(0, "#")
		pub := w.connect("pub")
		if pub.ack.TopicAliasMaximum != 8 {
			w.Fatalf("topic alias maximum %d", pub.ack.TopicAliasMaximum)
		}
		for i := range 8 {
			pub.pub(fmt.Sprint(i), "set", 0, func(p *wire.PublishOut) { p.TopicAlias = uint16(i + 1) })
		}
		for i := range 8 {
			pub.pub("", "used", 0, func(p *wire.PublishOut) { p.Topic, p.TopicAlias = nil, uint16(i+1) })
		}
		known := map[uint16]string{}
		for i := range 16 {
			want := w.name(fmt.Sprint(i % 8))
			if m := plain.recv(); string(m.Topic) != want || m.Props.TopicAlias != 0 {
				w.Fatalf("%s with alias %d, want %s without", m.Topic, m.Props.TopicAlias, want)
			}
			m := short.recv()
			if m.Props.TopicAlias > 2 {
				w.Fatalf("alias %d", m.Props.TopicAlias)
			}
			if len(m.Topic) > 0 && m.Props.TopicAlias != 0 {
				known[m.Props.TopicAlias] = string(m.Topic)
			}
			topic := string(m.Topic)
			if topic == "" {
				topic = known[m.Props.TopicAlias]
			}
			if topic != want {
				w.Fatalf("message %d is on %q, want %q", i, topic, want)
			}
		}
		pub.bye()
		pub = w.connect("pub")
		pub.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{TopicAlias: 1, Payload: []byte("stale")}))
		pub.endedBy(wire.ProtocolErrorCode)
	})
}

// Conformance: MQTT-3.1.2-24 (5.0), MQTT-3.1.2-25 (5.0)
func TestClientsMaximumPacketSize(t *testing.T) {
	each(t, only5, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub := w.connect("pub")
			c := w.connect("c", o, func(k *wire.Connect) { k.MaximumPacketSize = 150 })
			c.sub(1, "a")
			pub.pub("a", string(make([]byte, 200)), 1)
			pub.pub("a", "fits", 1)
			if m := c.recv(); string(m.Payload) != "fits" {
				w.Fatalf("%d bytes came", len(m.Payload))
			}
			c.bye()
		}
		c := w.connect("c", kept)
		c.quiet("a") // the large one does not come back to who takes it now
	})
}

// Large payloads take the way by reference.
func TestLargePayloads(t *testing.T) {
	each(t, both, func(w *world) {
		pub, a, b := w.connect("pub"), w.connect("a"), w.connect("b", kept)
		a.sub(2, "#")
		b.sub(1, "#")
		for _, n := range []int{4095, 4096, 70_000, 3 << 20} {
			payload := bytes.Repeat([]byte("sluice"), n/6+1)[:n]
			for qos := byte(0); qos <= 2; qos++ {
				pub.pub("big", string(payload), qos)
				for _, c := range []*client{a, b} {
					if m := c.recv(); !bytes.Equal(m.Payload, payload) {
						w.Fatalf("%d bytes at QoS %d: %d came", n, qos, len(m.Payload))
					}
				}
			}
		}
	})
}

type forbid struct{}

func (forbid) Authorize(_ *broker.Identity, _ broker.Action, topic []byte) bool {
	return !bytes.Contains(topic, []byte("secret"))
}
func (forbid) Generation() uint64 { return 1 }

// Conformance: MQTT-3.3.5-2 (3.1.1, 5.0)
func TestNotAuthorized(t *testing.T) {
	n := start(t, nodeOptions{authz: forbid{}, settings: func(s *mqtt.Settings) { s.ValidatePayload = true }})
	in(t, n, both, func(w *world) {
		watch := w.connect("watch")
		watch.sub(2, "#")
		if codes := watch.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("secret/#")}, {Filter: []byte(w.name("ok"))}}}); w.version == wire.V5 &&
			codes[0] != wire.NotAuthorized || w.version != wire.V5 && codes[0] != wire.UnspecifiedError || codes[1] != wire.Success {
			w.Errorf("SUBACK %v", codes)
		}
		c := w.connect("c")
		want := wire.Success
		if w.version == wire.V5 {
			want = wire.NotAuthorized
		}
		for qos, typ := range []wire.PacketType{0, wire.PUBACK, wire.PUBREC} {
			c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("secret")), QoS: byte(qos), PacketID: 5}))
			if qos > 0 {
				if a := c.ackOf(typ, 5); a.Reason != want {
					w.Errorf("QoS %d: %v", qos, a.Reason)
				}
			}
		}
		if w.version == wire.V5 {
			c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("text")), Payload: []byte{0xFF}, QoS: 1, PacketID: 6,
				Forward: wire.AppendProperty(nil, wire.Property{ID: wire.PropPayloadFormat, Int: 1})}))
			if a := c.ackOf(wire.PUBACK, 6); a.Reason != wire.PayloadFormatInvalid {
				w.Errorf("%v", a.Reason)
			}
		}
		bad, err := w.try(w.id("w"), w.will("secret", "x", 0, false, 0))
		bad.refused(err, wire.NotAuthorized)
		watch.quiet("x")
	})
}

// Conformance: MQTT-3.3.2-3 (3.1.1, 5.0), MQTT-4.7.2-1 (3.1.1, 5.0), MQTT-4.7.3-4 (3.1.1, 5.0)
func TestTopicsThatMatch(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.AllowSysPublish = true }})
	in(t, n, both, func(w *world) {
		all, exact, sys := w.connect("all"), w.connect("exact"), w.connect("sys")
		for _, f := range []string{"#", "+/" + w.prefix} {
			all.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(f), QoS: 1}}})
		}
		sys.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("$SYS/" + w.prefix), QoS: 1}}})
		exact.sub(1, "Å/+", "/", "a b")
		pub := w.connect("pub")
		for _, topic := range []string{"$SYS/" + w.prefix, "$other/" + w.prefix} {
			if _, err := pub.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("sys"), QoS: 1}); err != nil {
				w.Fatal(err)
			}
		}
		sys.expect("sys")
		pub.pub("A\u030a/x", "decomposed", 1)
		pub.pub("å/x", "lower case", 1)
		pub.pub("Å/x", "composed", 1)
		pub.pub("/", "slash", 1)
		pub.pub("a b", "space", 1)
		for i, m := range exact.expect("composed", "slash", "space") {
			if want := w.name([]string{"Å/x", "/", "a b"}[i]); string(m.Topic) != want {
				w.Errorf("topic %q, want %q", m.Topic, want)
			}
		}
		for {
			m := all.recv()
			if m.Topic[0] == '$' {
				w.Fatalf("%s matched a wildcard", m.Topic)
			}
			if string(m.Topic) == w.name("a b") {
				break
			}
		}
	})
}
