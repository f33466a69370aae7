package mqtt

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// The version of a client is known from its first bytes, as soon as they have it, and of whatever else they may be nothing is awaited.
func TestVersion(t *testing.T) {
	var h *Handler
	for _, v := range []byte{wire.V31, wire.V311, wire.V5, 9} {
		p := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, ClientID: make([]byte, 300)})
		if v == wire.V31 {
			p = wire.AppendConnect(nil, &wire.Connect{Version: wire.V31, ClientID: []byte("c"), CleanStart: true})
		}
		name := 3 + 6
		if v == wire.V31 {
			name = 2 + 8
		}
		p[name] = v
		for n := range p {
			got, enough := h.Version(p[:n])
			if enough != (n > name) || enough && got != v {
				t.Errorf("version %d, %d bytes: %d, %v", v, n, got, enough)
			}
		}
	}
	for _, b := range []string{"GET / HTTP/1.1", "\x16\x03\x01", "\x10\xff\xff\xff\xff\x01", "\x10\x10\x00\x07ABCDEFG\x05", "\x10\x80\x80\x80\x80"} {
		if v, enough := h.Version([]byte(b)); v != 0 || !enough {
			t.Errorf("%q: %d, %v", b, v, enough)
		}
	}
	for _, b := range []string{"", "\x10", "\x10\x80", "\x10\x10", "\x10\x10\x00", "\x10\x10\x00\x04MQTT"} {
		if v, enough := h.Version([]byte(b)); v != 0 || enough {
			t.Errorf("%q: %d, %v", b, v, enough)
		}
	}
}

// A node that knows which one leads next, and is to send clients there, tells those of MQTT 5 which can hear it.
func TestElsewhereIsKnown(t *testing.T) {
	const far = "node2.of-a-cluster.with-a-name-that-takes-more-room-than-some-clients-have.example:1883"
	next := far
	w := newWorld(t, Options{Elsewhere: func(string) string { return next }})
	for _, c := range []struct {
		version byte
		next    string
		largest uint32
		told    bool
	}{{wire.V5, far, 0, true}, {wire.V311, far, 0, false}, {wire.V5, "", 0, false}, {wire.V5, far, 80, false}} {
		next = c.next
		p := w.connect(c.version, "client", func(k *wire.Connect) { k.MaximumPacketSize = c.largest })
		p.c.Kicked(broker.ErrNotLeader)
		packets := p.packets()
		if !p.k.closed || len(packets) != 0 != c.told {
			t.Fatalf("%+v: closed %v, %v", c, p.k.closed, packets)
		}
		if c.told {
			if b := packets[0].Body; packets[0].Type != wire.DISCONNECT || wire.ReasonCode(b[0]) != wire.UseAnotherServer || !bytes.Contains(b, []byte(next)) {
				t.Errorf("%+v: %v %q", c, packets[0].Type, b)
			}
		}
		w.turn()
	}
}

// When another node leads, a client's connection ends without a word: some do not come back when they are told to go. What it has published and has no
// answer to is not answered.
func TestElsewhere(t *testing.T) {
	w := newWorld(t, Options{})
	for _, version := range []byte{wire.V311, wire.V5} {
		p := w.connect(version, "kicked")
		p.c.Kicked(broker.ErrNotLeader)
		if !p.k.closed || len(p.packets()) != 0 {
			t.Errorf("version %d: closed %v", version, p.k.closed)
		}
		p = w.connect(version, "publisher")
		w.connect(wire.V5, fmt.Sprint("durable", version), func(c *wire.Connect) { c.SessionExpiry, c.CleanStart = 100, false }).subscribe(1, "a")
		w.hold = true
		p.publish("a", "x", 1, 1)
		p.c.Completed(broker.Result{Token: token(tokenPublish, p.c.in.acks.head, 1), Err: broker.ErrNotLeader})
		w.hold = false
		if !p.k.closed || len(p.packets()) != 0 {
			t.Errorf("version %d: a message that nobody leads for: closed %v", version, p.k.closed)
		}
		w.turn()
	}
	if n := w.l.n.Disconnects[wire.UseAnotherServer]; n != 4 || w.l.n.Misbehaved != 0 {
		t.Errorf("%d ended for it, %d misbehaved", n, w.l.n.Misbehaved)
	}
	if f := connectFailure(broker.ErrNotLeader); f.code != wire.ServerUnavailable {
		t.Errorf("a CONNECT is answered %v", f)
	}
}
