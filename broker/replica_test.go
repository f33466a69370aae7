package broker

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// trio is a leader and a follower of one shard.
type trio struct {
	t                *testing.T
	leader, follower *testBroker
}

const trioShard = record.ShardID(1)

func newReplica(t *testing.T) *testBroker {
	t.Helper()
	tb := &testBroker{t: t, clock: clock.NewManual(clockStart)}
	tb.b = New(Options{Shards: modelShards, Clock: tb.clock, Replicated: true, Lost: func() { tb.lost++ }})
	tb.log = &memLog{b: tb.b}
	tb.b.UseLog(tb.log)
	tb.b.SetTopic(&TopicSpec{Name: "t", ID: TopicID{1}, Partitions: []PartitionSpec{{ID: 100, Shard: trioShard}}, Config: TopicConfig{RetentionMillis: -1, RetentionBytes: -1}})
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	return tb
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	tr := &trio{t, newReplica(t), newReplica(t)}
	tr.lead(tr.leader, 1, 2)
	tr.follow(tr.follower, tr.leader, 1)
	tr.carry(1)
	if st := tr.leader.b.Replica(trioShard); !st.Open {
		t.Fatalf("the leader has not opened: %+v", st)
	}
	return tr
}

func (tr *trio) lead(tb *testBroker, epoch record.Epoch, others ...uint64) {
	tr.t.Helper()
	tb.b.Lead(trioShard, epoch, others, 1, func(err error) {
		if err != nil {
			tr.t.Errorf("lead: %v", err)
		}
	})
	tb.pump()
}

func (tr *trio) follow(tb, leader *testBroker, epoch record.Epoch) {
	tr.t.Helper()
	history, end := leader.b.ReplicaHistory(trioShard)
	tb.b.FollowLeader(trioShard, epoch, history, end, func(_ uint64, err error) {
		if err != nil {
			tr.t.Errorf("follow: %v", err)
		}
	})
	tb.pump()
}

// carry brings the leader's frames to the follower, its answers back, and the high watermark.
func (tr *trio) carry(epoch record.Epoch) {
	tr.t.Helper()
	for range 3 {
		var frames []byte
		if !tr.follower.b.Replica(trioShard).Synced { // what it was given is lost
			tr.follow(tr.follower, tr.leader, epoch)
		}
		has := tr.follower.b.Replica(trioShard)
		tr.leader.log.frames(func(f record.Frame) {
			if f.Shard == trioShard && f.Kind <= record.KindCommand && f.Index > has.Last {
				frames = record.AppendFrame(frames, &f)
			}
		})
		if err := tr.follower.b.Follow(trioShard, epoch, frames); err != nil {
			tr.t.Fatal(err)
		}
		tr.follower.pump()
		if err := tr.leader.b.Acked(trioShard, epoch, 2, tr.follower.b.Replica(trioShard).Durable); err != nil {
			tr.t.Fatal(err)
		}
		tr.leader.pump()
		if !tr.follower.b.Replica(trioShard).Synced {
			continue
		}
		if err := tr.follower.b.Watermark(trioShard, epoch, tr.leader.b.Replica(trioShard).HighWatermark); err != nil {
			tr.t.Fatal(err)
		}
		tr.follower.pump()
	}
}

func (tb *testBroker) part() *Partition { return tb.b.Topic(0, "t").Partition(0) }

// sent is an AppendSink.
type sent struct {
	app     *Appender
	results map[Token]AppendResult
}

func (s *sent) Appended(t Token, r AppendResult) { s.results[t] = r }
func (s *sent) Resume()                          {}

func (tb *testBroker) sender() *sent {
	s := &sent{results: make(map[Token]AppendResult)}
	s.app = tb.b.Local(0).NewAppender(s)
	return s
}

// TestReplicated: what all replicas are to have is answered when they do, what the leader's log is enough for before that; a follower that becomes
// the leader has it all; the old one hears that it is none any more, and takes back what nobody else has.
func TestReplicated(t *testing.T) {
	tr := newTrio(t)
	s, part := tr.leader.sender(), tr.leader.part()
	l := tr.leader.b.Local(0)
	for i, o := range []AppendOptions{{}, {Leader: true}} {
		if err := l.Append(s.app, part, batchOf(record.BatchOptions{}, "a"), o, Token(i)); err != nil {
			t.Fatal(err)
		}
	}
	tr.leader.pump()
	if _, all := s.results[0]; all {
		t.Error("answered before the follower had it")
	}
	if r, ok := s.results[1]; !ok || r.Err != nil || r.Base != 1 {
		t.Errorf("acks=1: %+v, %v", r, ok)
	}
	if hw := part.HighWatermark(); hw != 0 {
		t.Errorf("readers see up to %d", hw)
	}
	tr.carry(1)
	if r, ok := s.results[0]; !ok || r.Err != nil || r.Base != 0 {
		t.Errorf("acks=all: %+v, %v", r, ok)
	}
	if a, b := part.HighWatermark(), tr.follower.part().HighWatermark(); a != 2 || b != 2 {
		t.Errorf("high watermarks %d and %d", a, b)
	}
	if err := tr.follower.b.Local(0).Append(tr.follower.sender().app, tr.follower.part(), batchOf(record.BatchOptions{}, "x"), AppendOptions{}, 1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("append at a follower: %v", err)
	}

	if err := l.Append(s.app, part, batchOf(record.BatchOptions{}, "lost"), AppendOptions{}, 3); err != nil {
		t.Fatal(err)
	}
	tr.leader.pump()
	tr.leader, tr.follower = tr.follower, tr.leader
	tr.lead(tr.leader, 2, 2)
	tr.follow(tr.follower, tr.leader, 2)
	if r := s.results[3]; !errors.Is(r.Err, ErrNotLeader) {
		t.Errorf("what the old leader had alone: %+v", r)
	}
	tr.carry(2)
	s = tr.leader.sender()
	if err := tr.leader.b.Local(0).Append(s.app, tr.leader.part(), batchOf(record.BatchOptions{}, "b"), AppendOptions{}, 4); err != nil {
		t.Fatal(err)
	}
	tr.leader.pump()
	tr.carry(2)
	if r, ok := s.results[4]; !ok || r.Err != nil || r.Base != 2 {
		t.Errorf("acks=all of the new leader: %+v, %v", r, ok)
	}
	if a, b := tr.leader.part().HighWatermark(), tr.follower.part().HighWatermark(); a != 3 || b != 3 {
		t.Errorf("high watermarks %d and %d", a, b)
	}
	truncated := false
	tr.follower.log.frames(func(f record.Frame) {
		if ends, ok := record.Ends(f.Payload); f.Kind == record.KindTruncate {
			truncated = ok && len(ends) == 1 && ends[0] == record.PartitionEnd{Partition: 100, End: 2}
		}
	})
	if !truncated {
		t.Error("the log of the old leader was not told of its end")
	}
}

// TestReplicatedFull: a follower, and a leader that begins, whose disk is full go on when it is not.
func TestReplicatedFull(t *testing.T) {
	tr := newTrio(t)
	s := tr.leader.sender()
	if err := tr.leader.b.Local(0).Append(s.app, tr.leader.part(), batchOf(record.BatchOptions{}, "a"), AppendOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	tr.leader.pump()
	tr.follower.log.fail = errors.New("full")
	tr.carry(1)
	if has := tr.follower.b.Replica(trioShard); has.Last != has.Durable || has.Synced || tr.follower.lost == 0 {
		t.Errorf("%+v after its log has failed, told %d times", has, tr.follower.lost)
	}
	tr.follower.log.fail = nil
	tr.carry(1)
	if r, ok := s.results[1]; !ok || r.Err != nil {
		t.Errorf("%+v %v", r, ok)
	}
	tr.leader, tr.follower = tr.follower, tr.leader
	tr.leader.log.fail = errors.New("full")
	tr.lead(tr.leader, 2)
	if tr.leader.b.Replica(trioShard).Open {
		t.Error("open without its first frame")
	}
	tr.leader.log.fail = nil
	tr.leader.tick()
	if !tr.leader.b.Replica(trioShard).Open {
		t.Errorf("%+v", tr.leader.b.Replica(trioShard))
	}
}

// A node whose disk is full says that it ought not to lead, until the log has looked again and found room; one that has reached its own limit does not.
func TestFullDiskIsAFailure(t *testing.T) {
	b := newGroupBench(t).b
	if err := b.Failure(); err != nil {
		t.Fatal(err)
	}
	b.GatherUrgent(nil, 1<<20)
	if err := b.Failure(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("on a full disk: %v", err)
	}
	b.SetFull(errors.New("journal.max_bytes"))
	if err := b.Failure(); err != nil {
		t.Errorf("at its limit: %v", err)
	}
	b.SetFull(nil)
	b.Gather(nil, 1<<20)
	if err := b.Failure(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	b.Failed(errors.New("a segment does not fit any more"), false) // nothing was set aside that is left
	if err := b.Failure(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("when nothing at all has room: %v", err)
	}
	b.Gather(nil, 1<<20)
	if err := b.Failure(); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
