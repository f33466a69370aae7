package kafka

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
)

func ptr(s string) *string { return &s }

// startOffset is the first offset of a topic's partition 0.
func (c *cluster) startOffset(topic string) int64 {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := c.admin().ListStartOffsets(ctx, topic)
	if err != nil {
		c.t.Fatal(err)
	}
	o, _ := list.Lookup(topic, 0)
	return o.Offset
}

// Records go when their time or their bytes are over, or when they are deleted, and stay gone over a crash.
func TestRetention(t *testing.T) {
	t.Parallel()
	c := start(t, "kafka.check_interval=1s")
	cl := c.client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	c.topic("time", 1, map[string]*string{"retention.ms": ptr("2000")})
	c.topic("bytes", 1, map[string]*string{"retention.bytes": ptr("20000")})
	c.topic("kept", 1, nil)
	for i := range 20 {
		for _, topic := range []string{"time", "bytes", "kept"} {
			produce(t, cl, &kgo.Record{Topic: topic, Value: []byte(strings.Repeat("x", 5000)), Headers: []kgo.RecordHeader{{Key: fmt.Sprint(i)}}})
		}
	}
	testx.Eventually(t, patience, func() bool { return c.startOffset("time") == 20 }, "retention.ms")
	testx.Eventually(t, patience, func() bool { return c.startOffset("bytes") >= 10 }, "retention.bytes")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var del kadm.Offsets
	del.Add(kadm.Offset{Topic: "kept", Partition: 0, At: 7})
	if res, err := c.admin().DeleteRecords(ctx, del); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	for _, when := range []string{"at once", "after a crash"} {
		if o := c.startOffset("kept"); o != 7 {
			t.Errorf("%s the topic begins at %d", when, o)
		}
		got := consume(t, c.client(kgo.ConsumeTopics("kept"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 13)
		if got[0].Offset != 7 {
			t.Errorf("%s the first is %d", when, got[0].Offset)
		}
		if when == "at once" {
			c.crash()
		}
	}
	produce(t, c.client(), &kgo.Record{Topic: "time", Value: []byte("later")})
	got := consume(t, c.client(kgo.ConsumeTopics("time"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 1)
	if got[0].Offset != 20 {
		t.Errorf("the next record has offset %d", got[0].Offset)
	}
}

// Of each key the latest value stays, and what was deleted goes.
func TestCompaction(t *testing.T) {
	t.Parallel()
	c := start(t, "kafka.check_interval=1s", "journal.checkpoint_interval=1s")
	c.topic("compacted", 1, map[string]*string{"cleanup.policy": ptr("compact"), "segment.ms": ptr("1000"), "min.cleanable.dirty.ratio": ptr("0.01"),
		"delete.retention.ms": ptr("0")})
	cl := c.client(kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	const keys = 10
	record := func(key, value string) *kgo.Record {
		r := &kgo.Record{Topic: "compacted", Key: []byte(key)}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	for round := range 30 {
		var list []*kgo.Record
		for k := range keys {
			list = append(list, record(fmt.Sprint("key-", k), fmt.Sprint("value-", round)))
		}
		produce(t, cl, list...)
	}
	produce(t, cl, record("key-3", ""))
	left := func() (n int, deleted bool) {
		t.Helper()
		state, n, deleted := readCompacted(c)
		for k := range keys {
			want := "value-29"
			if k == 3 {
				want = ""
			}
			if got := state[fmt.Sprint("key-", k)]; got != want {
				t.Fatalf("key %d is %q, want %q", k, got, want)
			}
		}
		return n, deleted
	}
	var last time.Time
	testx.Eventually(t, patience, func() bool {
		if time.Since(last) < time.Second {
			return false
		}
		last = time.Now()
		produce(t, cl, record("later", last.String())) // a pass needs something new
		n, deleted := left()
		return n < 40 && !deleted
	}, "compaction")
	c.crash()
	cl = c.client()
	if n, deleted := left(); n > 41 || deleted {
		t.Errorf("after a crash %d records, deleted %v", n, deleted)
	}
}

// readCompacted reads a compacted topic to its end: the last value of each key, the number of records, and whether some of them delete.
func readCompacted(c *cluster) (state map[string]string, n int, deleted bool) {
	r := c.client(kgo.ConsumeTopics("compacted"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ends, err := c.admin().ListEndOffsets(ctx, "compacted")
	if err != nil {
		c.t.Fatal(err)
	}
	end, _ := ends.Lookup("compacted", 0)
	state = map[string]string{}
	for last := int64(-1); last < end.Offset-1; {
		f := r.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			c.t.Fatal(err)
		}
		f.EachRecord(func(rec *kgo.Record) {
			if rec.Offset <= last {
				c.t.Errorf("offset %d comes behind %d", rec.Offset, last)
			}
			last = rec.Offset
			n++
			state[string(rec.Key)] = string(rec.Value)
			deleted = deleted || rec.Value == nil
		})
	}
	return state, n, deleted
}
