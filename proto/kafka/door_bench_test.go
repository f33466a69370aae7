package kafka

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// doorPartitions is how many partitions the door's benchmarks name in a request.
const doorPartitions = 16

// sinkLink takes all that is written.
type sinkLink struct{ pausing }

func (*sinkLink) Write([]byte)    {}
func (*sinkLink) Queued() int     { return 0 }
func (*sinkLink) Held() alloc.Ref { return nil }

// doorConn is a connection of a node that leads the topic "t", whose records end at 10 and are in no log.
func doorConn(tb testing.TB, cluster Cluster, internal bool) *conn {
	tb.Helper()
	b := broker.New(broker.Options{Shards: 2, Loops: 1, StreamSets: 2})
	tb.Cleanup(b.Close)
	b.UseLog(&slowStore{})
	spec := &broker.TopicSpec{Name: "t", ID: broker.TopicID{1}, Internal: internal}
	for i := range doorPartitions {
		shard := i % 2
		if cluster != nil && len(cluster.View().Sets) > 0 {
			shard = i % (2 + 2*broker.SetShards)
		}
		spec.Partitions = append(spec.Partitions, broker.PartitionSpec{ID: record.PartitionID(100 + i), Shard: record.ShardID(shard)})
	}
	b.SetTopic(spec)
	b.Recovered()
	h := &Handler{alone: aloneView(1), broker: b, quotas: &broker.Quotas{}, nodeID: 1, cluster: cluster}
	h.Set(DefaultSettings())
	return &conn{link: &sinkLink{}, id: &broker.Identity{}, l: newLoopState(h, new(engine.Loop), b.Local(0))}
}

func oneRecord(tb testing.TB) []byte {
	tb.Helper()
	var b record.BatchBuilder
	b.Begin(nil, 1000)
	b.Append(&record.Input{Value: make([]byte, 100), Timestamp: 1000})
	return slices.Clone(b.Finish(&record.BatchOptions{}))
}

// produceBody has a batch for each partition.
func produceBody(tb testing.TB, version int16) []byte {
	tb.Helper()
	m := kmsg.NewPtrProduceRequest()
	m.Version, m.Acks, m.TimeoutMillis = version, -1, 1000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = "t"
	for i := range int32(doorPartitions) {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = i, oneRecord(tb)
		t.Partitions = append(t.Partitions, p)
	}
	m.Topics = append(m.Topics, t)
	return m.AppendTo(nil)
}

// fetchBody asks each partition for what comes next, without waiting.
func fetchBody(version int16) []byte {
	m := kmsg.NewPtrFetchRequest()
	m.Version, m.MinBytes, m.MaxBytes, m.SessionEpoch = version, 1, 1<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic = "t"
	for i := range int32(doorPartitions) {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = i, 10, 1<<20, -1
		t.Partitions = append(t.Partitions, p)
	}
	m.Topics = append(m.Topics, t)
	return m.AppendTo(nil)
}

// doorViews are what a node may know: that it is alone, that it leads all, and that it leads each of several sets of shards.
func doorViews() map[string]Cluster {
	ids := []int32{1, 2, 3}
	led := Placement{Leader: 1, Epoch: 3, Leads: true, Replicas: ids, ISR: ids, Eligible: []int32{}, MinISR: 2}
	return map[string]Cluster{"alone": nil, "led": &fixed{All: led, Shards: 2}, "sets": &fixed{All: led, Shards: 2, Sets: []Placement{led, led}}}
}

// What the door itself does for a produce request costs no memory, and a fetch what it costs a node alone, also where partitions are of several sets of shards.
func TestDoorAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	allocs := func(cluster Cluster, key wire.APIKey) float64 {
		q := &wire.Request{Call: wire.Call{Key: key, Version: 9}, Body: produceBody(t, 9)}
		if key == wire.Fetch {
			q.Version, q.Body = 12, fetchBody(12)
		}
		c := doorConn(t, cluster, key == wire.Produce)
		return testing.AllocsPerRun(100, func() {
			if took, err := c.take(q); !took || err != nil || c.running != 0 {
				t.Fatal(took, err, c.running)
			}
		})
	}
	alone := allocs(nil, wire.Fetch)
	for name, cluster := range doorViews() {
		if n := allocs(cluster, wire.Produce); n != 0 {
			t.Errorf("%s: %v allocations for produce", name, n)
		}
		if n := allocs(cluster, wire.Fetch); n > alone {
			t.Errorf("%s: %v allocations for a fetch, and %v alone", name, n, alone)
		}
	}
}

// BenchmarkDoorProduce is what the door does for a produce request of 16 partitions, of which the core takes none: the topic is the broker's own.
func BenchmarkDoorProduce(b *testing.B) {
	for name, cluster := range doorViews() {
		b.Run(name, func(b *testing.B) {
			c := doorConn(b, cluster, true)
			doorRun(b, c, wire.Produce, 9, produceBody(b, 9))
		})
	}
}

// BenchmarkDoorFetch is what a fetch of 16 partitions costs that have nothing new.
func BenchmarkDoorFetch(b *testing.B) {
	for name, cluster := range doorViews() {
		b.Run(name, func(b *testing.B) {
			c := doorConn(b, cluster, false)
			doorRun(b, c, wire.Fetch, 12, fetchBody(12))
		})
	}
}

func doorRun(b *testing.B, c *conn, key wire.APIKey, version int16, body []byte) {
	b.Helper()
	q := &wire.Request{Call: wire.Call{Key: key, Version: version}, Body: body, Size: len(body)}
	b.ReportAllocs()
	for b.Loop() {
		if took, err := c.take(q); !took || err != nil || c.running != 0 {
			b.Fatal(took, err, c.running)
		}
	}
}
