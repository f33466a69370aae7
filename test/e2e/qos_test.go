package e2e

import (
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Each QoS is answered as it asks for, by the identifier of the PUBLISH.
//
// Conformance: MQTT-3.3.4-1 (3.1.1, 5.0), MQTT-2.3.1-6 (3.1.1), MQTT-2.2.1-5 (5.0), MQTT-4.3.2-2 (3.1.1), MQTT-4.3.2-4 (5.0)
// Conformance: MQTT-4.3.2-5 (5.0), MQTT-4.3.3-8 (5.0), MQTT-4.3.3-11 (5.0), MQTT-4.3.3-12 (5.0), MQTT-3.4.0-1 (5.0), MQTT-3.5.0-1 (5.0)
// Conformance: MQTT-3.6.4-1 (5.0), MQTT-3.7.4-1 (5.0)
func TestAcknowledgements(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			sub, c := w.connect("sub"), w.connect("c", o)
			sub.sub(2, "a")
			for round := range 3 { // identifiers are free again afterwards
				for _, qos := range []byte{1, 2} {
					id := uint16(65535 - int(qos))
					c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), Payload: fmt.Append(nil, round, qos), QoS: qos, PacketID: id}))
					if qos == 1 {
						c.ackOf(wire.PUBACK, id)
					} else {
						c.ackOf(wire.PUBREC, id)
						c.send(wire.AppendShortAck(nil, wire.PUBREL, id))
						c.ackOf(wire.PUBCOMP, id)
					}
					sub.expect(fmt.Sprint(round, qos))
				}
			}
			sub.bye()
			c.bye()
		}
	})
}

// Conformance: MQTT-4.3.3-2 (3.1.1), MQTT-4.3.3-10 (5.0), MQTT-3.3.1-3 (3.1.1, 5.0)
func TestQoS2IsDeliveredOnce(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			sub, c := w.connect("sub"), w.connect("c", o)
			sub.sub(2, "a")
			p := wire.PublishOut{Topic: []byte(w.name("a")), Payload: []byte("once"), QoS: 2, PacketID: 9}
			c.send(wire.AppendPublish(nil, w.version, &p))
			c.ackOf(wire.PUBREC, 9)
			p.Dup = true
			for range 3 {
				c.send(wire.AppendPublish(nil, w.version, &p))
				c.ackOf(wire.PUBREC, 9)
			}
			c.send(wire.AppendShortAck(nil, wire.PUBREL, 9))
			c.ackOf(wire.PUBCOMP, 9)
			// DUP alone makes nothing a duplicate: the identifier is free.
			c.send(wire.AppendPublish(nil, w.version, &p))
			c.ackOf(wire.PUBREC, 9)
			for _, m := range sub.expect("once", "once") {
				if m.Dup {
					w.Error("DUP was handed on")
				}
			}
			sub.quiet("a")
			sub.bye()
			c.bye()
		}
	})
}

// The server's own way through QoS 0, 1 and 2.
//
// Conformance: MQTT-4.3.1-1 (3.1.1, 5.0), MQTT-4.3.2-1 (3.1.1, 5.0), MQTT-4.3.2-2 (5.0), MQTT-4.3.3-1 (3.1.1, 5.0)
// Conformance: MQTT-4.3.3-2 (5.0), MQTT-4.3.3-4 (5.0), MQTT-2.3.1-4 (3.1.1), MQTT-2.2.1-4 (5.0), MQTT-2.2.2-1 (3.1.1)
func TestServerAsSender(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub, c := w.connect("pub"), w.connect("c", o)
			c.sub(2, "a")
			used := map[uint16]byte{}
			for i := range 20 {
				qos := byte(i % 3)
				pub.pub("a", fmt.Sprint(i), qos)
				m := c.message()
				if m.Dup || m.QoS != qos || m.Retain || (m.PacketID == 0) != (qos == 0) || used[m.PacketID] != 0 {
					w.Fatalf("%+v, in use %v", m, used)
				}
				if qos > 0 {
					used[m.PacketID] = qos
				}
			}
			for id, qos := range used {
				if qos == 1 {
					c.send(wire.AppendShortAck(nil, wire.PUBACK, id))
					continue
				}
				c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
				c.ackOf(wire.PUBREL, id)
				c.send(wire.AppendShortAck(nil, wire.PUBREC, id)) // said twice is answered twice
				c.ackOf(wire.PUBREL, id)
				c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
			}
			if err := c.Ping(); err != nil {
				w.Fatal(err)
			}
			c.bye()
		}
	})
}

// What was sent is finished, expired or not.
//
// Conformance: MQTT-4.3.3-7 (5.0), MQTT-4.3.3-13 (5.0)
func TestQoS2FinishesAfterExpiry(t *testing.T) {
	each(t, only5, func(w *world) {
		pub, c := w.connect("pub"), w.connect("c", kept)
		c.sub(2, "a")
		pub.pub("a", "x", 2, func(p *wire.PublishOut) { p.HasExpiry, p.Expiry = true, 1 })
		id := c.message().PacketID
		expire(w)
		c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
		c.ackOf(wire.PUBREL, id)
		c.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))

		pub.pub("a", "y", 2, func(p *wire.PublishOut) { p.HasExpiry, p.Expiry = true, 1 })
		id = c.message().PacketID
		c.send(wire.AppendShortAck(nil, wire.PUBREC, id))
		c.ackOf(wire.PUBREL, id)
		expire(w)
		_ = c.Close()
		c = w.connect("c", kept)
		c.ackOf(wire.PUBREL, id)
	})
}

// Acknowledgements come in the order of what they acknowledge, also where some of it has to be kept.
//
// Conformance: MQTT-4.6.0-2 (3.1.1, 5.0), MQTT-4.6.0-3 (3.1.1, 5.0), MQTT-4.6.0-4 (3.1.1, 5.0)
func TestOrderOfAcknowledgements(t *testing.T) {
	each(t, both, func(w *world) {
		keeper := w.connect("keeper", kept)
		keeper.sub(2, "kept/#")
		c, sub := w.connect("c"), w.connect("sub")
		sub.sub(2, "free")
		var b []byte
		for id := uint16(1); id <= 200; id++ {
			topic := w.name("free")
			if id%3 == 0 {
				topic = w.name(fmt.Sprint("kept/", id))
			}
			b = wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(topic), QoS: 1 + byte(id%2), PacketID: id})
		}
		c.send(b)
		last := map[wire.PacketType]uint16{}
		for range 200 {
			p, err := c.ReadPacket(patience)
			if err != nil || p.ID() <= last[p.Type] {
				w.Fatalf("%v %d behind %d: %v", p.Type, p.ID(), last[p.Type], err)
			}
			last[p.Type] = p.ID()
		}
		// PUBREL follows the order of PUBREC.
		var ids []uint16
		for len(ids) < 50 {
			if m := sub.message(); m.QoS == 2 {
				ids = append(ids, m.PacketID)
			}
		}
		b = b[:0]
		for _, id := range ids {
			b = wire.AppendShortAck(b, wire.PUBREC, id)
		}
		sub.send(b)
		for _, id := range ids {
			for {
				p, err := sub.ReadPacket(patience)
				if err != nil {
					w.Fatal(err)
				}
				if p.Type == wire.PUBREL {
					if p.ID() != id {
						w.Fatalf("PUBREL %d, want %d", p.ID(), id)
					}
					break
				}
			}
		}
	})
}

// Conformance: MQTT-4.6.0-5 (3.1.1, 5.0), MQTT-4.6.0-6 (3.1.1, 5.0)
func TestOrderOfMessages(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			for qos := byte(0); qos <= 2; qos++ {
				pub, c, other := w.connect("pub"), w.connect("c", o), w.connect("other", kept)
				c.sub(qos, "a")
				other.sub(2, "a")
				var b []byte
				const n = 100
				for i := range n {
					b = wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), Payload: fmt.Append(nil, i), QoS: qos, PacketID: uint16(i + 1)})
				}
				pub.send(b)
				for i := range n {
					c.expect(fmt.Sprint(i))
				}
				for i := range n {
					other.expect(fmt.Sprint(i))
				}
				for _, x := range []*client{pub, c, other} {
					x.bye()
				}
			}
		}
	})
}

// Conformance: MQTT-3.3.4-9 (5.0), MQTT-3.3.4-10 (5.0), MQTT-4.9.0-1 (5.0), MQTT-4.9.0-2 (5.0), MQTT-4.9.0-3 (5.0)
func TestClientsReceiveMaximum(t *testing.T) {
	each(t, only5, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			pub := w.connect("pub")
			c := w.connect("c", o, func(k *wire.Connect) { k.ReceiveMaximum = 3 })
			c.sub(2, "a", "b")
			for i := range 10 {
				pub.pub("a", fmt.Sprint(i), byte(1+i%2))
			}
			pub.pub("b", "QoS 0", 0)
			var flight []wire.Publish
			zero := false
			for len(flight) < 3 || !zero {
				m := c.message()
				if m.QoS == 0 {
					zero = true
				} else {
					flight = append(flight, m)
				}
			}
			for i := 3; ; i++ {
				if err := c.Ping(); err != nil { // other packets are answered, and no message comes
					w.Fatal(err)
				}
				if p, err := c.ReadPacket(0); err == nil {
					w.Fatalf("%v came at quota 0", p.Type)
				}
				if i == 10 {
					break
				}
				m := flight[0]
				if m.QoS == 2 {
					c.send(wire.AppendShortAck(nil, wire.PUBREC, m.PacketID))
					c.ackOf(wire.PUBREL, m.PacketID)
					c.send(wire.AppendShortAck(nil, wire.PUBCOMP, m.PacketID))
				} else {
					c.send(wire.AppendShortAck(nil, wire.PUBACK, m.PacketID))
				}
				m = c.message()
				if string(m.Payload) != fmt.Sprint(i) {
					w.Fatalf("message %d is %s", i, m.Payload)
				}
				flight = append(flight[1:], m)
			}
			pub.bye()
			c.bye()
			c = w.connect("c")
			c.bye()
		}
	})
}

func TestServersReceiveMaximum(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.ReceiveMax = 10 }})
	in(t, n, only5, func(w *world) {
		c := w.connect("c")
		if c.ack.ReceiveMaximum != 10 {
			w.Fatalf("%d", c.ack.ReceiveMaximum)
		}
		for id := uint16(1); id <= 11; id++ {
			c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte("a"), QoS: 2, PacketID: id}))
		}
		c.endedBy(wire.ReceiveMaximumExceeded)
	})
}

// An acknowledgement of the wrong kind is a protocol error; one of nothing is passed over.
func TestAcknowledgementsOutOfPlace(t *testing.T) {
	each(t, both, func(w *world) {
		pub, c := w.connect("pub"), w.connect("c")
		c.sub(2, "a")
		for _, typ := range []wire.PacketType{wire.PUBACK, wire.PUBCOMP} {
			c.send(wire.AppendShortAck(nil, typ, 999))
		}
		c.send(wire.AppendShortAck(nil, wire.PUBREL, 999))
		if a := c.ackOf(wire.PUBCOMP, 999); w.version == wire.V5 && a.Reason != wire.PacketIdentifierNotFound {
			w.Errorf("PUBCOMP %v", a.Reason)
		}
		c.send(wire.AppendShortAck(nil, wire.PUBREC, 998))
		if a := c.ackOf(wire.PUBREL, 998); w.version == wire.V5 && a.Reason != wire.PacketIdentifierNotFound {
			w.Errorf("PUBREL %v", a.Reason)
		}
		pub.pub("a", "x", 2)
		c.send(wire.AppendShortAck(nil, wire.PUBACK, c.message().PacketID))
		c.endedBy(wire.ProtocolErrorCode)
	})
}
