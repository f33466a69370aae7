package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// refused checks that err is a refusal by this reason, and that the connection is closed behind it.
func (c *client) refused(err error, want wire.ReasonCode) {
	c.w.Helper()
	var r *mqttclient.RefusedError
	if !errors.As(err, &r) || r.Reason != want {
		c.w.Fatalf("%v, want refusal by %v", err, want)
	}
	if got := c.ended(); got != wire.Success {
		c.w.Fatalf("DISCONNECT %v behind a CONNACK of failure", got)
	}
}

// A good CONNECT is answered by one CONNACK, which comes first.
//
// Conformance: MQTT-3.1.4-4 (3.1.1), MQTT-3.1.4-5 (5.0), MQTT-3.2.0-1 (3.1.1, 5.0), MQTT-3.2.0-2 (5.0), MQTT-3.1.3-5 (3.1.1, 5.0)
// Conformance: MQTT-3.12.4-1 (3.1.1, 5.0), MQTT-4.12.0-6 (5.0)
func TestConnectAccepted(t *testing.T) {
	each(t, all, func(w *world) {
		c, err := w.try("0123456789abcABC" + w.prefix)
		if err != nil || c.ack.AuthMethod != nil {
			w.Fatal(err)
		}
		if err := c.Ping(); err != nil { // anything in between would have been in the way
			w.Fatal(err)
		}
		if p, err := c.ReadPacket(20 * time.Millisecond); !errors.Is(err, mqttclient.ErrTimeout) {
			w.Fatalf("%v %v behind PINGRESP", p.Type, err)
		}
		c.bye()
	})
}

// Conformance: MQTT-3.1.0-2 (3.1.1, 5.0), MQTT-4.8.0-1 (3.1.1), MQTT-4.13.1-1 (5.0), MQTT-4.13.2-1 (5.0)
func TestSecondConnect(t *testing.T) {
	each(t, both, func(w *world) {
		c := w.connect("c")
		c.send(wire.AppendConnect(nil, &wire.Connect{Version: w.version, ClientID: []byte("other"), CleanStart: true}))
		c.endedBy(wire.ProtocolErrorCode)
	})
}

// Conformance: MQTT-3.1.2-2 (3.1.1, 5.0), MQTT-3.2.2-5 (3.1.1), MQTT-3.2.2-7 (5.0), MQTT-3.14.0-1 (5.0)
func TestUnknownVersion(t *testing.T) {
	each(t, only3, func(w *world) {
		for _, level := range []byte{0, 1, 2, 6, 255} {
			b := wire.AppendConnect(nil, &wire.Connect{Version: wire.V311, ClientID: []byte("x"), CleanStart: true})
			b[8] = level
			c := w.dial()
			c.send(b)
			if level > wire.V5 {
				c.Version = wire.V5
			}
			packets, err := c.WaitClosed(patience)
			if err != nil || len(packets) != 1 || packets[0].Type != wire.CONNACK {
				w.Fatalf("level %d: %v %v", level, packets, err)
			}
			if k, err := packets[0].Connack(); err != nil || k.Reason != wire.UnsupportedProtocolVersion {
				w.Fatalf("level %d: %+v %v", level, k, err)
			}
		}
	})
}

// A CONNECT against the rules closes the connection, and nothing behind it is looked at.
//
// Conformance: MQTT-3.1.4-1 (3.1.1, 5.0), MQTT-3.1.4-5 (3.1.1), MQTT-3.1.4-6 (5.0), MQTT-3.2.2-6 (3.1.1)
func TestMalformedConnect(t *testing.T) {
	each(t, both, func(w *world) {
		watch := w.connect("watch")
		watch.sub(0, "#")
		good := wire.AppendConnect(nil, &wire.Connect{Version: w.version, ClientID: []byte(w.id("bad")), CleanStart: true})
		behind := wire.AppendPublish(nil, w.version, &wire.PublishOut{Topic: []byte(w.name("leak")), Payload: []byte("leaked")})
		for name, change := range map[string]func(b []byte) []byte{
			"reserved flag":  func(b []byte) []byte { b[9] |= 1; return b },
			"will QoS alone": func(b []byte) []byte { b[9] |= 0x08; return b },
			"bytes behind":   func(b []byte) []byte { b[1]++; return append(b, 0) },
			"cut":            func(b []byte) []byte { b[1]--; return b[:len(b)-1] },
			"header flags":   func(b []byte) []byte { b[0] |= 4; return b },
			"NUL in id":      func(b []byte) []byte { b[len(b)-1] = 0; return b },
			"no UTF-8":       func(b []byte) []byte { b[len(b)-1] = 0xFF; return b },
		} {
			c := w.dial()
			c.send(append(change(append([]byte(nil), good...)), behind...))
			packets, err := c.WaitClosed(patience)
			if err != nil {
				w.Fatalf("%s: %v", name, err)
			}
			for _, p := range packets {
				if w.version != wire.V5 || p.Type != wire.CONNACK {
					w.Fatalf("%s: %v was sent", name, p.Type)
				}
				if k, err := p.Connack(); err != nil || !k.Reason.Failed() {
					w.Fatalf("%s: %+v %v", name, k, err)
				}
			}
		}
		watch.quiet("x")
	})
}

func TestFirstPacketIsNoConnect(t *testing.T) {
	each(t, both, func(w *world) {
		for _, b := range [][]byte{wire.AppendPingreq(nil), {0x10, 0xFF, 0xFF, 0xFF, 0xFF, 1}, {0x16, 0x03, 0x01, 0x02}, []byte("GET / HTTP/1.1\r\n\r\n"), {0, 0}} {
			c := w.dial()
			c.send(b)
			if packets, err := c.WaitClosed(patience); err != nil || len(packets) > 1 {
				w.Fatalf("% x: %v %v", b, packets, err)
			}
		}
	})
}

// Conformance: MQTT-3.1.3-6 (3.1.1, 5.0), MQTT-3.1.3-7 (5.0), MQTT-3.2.2-16 (5.0)
func TestAssignedClientID(t *testing.T) {
	each(t, both, func(w *world) {
		seen := map[string]bool{}
		for range 3 {
			c, err := w.try("")
			if err != nil {
				w.Fatal(err)
			}
			if id := string(c.ack.AssignedClientID); w.version == wire.V5 && (id == "" || seen[id]) {
				w.Fatalf("assigned %q", id)
			}
			seen[string(c.ack.AssignedClientID)] = true
			w.Cleanup(func() { _ = c.Ping() })
			if err := c.Ping(); err != nil { // the ones before are still there: none took another over
				w.Fatal(err)
			}
		}
		if c := w.connect("own"); c.ack.AssignedClientID != nil {
			w.Error("an identifier was assigned to a client that has one")
		}
	})
}

// Conformance: MQTT-3.1.3-8 (3.1.1, 5.0), MQTT-3.1.3-9 (3.1.1), MQTT-3.1.4-2 (5.0)
func TestRefusedClientID(t *testing.T) {
	each(t, both, func(w *world) {
		c, err := w.try(strings.Repeat("x", 2000))
		c.refused(err, wire.ClientIdentifierNotValid)
		if w.version == wire.V311 {
			c, err = w.try("", kept)
			c.refused(err, wire.ClientIdentifierNotValid)
		}
	})
}

// Conformance: MQTT-3.1.4-2 (3.1.1), MQTT-3.1.4-3 (5.0)
func TestTakeOver(t *testing.T) {
	each(t, both, func(w *world) {
		for _, o := range []with{func(*wire.Connect) {}, kept} {
			first := w.connect("c", o)
			second := w.connect("c", o)
			first.endedBy(wire.SessionTakenOver)
			if err := second.Ping(); err != nil {
				w.Fatal(err)
			}
		}
	})
}

// Conformance: MQTT-3.1.2-24 (3.1.1), MQTT-3.1.2-22 (5.0), MQTT-3.2.2-22 (5.0)
func TestKeepAlive(t *testing.T) {
	each(t, both, func(w *world) {
		busy := w.connect("busy", func(k *wire.Connect) { k.KeepAlive = 1 })
		idle := w.connect("idle", func(k *wire.Connect) { k.KeepAlive = 1 })
		never := w.connect("never")
		began := time.Now()
		ticks := time.NewTicker(300 * time.Millisecond)
		defer ticks.Stop()
		done := make(chan error, 1)
		go func() { _, err := idle.WaitClosed(patience); done <- err }()
		for open := true; open; {
			select {
			case err := <-done:
				if d := time.Since(began); err != nil || d < 1400*time.Millisecond || d > 4*time.Second {
					w.Fatalf("closed after %v: %v", d, err)
				}
				open = false
			case <-ticks.C:
				if err := busy.Ping(); err != nil {
					w.Fatal(err)
				}
			}
		}
		if err := errors.Join(busy.Ping(), never.Ping()); err != nil {
			w.Fatal(err)
		}
	})
}

func TestServerKeepAlive(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.KeepAliveMax = 1 }})
	in(t, n, only5, func(w *world) {
		c := w.connect("c", func(k *wire.Connect) { k.KeepAlive = 100 })
		if !c.ack.HasServerKeepAlive || c.ack.ServerKeepAlive != 1 {
			w.Errorf("%+v", c.ack)
		}
		c.ended()
	})
}

// CONNACK says which limits are in force, and those it states are kept.
//
// Conformance: MQTT-3.2.2-9 (5.0), MQTT-3.2.2-10 (5.0), MQTT-3.2.2-12 (5.0), MQTT-3.2.2-13 (5.0), MQTT-3.9.3-3 (5.0)
func TestLimitsAreStatedAndKept(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) {
		s.MaxQoS, s.Retain, s.Wildcards, s.Shared, s.SubscriptionIDs = 1, false, false, false, false
		s.ReceiveMax, s.MaxPacket, s.TopicAliasMax, s.SessionExpiryMax = 5, 1000, 3, time.Minute
	}})
	in(t, n, only5, func(w *world) {
		c := w.connect("c", func(k *wire.Connect) { k.SessionExpiry = 3600 })
		k := c.ack
		if !k.HasMaximumQoS || k.MaximumQoS != 1 || !k.NoRetain || !k.NoWildcards || !k.NoShared || !k.NoSubscriptionIDs ||
			k.ReceiveMaximum != 5 || k.MaximumPacketSize != 1000 || k.TopicAliasMaximum != 3 || !k.HasSessionExpiry || k.SessionExpiry != 60 {
			w.Errorf("CONNACK %+v", k)
		}
		codes := c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("a"), QoS: 2}, {Filter: []byte("a/+")}, {Filter: []byte("$share/g/a")}}})
		if codes[0] != wire.GrantedQoS1 || codes[1] != wire.WildcardsNotSupported || codes[2] != wire.SharedNotSupported {
			w.Errorf("SUBACK %v", codes)
		}
		codes = c.subWith(&wire.SubscribeOut{SubscriptionID: 7, Filters: []wire.FilterRequest{{Filter: []byte("a")}}})
		if codes[0] != wire.SubscriptionIDsNotSupported {
			w.Errorf("SUBACK %v", codes)
		}
		for want, p := range map[wire.ReasonCode]wire.PublishOut{
			wire.QoSNotSupported:    {Topic: []byte("a"), QoS: 2, PacketID: 1},
			wire.RetainNotSupported: {Topic: []byte("a"), Retain: true},
			wire.PacketTooLarge:     {Topic: []byte("a"), Payload: make([]byte, 2000)},
			wire.TopicAliasInvalid:  {Topic: []byte("a"), TopicAlias: 4},
		} {
			c := w.connect("breach")
			c.send(wire.AppendPublish(nil, wire.V5, &p))
			c.endedBy(want)
		}
		c, err := w.try("willq", func(k *wire.Connect) { k.HasWill, k.Will.QoS, k.Will.Topic = true, 2, []byte("w") })
		c.refused(err, wire.QoSNotSupported)
		c, err = w.try("willr", func(k *wire.Connect) { k.HasWill, k.Will.Retain, k.Will.Topic = true, true, []byte("w") })
		c.refused(err, wire.RetainNotSupported)
	})
}

// Conformance: MQTT-3.1.2-28 (5.0)
func TestResponseInformation(t *testing.T) {
	each(t, only5, func(w *world) {
		if c := w.connect("c"); c.ack.ResponseInfo != nil {
			w.Errorf("unasked: %q", c.ack.ResponseInfo)
		}
		if c := w.connect("d", func(k *wire.Connect) { k.RequestResponseInfo = true }); string(c.ack.ResponseInfo) != "reply/"+w.id("d") {
			w.Errorf("%q", c.ack.ResponseInfo)
		}
	})
}

// Conformance: MQTT-3.1.2-29 (5.0)
func TestProblemInformation(t *testing.T) {
	each(t, only5, func(w *world) {
		for _, silent := range []bool{false, true} {
			c := w.connect("c", func(k *wire.Connect) { k.NoProblemInfo = silent })
			c.send(wire.AppendSubscribe(nil, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("a/#/b")}}}))
			a, err := c.next(wire.SUBACK).Suback()
			if err != nil || a.Codes[0] != wire.TopicFilterInvalid || (len(a.ReasonString) == 0) != silent {
				w.Errorf("silent %v: %+v %v", silent, a, err)
			}
			c.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("$SYS/x"), QoS: 1, PacketID: 2}))
			if a := c.ackOf(wire.PUBACK, 2); a.Reason != wire.NotAuthorized || (len(a.ReasonString) == 0) != silent {
				w.Errorf("silent %v: %+v", silent, a)
			}
		}
	})
}

// Conformance: MQTT-4.12.0-1 (5.0)
func TestAuthenticationMethodIsRefused(t *testing.T) {
	each(t, only5, func(w *world) {
		c, err := w.try("c", func(k *wire.Connect) { k.AuthMethod = []byte("SCRAM-SHA-256") })
		c.refused(err, wire.BadAuthenticationMethod)
		c = w.connect("d")
		c.send(wire.AppendAuth(nil, &wire.Auth{Reason: wire.ReAuthenticate, AuthMethod: []byte("x")}))
		c.endedBy(wire.ProtocolErrorCode)
	})
}

// Conformance: MQTT-3.14.4-1 (5.0), MQTT-3.14.4-2 (5.0)
func TestDisconnect(t *testing.T) {
	each(t, both, func(w *world) {
		watch := w.connect("watch")
		watch.sub(0, "#")
		c := w.connect("c")
		b := wire.AppendDisconnect(nil, w.version, &wire.Disconnect{})
		c.send(wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(w.name("late")), Payload: []byte("late")}))
		if got := c.ended(); got != wire.Success {
			w.Errorf("answered by %v", got)
		}
		watch.quiet("x")
		if w.version == wire.V5 {
			c = w.connect("d")
			c.send(wire.AppendDisconnect(nil, w.version, &wire.Disconnect{HasSessionExpiry: true, SessionExpiry: 10}))
			c.endedBy(wire.ProtocolErrorCode)
		}
	})
}

func TestShutdownSaysSo(t *testing.T) {
	for _, reason := range []wire.ReasonCode{wire.UseAnotherServer, wire.ServerShuttingDown} {
		t.Run(reason.String(), func(t *testing.T) { shutdownSaysSo(t, reason) })
	}
}

// shutdownSaysSo: whichever it is, clients hear of the server that they may use.
func shutdownSaysSo(t *testing.T, reason wire.ReasonCode) {
	t.Helper()
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.ServerReference = "elsewhere:1883" }})
	w := &world{T: t, n: n, version: wire.V5, prefix: "s"}
	c := w.connect("c")
	n.handler.Shutdown(reason)
	packets, err := c.WaitClosed(patience)
	if err != nil || len(packets) != 1 {
		t.Fatal(packets, err)
	}
	if d, err := packets[0].Disconnect(); err != nil || d.Reason != wire.UseAnotherServer || string(d.ServerReference) != "elsewhere:1883" {
		t.Errorf("%+v %v", d, err)
	}
	late, err := w.try("late")
	if late.ack == nil || string(late.ack.ServerReference) != "elsewhere:1883" {
		t.Errorf("%+v", late.ack)
	}
	late.refused(err, wire.UseAnotherServer)
}
