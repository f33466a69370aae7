package meta

import (
	"errors"
	"reflect"
	"slices"
	"testing"
)

// TestSetsOfShards checks that shards lie in sets behind one another, that sets grow alone, and that the entry keeps what it says.
func TestSetsOfShards(t *testing.T) {
	c := Cluster{ID: "c", Shards: 64, Level: LevelSets, Sets: 3}
	next := uint32(0)
	for n := range 4 {
		set := c.Set(n)
		if set.First != next || set.Number != n {
			t.Fatalf("set %d is %+v, want it to begin at %d", n, set, next)
		}
		next += set.Count
		if c.SetOf(set.First) != n || c.SetOf(next-1) != n {
			t.Fatalf("shards %d and %d are of sets %d and %d, want %d", set.First, next-1, c.SetOf(set.First), c.SetOf(next-1), n)
		}
	}
	if next != c.AllShards() {
		t.Fatalf("the sets end at %d, and there are %d shards", next, c.AllShards())
	}
	for _, want := range []Cluster{c, {ID: "c", Shards: 1, Level: 9, Held: true, Sets: 1}, {ID: "c", Shards: 1, Level: 9, Held: true}, {ID: "c", Shards: 1, Level: 1}} {
		e := want.Entry()
		_, _, got, err := e.decode()
		if err != nil || !reflect.DeepEqual(got, &want) {
			t.Fatalf("%+v comes back as %+v, %v", want, got, err)
		}
	}
}

// withEntries is a snapshot of these entries.
func withEntries(t *testing.T, list ...Entry) *Snapshot {
	t.Helper()
	p := &placed{t, emptySnapshot()}
	p.take(list)
	return p.s
}

// TestGrowSets checks what refuses more sets.
func TestGrowSets(t *testing.T) {
	s := withEntries(t, (&Cluster{ID: "c", Shards: 64, Level: LevelSets, Sets: 2}).Entry())
	if list, err := GrowSets(s, 4, 0); err != nil || len(list) != 1 {
		t.Fatalf("4 sets of 2: %v, %v", list, err)
	}
	if list, err := GrowSets(s, 2, 0); err != nil || list != nil {
		t.Fatalf("as many as there are: %v, %v", list, err)
	}
	for _, n := range []uint32{1, SetsMax + 1} {
		if _, err := GrowSets(s, n, 0); !errors.Is(err, ErrShard) {
			t.Errorf("%d sets of 2: %v", n, err)
		}
	}
	s = withEntries(t, (&Cluster{ID: "c", Shards: 64, Level: LevelSets - 1}).Entry())
	if _, err := GrowSets(s, 1, 0); !errors.Is(err, ErrLevel) {
		t.Errorf("below the level: %v", err)
	}
	s = withEntries(t, (&Cluster{ID: "c", Shards: ShardsMax, Level: LevelSets}).Entry())
	if _, err := GrowSets(s, 1, 0); err == nil {
		t.Error("more shards than there may be are taken")
	}
	if _, err := GrowSets(withEntries(t), 1, 0); !errors.Is(err, ErrNoCluster) {
		t.Errorf("of a node that is alone: %v", err)
	}
}

// setsOf is a cluster of three nodes with two sets beside the first: the nodes of each, who leads first.
func setsOf(t *testing.T, on ...[]NodeID) *placed {
	t.Helper()
	p := formed(t, 3)
	p.do(RaiseLevel(p.s, min(Level, LevelBalance)))
	c := *p.s.Cluster()
	c.Level = LevelSets
	p.take([]Entry{c.Entry()})
	p.do(GrowSets(p.s, 2, 0))
	c = *p.s.Cluster()
	for number, nodes := range on {
		for i := range c.Set(number).Count {
			p.do(SetShard(p.s, Shard{ID: c.Set(number).First + i, Epoch: 1, Leader: nodes[0], Replicas: nodes, ISR: slices.Sorted(slices.Values(nodes))}))
		}
	}
	return p
}

// TestSetsBegun checks that sets count that have a place, up to the first one that has none.
func TestSetsBegun(t *testing.T) {
	p := setsOf(t, []NodeID{1})
	first, second := p.s.Cluster().Set(1).First, p.s.Cluster().Set(2).First
	for _, step := range []struct {
		shard uint32
		want  int
	}{{0, 0}, {second, 0}, {first, 2}} {
		if step.shard != 0 {
			p.do(SetShard(p.s, Shard{ID: step.shard, Epoch: 1, Leader: 2, Replicas: []NodeID{2}, ISR: []NodeID{2}}))
		}
		if got := SetsBegun(p.s); got != step.want {
			t.Errorf("with shard %d %d sets have begun, want %d", step.shard, got, step.want)
		}
	}
	if got := SetsBegun(emptySnapshot()); got != 0 {
		t.Errorf("%d sets of no cluster", got)
	}
}

// TestNodesGoWithSets checks that a node that leads shards of any set is not removed, nor one that a set needs, and that it goes out of all sets.
func TestNodesGoWithSets(t *testing.T) {
	p := setsOf(t, []NodeID{1, 2, 3}, []NodeID{2, 3, 1}, []NodeID{1, 3})
	list, err := RemoveNode(p.s, 2)
	refused(t, ErrNodeInUse, list, err) // it leads set 1
	list, err = RemoveNode(p.s, 3)
	if err != nil {
		t.Fatal(err)
	}
	p.take(list)
	for _, sh := range p.s.Shards() {
		if slices.Contains(sh.Replicas, 3) || slices.Contains(sh.ISR, 3) {
			t.Errorf("removed, and it has shard %d: %+v", sh.ID, *sh)
		}
	}
	list, err = ReplaceNode(p.s, 1)
	refused(t, ErrUnclean, list, err) // nobody else has set 2
	p.do(ReplaceNode(p.s, 2))
	for _, sh := range p.s.Shards() {
		switch p.s.Cluster().SetOf(sh.ID) {
		case 0:
			if sh.Leader != 1 || sh.Epoch != 1 || slices.Contains(sh.ISR, 2) || !slices.Contains(sh.Replicas, 2) {
				t.Errorf("replaced: %+v", *sh)
			}
		case 1:
			if sh.Leader != 0 || sh.Epoch != 2 || slices.Contains(sh.ISR, 2) || sh.Replicas[0] != 2 {
				t.Errorf("replaced, which led it: %+v", *sh)
			}
		}
	}
}

// TestSetsGoOn checks that a cluster that goes on with another one's data, of a backup or of a node that has survived, has the sets that there are data of, in later epochs.
func TestSetsGoOn(t *testing.T) {
	p := setsOf(t, []NodeID{1, 2, 3}, []NodeID{2, 3}, []NodeID{3, 1})
	kept := Kept(p.s)
	backup, err := Refound(kept, 7)
	if err != nil {
		t.Fatal(err)
	}
	survived, lost, err := Survive(p.s, kept, 1)
	if err != nil || !slices.Equal(lost, []int{1}) {
		t.Fatalf("lost %v, %v", lost, err)
	}
	if _, lost, err = Survive(p.s, kept, 3); err != nil || lost != nil {
		t.Errorf("a node that has all sets has lost %v, %v", lost, err)
	}
	for node, entries := range map[NodeID][]Entry{7: backup, 1: survived} {
		n := &placed{t, emptySnapshot()}
		n.take(entries)
		n.do(FormCluster(n.s, Cluster{ID: "new", Shards: 4, Level: LevelSets}, testNode(node)))
		if c := n.s.Cluster(); c.Sets != 2 {
			t.Errorf("node %d has %d sets", node, c.Sets)
		}
		shards := 0
		for _, sh := range n.s.Shards() {
			if shards++; sh.Epoch != 2 || sh.Leader != node || !slices.Equal(sh.Replicas, []NodeID{node}) {
				t.Errorf("node %d: %+v", node, *sh)
			}
		}
		if shards != int(n.s.Cluster().AllShards()) || SetsBegun(n.s) != 2 {
			t.Errorf("node %d has %d shards", node, shards)
		}
		n.do(AddNode(n.s, testNode(8)))
	}
	few := setsOf(t, []NodeID{1})
	few.do(SetShard(few.s, Shard{ID: 0, Change: 1, Epoch: 2, Leader: 1, Replicas: []NodeID{1, 2}, ISR: []NodeID{1}}))
	if _, _, err := Survive(few.s, nil, 2); !errors.Is(err, ErrShard) {
		t.Errorf("a node without a shard of the first set: %v", err)
	}
}

// replicated is a cluster of three nodes, one of which keeps no journal, with two sets of shards, at the newest level.
func replicated(t *testing.T) *placed {
	t.Helper()
	p := setsOf(t)
	c := *p.s.Cluster()
	c.Level = LevelReplicas
	n := *p.s.Node(3)
	n.Roles = RoleMeta | RoleBroker
	p.take([]Entry{c.Entry(), n.Entry()})
	return p
}

// TestReplicasOfSets checks which numbers of replicas sets can have, and that those which are there keep theirs.
func TestReplicasOfSets(t *testing.T) {
	p := replicated(t)
	p.do(GrowSets(p.s, 4, 1))
	p.do(GrowSets(p.s, 5, 2))
	p.do(GrowSets(p.s, 6, 0))
	want := [SetsMax + 1]uint8{3: 1, 4: 1, 5: 2}
	if c := p.s.Cluster(); c.Replicas != want || c.SetReplicas(2, 3) != 3 || c.SetReplicas(4, 3) != 1 || c.SetReplicas(0, 3) != 3 {
		t.Errorf("%+v", *c)
	}
	list, err := GrowSets(p.s, 7, 3)
	refused(t, ErrShard, list, err) // two nodes have a journal
	p.do(ReplicateSet(p.s, 4, 2))
	if list, err := ReplicateSet(p.s, 4, 2); err != nil || list != nil {
		t.Errorf("as many as it has: %v, %v", list, err)
	}
	if want[4] = 2; p.s.Cluster().Replicas != want {
		t.Errorf("%+v", *p.s.Cluster())
	}
	for _, bad := range [][2]uint32{{0, 1}, {7, 1}, {1, 0}, {1, 3}, {1, ReplicasMax + 1}} {
		list, err := ReplicateSet(p.s, bad[0], bad[1])
		refused(t, ErrShard, list, err)
	}
	old := setsOf(t)
	list, err = GrowSets(old.s, 3, 1)
	refused(t, ErrLevel, list, err)
	list, err = ReplicateSet(old.s, 1, 1)
	refused(t, ErrLevel, list, err)
	for _, bad := range []Cluster{{ID: "c", Shards: 1, Level: 8, Sets: 1, Replicas: [SetsMax + 1]uint8{2: 1}}, {ID: "c", Shards: 1, Level: 8, Sets: 1, Replicas: [SetsMax + 1]uint8{1: ReplicasMax + 1}}} {
		if bad.check() == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

// TestStandIns checks that who comes back is kept from the level on at which it is known, and goes with its node.
func TestStandIns(t *testing.T) {
	p := setsOf(t, []NodeID{1, 2, 3}, []NodeID{2})
	sh := *p.s.Shard(p.s.Cluster().Set(1).First)
	sh.Home = []NodeID{3}
	list, err := SetShard(p.s, sh)
	refused(t, ErrLevel, list, err)
	c := *p.s.Cluster()
	c.Level = LevelReplicas
	p.take([]Entry{c.Entry()})
	p.do(SetShard(p.s, sh))
	p.do(RemoveNode(p.s, 3))
	if now := p.s.Shard(sh.ID); len(now.Home) > 0 || !slices.Equal(now.Replicas, []NodeID{2}) {
		t.Errorf("%+v", *now)
	}
}

// What a snapshot would be with other entries takes nothing from it.
func TestWithShards(t *testing.T) {
	p := setsOf(t, []NodeID{1, 2}, []NodeID{2, 1})
	first := p.s.Cluster().Set(1).First
	sh := *p.s.Shard(first)
	sh.Replicas = []NodeID{3}
	then := p.s.WithShards(sh)
	if got := then.Shard(first).Replicas; len(got) != 1 || got[0] != 3 {
		t.Errorf("replicas are %v", got)
	}
	if got := p.s.Shard(first).Replicas; len(got) == 1 || then.Cluster() != p.s.Cluster() {
		t.Errorf("the snapshot has changed: %v", got)
	}
}
