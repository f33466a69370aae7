package cluster

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// Two of three nodes are lost with their disks. The third one, which followed, goes on alone as a new cluster with all that was acknowledged; a lost node joins it
// anew, and one of the old cluster that comes back after all is refused.
func TestMajorityLost(t *testing.T) {
	c := common.StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	l := &load{t: t, c: c}
	const records = 2000
	produce(ctx, t, l, "copied", 0, records)
	keepSession(t, c.Nodes[1], "kept", 3600, "kept/#")
	pub, _ := dial(t, c.Nodes[0], "pub", 0)
	publish(t, pub, "kept/a", "waits", true)
	c.Must("ban", "add", "--client-id", "stranger")
	c.AwaitSynced()
	for _, n := range c.Nodes {
		n.Kill()
	}
	survivor, old, again := c.Nodes[1], c.Nodes[0], c.Nodes[2]
	if found := recoverNode(t, survivor); found.Cluster != "" || !found.Whole || found.Node != 2 || !slices.Contains(found.InSync, 2) {
		t.Fatalf("before it is recovered the node says %+v", found)
	}
	found := recoverNode(t, survivor, "--accept-loss")
	if found.Cluster == "" || found.Cluster == found.Was {
		t.Fatalf("recovered: %+v", found)
	}
	for _, more := range [][]string{nil, {"--accept-loss"}} {
		if again := recoverNode(t, survivor, more...); again.Cluster != found.Cluster || again.Was != found.Was {
			t.Errorf("once more, with %v: %+v, want it as before: %+v", more, again, found)
		}
	}
	c.Nodes = []*common.Node{survivor}
	survivor.Start()
	if s, _ := c.Leader().Status(); s.Epoch <= found.Epoch {
		t.Errorf("it leads in epoch %d, after %d", s.Epoch, found.Epoch)
	}
	checkRecords(ctx, t, l, records)
	if out := c.Must("ban", "list"); !strings.Contains(out, "stranger") {
		t.Errorf("bans are not there: %s", out)
	}

	if err := os.RemoveAll(again.Dir); err != nil {
		t.Fatal(err)
	}
	c.Must("node", "add", "3", "--address", again.Between)
	again.Set("cluster.peers=" + survivor.Between)
	again.Start()
	c.Nodes = append(c.Nodes, again)
	old.Start() // serves nobody: it has no majority, and finds nobody of its cluster
	testx.Eventually(t, longest, func() bool { return strings.Contains(survivor.Broker().Log(), "node refused") }, "a node of the old cluster is refused")
	old.Kill()
	c.AwaitSynced()
	survivor.Kill()
	survivor.Start()
	kept, ack := dial(t, again, "kept", 3600)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	receive(t, kept, "waits")
	checkRecords(ctx, t, l, records)
	if t.Failed() {
		t.Log(c.Logs())
	}
}

type recovered struct {
	Node    int
	Was     string
	Cluster string
	Epoch   uint32
	InSync  []int `json:"in_sync"`
	Whole   bool
}

// recoverNode runs `sluice node recover` for a node that does not run.
func recoverNode(t *testing.T, n *common.Node, args ...string) (r recovered) {
	t.Helper()
	args = append([]string{"node", "recover", "--data", n.Dir, "--set", "node.id=2", "--set", "listeners.cluster=" + n.Between, "--output", "json"}, args...)
	out, err := exec.Command(common.Binary(t), args...).Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return r
}
