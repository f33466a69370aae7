package cluster

import (
	"context"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// exclusively asks at a node for a filter until it is answered.
func exclusively(t *testing.T, n *common.Node, id string, expiry uint32) (code wire.ReasonCode) {
	t.Helper()
	testx.Eventually(t, longest, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.MQTT, Connect: wire.Connect{ClientID: []byte(id), SessionExpiry: expiry}})
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte("$exclusive/x/+"), QoS: 1})
		if err != nil {
			return false
		}
		code = codes[0]
		return true
	}, "node ", n.ID, " answers ", id)
	return code
}

// An absent session holds its filter over the loss of the leader, at each of the nodes, and lets go when it ends.
func TestHolderOverLostLeader(t *testing.T) {
	c := common.StartCluster(t, 3, "mqtt.exclusive_subscription=true")
	was := c.Leader()
	if got := exclusively(t, was, "holder", 1000); got != wire.GrantedQoS1 {
		t.Fatal(got)
	}
	was.Kill()
	for _, n := range c.Nodes {
		if n == was {
			continue
		}
		if got := exclusively(t, n, "other", 0); got != wire.QuotaExceeded {
			t.Errorf("at node %d: %v", n.ID, got)
		}
	}
	now := c.Leader()
	if got := exclusively(t, now, "holder", 0); got != wire.GrantedQoS1 { // its session ends with that connection
		t.Errorf("the holder: %v", got)
	}
	testx.Eventually(t, longest, func() bool { return exclusively(t, now, "other", 0) == wire.GrantedQoS1 }, "it is free")
	was.Start()
	c.AwaitSynced()
}
