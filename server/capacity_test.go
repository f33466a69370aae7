package server

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A node with a model says what its work should have cost, what is free and how far it is off.
func TestCapacity(t *testing.T) {
	cfg := config.Default()
	cfg.Node.Data = t.TempDir()
	cfg.Journal.Durability = "memory"
	cfg.Listeners.MQTT.TCP = config.Addrs{"127.0.0.1:0"}
	cfg.Listeners.MQTT.TLS, cfg.Listeners.MQTT.WS, cfg.Listeners.MQTT.WSS, cfg.Listeners.Kafka.TCP = nil, nil, nil, nil
	cfg.Listeners.HTTP, cfg.Listeners.GRPC = config.Addrs{"127.0.0.1:0"}, config.Addrs{"127.0.0.1:0"}
	cfg.Capacity.Model = "../bench/plan/default.json"
	s, err := New(cfg, Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := s.capacity.look(nil)
	c := dial(t, "mqtt://"+ready.Listeners["mqtt.tcp"], "c", 0)
	subscribe(t, c, "x", 0)
	for range 100 {
		if _, err := c.Publish(&wire.PublishOut{Topic: []byte("x"), Payload: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
	}
	var after capacityLook
	testx.Eventually(t, patience, func() bool { // the loops tell what they counted once a second
		after = s.capacity.look(&before)
		return after.events["publish_in_qos0"]-before.events["publish_in_qos0"] == 100
	})
	if spent := after.expected - before.expected; spent <= 0 || spent > 10 {
		t.Errorf("the model says %v s for 100 messages", spent)
	}
	s.capacity.compare(before, after)
	if h := math.Float64frombits(s.capacity.headroom.Load()); h <= 0 || h > 1 {
		t.Errorf("head-room %v", h)
	}
	s.capacity.compare(capacityLook{at: before.at}, capacityLook{at: before.at.Add(10 * time.Second), used: 6, expected: 4})
	if d := math.Float64frombits(s.capacity.drift.Load()); math.Abs(d-0.5) > 1e-9 {
		t.Errorf("6 s used, 4 s expected: drift %v", d)
	}
	s.capacity.compare(capacityLook{at: before.at}, capacityLook{at: before.at.Add(10 * time.Second), used: 0.1, expected: 4})
	if d := math.Float64frombits(s.capacity.drift.Load()); d != 0 {
		t.Errorf("an idle node drifts by %v", d)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Capacity.Model = "nothing.json"
	if s, err = New(cfg, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "capacity.model") {
		t.Errorf("a model that is not there: %v", err)
	}
}
