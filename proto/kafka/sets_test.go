package kafka

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// setsView has two shards of the first set, which node 2 leads, and three sets behind them: node 3 leads the first of these, node 1 the second, nobody the third.
func setsView() *View {
	ids := []int32{1, 2, 3}
	led := func(by, epoch int32) Placement {
		return Placement{Leader: by, Epoch: epoch, Leads: by == 1, Follows: by > 1, Replicas: ids, ISR: ids, Eligible: []int32{}, MinISR: 2}
	}
	return &View{Nodes: []Node{{ID: 1, Plain: Address{"one", 1}, Alive: true}, {ID: 2, Plain: Address{"two", 2}, Alive: true}, {ID: 3, Plain: Address{"three", 3}, Alive: true}},
		All: led(2, 20), Shards: 2, Sets: []Placement{led(3, 31), led(1, 12), led(-1, 7)}}
}

// inSets is a connection of node 1, whose topic "t" has a partition in each shard of four sets: the view has not heard of the last one.
func inSets(t *testing.T, v *View) (*conn, *broker.Topic) {
	t.Helper()
	return inSetsAt(t, v, clock.NewManual(time.Unix(1e9, 0)))
}

func inSetsAt(t *testing.T, v *View, ck *clock.Manual) (*conn, *broker.Topic) {
	t.Helper()
	b := broker.New(broker.Options{Shards: 2, Loops: 1, StreamSets: 4, Clock: ck})
	t.Cleanup(b.Close)
	b.UseLog(&slowStore{})
	h := &Handler{broker: b, quotas: &broker.Quotas{}, nodeID: 1, cluster: (*fixed)(v), leaderWait: time.Second}
	h.Set(DefaultSettings())
	c := &conn{link: &sinkLink{}, id: &broker.Identity{}, l: newLoopState(h, new(engine.Loop), b.Local(0))}
	return c, partitionOf(h, 2+4*broker.SetShards-1).Topic()
}

// Each partition is led by who leads the set of its shard. One whose set the catalog has not named yet is led by nobody.
func TestSetsOfPartitions(t *testing.T) {
	v := setsView()
	c, topic := inSets(t, v)
	h := c.l.h
	for i, p := range topic.Partitions() {
		set := 0
		if i >= 2 {
			set = 1 + (i-2)/4
		}
		if got := v.setOf(p); got != set {
			t.Errorf("shard %d is of set %d, want %d", p.Shard(), got, set)
		}
		want := wire.NotLeaderOrFollower
		if set == 2 {
			want = wire.None
		}
		pl := v.of(p)
		leader := []int32{2, 3, 1, -1, -1}[set]
		told := movedTo(pl, h.leaderFault(pl, p, -1))
		if code := h.leaderFault(pl, p, -1); code != want || pl.Leader != leader || told.Known != (want != wire.None && leader > 0) || told.Known && told.ID != leader {
			t.Errorf("set %d: %s, leader %d, told %+v", set, code, pl.Leader, told)
		}
	}
	for _, shard := range [...]record.ShardID{2 + 4*15, 2 + 4*16, 1<<16 - 1} {
		if n := v.setOfShard(shard); n != setsMax+1 || v.set(n) != &nowhere || c.l.awaitsSet(n) {
			t.Errorf("shard %d is of set %d", shard, n)
		}
	}
	var nodes []wire.Node
	for _, p := range topic.Partitions() {
		nodes = c.nameLeader(v, nodes, v.of(p))
	}
	if got := slices.Collect(func(yield func(int32) bool) {
		for _, n := range nodes {
			yield(n.ID)
		}
	}); !slices.Equal(got, []int32{2, 3, 1}) {
		t.Errorf("the nodes named are %v", got)
	}
}

// Replicas that a client names for partitions of a topic whose leaders are spread have to be those of all sets that may get them.
func TestSetsPlaceNew(t *testing.T) {
	v := setsView()
	v.Sets[2].Replicas = []int32{1, 2}
	all := []int32{3, 2, 1}
	if !v.placesNew(false, all) || v.placesNew(true, all) || v.placesNew(true, []int32{1, 2}) {
		t.Error("places that are not those of all sets")
	}
	v.Sets[2].Replicas = all
	if !v.placesNew(true, all) {
		t.Error("places that are those of all sets are refused")
	}
	c, _ := inSets(t, v)
	on := "true"
	ask := kmsg.CreateTopicsRequestTopic{Topic: "u", NumPartitions: -1, ReplicationFactor: -1, Configs: []kmsg.CreateTopicsRequestTopicConfig{{Name: "leader.spread", Value: &on}},
		ReplicaAssignment: []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Replicas: all}}}
	if _, code, why := c.l.h.creation(&ask); code != wire.None {
		t.Errorf("%s: %s", code, why)
	}
	v.Sets[0].Replicas = []int32{1}
	if _, code, _ := c.l.h.creation(&ask); code != wire.InvalidReplicaAssignment {
		t.Errorf("a set elsewhere: %s", code)
	}
	ask.Configs = nil
	if _, code, why := c.l.h.creation(&ask); code != wire.None {
		t.Errorf("a topic in the first set: %s: %s", code, why)
	}
}

// A session of fetches ends when one of the sets that it reads from is led by another, or anew, or is served here no more, and not for what others do.
func TestSessionOfSets(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*View)
		over   bool
	}{
		{"nothing", func(*View) {}, false},
		{"the first set goes", func(v *View) { v.All.Leader, v.All.Follows = -1, false }, false},
		{"the first set has another leader", func(v *View) { v.All.Leader, v.All.Epoch = 3, 21 }, false},
		{"a set that it does not read from comes", func(v *View) { v.Sets[2].Leader, v.Sets[2].Leads, v.Sets[2].Epoch = 1, true, 8 }, false},
		{"a set that it reads from goes", func(v *View) { v.Sets[1].Leads = false }, true},
		{"a set that it reads from is led anew", func(v *View) { v.Sets[1].Epoch++ }, true},
		{"a set that it follows is led anew", func(v *View) { v.Sets[0].Epoch++ }, true},
		{"a set that it follows is not in sync", func(v *View) { v.Sets[0].Follows = false }, true},
	} {
		v := setsView()
		conn, _ := inSets(t, v)
		var s fetchSession
		s.readsFrom(v, 1<<2)
		s.readsFrom(v, 1<<1|1<<2)
		if s.over(conn.l.h, v) {
			t.Error("it ends as it begins")
		}
		c.change(v)
		if s.over(conn.l.h, v) != c.over {
			t.Errorf("%s: over %v", c.what, !c.over)
		}
	}
}

// Requests wait for the sets that nobody leads, each for a while once, which the others do not make longer, and for none of the others.
func TestAwaitSets(t *testing.T) {
	v, ck := setsView(), clock.NewManual(time.Unix(1e9, 0))
	c, _ := inSetsAt(t, v, ck)
	l := c.l
	later := func(what string, d time.Duration, want uint16) {
		t.Helper()
		ck.Advance(d)
		if l.core.Drain(); l.awaiting != want {
			t.Errorf("%s: they wait for %b, want %b", what, l.awaiting, want)
		}
	}
	step := func(what string, change func(*View), want uint16) {
		t.Helper()
		next := *v
		next.Sets = slices.Clone(v.Sets)
		change(&next)
		v = &next
		l.h.cluster = (*fixed)(v)
		if l.await(v); l.awaiting != want {
			t.Errorf("%s: they wait for %b, want %b", what, l.awaiting, want)
		}
	}
	step("at the begin", func(*View) {}, 1<<3)
	step("the first set goes", func(v *View) { v.All.Leader = -1 }, 1<<3|1)
	step("this node is about to lead it", func(v *View) { v.All.Leader, v.All.Epoch = 1, 21 }, 1<<3|1)
	step("it does", func(v *View) { v.All.Leads = true }, 1<<3)
	later("it has been waited for", l.h.leaderWait, 0)
	step("another set has another leader", func(v *View) { v.Sets[0].Leader, v.Sets[0].Epoch = 2, 32 }, 0)
	step("it goes", func(v *View) { v.Sets[0].Leader = -1 }, 1<<1)
	step("what was waited for begins again", func(v *View) { v.Sets[2].Epoch++ }, 1<<1|1<<3)
	later("a while", l.h.leaderWait/2, 1<<1|1<<3)
	step("one more goes", func(v *View) { v.All.Leader, v.All.Leads = -1, false }, 1|1<<1|1<<3)
	later("the first two have been waited for", l.h.leaderWait/2, 1)
	step("one of them has no leader yet, anew", func(v *View) { v.Sets[2].Epoch++ }, 1|1<<3)
	later("the last one has been waited for", l.h.leaderWait/2, 1<<3)
	later("and the one that came back", l.h.leaderWait/2, 0)
	step("all are led", func(v *View) { v.Sets[0].Leader, v.Sets[2].Leader = 2, 3 }, 0)
}
