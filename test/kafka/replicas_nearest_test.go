package kafka

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	door "github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// nearestTrio is a ledTrio whose consumers read in their racks: the leader's is "r0", the follower's "r1".
func nearestTrio(t *testing.T) *trio {
	t.Helper()
	tr := ledTrio(t)
	set := door.DefaultSettings()
	set.NearestReplica = true
	for _, n := range tr.nodes {
		n.door.Set(set)
	}
	return tr
}

// stored has the topic have one more record, on all nodes.
func (tr *trio) stored(value string) {
	tr.t.Helper()
	p := tr.raw(int(tr.leading().id) - 1).ask(produceTo(tr, 9, -1, time.Minute, oneBatch(value, -1, 0, 0))).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	expect(tr.t, "produce", p.ErrorCode, wire.None)
	for _, n := range tr.nodes {
		part := n.b.Topic(0, "t").Partition(0)
		testx.Eventually(tr.t, patience, func() bool { return int64(part.HighWatermark()) > p.BaseOffset }, "the record on all nodes")
	}
}

func inRack(m *kmsg.FetchRequest, rack string) *kmsg.FetchRequest {
	m.Rack = rack
	return m
}

// sent says what is told to a client that is to read from another node: nothing but which one.
func sent(t *testing.T, what string, p *kmsg.FetchResponseTopicPartition, to int32, watermark int64) {
	t.Helper()
	if p.ErrorCode != 0 || p.PreferredReadReplica != to || len(p.RecordBatches) != 0 || p.HighWatermark != watermark || p.LastStableOffset != watermark {
		t.Errorf("%s: %s, to node %d, want %d; %d bytes, high watermark %d, want %d", what, wire.ErrorCode(p.ErrorCode), p.PreferredReadReplica, to, len(p.RecordBatches), p.HighWatermark, watermark)
	}
}

func served(t *testing.T, what string, p *kmsg.FetchResponseTopicPartition) {
	t.Helper()
	if p.ErrorCode != 0 || p.PreferredReadReplica != -1 || len(p.RecordBatches) == 0 {
		t.Errorf("%s: %s, to node %d, %d bytes", what, wire.ErrorCode(p.ErrorCode), p.PreferredReadReplica, len(p.RecordBatches))
	}
}

// TestNearestLeader: the leader sends those to a follower who say that they are in its rack, once; who comes back is served, and so is who asks for what is not there.
func TestNearestLeader(t *testing.T) {
	tr := nearestTrio(t)
	tr.stored("a")
	for _, version := range []int16{11, 12, 16} {
		r := tr.raw(leaderAt)
		p, _ := fetched(r, inRack(fetchFrom(tr, version, 0, -1, time.Hour), "r1"))
		sent(t, "the follower's rack", &p, 2, 1)
		p, _ = fetched(r, inRack(fetchFrom(tr, version, 0, -1, 0), "r1"))
		served(t, "who comes back", &p)
	}
	for _, rack := range []string{"", "r0", "elsewhere"} {
		p, _ := fetched(tr.raw(leaderAt), inRack(fetchFrom(tr, 12, 0, -1, 0), rack))
		served(t, "rack "+rack, &p)
	}
	p, _ := fetched(tr.raw(leaderAt), inRack(fetchFrom(tr, 12, 2, -1, 0), "r1"))
	expect(t, "what is not there", p.ErrorCode, wire.OffsetOutOfRange)
	tr.inSync(1)
	p, _ = fetched(tr.raw(leaderAt), inRack(fetchFrom(tr, 12, 0, -1, 0), "r1"))
	served(t, "a follower that is not in sync", &p)
	tr.inSync(2)
	tr.nodes[leaderAt].door.Set(door.DefaultSettings())
	p, _ = fetched(tr.raw(leaderAt), inRack(fetchFrom(tr, 12, 0, -1, 0), "r1"))
	served(t, "by default", &p)
}

// TestNearestFollower: a follower serves those in its rack with the leader's bytes, sends all others that name one back, and what it cannot serve as well; it says
// itself of no offset that there is none.
func TestNearestFollower(t *testing.T) {
	tr := nearestTrio(t)
	tr.stored("a")
	epoch := tr.nodes[0].View().All.Epoch
	want, _ := fetched(tr.raw(leaderAt), fetchFrom(tr, 12, 0, epoch, 0))
	for _, version := range []int16{11, 12, 16} {
		p, resp := fetched(tr.raw(followerAt), inRack(fetchFrom(tr, version, 0, epoch, 0), "r1"))
		served(t, "its rack", &p)
		if string(p.RecordBatches) != string(want.RecordBatches) || p.HighWatermark != 1 || p.LastStableOffset != 1 || p.LogStartOffset != 0 || len(resp.Brokers) != 0 {
			t.Errorf("version %d: %+v, want %+v", version, p, want)
		}
		p, _ = fetched(tr.raw(followerAt), inRack(fetchFrom(tr, version, 0, epoch, 0), "r0"))
		sent(t, "another rack", &p, 1, -1)
	}
	for _, c := range []struct {
		version int16
		rack    string
		epoch   int32
		want    wire.ErrorCode
	}{{10, "r1", epoch, wire.NotLeaderOrFollower}, {12, "", epoch, wire.NotLeaderOrFollower}, {12, "r1", epoch - 1, wire.FencedLeaderEpoch}, {12, "r1", epoch + 1, wire.UnknownLeaderEpoch}} {
		p, _ := fetched(tr.raw(followerAt), inRack(fetchFrom(tr, c.version, 0, c.epoch, 0), c.rack))
		if expect(t, c.rack, p.ErrorCode, c.want); len(p.RecordBatches) != 0 {
			t.Errorf("%+v: %d bytes", c, len(p.RecordBatches))
		}
	}
	p, _ := fetched(tr.raw(followerAt), inRack(fetchFrom(tr, 12, 9, -1, 0), "r1"))
	sent(t, "an offset that may come", &p, 1, -1)
	p, _ = fetched(tr.raw(followerAt), inRack(fetchFrom(tr, 12, -1, -1, 0), "r1"))
	sent(t, "an offset before the begin", &p, 1, -1)
	tr.inSync(1)
	p, _ = fetched(tr.raw(followerAt), inRack(fetchFrom(tr, 12, 0, -1, 0), "r1"))
	sent(t, "not in sync", &p, 1, -1)
}

// TestNearestWaits: who waits at a follower is woken by what it applies, also if it was ahead of it, and is sent back when the follower is not in sync any more. Its
// session lasts meanwhile.
func TestNearestWaits(t *testing.T) {
	tr := nearestTrio(t)
	tr.stored("a")
	r, ahead := tr.raw(followerAt), tr.raw(followerAt)
	first := inRack(fetchFrom(tr, 12, 0, -1, 0), "r1")
	first.SessionEpoch = 0
	p, resp := fetched(r, first)
	if served(t, "a session", &p); resp.SessionID == 0 {
		t.Fatal("no session")
	}
	next := inRack(fetchFrom(tr, 12, 1, -1, time.Hour), "r1")
	next.SessionID, next.SessionEpoch = resp.SessionID, 1
	far := inRack(fetchFrom(tr, 12, 2, -1, time.Hour), "r1")
	for r, m := range map[*raw]*kmsg.FetchRequest{r: next, ahead: far} {
		if err := r.send(m); err != nil {
			t.Fatal(err)
		}
	}
	tr.stored("b")
	answer := func(r *raw, m *kmsg.FetchRequest) *kmsg.FetchResponseTopicPartition {
		t.Helper()
		got, err := r.receive(m, patience)
		if err != nil {
			t.Fatal(err)
		}
		return &got.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	}
	served(t, "a fetch of a session that waits", answer(r, next))
	tr.stored("c")
	served(t, "who was ahead", answer(ahead, far))
	last := inRack(fetchFrom(tr, 12, 3, -1, time.Hour), "r1")
	if err := ahead.send(last); err != nil {
		t.Fatal(err)
	}
	tr.inSync(1)
	sent(t, "not in sync any more", answer(ahead, last), 1, -1)
}

// TestNearestClient: franz-go reads by the follower in its rack, each record once and in order, while the lead moves.
func TestNearestClient(t *testing.T) {
	tr := nearestTrio(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := tr.client(0, kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	const each, turns = 50, 4
	c := tr.client(0, kgo.ConsumeTopics("t"), kgo.Rack("r1"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	n := 0
	for turn := range turns {
		for i := range each {
			if err := p.ProduceSync(ctx, kgo.StringRecord(strconv.Itoa(turn*each+i))).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		for n < (turn+1)*each && ctx.Err() == nil {
			c.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if string(r.Value) != strconv.Itoa(n) {
					t.Fatalf("record %d is %q", n, r.Value)
				}
				n++
			})
		}
		if turn == 0 {
			testx.Eventually(t, patience, func() bool { return tr.nodes[followerAt].door.Snapshot().Followed > 0 }, "the follower has served")
		}
		tr.lead((turn + 1) % 2)
	}
	if n != each*turns || tr.nodes[leaderAt].door.Snapshot().SentNearer == 0 {
		t.Errorf("%d records of %d", n, each*turns)
	}
}

// TestNearestCommitted: a reader of committed records sees by a follower what transactions have committed, nothing of those that were aborted, and nothing behind one that
// is open.
func TestNearestCommitted(t *testing.T) {
	tr := nearestTrio(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := tr.client(0, kgo.DefaultProduceTopic("t"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("x"))
	c := tr.client(0, kgo.ConsumeTopics("t"), kgo.Rack("r1"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond))
	const turns = 6
	for turn := range turns {
		if err := p.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		value := "committed"
		if turn%2 == 0 {
			value = "aborted"
		}
		if err := p.ProduceSync(ctx, kgo.StringRecord(value), kgo.StringRecord(value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := p.EndTransaction(ctx, kgo.TransactionEndTry(turn%2 == 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(ctx, kgo.StringRecord("open")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	end := tr.nodes[followerAt].b.Topic(0, "t").Partition(0)
	testx.Eventually(t, patience, func() bool { return end.HighWatermark() == 3*turns+1 }, "the follower has all")
	n := 0
	for n < turns && ctx.Err() == nil {
		c.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			if n++; string(r.Value) != "committed" {
				t.Errorf("record %d is %q", r.Offset, r.Value)
			}
		})
	}
	epoch := tr.nodes[0].View().All.Epoch
	for i, rack := range []string{"r0", "r1"} {
		m := inRack(fetchFrom(tr, 12, 0, epoch, 0), rack)
		m.IsolationLevel = 1
		got, _ := fetched(tr.raw(i), m)
		if served(t, rack, &got); got.LastStableOffset != 3*turns || got.HighWatermark != 3*turns+1 || len(got.AbortedTransactions) != turns/2 {
			t.Errorf("node %d: last stable offset %d, high watermark %d, aborted %v", i+1, got.LastStableOffset, got.HighWatermark, got.AbortedTransactions)
		}
	}
	testx.Eventually(t, patience, func() bool { return tr.nodes[followerAt].door.Snapshot().Followed > 0 }, "the follower has served")
}
