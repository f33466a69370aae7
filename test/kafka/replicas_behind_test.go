package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// behind sends an idempotent producer's batches, each of one record, over one connection.
type behind struct {
	tr *trio
	r  *raw
	id int64
}

func (b *behind) want(what string, sequence int32, code wire.ErrorCode, base int64) {
	b.tr.t.Helper()
	p, _ := produced(b.r, produceTo(b.tr, 9, -1, patience, oneBatch("x", b.id, 0, sequence)))
	if got := wire.ErrorCode(p.ErrorCode); got != code || code == wire.None && p.BaseOffset != base {
		b.tr.t.Errorf("%s: %s at %d, want %s at %d", what, got, p.BaseOffset, code, base)
	}
}

// TestBehindOneThatFailed: what an idempotent producer had under way behind a batch that failed for the moment is answered as that one was, and not called out of order, also
// when this node takes batches again before it has read it: librdkafka would send as new what it was told in doubt about. What is sent again is stored once.
func TestBehindOneThatFailed(t *testing.T) {
	tr := newTrio(t, 2, 50*time.Millisecond)
	tr.lead(leaderAt)
	tr.topic("t", 1)
	b := &behind{tr, tr.raw(leaderAt), 77}
	b.want("the first", 0, wire.None, 0)
	tr.inSync(1)
	b.want("too few replicas", 1, wire.NotEnoughReplicas, 0)
	tr.inSync(2)
	b.want("behind too few replicas", 2, wire.NotEnoughReplicas, 0)
	b.want("behind too few replicas", 3, wire.NotEnoughReplicas, 0)
	b.want("the last that was stored", 0, wire.None, 0)
	b.want("behind it yet", 4, wire.NotEnoughReplicas, 0)
	b.want("sent again", 1, wire.None, 1)
	b.want("sent again", 2, wire.None, 2)

	tr.resign()
	b.want("nobody leads", 3, wire.NotLeaderOrFollower, 0)
	fresh := &behind{tr, b.r, 78}
	tr.lead(leaderAt)
	b.want("behind one that nobody took", 4, wire.NotLeaderOrFollower, 0)
	b.want("sent again", 3, wire.None, 3)
	b.want("sent again", 4, wire.None, 4)

	tr.resign()
	fresh.want("nobody leads, of a producer that nobody knows", 0, wire.NotLeaderOrFollower, 0)
	tr.lead(leaderAt)
	fresh.want("behind its first", 1, wire.NotLeaderOrFollower, 0)
	fresh.want("its first", 0, wire.None, 5)
	fresh.want("its second", 1, wire.None, 6)
}

// TestBehindOneInTheLog: what comes behind a batch that was answered NOT_LEADER_OR_FOLLOWER is refused until that one comes again, also if the log had it and nothing is missing: the
// client would send more new ones beside it than the partition knows.
func TestBehindOneInTheLog(t *testing.T) {
	tr := newTrio(t, 2, patience)
	tr.lead(leaderAt)
	tr.topic("t", 1)
	b := &behind{tr, tr.raw(leaderAt), 77}
	b.want("the first", 0, wire.None, 0)
	tr.hold(true)
	m := produceTo(tr, 9, -1, patience, oneBatch("x", 77, 0, 1))
	b.r.begin(m)
	p := tr.nodes[leaderAt].b.Topic(0, "t").Partition(0).ID()
	testx.Eventually(t, patience, func() bool { return tr.nodes[leaderAt].log.log.LogEnd(p) >= 2 }, "the leader's log has it")
	tr.resign()
	got, err := b.r.receive(m, patience)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "what waits", got.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode, wire.NotLeaderOrFollower)
	tr.hold(false)
	tr.lead(leaderAt)
	b.want("behind it", 2, wire.NotLeaderOrFollower, 0)
	b.want("sent again", 1, wire.None, 1)
	b.want("behind it, sent again", 2, wire.None, 2)
}

// TestBehindWithoutAGap: what is in order is stored, though this connection was told that one before it had failed; and a gap that nobody closes, or of which this connection
// was told nothing, is out of order.
func TestBehindWithoutAGap(t *testing.T) {
	tr := newTrio(t, 2, 50*time.Millisecond)
	tr.lead(leaderAt)
	tr.topic("t", 1)
	b := &behind{tr, tr.raw(leaderAt), 77}
	b.want("the first", 0, wire.None, 0)
	tr.resign()
	b.want("nobody leads", 1, wire.NotLeaderOrFollower, 0)
	tr.lead(followerAt)
	other := &behind{tr, tr.raw(followerAt), 77}
	for i := range 9 {
		other.want("at the next leader", int32(1+i), wire.None, int64(1+i))
	}
	tr.lead(leaderAt)
	b.want("in order", 10, wire.None, 10)
	b.want("a gap", 12, wire.OutOfOrderSequenceNumber, 0)

	tr.resign()
	b.want("nobody leads", 11, wire.NotLeaderOrFollower, 0)
	tr.lead(leaderAt)
	other.r = tr.raw(leaderAt)
	other.want("a gap over another connection", 12, wire.OutOfOrderSequenceNumber, 0)
	m := produceTo(tr, 9, -1, patience, oneBatch("x", 77, 0, 12))
	for i := range 65 {
		p := b.r.ask(m).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		want := wire.NotLeaderOrFollower
		if i == 64 {
			want = wire.OutOfOrderSequenceNumber
		}
		if got := wire.ErrorCode(p.ErrorCode); got != want {
			t.Fatalf("the %d. behind a gap that is not closed: %s, want %s", i+1, got, want)
		}
	}
	b.want("sent again", 11, wire.None, 11)
}
