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
	cl, create := newTopics(t, n)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
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
	before = n.quiet()
	produce("more", count)
	spend(t, "partition.used_heap_bytes", float64(n.quiet().Heap-before.Heap)/count)
	const idle = 3
	from := n.ask("")
	u := n.used(func() { <-time.After(idle * time.Second) })
	spend(t, "partition.idle_allocations_a_second", u.mallocs/idle)
	spend(t, "partition.idle_loop_calls_a_second", u.loop/idle)
	spend(t, "partition.idle_journal_writes_a_second", u.groups/idle)
	// How long the sweeps take is a time: TestInstructions has it as a count.
	t.Logf("%d ms of CPU in %d idle seconds and what the looks take", (n.ask("").CPU - from.CPU).Milliseconds(), idle)
}

// newTopics gives a Kafka client of n that names its partitions, and what makes topics by it.
func newTopics(t *testing.T, n *node) (cl *kgo.Client, create func(topic string, partitions int32)) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.ready.Listeners["kafka.tcp"]), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(20_000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, func(topic string, partitions int32) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		res, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic)
		if err != nil || res.Err != nil {
			t.Fatal(err, res.Err)
		}
	}
}

// quiet is settled once checkpoints have let go of what they hold: when two seconds, which are two of them, take nothing from the heap any more.
func (n *node) quiet() counts {
	n.t.Helper()
	c := n.settled()
	for range 10 {
		<-time.After(2 * time.Second)
		next := n.settled()
		if next.Heap > c.Heap-c.Heap/200 {
			return next
		}
		c = next
	}
	return c
}
