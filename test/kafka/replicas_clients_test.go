package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// TestFollowerAsksTheLeader: a client that asks any node gets a producer id, and its topic is made, whichever it asks.
func TestFollowerAsksTheLeader(t *testing.T) {
	tr := newTrio(t, 2, 10*time.Millisecond)
	r := tr.raw(followerAt)
	none := r.ask(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse)
	expect(t, "a producer id without a leader", none.ErrorCode, wire.CoordinatorLoadInProgress)
	name := "new"
	named := &kmsg.MetadataRequest{Version: 8, AllowAutoTopicCreation: true, Topics: []kmsg.MetadataRequestTopic{{Topic: &name}}}
	expect(t, "a topic without a leader", r.ask(named).(*kmsg.MetadataResponse).Topics[0].ErrorCode, wire.LeaderNotAvailable)
	unknown := func() (by, described int16) { // who may not have a topic made gives up when it is told that there is none
		there := &kmsg.MetadataRequest{Version: 8, Topics: named.Topics}
		all := &kmsg.DescribeTopicPartitionsRequest{Topics: []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: name}}, ResponsePartitionLimit: 10}
		return r.ask(there).(*kmsg.MetadataResponse).Topics[0].ErrorCode, r.ask(all).(*kmsg.DescribeTopicPartitionsResponse).Topics[0].ErrorCode
	}
	by, described := unknown()
	expect(t, "a topic of which a follower may not have heard yet", by, wire.LeaderNotAvailable)
	expect(t, "and as it is described", described, wire.LeaderNotAvailable)

	tr.lead(leaderAt)
	testx.Eventually(t, patience, func() bool {
		by, described = unknown()
		return wire.ErrorCode(by) == wire.UnknownTopicOrPartition && wire.ErrorCode(described) == wire.UnknownTopicOrPartition
	}, "a follower that has come along knows that there is no such topic")
	ids := make(map[int64]bool)
	for i := range 4 {
		resp := tr.raw(i % 2).ask(&kmsg.InitProducerIDRequest{Version: 4, ProducerID: -1, ProducerEpoch: -1}).(*kmsg.InitProducerIDResponse)
		if resp.ErrorCode != 0 || resp.ProducerID < 0 || resp.ProducerEpoch != 0 || ids[resp.ProducerID] {
			t.Errorf("%+v, and before it %v", resp, ids)
		}
		ids[resp.ProducerID] = true
	}
	testx.Eventually(t, patience, func() bool {
		p := r.ask(named).(*kmsg.MetadataResponse).Topics[0]
		if p.ErrorCode != 0 && wire.ErrorCode(p.ErrorCode) != wire.LeaderNotAvailable {
			t.Fatal(wire.ErrorCode(p.ErrorCode))
		}
		return p.ErrorCode == 0 && len(p.Partitions) == 1 && p.Partitions[0].Leader == 1
	}, "the topic that a follower was asked for")
}

// TestClientsMoveWithTheLeader: an idempotent producer and a group's consumer, which know of one node at first, lose nothing, repeat nothing and keep the
// order while the leader changes.
func TestClientsMoveWithTheLeader(t *testing.T) {
	tr := ledTrio(t)
	const each, rounds = 200, 4
	p := tr.client(followerAt, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("t"))
	c := tr.client(followerAt, kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var sent sync.WaitGroup
	for round := range rounds {
		if round > 0 {
			tr.lead(round % 2)
		}
		for i := range each {
			sent.Add(1)
			p.Produce(ctx, &kgo.Record{Partition: int32(i % 2), Value: []byte(strconv.Itoa(round*each + i))}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error(err)
				}
				sent.Done()
			})
			if i == each/2 && round == rounds-1 { // with batches on their way
				tr.lead((round + 1) % 2)
			}
		}
	}
	sent.Wait()
	var got [2][]int
	for len(got[0])+len(got[1]) < each*rounds {
		fs := c.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			n, _ := strconv.Atoi(string(r.Value))
			got[r.Partition] = append(got[r.Partition], n)
		})
	}
	for part, list := range got {
		for i, n := range list {
			if n != 2*i+part {
				t.Fatalf("partition %d: %d at place %d", part, n, i)
			}
		}
	}
	if err := c.CommitUncommittedOffsets(ctx); err != nil {
		t.Error(err)
	}
	tr.lead(leaderAt) // which knows where the group was
	c.Close()
	c = tr.client(followerAt, kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err := p.ProduceSync(ctx, &kgo.Record{Value: []byte("last")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if rest := consume(t, c, 1); string(rest[0].Value) != "last" {
		t.Errorf("the group begins at %q", rest[0].Value)
	}
}

// TestTransactionsMoveWithTheLeader: a transaction that was begun at one leader ends at the next; what it has written is seen as a whole or not at all; a
// producer that was fenced is so at the next leader, too.
func TestTransactionsMoveWithTheLeader(t *testing.T) {
	tr := ledTrio(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	txn := func() *kgo.Client {
		return tr.client(followerAt, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	p := txn()
	var want []string
	for round := range 6 {
		if err := p.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for k := range 4 {
			value := fmt.Sprint(round, ".", k)
			if err := p.ProduceSync(ctx, &kgo.Record{Partition: int32(k % 2), Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(round, k, err)
			}
			if k == 1 && round%3 > 0 {
				tr.lead(round % 2)
			}
			if round%2 == 0 {
				want = append(want, value)
			}
		}
		if round%3 == 2 {
			tr.lead((round + 1) % 2)
		}
		if err := p.EndTransaction(ctx, kgo.TransactionEndTry(round%2 == 0)); err != nil {
			t.Fatal(round, err)
		}
	}
	c := tr.client(followerAt, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var got []string
	for _, r := range consume(t, c, len(want)) {
		got = append(got, string(r.Value))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	other := txn()
	if _, _, err := other.ProducerID(ctx); err != nil { // it takes the id over
		t.Fatal(err)
	}
	tr.lead(leaderAt)
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(ctx, &kgo.Record{Value: []byte("fenced")}).FirstErr(); err == nil {
		t.Error("a producer that was fenced writes at the next leader")
	}
}

// TestConsumerFindsWhatIsLost: after an election that has lost what a consumer has read, it finds out by the epochs, and where the loss begins (KIP-320).
func TestConsumerFindsWhatIsLost(t *testing.T) {
	tr := ledTrio(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := tr.client(followerAt, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().AtStart()}}))
	write := func(n int) {
		t.Helper()
		for range n {
			if p, _ := produced(tr.raw(leaderAt), produceTo(tr, 9, 1, patience, oneBatch("a", -1, 0, 0))); p.ErrorCode != 0 {
				t.Fatal(wire.ErrorCode(p.ErrorCode))
			}
		}
		consume(t, c, n)
	}
	write(2)
	s, leader := tr.shardOf("t"), tr.nodes[leaderAt].b
	testx.Eventually(t, patience, func() bool { return tr.nodes[followerAt].b.Replica(s).Durable == leader.Replica(s).Last }, "the follower has it")
	tr.hold(true)
	for s := range record.ShardID(replicaShards) {
		if err := leader.SetInSync(s, 1, nil, 1); err != nil {
			t.Fatal(err)
		}
	}
	write(3)
	tr.leadWith(followerAt, nil)
	if p := epochEnd(tr.raw(followerAt), "t", 1, 2); p.LeaderEpoch != 1 || p.EndOffset != 2 {
		t.Errorf("epoch 1 ends with %d at %d", p.LeaderEpoch, p.EndOffset)
	}
	for {
		fs := c.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatal("the consumer has not found the loss")
		}
		for _, e := range fs.Errors() {
			var loss *kgo.ErrDataLoss
			if errors.As(e.Err, &loss) {
				if loss.ConsumedTo != 5 || loss.ResetTo != 2 {
					t.Errorf("%+v", loss)
				}
				return
			}
		}
	}
}
