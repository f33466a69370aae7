package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What is produced is consumed, in order for each key, with every codec, before and after a crash.
func TestProduceConsume(t *testing.T) {
	c := start(t)
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	const n = 500
	for name, codec := range codecs {
		c.topic(name, 3, nil)
		cl := c.client(kgo.ProducerBatchCompression(codec))
		records := numbered(name, n)
		for i := range records {
			records[i].Headers = []kgo.RecordHeader{{Key: "h", Value: []byte(name)}}
		}
		produce(t, cl, records...)
	}
	for _, when := range []string{"at once", "after a crash"} {
		for name := range codecs {
			checkNumbered(t, consume(t, c.client(kgo.ConsumeTopics(name)), n), n, name+" "+when)
		}
		if when == "at once" {
			c.crash()
		}
	}
}

// checkNumbered looks at what numbered has made: all of it, once, in order for each key.
func checkNumbered(t *testing.T, got []*kgo.Record, n int, what string) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%s: %d records of %d", what, len(got), n)
	}
	last := map[string]int{}
	for _, r := range got {
		var i int
		if _, err := fmt.Sscanf(string(r.Value), "value-%d", &i); err != nil {
			t.Fatal(what, err)
		}
		key := string(r.Key)
		if before, ok := last[key]; ok && i != before+10 || key != fmt.Sprintf("key-%d", i%10) {
			t.Fatalf("%s: %s has %d behind %d", what, key, i, before)
		}
		last[key] = i
	}
}

func TestAutoCreate(t *testing.T) {
	c := start(t, "kafka.partitions=4")
	cl := c.client(kgo.AllowAutoTopicCreation())
	produce(t, cl, &kgo.Record{Topic: "made", Value: []byte("x")})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	topics, err := c.admin().ListTopics(ctx)
	if err != nil || len(topics["made"].Partitions) != 4 {
		t.Errorf("it has %d partitions, want 4: %v", len(topics["made"].Partitions), err)
	}
}

func TestTopics(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	adm := c.admin()
	c.topic("a", 2, nil)
	if r, err := adm.CreateTopic(ctx, 1, 1, nil, "a"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Error("again:", r.Err, err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "no/slash"); !errors.Is(err, kerr.InvalidTopicException) {
		t.Error("a bad name:", err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 3, nil, "three"); !errors.Is(err, kerr.InvalidReplicationFactor) {
		t.Error("three replicas on one node:", err)
	}
	wrong := "yes"
	if _, err := adm.CreateTopic(ctx, 1, 1, map[string]*string{"retention.ms": &wrong}, "cfg"); !errors.Is(err, kerr.InvalidConfig) {
		t.Error("a bad retention:", err)
	}
	if r, err := adm.CreatePartitions(ctx, 3, "a"); err != nil || r["a"].Err != nil {
		t.Error("more partitions:", err, r["a"].Err)
	}
	week := "604800001"
	c.topic("cfg", 1, map[string]*string{"retention.ms": &week})
	configs, err := adm.DescribeTopicConfigs(ctx, "cfg")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, kv := range configs[0].Configs {
		found = found || kv.Key == "retention.ms" && kv.MaybeValue() == week
	}
	if !found {
		t.Error("retention.ms is not as it was set")
	}
	produce(t, c.client(), &kgo.Record{Topic: "a", Value: []byte("x")})
	if r, err := adm.DeleteTopics(ctx, "a"); err != nil || r["a"].Err != nil {
		t.Error("delete:", err, r["a"].Err)
	}
	c.crash()
	topics, err := c.admin().ListTopics(ctx)
	if err != nil || topics.Has("a") || !topics.Has("cfg") {
		t.Errorf("after a crash there are %v, %v", topics.Names(), err)
	}
}

// Two members share a group's partitions, in both protocols; what one has committed the next goes on from, over a crash too.
func TestGroup(t *testing.T) {
	c := start(t)
	c.topic("work", 4, nil)
	const n = 400
	produce(t, c.client(), numbered("work", n)...)
	member := func() *kgo.Client {
		return c.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("work"), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	m := member()
	got := consume(t, m, n)
	checkNumbered(t, got, n, "the first member")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.CommitRecords(ctx, got...); err != nil {
		t.Fatal("commit:", err)
	}
	m.CloseAllowingRebalance()
	c.crash()
	produce(t, c.client(), &kgo.Record{Topic: "work", Value: []byte("next")})
	if got := consume(t, member(), 1); string(got[0].Value) != "next" {
		t.Errorf("the second member got %q first", got[0].Value)
	}
	lags, err := c.admin().Lag(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	if total := lags["g"].Lag.Total(); total != 1 {
		t.Errorf("lag is %d, want 1", total)
	}
}

// Records before an offset can be deleted, and stay so over a crash; a topic's retention lets go of what is old.
func TestDeleteRecords(t *testing.T) {
	c := start(t)
	c.topic("a", 1, nil)
	cl := c.client()
	for i := range 10 {
		produce(t, cl, &kgo.Record{Topic: "a", Value: fmt.Append(nil, i)})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var to kadm.Offsets
	to.AddOffset("a", 0, 6, -1)
	if r, err := c.admin().DeleteRecords(ctx, to); err != nil || r["a"][0].Err != nil || r["a"][0].LowWatermark != 6 {
		t.Fatalf("answered %+v, %v", r, err)
	}
	for _, when := range []string{"at once", "after a crash"} {
		if got := consume(t, c.client(kgo.ConsumeTopics("a")), 4); string(got[0].Value) != "6" || got[0].Offset != 6 {
			t.Errorf("%s the first record is %q at %d", when, got[0].Value, got[0].Offset)
		}
		if when == "at once" {
			c.crash()
		}
	}
	offsets, err := c.admin().ListOffsetsAfterMilli(ctx, 1, "a")
	if o, _ := offsets.Lookup("a", 0); err != nil || o.Offset != 6 {
		t.Errorf("the first after 1970 is at %d, %v", o.Offset, err)
	}
}

// Pages of topics' partitions, as Java's admin client asks for them: it takes no null lists.
func TestDescribeTopicPartitions(t *testing.T) {
	c := start(t)
	c.topic("a", 3, nil)
	c.topic("b", 2, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl := c.client()
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 2
	var seen []string
	for range 10 {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				seen = append(seen, fmt.Sprint(*topic.Topic, p.Partition))
				if p.EligibleLeaderReplicas == nil || p.LastKnownELR == nil {
					t.Error("a list is null")
				}
			}
		}
		if resp.NextCursor == nil {
			break
		}
		req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
	}
	if got := fmt.Sprint(seen); got != "[a0 a1 a2 b0 b1]" {
		t.Errorf("seen %s", got)
	}
}
