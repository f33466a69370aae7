package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Conformance: MQTT-3.8.4-1 (3.1.1, 5.0), MQTT-3.8.4-2 (3.1.1, 5.0), MQTT-3.8.4-4 (3.1.1), MQTT-3.8.4-5 (3.1.1, 5.0)
// Conformance: MQTT-3.8.4-6 (5.0), MQTT-3.8.4-7 (5.0), MQTT-3.9.3-1 (3.1.1, 5.0), MQTT-2.3.1-7 (3.1.1), MQTT-2.2.1-6 (5.0)
func TestSuback(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			c := w.connect("c", o)
			s := wire.SubscribeOut{PacketID: 4711, Filters: []wire.FilterRequest{
				{Filter: []byte(w.name("0"))}, {Filter: []byte("bad/#/filter"), QoS: 1}, {Filter: []byte(w.name("2")), QoS: 2},
				{Filter: []byte("$share/+/x")}, {Filter: []byte(w.name("1/#")), QoS: 1}, {Filter: []byte("a+"), QoS: 1},
			}}
			c.send(wire.AppendSubscribe(nil, w.version, &s))
			a, err := c.next(wire.SUBACK).Suback()
			bad := wire.TopicFilterInvalid
			if w.version != wire.V5 {
				bad = wire.UnspecifiedError
			}
			want := []wire.ReasonCode{wire.Success, bad, wire.GrantedQoS2, bad, wire.GrantedQoS1, bad}
			if err != nil || a.PacketID != 4711 || !slices.Equal(a.Codes, want) {
				w.Fatalf("%+v %v, want %v", a, err, want)
			}
			pub := w.connect("pub")
			for i, topic := range []string{"0", "1/x", "2"} {
				pub.pub(topic, topic, 2)
				if m := c.recv(); string(m.Payload) != topic || int(m.QoS) != i {
					w.Errorf("%s at QoS %d, want %d", m.Payload, m.QoS, i)
				}
			}
			c.bye()
			c = w.connect("c")
			c.bye()
		}
	})
}

// A message comes at the lower of its own and the granted QoS.
//
// Conformance: MQTT-3.8.4-6 (3.1.1), MQTT-3.8.4-8 (5.0)
func TestDeliveredQoS(t *testing.T) {
	each(t, both, func(w *world) {
		pub := w.connect("pub")
		for granted := byte(0); granted <= 2; granted++ {
			for i, o := range []with{func(*wire.Connect) {}, kept} {
				c := w.connect(fmt.Sprintf("c%d%d", granted, i), o)
				c.sub(granted, "a")
				for qos := byte(0); qos <= 2; qos++ {
					pub.pub("a", "x", qos)
					if m := c.recv(); m.QoS != min(qos, granted) {
						w.Errorf("published at %d, granted %d, came at %d", qos, granted, m.QoS)
					}
				}
				c.bye()
			}
		}
	})
}

// The same filter again replaces the subscription: new QoS, retained messages once more, no copy and no gap.
//
// Conformance: MQTT-3.8.4-3 (3.1.1, 5.0)
func TestResubscribe(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub, c := w.connect("pub"), w.connect("c", o)
			pub.pub("a", "kept", 1, retain)
			c.sub(1, "a")
			c.expect("kept")
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range 50 {
					pub.pub("a", fmt.Sprint(i), 1)
				}
			}()
			for _, qos := range []byte{2, 0, 1} {
				c.sub(qos, "a")
			}
			<-done
			retained, next := 0, 0 // one that has not left when the filter is replaced comes for both
			for next < 50 || retained == 0 {
				switch m := c.recv(); {
				case m.Retain:
					retained++
				case string(m.Payload) != fmt.Sprint(next):
					w.Fatalf("message %d is %s", next, m.Payload)
				default:
					next++
				}
			}
			pub.pub("a", "end", 1)
			for m := c.recv(); string(m.Payload) != "end"; m = c.recv() {
				if retained++; !m.Retain || retained > 3 {
					w.Fatalf("%s came once more", m.Payload)
				}
			}
			c.bye()
			c = w.connect("c")
			c.bye()
		}
	})
}

// Conformance: MQTT-3.8.3-3 (5.0)
func TestNoLocal(t *testing.T) {
	each(t, only5, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			c := w.connect("c", o)
			c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(w.name("a")), QoS: 1, NoLocal: true}}})
			c.sub(1, "b")
			for _, topic := range []string{"a", "b"} {
				c.pub(topic, topic, 1)
				c.pub(topic, topic, 0)
			}
			c.expect("b", "b")
			c.quiet("a")
			c.bye()
		}
	})
}

// Conformance: MQTT-3.10.4-1 (3.1.1, 5.0), MQTT-3.10.4-2 (3.1.1, 5.0), MQTT-3.10.4-4 (3.1.1, 5.0), MQTT-3.10.4-5 (3.1.1, 5.0)
// Conformance: MQTT-3.10.4-6 (3.1.1, 5.0), MQTT-3.11.3-1 (5.0)
func TestUnsubscribe(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub, c := w.connect("pub"), w.connect("c", o)
			c.sub(1, "a/b", "a/+", "x", "y")
			send := func(id uint16, filters ...string) []wire.ReasonCode {
				w.Helper()
				out := wire.UnsubscribeOut{PacketID: id}
				for _, f := range filters {
					out.Filters = append(out.Filters, []byte(w.name(f)))
				}
				c.send(wire.AppendUnsubscribe(nil, w.version, &out))
				a, err := c.next(wire.UNSUBACK).Suback()
				if err != nil || a.PacketID != id {
					w.Fatalf("%+v %v", a, err)
				}
				return a.Codes
			}
			codes := send(99, "a/+", "A/b", "nothing", "x")
			if want := []wire.ReasonCode{0, 0x11, 0x11, 0}; w.version == wire.V5 && !slices.Equal(codes, want) {
				w.Errorf("%v, want %v", codes, want)
			}
			pub.pub("x", "gone", 1)
			pub.pub("a/c", "gone", 1)
			pub.pub("a/b", "stays", 1)
			c.expect("stays")
			c.quiet("y")
			send(100, "nothing")
			c.bye()
			c = w.connect("c")
			c.bye()
		}
	})
}

// Conformance: MQTT-3.10.4-3 (3.1.1, 5.0)
func TestDeliveriesEndAfterUnsubscribe(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub, c := w.connect("pub"), w.connect("c", o)
			c.sub(2, "a")
			pub.pub("a", "x", 2)
			id := c.message().PacketID
			if _, err := c.Unsubscribe(w.name("a")); err != nil {
				w.Fatal(err)
			}
			c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
			c.ackOf(wire.PUBREL, id)
			c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
			if err := c.Ping(); err != nil {
				w.Fatal(err)
			}
			c.bye()
		}
	})
}

// share subscribes as a member of a group.
func (c *client) share(group, filter string, qos byte) {
	c.w.Helper()
	codes := c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("$share/" + group + "/" + c.w.name(filter)), QoS: qos}}})
	if codes[0].Failed() {
		c.w.Fatalf("SUBACK %v", codes)
	}
}

// Conformance: MQTT-4.8.2-3 (5.0)
func TestSharedSubscription(t *testing.T) {
	each(t, both, func(w *world) {
		pub, low, high, alone := w.connect("pub"), w.connect("low"), w.connect("high"), w.connect("alone")
		low.share("g", "a", 0)
		high.share("g", "a", 1)
		alone.share("other", "a", 2)
		const n = 20
		for i := range n {
			pub.pub("a", fmt.Sprint(i), 1)
			alone.expect(fmt.Sprint(i))
		}
		got := 0
		for _, c := range []*client{low, high} {
			pub.connectMarker(c)
			for {
				m := c.recv()
				if string(m.Payload) == "marker" {
					break
				}
				if want := map[*client]byte{low: 0, high: 1}[c]; m.QoS != want {
					w.Errorf("QoS %d, want %d", m.QoS, want)
				}
				got++
			}
		}
		if got != n {
			w.Errorf("the group got %d of %d", got, n)
		}
	})
}

// connectMarker sends c one last message by a subscription of its own.
func (c *client) connectMarker(to *client) {
	c.w.Helper()
	topic := fmt.Sprint("marker", corner.Add(1))
	to.sub(1, topic)
	c.pub(topic, "marker", 1)
}

// A QoS 2 message of a share goes to no second member, whether the first refuses it or ends.
//
// Conformance: MQTT-4.8.2-5 (5.0), MQTT-4.8.2-6 (5.0)
func TestSharedQoS2StaysWithItsMember(t *testing.T) {
	each(t, only5, func(w *world) {
		pub, second := w.connect("pub"), w.connect("second")
		second.share("g", "a", 2)
		pub.pub("a", "refused", 2)
		m := second.message()
		third := w.connect("third")
		third.share("g", "a", 2)
		third.sub(1, "x")
		second.send(wire.AppendAck(nil, wire.V5, wire.PUBREC, &wire.Ack{PacketID: m.PacketID, Reason: wire.UnspecifiedError}))
		if err := second.Ping(); err != nil {
			w.Fatal(err)
		}
		third.quiet("x")
		if _, err := third.Unsubscribe("$share/g/" + w.name("a")); err != nil {
			w.Fatal(err)
		}
		pub.pub("a", "ended with its session", 2)
		second.message()
		third.share("g", "a", 2)
		_ = second.Close()
		third.quiet("x")
	})
}

// A QoS 2 message of a share that was sent to a kept member is finished with it when it comes back: the PUBLISH as it was, or the PUBREL.
// Nobody else gets it meanwhile, and nothing comes when it is done.
//
// Conformance: MQTT-4.8.2-4 (5.0)
func TestSharedQoS2IsResumed(t *testing.T) {
	each(t, both, func(w *world) {
		pub, c := w.connect("pub"), w.connect("c", kept)
		c.share("g", "a", 2)
		c.sub(1, "x")
		pub.pub("a", "begun", 2)
		begun := c.message()
		pub.pub("a", "received", 2)
		received := c.message()
		c.send(wire.AppendShortAck(nil, wire.PUBREC, received.PacketID))
		c.ackOf(wire.PUBREL, received.PacketID)
		other := w.connect("other")
		other.share("g", "a", 2)
		other.sub(1, "y")
		c.send([]byte{byte(wire.DISCONNECT) << 4, 0})
		c.ended() // what comes before the server has seen that it goes would wait for it
		pub.pub("a", "for the other", 2)
		other.expect("for the other")
		other.quiet("y")

		c = w.connect("c", kept)
		c.ackOf(wire.PUBREL, received.PacketID)
		m := c.message()
		if !m.Dup || m.QoS != 2 || m.PacketID != begun.PacketID || string(m.Payload) != "begun" {
			w.Fatalf("%+v, want identifier %d", m, begun.PacketID)
		}
		for _, id := range []uint16{received.PacketID, begun.PacketID} {
			if id == begun.PacketID {
				c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
				c.ackOf(wire.PUBREL, id)
			}
			c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
		}
		if err := c.Ping(); err != nil {
			w.Fatal(err)
		}
		_ = c.Close()
		c = w.connect("c", kept)
		c.quiet("x")
		other.quiet("y")
	})
}
