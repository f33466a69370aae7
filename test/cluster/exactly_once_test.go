package cluster

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/test/common"
)

// What a client reads from one topic and writes to another in transactions, with its offsets, is there once, though the node that leads is killed twice
// meanwhile, and comes back.
func TestExactlyOnceOverLostLeaders(t *testing.T) {
	c := common.StartCluster(t, 3)
	const records, each = 600, 40
	ctx, cancel := context.WithTimeout(context.Background(), 3*longest)
	defer cancel()
	opts := []kgo.Opt{kgo.SeedBrokers(c.KafkaAddrs()...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.RecordRetries(1 << 20), kgo.RequestRetries(1 << 20), kgo.RetryTimeout(longest), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	p, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic("in"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := kadm.NewClient(p).CreateTopics(ctx, 2, -1, nil, "in", "out"); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		p.Produce(ctx, kgo.StringRecord(strconv.Itoa(i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	m := &mover{t: t, c: c, opts: append(opts, kgo.TransactionalID("x"), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("in"), kgo.DefaultProduceTopic("out"),
		kgo.FetchMaxBytes(1<<10), kgo.FetchMaxPartitionBytes(1<<10))}
	defer m.close()
	adm := kadm.NewClient(p)
	for turn := 0; committed(ctx, adm) < records && ctx.Err() == nil; turn++ {
		m.turn(ctx, each, turn)
	}
	onceEach(ctx, t, opts, records)
}

// committed is how many records the group has moved.
func committed(ctx context.Context, adm *kadm.Client) (n int64) {
	at, err := adm.FetchOffsets(ctx, "g")
	if err != nil {
		return 0 // asked again
	}
	at.Each(func(o kadm.OffsetResponse) { n += max(o.At, 0) })
	return n
}

// mover moves records in transactions. Where it does not know how one has ended, it begins anew, as a program does that was restarted.
type mover struct {
	t    *testing.T
	c    *common.Cluster
	opts []kgo.Opt
	s    *kgo.GroupTransactSession
	lost *common.Node
}

func (m *mover) close() {
	if m.s != nil {
		m.s.Close()
		m.s = nil
	}
}

// turn is one transaction. In two of them the node that leads is lost, in two others it comes back.
func (m *mover) turn(ctx context.Context, most, turn int) {
	if m.s == nil {
		var err error
		if m.s, err = kgo.NewGroupTransactSession(m.opts...); err != nil {
			m.t.Fatal(err)
		}
	}
	few, cancel := context.WithTimeout(ctx, time.Second)
	fs := m.s.PollRecords(few, most)
	cancel()
	if fs.Empty() {
		return
	}
	if err := m.s.Begin(); err != nil {
		m.close()
		return
	}
	fs.EachRecord(func(r *kgo.Record) { m.s.Produce(ctx, &kgo.Record{Value: r.Value}, nil) })
	switch {
	case (turn == 2 || turn > 5) && m.lost == nil && turn < 8:
		m.lost = m.c.Leader()
		m.lost.Kill()
	case turn > 3 && m.lost != nil && m.lost.Broker() == nil:
		m.lost.Start()
		m.c.AwaitSynced()
		m.lost = nil
	}
	if _, err := m.s.End(ctx, kgo.TryCommit); err != nil {
		m.t.Log("a transaction without an end that is known:", err)
		m.close()
	}
}

// onceEach reads the topic "out", in which each of so many numbers is to be once.
func onceEach(ctx context.Context, t *testing.T, opts []kgo.Opt, records int) {
	t.Helper()
	r, err := kgo.NewClient(append(opts, kgo.ConsumeTopics("out"), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []int
	ends := 0 // of partitions: what is written last is behind all else
	for part := range int32(2) {
		if err := r.ProduceSync(ctx, &kgo.Record{Topic: "out", Partition: part, Value: []byte("end")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for ends < 2 && ctx.Err() == nil {
		r.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if string(r.Value) == "end" {
				ends++
				return
			}
			n, _ := strconv.Atoi(string(r.Value))
			got = append(got, n)
		})
	}
	slices.Sort(got)
	for i, n := range got {
		if n != i {
			t.Fatalf("%d records of %d; %d at place %d", len(got), records, n, i)
		}
	}
	if len(got) != records {
		t.Errorf("%d records of %d", len(got), records)
	}
}
