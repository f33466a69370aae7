package mqttclient_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, o mqttclient.Options) *mqttclient.Client {
	t.Helper()
	c, _, err := mqttclient.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestPublishAndReceiveOverEveryTransport(t *testing.T) {
	cert := testx.TempCert(t)
	for _, tc := range []struct {
		name   string
		broker brokertest.Options
	}{
		{"tcp", brokertest.Options{}},
		{"tls", brokertest.Options{TLS: cert.ServerConfig()}},
		{"ws", brokertest.Options{WebSocket: true}},
		{"wss", brokertest.Options{TLS: cert.ServerConfig(), WebSocket: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := brokertest.Start(t, tc.broker)
			for _, version := range []byte{wire.V31, wire.V311, wire.V5} {
				o := mqttclient.Options{URL: b.URL(), TLS: cert.ClientConfig(false)}
				o.Connect = wire.Connect{Version: version, CleanStart: true, ClientID: []byte("c")}
				roundTrip(t, connect(t, o))
			}
		})
	}
}

func roundTrip(t *testing.T, c *mqttclient.Client) {
	t.Helper()
	codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte("a/+"), QoS: 2})
	if err != nil || len(codes) != 1 || codes[0] != wire.GrantedQoS2 {
		t.Fatalf("SUBSCRIBE: %v, %v", codes, err)
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 5000)
	for qos := byte(0); qos < 3; qos++ {
		if reason, err := c.Publish(&wire.PublishOut{Topic: []byte("a/b"), QoS: qos, Payload: payload}); err != nil || reason != wire.Success {
			t.Fatalf("PUBLISH at QoS %d: %v, %v", qos, reason, err)
		}
		m, err := c.Receive(time.Second)
		if err != nil || m.QoS != qos || string(m.Topic) != "a/b" || !bytes.Equal(m.Payload, payload) {
			t.Fatalf("received QoS %d, topic %q, %d bytes, %v", m.QoS, m.Topic, len(m.Payload), err)
		}
	}
	if err := c.Ping(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Unsubscribe("a/+"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(10 * time.Millisecond); !errors.Is(err, mqttclient.ErrTimeout) {
		t.Fatalf("nothing was published, got %v", err)
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

func TestRefusal(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{Refuse: wire.NotAuthorized}})
	_, ack, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: b.URL()})
	var refused *mqttclient.RefusedError
	if !errors.As(err, &refused) || refused.Reason != wire.NotAuthorized || ack == nil || ack.Reason != wire.NotAuthorized {
		t.Fatalf("got %v, %v", ack, err)
	}
}

func TestRawBytesAndClosing(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	c, err := mqttclient.Dial(t.Context(), mqttclient.Options{URL: b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	whole := wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true})
	for i := range whole {
		if err := c.SendRaw(whole[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Expect(wire.CONNACK)
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := p.Connack(); err != nil || ack.Reason != wire.Success {
		t.Fatalf("CONNACK %v, %v", ack, err)
	}
	if _, err := c.WaitClosed(5 * time.Millisecond); !errors.Is(err, mqttclient.ErrTimeout) {
		t.Fatalf("an open connection: %v", err)
	}
	if err := c.SendRaw([]byte{0xC0, 0, 0x00}); err != nil { // PINGREQ, then a packet of a reserved type
		t.Fatal(err)
	}
	seen, err := c.WaitClosed(time.Second)
	if err != nil || len(seen) != 1 || seen[0].Type != wire.PINGRESP {
		t.Fatalf("seen %v, %v", seen, err)
	}
}

func TestPacketsThatComeInBetweenAreKept(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	c := connect(t, mqttclient.Options{URL: b.URL()})
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Publish(&wire.PublishOut{Topic: []byte("x"), Payload: []byte("y")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Ping(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if p, err := c.ReadPacket(0); err != nil || p.Type != wire.PUBLISH {
			t.Fatalf("%v, %v", p.Type, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]mqttclient.Target{
		"":                        {Network: "tcp", Addr: "127.0.0.1:1883", Host: "127.0.0.1"},
		"localhost:99":            {Network: "tcp", Addr: "localhost:99", Host: "localhost"},
		"mqtt://h":                {Network: "tcp", Addr: "h:1883", Host: "h"},
		"mqtts://[::1]":           {Network: "tcp", Addr: "[::1]:8883", Host: "::1", TLS: true},
		"ws://h":                  {Network: "tcp", Addr: "h:8083", Host: "h", Path: "/mqtt", WS: true},
		"wss://h:1/ws?x=1":        {Network: "tcp", Addr: "h:1", Host: "h", Path: "/ws?x=1", WS: true, TLS: true},
		"unix:///run/broker.sock": {Network: "unix", Addr: "/run/broker.sock"},
	} {
		if got, err := mqttclient.ParseTarget(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for in, word := range map[string]string{
		"http://h": "scheme", "mqtt://h/p": "path", "mqtt://u:p@h": "password-file", "unix://": "path", "mqtt://h:x": "port",
	} {
		_, err := mqttclient.ParseTarget(in)
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestFramesInAnyPieces(t *testing.T) {
	var stream []byte
	add := func(op byte, fin bool, payload string) {
		head := op
		if fin {
			head |= 0x80
		}
		stream = append(stream, head)
		if len(payload) < 126 {
			stream = append(stream, byte(len(payload)))
		} else {
			stream = append(stream, 126, byte(len(payload)>>8), byte(len(payload)))
		}
		stream = append(stream, payload...)
	}
	long := strings.Repeat("long ", 100)
	add(mqttclient.OpBinary, false, "one ")
	add(mqttclient.OpPing, true, "are you there")
	add(mqttclient.OpContinuation, true, "two ")
	add(mqttclient.OpBinary, true, "")
	add(mqttclient.OpPong, true, "")
	add(mqttclient.OpBinary, true, long)
	add(mqttclient.OpClose, true, "\x03\xe8")
	for step := 1; step <= len(stream); step++ {
		var f mqttclient.Frames
		var data []byte
		var control []string
		for at := 0; at < len(stream); at += step {
			piece := bytes.Clone(stream[at:min(at+step, len(stream))])
			got, err := f.Feed(piece, func(op byte, payload []byte) { control = append(control, string(rune('0'+op))+string(payload)) })
			if err != nil {
				t.Fatal(err)
			}
			data = append(data, got...)
		}
		if string(data) != "one two "+long {
			t.Fatalf("step %d: data %q", step, data)
		}
		if want := []string{"9are you there", ":", "8\x03\xe8"}; strings.Join(control, "|") != strings.Join(want, "|") {
			t.Fatalf("step %d: control %q", step, control)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x82, 3, 1, 2, 3, 0x89, 0}, 2)
	f.Add([]byte{0x82, 126, 0, 200}, 1)
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 9}, 3)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		step = min(max(step, 1), len(b)+1)
		var whole, pieces mqttclient.Frames
		nothing := func(byte, []byte) {}
		want, wantErr := whole.Feed(bytes.Clone(b), nothing)
		var got []byte
		var gotErr error
		for at := 0; at < len(b) && gotErr == nil; at += step {
			var part []byte
			part, gotErr = pieces.Feed(bytes.Clone(b[at:min(at+step, len(b))]), nothing)
			got = append(got, part...)
		}
		if !bytes.Equal(got, want) || (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("in pieces of %d: %x, %v; at once: %x, %v", step, got, gotErr, want, wantErr)
		}
	})
}

func TestDialGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mqttclient.Dial(ctx, mqttclient.Options{URL: "127.0.0.1:1"}); err == nil {
		t.Fatal("connected to nobody")
	}
}
