package cluster

import (
	"slices"
	"testing"

	"github.com/sluicemq/sluice/meta"
)

func ids(list ...meta.NodeID) []meta.NodeID { return list }

// Who shall have the shards: in as many racks as there are, not on nodes that are away or drain if others can have them, and else where they are.
func TestBalance(t *testing.T) {
	const clientless = meta.RoleJournal | meta.RoleMeta
	for _, c := range []struct {
		name     string
		racks    string // of the nodes from 1 on, a letter each; -: none
		roles    map[meta.NodeID]meta.Roles
		have     []meta.NodeID // who leads first
		target   []meta.NodeID
		inSync   []meta.NodeID // nil: all
		away     []meta.NodeID
		draining []meta.NodeID
		leaving  []meta.NodeID
		most     int
		anyRack  bool
		want     []meta.NodeID
		moves    bool // the lead
	}{
		{name: "balanced", racks: "abc", have: ids(1, 2, 3), most: 3, want: ids(1, 2, 3)},
		{name: "no racks", racks: "-----", have: ids(4, 2, 5), most: 3, want: ids(4, 2, 5)},
		{name: "a rack comes", racks: "aaab", have: ids(1, 2, 3), most: 3, want: ids(1, 2, 4)},
		{name: "the lead stays", racks: "aaab", have: ids(3, 1, 2), most: 3, want: ids(3, 1, 4)},
		{name: "racks do not count", racks: "aaab", have: ids(1, 2, 3), most: 3, anyRack: true, want: ids(1, 2, 3)},
		{name: "two racks come", racks: "aaabc", have: ids(2, 1, 3), most: 3, want: ids(2, 4, 5)},
		{name: "more racks than places", racks: "abcd", have: ids(4, 2, 3), most: 3, want: ids(4, 2, 3)},
		{name: "one of two racks too many", racks: "aaabbb", have: ids(1, 2, 3), most: 5, want: ids(1, 2, 3, 4, 5)},
		{name: "even", racks: "aaaabbc", have: ids(1, 2, 3, 4, 7), most: 5, want: ids(1, 2, 7, 5, 6)},
		{name: "as even as can be", racks: "aaab", have: ids(1, 4), most: 4, want: ids(1, 4, 2, 3)},
		{name: "without a rack is one rack", racks: "---b", have: ids(1, 2, 3), most: 3, want: ids(1, 2, 4)},
		{name: "away", racks: "aaaa", have: ids(1, 2, 3), inSync: ids(1, 2), away: ids(3), most: 3, want: ids(1, 2, 4)},
		{name: "away, and no other", racks: "aaaa", have: ids(1, 2, 3), inSync: ids(1, 2), away: ids(3, 4), most: 3, want: ids(1, 2, 3)},
		{name: "away in the only rack", racks: "aaabb", have: ids(1, 2, 4), inSync: ids(1, 2), away: ids(4), most: 3, want: ids(1, 2, 5)},
		{name: "away rather than one that drains", racks: "aaaa", have: ids(4, 1, 2, 3), inSync: ids(2, 3, 4), target: ids(4, 1, 3), away: ids(1), draining: ids(2), most: 3, want: ids(4, 2, 3)},
		{name: "drains", racks: "aaaa", have: ids(1, 2, 3), draining: ids(2), most: 3, want: ids(1, 3, 4)},
		{name: "the leader drains", racks: "aaaa", have: ids(1, 2, 3), draining: ids(1), most: 3, want: ids(2, 3, 4), moves: true},
		{name: "about to stop", racks: "aaaa", have: ids(1, 2, 3), leaving: ids(3), most: 3, want: ids(1, 2, 4)},
		{name: "all drain", racks: "aaaa", have: ids(1, 2, 3), draining: ids(1, 2, 3, 4), most: 3, want: ids(1, 2, 3)},
		{name: "no clients", racks: "aaab", roles: map[meta.NodeID]meta.Roles{4: clientless}, have: ids(1, 2, 3), draining: ids(4), most: 3, want: ids(1, 2, 4)},
		{name: "no journal", racks: "aaab", roles: map[meta.NodeID]meta.Roles{4: meta.RoleBroker | meta.RoleMeta}, have: ids(1, 2, 3), most: 3, want: ids(1, 2, 3)},
		{name: "nobody may lead", racks: "aaaa", roles: map[meta.NodeID]meta.Roles{1: clientless, 2: clientless, 3: clientless}, have: ids(1, 2, 3), draining: ids(1, 2, 3), most: 3,
			want: ids(1, 2, 4)},
		{name: "too many", racks: "aabbc", have: ids(1, 2, 3, 4, 5), most: 3, want: ids(1, 3, 5)},
		{name: "too few", racks: "aab", have: ids(1), most: 3, want: ids(1, 2, 3)},
		{name: "goes on before one comes", racks: "aaabb", have: ids(1, 2, 3), target: ids(1, 3, 5), most: 3, want: ids(1, 3, 5)},
		{name: "goes on after one came", racks: "aaabb", have: ids(2, 1, 3, 5), target: ids(1, 3, 5), most: 3, want: ids(1, 3, 5), moves: true},
		{name: "no need any more", racks: "aaaaa", have: ids(1, 2, 3), target: ids(1, 3, 5), most: 3, want: ids(1, 2, 3)},
		{name: "who was to come is away", racks: "aaabb", have: ids(1, 2, 3), target: ids(1, 3, 5), away: ids(5), most: 3, want: ids(1, 3, 4)},
	} {
		var racks []string
		known := make(map[meta.NodeID]Known)
		for i, r := range c.racks {
			id := meta.NodeID(i + 1)
			racks = append(racks, map[bool]string{false: string(r)}[r == '-'])
			known[id] = Known{Alive: !slices.Contains(c.away, id), Draining: slices.Contains(c.draining, id), Leaving: slices.Contains(c.leaving, id)}
		}
		catalog := catalogOf(t, len(racks), racks...)
		for id, roles := range c.roles {
			n := *catalog.Load().Node(id)
			n.Roles = roles
			catalog.Update(func(*meta.Snapshot) ([]meta.Entry, error) { return []meta.Entry{n.Entry()}, nil }, func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			})
		}
		if c.inSync == nil {
			c.inSync = c.have
		}
		sh := &meta.Shard{Epoch: 1, Leader: c.have[0], Replicas: c.have, ISR: slices.Sorted(slices.Values(c.inSync)), Target: c.target}
		p := balance(catalog.Load(), sh, known, c.most, !c.anyRack)
		if !slices.Equal(p.Want, c.want) || p.LeadMoves != c.moves || !slices.Equal(p.Have, c.have) {
			t.Errorf("%s: %+v, want %v, the lead moves: %v", c.name, p, c.want, c.moves)
		}
		if p.Balanced() != (p.target() == nil) || p.Balanced() != slices.Equal(slices.Sorted(slices.Values(c.have)), slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: balanced: %v, target %v", c.name, p.Balanced(), p.target())
		}
		then := &meta.Shard{Epoch: 1, Leader: p.Want[0], Replicas: p.Want, ISR: slices.Sorted(slices.Values(p.Want))}
		if again := balance(catalog.Load(), then, known, c.most, !c.anyRack); !again.Balanced() {
			t.Errorf("%s: not balanced then: %+v", c.name, again)
		}
		if sh.Target = p.target(); sh.Target != nil {
			if again := balance(catalog.Load(), sh, known, c.most, !c.anyRack); !slices.Equal(again.Want, p.Want) {
				t.Errorf("%s: asked once more it is %v, was %v", c.name, again.Want, p.Want)
			}
		}
	}
}

// A node goes when there are as many in sync without it, and never the one that leads.
func TestGoer(t *testing.T) {
	for _, c := range []struct {
		name             string
		replicas, inSync []meta.NodeID // who leads first
		target           []meta.NodeID
		want             meta.NodeID
		comes, full      bool
	}{
		{name: "nothing moves", replicas: ids(1, 2, 3), inSync: ids(1, 2, 3)},
		{name: "one comes first", replicas: ids(1, 2, 3), inSync: ids(1, 2, 3), target: ids(1, 2, 4), comes: true},
		{name: "it has come", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2, 3, 4), target: ids(1, 2, 4), want: 3, full: true},
		{name: "the leader goes", replicas: ids(3, 1, 2, 4), inSync: ids(1, 2, 3, 4), target: ids(1, 2, 4), full: true},
		{name: "one fell out", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2, 3), target: ids(1, 2, 4), full: true},
		{name: "the one that goes fell out", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2, 4), target: ids(1, 2, 4), want: 3, full: true},
		{name: "too few, and enough without it", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2), target: ids(1, 2, 4), want: 3, full: true},
		{name: "too few", replicas: ids(1, 2, 3), inSync: ids(1), target: ids(1, 2), full: true},
		{name: "the one that is left", replicas: ids(1, 2), inSync: ids(1), target: ids(1), want: 2, full: true},
		{name: "one after the other", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2, 3, 4), target: ids(1, 4, 5), want: 2, comes: true, full: true},
		{name: "the one that fell out first", replicas: ids(1, 2, 3, 4), inSync: ids(1, 2, 4), target: ids(1, 4, 5), want: 3, comes: true, full: true},
		{name: "fewer", replicas: ids(1, 2, 3), inSync: ids(1, 2, 3), target: ids(1), want: 2, full: true},
	} {
		sh := &meta.Shard{Leader: c.replicas[0], Replicas: c.replicas, ISR: c.inSync, Target: c.target}
		if got := goer(sh); got != c.want || full(sh, sh.Replicas) != c.full || (len(missing(sh)) > 0) != c.comes {
			t.Errorf("%s: %d goes, %v come, full %v; want %d, %v, %v", c.name, got, missing(sh), full(sh, sh.Replicas), c.want, c.comes, c.full)
		}
	}
	known := map[meta.NodeID]Known{1: {Alive: true}, 2: {Alive: true, Draining: true}, 3: {Alive: true}, 4: {Alive: true}}
	sh := &meta.Shard{Leader: 3, Epoch: 1, Replicas: ids(3, 1, 2, 4), ISR: ids(1, 2, 3, 4), Target: ids(2, 4, 1)}
	if to := successor(sh, sh.ISR, known, 0); to != 4 {
		t.Errorf("the lead goes to %d", to)
	}
	if to := successor(sh, ids(2, 3), known, 0); to != 0 {
		t.Errorf("the lead goes to %d, which drains", to)
	}
	all := map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true, Draining: true}, 3: {Alive: true, Draining: true}, 4: {Alive: true, Draining: true}}
	if to := successor(sh, sh.ISR, all, 0); to != 2 {
		t.Errorf("all drain, and the lead goes to %d", to)
	}
	if sh.Target = nil; successor(sh, sh.ISR, known, 0) != 0 {
		t.Error("the lead moves though nothing does")
	}
}
