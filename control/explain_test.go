package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func (n *node) explain() api.ExplanationsClient { return api.NewExplanationsClient(n.conn) }

// subscriber connects a client with a receive maximum, and subscribes it.
func (n *node) subscriber(id, filter string, qos, receiveMax int, expiry uint32) *mqttclient.Client {
	n.t.Helper()
	c, _, err := mqttclient.Connect(n.t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"],
		Connect: wire.Connect{Version: 5, ClientID: []byte(id), CleanStart: true, SessionExpiry: expiry, ReceiveMaximum: uint16(receiveMax)}})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: byte(qos)}); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// publish sends n messages to a topic.
func (n *node) publish(c *mqttclient.Client, topic string, qos byte, count, size int) {
	n.t.Helper()
	for range count {
		if _, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: make([]byte, size), QoS: qos}); err != nil {
			n.t.Fatal(err)
		}
	}
}

// lately says how something stands when it is asked.
type lately func() string

func (l lately) String() string { return l() }

// held waits until a client is held by kind, and gives what the node says of it.
func (n *node) held(id, kind string, says ...string) (found *api.ClientExplanation) {
	n.t.Helper()
	var last *api.ExplainClientResponse
	ok := func() bool {
		r, err := n.explain().ExplainClient(n.t.Context(), &api.ExplainClientRequest{Id: id})
		if err != nil || len(r.Connections) != 1 {
			n.t.Fatalf("explain %s: %v, %v", id, r, err)
		}
		last = r
		c := r.Connections[0]
		if len(c.Holders) == 0 || c.Holders[0].Kind != kind {
			return false
		}
		for _, s := range says {
			if !strings.Contains(c.Holders[0].Why, s) {
				return false
			}
		}
		found = c
		return true
	}
	testx.Eventually(n.t, 30*time.Second, ok, lately(func() string { return fmt.Sprintf("%s is held by %s with %q: %v", id, kind, says, last) }))
	return found
}

func TestExplainWhoHoldsAClient(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	pub := n.mqtt("pub", 0, 5)

	t.Run("nothing", func(t *testing.T) {
		n.subscriber("idle", "idle", 1, 0, 0)
		r, err := n.explain().ExplainClient(ctx, &api.ExplainClientRequest{Id: "idle"})
		if err != nil || len(r.Connections) != 1 || len(r.Connections[0].Holders) != 0 {
			t.Fatalf("%v, %v", r, err)
		}
		if c := r.Connections[0]; c.Client.Listener != "mqtt.tcp" || c.Pressure != "none" || c.LoopDelayUs == 0 || c.Window == 0 || r.Session != nil {
			t.Errorf("%v", r)
		}
	})
	t.Run("window", func(t *testing.T) { // it reads, and acknowledges nothing
		n.subscriber("mute", "mute", 1, 3, 0)
		n.publish(pub, "mute", 1, 5, 10)
		c := n.held("mute", "window", "3 of 3 messages unacknowledged, none acknowledged for", "2 more wait in memory")
		if c.Client.InFlight != 3 || c.ReceiveMax != 3 || c.SilentUs == 0 {
			t.Errorf("%v", c)
		}
	})
	t.Run("window of a kept session", func(t *testing.T) {
		c := n.subscriber("mute2", "mute2", 1, 2, 3600)
		n.publish(pub, "mute2", 1, 4, 10)
		if x := n.held("mute2", "window", "2 of 2 messages unacknowledged", "more wait in the log"); !x.Behind {
			t.Errorf("%v", x)
		}
		for range 4 { // acknowledged, nothing holds it any more
			if _, err := c.Receive(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		testx.Eventually(t, 10*time.Second, func() bool {
			r, err := n.explain().ExplainClient(ctx, &api.ExplainClientRequest{Id: "mute2"})
			return err == nil && len(r.Connections[0].Holders) == 0
		}, "it is held by nothing any more")
	})
}

func TestExplainPeersAndQuotas(t *testing.T) {
	n := start(t)
	pub := n.mqtt("pub", 0, 5)
	t.Run("peer", func(t *testing.T) { // it does not read
		n.subscriber("deaf", "deaf", 0, 0, 0)
		n.publish(pub, "deaf", 0, 200, 256<<10)
		c := n.held("deaf", "peer", "has taken nothing for", "QoS 0 messages are dropped")
		if c.OutBytes == 0 || c.StalledUs == 0 || c.Dropped["slow_reader"] == 0 {
			t.Errorf("%v", c)
		}
		if c.Network != nil {
			n.held("deaf", "peer", "it does not read") // once the kernel has sent what the client's buffer takes
		}
	})
	t.Run("quota of what it is sent", func(t *testing.T) {
		n.bound("eater", "consumer_byte_rate", 100)
		c := n.subscriber("eater", "eater", 1, 0, 0)
		go func() { // it takes all that it gets
			for {
				if _, err := c.Receive(time.Minute); err != nil {
					return
				}
			}
		}()
		n.publish(pub, "eater", 1, 3, 2000)
		if c := n.held("eater", "quota", "what it was sent is over its consumer_byte_rate"); c.SendOwedUs == 0 {
			t.Errorf("%v", c)
		}
	})
	t.Run("quota of what it publishes", func(t *testing.T) {
		n.bound("talker", "producer_byte_rate", 100)
		n.publish(n.mqtt("talker", 0, 5), "nobody", 0, 2, 5000)
		if c := n.held("talker", "quota", "what it has sent is over a quota"); c.ReadOwedUs == 0 || len(c.NotRead) == 0 || c.NotRead[0] != "quota" {
			t.Errorf("%v", c)
		}
	})
}

// bound sets a quota of a client id.
func (n *node) bound(id, key string, rate float64) {
	n.t.Helper()
	_, err := n.quotas().Set(n.t.Context(), &api.SetQuotaRequest{Entity: &api.QuotaEntity{ClientId: &api.QuotaPart{Name: id}}, Bounds: map[string]float64{key: rate}})
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestExplainAbsentClients(t *testing.T) {
	n := start(t, "limits.session_messages=1024")
	ctx := t.Context()
	c := n.subscriber("gone", "gone/#", 1, 0, 3600)
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	pub := n.mqtt("pub", 0, 5)
	for i := range 3000 {
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte(fmt.Sprintf("gone/%d", i%4)), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	testx.Eventually(t, 20*time.Second, func() bool {
		r, err := n.explain().ExplainClient(ctx, &api.ExplainClientRequest{Id: "gone"})
		return err == nil && len(r.Connections) == 0 && r.Session != nil && r.SessionDropped["session_messages"] > 0 && len(r.Holders) == 1 &&
			r.Holders[0].Kind == "away" && strings.Contains(r.Holders[0].Why, "messages wait for it in the log")
	}, "the session that is away, and what was dropped of it")
	_, err := n.explain().ExplainClient(ctx, &api.ExplainClientRequest{Id: "absent"})
	wants(t, err, codes.NotFound, "it is not connected, and has no session that is kept")
	_, err = n.explain().ExplainClient(ctx, &api.ExplainClientRequest{})
	wants(t, err, codes.InvalidArgument, "want an id or the number")
}

// TestExplainKafkaClients has them seen by the same eyes, as far as their protocol has the same things.
func TestExplainKafkaClients(t *testing.T) {
	n := start(t)
	n.create("orders", 1)
	c := n.kafka(kgo.ClientID("pipeline"))
	n.produce(c, "orders", 0, "x", time.Now())
	r, err := n.explain().ExplainClient(t.Context(), &api.ExplainClientRequest{Id: "pipeline"})
	if err != nil || len(r.Connections) == 0 || r.Session != nil {
		t.Fatalf("%v, %v", r, err)
	}
	for _, c := range r.Connections {
		if c.Client.Protocol != "Kafka" || c.Window != 0 || c.OutBound == 0 || len(c.Holders) != 0 {
			t.Errorf("%v", c)
		}
	}
	n.bound("pipeline", "producer_byte_rate", 10)
	n.produce(c, "orders", 0, strings.Repeat("x", 1000), time.Now())
	testx.Eventually(t, 20*time.Second, func() bool {
		r, err := n.explain().ExplainClient(t.Context(), &api.ExplainClientRequest{Id: "pipeline"})
		return err == nil && slices.ContainsFunc(r.Connections, func(c *api.ClientExplanation) bool {
			return len(c.Holders) > 0 && c.Holders[0].Kind == "quota" && c.ReadOwedUs > 0
		})
	}, "the producer's connection is held by its quota")
}
