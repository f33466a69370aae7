package cluster

import (
	"context"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// A listener with rules of its own works the same through every node. A node whose listener of the name has others is refused by the one that leads, so that
// nobody is served by rules that are not those of the listener at which he came in.
func TestNamedListeners(t *testing.T) {
	const plant, other = "listeners.mqtt.named=[{name: plant, address: '127.0.0.1:0', mountpoint: plant/}]", "listeners.mqtt.named=[{name: plant, address: '127.0.0.1:0'}]"
	c := common.StartCluster(t, 2, plant)
	at := testx.ClosedAddr(t)
	c.AddNode(at, other, "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	c.AwaitSynced()
	lead(t, c, c.Nodes[0])
	enter := func(n *common.Node, id string) (*mqttclient.Client, error) {
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		m, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.Broker().Listeners["mqtt.plant"], Connect: wire.Connect{ClientID: []byte(id)}})
		if m != nil {
			t.Cleanup(func() { _ = m.Close() })
		}
		return m, err
	}
	subscribe := func(m *mqttclient.Client, filter string) {
		t.Helper()
		if _, err := m.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	whole, _ := dial(t, c.Nodes[1], "whole", 0)
	subscribe(whole, "plant/+")
	for _, n := range c.Nodes[:2] { // here and carried
		m, err := enter(n, "press")
		if err != nil {
			t.Fatalf("node %d: %v", n.ID, err)
		}
		subscribe(m, "jobs")
		publish(t, m, "state", "up", false)
		if got, err := whole.Receive(longest); err != nil || string(got.Topic) != "plant/state" {
			t.Fatalf("node %d: %q, %v", n.ID, got.Topic, err)
		}
		publish(t, whole, "plant/jobs", "7", false)
		if got, err := m.Receive(longest); err != nil || string(got.Topic) != "jobs" {
			t.Fatalf("node %d: %q, %v", n.ID, got.Topic, err)
		}
		receive(t, whole, "7")
	}
	if _, err := enter(c.Nodes[2], "strange"); err == nil {
		t.Error("a client of a listener with other rules was let in")
	}
	testx.Eventually(t, longest, func() bool { return strings.Contains(c.Nodes[2].Broker().Log(), "with other rules") }, "the node says why")
	if t.Failed() {
		t.Log(c.Logs())
	}
}
