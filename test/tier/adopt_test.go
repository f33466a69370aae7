package tier

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
)

// A node has lost its disk, and another has come back from the store. What the first has left there that the second needs no more stays, until somebody says that
// the first is gone for good: then it goes, and so does the rest once nobody needs it. Nothing goes that is needed.
func TestAdopt(t *testing.T) { everywhere(t, adopt) }

func adopt(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	set := []string{"tier.delete_delay=1s", "tier.orphan_grace=10m", "kafka.check_interval=1s"}
	n := start(t, t.TempDir(), store, set...)
	want := n.twoTopics()
	n.run.Kill() // and nobody has its disk any more

	dir := t.TempDir()
	n = start(t, dir, store, set...)
	n.sluice("tier", "rebuild")
	n.sluice("topic", "delete", "gone")
	testx.Eventually(t, patience, func() bool {
		return n.metric("sluice_tier_partitions") == 2 && n.metric("sluice_tier_dead_bytes") == 0 && n.metric("sluice_tier_left_total") > 0
	}, "nothing is left for the lost node")
	needed, there := n.metric("sluice_tier_objects"), store.objects(t)
	unknown := there - int(needed)
	if needed == 0 || unknown <= 0 {
		t.Fatalf("%v objects are needed, of %d", needed, there)
	}
	if got, left := n.foreign(), n.metric("sluice_tier_left_total"); got != unknown || left != float64(unknown) {
		t.Errorf("%d objects are told of, %v are counted, %d of %d are not needed", got, left, unknown, there)
	}
	if out, err := n.try("tier", "adopt", "--epoch", "1"); err == nil || !strings.Contains(out, "may live") {
		t.Errorf("an epoch of a moment ago is adopted: %v %s", err, out)
	}
	n.run.Kill()
	n = start(t, dir, store, set...) // it counts anew
	sure := "--force"
	if store.kind == "local" {
		age(t, store.settings["dir"], time.Hour)
		sure = "--force=false"
	}
	n.sluice("tier", "adopt", "--epoch", "1", sure)
	n.produce(900, 901) // a turn has something to do
	n.sluice("tier", "offload", "--all")
	testx.Eventually(t, patience, func() bool { return n.metric("sluice_tier_foreign_objects") == 0 }, "the search still takes it for another node's")
	if store.kind == "local" {
		testx.Eventually(t, patience, func() bool {
			return n.metric("sluice_tier_orphans_total") == float64(unknown) && store.objects(t) == int(n.metric("sluice_tier_objects"))
		},
			"what was left is not removed")
		unknown = 0
	}
	if got := n.foreign(); got != 0 {
		t.Errorf("%d objects are another node's", got)
	}
	got := n.consume(1001)
	maps.DeleteFunc(got, func(k at, _ string) bool { _, ok := want[k]; return !ok })
	if !maps.Equal(got, want) {
		t.Error("records are lost that are needed")
	}
	n.sluice("tier", "verify")

	n.sluice("topic", "alter", "temps", "--set", "local.retention.ms=1")
	n.offload()
	n.sluice("topic", "alter", "temps", "--set", "retention.ms=1")
	testx.Eventually(t, patience, func() bool { return n.metric("sluice_tier_objects") == 0 && store.objects(t) == unknown }, "of what nobody needs other objects are left than", unknown)
	if left := n.metric("sluice_tier_left_total"); left != 0 {
		t.Errorf("%v objects are left for a node that is gone", left)
	}
}

// twoTopics has the topics gone and temps in the store, and gives what temps has.
func (n *node) twoTopics() map[at]string {
	n.Helper()
	n.sluice("topic", "create", "gone", "--partitions", "8")
	n.fill("gone", 2000)
	n.publish(0, 100)
	n.produce(0, 900)
	want := n.consume(1000)
	for _, topic := range []string{"gone", "temps"} { // so that what stays needed is younger than what does not: a node holds all up to that
		n.sluice("topic", "alter", topic, "--set", "tier.policy=immediate", "--set", "local.retention.ms=1")
		testx.Eventually(n, patience, func() bool {
			n.sluice("tier", "offload", "--all")
			return n.tiered(topic)
		}, topic, "does not leave the log")
	}
	return want
}

// fill writes records to a topic.
func (n *node) fill(topic string, records int) {
	n.Helper()
	cl := n.kafka(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range records {
		cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%s %d", topic, i)}, func(_ *kgo.Record, err error) {
			if err != nil {
				n.Errorf("produce: %v", err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		n.Fatal(err)
	}
}

var unknownObjects = regexp.MustCompile(`no row of this node tells of (\d+),`)

// foreign tells how many objects of other nodes sluice tier adopt finds that no row tells of.
func (n *node) foreign() (count int) {
	n.Helper()
	out, err := n.try("tier", "adopt")
	if err != nil {
		n.Fatalf("%v: %s", err, out)
	}
	for _, m := range unknownObjects.FindAllStringSubmatch(out, -1) {
		var k int
		if _, err := fmt.Sscan(m[1], &k); err != nil {
			n.Fatal(err)
		}
		count += k
	}
	return count
}

// age makes all objects of a directory older: its files, and what their headers say.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "0*", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h, le := b[:64], binary.LittleEndian
		le.PutUint64(h[40:], le.Uint64(h[40:])-uint64(by.Milliseconds()))
		clear(h[12:16])
		le.PutUint32(h[12:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-by)
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
}
