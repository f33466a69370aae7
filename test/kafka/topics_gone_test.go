package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
)

// Topics that are deleted and made again under producers and consumers: clients hear Kafka's codes, go on once they have taken the new topic
// up, and see nothing of the old one.
func TestRecreatedUnderLoad(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	c.topic("t", 3, nil)
	adm := c.admin()
	var life, acked, seen atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	producer := c.client(kgo.UnknownTopicRetries(1), kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }))
	all.Go(func() { // waits for each record, so that none of a life before is under way in the next
		for ctx.Err() == nil {
			select {
			case <-stop:
				return
			default:
			}
			n := life.Load()
			err := producer.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: fmt.Appendf(nil, "%d", n)}).FirstErr()
			switch {
			case err == nil:
				acked.Add(1)
			case isGone(err):
				producer.PurgeTopicsFromClient("t")
			case ctx.Err() == nil:
				t.Error("produce:", err)
			}
		}
	})
	consumer := c.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.AutoCommitInterval(100*time.Millisecond))
	all.Go(func() { readLives(ctx, t, consumer, stop, &seen) })
	for round := int64(1); round <= 3; round++ {
		before := acked.Load()
		testx.Eventually(t, patience, func() bool { return acked.Load() > before+20 && seen.Load() == life.Load() || t.Failed() }, "clients do not go on in life ", round)
		if res, err := adm.DeleteTopic(ctx, "t"); err != nil || res.Err != nil {
			t.Fatal(res.Err, err)
		}
		life.Store(round)
		if res, err := adm.CreateTopic(ctx, 3, 1, nil, "t"); err != nil || res.Err != nil {
			t.Fatal(res.Err, err)
		}
	}
	testx.Eventually(t, patience, func() bool { return seen.Load() == 3 || t.Failed() }, "the last topic is not read")
	close(stop)
	all.Wait()
	if log := c.node.Log(); strings.Contains(log, "ERROR") {
		t.Error(log)
	}
}

// readLives reads a topic that is made again now and then: of its lives, which its records tell, only the next ones may follow.
func readLives(ctx context.Context, t *testing.T, consumer *kgo.Client, stop chan struct{}, seen *atomic.Int64) {
	t.Helper()
	last := int64(0)
	for ctx.Err() == nil {
		select {
		case <-stop:
			return
		default:
		}
		poll, done := context.WithTimeout(ctx, 100*time.Millisecond)
		fs := consumer.PollFetches(poll)
		done()
		fs.EachError(func(_ string, p int32, err error) {
			switch {
			case isGone(err), errors.Is(err, kerr.OffsetOutOfRange):
				consumer.PurgeTopicsFromConsuming("t")
				consumer.AddConsumeTopics("t")
			case !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
				t.Errorf("fetch of %d: %v", p, err)
			}
		})
		fs.EachRecord(func(r *kgo.Record) {
			var n int64
			if _, err := fmt.Sscan(string(r.Value), &n); err != nil || n < last {
				t.Errorf("%q of a topic that is gone is seen after %d", r.Value, last)
			}
			last = n
			seen.Store(n)
		})
	}
}

func isGone(err error) bool {
	return errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)
}

// gone is a topic of two lives, of which the first had two partitions, and a group that had committed both.
func gone(t *testing.T) (c *cluster, old, now kadm.TopicID) {
	t.Helper()
	c = start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	adm := c.admin()
	c.topic("t", 2, nil)
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for p := range int32(2) {
		produce(t, cl, &kgo.Record{Topic: "t", Partition: p, Value: []byte("old")}, &kgo.Record{Topic: "t", Partition: p, Value: []byte("old")})
	}
	var at kadm.Offsets
	at.AddOffset("t", 0, 2, -1)
	at.AddOffset("t", 1, 2, -1)
	if res, err := adm.CommitOffsets(ctx, "g", at); err != nil || res.Error() != nil {
		t.Fatal(res.Error(), err)
	}
	was, err := adm.ListTopics(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if res, err := adm.DeleteTopic(ctx, "t"); err != nil || res.Err != nil {
		t.Fatal(res.Err, err)
	}
	c.topic("t", 1, nil)
	is, err := c.admin().ListTopics(ctx, "t") // the client before keeps what it knows
	if err != nil {
		t.Fatal(err)
	}
	if old, now = was["t"].ID, is["t"].ID; old == now {
		t.Error("the new topic has the id of the old one")
	}
	return c, old, now
}

// forgotten checks that a group has no offsets.
func (c *cluster) forgotten(group string) {
	c.t.Helper()
	at, err := c.admin().FetchOffsets(context.Background(), group)
	if err != nil {
		c.t.Fatal(err)
	}
	if list := at.Sorted(); len(list) > 0 {
		c.t.Errorf("the group has offsets of the old topic: %v", list)
	}
}

// What is asked of partitions that are gone has Kafka's codes, by name and by id, and a topic made again begins at 0 without the offsets that
// groups had in the old one.
func TestPartitionsThatAreGone(t *testing.T) {
	c, old, now := gone(t)
	r := c.raw()
	const unknown, unknownID = 3, 100
	produced := func(version int16, name string, id [16]byte, partition int32, want int16) {
		t.Helper()
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = version, -1, 1000
		pt := kmsg.NewProduceRequestTopic()
		pt.Topic, pt.TopicID = name, id
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = partition, plainBatch(-1, -1, -1, 1)
		pt.Partitions = append(pt.Partitions, p)
		req.Topics = append(req.Topics, pt)
		if got := r.ask(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; got.ErrorCode != want {
			t.Errorf("produce %d to %s/%x/%d: %d, want %d", version, name, id, partition, got.ErrorCode, want)
		}
	}
	produced(9, "none", [16]byte{}, 0, unknown)
	produced(9, "t", [16]byte{}, 1, unknown)
	produced(13, "", old, 0, unknownID)
	produced(13, "", now, 1, unknown)
	fetched := func(version int16, name string, id [16]byte, partition int32, offset int64, want int16) {
		t.Helper()
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = version, 10, 1<<20, -1
		ft := kmsg.NewFetchRequestTopic()
		ft.Topic, ft.TopicID = name, id
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
		ft.Partitions = append(ft.Partitions, p)
		req.Topics = append(req.Topics, ft)
		got := r.ask(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if got.ErrorCode != want || len(got.RecordBatches) > 0 {
			t.Errorf("fetch %d of %s/%x/%d from %d: %d and %d bytes, want %d", version, name, id, partition, offset, got.ErrorCode, len(got.RecordBatches), want)
		}
	}
	fetched(12, "none", [16]byte{}, 0, 0, unknown)
	fetched(12, "t", [16]byte{}, 1, 0, unknown)
	fetched(12, "t", [16]byte{}, 0, 2, kerr.OffsetOutOfRange.Code)
	fetched(12, "t", [16]byte{}, 0, 0, 0)
	fetched(13, "", old, 0, 0, unknownID)
	fetched(13, "", now, 1, 0, unknown)
	committed := func(version int16, name string, id [16]byte, partition int32, want int16) {
		t.Helper()
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = version, "g", -1
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic, ct.TopicID = name, id
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = partition, 7
		ct.Partitions = append(ct.Partitions, p)
		req.Topics = append(req.Topics, ct)
		if got := r.ask(req).(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode; got != want {
			t.Errorf("commit %d of %s/%x/%d: %d, want %d", version, name, id, partition, got, want)
		}
	}
	c.forgotten("g")
	c.crash()
	c.forgotten("g")
	r = c.raw()
	committed(8, "none", [16]byte{}, 0, unknown)
	committed(8, "t", [16]byte{}, 1, unknown)
	committed(10, "", old, 0, unknownID)
	committed(10, "", now, 1, unknown)
	committed(10, "", now, 0, 0)
}

// Readers and transactions that wait for a topic are told when it is deleted.
func TestDeletedUnderWaiters(t *testing.T) {
	c := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.topic("t", 1, nil)
	c.topic("stays", 1, nil)
	r := c.raw()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, 60_000, 1, 1<<20, -1
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "t"
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes = 1 << 20
	ft.Partitions = append(ft.Partitions, p)
	req.Topics = append(req.Topics, ft)
	if err := r.send(req); err != nil {
		t.Fatal(err)
	}
	writer := c.client(kgo.TransactionalID("w"), kgo.TransactionTimeout(2*time.Second))
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, writer, &kgo.Record{Topic: "stays", Value: []byte("x")})
	adding := kmsg.NewPtrAddPartitionsToTxnRequest()
	pid, epoch, err := writer.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	adding.Version, adding.TransactionalID, adding.ProducerID, adding.ProducerEpoch = 3, "w", pid, epoch
	for topic, part := range map[string]int32{"t": 0} {
		at := kmsg.NewAddPartitionsToTxnRequestTopic()
		at.Topic, at.Partitions = topic, []int32{part}
		adding.Topics = append(adding.Topics, at)
	}
	if code := c.raw().ask(adding).(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Errorf("a partition is not taken into the transaction: %d", code)
	}
	if res, err := c.admin().DeleteTopic(ctx, "t"); err != nil || res.Err != nil {
		t.Fatal(res.Err, err)
	}
	resp, err := r.receive(req, patience)
	if err != nil {
		t.Fatal("the fetch that waits is not told:", err)
	}
	if code := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode; code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("the fetch that waits is told %d", code)
	}
	if err := writer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Error("a transaction with a topic that is gone does not commit:", err)
	}
	consume(t, c.client(kgo.ConsumeTopics("stays"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 1)
}
