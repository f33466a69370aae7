package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a transaction writes is seen when it commits, never when it aborts, before and after a crash.
func TestTransactions(t *testing.T) {
	c := start(t)
	c.topic("tx", 3, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl := c.client(kgo.TransactionalID("writer"), kgo.DefaultProduceTopic("tx"))
	const rounds = 12
	want := 0
	for i := range rounds {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		commit := kgo.TransactionEndTry(i%3 != 2)
		for k := range 20 {
			cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%v-%d-%d", bool(commit), i, k)}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Error("produce:", err)
				}
			})
		}
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, commit); err != nil {
			t.Fatal("end:", err)
		}
		if commit {
			want += 20
		}
	}
	for _, when := range []string{"at once", "after a crash"} {
		got := consume(t, c.client(kgo.ConsumeTopics("tx"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), want)
		seen := map[string]bool{}
		for _, r := range got {
			if v := string(r.Value); v[:4] != "true" || seen[v] {
				t.Fatalf("%s %q is seen, again: %v", when, v, seen[v])
			}
			seen[string(r.Value)] = true
		}
		if when == "at once" {
			c.crash()
		}
	}
}

// A group's offsets move with the transaction: consume, transform, produce, over a crash, nothing twice and nothing lost.
func TestConsumeTransformProduce(t *testing.T) {
	c := start(t)
	c.topic("in", 2, nil)
	c.topic("out", 2, nil)
	const n = 300
	produce(t, c.client(), numbered("in", n)...)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	session := func() *kgo.GroupTransactSession {
		s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(c.addr), kgo.TransactionalID("transformer"), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("in"),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(2000),
			kgo.MetadataMinAge(100*time.Millisecond), kgo.SessionTimeout(6*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := session()
	defer func() { s.Close() }()
	done := 0
	for crashed := false; done < n; {
		fs := s.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("after %d: %v", done, err)
		}
		if err := s.Begin(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) { s.Produce(ctx, &kgo.Record{Topic: "out", Key: r.Key, Value: r.Value}, nil) })
		committed, err := s.End(ctx, kgo.TryCommit)
		if err != nil {
			t.Fatal("end:", err)
		}
		if committed {
			done += fs.NumRecords()
		}
		if !crashed && done > n/2 {
			crashed = true
			c.crash()
		}
	}
	checkNumbered(t, consume(t, c.client(kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), n), n, "the output")
}

// A second producer of the transactional id fences the first.
func TestFencing(t *testing.T) {
	c := start(t)
	c.topic("tx", 1, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	begin := func() *kgo.Client {
		cl := c.client(kgo.TransactionalID("one"), kgo.DefaultProduceTopic("tx"))
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produce(t, cl, &kgo.Record{Value: []byte("x")})
		return cl
	}
	first := begin()
	second := begin()
	if err := first.EndTransaction(ctx, kgo.TryCommit); !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
		t.Error("the first one commits:", err)
	}
	if err := second.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Error("the second one commits:", err)
	}
	if got := consume(t, c.client(kgo.ConsumeTopics("tx"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 1); len(got) != 1 {
		t.Errorf("%d records are seen", len(got))
	}
}

// A member of the consumer protocol gets its partitions from the broker.
func TestConsumerProtocol(t *testing.T) {
	c := start(t)
	c.topic("work", 6, nil)
	const n = 120
	produce(t, c.client(), numbered("work", n)...)
	member := func() *kgo.Client {
		return c.client(kgo.ConsumerGroup("next"), kgo.ConsumeTopics("work"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.WithContext(context.WithValue(context.Background(), "opt_in_kafka_next_gen_balancer_beta", true))) //nolint:staticcheck // the client's own name
	}
	m := member()
	checkNumbered(t, consume(t, m, n), n, "the member")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{"next"}
	resp, err := req.RequestWith(ctx, m)
	if err != nil || len(resp.Groups) != 1 {
		t.Fatal(err)
	}
	if g := &resp.Groups[0]; g.ErrorCode != 0 || g.State != "Stable" || len(g.Members) != 1 {
		t.Errorf("the group is %s with %d members, code %d", g.State, len(g.Members), g.ErrorCode)
	}
}
