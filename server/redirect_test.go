package server

import (
	"testing"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/meta"
)

func TestMQTTDoors(t *testing.T) {
	l := config.MQTTListeners{AdvertisedTLS: "lb:8883"}
	got := mqttDoors(&l, map[string]string{"mqtt.tcp": "[::]:1883", "mqtt.tls": "10.0.0.2:8883", "mqtt.ws": "10.0.0.2:8083", "mqtt.unix": "/s"}, "n2:7000")
	if want := (meta.Doors{Plain: "n2:1883", TLS: "lb:8883", WS: "10.0.0.2:8083"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestRedirect: a client is sent to the same kind of listener, and never to an address that both nodes name: behind a load balancer it might come back for ever.
func TestRedirect(t *testing.T) {
	own := &meta.Node{ID: 1, MQTT: meta.Doors{Plain: "a:1883", TLS: "lb:8883", WSS: "a:8084"}}
	leader := &meta.Node{ID: 2, MQTT: meta.Doors{Plain: "b:1883", TLS: "lb:8883", WS: "b:8083"}}
	for listener, want := range map[string]string{"mqtt.tcp": "b:1883", "mqtt.tls": "", "mqtt.ws": "b:8083", "mqtt.wss": "", "mqtt.unix": "", "mqtt.plant": ""} {
		if got := redirect(own, leader, listener); got != want {
			t.Errorf("%s: %q, want %q", listener, got, want)
		}
	}
	if got := redirect(own, nil, "mqtt.tcp"); got != "" {
		t.Errorf("to a node that is not known: %q", got)
	}
}
