package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// A node that was alone for long becomes three by two that join: its log does not reach back any more, so they get a copy; and so does one that was replaced.
// Then it is killed, and all that it had while it was alone is there at those that are left.
func TestCopies(t *testing.T) {
	small := []string{"journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB", "journal.checkpoint_interval=200ms", "cluster.catchup_rate=4MiB"}
	c := common.StartCluster(t, 1, small...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	l := &load{t: t, c: c}
	const records = 1000
	produce(ctx, t, l, "gone", 0, 5*records)
	produce(ctx, t, l, "copied", 0, records)
	keepSession(t, c.Nodes[0], "kept", 3600, "kept/#")
	pub, _ := dial(t, c.Nodes[0], "pub", 0)
	publish(t, pub, "kept/a", "waits", true)
	c.Must("topic", "delete", "gone")
	testx.Eventually(t, longest, func() bool { return !firstSegment(t, c.Nodes[0].Dir) }, "the log has let go of its first segment")

	for range 2 {
		at := testx.ClosedAddr(t)
		c.AddNode(at, append(small, "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)...)
	}
	c.AwaitSynced()
	for _, n := range c.Nodes[1:] {
		if !strings.Contains(n.Broker().Log(), "starts anew with it") {
			t.Errorf("node %d got no copy", n.ID)
		}
	}
	produce(ctx, t, l, "copied", records, 1000)
	c.Leader().Kill()
	checkRecords(ctx, t, l, records+1000)
	for _, n := range c.Nodes {
		if n.Broker() == nil {
			continue
		}
		again, ack := dial(t, n, "kept", 3600)
		if !ack.SessionPresent {
			t.Errorf("node %d has no session", n.ID)
		}
		receive(t, again, "waits")
		break
	}
	if t.Failed() {
		t.Log(c.Logs())
	}
}

// firstSegment says whether the log still begins where it began.
func firstSegment(t *testing.T, dir string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(dir, "journal", "wal", "0000000000000001.log"))
	return err == nil
}

// produce writes numbered records of 1 KiB, and waits for them.
func produce(ctx context.Context, t *testing.T, l *load, topic string, from, n int) {
	t.Helper()
	cl := l.open(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer cl.Close()
	if from == 0 {
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, -1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	produceBy(ctx, t, cl, from, n)
}

// produceBy writes numbered records of 1 KiB, and waits for them.
func produceBy(ctx context.Context, t *testing.T, cl *kgo.Client, from, n int) {
	t.Helper()
	fill := make([]byte, 1000)
	for i := from; i < from+n; i++ {
		cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%d %s", i, fill)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// checkRecords reads all of them from the begin.
func checkRecords(ctx context.Context, t *testing.T, l *load, n int) {
	t.Helper()
	cl := l.open(kgo.ConsumeTopics("copied"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for next := 0; next < n; {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records of %d", next, n)
		}
		fs.EachRecord(func(r *kgo.Record) {
			var i int
			if _, err := fmt.Sscan(string(r.Value), &i); err != nil || i != next {
				t.Fatalf("record %d at %d, want %d", i, r.Offset, next)
			}
			next++
		})
	}
}

// While a large copy is carried to a node, the leader's log goes on, and lets go of what nobody needs: but not of what comes behind the copy. Else the node would
// get one copy after the other.
func TestCopyBesideLoad(t *testing.T) {
	net := common.NewNetwork(t)
	small := []string{"journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB", "journal.checkpoint_interval=200ms"}
	c := common.StartClusterOn(t, common.Ground{Net: net}, 3, small...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx, net: net}
	const records, spare = 4000, 2000
	n := c.Nodes[2]
	if c.Leader() == n {
		lead(t, c, c.Nodes[0])
	}
	produce(ctx, t, l, "gone", 0, 2*spare)
	produce(ctx, t, l, "copied", 0, records)
	n.Kill()
	c.Must("topic", "delete", "gone")
	passing := func(i int) {
		name := fmt.Sprint("passing-", i)
		produce(ctx, t, l, name, 0, spare)
		c.Must("topic", "delete", name)
	}
	testx.Eventually(t, longest, func() bool { return !firstSegment(t, c.Leader().Dir) }, "the log has let go of its first segment")
	narrow := common.Way{Rate: 1 << 20}
	l.around(n, narrow, narrow)
	c.Replace(n)
	copied := func() int { return strings.Count(n.Broker().Log(), "starts anew with it") }
	for i := 0; copied() == 0 && ctx.Err() == nil; i++ {
		passing(i)
	}
	net.Heal()
	c.AwaitSynced()
	if got := copied(); got != 1 {
		t.Errorf("the node got %d copies", got)
	}
	lead(t, c, n)
	checkRecords(ctx, t, l, records)
	if t.Failed() {
		t.Log(c.Logs())
	}
}

// Where leaders are spread, a node that has lost its disk gets one copy, of the node that leads set 0, and goes on from there with every set's leader; then it leads
// the set of a topic with all that was there.
func TestCopyOfSpread(t *testing.T) {
	small := []string{"journal.segment_size=1MiB", "journal.group_size=256KiB", "limits.packet_size=64KiB", "journal.checkpoint_interval=200ms"}
	c := common.StartCluster(t, 3, small...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	const records, more = 2000, 500
	n := c.Nodes[2]
	if c.Leader() == n {
		lead(t, c, c.Nodes[0])
	}
	c.Must("shard", "sets", "3", "--wait")
	cl := l.open(kgo.DefaultProduceTopic("copied"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	defer cl.Close()
	made, err := kadm.NewClient(cl).CreateTopics(ctx, 1, -1, map[string]*string{"leader.spread": kadm.StringPtr("true")}, "copied")
	if err = errors.Join(err, made.Error()); err != nil {
		t.Fatal(err)
	}
	produce(ctx, t, l, "gone", 0, 2*records)
	produceBy(ctx, t, cl, 0, records)
	n.Kill()
	c.Must("topic", "delete", "gone")
	testx.Eventually(t, longest, func() bool { return !firstSegment(t, c.Leader().Dir) }, "the log has let go of its first segment")
	c.Replace(n)
	produceBy(ctx, t, cl, records, more) // beside the copy
	c.AwaitSynced()
	if copies := strings.Count(n.Broker().Log(), "starts anew with it"); copies != 1 {
		t.Errorf("the node got %d copies", copies)
	}
	testx.Eventually(t, longest, func() bool {
		for set := range 3 {
			_, _ = n.Run("shard", "move", "--to", fmt.Sprint(n.ID), "--set", fmt.Sprint(set+1))
		}
		m, err := kadm.NewClient(cl).Metadata(ctx, "copied")
		return err == nil && m.Topics["copied"].Partitions[0].Leader == int32(n.ID)
	}, "the node leads the topic's partition")
	checkRecords(ctx, t, l, records+more)
	if t.Failed() {
		t.Log(c.Logs())
	}
}
