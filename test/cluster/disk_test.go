package cluster

import (
	"context"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// The disk of one node is full, be it one that follows or the one that leads: clients go on with the two others, and once there is room the node, started again
// if it has ended, is in sync. Nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	c := common.StartClusterOn(t, common.Ground{Disks: "192m"}, 3, "journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB")
	ctx, cancel := context.WithTimeout(context.Background(), 5*longest)
	defer cancel()
	l := &load{t: t, c: c}
	const records = 2000
	produce(ctx, t, l, "copied", 0, records)
	have := records
	for _, leads := range []bool{false, true} {
		n := c.Leader()
		for _, o := range c.Nodes {
			if !leads && o != n {
				n = o
				break
			}
		}
		n.Disk.Fill()
		produce(ctx, t, l, "copied", have, 3*records)
		have += 3 * records
		n.Disk.Empty()
		t.Logf("node %d has had a full disk, it leads: %v", n.ID, leads)
		testx.Eventually(t, longest, func() bool {
			if n.Broker().Ended() {
				t.Logf("it has ended")
				n.Kill()
				n.Start()
			}
			s, ok := c.Leader().Status()
			return ok && len(s.InSync) == len(c.Nodes)
		}, "all nodes are in sync")
	}
	checkRecords(ctx, t, l, have)
}
