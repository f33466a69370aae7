package broker

import (
	"math/rand/v2"
	"testing"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

// epochsAt is a node that leads shard 1 in a partition of which fn says, batch by batch, in which epoch it is appended.
func epochsAt(t *testing.T, epochs []record.Epoch) (tb *testBroker, starts []record.Offset) {
	t.Helper()
	tb = newReplica(t)
	s := tb.sender()
	for i, e := range epochs {
		if i == 0 || e != epochs[i-1] {
			tb.b.Lead(trioShard, e, nil, 1, func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			})
			tb.pump()
		}
		starts = append(starts, tb.part().HighWatermark())
		if err := tb.b.Local(0).Append(s.app, tb.part(), batchOf(record.BatchOptions{}, "a", "b", "c"), AppendOptions{}, Token(i)); err != nil {
			t.Fatal(err)
		}
		tb.pump()
	}
	return tb, starts
}

// TestEpochEnd: where an epoch's records end, against a look at every batch.
func TestEpochEnd(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 1))
	for range 20 {
		var epochs []record.Epoch
		for e := record.Epoch(1); len(epochs) < 1+rnd.IntN(20); {
			if rnd.IntN(3) == 0 {
				e += record.Epoch(1 + rnd.IntN(3))
			}
			epochs = append(epochs, e)
		}
		tb, starts := epochsAt(t, epochs)
		tb.b.Local(0).DeleteRecords(tb.part(), record.Offset(rnd.IntN(4)), func(record.Offset, error) {})
		tb.pump()
		last := epochs[len(epochs)-1]
		for e := record.Epoch(0); e <= last+1; e++ {
			want, end := e, tb.part().HighWatermark()
			for i, at := range starts {
				if at+2 < tb.part().LogStart() {
					continue
				}
				if epochs[i] <= e {
					want = epochs[i]
					continue
				}
				end = max(at, tb.part().LogStart())
				break
			}
			of, got := record.Epoch(0), record.Offset(-1)
			tb.b.Local(0).EpochEnd(tb.part(), e, func(o record.Epoch, at record.Offset, err error) {
				if err != nil {
					t.Error(err)
				}
				of, got = o, at
			})
			tb.pump()
			if of != want || got != end {
				t.Errorf("epochs %v from %d on: %d ends with %d at %d, want %d at %d", epochs, tb.part().LogStart(), e, of, got, want, end)
			}
		}
	}
}

// TestLeading: a node leads when all of its shards are open, one that is alone always.
func TestLeading(t *testing.T) {
	alone := New(Options{Shards: 2, Clock: clock.NewManual(clockStart)})
	defer alone.Close()
	if !alone.Leading() {
		t.Error("a node that is alone does not lead")
	}
	tb := newReplica(t)
	for s := range record.ShardID(modelShards) {
		if tb.b.Leading() {
			t.Errorf("it leads with %d shards of %d", s, modelShards)
		}
		tb.b.Lead(s, 1, nil, 1, func(error) {})
		tb.pump()
	}
	if !tb.b.Leading() {
		t.Error("it leads all shards, and does not say so")
	}
	tb.b.Resign(0, func() {})
	tb.pump()
	if tb.b.Leading() {
		t.Error("it leads without a shard")
	}
}
