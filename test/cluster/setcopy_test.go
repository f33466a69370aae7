package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A node that has lost its disk gets a copy, and the leader of another set than the one of who gives it is killed meanwhile. It comes along as soon as another node leads that set, and
// makes up the majority with it; what was acknowledged is there, also at a node that leads by what it has got alone.
func TestCopyWhileAnotherLeaderIsAway(t *testing.T) {
	t.Parallel()
	small := []string{"journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB", "journal.checkpoint_interval=200ms", "cluster.catchup_rate=1MiB"}
	c := common.StartCluster(t, 3, small...)
	ctx, cancel := context.WithTimeout(context.Background(), 5*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	if c.Leader() != c.Nodes[0] {
		lead(t, c, c.Nodes[0])
	}
	c.Must("shard", "sets", "3", "--wait")
	const partitions = 3
	spreadTopic(ctx, t, l, "spread", partitions)
	produce(ctx, t, l, "gone", 0, 4000)
	produce(ctx, t, l, "copied", 0, 2000)
	awaitSets(t, c, "node 2 leads a set", func(list []shardSet) bool { return syncedIn(3)(list) && list[2].Leader == 2 })
	w := keepNumbering(ctx, l, "spread", partitions)
	w.progress("before")
	other, n := c.Nodes[1], c.Nodes[2]
	n.Kill()
	c.Must("topic", "delete", "gone")
	testx.Eventually(t, longest, func() bool { return !firstSegment(t, c.Nodes[0].Dir) }, "the log has let go of its first segment")
	w.progress("with two nodes")
	c.Replace(n)
	said := func(what string) func() bool {
		return func() bool { return strings.Contains(n.Broker().Log(), what) }
	}
	testx.Eventually(t, longest, said("this node votes on the catalog"), "the node has a vote")
	other.Kill()
	if said("starts anew with it")() {
		t.Error("the node had its copy before the leader of the other set was killed")
	}
	began := time.Now()
	awaitSets(t, c, "the node and the first one are in sync in all sets", func(list []shardSet) bool {
		return !slices.ContainsFunc(list, func(s shardSet) bool { return s.Leader == 0 || !slices.Equal(s.InSync, []int{1, 3}) })
	})
	t.Logf("two of three in sync after %v", time.Since(began).Round(time.Millisecond))
	if !said("starts anew with it")() {
		t.Error("the node got no copy")
	}
	w.progress("with the node that has a copy")
	other.Start()
	awaitSets(t, c, "all nodes are in sync in all sets", syncedIn(3))
	c.Must("shard", "move", "--to", fmt.Sprint(n.ID), "--all", "--wait")
	awaitSets(t, c, "the node leads all sets", ledAll(n.ID))
	w.progress("where the node leads")
	least, most := w.least(), w.stop()
	wantNumbers(t, l.readWhole(ctx, "spread", partitions), least, most)
	checkRecords(ctx, t, l, 2000)
}
