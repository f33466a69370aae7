// Package tier proves that a log's history survives in its store: with real nodes and clients, and the store that is a directory. Against an S3
// service and an HDFS cluster too, where the environment names them: see place.
package tier

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(common.CleanExit)) }

const patience = 30 * time.Second

// node is a process with a store.
type node struct {
	testing.TB
	run *common.Broker
}

// start runs a node on a directory, with a store that outlives it.
func start(t testing.TB, dir string, store *place, set ...string) *node {
	t.Helper()
	n := &node{TB: t}
	n.run = common.Start(t, dir, slices.Concat([]string{"listeners.kafka.tcp=127.0.0.1:0", "listeners.grpc=127.0.0.1:0", "journal.segment_size=4MiB", "journal.group_size=1MiB",
		"limits.packet_size=64KiB", "tier.interval=100ms", "tier.max_lag=1s", "tier.min_object_size=4KiB", "journal.checkpoint_interval=100ms",
		`bindings=[{filter: "plant/#", topic: temps, partitions: 2}]`}, store.flags(), set)...)
	return n
}

// sluice runs a command against the node, and gives its output.
func (n *node) sluice(args ...string) string {
	n.Helper()
	return n.sluiceWithin(patience, args...)
}

// sluiceWithin is sluice for a command that may take long.
func (n *node) sluiceWithin(d time.Duration, args ...string) string {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, common.Binary(n), append(args, "--server", n.run.Listeners["grpc"])...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		n.Fatalf("sluice %q: %v\n%s%s\n%s", args, err, out, errs.String(), n.run.Log())
	}
	return string(out)
}

// try is sluice for a command that may fail; it gives the errors too.
func (n *node) try(args ...string) (string, error) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, common.Binary(n), append(args, "--server", n.run.Listeners["grpc"])...).CombinedOutput()
	return string(out), err
}

func (n *node) kafka(opts ...kgo.Opt) *kgo.Client {
	n.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(n.run.Listeners["kafka.tcp"]), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(cl.Close)
	return cl
}

// produce writes records k000, k001 ... to temps.
func (n *node) produce(from, to int) {
	n.Helper()
	cl := n.kafka(kgo.DefaultProduceTopic("temps"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := from; i < to; i++ {
		r := &kgo.Record{Key: fmt.Appendf(nil, "plant/%d", i%7), Value: fmt.Appendf(nil, "k%05d", i)}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				n.Errorf("produce: %v", err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		n.Fatal(err)
	}
}

// publish writes messages m000, m001 ... to plant/0 to plant/6.
func (n *node) publish(from, to int) {
	n.Helper()
	c := n.mqtt("publisher")
	for i := from; i < to; i++ {
		code, err := c.Publish(&wire.PublishOut{Topic: fmt.Appendf(nil, "plant/%d", i%7), Payload: fmt.Appendf(nil, "m%05d", i), QoS: 1})
		if err != nil || code.Failed() {
			n.Fatalf("publish: %v %v", code, err)
		}
	}
}

func (n *node) mqtt(id string) *mqttclient.Client {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.run.Listeners["mqtt.tcp"], Connect: wire.Connect{Version: wire.V5, ClientID: []byte(id), CleanStart: true}})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = c.Close() })
	return c
}

// at is where a record lies.
type at struct {
	partition int32
	offset    int64
}

// consume reads count records of temps from the beginning.
func (n *node) consume(count int) map[at]string {
	n.Helper()
	cl := n.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := make(map[at]string)
	for len(got) < count {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			n.Fatalf("%v, after %d records of %d\n%s", err, len(got), count, n.run.Log())
		}
		fs.EachRecord(func(r *kgo.Record) { got[at{r.Partition, r.Offset}] = string(r.Key) + "=" + string(r.Value) })
	}
	return got
}

// replay reads count messages of plant/# from the beginning, by MQTT.
func (n *node) replay(count int) (got []string) {
	n.Helper()
	c := n.mqtt("reader")
	s := &wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte("plant/#"), QoS: 1}}, User: wire.AppendUserProperty(nil, []byte("from"), []byte("earliest"))}
	if codes, err := c.SubscribeWith(s); err != nil || codes[0].Failed() {
		n.Fatal(codes, err)
	}
	for len(got) < count {
		p, err := c.Receive(patience)
		if err != nil {
			n.Fatalf("%d messages of %d: %v", len(got), count, err)
		}
		got = append(got, string(p.Topic)+"="+string(p.Payload))
	}
	slices.Sort(got)
	return got
}

// tiered tells whether all of a topic is in the store, and nothing of it in the log.
func (n *node) tiered(topic string) bool {
	n.Helper()
	var v struct {
		Partitions []struct {
			LocalStart    int64 `json:"local_start"`
			TieredEnd     int64 `json:"tiered_end"`
			HighWatermark int64 `json:"high_watermark"`
		} `json:"partitions"`
	}
	if err := json.Unmarshal([]byte(n.sluice("tier", "status", topic, "-o", "json")), &v); err != nil {
		n.Fatal(err)
	}
	for _, p := range v.Partitions {
		if p.TieredEnd != p.HighWatermark || p.LocalStart != p.HighWatermark {
			return false
		}
	}
	return len(v.Partitions) > 0
}

// offload has all of temps leave the log.
func (n *node) offload() {
	n.Helper()
	testx.Eventually(n, patience, func() bool {
		n.sluice("tier", "offload", "--all")
		return n.tiered("temps")
	}, "it does not leave the log")
}

func (n *node) immediate() {
	n.Helper()
	n.sluice("topic", "alter", "temps", "--set", "tier.policy=immediate", "--set", "local.retention.ms=1")
}

func values(m map[at]string) []string { return slices.Sorted(maps.Values(m)) }

// A topic that MQTT and Kafka have written is offloaded, and its node's disk is lost: a new node with the same store brings it back whole, to both protocols, and goes
// on behind it. So does a third one, whose store then has what two nodes have written.
func TestDiskLost(t *testing.T) { everywhere(t, diskLost) }

func diskLost(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	n := start(t, t.TempDir(), store)
	n.immediate()
	n.publish(0, 100)
	n.produce(0, 900)
	want := n.consume(1000)
	n.offload()
	if got := n.consume(1000); !maps.Equal(got, want) {
		t.Error("what is read from the store is not what was written")
	}
	n.run.Kill()

	for round := range 2 {
		total := 1000 + 10*round
		n = start(t, t.TempDir(), store)
		n.sluice("tier", "rebuild")
		got := n.consume(total)
		for k, v := range want {
			if got[k] != v {
				t.Fatalf("round %d: %v is %q, want %q", round, k, got[k], v)
			}
		}
		if list := n.replay(total); !slices.Equal(list, values(got)) {
			t.Errorf("round %d: MQTT reads other records than Kafka: %d", round, len(list))
		}
		n.publish(100+10*round, 110+10*round)
		want = n.consume(total + 10)
		n.sluice("topic", "alter", "temps", "--set", "local.retention.ms=1")
		n.offload()
		n.sluice("tier", "rebuild") // once more does no harm
		if got := n.consume(total + 10); !maps.Equal(got, want) {
			t.Errorf("round %d: a second rebuild changes what is read", round)
		}
		n.sluice("tier", "verify")
		n.run.Kill()
	}
}

// A copy of a node went its own way in the same store: a rebuild of the node takes nothing of it where the log has records of its own.
func TestRebuildBesideCopy(t *testing.T) { everywhere(t, rebuildBesideCopy) }

func rebuildBesideCopy(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	dir, copied := t.TempDir(), t.TempDir()
	n := start(t, dir, store)
	n.immediate()
	n.produce(0, 100)
	n.offload()
	n.run.Kill()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "RESTORED"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n = start(t, copied, store)
	n.produce(100, 200)
	n.offload()
	n.run.Kill()

	n = start(t, dir, store, "tier.min_object_size=64MiB", "tier.max_lag=1h")
	n.produce(200, 400)
	want := n.consume(300)
	if out, err := n.try("tier", "rebuild"); err == nil || !strings.Contains(out, "the log has its own records there") {
		t.Errorf("%v: %s", err, out)
	}
	n.sluice("tier", "offload")
	if got := n.consume(300); !maps.Equal(got, want) {
		t.Error("what is read is not what was written here")
	}
}

// A node that is killed while it offloads loses nothing, whatever it was at.
func TestKilledWhileOffloading(t *testing.T) { everywhere(t, killedWhileOffloading) }

func killedWhileOffloading(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	dir := t.TempDir()
	n := start(t, dir, store)
	n.immediate()
	total := 0
	for range 3 {
		n.produce(total, total+500)
		total += 500
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, common.Binary(t), "tier", "offload", "--all", "--server", n.run.Listeners["grpc"])
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testx.Eventually(t, patience, func() bool { return store.objects(t) > 0 }, "nothing is stored")
		n.run.Kill()
		cancel()
		_ = cmd.Wait()
		n = start(t, dir, store)
		got := values(n.consume(total))
		for i := range got {
			if _, v, _ := strings.Cut(got[i], "="); v == "" {
				t.Fatal(got[i])
			}
		}
		if len(slices.Compact(got)) != total {
			t.Fatalf("%d different records of %d", len(slices.Compact(got)), total)
		}
	}
	n.offload()
	if got := values(n.consume(total)); len(slices.Compact(got)) != total {
		t.Errorf("%d records of %d", len(got), total)
	}
}
