package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

const modelSets = 3

// spreads makes a topic's configuration of its settings, as the server does.
func spreads(settings []Setting) TopicConfig {
	cfg := TopicConfig{Delete: true, RetentionMillis: -1, RetentionBytes: -1}
	for _, s := range settings {
		cfg.Spread = cfg.Spread || s == Setting{"leader.spread", "true"}
	}
	return cfg
}

var spreadOn = []Setting{{"leader.spread", "true"}}

// newSetBroker has sets of shards, and leads none of its shards yet.
func newSetBroker(t *testing.T) *testBroker {
	t.Helper()
	tb := &testBroker{t: t, clock: clock.NewManual(clockStart)}
	tb.b = New(Options{Shards: modelShards, Clock: tb.clock, Replicated: true, StreamSets: modelSets, ResolveTopic: spreads, Lost: func() { tb.lost++ }})
	tb.log = &memLog{b: tb.b}
	tb.b.UseLog(tb.log)
	return tb
}

// leadAlone makes it the leader of shards with nobody else in sync.
func (tb *testBroker) leadAlone(epoch record.Epoch, shards ...record.ShardID) {
	tb.t.Helper()
	for _, s := range shards {
		tb.b.Lead(s, epoch, nil, 1, func(err error) {
			if err != nil {
				tb.t.Errorf("lead shard %d: %v", s, err)
			}
		})
	}
	tb.pump()
}

func shardsOf(set int) (list []record.ShardID) {
	first, n := 0, modelShards
	if set > 0 {
		first, n = modelShards+SetShards*(set-1), SetShards
	}
	for i := range n {
		list = append(list, record.ShardID(first+i))
	}
	return list
}

// create makes a topic where the home shards are led.
func (tb *testBroker) create(name string, n int, settings []Setting) (spec *TopicSpec, err error) {
	done := false
	tb.b.CreateTopic(0, name, TopicID([]byte(fmt.Sprintf("%-16s", name))), n, settings, func(s *TopicSpec, e error) { spec, err, done = s, e, true })
	tb.pump()
	if !done {
		tb.t.Fatal("a change of a topic was not answered")
	}
	return spec, err
}

// TestSpreadTopic: a spread topic's partitions lie in sets of shards, evenly, those that come later in the sets that there are then; it is not to be bound, and stays what
// it is.
func TestSpreadTopic(t *testing.T) {
	tb := newSetBroker(t)
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	tb.leadAlone(1, shardsOf(0)...)
	if !tb.b.Leading() || tb.b.Shards() != modelShards {
		t.Fatalf("leading: %v, of %d shards", tb.b.Leading(), tb.b.Shards())
	}
	if _, err := tb.create("early", 1, spreadOn); !errors.Is(err, ErrNoSets) {
		t.Errorf("spread over no sets: %v", err)
	}
	tb.b.SetStreamSets(2)
	spec, err := tb.create("wide", 8, spreadOn)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Partitions[0].ID != modelShards+1 {
		t.Errorf("the first partition's id is %d: those behind the %d home shards' own are free", spec.Partitions[0].ID, modelShards)
	}
	used := make(map[record.ShardID]int)
	for i, p := range spec.Partitions {
		used[p.Shard]++
		if i > 0 && tb.b.shards[p.Shard].set == tb.b.shards[spec.Partitions[i-1].Shard].set {
			t.Errorf("partitions %d and %d are of one set", i-1, i)
		}
	}
	for _, s := range append(shardsOf(1), shardsOf(2)...) {
		if used[s] != 1 {
			t.Errorf("shard %d has %d of 8 partitions", s, used[s])
		}
	}
	tb.b.SetStreamSets(99)
	topic := tb.b.Topic(0, "wide")
	tb.b.GrowTopic(topic, 8+3*SetShards, false, func(s *TopicSpec, err error) {
		if err != nil {
			t.Error(err)
		}
	})
	tb.pump()
	for _, p := range topic.Partitions()[8:] {
		used[p.Shard()]++
	}
	for _, s := range shardsOf(3) {
		if used[s] != 1 {
			t.Errorf("shard %d of the set that came later has %d partitions", s, used[s])
		}
	}
	err = nil
	tb.b.ConfigureTopic(topic, func([]Setting) ([]Setting, error) { return nil, nil }, func(_ *TopicSpec, e error) { err = e })
	if tb.pump(); !errors.Is(err, ErrSpread) {
		t.Errorf("the topic becomes one that is not spread: %v", err)
	}
	bd, err := ParseBinding("a/#", "wide", "", "")
	if err == nil {
		err = tb.b.Bind([]*Binding{bd})
	}
	if !errors.Is(err, ErrBindSpread) {
		t.Errorf("bound: %v", err)
	}
}

// TestLeadsSet: who leads the home shards leads no partition of a spread topic by that; one of a set's shards that is not open is enough for the set not to be led.
func TestLeadsSet(t *testing.T) {
	tb := newSetBroker(t)
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	tb.leadAlone(1, shardsOf(0)...)
	tb.b.SetStreamSets(2)
	if _, err := tb.create("wide", 1, spreadOn); err != nil {
		t.Fatal(err)
	}
	p := tb.b.Topic(0, "wide").Partition(0)
	if tb.b.LeadsPartition(p) {
		t.Error("it leads a partition by leading the home shards")
	}
	set := shardsOf(tb.b.shards[p.Shard()].set)
	tb.leadAlone(1, set[1:]...)
	if tb.b.Leads(set[0], len(set)) {
		t.Error("it leads a set of which one shard is not open")
	}
	tb.leadAlone(1, set[0])
	if !tb.b.Leads(set[0], len(set)) || !tb.b.LeadsPartition(p) || !tb.b.Leading() {
		t.Error("it does not lead a set of which all shards are open")
	}
	if tb.b.Leads(set[0], 99) {
		t.Error("it leads shards that there are not")
	}
	s := tb.sender()
	if err := tb.b.Local(0).Append(s.app, p, batchOf(record.BatchOptions{}, "a"), AppendOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	if tb.pump(); s.results[1].Err != nil || p.HighWatermark() != 1 {
		t.Errorf("%+v, readers see up to %d", s.results[1], p.HighWatermark())
	}
	tb.b.Resign(set[0], func() {})
	if tb.pump(); tb.b.Leads(set[0], len(set)) || !tb.b.Leading() {
		t.Error("one shard of a set resigned, and the set is led, or the home shards are not")
	}
}

// TestNoSetsHere: a node without sets of shards says by name what it has no place for, of the log as of a checkpoint, and puts nothing elsewhere.
func TestNoSetsHere(t *testing.T) {
	tb, points := newSetBroker(t), &memCheckpoints{}
	tb.b.Recovered()
	t.Cleanup(tb.b.Close)
	tb.leadAlone(1, shardsOf(0)...)
	tb.b.SetStreamSets(1)
	if _, err := tb.create("wide", 1, spreadOn); err != nil {
		t.Fatal(err)
	}
	refused := func(err error) {
		t.Helper()
		if !errors.Is(err, ErrNoShard) || !strings.Contains(err.Error(), `"wide"`) {
			t.Errorf("started with %v", err)
		}
	}
	alone := &testBroker{t: t, clock: tb.clock}
	alone.open(1)
	t.Cleanup(alone.b.Close)
	err := error(nil)
	tb.log.frames(func(f record.Frame) {
		if f.Kind == record.KindCommand && err == nil {
			err = alone.b.Replay(f, Place{Segment: 1})
		}
	})
	refused(err)
	if alone.b.Topic(0, "wide") != nil {
		t.Error("a topic was made whose partitions have no place")
	}
	if err := tb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	if len(points.written) != modelShards {
		t.Errorf("the checkpoint is of %d shards: nothing was ever written of more than %d", len(points.written), modelShards)
	}
	alone = &testBroker{t: t, clock: tb.clock}
	alone.open(1)
	t.Cleanup(alone.b.Close)
	refused(alone.b.Load(points))
}

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
