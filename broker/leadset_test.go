package broker

import (
	"testing"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// TestLeadsSome: a node leads some shards when these are open, one that is alone all that there are.
func TestLeadsSome(t *testing.T) {
	alone := New(Options{Shards: 2, Clock: clock.NewManual(clockStart)})
	defer alone.Close()
	if !alone.Leads(1, 1) || alone.Leads(1, 2) {
		t.Error("a node that is alone leads all shards that there are, and no others")
	}
	tb := newReplica(t)
	for s := range record.ShardID(modelShards) {
		if tb.b.Leads(s, 1) || tb.b.Leads(0, modelShards) {
			t.Errorf("it leads with %d shards of %d", s, modelShards)
		}
		tb.b.Lead(s, 1, nil, 1, func(error) {})
		tb.pump()
	}
	tb.b.Resign(0, func() {})
	tb.pump()
	if tb.b.Leads(0, 1) || tb.b.Leads(0, modelShards) || !tb.b.Leads(1, modelShards-1) {
		t.Error("it leads without a shard, or not the others")
	}
}
