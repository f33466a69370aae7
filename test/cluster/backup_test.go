package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// Three nodes are backed up under load by a node that does not lead, the lead moves, and they are backed up again. All are lost. What is restored is a new
// cluster of one node with users, topics, sessions and all records that were acknowledged before the backup, in order and without a gap, also of the sets of shards that
// other nodes led, with transactions that are whole or not there, which it leads; another node joins it, and one of the old cluster is refused.
func TestBackupOfThree(t *testing.T) {
	store := "local:dir=" + t.TempDir()
	c := common.StartCluster(t, 3, "backup.store="+store)
	ctx, cancel := context.WithTimeout(context.Background(), 4*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	const records = 500
	produce(ctx, t, l, "copied", 0, records)
	sets := beforeBackup(ctx, t, l)
	keepSession(t, c.Nodes[1], "kept", 3600, "kept/#")
	c.Must("ban", "add", "--client-id", "stranger")
	c.AwaitSynced()

	produced, stop := keepProducing(ctx, l, records)
	leader := c.Leader()
	other := c.Nodes[leader.ID%3]
	backupBy(t, other)
	c.Must("shard", "move", "--to", fmt.Sprint(other.ID))
	c.Must("ban", "add", "--client-id", "late")
	pub, _ := dial(t, c.Nodes[0], "pub", 0)
	publish(t, pub, "kept/a", "waits", true)
	least := records + int(produced.Load())
	sets.least = sets.w.least()
	id := backupBy(t, leader)
	most, mostSpread := records+int(stop()), sets.w.stop()
	for _, n := range c.Nodes {
		n.Kill()
	}

	one, old, again := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	if err := os.RemoveAll(one.Dir); err != nil {
		t.Fatal(err)
	}
	r := restoreInto(t, store, id, one.Dir)
	if r.ID != id || r.NewCluster == "" || r.NewCluster == r.Cluster || r.Verified.Records < int64(least) {
		t.Fatalf("restored %+v, want backup %s with %d records", r, id, least)
	}
	if _, err := common.TryStart(t, one.Dir, "node.id=1", fmt.Sprint("cluster.shards=", r.Shards)); err == nil || !strings.Contains(err.Error(), "backup of a cluster") {
		t.Errorf("started alone: %v", err)
	}
	c.Nodes = []*common.Node{one}
	one.Start()
	c.Leader()
	sets.restored(ctx, t, mostSpread)
	if n := countRecords(ctx, t, l); n < least || n > most {
		t.Errorf("%d records, of %d that were acknowledged before the backup, and %d in all", n, least, most)
	}
	for _, banned := range []string{"stranger", "late"} {
		if out := c.Must("ban", "list"); !strings.Contains(out, banned) {
			t.Errorf("the ban of %s is not there: %s", banned, out)
		}
	}
	joinRestored(t, c, old, again)
	spreadTopic(ctx, t, l, "later", savedPartitions)
	sets.joined(ctx, t, again, mostSpread)
	kept, ack := dial(t, again, "kept", 3600)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	receive(t, kept, "waits")
	if t.Failed() {
		t.Log(c.Logs())
	}
}

// joinRestored has a node with an empty directory join the one that was restored, which refuses another one that comes back with the old cluster's data.
func joinRestored(t *testing.T, c *common.Cluster, old, again *common.Node) {
	t.Helper()
	one := c.Nodes[0]
	if err := os.RemoveAll(again.Dir); err != nil {
		t.Fatal(err)
	}
	c.Must("node", "add", "3", "--address", again.Between)
	again.Set("cluster.peers=" + one.Between)
	again.Start()
	c.Nodes = append(c.Nodes, again)
	old.Start()
	testx.Eventually(t, longest, func() bool { return strings.Contains(one.Broker().Log()+old.Broker().Log(), "node refused") }, "a node of the old cluster is refused")
	old.Kill()
	c.AwaitSynced()
}

// keepProducing goes on where produce has ended, one record after the other, until stop, which gives how many may have come to be. produced are those acknowledged.
func keepProducing(ctx context.Context, l *load, from int) (produced *atomic.Int64, stop func() int64) {
	produced = new(atomic.Int64)
	cl := l.open(kgo.DefaultProduceTopic("copied"))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cl.Close()
		for i := from; ctx.Err() == nil; i++ {
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%d x", i)}).FirstErr(); err != nil {
				return
			}
			produced.Add(1)
		}
	})
	return produced, func() int64 {
		cancel()
		wg.Wait()
		return produced.Load() + 1
	}
}

// countRecords reads the topic to its end: its records are numbered from 0 on.
func countRecords(ctx context.Context, t *testing.T, l *load) (next int) {
	t.Helper()
	cl := l.open(kgo.ConsumeTopics("copied"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for end := int64(-1); int64(next) != end; {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records of %d", next, end)
		}
		fs.EachPartition(func(p kgo.FetchTopicPartition) { end = p.HighWatermark })
		fs.EachRecord(func(r *kgo.Record) {
			var i int
			if _, err := fmt.Sscan(string(r.Value), &i); err != nil || i != next {
				t.Fatalf("record %d at %d, want %d", i, r.Offset, next)
			}
			next++
		})
	}
	return next
}

// backupBy has a node take a backup, and gives its name.
func backupBy(t *testing.T, n *common.Node) string {
	t.Helper()
	var b struct{ ID string }
	testx.Eventually(t, longest, func() bool {
		out, err := n.Run("backup", "create", "--output", "json")
		if err != nil {
			t.Log(err) // the lead moves
			return false
		}
		return json.Unmarshal([]byte(out), &b) == nil && b.ID != ""
	}, "node", n.ID, "takes a backup")
	return b.ID
}

type restoredData struct {
	ID, Cluster string
	NewCluster  string `json:"new_cluster"`
	Shards      int
	Taken       time.Time
	Verified    struct {
		Records, Topics int64
		TierObjects     int64 `json:"tier_objects"`
		TierRead        int64 `json:"tier_read"`
	}
}

func restoreInto(t *testing.T, store, id, dir string, settings ...string) (r restoredData) {
	t.Helper()
	args := []string{"restore", "--from", store, "--backup", id, "--data", dir, "--verify", "--output", "json"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	out, err := exec.Command(common.Binary(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return r
}
