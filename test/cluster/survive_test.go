package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// lead has a node lead.
func lead(t *testing.T, c *common.Cluster, n *common.Node) {
	t.Helper()
	testx.Eventually(t, longest, func() bool {
		if c.Leader() == n {
			return true
		}
		_, _ = n.Run("shard", "move", "--to", strconv.Itoa(n.ID))
		return false
	}, "node ", n.ID, " leads")
}

// The clocks of three nodes are an hour apart. They warn of it, and lead by turns: records are there in their order, a transaction that was begun at one node is
// committed at the next one, sessions stay, and a leader keeps its lease.
func TestClocksAnHourOff(t *testing.T) {
	c := common.StartCluster(t, 3)
	for i, by := range []time.Duration{0, time.Hour, -time.Hour} {
		c.Nodes[i].Stop()
		c.Nodes[i].Skew(by)
		c.Nodes[i].Start()
		c.AwaitSynced()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	cl := l.open(kgo.TransactionalID("clocks"))
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopics(ctx, 1, -1, nil, "whole"); err != nil {
		t.Fatal(err)
	}
	keepSession(t, c.Nodes[0], "kept", 3*3600, "kept/#")
	for i := range 4 { // to each node from the one before, forward in time and back
		lead(t, c, c.Nodes[i%3])
		if i > 0 {
			if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
				t.Fatalf("a transaction of node %d's at node %d: %v", c.Nodes[i-1].ID, c.Nodes[i%3].ID, err)
			}
		}
		produce(ctx, t, l, "copied", i*500, 500)
		if i == 3 {
			break
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for k := range txRecords {
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "whole", Value: fmt.Appendf(nil, "%d/%d", i, k)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkRecords(ctx, t, l, 2000)
	seen := l.readCommitted(ctx, func(seen map[int]int) bool { return len(seen) == 3 && seen[2] == txRecords })
	if seen[0] != txRecords || seen[1] != txRecords {
		t.Errorf("transactions: %v", seen)
	}
	pub, _ := dial(t, c.Nodes[1], "pub", 0)
	publish(t, pub, "kept/a", "waits", false)
	again, ack := dial(t, c.Nodes[2], "kept", 3*3600)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	receive(t, again, "waits")
	for _, n := range c.Nodes[1:] {
		if !strings.Contains(n.Broker().Log(), "the clock of a node differs") {
			t.Errorf("node %d does not say that clocks differ", n.ID)
		}
	}
	began, _ := c.Leader().Status()
	<-time.After(3 * time.Second) // more than two leases
	if now, ok := c.Leader().Status(); !ok || now.Epoch != began.Epoch {
		t.Logf("epoch %d became %d in three seconds", began.Epoch, now.Epoch) // a starved machine does that as well
	}
}

// A node that comes back at another address says so itself: the others find it there, and it them.
func TestAddressOfANodeChanges(t *testing.T) {
	c := common.StartCluster(t, 3)
	n := c.Nodes[2]
	n.Stop()
	at := testx.ClosedAddr(t)
	n.Set("listeners.cluster=" + at)
	n.Start()
	c.AwaitSynced()
	for _, o := range c.Nodes {
		testx.Eventually(t, longest, func() bool {
			out, err := o.Run("node", "list")
			return err == nil && strings.Contains(out, at) && !strings.Contains(out, n.Between)
		}, "node ", o.ID, " has the new address")
	}
	lead(t, c, n)
	c.AwaitSynced()
}

// Somebody gives a node a directory that is of another cluster: both say so by name, neither takes anything from the other, and each serves what it had.
func TestDiskOfAnotherCluster(t *testing.T) {
	at, addr := testx.ClosedAddr(t), testx.ClosedAddr(t)
	other := newNode(t, 2, "listeners.cluster="+addr)
	other.must("user", "add", "theirs")
	if err := other.Stop(); err != nil {
		t.Fatal(err)
	}
	one := newNode(t, 1, "listeners.cluster="+at)
	one.must("user", "add", "ours")
	one.must("node", "add", "2", "--address", addr)
	other.settings = append(other.settings, "cluster.peers="+at)
	other.start()
	one.counts(`sluice_link_refusals_total{reason="cluster"}`)
	testx.Eventually(t, soon, func() bool { return strings.Contains(one.Log(), "is of cluster") }, "it is said which")
	if out := one.must("user", "list"); strings.Contains(out, "theirs") || !strings.Contains(out, "ours") {
		t.Errorf("users of node 1:\n%s", out)
	}
	if out := other.must("user", "list"); strings.Contains(out, "ours") || !strings.Contains(out, "theirs") {
		t.Errorf("users of the other cluster:\n%s", out)
	}
	for _, o := range one.nodes().Nodes {
		if o.ID == 2 && o.State == "active" {
			t.Error("node 2 counts as one of the cluster")
		}
	}
}

// The copy that a new node needs is cut again and again in the middle of a frame: it gets it in the end, whole.
func TestCopyCutShort(t *testing.T) {
	net := common.NewNetwork(t)
	small := []string{"journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB", "journal.checkpoint_interval=200ms"}
	c := common.StartClusterOn(t, common.Ground{Net: net}, 3, small...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	const records = 4000
	produce(ctx, t, l, "gone", 0, 3*records)
	produce(ctx, t, l, "copied", 0, records)
	c.Must("topic", "delete", "gone")
	n := c.Nodes[2]
	if c.Leader() == n {
		lead(t, c, c.Nodes[0])
	}
	testx.Eventually(t, longest, func() bool { return !firstSegment(t, c.Leader().Dir) }, "the log has let go of its first segment")
	n.Kill()
	stop := make(chan struct{})
	cut := make(chan int, 1)
	go func() {
		total := 0
		for after := 1000; ; after = after*3/2 + 7 { // each time it gets farther
			select {
			case <-stop:
				cut <- total
				return
			case <-time.After(100 * time.Millisecond):
			}
			if after < 4<<20 {
				total += net.Cut(n.ID, after)
			}
		}
	}()
	c.Replace(n)
	c.AwaitSynced()
	close(stop)
	t.Logf("%d connections were cut", <-cut)
	if log := n.Broker().Log(); !strings.Contains(log, "starts anew with it") {
		t.Error("the node got no copy")
	}
	net.Heal()
	lead(t, c, n)
	checkRecords(ctx, t, l, records)
}
