package broker

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// Who acts for a leader does so in its epoch alone, also where the same node leads again.
func TestTierRowsOfALead(t *testing.T) {
	tr := newTrio(t)
	b := tr.leader.b
	change := func(epoch record.Epoch) (err error) {
		err = errors.New("not answered")
		b.ChangeTierIn(epoch, trioShard, []TierChange{tierRow("a", "1")}, func(e error) { err = e })
		tr.leader.pump()
		tr.carry(b.Replica(trioShard).Epoch)
		tr.leader.pump()
		return err
	}
	if err := change(1); err != nil {
		t.Error(err)
	}
	if err := change(2); !errors.Is(err, ErrNotLeader) {
		t.Errorf("in another epoch: %v", err)
	}
	tr.lead(tr.leader, 5, 2)
	tr.follow(tr.follower, tr.leader, 5)
	tr.carry(5)
	if err := change(1); !errors.Is(err, ErrNotLeader) {
		t.Errorf("it leads again, in another epoch: %v", err)
	}
	if err := change(5); err != nil {
		t.Error(err)
	}
}

// A node leads when it leads all shards in one epoch, and knows of another one what that has said it has.
func TestTierLeadsIn(t *testing.T) {
	tb := newReplica(t)
	for s := range record.ShardID(modelShards) {
		if tb.b.LeadsIn(3) {
			t.Fatalf("it leads with %d shards", s)
		}
		tb.b.Lead(s, 3, nil, 1, func(error) {})
		tb.pump()
	}
	if !tb.b.LeadsIn(3) || tb.b.LeadsIn(2) || tb.b.LeadsIn(4) {
		t.Error("it leads in epoch 3")
	}
	frames := tb.b.Frames()
	if tb.b.HasAcked(2, frames) {
		t.Error("a node has all that never was there")
	}
	for s := range record.ShardID(modelShards) {
		if tb.b.HasAcked(2, frames) {
			t.Errorf("it has said so of %d shards", s)
		}
		if err := tb.b.Acked(s, 3, 2, frames[s]); err != nil {
			t.Fatal(err)
		}
	}
	if !tb.b.HasAcked(2, frames) {
		t.Error("it has all")
	}
	frames[1]++
	if tb.b.HasAcked(2, frames) {
		t.Error("it has more than there was")
	}
	tb.b.Resign(1, func() {})
	tb.pump()
	if frames[1]--; tb.b.LeadsIn(3) || tb.b.HasAcked(2, frames) {
		t.Error("it does not lead")
	}
}
