package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/meta"
)

// group applies what is proposed at once.
type group struct{ c *meta.Catalog }

func (g *group) Propose(_ uint64, changes []meta.Entry, done func(error)) {
	g.c.Apply(0, changes)
	done(nil)
}

// catalogOf has a cluster of n active nodes; racks names theirs.
func catalogOf(t *testing.T, n int, racks ...string) *meta.Catalog {
	t.Helper()
	g := &group{}
	g.c = meta.New(g)
	entries := []meta.Entry{(&meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelBalance}).Entry()}
	for i := range n {
		node := &meta.Node{ID: meta.NodeID(i + 1), State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Level: 1, Disk: fmt.Sprint("disk", i), Address: fmt.Sprintf("h%d:1", i)}
		if i < len(racks) {
			node.Rack = racks[i]
		}
		entries = append(entries, node.Entry())
	}
	g.c.Apply(0, entries)
	if err := g.c.Recovered(); err != nil {
		t.Fatal(err)
	}
	return g.c
}

// Replicas are spread over racks, and who has them keeps them.
func TestPlace(t *testing.T) {
	s := catalogOf(t, 5, "a", "a", "b", "b", "c").Load()
	for _, c := range []struct {
		have []meta.NodeID
		most int
		want []meta.NodeID
	}{
		{nil, 1, []meta.NodeID{1}},
		{nil, 3, []meta.NodeID{1, 3, 5}},
		{[]meta.NodeID{2}, 3, []meta.NodeID{2, 3, 5}},
		{[]meta.NodeID{3, 4}, 3, []meta.NodeID{3, 4, 1}},
		{[]meta.NodeID{3, 4, 1}, 2, []meta.NodeID{3, 4, 1}},
		{nil, 9, []meta.NodeID{1, 3, 5, 2, 4}},
	} {
		if got := place(s, c.have, c.most); !slices.Equal(got, c.want) {
			t.Errorf("%v, at most %d: %v, want %v", c.have, c.most, got, c.want)
		}
	}
}

// world is nodes with logs, under a controller and leaders that do what the rules say.
type world struct {
	t         *testing.T
	rnd       *rand.Rand
	c         *meta.Catalog
	logs      map[meta.NodeID]int // frames that each has
	committed int
	known     map[meta.NodeID]Known
	most      int
	went      int // nodes that have the shards no more
}

func (w *world) set(sh meta.Shard, old *meta.Shard) {
	w.t.Helper()
	if old != nil {
		sh.Change = old.Change
	}
	entries, err := meta.SetShard(w.c.Load(), sh)
	if err != nil {
		w.t.Fatalf("the catalog refuses %+v after %+v: %v", sh, old, err)
	}
	w.c.Update(func(*meta.Snapshot) ([]meta.Entry, error) { return entries, nil }, func(err error) {
		if err != nil {
			w.t.Fatal(err)
		}
	})
}

// step lets something happen: a node comes or goes, the leader writes, followers fetch, the leader shrinks or grows who is in sync, the controller looks.
func (w *world) step() {
	s := w.c.Load()
	sh := s.Shard(0)
	id := meta.NodeID(1 + w.rnd.IntN(5))
	k := w.known[id]
	switch w.rnd.IntN(9) {
	case 0, 1:
		k.Alive = !k.Alive
		if sh != nil && k.Alive {
			k.Resigned = sh.Epoch // started anew
		}
		w.known[id] = k
	case 2:
		k.Draining = !k.Draining
		k.Leaving = k.Draining && w.rnd.IntN(2) == 0
		k.Paused = w.rnd.IntN(8) == 0
		w.known[id] = k
	case 3, 4:
		if sh == nil || sh.Leader == 0 || !w.known[sh.Leader].Alive || w.known[sh.Leader].Resigned >= sh.Epoch {
			return
		}
		w.logs[sh.Leader]++
	case 5:
		if sh != nil && sh.Leader != 0 && id != sh.Leader && k.Alive && w.known[sh.Leader].Alive {
			w.logs[id] = w.logs[sh.Leader]
		}
	case 6:
		w.lead(sh)
	case 7:
		w.govern(s, sh)
	case 8:
		if sh == nil || sh.Target != nil && w.rnd.IntN(10) > 0 {
			return
		}
		next, p := clone(sh), balance(s, sh, w.known, w.most, w.rnd.IntN(2) == 0)
		if next.Target = p.target(); !same(&next, sh) {
			w.set(next, sh)
		}
	}
	w.commit(w.c.Load().Shard(0))
}

// commit moves the high watermark: all in sync have it, and they are enough.
func (w *world) commit(sh *meta.Shard) {
	if sh == nil || sh.Leader == 0 || !w.known[sh.Leader].Alive || w.known[sh.Leader].Resigned >= sh.Epoch || len(sh.ISR) < LeastInSync(len(sh.Replicas)) {
		return
	}
	low := w.logs[sh.Leader]
	for _, id := range sh.ISR {
		low = min(low, w.logs[id])
	}
	w.committed = max(w.committed, low)
}

// lead is what a leader does: it takes in who has all that is committed, and lets go of anybody.
func (w *world) lead(sh *meta.Shard) {
	if sh == nil || sh.Leader == 0 || !w.known[sh.Leader].Alive {
		return
	}
	next := clone(sh)
	places := comers(w.c.Load(), sh, w.most)
	id := places[w.rnd.IntN(len(places))]
	moves := sh.Target != nil && w.rnd.IntN(4) > 0 // few are taken out meanwhile, so that it comes about
	if moves && w.known[id].Alive {
		w.logs[id] = max(w.logs[id], w.logs[sh.Leader])
	}
	switch {
	case goer(sh) != 0 && w.rnd.IntN(2) == 0:
		w.goes(sh, goer(sh))
		return
	case full(sh, sh.Replicas) && !slices.Contains(sh.Replicas, id):
		return
	case id == sh.Leader:
		return
	case slices.Contains(sh.ISR, id):
		if moves {
			return
		}
		leave(&next, slices.DeleteFunc(slices.Clone(sh.ISR), func(o meta.NodeID) bool { return o == id }))
	case w.logs[id] >= w.committed && w.logs[id] == w.logs[sh.Leader]:
		in := append(slices.Clone(sh.ISR), id)
		slices.Sort(in)
		if !slices.Contains(next.Replicas, id) {
			next.Replicas = append(next.Replicas, id)
		}
		leave(&next, in)
	default:
		return
	}
	next.Arrived()
	w.set(next, sh)
}

// goes has a node have the shards no more. Where it was in sync, all others are.
func (w *world) goes(sh *meta.Shard, id meta.NodeID) {
	w.t.Helper()
	next := clone(sh)
	isIt := func(o meta.NodeID) bool { return o == id }
	next.Replicas = slices.DeleteFunc(next.Replicas, isIt)
	leave(&next, slices.DeleteFunc(slices.Clone(sh.ISR), isIt))
	if len(next.ISR) < LeastInSync(len(next.Replicas)) || slices.Contains(sh.ISR, id) && len(next.ISR) < len(next.Replicas) || len(next.Replicas) < len(sh.Target) {
		w.t.Fatalf("%d goes: %+v becomes %+v", id, *sh, next)
	}
	next.Arrived()
	w.went++
	w.set(next, sh)
}

func (w *world) govern(s *meta.Snapshot, sh *meta.Shard) {
	want, changed := next(s, sh, w.known, meta.NodeID(w.rnd.IntN(6)))
	if !changed {
		return
	}
	if sh != nil && want.Leader != sh.Leader {
		if want.Epoch != sh.Epoch+1 {
			w.t.Fatalf("from epoch %d to %d", sh.Epoch, want.Epoch)
		}
		if sh.Leader != 0 && w.known[sh.Leader].Alive && w.known[sh.Leader].Resigned < sh.Epoch && slices.Contains(want.ISR, sh.Leader) {
			w.t.Fatalf("%d leads, and another one is elected: %+v", sh.Leader, want)
		}
	}
	if want.Leader != 0 && (sh == nil || want.Leader != sh.Leader) {
		if sh != nil && w.logs[want.Leader] < w.committed {
			w.t.Fatalf("node %d is elected with %d frames, %d are committed: %+v after %+v", want.Leader, w.logs[want.Leader], w.committed, want, *sh)
		}
		for id, n := range w.logs { // they follow it: what they have beyond is taken back
			w.logs[id] = min(n, w.logs[want.Leader])
		}
	}
	w.set(want, sh)
}

// check looks at what always holds.
func (w *world) check() {
	sh := w.c.Load().Shard(0)
	if sh == nil {
		return
	}
	if sh.Leader != 0 && !slices.Contains(sh.ISR, sh.Leader) {
		w.t.Fatalf("the leader is not in sync: %+v", *sh)
	}
	if len(sh.ISR) >= LeastInSync(len(sh.Replicas)) && len(sh.Eligible) > 0 {
		w.t.Fatalf("eligible beside enough in sync: %+v", *sh)
	}
	for _, id := range slices.Concat(sh.ISR, sh.Eligible) {
		if w.logs[id] < w.committed {
			w.t.Fatalf("node %d has %d frames, %d are committed: %+v", id, w.logs[id], w.committed, *sh)
		}
	}
}

// Whatever comes and goes: who may lead has all that is committed, the catalog takes every change that the rules make, and when all are there somebody
// leads.
func TestRules(t *testing.T) {
	went := 0
	for seed := range uint64(300) {
		w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 3)), c: catalogOf(t, 5, "a", "a", "b", "b", "c"), logs: make(map[meta.NodeID]int), known: make(map[meta.NodeID]Known), most: 1 + int(seed%5)}
		for range 1000 {
			w.step()
			w.check()
		}
		for id := range meta.NodeID(5) {
			w.known[id+1] = Known{Alive: true, Resigned: w.known[id+1].Resigned}
		}
		w.govern(w.c.Load(), w.c.Load().Shard(0))
		if sh := w.c.Load().Shard(0); sh == nil || sh.Leader == 0 {
			t.Fatalf("seed %d: nobody leads: %+v", seed, sh)
		}
		went += w.went
	}
	if t.Logf("%d nodes had the shards no more", went); went < 100 {
		t.Errorf("%d nodes had the shards no more: too few to show anything", went)
	}
}

func FuzzWire(f *testing.F) {
	f.Add((&heartbeat{resigned: 7, leaving: true}).encode())
	f.Add((&heartbeat{resigned: 7, paused: true}).encode())
	f.Add((&grant{yield: 3, alive: []meta.NodeID{1, 2, 3}}).encode())
	f.Add((&Plan{Have: []meta.NodeID{1, 2}, Want: []meta.NodeID{1, 3}, Leader: 2, LeadMoves: true}).encode())
	f.Add((&BalanceOptions{DryRun: true, AnyRack: true, Given: map[int][]meta.NodeID{2: {3, 1}, 1: {2}}}).encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHeartbeat(b); err == nil && string(h.encode()) != string(b) {
			t.Errorf("heartbeat %x is %+v, which is written %x", b, h, h.encode())
		}
		if g, err := decodeGrant(b); err == nil && string(g.encode()) != string(b) {
			t.Errorf("grant %x is %+v, which is written %x", b, g, g.encode())
		}
		if o, err := decodeBalance(b); err == nil && string(o.encode()) != string(b) {
			t.Errorf("balance %x is %+v, which is written %x", b, o, o.encode())
		}
		if p, err := decodePlan(b); err == nil && string(p.encode()) != string(b) {
			t.Errorf("plan %x is %+v, which is written %x", b, p, p.encode())
		}
	})
}
