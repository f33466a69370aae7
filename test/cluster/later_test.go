package cluster

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// What is to be published later outlives the node that has taken it: a delayed message comes once, not before its time, one that was taken back does not, and so do the wills of clients
// that were gone when the leader was killed, and of those that went with it.
func TestLaterOverLostLeader(t *testing.T) {
	c := common.StartCluster(t, 3)
	was := c.Leader()
	other := c.Nodes[was.ID%3]
	keepSession(t, other, "sub", 3600, "later/#")
	willing := func(n *common.Node, id string, delay uint32) *mqttclient.Client {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		k := wire.Connect{ClientID: []byte(id), SessionExpiry: 3600, HasWill: true, Will: wire.Will{Topic: []byte("later/will"), Payload: []byte(id), QoS: 1, Delay: delay}}
		cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.MQTT, Connect: k})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cl.Close() })
		return cl
	}
	willing(was, "goes with the leader", 0)
	if err := willing(other, "gone before", 10).Close(); err != nil {
		t.Fatal(err)
	}
	pub, _ := dial(t, other, "pub", 3600)
	const delay = 12 * time.Second
	due := time.Now().Add(delay)
	publish(t, pub, "$delayed/12/later/comes", "comes", false)
	publish(t, pub, "$delayed/12/later/cancelled", "cancelled", false)
	publish(t, pub, "$delayed/12/later/comes", "comes too", false)
	publish(t, pub, "$delayed/cancel/later/cancelled", "", false)
	was.Kill()
	if now := c.Leader(); now == was {
		t.Fatal("the node that was killed leads")
	}
	var again *mqttclient.Client
	testx.Eventually(t, longest, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		var err error
		again, _, err = mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + other.MQTT, Connect: wire.Connect{ClientID: []byte("sub"), SessionExpiry: 3600}})
		return err == nil
	}, "the subscriber comes back")
	defer func() { _ = again.Close() }()
	var got []string
	for len(got) < 4 {
		m, err := again.Receive(longest)
		if err != nil {
			t.Fatalf("%v, behind %q\n%s", err, got, c.Logs())
		}
		got = append(got, string(m.Payload))
		if early := time.Until(due); string(m.Topic) == "later/comes" && early > 0 {
			t.Errorf("%s comes %v before its time", m.Payload, early)
		}
	}
	if m, err := again.Receive(3 * time.Second); err == nil { // three turns of what is due
		t.Errorf("%s %q as well", m.Topic, m.Payload)
	}
	if slices.Sort(got); !slices.Equal(got, []string{"comes", "comes too", "goes with the leader", "gone before"}) {
		t.Errorf("%q", got)
	}
}
