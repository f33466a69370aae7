package mapping

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A bound stream keeps its topic's settings: the time is the broker's, batches are compressed anew, compaction leaves the last message of each
// topic; MQTT's readers and Kafka's see the same of it, before a crash and after it.
func TestStreamSettings(t *testing.T) {
	t.Parallel()

	for name, settings := range map[string]map[string]string{
		"time": {"message.timestamp.type": "LogAppendTime"},
		"gzip": {"compression.type": "gzip"},
		"lz4":  {"compression.type": "lz4", "message.timestamp.type": "LogAppendTime"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, `[{filter: "c/#", topic: c}]`)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var change []kadm.AlterConfig
			for k, v := range settings {
				change = append(change, kadm.AlterConfig{Name: k, Value: &v})
			}
			if res, err := n.admin().AlterTopicConfigs(ctx, change, "c"); err != nil || res[0].Err != nil {
				t.Fatal(res, err)
			}
			absent := n.mqtt(wire.V5, "absent", true)
			absent.sub(1, "c/#", "")
			_ = absent.Disconnect()
			live := n.mqtt(wire.V5, "live", false)
			live.sub(1, "c/#", "")
			began := time.Now()
			sent := publishSettings(n)
			same(t, "live", live.take(len(sent)), sent)
			n.crash()
			same(t, "Kafka", messagesOf(n.consume("c", "", len(sent))), sent)
			for _, r := range n.consume("c", "", len(sent)) {
				if settings["message.timestamp.type"] != "" && r.Timestamp.Before(began.Add(-time.Second)) {
					t.Errorf("%s at %d has the time %v of its producer", r.Key, r.Offset, r.Timestamp)
				}
			}
			replay := n.mqtt(wire.V5, "replay", false)
			replay.sub(1, "c/#", "earliest")
			same(t, "replay", replay.take(len(sent)), sent)
			if settings["message.timestamp.type"] != "" {
				since := n.mqtt(wire.V5, "since", false)
				since.sub(1, "c/#", began.Add(-time.Second).Format(time.RFC3339Nano))
				same(t, "since the load began", since.take(len(sent)), sent)
			}
			same(t, "absent and back", n.mqtt(wire.V5, "absent", true).take(len(sent)), sent)
		})
	}
}

// publishSettings publishes by both protocols, what Kafka's client sends with a time long ago, but not as long as retention keeps records: it
// may look at any time.
func publishSettings(n *node) (sent []message) {
	n.Helper()
	pub, kafka := n.mqtt(wire.V5, "pub", false), n.kafka()
	past := time.Now().Add(-time.Hour)
	for i := range 60 {
		topic := fmt.Sprintf("c/%d", i%5)
		if i%3 == 0 {
			n.produce(kafka, &kgo.Record{Topic: "c", Key: []byte(topic), Value: fmt.Append(nil, i), Timestamp: past})
		} else {
			pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: fmt.Append(nil, i), QoS: byte(1 + i%2)})
		}
		sent = append(sent, message{topic, fmt.Sprint(i), ""})
	}
	return sent
}

// A bound stream with cleanup.policy=compact keeps the last message of each MQTT topic: a Kafka consumer and a replay see the same of it, in the same
// places and the same order, while it is published to, after a crash, and where a replay asks for a place that was compacted; a subscriber who was
// there has all, and a session that was not what is left.
func TestCompactedStream(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "k/#", topic: k, partitions: 1}]`, "kafka.check_interval=1s", "journal.checkpoint_interval=1s")
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var change []kadm.AlterConfig
	for name, value := range map[string]string{"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "0"} {
		change = append(change, kadm.AlterConfig{Name: name, Value: &value})
	}
	if res, err := n.admin().AlterTopicConfigs(ctx, change, "k"); err != nil || res[0].Err != nil {
		t.Fatal(res, err)
	}
	live, absent := n.mqtt(wire.V5, "live", false), n.mqtt(wire.V5, "absent", true)
	live.sub(1, "k/#", "")
	absent.sub(1, "k/#", "")
	_ = absent.Disconnect()
	pub := n.mqtt(wire.V5, "pub", false)
	var sent []message
	put := func(topic string, i int) {
		m := message{topic, fmt.Sprint(i), ""}
		pub.pub(wire.PublishOut{Topic: []byte(m.topic), Payload: []byte(m.payload), QoS: 1})
		sent = append(sent, m)
	}
	for i := range 200 {
		put(fmt.Sprint("k/", i%4), i)
	}
	// Each marker gives a pass something new.
	var last time.Time
	testx.Eventually(t, patience, func() bool {
		if time.Since(last) < 500*time.Millisecond {
			return false
		}
		last = time.Now()
		put("k/marker", len(sent))
		list := n.left(ctx, "k")
		old := 0
		for _, m := range list {
			if m.topic != "k/marker" {
				old++
			}
		}
		return old == 4
	}, "the stream is not compacted")
	same(t, "live", live.take(len(sent)), sent)
	for _, when := range []string{"at once", "after a crash"} {
		if when != "at once" {
			n.crash()
		}
		// A compaction may come in between: then both are read again.
		testx.Eventually(t, patience, func() bool {
			want := n.left(ctx, "k")
			for _, from := range []string{"earliest", "7"} {
				r := n.mqtt(wire.V5, "replay", false)
				r.sub(1, "k/#", from)
				got := r.takeUntil(want[len(want)-1])
				_ = r.Disconnect()
				if !slices.Equal(got, want) {
					t.Logf("%s, from %s: %v, by Kafka %v", when, from, got, want)
					return false
				}
			}
			return true
		}, "a replay is not what a consumer reads ", when)
	}
	back := n.mqtt(wire.V5, "absent", true)
	left := n.left(ctx, "k")
	if got := back.takeUntil(left[len(left)-1]); !slices.Equal(lastOf(got), lastOf(left)) {
		t.Errorf("absent and back: %v, left are %v", got, left)
	}
}

// left reads what is left of a stream.
func (n *node) left(ctx context.Context, stream string) (list []message) {
	n.Helper()
	ends, err := n.admin().ListEndOffsets(ctx, stream)
	if err != nil {
		n.Fatal(err)
	}
	end := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) { end[o.Partition] = o.Offset })
	cl := n.kafka(kgo.ConsumeTopics(stream), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for len(end) > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			n.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			list = append(list, ofKafka(r))
			if r.Offset+1 >= end[r.Partition] { // the last record of a stream is never compacted
				delete(end, r.Partition)
			}
		})
		for p, o := range end {
			if o == 0 {
				delete(end, p)
			}
		}
	}
	return list
}

// takeUntil receives messages up to the last one.
func (c *client) takeUntil(last message) (got []message) {
	c.n.Helper()
	for len(got) == 0 || got[len(got)-1] != last {
		got = append(got, c.takeSome(1)...)
	}
	return got
}

// lastOf has the last message of each topic.
func lastOf(list []message) (last []message) {
	for i, m := range list {
		if !slices.ContainsFunc(list[i+1:], func(o message) bool { return o.topic == m.topic }) {
			last = append(last, m)
		}
	}
	return byTopic(last)
}
