package perf

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/journal/record"
)

// kafkaClient is a connection that sends whole requests and reads whole responses, so that what it sends can be the same bytes each time.
type kafkaClient struct {
	t    testing.TB
	conn net.Conn
	in   []byte
}

func dialKafka(t testing.TB, n *node) *kafkaClient {
	t.Helper()
	c, err := net.Dial("tcp", n.ready.Listeners["kafka.tcp"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &kafkaClient{t: t, conn: c}
}

// encode is a request as it goes over the wire. Its correlation identifier is that of all others.
func encode(r kmsg.Request) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("perf")).AppendRequest(nil, r, 7)
}

// send writes requests and reads as many responses, of which it returns the last one, without its size and correlation identifier.
func (c *kafkaClient) send(requests []byte, count int) []byte {
	c.t.Helper()
	if _, err := c.conn.Write(requests); err != nil {
		c.t.Fatal(err)
	}
	var head [8]byte
	for range count {
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			c.t.Fatal(err)
		}
		if id := binary.BigEndian.Uint32(head[4:]); id != 7 {
			c.t.Fatalf("correlation identifier %d", id)
		}
		size := int(binary.BigEndian.Uint32(head[:])) - 4
		if cap(c.in) < size {
			c.in = make([]byte, size)
		}
		c.in = c.in[:size]
		if _, err := io.ReadFull(c.conn, c.in); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.in
}

// ask sends one request and decodes its response.
func (c *kafkaClient) ask(r kmsg.Request) kmsg.Response {
	c.t.Helper()
	in := c.send(encode(r), 1)
	resp := r.ResponseKind()
	resp.SetVersion(r.GetVersion())
	if resp.IsFlexible() && r.Key() != 18 {
		in = in[1:] // the header's tags
	}
	if err := resp.ReadFrom(in); err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *kafkaClient) apiVersions() {
	c.t.Helper()
	r := kmsg.NewPtrApiVersionsRequest()
	if resp := c.ask(r).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 || len(resp.ApiKeys) < 10 {
		c.t.Fatalf("%+v", resp)
	}
}

func (c *kafkaClient) create(topic string, partitions int32) {
	c.t.Helper()
	r := kmsg.NewPtrCreateTopicsRequest()
	r.Version, r.TimeoutMillis = 4, 10_000
	x := kmsg.NewCreateTopicsRequestTopic()
	x.Topic, x.NumPartitions, x.ReplicationFactor = topic, partitions, 1
	r.Topics = append(r.Topics, x)
	if resp := c.ask(r).(*kmsg.CreateTopicsResponse); len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
		c.t.Fatalf("%+v", resp)
	}
}

// produce is a request with one batch of so many records.
func produceRequest(topic string, records, size int) *kmsg.ProduceRequest {
	var b record.BatchBuilder
	now := time.Now().UnixMilli()
	b.Begin(nil, now)
	for i := range records {
		b.Append(&record.Input{Value: make([]byte, size), Timestamp: now, OffsetDelta: int32(i)})
	}
	r := kmsg.NewPtrProduceRequest()
	r.Version, r.Acks, r.TimeoutMillis = 8, -1, 10_000
	x := kmsg.NewProduceRequestTopic()
	x.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = b.Finish(&record.BatchOptions{})
	x.Partitions = append(x.Partitions, p)
	r.Topics = append(r.Topics, x)
	return r
}

// stored is how many records the topic's partition has.
func (c *kafkaClient) stored(topic string) int64 {
	c.t.Helper()
	r := kmsg.NewPtrListOffsetsRequest()
	r.Version, r.ReplicaID = 1, -1
	x := kmsg.NewListOffsetsRequestTopic()
	x.Topic = topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = -1
	x.Partitions = append(x.Partitions, p)
	r.Topics = append(r.Topics, x)
	resp := c.ask(r).(*kmsg.ListOffsetsResponse)
	if len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		c.t.Fatalf("%+v", resp)
	}
	return resp.Topics[0].Partitions[0].Offset
}

// TestBudgetProduce measures what a produce request costs that goes alone, and what one costs among others.
func TestBudgetProduce(t *testing.T) {
	plainBuild(t)
	for _, tc := range []struct {
		name       string
		durability string
		records    int
		window     int
		rounds     int
	}{
		{"one", "sync", 1, 1, 500},
		{"one_of_100_records", "sync", 100, 1, 300},
		{"pipelined", "async", 1, 20, 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := start(t, "journal.durability="+tc.durability, "listeners.kafka.tcp=127.0.0.1:0")
			c := dialKafka(t, n)
			c.create("t", 1)
			one := encode(produceRequest("t", tc.records, 100))
			var out []byte
			for range tc.window {
				out = append(out, one...)
			}
			rounds := func(count int) {
				for range count {
					c.send(out, tc.window)
				}
			}
			rounds(100)
			had := c.stored("t")
			u := n.used(func() { rounds(tc.rounds) })
			if got, want := c.stored("t")-had, int64(tc.rounds*tc.window*tc.records); got != want {
				t.Errorf("%d records are stored, not %d", got, want)
			}
			spendMessage(t, "produce_"+tc.name, u, float64(tc.rounds*tc.window))
		})
	}
}

// fetchRequest is a fetch without a session, of what lies at an offset.
func fetchRequest(topic string, at int64, most int32) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.Version, r.ReplicaID, r.MinBytes, r.MaxBytes, r.SessionEpoch = 11, -1, 1, most, -1
	x := kmsg.NewFetchRequestTopic()
	x.Topic = topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = at, most, -1
	x.Partitions = append(x.Partitions, p)
	r.Topics = append(r.Topics, x)
	return r
}

// TestBudgetFetch measures what a fetch costs that finds records in memory at once.
func TestBudgetFetch(t *testing.T) {
	plainBuild(t)
	n := start(t, "journal.durability=async", "listeners.kafka.tcp=127.0.0.1:0")
	c := dialKafka(t, n)
	c.create("t", 1)
	produce := encode(produceRequest("t", 10, 100))
	for range 100 {
		c.send(produce, 1)
	}
	for _, tc := range []struct {
		name string
		most int32
	}{{"small", 1}, {"64k", 64 << 10}} {
		t.Run(tc.name, func(t *testing.T) {
			r := fetchRequest("t", 100, tc.most)
			resp := c.ask(r).(*kmsg.FetchResponse)
			if len(resp.Topics) != 1 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
				t.Fatalf("%+v", resp)
			}
			got := resp.Topics[0].Partitions[0].RecordBatches
			if b := record.Batch(got); len(got) < 1000 || b.BaseOffset() != 100 || tc.most > 1 && len(got) < 60_000 {
				t.Fatal(fmt.Errorf("%d bytes", len(got)))
			}
			request := encode(r)
			size := len(c.send(request, 1))
			const rounds = 1000
			u := n.used(func() {
				for range rounds {
					if len(c.send(request, 1)) != size {
						t.Error("an answer of another size")
					}
				}
			})
			spendMessage(t, "fetch_"+tc.name, u, rounds)
		})
	}
}

// produceRounds gives what produces one record a round, and waits for it.
func produceRounds(t *testing.T, n *node) func(int) {
	t.Helper()
	c := dialKafka(t, n)
	c.create("t", 1)
	one := encode(produceRequest("t", 1, 100))
	return func(rounds int) {
		for range rounds {
			c.send(one, 1)
		}
	}
}

// fetchRounds gives what fetches one batch a round.
func fetchRounds(t *testing.T, n *node) func(int) {
	t.Helper()
	c := dialKafka(t, n)
	c.create("t", 1)
	c.send(encode(produceRequest("t", 10, 100)), 1)
	request := encode(fetchRequest("t", 0, 1))
	return func(rounds int) {
		for range rounds {
			if len(c.send(request, 1)) < 1000 {
				t.Error("nothing was fetched")
			}
		}
	}
}
