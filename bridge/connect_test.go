package bridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func bridgeOf(t *testing.T, version byte, n Node) *Bridge {
	t.Helper()
	b, err := New(Options{Name: "b", Addresses: []string{"h"}, ClientID: "b", KeepAlive: time.Minute, Timeout: patience, Version: version, Node: n,
		Topics: []Topic{{Filter: "up/#", Direction: Out, QoS: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDrops: a broker that is asked with the bit of bridges and closes without a word is asked without it after some such in a row, not after one.
func TestDrops(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	takes := make(chan bool, 1) // whether the next one with the bit is taken
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p, err := mqttclient.Over(c, wire.V311, patience).ReadPacket(patience)
			if err == nil && (p.Body[6]&0x80 == 0 || <-takes) {
				_, _ = c.Write([]byte{0x20, 2, 0, 0})
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
		}
	}()
	b := bridgeOf(t, wire.V311, nil)
	for i, tt := range []struct{ takes, plain, fails bool }{
		{false, false, true}, {false, false, true}, {true, false, false}, {false, false, true}, {false, false, true}, {false, true, false},
	} {
		takes <- tt.takes
		c, _, err := b.connect(t.Context(), "mqtt://"+l.Addr().String(), nil, wire.Connect{Version: wire.V311, ClientID: []byte("b")})
		if err == nil {
			_ = c.Close()
		}
		if b.plain != tt.plain || (err != nil) != tt.fails {
			t.Fatalf("%d: plain %v, %v", i, b.plain, err)
		}
	}
	if !bridgeOf(t, wire.V311, nil).unknown(&mqttclient.RefusedError{Reason: wire.UnsupportedProtocolVersion}) {
		t.Error("a word is not enough")
	}
}

// fakeNode is a node with one session at most.
type fakeNode struct {
	known  bool
	greets int
	met    bool
}

func (*fakeNode) Leads() bool                       { return true }
func (n *fakeNode) Session(string) ([]uint16, bool) { return nil, n.known }
func (n *fakeNode) Subscribed(_, f string) bool     { return n.met && f == met }
func (*fakeNode) Queued(string) int64               { return 0 }
func (*fakeNode) Takes() (uint16, uint32)           { return 10, 1000 }
func (n *fakeNode) Dial() (net.Conn, error) {
	a, b := net.Pipe()
	n.greets++
	n.known = true
	go func() {
		c := mqttclient.Over(b, wire.V5, patience)
		for {
			p, err := c.ReadPacket(patience)
			switch {
			case err != nil:
				_ = b.Close()
				return
			case p.Type == wire.CONNECT:
				_ = c.SendRaw([]byte{0x20, 3, 0, 0, 0})
			case p.Type == wire.SUBSCRIBE:
				n.met = n.met || bytes.Contains(p.Body, []byte(met))
				_ = c.SendRaw([]byte{0x90, 4, p.Body[0], p.Body[1], 0, 2})
			}
		}
	}()
	return a, nil
}

// TestPrepareAgain: a session that is deleted while the other broker is away is made anew, so that what is published goes on waiting.
func TestPrepareAgain(t *testing.T) {
	n := &fakeNode{}
	b := bridgeOf(t, wire.V5, n)
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			n.known = false
		}
		if err := b.prepare(); err != nil {
			t.Fatal(err)
		}
		if n.greets != want || n.met {
			t.Errorf("%d: %d connections, met %v", i, n.greets, n.met)
		}
	}
}

// TestAgreeEnds: Close does not wait for a broker that does not answer, nor for a place.
func TestAgreeEnds(t *testing.T) {
	for _, received := range [][]uint16{nil, {1, 2, 3}} {
		here, there, _, _ := sidesOf(t, wire.V311) // with room for two
		there.present = true
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- bridgeOf(t, wire.V311, nil).agree(ctx, here, there, received, true) }()
		stop()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it goes on")
			}
		case <-time.After(patience / 2):
			t.Fatal("it waits")
		}
	}
}

// TestMeet: the other broker is told to forget what it knows until the session here has it written that it was, by whatever run of the node.
func TestMeet(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	clean := make(chan bool, 4)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if p, err := mqttclient.Over(c, wire.V5, patience).ReadPacket(patience); err == nil {
				clean <- p.Body[7]&2 != 0
				_, _ = c.Write([]byte{0x20, 3, 0, 0, 0})
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
		}
	}()
	n := &fakeNode{}
	if err := bridgeOf(t, wire.V5, n).prepare(); err != nil { // and the node is killed
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		b := bridgeOf(t, wire.V5, n)
		there, err := b.dialAddress(t.Context(), "mqtt://"+l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := <-clean; got != want {
			t.Errorf("%d: clean start %v", i, got)
		}
		here, err := b.join(t.Context(), there)
		if err != nil {
			t.Fatal(err)
		}
		_ = here.c.Close()
		_ = there.c.Close()
	}
}

// TestHeldHasRoom: an identifier that is held needs no other place.
func TestHeldHasRoom(t *testing.T) {
	var w window
	w.init(1)
	for range 2 {
		if !w.take(7, false) {
			t.Error("no room")
		}
	}
	w.close()
	if w.take(8, false) {
		t.Error("room behind the end")
	}
}

// TestLowerQoS: a QoS 2 message that was queued for a broker which takes QoS 1 at most goes over with that, and its handshake here comes to its end.
func TestLowerQoS(t *testing.T) {
	b := bridgeOf(t, wire.V5, nil)
	here, there, own, other := sidesOf(t, wire.V5)
	there.qosMax = 1
	ended := make(chan error, 1)
	go func() { ended <- b.relay(t.Context(), here, there) }()
	for range 3 { // more than the window has places
		send(t, own, publication(wire.V5, 0x8001, 2, "up/1", 5, false))
		expect(t, other, publication(wire.V5, 0x8001, 1, "up/1", 5, false))
		send(t, other, wire.AppendShortAck(nil, wire.PUBACK, 0x8001))
		expect(t, own, wire.AppendShortAck(nil, wire.PUBREC, 0x8001))
		send(t, own, wire.AppendShortAck(nil, wire.PUBREL, 0x8001))
		expect(t, own, wire.AppendShortAck(nil, wire.PUBCOMP, 0x8001))
	}
	send(t, own, publication(wire.V5, 0x8002, 2, "up/1", 5, false))
	expect(t, other, publication(wire.V5, 0x8002, 1, "up/1", 5, false))
	refusal := wire.Ack{PacketID: 0x8002, Reason: wire.NotAuthorized}
	send(t, other, wire.AppendAck(nil, wire.V5, wire.PUBACK, &refusal))
	expect(t, own, wire.AppendAck(nil, wire.V5, wire.PUBREC, &refusal))
	if there.open.lowered(0x8002) {
		t.Error("it holds a place")
	}
	_ = own.Close()
	if err := <-ended; errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
