package perf

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestBudgetPartition measures what a partition costs that nobody uses, and one that has a record.
func TestBudgetPartition(t *testing.T) {
	plainBuild(t)
	n := start(t, append(smallTail, "journal.durability=async", "listeners.kafka.tcp=127.0.0.1:0",
		"journal.checkpoint_interval=1s")...)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.ready.Listeners["kafka.tcp"]), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(20_000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin := kadm.NewClient(cl)
	create := func(topic string, partitions int32) {
		res, err := admin.CreateTopic(ctx, partitions, 1, nil, topic)
		if err != nil || res.Err != nil {
			t.Fatal(err, res.Err)
		}
	}
	produce := func(topic string, partitions int) {
		records := make([]*kgo.Record, partitions)
		for i := range records {
			records[i] = &kgo.Record{Topic: topic, Partition: int32(i), Value: []byte("value")}
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	create("first", 1)
	produce("first", 1) // what the first one builds is not its own
	before := n.settled()
	const count = 10_000
	create("many", count)
	after := n.settled()
	spend(t, "partition.heap_bytes", float64(after.Heap-before.Heap)/count)
	spend(t, "partition.goroutines", float64(after.Goroutines-before.Goroutines)/count)
	for range 3 {
		produce("many", count) // buffers take their size
	}
	create("more", count)
	<-time.After(2 * time.Second) // a checkpoint
	before = n.settled()
	produce("more", count)
	<-time.After(2 * time.Second)
	spend(t, "partition.used_heap_bytes", float64(n.settled().Heap-before.Heap)/count)
	const idle = 4
	from := n.ask("")
	<-time.After(idle * time.Second)
	spend(t, "partition.idle_cpu_ms", float64((n.ask("").CPU-from.CPU).Milliseconds())/idle)
}
