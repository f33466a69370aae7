package cluster

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

var upgradeFrom = flag.String("upgrade.from", "", "program of level 3, before delayed messages, to upgrade from (default: this one, which says that level)")

// levels is what `sluice node upgrade` shows.
type levels struct {
	Level uint32
	All   uint32 `json:"level_of_all"`
	Held  bool
	Nodes []struct{ ID, Level uint32 }
}

func levelsAt(n *common.Node) (l levels, err error) {
	out, err := n.Run("node", "upgrade", "--output", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &l)
	}
	return l, err
}

// with has a node run another program, and waits until the cluster knows.
func with(t *testing.T, c *common.Cluster, n *common.Node, program string, level uint32) {
	t.Helper()
	n.Stop()
	n.Program(program)
	n.Start()
	said(t, c, n, level)
}

func said(t *testing.T, c *common.Cluster, n *common.Node, level uint32) {
	t.Helper()
	c.AwaitSynced()
	testx.Eventually(t, longest, func() bool {
		l, err := levelsAt(n)
		return err == nil && l.Nodes[n.ID-1].Level == level
	}, "node ", n.ID, " has said what it can do")
}

func atLevel(t *testing.T, c *common.Cluster, want uint32) {
	t.Helper()
	for _, n := range c.Nodes {
		if l, err := levelsAt(n); err != nil || l.Level != want {
			t.Errorf("node %d: level %d, %v; want %d", n.ID, l.Level, err, want)
		}
	}
}

// refusedAs starts a program on the data of a node, which is to say why it does not go on, in one of these ways.
func refusedAs(t *testing.T, n *common.Node, program string, why ...string) {
	t.Helper()
	n.Stop()
	n.Program(program)
	if err := n.TryStart(); err == nil {
		t.Fatalf("node %d runs with a program that is %v", n.ID, why)
	} else if !slices.ContainsFunc(why, func(s string) bool { return strings.Contains(err.Error(), s) }) {
		t.Errorf("node %d, whose program is %v: %v", n.ID, why, err)
	}
}

// later says what a message is answered that is to be published later.
func later(t *testing.T, n *common.Node, payload string) wire.ReasonCode {
	t.Helper()
	pub, _ := dial(t, n, "later-pub", 0)
	defer func() { _ = pub.Close() }()
	reason, err := pub.Publish(&wire.PublishOut{QoS: 1, Topic: []byte("$delayed/1/upgraded/later"), Payload: []byte(payload)})
	if err != nil && !reason.Failed() {
		t.Fatal(err)
	}
	return reason
}

// TestRollingUpgrade: the nodes of a cluster get the next program in turn, under load of all kinds. It is served all the time; what the older program would not read is refused
// until the last node has the newer one; then it is there by itself, and the older program is refused. No acknowledged message is lost or doubled.
func TestRollingUpgrade(t *testing.T) {
	const before = meta.LevelLater - 1 // the last one without delayed messages
	old := *upgradeFrom
	if old == "" {
		old = common.BinaryOf(t, fmt.Sprintf("%d/1", before))
	}
	c := common.StartClusterOf(t, old, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 8*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx, stop: make(chan struct{}), sent: make(chan struct{}), over: make(chan struct{})}
	l.begin()
	g, wait := watchGaps(t, c, l.stop)
	atLevel(t, c, before)
	for i, n := range c.Nodes {
		with(t, c, n, "", meta.Level)
		l.progress()
		if i == len(c.Nodes)-1 {
			break
		}
		atLevel(t, c, before)
		lead(t, c, n)
		if reason := later(t, n, "too early"); reason != wire.ImplementationSpecific {
			t.Errorf("beside older nodes a delayed message is answered %v", reason)
		}
		if out, err := n.Run("shard", "balance"); err == nil || !strings.Contains(err.Error(), "too old for this cluster") {
			t.Errorf("beside older nodes shards are balanced: %q, %v", out, err)
		}
		if out, err := n.Run("shard", "sets", "2"); err == nil || !strings.Contains(err.Error(), "too old for this cluster") {
			t.Errorf("beside older nodes sets of shards are made: %q, %v", out, err)
		}
	}
	testx.Eventually(t, longest, func() bool {
		l, err := levelsAt(c.Leader())
		return err == nil && l.Level == meta.Level
	}, "the level is raised")
	sub, _ := dial(t, c.Nodes[0], "later-sub", 0)
	if _, err := sub.Subscribe(wire.FilterRequest{Filter: []byte("upgraded/#"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	c.Must("shard", "balance", "--dry-run")
	c.Must("shard", "sets", "2", "--wait")
	spreadTopic(ctx, t, l, "spread", 2)
	w := keepNumbering(ctx, l, "spread", 2)
	w.progress("upgraded")
	testx.Eventually(t, longest, func() bool { return !later(t, c.Nodes[0], "in time").Failed() }, "a delayed message is taken")
	receive(t, sub, "in time")
	last := c.Nodes[2]
	refusedAs(t, last, old, "too old for the cluster", "a newer one has written it") // the second is what level 3 said
	l.progress()
	last.Program("")
	last.Start()
	c.AwaitSynced()
	w.progress("a node has come back")
	least, most := w.least(), w.stop()
	wantNumbers(t, l.readWhole(ctx, "spread", 2), least, most)
	l.end()
	wait()
	away := max(time.Duration(g.mqtt.Load()), time.Duration(g.kafka.Load()))
	t.Logf("longest time without an acknowledgement: MQTT %v, Kafka %v", time.Duration(g.mqtt.Load()).Round(time.Millisecond), time.Duration(g.kafka.Load()).Round(time.Millisecond))
	if away > longest/4 { // a second on a machine that does nothing else
		t.Errorf("clients stood still for %v", away)
	}
}

// TestUpgradeHeld: these are the steps of docs/operate/upgrade.md. While the level is held, nodes go forth and back between two programs; a program that is two versions ahead is
// refused, and, once the upgrade is final, the one before. Sets of shards are led and written to by both all the while.
func TestUpgradeHeld(t *testing.T) {
	next, after := common.BinaryOf(t, fmt.Sprintf("%d/1", meta.Level+1)), common.BinaryOf(t, fmt.Sprintf("%d/%d", meta.Level+2, meta.Level+1))
	c := common.StartCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 8*longest)
	defer cancel()
	l := &load{t: t, c: c, ctx: ctx}
	c.Must("shard", "sets", "2", "--wait")
	spreadTopic(ctx, t, l, "spread", 4)
	w := keepNumbering(ctx, l, "spread", 4)
	c.Must("node", "upgrade", "--hold")
	for i, n := range c.Nodes {
		with(t, c, n, next, meta.Level+1)
		w.progress("with one program and the next")
		if i == len(c.Nodes)-1 {
			break
		}
		if _, err := n.Run("node", "upgrade", "--finalize"); err == nil || !strings.Contains(err.Error(), "upgrade them first") {
			t.Errorf("with %d nodes of three it is final: %v", i+1, err)
		}
	}
	three := c.Nodes[2]
	with(t, c, three, "", meta.Level) // back
	atLevel(t, c, meta.Level)
	refusedAs(t, three, after, "too new for the cluster")
	three.Program(next)
	three.Start()
	said(t, c, three, meta.Level+1)
	atLevel(t, c, meta.Level) // all can do more, and it is held
	if out, err := three.Run("node", "list"); err != nil || !strings.Contains(out, fmt.Sprintf("%d, can do %d", meta.Level, meta.Level+1)) {
		t.Errorf("%v\n%s", err, out)
	}
	c.Must("node", "upgrade", "--finalize")
	testx.Eventually(t, longest, func() bool {
		for _, n := range c.Nodes {
			if l, err := levelsAt(n); err != nil || l.Level != meta.Level+1 || l.Held {
				return false
			}
		}
		return true
	}, "the level is raised")
	refusedAs(t, three, "", "too old for the cluster")
	w.progress("with two nodes")
	least, most := w.least(), w.stop()
	wantNumbers(t, l.readWhole(ctx, "spread", 4), least, most)
}
