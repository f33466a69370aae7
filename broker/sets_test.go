package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
)

const modelSets = 3

// spreads makes a topic's configuration of its settings, as the server does.
func spreads(settings []Setting) TopicConfig {
	cfg := TopicConfig{Delete: true, RetentionMillis: -1, RetentionBytes: -1}
	for _, s := range settings {
		cfg.Spread = cfg.Spread || s == Setting{"leader.spread", "true"}
		if s.Key == "retention.ms" {
			cfg.RetentionMillis = 1000
		}
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

// TestSetsLedApart: a node leads one set of shards and follows others. What the home shards' leader makes is known where its partitions are led; a group with frames of both
// is lost as a whole, and what it was made of comes again.
func TestSetsLedApart(t *testing.T) {
	w := newSetWorld(t, 1) // node 0 leads sets 0 and 3, node 1 set 1, node 2 set 2
	if w.create(6, spreadOn); w.nodes[1].b.Topic(0, "t0") != nil {
		t.Fatal("a topic is known before it is committed")
	}
	w.settle()
	leads := w.nodes[1]
	topic := leads.b.Topic(0, "t0")
	if topic == nil || !leads.b.TopicsCurrent() || leads.b.Leading() {
		t.Fatalf("topic %v at the leader of a set, which follows the home shards", topic)
	}
	var own, other *setStream
	for _, st := range w.streams {
		switch leads.b.shards[topic.Partition(st.part).Shard()].set {
		case 1:
			own = st
		case 2:
			other = st
		}
	}
	w.produce(other)
	w.run(2, false, false)
	w.produce(own)
	w.pull(2, 1, 9) // its list and the leader's frames are of one group
	mixed, followed := false, topic.Partition(other.part).Shard()
	leads.log.between = func() {
		mixed = len(leads.b.flight) == 2 && leads.b.Ahead(func(s record.ShardID) {
			if s != followed {
				t.Errorf("shard %d is held back", s)
			}
		})
	}
	leads.log.fail = errors.New("full")
	leads.pump()
	leads.log.fail = nil
	if r := leads.send.results[own.token]; !mixed || !errors.Is(r.Err, ErrUnavailable) || leads.lost == 0 {
		t.Errorf("%v: %+v, told %d times", mixed, r, leads.lost)
	}
	if st := leads.b.Replica(followed); st.Synced || st.Last != st.Durable {
		t.Errorf("the followed shard: %+v", st)
	}
	if st := leads.b.Replica(topic.Partition(own.part).Shard()); !st.Open || st.Last != st.Durable {
		t.Errorf("the shard that is led: %+v", st)
	}
	w.produce(own) // it hears
	w.produce(own)
	w.settle()
	if w.verify(); own.acked != 1 || other.acked != 1 {
		t.Errorf("%d and %d records were acknowledged", own.acked, other.acked)
	}
}

// TestFrameBeforePartition: records of a set's shard that come before the home shards' word of their partition wait for it, over a restart as well, and what is known is served
// meanwhile.
func TestFrameBeforePartition(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		w := newSetWorld(t, 1)
		w.create(3, spreadOn)
		w.settle()
		w.create(3, spreadOn) // of this node 2 does not hear
		for range 4 {
			w.run(0, false, false)
			w.run(1, false, false)
			w.pull(0, 1, 99)
			for _, s := range shardsOf(0) { // as if it had heard of it before it went out of sync
				if err := w.nodes[0].b.SetInSync(s, w.epoch[0], []uint64{1}, 2); err != nil {
					t.Fatal(err)
				}
			}
		}
		b := w.nodes[1].b
		if b.Topic(0, "t1") == nil || w.nodes[2].b.Topic(0, "t1") != nil {
			t.Fatal("the topic is not where it should be")
		}
		var st *setStream
		for _, c := range w.streams[3:] {
			if b.shards[b.Topic(0, "t1").Partition(c.part).Shard()].set == 1 {
				st = c
			}
		}
		w.produce(st)
		for range 4 {
			w.run(1, false, false)
			w.pull(1, 2, 99)
			w.pull(1, 0, 99)
			w.run(2, false, false)
			w.run(0, false, false)
		}
		if w.produce(st); st.acked != 1 {
			t.Fatal("a record that all logs have was not acknowledged")
		}
		s := b.Topic(0, "t1").Partition(st.part).Shard()
		waits := func() {
			t.Helper()
			if r := w.nodes[2].b.Replica(s); r.Applied == r.Last || r.Durable != r.Last {
				t.Errorf("a record of a partition that is not known: %+v", r)
			}
		}
		waits()
		if restarts {
			w.checkpoint(2)
			w.elect(2, 1) // somebody else is to lead what it leads
			w.crash(2)
			w.pull(1, 2, 99)
			waits()
		}
		w.settle()
		w.verify()
	}
}

// TestSetLeaderSweeps: retention, and the end of producers, are of the node that leads the partition's set, and the others follow it in that.
func TestSetLeaderSweeps(t *testing.T) {
	w := newSetWorld(t, 1)
	w.create(1, append([]Setting{{"retention.ms", "1000"}}, spreadOn...))
	w.settle()
	part := func(i int) *Partition { return w.nodes[i].b.Topic(0, "t0").Partition(0) }
	leader := w.leader[w.nodes[0].b.shards[part(0).Shard()].set]
	w.produce(w.streams[0])
	w.settle()
	sweep := func(i int) {
		t.Helper()
		n := w.nodes[i]
		n.b.SetLimits(Limits{Stream: StreamLimits{RetentionInterval: 1, ProducerExpiry: 1}})
		n.clock.Advance(time.Hour)
		n.tick()
	}
	for i := range w.nodes {
		if i != leader {
			sweep(i)
		}
	}
	w.settle()
	if start := part(leader).LogStart(); start != 0 {
		t.Errorf("followers have let go of records up to %d", start)
	}
	sweep(leader)
	w.settle()
	for i, n := range w.nodes {
		if p := part(i); p.LogStart() != 1 || n.b.Stats().Producers.Load() != 0 {
			t.Errorf("node %d has records from %d on, and %d producers", i, p.LogStart(), n.b.Stats().Producers.Load())
		}
	}
}

// TestSetCheckpoint: a restart has what a set's shards have of a checkpoint, and replays what lies behind it alone.
func TestSetCheckpoint(t *testing.T) {
	w := newSetWorld(t, 1)
	w.create(3, spreadOn)
	w.settle()
	for _, st := range w.streams {
		w.produce(st)
	}
	w.settle()
	w.checkpoint(2)
	if n := w.nodes[2]; n.points.replay == 0 || n.points.replay != len(n.log.groups) {
		t.Errorf("replay begins at group %d of %d", n.points.replay, len(n.log.groups))
	}
	w.crash(2)
	for _, s := range shardsOf(1) {
		if st := w.nodes[2].b.Replica(s); st.Applied != st.Last || st.Applied == 0 {
			t.Errorf("shard %d after a restart: %+v", s, st)
		}
	}
	for _, st := range w.streams { // producers are known: the same again would be no duplicate otherwise
		w.produce(st)
	}
	w.settle()
	w.verify()
}

// TestFollowsWhoIsNotOpen: a leader that has yet to write what it was given, and the frame of its epoch behind that, loses both and begins its epoch earlier. Who has
// followed it meanwhile must not keep what it had in that place: it would count as having the leader's frame.
func TestFollowsWhoIsNotOpen(t *testing.T) {
	w := newSetWorld(t, 1)
	w.elect(1, 1)
	w.run(1, false, false)
	w.pull(1, 2, 9)
	w.run(2, false, false) // node 2 has the second epoch's frame in its log
	w.pull(1, 0, 9)        // node 0 does not yet
	w.elect(1, 0)
	for _, s := range shardsOf(1) {
		w.follow(1, 2, s)
	}
	w.nodes[0].log.fail = errors.New("full")
	w.nodes[0].pump()
	w.nodes[0].log.fail = nil
	w.nodes[0].tick()
	w.settle()
	for _, s := range shardsOf(1) {
		want, _ := w.nodes[0].b.ReplicaHistory(s)
		for j := 1; j < 3; j++ {
			if got, _ := w.nodes[j].b.ReplicaHistory(s); !slices.Equal(got, want) {
				t.Errorf("epochs of shard %d: node 0 has %v, node %d %v", s, want, j, got)
			}
		}
	}
}

// TestGhostPartitions: the home shards' leader is lost with a topic of which the others have records already, of another set. These neither come to light in a topic that is made later
// nor hold up what is behind them.
func TestGhostPartitions(t *testing.T) {
	w := newSetWorld(t, 1)
	w.create(3, spreadOn)
	w.settle()
	// Nodes 1 and 2 get a record of a partition, and never the home shards' word of it: node 0 commits that alone.
	for _, s := range shardsOf(0) {
		if err := w.nodes[0].b.SetInSync(s, w.epoch[0], nil, 1); err != nil {
			t.Fatal(err)
		}
	}
	w.create(3, spreadOn)
	w.run(0, false, false)
	ghosts := w.nodes[0].b.Topic(0, "t1")
	var st *setStream
	for _, c := range w.streams[3:] {
		if w.nodes[0].b.shards[ghosts.Partition(c.part).Shard()].set == 3 { // node 0 leads it
			st = c
		}
	}
	w.produce(st)
	for range 3 {
		w.run(0, false, false)
		for j := 1; j < 3; j++ {
			w.pull(3, j, 9)
			w.run(j, false, false)
		}
	}
	if w.produce(st); st.acked != 1 {
		t.Fatal("the record was not acknowledged")
	}
	s := ghosts.Partition(st.part).Shard()
	// Node 0 does not come back as it was: it is made anew, of nothing here.
	w.nodes[0].b.Close()
	n := &setNode{testBroker: newSetBroker(t), points: &memCheckpoints{}}
	n.b.Recovered()
	w.started(n)
	w.nodes[0] = n
	w.topics, w.streams = w.topics[:1], w.streams[:3]
	w.elect(0, 1)
	w.elect(3, 2)
	for i := range 6 {
		for set := range w.leader {
			for j := range w.nodes {
				w.pull(set, j, 99)
			}
		}
		for j := range w.nodes {
			w.run(j, false, false)
		}
		if at := w.nodes[2].b.Replica(s); i == 5 && at.Open {
			t.Error("the set opened without its partition, and nobody said that this is gone")
		}
	}
	w.nodes[1].tick()
	w.settle() // all shards open
	w.create(3, spreadOn)
	w.settle()
	last := ghosts.Partition(2).ID()
	for _, p := range w.nodes[1].b.Topic(0, "t1").Partitions() {
		if p.ID() <= last {
			t.Errorf("partition id %d is given a second time", p.ID())
		}
	}
	w.verify()
}
