package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// Three nodes whose history has left their logs are backed up, by a node that does not lead, while the lead moves. Then another node leads, and retention takes
// all: what came later leaves the store, and nothing of what the backup has. What is restored is a cluster of one node that reads history from the store, and so does
// another one that joins it and leads; what it needs stays when the backup is deleted.
func TestBackupOfThreeWithTier(t *testing.T) {
	vault := "local:dir=" + t.TempDir()
	c := startTiered(t, "backup.store="+vault, "tier.delete_delay=1s", "kafka.check_interval=1s")
	keepSession(t, c.Nodes[1], "kept", 3600, "kept/#")
	pub, _ := dial(t, c.Nodes[0], "pub", 0)
	publish(t, pub, "kept/a", "waits", true)
	c.produce(3000)
	c.offload()
	c.lets()
	named := c.objects()
	c.produce(100) // which go on to the store meanwhile, or not
	id := c.backupsWhileMoved()
	want := c.next

	c.offload()
	c.retains(named)
	for _, n := range c.Nodes {
		n.Kill()
	}

	c.next = want
	one, joins := c.Nodes[0], c.Nodes[2]
	if err := os.RemoveAll(one.Dir); err != nil {
		t.Fatal(err)
	}
	r := restoreInto(t, vault, id, one.Dir, "tier.store=local", "tier.settings.dir="+c.store)
	if v := r.Verified; v.TierObjects == 0 || v.TierRead != v.TierObjects {
		t.Errorf("of the backup's history %d objects of %d are read", v.TierRead, v.TierObjects)
	}
	c.Nodes = []*common.Node{one}
	one.Start()
	c.ordered()
	c.whole()
	testx.Eventually(t, longest, func() bool { return len(c.holds("node-")) == 1 }, "the new cluster holds what it needs of the old one's")
	if err := os.RemoveAll(joins.Dir); err != nil {
		t.Fatal(err)
	}
	c.Must("node", "add", "3", "--address", joins.Between)
	joins.Set("cluster.peers=" + one.Between)
	joins.Start()
	c.Nodes = append(c.Nodes, joins)
	c.AwaitSynced()
	if _, err := joins.Run("backup", "delete", id); err != nil {
		t.Error(err)
	}
	if left := c.holds("backup-" + id); len(left) > 0 {
		t.Errorf("%v is left of the backup", left)
	}
	c.Must("shard", "move", "--to", "3")
	c.ordered()
	c.whole()
	c.keeps(joins, one)
	if t.Failed() {
		t.Log(c.Logs())
	}
}

// retains has another node lead, and retention take all that there is: what has come since leaves the store, and nothing of what is named.
func (c *tiered) retains(named []string) {
	c.t.Helper()
	there := c.objects()
	c.move()
	c.produce(500)
	c.offload()
	c.Must("topic", "alter", "temps", "--set", "retention.ms=1")
	testx.Eventually(c.t, longest, func() bool { return c.status(c.Leader()).Objects == 0 }, "retention takes all from the manifest")
	testx.Eventually(c.t, longest, func() bool {
		return !slices.ContainsFunc(c.objects(), func(o string) bool { return !slices.Contains(there, o) })
	}, "what came behind the backup leaves the store")
	for _, o := range named {
		if _, err := os.Stat(o); err != nil {
			c.t.Errorf("the backup has lost an object: %v", err)
		}
	}
}

// keeps looks for the session and the retained message.
func (c *tiered) keeps(at, other *common.Node) {
	t := c.t
	t.Helper()
	kept, ack := dial(t, at, "kept", 3600)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	receive(t, kept, "waits")
	fresh, _ := dial(t, other, "fresh", 0)
	if _, err := fresh.Subscribe(wire.FilterRequest{Filter: []byte("kept/a"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	receive(t, fresh, "waits")
}

// backupsWhileMoved has a node that does not lead take backups while the lead moves, then one more, whose name it gives. What has been refused meanwhile is named,
// and has left nothing that keeps objects in the store.
func (c *tiered) backupsWhileMoved() (id string) {
	c.t.Helper()
	was := c.Leader()
	follower, to := c.Nodes[was.ID%3], c.Nodes[(was.ID+1)%3]
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		_, _ = to.Run("shard", "move", "--to", fmt.Sprint(to.ID)) // or not: the backup is what counts
	}()
	for over := false; !over; {
		select {
		case <-moved:
			over = true
		default:
		}
		if _, err := follower.Run("backup", "create"); err != nil {
			c.t.Log(err)
		}
	}
	c.Leader()
	id = backupBy(c.t, follower)
	var list []struct{ ID, State string }
	if out := c.Must("backup", "list", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil {
		c.t.Fatal(out)
	}
	var complete []string
	for _, b := range list {
		if b.State == "complete" {
			complete = append(complete, "backup-"+b.ID)
		}
	}
	if held := c.holds("backup-"); !slices.Equal(held, complete) || !slices.Contains(held, "backup-"+id) {
		c.t.Errorf("%v hold objects, and %v are the backups; the last is %s", held, complete, id)
	}
	return id
}

// holds are the names of holds in the store, in order.
func (c *tiered) holds(prefix string) (names []string) {
	c.t.Helper()
	list, err := os.ReadDir(filepath.Join(c.store, "holds"))
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// ordered reads the topic from the beginning to its end: each partition has its records in the order in which they were produced, and all together are there once.
func (c *tiered) ordered() {
	c.t.Helper()
	cl := c.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	last, at, end := map[int32]string{}, map[int32]int64{}, map[int32]int64{}
	n := 0
	done := func() bool {
		return len(end) == 2 && at[0] >= end[0] && at[1] >= end[1]
	}
	for !done() && ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		fs.EachPartition(func(p kgo.FetchTopicPartition) { end[p.Partition] = p.HighWatermark })
		fs.EachRecord(func(r *kgo.Record) {
			if v := string(r.Value); v <= last[r.Partition] {
				c.t.Errorf("%s comes behind %s in partition %d", v, last[r.Partition], r.Partition)
			}
			last[r.Partition], at[r.Partition] = string(r.Value), r.Offset+1
			n++
		})
	}
	if n != c.next {
		c.t.Fatalf("%d records of %d, up to %v of %v", n, c.next, at, end)
	}
}
