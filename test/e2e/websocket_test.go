package e2e

import (
	"errors"
	"io"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// dialWS opens a WebSocket without a CONNECT. The client insists on the subprotocol mqtt.
func (w *world) dialWS() (*client, *mqttclient.WSConn) {
	w.Helper()
	c, err := mqttclient.Dial(w.Context(), mqttclient.Options{URL: w.n.ws, Connect: wire.Connect{Version: w.version}})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return &client{Client: c, w: w}, c.Conn().(*mqttclient.WSConn)
}

// Conformance: MQTT-6.0.0-2 (3.1.1, 5.0), MQTT-6.0.0-4 (3.1.1, 5.0)
func TestWebSocketFrames(t *testing.T) {
	each(t, both, func(w *world) {
		c, ws := w.dialWS()
		b := wire.AppendConnect(nil, &wire.Connect{Version: w.version, ClientID: []byte(w.id("c")), CleanStart: true})
		b = wire.AppendSubscribe(b, w.version, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte(w.name("a")), QoS: 1}}})
		b = wire.AppendPublish(b, w.version, &wire.PublishOut{Topic: []byte(w.name("a")), Payload: make([]byte, 5000), QoS: 1, PacketID: 2})
		for len(b) > 0 {
			n := min(7+len(b)%60, len(b))
			if err := ws.WriteFrame(2, b[:n]); err != nil {
				w.Fatal(err)
			}
			b = b[n:]
		}
		c.next(wire.CONNACK)
		c.next(wire.SUBACK)
		seen := map[wire.PacketType]bool{}
		for range 2 {
			p, err := c.ReadPacket(patience)
			if err != nil {
				w.Fatal(err)
			}
			seen[p.Type] = true
		}
		if !seen[wire.PUBLISH] || !seen[wire.PUBACK] {
			w.Errorf("%v", seen)
		}
	})
}

// Conformance: MQTT-6.0.0-1 (3.1.1, 5.0)
func TestWebSocketTextFrame(t *testing.T) {
	each(t, both, func(w *world) {
		c, ws := w.dialWS()
		if err := ws.WriteFrame(1, wire.AppendConnect(nil, &wire.Connect{Version: w.version, ClientID: []byte("c"), CleanStart: true})); err != nil {
			w.Fatal(err)
		}
		if packets, err := c.WaitClosed(patience); err != nil || len(packets) > 0 {
			w.Errorf("%v %v", packets, err)
		}
	})
}

// A refusal reaches a WebSocket client too, and the connection ends behind it.
func TestWebSocketRefusal(t *testing.T) {
	each(t, both, func(w *world) {
		c, _ := w.dialWS()
		c.send([]byte{0xC0, 0})
		if _, err := c.ReadPacket(patience); err == nil || errors.Is(err, mqttclient.ErrTimeout) {
			w.Errorf("%v, want %v", err, io.EOF)
		}
	})
}
