package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// cut is a packet with a wrong length, made of a right one.
func cut(b []byte, by int) []byte {
	b[1] = byte(int(b[1]) - by)
	return b[:len(b)-by]
}

// Whatever a client sends against the rules ends its own connection, with the reason where the version has one, and nobody else's.
//
// Conformance: MQTT-2.2.2-2 (3.1.1), MQTT-1.5.3-1 (3.1.1), MQTT-1.5.3-2 (3.1.1), MQTT-3.3.1-4 (3.1.1), MQTT-3.6.1-1 (3.1.1, 5.0)
// Conformance: MQTT-3.8.1-1 (3.1.1, 5.0), MQTT-3.10.1-1 (3.1.1, 5.0), MQTT-3.14.1-1 (3.1.1, 5.0), MQTT-4.8.0-1 (3.1.1)
// Conformance: MQTT-4.13.1-1 (5.0), MQTT-4.13.2-1 (5.0)
func TestBadPackets(t *testing.T) {
	each(t, both, func(w *world) {
		sub := wire.AppendSubscribe(nil, w.version, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("abcdef")}}})
		pub := wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte("abcdef"), QoS: 1, PacketID: 1})
		change := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
		props := func(head ...byte) []byte { // a PUBLISH to "a" with this property block
			b := append([]byte{0x30, byte(4 + len(head)), 0, 1, 'a', byte(len(head))}, head...)
			return b
		}
		type bad struct {
			name string
			b    []byte
			want wire.ReasonCode
			only byte
		}
		list := []bad{
			{"CONNACK", []byte{0x20, 2, 0, 0}, wire.ProtocolErrorCode, wire.V311},
			{"PINGRESP", wire.AppendPingresp(nil), wire.ProtocolErrorCode, 0},
			{"type 0", []byte{0, 0}, wire.MalformedPacket, 0},
			{"AUTH", []byte{0xF0, 0}, wire.ProtocolErrorCode, 0},
			{"PINGREQ with flags", []byte{0xC1, 0}, wire.MalformedPacket, 0},
			{"PINGREQ with a body", []byte{0xC0, 1, 0}, wire.MalformedPacket, 0},
			{"DISCONNECT with flags", []byte{0xE1, 0}, wire.MalformedPacket, 0},
			{"PUBREL with flags 0", []byte{0x60, 2, 0, 1}, wire.MalformedPacket, 0},
			{"SUBSCRIBE with flags 0", change(sub, 0, 0x80), wire.MalformedPacket, 0},
			{"UNSUBSCRIBE with flags 0", []byte{0xA0, 7, 0, 1, 0, 0, 1, 'a', 0}, wire.MalformedPacket, 0},
			{"SUBSCRIBE cut in its filter", cut(bytes.Clone(sub), 3), wire.MalformedPacket, 0},
			{"SUBSCRIBE without options", cut(bytes.Clone(sub), 1), wire.MalformedPacket, 0},
			{"SUBSCRIBE with QoS 3", change(sub, len(sub)-1, 3), wire.ProtocolErrorCode, 0},
			{"SUBSCRIBE with reserved bits", change(sub, len(sub)-1, 0xC0), wire.MalformedPacket, 0},
			{"SUBSCRIBE with identifier 0", change(sub, 3, 0), wire.ProtocolErrorCode, 0},
			{"SUBSCRIBE without filters", map[byte][]byte{wire.V311: {0x82, 2, 0, 1}, wire.V5: {0x82, 3, 0, 1, 0}}[w.version], wire.ProtocolErrorCode, 0},
			{"QoS 3", change(pub, 0, 0x36), wire.MalformedPacket, 0},
			{"DUP at QoS 0", change(pub, 0, 0x38), wire.MalformedPacket, 0},
			{"wildcard topic", change(pub, 5, '#'), wire.TopicNameInvalid, 0},
			{"NUL in a topic", change(pub, 5, 0), wire.MalformedPacket, 0},
			{"no UTF-8", change(pub, 5, 0xC0), wire.MalformedPacket, 0},
			{"surrogate", []byte{0x30, 6, 0, 3, 0xED, 0xA0, 0x80, 0}, wire.MalformedPacket, 0},
			{"topic longer than the packet", change(pub, 3, 200), wire.MalformedPacket, 0},
			{"length of five bytes", []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1}, wire.MalformedPacket, 0},
			{"256 MiB announced", []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, wire.PacketTooLarge, 0},
			{"long PUBACK announced", []byte{0x40, 0xFF, 0xFF, 0xFF, 0x7F}, wire.PacketTooLarge, 0},
			{"PUBACK of identifier 0", []byte{0x40, 2, 0, 0}, wire.ProtocolErrorCode, 0},
			{"property twice", props(0x01, 0, 0x01, 0), wire.ProtocolErrorCode, wire.V5},
			{"unknown property", props(0x7E, 0), wire.MalformedPacket, wire.V5},
			{"property out of place", props(0x21, 0, 1), wire.MalformedPacket, wire.V5},
			{"property cut", props(0x02, 0), wire.MalformedPacket, wire.V5},
			{"subscription identifier of a client", props(0x0B, 1), wire.MalformedPacket, wire.V5},
			{"alias 0", props(0x23, 0, 0), wire.TopicAliasInvalid, wire.V5},
			{"alias over the maximum", props(0x23, 0xFF, 0xFF), wire.TopicAliasInvalid, wire.V5},
			{"no topic, no alias", []byte{0x30, 3, 0, 0, 0}, wire.ProtocolErrorCode, wire.V5},
			{"wildcard in the response topic", props(0x08, 0, 1, '#'), wire.ProtocolErrorCode, wire.V5},
			{"no local on a share", wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("$share/g/a"), NoLocal: true}}}), wire.ProtocolErrorCode, wire.V5},
			{"empty topic", []byte{0x30, 2, 0, 0}, wire.TopicNameInvalid, wire.V311},
		}
		good := w.connect("good")
		good.sub(0, "a")
		for _, x := range list {
			if x.only != 0 && x.only != w.version {
				continue
			}
			c := w.connect("bad")
			c.send(x.b)
			if got := c.ended(); w.version == wire.V5 && got != x.want && (x.want != wire.PacketTooLarge || got != wire.MalformedPacket) || w.version != wire.V5 && got != wire.Success {
				w.Errorf("%s: %v, want %v", x.name, got, x.want)
			}
		}
		good.quiet("a")
	})
}

// Packets may come cut anywhere, and many at once.
func TestCutAndConcatenated(t *testing.T) {
	each(t, both, func(w *world) {
		c := w.dial()
		b := wire.AppendConnect(nil, &wire.Connect{Version: w.version, ClientID: []byte(w.id("c")), CleanStart: true})
		b = wire.AppendSubscribe(b, w.version, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte(w.name("a"))}}})
		for i := range 20 {
			b = wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), Payload: bytes.Repeat([]byte{byte(i)}, i*20)})
		}
		for len(b) > 0 {
			n := min(1+len(b)%13, len(b))
			c.send(b[:n])
			b = b[n:]
		}
		c.next(wire.CONNACK)
		c.next(wire.SUBACK)
		for i := range 20 {
			if m := c.message(); len(m.Payload) != i*20 {
				w.Fatalf("message %d has %d bytes", i, len(m.Payload))
			}
		}
	})
}

// Filters and topics with very many levels are an answer, not a fault, and cost nobody else anything.
func TestManyLevels(t *testing.T) {
	each(t, both, func(w *world) {
		c := w.connect("c")
		deep := strings.Repeat("/", 32000)
		wild := strings.Repeat("+/", 16000) + "#"
		codes := c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(deep)}, {Filter: []byte(wild)}, {Filter: []byte(w.name("ok"))}}})
		if !codes[0].Failed() || !codes[1].Failed() || codes[2].Failed() {
			w.Errorf("%v", codes)
		}
		c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(deep), QoS: 1, PacketID: 3}))
		if a := c.ackOf(wire.PUBACK, 3); w.version == wire.V5 && a.Reason != wire.TopicNameInvalid {
			w.Errorf("%v", a.Reason)
		}
		if _, err := c.Unsubscribe(w.name("ok")); err != nil {
			w.Fatal(err)
		}
	})
}

// A storm of subscriptions, in large packets and small ones, is answered in full.
func TestSubscribeStorm(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			c := w.connect("c", o)
			s := wire.SubscribeOut{PacketID: 1}
			for i := range 500 {
				s.Filters = append(s.Filters, wire.FilterRequest{Filter: fmt.Appendf(nil, "%s/%d/+", w.prefix, i), QoS: 1})
			}
			b := wire.AppendSubscribe(nil, w.version, &s)
			for i := range 500 {
				b = wire.AppendSubscribe(b, w.version, &wire.SubscribeOut{PacketID: uint16(i + 2), Filters: []wire.FilterRequest{{Filter: fmt.Appendf(nil, "%s/s/%d", w.prefix, i), QoS: 1}}})
			}
			c.send(b)
			for i := range 501 {
				a, err := c.next(wire.SUBACK).Suback()
				if err != nil || a.PacketID != uint16(i+1) {
					w.Fatalf("SUBACK %d: %+v %v", i, a.PacketID, err)
				}
			}
			c.bye()
			c = w.connect("c")
			c.bye()
		}
	})
}

// All identifiers in use: the client may still release them, and use them again.
func TestAllPacketIdentifiers(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.ReceiveMax = 65535 }})
	in(t, n, both, func(w *world) {
		c := w.connect("c")
		go func() {
			var b []byte
			for id := 1; id <= 65535; id++ {
				b = wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), QoS: 2, PacketID: uint16(id)})
			}
			_ = c.SendRaw(b)
		}()
		for id := 1; id <= 65535; id++ {
			c.ackOf(wire.PUBREC, uint16(id))
		}
		c.send(wire.AppendShortAck(nil, wire.PUBREL, 65535))
		c.ackOf(wire.PUBCOMP, 65535)
		c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), QoS: 2, PacketID: 65535}))
		c.ackOf(wire.PUBREC, 65535)
		c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), QoS: 1, PacketID: 1}))
		if w.version == wire.V5 {
			c.endedBy(wire.ReceiveMaximumExceeded)
		} else {
			c.ackOf(wire.PUBACK, 1)
		}
	})
}

// A client that reads nothing loses its messages at its bound; its publisher and its neighbour lose none.
func TestSlowReader(t *testing.T) {
	each(t, both, func(w *world) {
		slow, fast, pub := w.connect("slow"), w.connect("fast"), w.connect("pub")
		slow.sub(0, "a")
		fast.sub(0, "a")
		payload := make([]byte, 100_000)
		before := w.n.handler.Snapshot().Dropped[mqtt.DropSlowReader]
		for i := range 400 {
			binary.BigEndian.PutUint32(payload, uint32(i))
			pub.pub("a", string(payload), 0)
			if m := fast.recv(); binary.BigEndian.Uint32(m.Payload) != uint32(i) {
				w.Fatalf("message %d is %d", i, binary.BigEndian.Uint32(m.Payload))
			}
		}
		testx.Eventually(w, patience, func() bool { return w.n.handler.Snapshot().Dropped[mqtt.DropSlowReader] > before })
		last := -1
		for {
			m, err := slow.Receive(patience)
			if err != nil {
				w.Fatal(err)
			}
			i := int(binary.BigEndian.Uint32(m.Payload))
			if i <= last {
				w.Fatalf("%d behind %d", i, last)
			}
			if last = i; i > 20 {
				break
			}
		}
	})
}

// A message that the journal cannot take is never acknowledged as if it had: version 5 is told by the acknowledgement, older ones by the end
// of the connection.
//
// Conformance: MQTT-4.8.0-2 (3.1.1)
func TestJournalFails(t *testing.T) {
	n := start(t, nodeOptions{})
	w := &world{T: t, n: n, version: wire.V5, prefix: "j"}
	keeper := w.connect("keeper", kept)
	keeper.sub(1, "kept")
	live := w.connect("live")
	live.sub(1, "free")
	n.log.fail <- errors.New("no space left on device")
	c := w.connect("c")
	testx.Eventually(t, patience, func() bool {
		code, _ := c.Publish(&wire.PublishOut{Topic: []byte(w.name("kept")), QoS: 1})
		return code.Failed()
	})
	for typ, qos := range map[wire.PacketType]byte{wire.PUBACK: 1, wire.PUBREC: 2} {
		c.send(wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("kept")), QoS: qos, PacketID: 5}))
		if a := c.ackOf(typ, 5); a.Reason != wire.ImplementationSpecific {
			t.Errorf("%v: %v", typ, a.Reason)
		}
	}
	old := &world{T: t, n: n, version: wire.V311, prefix: "j"}
	o := old.connect("old")
	o.send(wire.AppendPublish(nil, old.version, &wire.PublishOut{Topic: []byte(w.name("kept")), QoS: 1, PacketID: 5}))
	if packets, err := o.WaitClosed(patience); err != nil || len(packets) > 0 {
		t.Errorf("%v %v", packets, err)
	}
	c.pub("free", "goes on", 1) // what nobody keeps needs no journal
	live.expect("goes on")
}
