package tier

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/stores"
	"github.com/sluicemq/sluice/test/common"
)

var rebuildObjects = flag.Int("rebuildobjects", 200, "objects of a hundred runs each that a store is rebuilt from: 10000 have a million runs")

const (
	manyTopics, manyPartitions = 50, 20 // partitions of each topic
	runsOfEach                 = 100    // of an object
	recordsOfEach              = 10     // of a run, in one batch
)

// manyObjects fills a store as nodes would have over a long time: object i has a hundred partitions of a thousand, and follows what object i-10 has of them.
func manyObjects(t testing.TB, p *place, n int) {
	t.Helper()
	ctx := context.Background()
	s, err := stores.Open(ctx, p.kind, p.settings)
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				if err := putObject(ctx, s, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := s.Close(); err != nil || t.Failed() {
		t.Fatal(err)
	}
}

func putObject(ctx context.Context, s tier.Store, i int) error {
	const groups = manyTopics * manyPartitions / runsOfEach
	first := record.Offset(i / groups * recordsOfEach)
	b := object.NewBuilder(object.ID{Shard: record.ShardID(i % 64), Epoch: 1, Sequence: uint64(i)}, 1_700_000_000_000+int64(i), object.Options{})
	batches := make([][]byte, runsOfEach)
	for k := range runsOfEach {
		number := i%groups*runsOfEach + k
		topic := number / manyPartitions
		b.Run(object.Topic{ID: [16]byte{1, byte(topic), 15: 1}, Name: fmt.Sprintf("many-%02d", topic), Index: int32(number % manyPartitions), Partition: record.PartitionID(number + 1)}, 0)
		var bb record.BatchBuilder
		bb.Begin(nil, int64(i))
		for r := range recordsOfEach {
			bb.Append(&record.Input{OffsetDelta: int32(r), Timestamp: int64(i), Value: fmt.Appendf(nil, "%d/%d", number, int(first)+r)})
		}
		batches[k] = bb.Finish(&record.BatchOptions{BaseOffset: first})
		b.Add(object.Extent{First: first, Last: first + recordsOfEach - 1, MaxTime: int64(i), Bytes: int64(len(batches[k]))})
	}
	w, err := b.Finish()
	if err != nil {
		return err
	}
	body := w.Reader(func(run int) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(batches[run])), nil })
	defer body.Close()
	return s.Put(ctx, w.Name(), body, w.Size(), tier.PutOptions{})
}

// TestRebuildMany brings back a thousand partitions out of many objects of many runs. With -rebuildobjects 10000 it has to take less than a minute.
func TestRebuildMany(t *testing.T) { everywhere(t, rebuildMany) }

func rebuildMany(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	n := *rebuildObjects
	if store.kind != "local" && n < 1000 {
		n = 40 // a service is slower
	}
	began := time.Now()
	manyObjects(t, store, n)
	t.Logf("%s: %d objects of %d runs put in %v", store.kind, n, runsOfEach, time.Since(began).Round(time.Millisecond))
	node := start(t, t.TempDir(), store)
	before := memory(t, node.run)
	var res struct {
		Topics, Partitions, Records, Objects, Wrong json.Number
		Seconds                                     json.Number
	}
	began = time.Now()
	out := node.sluiceWithin(10*time.Minute, "tier", "rebuild", "-o", "json", "--timeout", "10m")
	took := time.Since(began)
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("rebuilt in %v, memory %s before, %s at most: %+v", took.Round(time.Millisecond), before, memory(t, node.run), res)
	if want := n * runsOfEach * recordsOfEach; res.Records.String() != fmt.Sprint(want) {
		t.Errorf("%s records, want %d", res.Records, want)
	}
	if n >= 10_000 && took > time.Minute {
		t.Errorf("it took %v", took)
	}
	node.sluiceWithin(10*time.Minute, "tier", "verify", "--timeout", "10m")
	each := n / (manyTopics * manyPartitions / runsOfEach) * recordsOfEach
	for _, number := range []int{0, 517, 999} {
		node.readMany(number, each)
	}
	if err := node.run.Stop(); err != nil {
		t.Error(err)
	}
}

// memory is the most that a process has held, as the kernel says.
func memory(t testing.TB, b *common.Broker) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.PID))
	if err != nil {
		return "unknown" // not on this system
	}
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "unknown"
}

// readMany reads a partition whole.
func (n *node) readMany(number, each int) {
	n.Helper()
	topic := fmt.Sprintf("many-%02d", number/manyPartitions)
	cl := n.kafka(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {int32(number % manyPartitions): kgo.NewOffset().AtStart()}}))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for next := 0; next < each; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			n.Fatalf("%s/%d at %d of %d: %v\n%s", topic, number%manyPartitions, next, each, err, n.run.Log())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if want := fmt.Sprintf("%d/%d", number, next); string(r.Value) != want || r.Offset != int64(next) {
				n.Errorf("offset %d has %q, want %q", r.Offset, r.Value, want)
			}
			next++
		})
	}
}
