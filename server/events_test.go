package server

import (
	"strings"
	"testing"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// eventsConfig is a node of one door that keeps nothing.
func eventsConfig(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Node.Data, cfg.Journal.Durability = t.TempDir(), "memory"
	cfg.Listeners = config.Listeners{MQTT: cfg.Listeners.MQTT}
	cfg.Listeners.MQTT.TCP = config.Addrs{"127.0.0.1:0"}
	cfg.Listeners.MQTT.TLS, cfg.Listeners.MQTT.WS, cfg.Listeners.MQTT.WSS, cfg.Listeners.MQTT.Unix = nil, nil, nil, nil
	return cfg
}

// Kinds are switched by a reload, and what is counted is what was told.
func TestEventsReload(t *testing.T) {
	cfg := eventsConfig(t)
	bad := cfg
	bad.Events.KafkaTopic = "no/topic"
	if _, err := New(bad, Options{}); err == nil || !strings.Contains(err.Error(), "events.kafka_topic") {
		t.Errorf("a name that is none: %v", err)
	}
	s, err := New(cfg, Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := "mqtt://" + ready.Listeners["mqtt.tcp"]
	watch := dial(t, url, "watch", 0)
	subscribe(t, watch, "$SYS/broker/events/#", 0)
	reload := func(kinds ...string) {
		t.Helper()
		next := cfg
		next.Events.Kinds = kinds
		if _, err := s.Reload(next); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Reload(bad); err == nil {
		t.Error("a reload takes a name that is none")
	}
	expect := func(topic, payload string) {
		t.Helper()
		p, err := watch.Receive(patience)
		if err != nil || string(p.Topic) != "$SYS/broker/events/"+topic || !strings.Contains(string(p.Payload), payload) {
			t.Fatalf("want %s %s, got %s %s %v", topic, payload, p.Topic, p.Payload, err)
		}
	}
	dial(t, url, "unsaid", 0)
	reload("session.created")
	dial(t, url, "a", 0)
	expect("session/created", `"client_id":"a"`)
	reload("client.connected")
	dial(t, url, "b", 0)
	expect("client/connected", `"client_id":"b"`)
	reload("off")
	dial(t, url, "unsaid", 0)
	reload("client.disconnected")
	c := dial(t, url, "c", 0)
	if err := c.DisconnectWith(&wire.Disconnect{}); err != nil {
		t.Fatal(err)
	}
	expect("client/disconnected", `"client_id":"c"`)
	counts := s.node.happens.Counts()
	if n := counts.Added; n[events.SessionCreated] != 1 || n[events.ClientConnected] != 1 || n[events.ClientDisconnected] < 1 || counts.Full != 0 || s.node.events.lost.Load() != 0 {
		t.Errorf("%+v", counts)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
