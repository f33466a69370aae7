package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// tiered is a cluster with a store that is a directory of all its nodes, and what was written to its topic temps.
type tiered struct {
	*common.Cluster
	t     *testing.T
	store string
	next  int // number of the next record
	out   *kgo.Client
}

func startTiered(t *testing.T, settings ...string) *tiered {
	t.Helper()
	store := t.TempDir()
	c := common.StartCluster(t, 3, slices.Concat([]string{"tier.store=local", "tier.settings.dir=" + store, "tier.interval=100ms", "tier.max_lag=1s", "tier.min_object_size=4KiB",
		"journal.segment_size=4MiB", "journal.checkpoint_interval=100ms", `bindings=[{filter: "plant/#", topic: temps, partitions: 2}]`}, settings)...)
	tc := &tiered{Cluster: c, t: t, store: store}
	tc.out = tc.kafka(kgo.DefaultProduceTopic("temps"))
	t.Cleanup(tc.out.Close)
	tc.Must("topic", "alter", "temps", "--set", "tier.policy=immediate", "--set", "local.retention.ms=1")
	return tc
}

func (c *tiered) kafka(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RetryTimeout(longest), kgo.RequestRetries(1 << 20),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond })}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// produce writes so many records more.
func (c *tiered) produce(n int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	for range n {
		c.out.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "plant/%d", c.next%7), Value: fmt.Appendf(nil, "k%06d", c.next)}, func(_ *kgo.Record, err error) {
			if err != nil {
				c.t.Errorf("produce: %v", err)
			}
		})
		c.next++
	}
	if err := c.out.Flush(ctx); err != nil {
		c.t.Fatal(err)
	}
}

// whole reads all from the beginning, by both protocols: each record is there, once.
func (c *tiered) whole() {
	c.t.Helper()
	cl := c.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	var got []string
	for len(got) < c.next && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	c.compare("Kafka", got)

	var m *mqttclient.Client
	testx.Eventually(c.t, longest, func() (ok bool) {
		at, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var err error
		m, _, err = mqttclient.Connect(at, mqttclient.Options{URL: "mqtt://" + c.Nodes[c.next%len(c.Nodes)].MQTT, Connect: wire.Connect{Version: wire.V5, ClientID: []byte("reader"), CleanStart: true}})
		return err == nil
	}, "an MQTT client comes in")
	defer func() { _ = m.Close() }()
	s := &wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("plant/#"), QoS: 1}}, User: wire.AppendUserProperty(nil, []byte("from"), []byte("earliest"))}
	if codes, err := m.SubscribeWith(s); err != nil || codes[0].Failed() {
		c.t.Fatal(codes, err)
	}
	got = nil
	for len(got) < c.next {
		p, err := m.Receive(longest)
		if err != nil {
			c.t.Fatalf("%d messages of %d: %v", len(got), c.next, err)
		}
		got = append(got, string(p.Payload))
	}
	c.compare("MQTT", got)
}

func (c *tiered) compare(by string, got []string) {
	c.t.Helper()
	slices.Sort(got)
	for i, v := range got {
		if v != fmt.Sprintf("k%06d", i) {
			c.t.Fatalf("by %s record %d is %s", by, i, v)
		}
	}
	if len(got) != c.next {
		c.t.Fatalf("by %s %d records of %d", by, len(got), c.next)
	}
}

// offload has all that there is go to the store, by whoever leads.
func (c *tiered) offload() {
	c.t.Helper()
	testx.Eventually(c.t, longest, func() bool {
		n := c.Leader()
		_, err := n.Run("tier", "offload", "--all")
		return err == nil && c.left(n) == ""
	}, "all is in the store")
}

// left says what of the topic is not in the store, or still in the node's log.
func (c *tiered) left(n *common.Node) string {
	c.t.Helper()
	var v struct {
		Partitions []struct {
			LocalStart    int64 `json:"local_start"`
			TieredEnd     int64 `json:"tiered_end"`
			HighWatermark int64 `json:"high_watermark"`
		} `json:"partitions"`
	}
	out, err := n.Run("tier", "status", "temps", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &v) != nil || len(v.Partitions) == 0 {
		return fmt.Sprint(out, err)
	}
	for _, p := range v.Partitions {
		if p.TieredEnd != p.HighWatermark || p.LocalStart != p.HighWatermark {
			return out
		}
	}
	return ""
}

// lets waits until each node has let go of all of the topic in its own log.
func (c *tiered) lets() {
	c.t.Helper()
	for _, n := range c.Nodes {
		last := ""
		testx.Eventually(c.t, longest, func() bool {
			last = c.left(n)
			return last == ""
		}, "node lets go of its log", n.ID, &last)
	}
}

// objects are the names of what is in the store.
func (c *tiered) objects() (names []string) {
	c.t.Helper()
	err := filepath.WalkDir(filepath.Join(c.store, "00000000"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what comes and goes meanwhile, or is not there yet
		}
		names = append(names, path)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return names
}

// offloading has the leader, which it gives, offload all, and returns when something has been stored. It asks again when it is refused: who has just got the lead may
// not have taken over the store, and would offload when it is due, a minute later.
func (c *tiered) offloading() (leader *common.Node) {
	c.t.Helper()
	leader = c.Leader()
	before := len(c.objects())
	ended := c.asks(leader)
	testx.Eventually(c.t, longest, func() bool {
		select {
		case <-ended:
			leader = c.Leader()
			ended = c.asks(leader)
		default:
		}
		return len(c.objects()) > before
	}, "something is stored")
	return leader
}

// asks has a node offload all, and waits for it when the test has ended: it may lose the lead meanwhile. ended is closed when it has answered.
func (c *tiered) asks(n *common.Node) (ended <-chan struct{}) {
	done := make(chan struct{})
	c.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		if _, err := n.Run("tier", "offload", "--all"); err != nil {
			c.t.Logf("%s: %v", time.Now().Format("05.000"), err)
		}
	}()
	return done
}

// status is what `sluice tier status` shows.
type tierStatus struct {
	Objects int
	Phase   string
	Object  string
	Epoch   int
}

func (c *tiered) status(n *common.Node) (s tierStatus) {
	c.t.Helper()
	out, err := n.Run("tier", "status", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &s) != nil {
		return tierStatus{}
	}
	return s
}

// move has another node lead.
func (c *tiered) move() {
	c.t.Helper()
	c.AwaitSynced()
	was := c.Leader()
	to := c.Nodes[was.ID%len(c.Nodes)]
	c.Must("shard", "move", "--to", fmt.Sprint(to.ID))
}

// load produces until it is told to stop, some thousands of records a second: the log of a node that restarts is let go of behind it, and it could not come
// along with all that three nodes take.
func (c *tiered) load() (stop func()) {
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for !over.Load() && !c.t.Failed() {
			c.produce(200)
			<-tick.C
		}
	})
	return func() {
		over.Store(true)
		wg.Wait()
	}
}

// The lead moves back and forth, and the node that leads is killed, while all is offloaded. Nothing is lost, by whichever node history is read; all nodes let go of
// their logs; a node that has lost its disk gets a copy and leads with it; commands for the store are the leader's.
func TestTierLeadMoves(t *testing.T) {
	c := startTiered(t)
	stop := c.load()
	for range 4 {
		c.offloading()
		c.move()
	}
	for range 2 {
		was := c.offloading()
		was.Kill()
		c.Leader()
		was.Start()
		c.AwaitSynced()
	}
	stop()
	c.whole()
	c.offload()
	c.lets()
	c.whole()
	c.commands()

	lost := c.Nodes[c.Leader().ID%3]
	lost.Kill()
	c.Must("node", "replace", fmt.Sprint(lost.ID))
	if err := os.RemoveAll(lost.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(lost.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if lost.ID == 1 {
		lost.Set("cluster.peers=" + c.Nodes[1].Between)
	}
	lost.Start()
	c.AwaitSynced()
	c.Must("shard", "move", "--to", fmt.Sprint(lost.ID))
	c.whole()
	if out := c.Must("tier", "verify"); !strings.Contains(out, "WRONG") {
		t.Error(out)
	}
}

// commands: a node that does not lead has the one that does do them.
func (c *tiered) commands() {
	c.t.Helper()
	leader := c.Leader()
	for _, n := range c.Nodes {
		if out, err := n.Run("tier", "verify"); err != nil || !strings.Contains(out, "WRONG") {
			c.t.Errorf("node %d: %s, %v", n.ID, out, err)
		}
		s := c.status(n)
		if want := fmt.Sprintf("node %d leads, and offloads", leader.ID); n != leader && s.Phase != want || s.Objects == 0 {
			c.t.Errorf("node %d: %+v", n.ID, s)
		}
	}
	// What was put by a leader that was killed before its row was there is an orphan, and keeps a rebuild off for a while.
	if out, err := leader.Run("tier", "rebuild"); err != nil && !strings.Contains(err.Error(), "needs no more: they are removed") {
		c.t.Errorf("a rebuild of what is there: %s, %v", out, err)
	}
}

// The node that leads stands still in the middle of an upload; another one leads, and offloads the same. When the first one goes on it changes nothing: history is whole,
// and each node has let go of its log. Then retention takes all of it.
func TestTierDeposedInUpload(t *testing.T) {
	c := startTiered(t, "tier.upload_rate=32KiB", "kafka.check_interval=1s")
	c.produce(5000)
	was := c.Leader()
	c.asks(was)
	testx.Eventually(t, longest, func() bool { return c.status(was).Object != "" }, "an upload is under way")
	_ = was.Broker().Signal(syscall.SIGSTOP)
	var now *common.Node
	testx.Eventually(t, longest, func() bool {
		for _, n := range c.Nodes {
			if n == was {
				continue
			}
			if s, ok := n.Status(); ok && s.Leader == n.ID && s.Open {
				now = n
				return true
			}
		}
		return false
	}, "another node leads")
	c.asks(now)
	testx.Eventually(t, longest, func() bool { return c.status(now).Objects > 0 }, "it offloads the same")
	_ = was.Broker().Signal(syscall.SIGCONT)
	c.AwaitSynced()
	c.offload()
	c.lets()
	c.whole()

	c.Must("topic", "alter", "temps", "--set", "retention.ms=1")
	testx.Eventually(t, longest, func() bool { return c.status(c.Leader()).Objects == 0 }, "retention takes all from the manifest")
}
