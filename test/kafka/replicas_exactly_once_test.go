package kafka

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestExactlyOnceMovesWithTheLeader: what is read from one topic and written to another in transactions, with the offsets, is there once, however often
// the leader changes meanwhile.
func TestExactlyOnceMovesWithTheLeader(t *testing.T) {
	tr := ledTrio(t)
	tr.topic("out", 1)
	const records = 400
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	p := tr.client(leaderAt, kgo.DefaultProduceTopic("t"))
	for i := range records {
		p.Produce(ctx, &kgo.Record{Value: []byte(strconv.Itoa(i))}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	at := tr.nodes[followerAt].addr
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(at.Host+":"+strconv.Itoa(int(at.Port))), kgo.TransactionalID("move"), kgo.ConsumerGroup("mover"), kgo.ConsumeTopics("t"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DefaultProduceTopic("out"), kgo.FetchMaxBytes(1<<10),
		kgo.FetchMaxPartitionBytes(1<<10), kgo.MetadataMinAge(50*time.Millisecond), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for turn, moved := 0, 0; moved < records; turn++ {
		fs := s.PollRecords(ctx, 40)
		if err := fs.Err0(); err != nil {
			t.Fatal(err)
		}
		if fs.Empty() {
			continue
		}
		if err := s.Begin(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) { s.Produce(ctx, &kgo.Record{Value: r.Value}, nil) })
		if turn%3 == 1 {
			tr.lead(turn % 2)
		}
		ok, err := s.End(ctx, kgo.TryCommit)
		if err != nil {
			t.Fatal("end of turn", turn, err)
		}
		if ok {
			moved += fs.NumRecords()
		}
	}
	c := tr.client(followerAt, kgo.ConsumeTopics("out"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err := p.ProduceSync(ctx, &kgo.Record{Topic: "out", Value: []byte("-1")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var got []int
	for !slices.Contains(got, -1) { // which is behind all of them
		for _, r := range consume(t, c, 1) {
			n, _ := strconv.Atoi(string(r.Value))
			got = append(got, n)
		}
	}
	slices.Sort(got)
	for i, n := range got {
		if n != i-1 || len(got) != records+1 {
			t.Fatalf("%d records of %d, %d at place %d", len(got), records+1, n, i)
		}
	}
}
