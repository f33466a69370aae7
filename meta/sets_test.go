package meta

import (
	"errors"
	"reflect"
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
	if list, err := GrowSets(s, 4); err != nil || len(list) != 1 {
		t.Fatalf("4 sets of 2: %v, %v", list, err)
	}
	if list, err := GrowSets(s, 2); err != nil || list != nil {
		t.Fatalf("as many as there are: %v, %v", list, err)
	}
	for _, n := range []uint32{1, SetsMax + 1} {
		if _, err := GrowSets(s, n); !errors.Is(err, ErrShard) {
			t.Errorf("%d sets of 2: %v", n, err)
		}
	}
	s = withEntries(t, (&Cluster{ID: "c", Shards: 64, Level: LevelSets - 1}).Entry())
	if _, err := GrowSets(s, 1); !errors.Is(err, ErrLevel) {
		t.Errorf("below the level: %v", err)
	}
	s = withEntries(t, (&Cluster{ID: "c", Shards: ShardsMax, Level: LevelSets}).Entry())
	if _, err := GrowSets(s, 1); err == nil {
		t.Error("more shards than there may be are taken")
	}
	if _, err := GrowSets(withEntries(t), 1); !errors.Is(err, ErrNoCluster) {
		t.Errorf("of a node that is alone: %v", err)
	}
}
