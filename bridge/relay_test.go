package bridge

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// sidesOf are two connections, and what the brokers at their ends read and write.
func sidesOf(t *testing.T, version byte) (here, there *side, own, other *mqttclient.Client) {
	t.Helper()
	pair := func(name string, version byte) (*side, *mqttclient.Client) {
		a, b := net.Pipe()
		t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
		s := newSide(name, mqttclient.Over(a, version, patience), &wire.Connack{ReceiveMaximum: 2})
		return s, mqttclient.Over(b, version, patience)
	}
	here, own = pair("own", wire.V5)
	there, other = pair("other", version)
	return here, there, own, other
}

// relayOf runs both ways between two brokers that a test plays.
func relayOf(t *testing.T, version byte) (b *Bridge, own, other *mqttclient.Client, ended chan error) {
	t.Helper()
	b, err := New(Options{Name: "b", Addresses: []string{"h"}, ClientID: "b", KeepAlive: time.Minute, Version: version,
		Topics: []Topic{{Filter: "up/#", Direction: Out, QoS: 2}, {Filter: "down/#", Direction: In, QoS: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	here, there, own, other := sidesOf(t, version)
	there.packetMax = 200
	ended = make(chan error, 1)
	go func() { ended <- b.relay(t.Context(), here, there) }()
	return b, own, other, ended
}

func send(t *testing.T, c *mqttclient.Client, p []byte) {
	t.Helper()
	if err := c.SendRaw(p); err != nil {
		t.Fatal(err)
	}
}

// expect takes a packet, which has to be exactly this one.
func expect(t *testing.T, c *mqttclient.Client, want []byte) {
	t.Helper()
	p, err := c.ReadPacket(patience)
	if err != nil || !bytes.Equal(p.Raw, want) {
		t.Fatalf("got %v % x, %v; want % x", p.Type, p.Raw, err, want)
	}
}

func publication(version byte, id uint16, qos byte, topic string, payload int, dup bool) []byte {
	return wire.AppendPublish(nil, version, &wire.PublishOut{PacketID: id, QoS: qos, Topic: []byte(topic), Payload: make([]byte, payload), Dup: dup})
}

// TestHandshake: each step of QoS 2 goes over only when the other side has made it, under the same identifier.
func TestHandshake(t *testing.T) {
	for _, version := range []byte{wire.V5, wire.V311} {
		b, own, other, ended := relayOf(t, version)
		send(t, own, publication(wire.V5, 0x8001, 2, "up/1", 5, true))
		expect(t, other, publication(version, 0x8001, 2, "up/1", 5, true))
		for _, typ := range []wire.PacketType{wire.PUBREC, wire.PUBREL, wire.PUBCOMP} {
			from, to := other, own
			if typ == wire.PUBREL {
				from, to = own, other
			}
			send(t, from, wire.AppendShortAck(nil, typ, 0x8001))
			expect(t, to, wire.AppendShortAck(nil, typ, 0x8001))
		}
		// The own node has lost it: it says that it does not know the identifier, and the other one gets to its end all the same.
		send(t, other, publication(version, 7, 2, "down/1", 5, false))
		expect(t, own, publication(wire.V5, 7, 2, "down/1", 5, false))
		send(t, own, wire.AppendAck(nil, wire.V5, wire.PUBREC, &wire.Ack{PacketID: 7, Reason: wire.NotAuthorized}))
		expect(t, other, wire.AppendAck(nil, version, wire.PUBREC, &wire.Ack{PacketID: 7, Reason: wire.NotAuthorized}))
		if version == wire.V311 { // which has no word for it
			send(t, other, wire.AppendShortAck(nil, wire.PUBREL, 7))
			expect(t, own, wire.AppendShortAck(nil, wire.PUBREL, 7))
			send(t, own, wire.AppendAck(nil, wire.V5, wire.PUBCOMP, &wire.Ack{PacketID: 7, Reason: wire.PacketIdentifierNotFound}))
			expect(t, other, wire.AppendShortAck(nil, wire.PUBCOMP, 7))
		}
		if n := b.counts[1].refused.Load(); n != 1 {
			t.Errorf("%d refused", n)
		}
		_ = own.Close()
		if err := <-ended; err == nil {
			t.Error("no error at the end")
		}
	}
}

// TestNoPlace: a message that is too large for the other side, or that nothing in the configuration is about, is acknowledged and counted.
func TestNoPlace(t *testing.T) {
	b, own, other, ended := relayOf(t, wire.V5)
	send(t, own, publication(wire.V5, 1, 1, "up/1", 500, false))
	expect(t, own, wire.AppendShortAck(nil, wire.PUBACK, 1))
	send(t, own, publication(wire.V5, 0x8000, 2, "other/1", 5, false))
	expect(t, own, wire.AppendAck(nil, wire.V5, wire.PUBREC, &wire.Ack{PacketID: 0x8000, Reason: wire.ImplementationSpecific}))
	send(t, other, publication(wire.V5, 3, 1, "up/1", 5, false))
	expect(t, other, wire.AppendShortAck(nil, wire.PUBACK, 3))
	if out, in := b.counts[0].refused.Load(), b.counts[1].refused.Load(); out != 2 || in != 1 {
		t.Errorf("%d and %d refused", out, in)
	}
	_ = other.Close()
	<-ended //nolint:errcheck // that it has ended is enough
}

// TestNoRoom: what a broker has no room for is not acknowledged on the other side: the connections end, and it comes again.
func TestNoRoom(t *testing.T) {
	_, own, other, ended := relayOf(t, wire.V5)
	send(t, own, publication(wire.V5, 1, 1, "up/1", 5, false))
	expect(t, other, publication(wire.V5, 1, 1, "up/1", 5, false))
	send(t, other, wire.AppendAck(nil, wire.V5, wire.PUBACK, &wire.Ack{PacketID: 1, Reason: wire.QuotaExceeded}))
	if err := <-ended; !errors.Is(err, errFull) {
		t.Errorf("ended with %v", err)
	}
	if p, err := own.ReadPacket(patience); err == nil {
		t.Errorf("the own node got %v", p.Type)
	}
}

// TestSlowNode: a broker that does not know how many messages the node takes waits, and goes on when it has acknowledged.
func TestSlowNode(t *testing.T) {
	_, own, other, ended := relayOf(t, wire.V311)
	go func() {
		for id := range uint16(5) {
			_ = other.SendRaw(publication(wire.V311, id+1, 1, "down/1", 5, false))
		}
	}()
	for id := range uint16(2) {
		expect(t, own, publication(wire.V5, id+1, 1, "down/1", 5, false))
	}
	if p, err := own.ReadPacket(50 * time.Millisecond); !errors.Is(err, mqttclient.ErrTimeout) {
		t.Fatalf("%v came before the first was acknowledged: %v", p.Type, err)
	}
	for id := range uint16(3) {
		send(t, own, wire.AppendShortAck(nil, wire.PUBACK, id+1))
		expect(t, other, wire.AppendShortAck(nil, wire.PUBACK, id+1))
		expect(t, own, publication(wire.V5, id+3, 1, "down/1", 5, false))
	}
	_ = own.Close()
	<-ended //nolint:errcheck // that it has ended is enough
}
