package cluster

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// sentTo connects at an address: "": it is served there, or else where it is sent to.
func sentTo(t *testing.T, at string, version byte) (to string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	c, ack, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + at, Connect: wire.Connect{ClientID: []byte("sent"), Version: version, CleanStart: true}})
	var refused *mqttclient.RefusedError
	if errors.As(err, &refused) && refused.Reason == wire.UseAnotherServer {
		return string(ack.ServerReference), nil
	}
	if err == nil {
		_ = c.Close()
	}
	return "", err
}

// served is the node at which a client of MQTT 5 ends up that begins at n, by as many steps as there are nodes at most.
func served(t *testing.T, c *common.Cluster, n *common.Node) *common.Node {
	t.Helper()
	at, steps := n.MQTT, 0
	testx.Eventually(t, longest, func() bool {
		to, err := sentTo(t, at, wire.V5)
		switch {
		case err != nil:
			return false
		case to == "":
			return true
		}
		if steps++; steps > len(c.Nodes) {
			t.Fatalf("sent from %s to %s, step %d", at, to, steps)
		}
		at = to
		return false
	}, "a client that begins at node ", n.ID, " is served")
	for _, n := range c.Nodes {
		if n.MQTT == at {
			return n
		}
	}
	t.Fatalf("sent to %s, where no node is", at)
	return nil
}

// sentOn: a node that hands over the lead, since it is drained or moved, or stops, sends its clients of MQTT 5 to the one that leads next, and tells those of MQTT 3
// nothing. It gives the node that leads then.
func sentOn(t *testing.T, c *common.Cluster, was *common.Node) *common.Node {
	t.Helper()
	for _, how := range []string{"drain", "move", "stop"} {
		var clients [2]*mqttclient.Client
		for i, version := range []byte{wire.V5, wire.V311} {
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			defer cancel()
			var err error
			if clients[i], _, err = mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + was.MQTT, Connect: wire.Connect{ClientID: []byte{'c', version}, Version: version, CleanStart: true}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = clients[i].Close() })
		}
		id := strconv.Itoa(was.ID)
		switch how {
		case "drain":
			if out, err := was.Run("node", "drain", id); err != nil {
				t.Fatal(out, err)
			}
		case "move":
			if out, err := was.Run("shard", "move", "--to", strconv.Itoa(was.ID%3+1)); err != nil {
				t.Fatal(out, err)
			}
		default:
			was.Stop()
		}
		for i, told := range []bool{true, false} {
			packets, err := clients[i].WaitClosed(longest)
			if err != nil || len(packets) == 0 == told {
				t.Fatalf("%s: a client of node %d got %v, %v; told is %v", how, was.ID, packets, err, told)
			}
			if !told {
				continue
			}
			d, err := packets[0].Disconnect()
			to := slices.IndexFunc(c.Nodes, func(n *common.Node) bool { return n != was && n.MQTT == string(d.ServerReference) })
			if err != nil || d.Reason != wire.UseAnotherServer || to < 0 || how == "move" && to != was.ID%3 {
				t.Errorf("%s: node %d sends its clients to %q: %v, %v", how, was.ID, d.ServerReference, d.Reason, err)
			}
		}
		switch how {
		case "drain":
			if out, err := was.Run("node", "drain", id, "--end"); err != nil {
				t.Fatal(out, err)
			}
		case "stop":
			was.Start()
		}
		c.AwaitSynced()
		was = c.Leader()
	}
	return was
}

// TestRedirected: with mqtt.redirect a client of MQTT 5 that comes to a node which does not lead is sent to the one that does, and is served there; one of MQTT 3 is carried. So it is
// with the next leader.
func TestRedirected(t *testing.T) {
	c := common.StartCluster(t, 3, "mqtt.redirect=connect")
	was := c.Leader()
	for _, n := range c.Nodes {
		if n == was {
			continue
		}
		testx.Eventually(t, longest, func() bool {
			to, err := sentTo(t, n.MQTT, wire.V5)
			return err == nil && to == was.MQTT
		}, "node ", n.ID, " sends clients to the one that leads")
		if to, err := sentTo(t, n.MQTT, wire.V311); err != nil || to != "" {
			t.Errorf("a client of MQTT 3 at node %d: sent to %q, %v", n.ID, to, err)
		}
	}
	if to, err := sentTo(t, was.MQTT, wire.V5); err != nil || to != "" {
		t.Errorf("a client at the node that leads: sent to %q, %v", to, err)
	}
	was = sentOn(t, c, was)
	was.Kill()
	now := c.Leader()
	for _, n := range c.Nodes {
		if n == was {
			continue
		}
		if at := served(t, c, n); at != now && at != c.Leader() {
			t.Errorf("a client that begins at node %d is served at node %d, and node %d leads", n.ID, at.ID, now.ID)
		}
	}
	was.Start()
	c.AwaitSynced()
	served(t, c, was)
}
