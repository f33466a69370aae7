package e2e

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A kept session keeps its subscriptions and collects what its client misses; a clean one begins anew.
//
// Conformance: MQTT-3.1.2-4 (3.1.1, 5.0), MQTT-3.1.2-5 (3.1.1, 5.0), MQTT-3.1.2-6 (3.1.1, 5.0), MQTT-3.1.3-2 (3.1.1, 5.0)
// Conformance: MQTT-3.1.4-3 (3.1.1), MQTT-3.1.4-4 (5.0), MQTT-3.2.2-1 (3.1.1), MQTT-3.2.2-2 (3.1.1, 5.0), MQTT-3.2.2-3 (3.1.1, 5.0)
// Conformance: MQTT-3.1.2-23 (5.0), MQTT-4.1.0-1 (3.1.1, 5.0), MQTT-4.1.0-2 (3.1.1), MQTT-4.5.0-1 (3.1.1, 5.0)
func TestKeptSession(t *testing.T) {
	each(t, both, func(w *world) {
		pub := w.connect("pub")
		c := w.connect("c", kept)
		if c.ack.SessionPresent {
			w.Fatal("a session was there before")
		}
		c.sub(2, "q/#")
		live := w.connect("live")
		live.sub(1, "q/#")
		pub.pub("q/1", "connected", 1)
		c.expect("connected")
		c.bye()
		pub.pub("q/1", "one", 1)
		pub.pub("q/1", "two", 1)
		live.expect("connected", "one", "two")

		c = w.connect("c", kept)
		if !c.ack.SessionPresent {
			w.Fatal("the session is gone")
		}
		c.expect("one", "two")
		pub.pub("q/3", "three", 1)
		c.expect("three")
		c.bye()
		pub.pub("q/4", "never seen", 1)

		c = w.connect("c")
		if c.ack.SessionPresent {
			w.Fatal("a clean session has a past")
		}
		c.sub(0, "other")
		c.quiet("other")
		c.bye()
		if c = w.connect("c", kept); c.ack.SessionPresent {
			w.Fatal("a session outlived its clean start")
		}
		other := w.connect("otherid", kept)
		if other.ack.SessionPresent {
			w.Fatal("sessions are told apart by the client identifier")
		}
	})
}

// Conformance: MQTT-4.1.0-2 (5.0)
func TestSessionExpires(t *testing.T) {
	each(t, only5, func(w *world) {
		short := func(k *wire.Connect) { k.CleanStart, k.SessionExpiry = false, 1 }
		c := w.connect("c", short)
		c.sub(1, "a")
		c.bye()
		gone := time.NewTimer(1300 * time.Millisecond)
		defer gone.Stop()
		<-gone.C
		testx.Eventually(w, patience, func() bool {
			c := w.connect("c", func(k *wire.Connect) { k.CleanStart = false })
			present := c.ack.SessionPresent
			c.bye()
			return !present
		})

		// DISCONNECT may end the session at once.
		c = w.connect("d", kept)
		if err := c.DisconnectWith(&wire.Disconnect{HasSessionExpiry: true}); err != nil {
			w.Fatal(err)
		}
		if c = w.connect("d", kept); c.ack.SessionPresent {
			w.Error("the session outlived its end")
		}
	})
}

// Retained messages are no part of a session.
//
// Conformance: MQTT-3.1.2-7 (3.1.1)
func TestRetainedOutlivesSession(t *testing.T) {
	each(t, both, func(w *world) {
		c := w.connect("c")
		c.pub("r", "kept", 1, retain)
		c.bye()
		c = w.connect("c")
		c.sub(1, "r")
		if m := c.expect("kept")[0]; !m.Retain {
			w.Error("retain is not set")
		}
	})
}

// What was not acknowledged is sent again after reconnecting, in its order, as it was, and only then.
//
// Conformance: MQTT-4.4.0-1 (3.1.1, 5.0), MQTT-3.3.1-1 (3.1.1, 5.0), MQTT-4.6.0-1 (3.1.1, 5.0), MQTT-4.3.2-3 (5.0)
// Conformance: MQTT-4.3.3-3 (5.0)
func TestResendAfterReconnect(t *testing.T) {
	each(t, both, func(w *world) {
		pub := w.connect("pub")
		c := w.connect("c", kept)
		c.sub(2, "a")
		var ids []uint16
		for i, qos := range []byte{1, 2, 1} {
			pub.pub("a", string(rune('a'+i)), qos)
			m := c.message()
			if m.Dup || m.QoS != qos || m.PacketID == 0 {
				w.Fatalf("%+v", m)
			}
			ids = append(ids, m.PacketID)
		}
		if err := c.Ping(); err != nil { // nothing is sent again while connected
			w.Fatal(err)
		}
		_ = c.Close()
		c = w.connect("c", kept)
		for i, qos := range []byte{1, 2, 1} {
			m := c.message()
			if !m.Dup || m.QoS != qos || m.PacketID != ids[i] || string(m.Payload) != string(rune('a'+i)) {
				w.Fatalf("message %d: %+v, want identifier %d", i, m, ids[i])
			}
		}
		for i, qos := range []byte{1, 2, 1} {
			if qos == 1 {
				c.send(wire.AppendShortAck(nil, wire.PUBACK, ids[i]))
				continue
			}
			c.send(wire.AppendShortAck(nil, wire.PUBREC, ids[i]))
			c.ackOf(wire.PUBREL, ids[i])
			c.send(wire.AppendShortAck(nil, wire.PUBCOMP, ids[i]))
		}
		if err := c.Ping(); err != nil {
			w.Fatal(err)
		}
		c.bye()
		c = w.connect("c", kept)
		c.quiet("a")
	})
}

// What a subscription brought of retained messages is sent again as it was, whatever their topics hold by then; what replaced it comes
// behind it.
//
// Conformance: MQTT-4.4.0-1 (3.1.1, 5.0)
func TestRetainedIsSentAgain(t *testing.T) {
	each(t, both, func(w *world) {
		pub := w.connect("pub")
		topics := []string{"r/1", "r/2", "r/3"}
		for i, topic := range topics {
			pub.pub(topic, topic, byte(1+i%2), retain)
		}
		c := w.connect("c", kept)
		c.sub(2, "r/+")
		first := map[string]wire.Publish{}
		for range topics {
			m := c.message()
			if m.Dup || !m.Retain || m.QoS == 0 {
				w.Fatalf("%+v", m)
			}
			m.Payload, m.Topic = append([]byte(nil), m.Payload...), nil
			first[string(m.Payload)] = m
		}
		_ = c.Close()
		pub.pub("r/1", "new", 1, retain)
		pub.pub("r/2", "", 1, retain)

		c = w.connect("c", kept)
		for range topics {
			m := c.message()
			was, sent := first[string(m.Payload)]
			if !sent || !m.Dup || !m.Retain || m.PacketID != was.PacketID || m.QoS != was.QoS {
				w.Fatalf("%+v, and it was %+v", m, was)
			}
			if m.QoS == 1 {
				c.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
			}
		}
		for range 2 {
			if m := c.recv(); m.Retain || string(m.Payload) != "new" && string(m.Payload) != "" {
				w.Fatalf("%+v", m)
			}
		}
		id := first["r/2"].PacketID
		c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
		c.ackOf(wire.PUBREL, id)
		c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
		c.bye()
		c = w.connect("c", kept)
		c.quiet("r/4")
	})
}

// After PUBREC it is the PUBREL that is sent again, never the PUBLISH.
//
// Conformance: MQTT-4.3.3-5 (5.0), MQTT-4.3.3-6 (5.0)
func TestResendPubrel(t *testing.T) {
	each(t, both, func(w *world) {
		pub := w.connect("pub")
		c := w.connect("c", kept)
		c.sub(2, "a")
		pub.pub("a", "x", 2)
		id := c.message().PacketID
		c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
		c.ackOf(wire.PUBREL, id)
		_ = c.Close()
		c = w.connect("c", kept)
		c.ackOf(wire.PUBREL, id)
		c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
		if err := c.Ping(); err != nil {
			w.Fatal(err)
		}
		_ = c.Close()
		c = w.connect("c", kept)
		c.quiet("a")
	})
}

// A QoS 2 message of a client is taken once, whatever it sends again before and after it has come back.
func TestReceivedQoS2OutlivesConnection(t *testing.T) {
	each(t, both, func(w *world) {
		sub := w.connect("sub")
		sub.sub(2, "a")
		c := w.connect("c", kept)
		p := wire.PublishOut{Topic: []byte(w.name("a")), Payload: []byte("once"), QoS: 2, PacketID: 77}
		c.send(wire.AppendPublish(nil, w.version, &p))
		c.ackOf(wire.PUBREC, 77)
		_ = c.Close()
		c = w.connect("c", kept)
		p.Dup = true
		c.send(wire.AppendPublish(nil, w.version, &p))
		c.ackOf(wire.PUBREC, 77)
		c.send(wire.AppendShortAck(nil, wire.PUBREL, 77))
		c.ackOf(wire.PUBCOMP, 77)
		sub.expect("once")
		sub.quiet("a")
	})
}

// Conformance: MQTT-4.4.0-2 (5.0), MQTT-4.3.3-9 (5.0)
func TestRefusedDeliveryIsNotSentAgain(t *testing.T) {
	each(t, only5, func(w *world) {
		pub := w.connect("pub")
		c := w.connect("c", kept)
		c.sub(2, "a")
		for _, qos := range []byte{1, 2} {
			pub.pub("a", "unwanted", qos)
			m := c.message()
			typ := wire.PUBACK
			if qos == 2 {
				typ = wire.PUBREC
			}
			c.send(wire.AppendAck(nil, wire.V5, typ, &wire.Ack{PacketID: m.PacketID, Reason: wire.ImplementationSpecific}))
		}
		if err := c.Ping(); err != nil { // no PUBREL comes
			w.Fatal(err)
		}
		if p, err := c.ReadPacket(10 * time.Millisecond); err == nil {
			w.Fatalf("%v behind a refusal", p.Type)
		}
		_ = c.Close()
		c = w.connect("c", kept)
		c.quiet("a")
	})
}
