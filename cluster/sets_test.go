package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// allThere are n nodes that are there and may lead.
func allThere(n int) map[meta.NodeID]Known {
	known := make(map[meta.NodeID]Known)
	for i := range n {
		known[meta.NodeID(i+1)] = Known{Alive: true}
	}
	return known
}

// Sets begin on nodes that are there, in as many racks as there are, each with another leader and with another one behind it.
func TestSetsBegin(t *testing.T) {
	const clientless = meta.RoleJournal | meta.RoleMeta
	for _, c := range []struct {
		name  string
		racks []string
		nodes int
		known map[meta.NodeID]Known
		roles map[meta.NodeID]meta.Roles
		sets  [][]meta.NodeID // the replicas of each, who leads first
	}{
		{name: "three", nodes: 3, known: allThere(3), sets: [][]meta.NodeID{ids(1, 2, 3), ids(2, 3, 1), ids(3, 1, 2), ids(1, 3, 2), ids(2, 1, 3), ids(3, 2, 1), ids(1, 2, 3)}},
		{name: "five", nodes: 5, known: allThere(5), sets: [][]meta.NodeID{ids(1, 2, 3), ids(2, 3, 4), ids(3, 4, 5), ids(4, 5, 1), ids(5, 1, 2), ids(1, 5, 4)}},
		{name: "racks", nodes: 4, racks: []string{"a", "a", "b", "b"}, known: allThere(4), sets: [][]meta.NodeID{ids(1, 3, 2), ids(2, 3, 4)}},
		{name: "some are not there, or go, or drain", nodes: 5, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true}, 4: {Alive: true, Leaving: true}, 5: {Alive: true}},
			sets: [][]meta.NodeID{ids(2, 5, 1), ids(5, 2, 1), ids(2, 5, 1)}},
		{name: "all but one drain", nodes: 3, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true}, 3: {Alive: true, Draining: true}}, sets: [][]meta.NodeID{ids(2, 1, 3), ids(2, 1, 3)}},
		{name: "all drain", nodes: 3, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true, Draining: true}, 3: {Alive: true, Draining: true}},
			sets: [][]meta.NodeID{ids(1, 2, 3), ids(2, 3, 1)}},
		{name: "who drains is not needed", nodes: 4, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true}, 3: {Alive: true}, 4: {Alive: true}},
			sets: [][]meta.NodeID{ids(2, 3, 4), ids(3, 4, 2), ids(4, 2, 3), ids(2, 4, 3)}},
		{name: "one takes no clients", nodes: 3, racks: []string{"a", "a", "b"}, roles: map[meta.NodeID]meta.Roles{1: clientless}, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true}, 3: {Alive: true}},
			sets: [][]meta.NodeID{ids(2, 3, 1), ids(3, 2, 1)}},
		{name: "none takes clients but one that drains", nodes: 3, roles: map[meta.NodeID]meta.Roles{1: clientless, 2: clientless},
			known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true, Draining: true}, 3: {Alive: true, Draining: true}}, sets: [][]meta.NodeID{ids(3, 1, 2), ids(3, 1, 2)}},
		{name: "one alone, and one that is about to stop", nodes: 3, known: map[meta.NodeID]Known{1: {Alive: true, Leaving: true}, 2: {Alive: true}}, sets: [][]meta.NodeID{ids(2, 1), ids(2, 1)}},
		{name: "one alone, and one that is paused", nodes: 3, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true, Paused: true}, 2: {Alive: true}}, sets: [][]meta.NodeID{ids(2, 1), ids(2, 1)}},
		{name: "one alone", nodes: 3, known: map[meta.NodeID]Known{2: {Alive: true}}, sets: [][]meta.NodeID{ids(2)}},
		{name: "nobody", nodes: 3, sets: [][]meta.NodeID{nil}},
	} {
		catalog := catalogOf(t, c.nodes, c.racks...)
		for id, roles := range c.roles {
			n := *catalog.Load().Node(id)
			n.Roles = roles
			catalog.Apply(0, []meta.Entry{n.Entry()})
		}
		s := catalog.Load()
		for i, want := range c.sets {
			sh, ok := begins(s, i+1, c.known, 3)
			if ok != (want != nil) || !slices.Equal(sh.Replicas, want) {
				t.Errorf("%s, set %d: %+v, want %v", c.name, i+1, sh, want)
				continue
			}
			if ok && (sh.Leader != want[0] || sh.Epoch != 1 || !slices.Equal(sh.ISR, slices.Sorted(slices.Values(want)))) {
				t.Errorf("%s, set %d: %+v is not led by the first one with all in sync", c.name, i+1, sh)
			}
		}
	}
}

// Who is preferred of the fewest sets becomes that, if it may lead and that evens it out.
func TestEvens(t *testing.T) {
	const clientless = meta.RoleJournal | meta.RoleMeta
	each := func(meta.NodeID) bool { return true }
	for _, c := range []struct {
		name     string
		others   []meta.NodeID // who is preferred of sets 1, 2 …, but for the last one
		replicas []meta.NodeID // of that
		roles    map[meta.NodeID]meta.Roles
		can      func(meta.NodeID) bool
		want     []meta.NodeID
	}{
		{name: "alone", replicas: ids(2, 1, 3), can: each, want: ids(2, 1, 3)},
		{name: "as many", others: ids(1, 3), replicas: ids(2, 1, 3), can: each, want: ids(2, 1, 3)},
		{name: "one that comes", others: ids(1), replicas: ids(1, 2), can: each, want: ids(2, 1)},
		{name: "the one that has least", others: ids(1, 1, 2), replicas: ids(1, 2, 3), can: each, want: ids(3, 1, 2)},
		{name: "no better", others: ids(2), replicas: ids(1, 2), can: each, want: ids(1, 2)},
		{name: "who cannot", others: ids(1, 1, 2), replicas: ids(1, 2, 3), can: func(id meta.NodeID) bool { return id != 3 }, want: ids(2, 1, 3)},
		{name: "no clients", others: ids(1, 1, 2), replicas: ids(1, 2, 3), roles: map[meta.NodeID]meta.Roles{3: clientless}, can: each, want: ids(2, 1, 3)},
		{name: "from one without clients", others: ids(2, 2), replicas: ids(1, 2), roles: map[meta.NodeID]meta.Roles{1: clientless}, can: each, want: ids(2, 1)},
	} {
		catalog := catalogOf(t, 3)
		s := catalog.Load()
		sets := len(c.others) + 1
		at := meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: uint32(sets)}
		entries := []meta.Entry{at.Entry()}
		for i, id := range append(slices.Clone(c.others), c.replicas[0]) {
			sh := meta.Shard{ID: at.Set(i + 1).First, Change: 1, Epoch: 1, Leader: id, Replicas: ids(id), ISR: ids(id)}
			entries = append(entries, sh.Entry())
		}
		for id, roles := range c.roles {
			n := *s.Node(id)
			n.Roles = roles
			entries = append(entries, n.Entry())
		}
		catalog.Apply(0, entries)
		if got := evens(catalog.Load(), sets, c.replicas, c.can); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Who is preferred, and who is behind, is counted as it will be once sets have moved; of those who are as often behind as another, the one that is preferred of fewer sets.
func TestFollows(t *testing.T) {
	catalog := catalogOf(t, 4)
	at := meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: 5}
	entries := []meta.Entry{at.Entry()}
	for k, sh := range []meta.Shard{{Replicas: ids(1, 2, 3)}, {Replicas: ids(2, 3, 1), Target: ids(4, 1, 3)}, {Replicas: ids(2), Target: ids(1)}, {Replicas: ids(4, 1)}} {
		sh.ID, sh.Change, sh.Epoch, sh.Leader, sh.ISR = at.Set(k+1).First, 1, 1, sh.Replicas[0], slices.Sorted(slices.Values(sh.Replicas))
		entries = append(entries, sh.Entry())
	}
	catalog.Apply(0, entries)
	s := catalog.Load()
	if of := preferredOf(s, 5); of[1] != 2 || of[2] != 0 || of[3] != 1 || of[4] != 1 {
		t.Errorf("preferred are %v", of)
	}
	for _, c := range []struct {
		name           string
		replicas, want []meta.NodeID
		cannot         meta.NodeID
	}{
		{name: "another one is behind it in fewer", replicas: ids(1, 2, 3), want: ids(1, 3, 2)},
		{name: "as it is", replicas: ids(1, 3, 2), want: ids(1, 3, 2)},
		{name: "one that leads fewer", replicas: ids(2, 1, 3), want: ids(2, 3, 1)},
		{name: "no better", replicas: ids(2, 3, 4), want: ids(2, 3, 4)},
		{name: "who cannot", replicas: ids(1, 2, 3), cannot: 3, want: ids(1, 2, 3)},
		{name: "no other can", replicas: ids(2, 1, 3), cannot: 1, want: ids(2, 1, 3)},
		{name: "two", replicas: ids(1, 2), want: ids(1, 2)},
		{name: "alone", replicas: ids(1), want: ids(1)},
	} {
		if got := follows(s, 5, c.replicas, func(id meta.NodeID) bool { return id != c.cannot }); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// returning is a set whose preferred leader is node 1.
type returning struct {
	t     *testing.T
	b     back
	sh    *meta.Shard
	known map[meta.NodeID]Known
	now   time.Duration
}

const returnLease = time.Second

func newReturning(t *testing.T) *returning {
	t.Helper()
	return &returning{t: t, sh: &meta.Shard{Leader: 2, Epoch: 5, Replicas: ids(1, 2, 3), ISR: ids(1, 2, 3)}, known: allThere(3), now: 100 * returnLease}
}

func (r *returning) look() meta.NodeID {
	return r.b.returns(r.sh, r.sh.ISR, r.known, r.now, returnLease)
}

// after is how long it takes from now on until it gets the lead back.
func (r *returning) after() time.Duration {
	r.t.Helper()
	for begin := r.now; ; r.now += returnLease / 10 {
		switch id := r.look(); {
		case id == 1:
			return r.now - begin
		case id != 0:
			r.t.Fatalf("the lead goes to %d", id)
		case r.now > begin+1000*returnLease:
			r.t.Fatal("it does not get the lead back")
		}
	}
}

// led has it lead for so long, and lose the lead then.
func (r *returning) led(d time.Duration) {
	r.t.Helper()
	r.sh.Leader = 1
	for end := r.now + d; r.now < end; r.now += returnLease / 10 {
		if id := r.look(); id != 0 {
			r.t.Fatalf("it leads, and the lead goes to %d", id)
		}
	}
	r.sh.Leader = 2
}

// The preferred leader gets the lead back when it could have it for some leases, and waits longer when it loses it again soon after.
func TestReturns(t *testing.T) {
	const once = backLeases * returnLease
	r := newReturning(t)
	for _, want := range []time.Duration{once, 2 * once, 4 * once} {
		if d := r.after(); d != want {
			t.Errorf("after %v, want %v", d, want)
		}
		r.led(returnLease)
	}
	for range 10 {
		r.after()
		r.led(returnLease)
	}
	if d := r.after(); d != backMost*once {
		t.Errorf("after %v when it always loses it", d)
	}
	r.led(backTwice*backMost*once + returnLease)
	if d := r.after(); d != once {
		t.Errorf("after %v when it had it for long", d)
	}
	r.led(returnLease)
	if r.b.atOnce(r.sh); r.after() != 0 {
		t.Error("not at once, though it is asked for")
	}
	r.sh.Leader, r.sh.Replicas = 2, ids(3, 1, 2)
	if id := r.look(); id != 0 {
		t.Errorf("the lead goes to %d, which has just become the preferred one", id)
	}
}

// Whenever the preferred leader could not lead for a moment, it waits anew.
func TestReturnsWithoutABreak(t *testing.T) {
	for i, breaks := range []func(*returning){
		func(r *returning) { r.known[1] = Known{} },
		func(r *returning) { r.known[1] = Known{Alive: true, Draining: true} },
		func(r *returning) { r.known[1] = Known{Alive: true, Leaving: true} },
		func(r *returning) { r.sh.ISR = ids(2, 3) },
		func(r *returning) { r.sh.Target = ids(2, 3) },
		func(r *returning) { r.sh.Leader = 0 },
	} {
		r := newReturning(t)
		r.look()
		r.now += (backLeases - 1) * returnLease
		breaks(r)
		if r.now += returnLease; r.look() != 0 {
			t.Errorf("%d: the lead goes to one that cannot: %+v, %+v", i, r.sh, r.known[1])
		}
		r.sh.Leader, r.sh.ISR, r.sh.Target, r.known[1] = 2, ids(1, 2, 3), nil, Known{Alive: true}
		if d := r.after(); d != backLeases*returnLease {
			t.Errorf("%d: after %v when it could not for a moment", i, d)
		}
	}
}

// Each set has methods of its own, those of the first one are the ones that there always were.
func TestMethods(t *testing.T) {
	seen := make(map[uint16]int)
	for set := range meta.SetsMax + 1 {
		c := &Controller{o: Options{Set: set}}
		for _, m := range []uint16{methodHeartbeat, methodMove, methodDrain, methodBalance} {
			got := c.method(m)
			if other, ok := seen[got]; ok || set == 0 && got != m {
				t.Errorf("method %x of set %d is %x, as of set %d", m, set, got, other)
			}
			seen[got] = set
		}
	}
}

// balancing are sets of which each is balanced in turn.
type balancing struct {
	t       *testing.T
	name    string
	catalog *meta.Catalog
	at      meta.Cluster
	known   map[meta.NodeID]Known
}

func (b *balancing) place(set int, replicas []meta.NodeID) {
	sh := meta.Shard{ID: b.at.Set(set).First, Change: 1, Epoch: 1, Leader: replicas[0], Replicas: replicas, ISR: slices.Sorted(slices.Values(replicas))}
	b.catalog.Apply(0, []meta.Entry{b.at.Entry(), sh.Entry()})
}

// balance has one set balanced, and its nodes come and go; false: it was.
func (b *balancing) balance(set int) bool {
	b.t.Helper()
	sorted := func(list []meta.NodeID) []meta.NodeID { return slices.Sorted(slices.Values(list)) }
	c := &Controller{o: Options{Set: set, Replicas: 3}}
	s := b.catalog.Load()
	sh := s.Shard(b.at.Set(set).First)
	p, replicas := c.balance(s, sh, b.known, BalanceOptions{})
	if len(p.Want) != 3 || !slices.Equal(sorted(replicas), sorted(sh.Replicas)) {
		b.t.Fatalf("%s: set %d: %+v, %v", b.name, set, p, replicas)
	}
	during := clone(sh)
	during.Target, during.Replicas = p.target(), replicas
	if again, _ := c.balance(s, &during, b.known, BalanceOptions{}); !p.Balanced() && !slices.Equal(sorted(again.Want), sorted(p.Want)) {
		b.t.Errorf("%s: set %d: asked once more it is %v, was %v", b.name, set, again.Want, p.Want)
	}
	stay := slices.DeleteFunc(replicas, func(id meta.NodeID) bool { return !slices.Contains(p.Want, id) })
	for _, id := range p.Want {
		if !slices.Contains(stay, id) {
			stay = evens(s, set, append(stay, id), func(o meta.NodeID) bool { return o == id })
		}
	}
	b.place(set, stay)
	return !slices.Equal(stay, sh.Replicas)
}

// When sets are balanced one after the other, no node has two more than another one, as far as racks allow that, nor is preferred by two more where each has all, and nothing moves when
// they are balanced once more.
func TestSetsBalance(t *testing.T) {
	for _, v := range []struct {
		name  string
		racks []string
		nodes int
		sets  int
		leads int         // that a node is preferred by more than another one, at most
		gone  meta.NodeID // is not there
	}{
		{name: "two more nodes", nodes: 5, sets: 5, leads: 2},
		{name: "three sets", nodes: 5, sets: 3, leads: 1},
		{name: "no more nodes", nodes: 3, sets: 6, leads: 0},
		{name: "two in each rack", nodes: 6, racks: []string{"a", "b", "c", "a", "b", "c"}, sets: 4, leads: 1},
		{name: "a rack of one", nodes: 4, racks: []string{"a", "b", "b", "b"}, sets: 6, leads: 1},
		{name: "one is away", nodes: 5, sets: 4, leads: 1, gone: 3},
	} {
		b := &balancing{t: t, name: v.name, catalog: catalogOf(t, v.nodes, v.racks...), at: meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: uint32(v.sets)}, known: allThere(v.nodes)}
		for k := range v.sets {
			b.place(k+1, ids(1, 2, 3))
		}
		delete(b.known, v.gone)
		moved := 0
		for range 3 {
			moved = 0
			for k := range v.sets {
				if b.balance(k + 1) {
					moved++
				}
			}
		}
		if moved > 0 {
			t.Errorf("%s: %d sets move though they are balanced", v.name, moved)
		}
		has, leads := haveOf(b.catalog.Load(), 0), preferredOf(b.catalog.Load(), 0)
		for x := range b.known {
			for y := range b.known {
				if has[x] > has[y]+1 && (v.racks == nil || v.racks[x-1] == v.racks[y-1]) || leads[x] > leads[y]+v.leads {
					t.Errorf("%s: sets %v, preferred by %v", v.name, has, leads)
				}
			}
		}
		if has[v.gone] > 0 {
			t.Errorf("%s: node %d has %d sets", v.name, v.gone, has[v.gone])
		}
	}
}
