package broker

import (
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// TestAhead: a follower may have a leader's frames before the leader's log does. They count once that has them, and no history takes them back. Of a leader that
// has not opened nothing goes ahead.
func TestAhead(t *testing.T) {
	tr := newTrio(t)
	s := tr.leader.sender()
	if err := tr.leader.b.Local(0).Append(s.app, tr.leader.part(), batchOf(record.BatchOptions{}, "a"), AppendOptions{}, 7); err != nil {
		t.Fatal(err)
	}
	ran := false
	tr.leader.log.between = func() {
		ran = true
		if !tr.leader.b.Ahead(func(s record.ShardID) { t.Errorf("shard %d is held back", s) }) {
			t.Error("an open leader's frames do not go ahead")
		}
		var frames []byte
		for rest := tr.leader.log.gathered; len(rest) > 0; {
			f, n, err := record.DecodeFrame(rest)
			if err != nil {
				t.Fatal(err)
			}
			if f.Shard == trioShard && f.Kind <= record.KindCommand {
				frames = append(frames, rest[:n]...)
			}
			rest = rest[n:]
		}
		if err := tr.follower.b.Follow(trioShard, 1, frames); err != nil {
			t.Fatal(err)
		}
		tr.follower.pump()
		has := tr.follower.b.Replica(trioShard).Durable
		if err := tr.leader.b.Acked(trioShard, 1, 2, has); err != nil {
			t.Fatal(err)
		}
		if st := tr.leader.b.Replica(trioShard); st.HighWatermark >= has || st.Durable >= has {
			t.Errorf("the follower has %d, and the leader: %+v", has, st)
		}
		if _, end := tr.leader.b.ReplicaHistory(trioShard); end != has {
			t.Errorf("the leader's history ends with %d: a follower that comes again would take back %d", end, has)
		}
	}
	tr.leader.pump()
	if r, ok := s.results[7]; !ran || !ok || r.Err != nil {
		t.Errorf("both have it: %+v, %v", r, ok)
	}
	ran = false
	tr.follower.log.between = func() {
		if ran = true; tr.follower.b.Ahead(func(record.ShardID) {}) {
			t.Error("a leader's first frame goes ahead")
		}
	}
	tr.lead(tr.follower, 2, 2)
	if !ran {
		t.Error("a new leader wrote nothing")
	}
}
