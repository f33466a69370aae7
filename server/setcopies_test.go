package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// directGroup makes changes at once.
type directGroup struct {
	catalog *meta.Catalog
	index   uint64
}

func (g *directGroup) Propose(base uint64, changes []meta.Entry, done func(error)) {
	if base != g.index {
		done(meta.ErrConflict)
		return
	}
	g.index++
	g.catalog.Apply(g.index, changes)
	done(nil)
}

// fakeSets is a node as its copies see its sets.
type fakeSets struct {
	alive  []meta.NodeID
	leads  map[int]uint32
	serves map[int][]link.NodeID
	yield  func(set int, yields bool)
	pause  func() (resume func(), err error)
}

func (f *fakeSets) Alive(int) []meta.NodeID { return f.alive }
func (f *fakeSets) Leads(set int) uint32    { return f.leads[set] }
func (f *fakeSets) Serves(set int, node link.NodeID) bool {
	return slices.Contains(f.serves[set], node)
}
func (f *fakeSets) Yield(set int, yields bool)            { f.yield(set, yields) }
func (f *fakeSets) Pause(context.Context) (func(), error) { return f.pause() }

// copyWorld is a cluster as node 1 sees it, which needs a copy: nodes 2 and 3 lead, the shards 0 and 1 are of set 0, those of set k behind them.
type copyWorld struct {
	t       *testing.T
	c       *setCopier
	sets    *fakeSets
	group   *directGroup
	said    []string  // what was done, in order
	asks    []seedAsk // of the copy
	refused int       // so many requests for a hold
	during  func()    // while the copy is on its way
	paused  bool
	yielded func(set int)
}

func (w *copyWorld) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// newCopyWorld has so many sets beside the first, all led by node 2 in epoch 5 and of nodes 1 to 3, of which 2 and 3 are in sync.
func newCopyWorld(t *testing.T, sets uint32) *copyWorld {
	t.Helper()
	w := &copyWorld{t: t, group: new(directGroup)}
	cat := meta.New(w.group)
	w.group.catalog = cat
	if err := cat.Recovered(); err != nil {
		t.Fatal(err)
	}
	list := []meta.Entry{(&meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: sets}).Entry()}
	for id := meta.NodeID(1); id <= 3; id++ {
		list = append(list, (&meta.Node{ID: id, State: meta.NodeActive, Roles: meta.RoleJournal | meta.RoleMeta | meta.RoleBroker, Replica: 1, Level: meta.LevelSets, Address: fmt.Sprintf("n%d:1", id)}).Entry())
	}
	w.apply(list...)
	for n := range int(sets) + 1 {
		w.set(n, meta.Shard{Epoch: 5, Leader: 2, ISR: []meta.NodeID{2, 3}})
	}
	w.sets = &fakeSets{alive: []meta.NodeID{1, 2, 3}, yield: func(set int, yields bool) {
		w.say("yield %d %v", set, yields)
		if yields && w.yielded != nil {
			w.yielded(set)
		}
	}, pause: func() (func(), error) {
		w.say("pause")
		w.paused = true
		return func() { w.say("resume"); w.paused = false }, nil
	}}
	w.c = &setCopier{own: 1, sets: w.sets, catalog: cat, clock: clock.Real{}, log: slog.New(slog.DiscardHandler),
		barrier: func(context.Context) error { w.say("barrier"); return nil },
		call:    w.call,
		fetch: func(_ context.Context, giver link.NodeID, asks []seedAsk) (string, error) {
			w.say("copy of %d", giver)
			w.asks = asks
			if w.during != nil {
				w.during()
			}
			return "whole", nil
		},
		mark:  func(text string) error { w.say("mark %s", text); return nil },
		again: func() { w.say("again") }}
	return w
}

func (w *copyWorld) call(_ context.Context, to link.NodeID, method uint16, body []byte) ([]byte, error) {
	asks, err := decodeAsks(body)
	if err != nil || method != methodSeedHold {
		return nil, fmt.Errorf("method %x: %w", method, err)
	}
	w.say("hold at %d", to)
	if !w.paused {
		w.t.Error("a leader is asked while the node follows")
	}
	if w.refused > 0 {
		w.refused--
		return nil, errors.New("it follows yet")
	}
	for i := range asks {
		for range w.c.catalog.Load().Cluster().Set(asks[i].set).Count {
			asks[i].ends = append(asks[i].ends, uint64(100*asks[i].set+7))
		}
	}
	return appendAsks(nil, asks), nil
}

func (w *copyWorld) apply(list ...meta.Entry) {
	w.group.index++
	w.group.catalog.Apply(w.group.index, list)
}

// set has the catalog say who has a set.
func (w *copyWorld) set(n int, sh meta.Shard) {
	s := w.group.catalog.Load()
	set := s.Cluster().Set(n)
	var list []meta.Entry
	for k := range set.Count {
		one := sh
		one.ID, one.Change = set.First+k, 1
		if one.Replicas == nil {
			one.Replicas = []meta.NodeID{1, 2, 3}
		}
		if have := s.Shard(one.ID); have != nil {
			one.Change = have.Change + 1
		}
		list = append(list, one.Entry())
	}
	w.apply(list...)
}

func (w *copyWorld) shard(n int) *meta.Shard {
	s := w.group.catalog.Load()
	return s.Shard(s.Cluster().Set(n).First)
}

func (w *copyWorld) want(said ...string) {
	w.t.Helper()
	if !slices.Equal(w.said, said) {
		w.t.Errorf("it did\n%s\nwant\n%s", strings.Join(w.said, "\n"), strings.Join(said, "\n"))
	}
}

// With no sets beside the first a copy is asked for as it was without them: one request, with nothing in it, and no question to the majority.
func TestCopyOfOneSet(t *testing.T) {
	w := newCopyWorld(t, 0)
	w.set(0, meta.Shard{Epoch: 6, Leader: 3, ISR: []meta.NodeID{1, 3}})
	w.c.sets = nil // as long as nothing else is there
	w.c.behind(t.Context(), 0, 2, journal.ErrGone)
	w.want("copy of 3", "mark whole", "again")
	if body := appendAsks(nil, w.asks); body != nil {
		t.Errorf("the request bears %x", body)
	}
	if w.c.behind(t.Context(), 0, 2, journal.ErrGone); len(w.said) != 3 {
		t.Errorf("told twice, it gets another one over the first: %v", w.said)
	}
}

// A copy that is on its way when another leader comes, with whom the node is in sync by then, is none any more; nor is one without what sets may have that have
// come meanwhile.
func TestCopyOfOneSetMoves(t *testing.T) {
	for name, c := range map[string]struct {
		during func(w *copyWorld)
		want   []string
	}{
		"away from the node":  {func(w *copyWorld) { w.set(0, meta.Shard{Epoch: 6, Leader: 3, ISR: []meta.NodeID{2, 3}}) }, []string{"copy of 2", "pause", "barrier", "mark whole"}},
		"to one that has it":  {func(w *copyWorld) { w.set(0, meta.Shard{Epoch: 6, Leader: 3, ISR: []meta.NodeID{1, 3}}) }, []string{"copy of 2", "pause", "barrier", "resume"}},
		"by another decision": {func(w *copyWorld) { w.set(0, meta.Shard{Epoch: 5, Leader: 2, ISR: []meta.NodeID{1, 2}}) }, []string{"copy of 2", "pause", "mark whole"}},
		"into several": {func(w *copyWorld) {
			w.apply((&meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: 1}).Entry())
		},
			[]string{"copy of 2", "pause", "resume"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCopyWorld(t, 0)
			w.during = func() { c.during(w) }
			_ = w.c.try(t.Context(), 2)
			w.want(c.want...)
		})
	}
}

// The steps of a copy where there are sets, in their order: the node hands over what it leads, first set 0, whoever leads then gives the copy; it stops before any
// leader is asked, all of them hold their logs, and it is in sync nowhere when the copy is taken.
func TestCopyOfSets(t *testing.T) {
	w := newCopyWorld(t, 2)
	w.set(0, meta.Shard{Epoch: 5, Leader: 1, ISR: []meta.NodeID{1, 2, 3}})
	w.set(1, meta.Shard{Epoch: 8, Leader: 1, ISR: []meta.NodeID{1, 2, 3}})
	w.set(2, meta.Shard{Epoch: 9, Leader: 3, ISR: []meta.NodeID{2, 3}})
	w.yielded = func(set int) {
		w.set(set, meta.Shard{Epoch: w.shard(set).Epoch + 1, Leader: 2, ISR: []meta.NodeID{1, 2, 3}})
	}
	before := w.shard(2).Change
	w.during = func() {
		for n := range 3 {
			if sh := w.shard(n); slices.Contains(sh.ISR, 1) || !slices.Equal(sh.ISR, []meta.NodeID{2, 3}) {
				t.Errorf("set %d has %v in sync when the copy is taken", n, sh.ISR)
			}
		}
	}
	w.c.behind(t.Context(), 2, 3, journal.ErrGone)
	w.want("barrier", "yield 0 true", "barrier", "yield 1 true", "barrier", "pause", "hold at 2", "hold at 3", "copy of 2", "barrier", "mark whole", "again")
	want := []seedAsk{{0, 6, true, []uint64{7, 7}}, {1, 9, true, []uint64{107, 107, 107, 107}}, {2, 9, false, []uint64{207, 207, 207, 207}}}
	if !reflect.DeepEqual(w.asks, want) {
		t.Errorf("asked of the copy: %+v, want %+v", w.asks, want)
	}
	stale := *w.shard(2) // what the leader decided before the node went
	if stale.Change == before {
		t.Error("the entries of a set in which the node was not in sync are as they were")
	}
	stale.Change, stale.ISR = before, []meta.NodeID{1, 2, 3}
	if _, err := meta.SetShard(w.group.catalog.Load(), stale); !errors.Is(err, meta.ErrStale) {
		t.Errorf("a leader takes the node in by what it decided before: %v", err)
	}
}

// A node whose data may be the only ones with what was acknowledged goes on as it is, and throws nothing away.
func TestCopyWaits(t *testing.T) {
	for name, c := range map[string]struct {
		set   meta.Shard
		alive []meta.NodeID
		zero  meta.Shard
		want  string
	}{
		"in sync, with one other":          {set: meta.Shard{Epoch: 7, Leader: 3, ISR: []meta.NodeID{1, 3}}, want: "is needed"},
		"in sync, the others are gone":     {set: meta.Shard{Epoch: 7, Leader: 3, ISR: []meta.NodeID{1, 2, 3}}, alive: []meta.NodeID{1, 3}, want: "is needed"},
		"in sync, and nobody knows who is": {set: meta.Shard{Epoch: 7, Leader: 3, ISR: []meta.NodeID{1, 2, 3}}, alive: []meta.NodeID{}, want: "is needed"},
		"eligible":                         {set: meta.Shard{Epoch: 7, Leader: 3, ISR: []meta.NodeID{3}, Eligible: []meta.NodeID{1, 2}}, want: "is needed"},
		"leads, alone":                     {set: meta.Shard{Epoch: 7, Leader: 1, ISR: []meta.NodeID{1}, Eligible: []meta.NodeID{2}}, want: "it leads set 1"},
		"leads, with one other":            {set: meta.Shard{Epoch: 7, Leader: 1, ISR: []meta.NodeID{1, 3}}, want: "it leads set 1"},
		"nobody leads":                     {set: meta.Shard{Epoch: 7, Eligible: []meta.NodeID{2}}, want: "nobody leads set 1"},
		"leads set 0, alone":               {zero: meta.Shard{Epoch: 7, Leader: 1, ISR: []meta.NodeID{1}}, want: "it leads set 0"},
		"nobody leads set 0":               {zero: meta.Shard{Epoch: 7, Eligible: []meta.NodeID{2}}, want: "nobody leads"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCopyWorld(t, 1)
			if c.set.Epoch > 0 {
				w.set(1, c.set)
			}
			if c.zero.Epoch > 0 {
				w.set(0, c.zero)
			}
			if c.alive != nil {
				w.sets.alive = c.alive
			}
			var n needed
			if err := w.c.try(t.Context(), 2); !errors.As(err, &n) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			w.want("barrier")
		})
	}
}

// Where the one who gives the copy leads the set, what the node has acknowledged is in the copy: it may be one of two, and stays in sync. That one has to lead
// when the copy is made.
func TestCopyOfWhoLeads(t *testing.T) {
	for _, sh := range []meta.Shard{{Epoch: 7, Leader: 2, ISR: []meta.NodeID{1, 2}}, {Epoch: 7, Leader: 2, ISR: []meta.NodeID{2}, Eligible: []meta.NodeID{1, 3}}} {
		w := newCopyWorld(t, 1)
		w.set(1, sh)
		if err := w.c.try(t.Context(), 2); err != nil {
			t.Error(err)
		}
		if now := w.shard(1); !slices.Equal(now.ISR, sh.ISR) || !slices.Equal(now.Eligible, sh.Eligible) || !w.asks[1].leads {
			t.Errorf("%+v, asked of the copy %+v", now, w.asks[1])
		}
	}
}

// What happens while a copy is on its way and has somebody count on the node's data makes the copy none: the node follows again with what it has.
func TestCopyGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		set    meta.Shard // set 1 before
		during func(w *copyWorld)
	}{
		"an operator has the node lead": {during: func(w *copyWorld) { w.set(1, meta.Shard{Epoch: 6, Leader: 1, ISR: []meta.NodeID{1}}) }},
		"there are more sets, and the node is in sync": {during: func(w *copyWorld) {
			w.apply((&meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: 2}).Entry())
			w.set(2, meta.Shard{Epoch: 1, Leader: 1, Replicas: []meta.NodeID{1}, ISR: []meta.NodeID{1}})
		}},
		"another one leads what the node is in sync with": {set: meta.Shard{Epoch: 7, Leader: 2, ISR: []meta.NodeID{1, 2}},
			during: func(w *copyWorld) {
				w.set(1, meta.Shard{Epoch: 8, Leader: 1, ISR: []meta.NodeID{1}, Eligible: []meta.NodeID{2}})
			}},
		"the majority is silent": {during: func(w *copyWorld) {
			w.c.barrier = func(context.Context) error { return errors.New("nobody is there") }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCopyWorld(t, 1)
			if c.set.Epoch > 0 {
				w.set(1, c.set)
			}
			w.during = func() { c.during(w) }
			if err := w.c.try(t.Context(), 2); err == nil || w.paused || slices.Contains(w.said, "mark whole") {
				t.Errorf("%v: %v", err, w.said)
			}
		})
	}
}

// Between the look at the catalog and the node's going another one may lead, or too few be left: then the node follows again, and nothing was changed.
func TestCopyTooLate(t *testing.T) {
	for name, change := range map[string]meta.Shard{
		"another leader": {Epoch: 6, Leader: 3, ISR: []meta.NodeID{1, 2, 3}},
		"another epoch":  {Epoch: 6, Leader: 2, ISR: []meta.NodeID{2, 3}},
		"too few":        {Epoch: 9, Leader: 3, ISR: []meta.NodeID{1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCopyWorld(t, 1)
			w.set(1, meta.Shard{Epoch: 9, Leader: 3, ISR: []meta.NodeID{1, 2, 3}})
			pause := w.sets.pause
			w.sets.pause = func() (func(), error) {
				w.set(1, change)
				return pause()
			}
			before := w.shard(0).Change
			err := w.c.try(t.Context(), 2)
			if err == nil || w.paused || w.asks != nil || w.shard(0).Change != before {
				t.Errorf("%v: %v", err, w.said)
			}
		})
	}
}

// A leader that has a stream of the node yet is asked again.
func TestCopyAwaitsItsStreams(t *testing.T) {
	w := newCopyWorld(t, 1)
	w.refused = 2
	if err := w.c.try(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	w.want("barrier", "pause", "hold at 2", "hold at 2", "hold at 2", "copy of 2", "barrier", "mark whole")
}

// A set that has another leader since is not behind until its stream says so: the node leads again where it may, and nothing is copied.
func TestCopyIsNeededNoMore(t *testing.T) {
	w := newCopyWorld(t, 1)
	w.set(0, meta.Shard{Epoch: 5, Leader: 1, ISR: []meta.NodeID{1, 2, 3}})
	w.yielded = func(set int) {
		w.set(0, meta.Shard{Epoch: 6, Leader: 2, ISR: []meta.NodeID{1, 2, 3}})
		w.set(1, meta.Shard{Epoch: 6, Leader: 3, ISR: []meta.NodeID{1, 3}})
	}
	w.c.behind(t.Context(), 1, 2, journal.ErrGone)
	w.want("barrier", "yield 0 true", "barrier", "yield 0 false")
	if w.c.mu.running {
		t.Error("who is behind later gets no copy")
	}
}

// fakeHoldLog is a log of which parts are held.
type fakeHoldLog struct {
	held map[string]int // how often each began
	full bool
}

func (l *fakeHoldLog) HoldNew(name string)                  { l.held[name]++ }
func (l *fakeHoldLog) Hold(name string, _ journal.Position) { delete(l.held, name) }
func (l *fakeHoldLog) Limited() bool                        { return l.full }
func (l *fakeHoldLog) LowSpace() bool                       { return false }

func newHolds(t *testing.T) (*setHolds, *fakeSets, *fakeHoldLog, *clock.Manual) {
	t.Helper()
	w := newCopyWorld(t, 2)
	log, clk := &fakeHoldLog{held: make(map[string]int)}, clock.NewManual(time.Unix(1, 0))
	w.sets.leads, w.sets.serves = map[int]uint32{1: 5, 2: 6}, map[int][]link.NodeID{}
	return &setHolds{sets: w.sets, log: log, clock: clk, cluster: w.group.catalog.Load().Cluster,
		replica: func(id record.ShardID) broker.ReplicaState {
			return broker.ReplicaState{Last: 10 + uint64(id), Durable: 3}
		}}, w.sets, log, clk
}

// A leader holds its log for who stops following, from the first request on, and says where its shards end; until it is needed no more.
func TestSetHolds(t *testing.T) {
	const name = "copy-1"
	for why, end := range map[string]func(*fakeSets, *fakeHoldLog, *clock.Manual){
		"it follows all again": func(s *fakeSets, _ *fakeHoldLog, _ *clock.Manual) {
			s.serves[1], s.serves[2] = []link.NodeID{1}, []link.NodeID{4, 1}
		},
		"it leads none any more":   func(s *fakeSets, _ *fakeHoldLog, _ *clock.Manual) { clear(s.leads) },
		"there is no room":         func(_ *fakeSets, l *fakeHoldLog, _ *clock.Manual) { l.full = true },
		"nobody asks for it again": func(_ *fakeSets, _ *fakeHoldLog, c *clock.Manual) { c.Advance(seedHoldRest) },
	} {
		t.Run(why, func(t *testing.T) {
			h, sets, log, clk := newHolds(t)
			got, err := h.hold(1, []seedAsk{{set: 1, epoch: 5}, {set: 2, epoch: 6}})
			if want := []seedAsk{{1, 5, false, []uint64{12, 13, 14, 15}}, {2, 6, false, []uint64{16, 17, 18, 19}}}; err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v, %v", got, err)
			}
			for range 3 { // what is asked again does not let go of what came between
				clk.Advance(seedHoldRest - 2*seedHoldLook)
				if _, err := h.hold(1, []seedAsk{{set: 2, epoch: 6}}); err != nil {
					t.Fatal(err)
				}
			}
			sets.serves[1] = []link.NodeID{1} // one set alone
			if clk.Advance(2 * seedHoldLook); log.held[name] != 1 {
				t.Fatalf("held: %v", log.held)
			}
			end(sets, log, clk)
			if clk.Advance(2 * seedHoldLook); len(log.held) > 0 || len(h.mu.peers) > 0 || clk.Pending() > 0 {
				t.Errorf("held: %v, %d, %d", log.held, len(h.mu.peers), clk.Pending())
			}
		})
	}
}

// A leader answers nobody of whom it has a stream, or who takes it for the leader in another epoch, and holds nothing then.
func TestSetHoldsRefuse(t *testing.T) {
	for name, ask := range map[string]seedAsk{"another epoch": {set: 1, epoch: 4}, "no epoch": {set: 0}, "no such set": {set: 3, epoch: 5}, "a stream": {set: 2, epoch: 6}} {
		h, sets, log, _ := newHolds(t)
		sets.serves[2] = []link.NodeID{1}
		if _, err := h.hold(1, []seedAsk{ask}); err == nil || len(log.held) > 0 {
			t.Errorf("%s: %v, %v", name, err, log.held)
		}
	}
	h, _, log, _ := newHolds(t)
	if _, err := h.hold(1, []seedAsk{{set: 1, epoch: 5}}); err != nil {
		t.Fatal(err)
	}
	h.close()
	if _, err := h.hold(1, []seedAsk{{set: 1, epoch: 5}}); err == nil || len(log.held) > 0 {
		t.Errorf("a node that stops: %v, %v", err, log.held)
	}
}

// A copy is taken when its giver has all that the leaders had, as what they are, and leads what it has to, before and behind the moment.
func TestSetGiver(t *testing.T) {
	w := newCopyWorld(t, 1)
	w.sets.leads = map[int]uint32{0: 5}
	state := make([]broker.ReplicaState, 6)
	for i := range state {
		state[i] = broker.ReplicaState{Role: broker.RoleFollower, Synced: true, Epoch: 5, Durable: 9}
	}
	state[0].Role, state[1].Role = broker.RoleLeader, broker.RoleLeader
	g := &setGiver{sets: w.sets, cluster: w.group.catalog.Load().Cluster, clock: clock.Real{}, wait: time.Millisecond,
		replica: func(id record.ShardID) broker.ReplicaState { return state[id] }}
	asks, err := g.asked(appendAsks(nil, []seedAsk{{0, 5, true, []uint64{9, 9}}, {1, 5, false, []uint64{9, 0, 0, 9}}}))
	if err = errors.Join(err, g.has(t.Context(), asks), g.leads(asks)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"has less than the leader": func() { state[5].Durable = 8 },
		"has yet to flush its own": func() { state[1].Durable = 8 },
		"is not synced":            func() { state[2].Synced = false },
		"follows another one":      func() { state[3].Epoch = 4 },
		"is nothing":               func() { state[4].Role = broker.RoleNone },
		"does not lead":            func() { w.sets.leads = nil },
		"leads anew":               func() { w.sets.leads = map[int]uint32{0: 6} },
	} {
		was, led := slices.Clone(state), w.sets.leads
		if change(); g.has(t.Context(), asks) == nil {
			t.Errorf("a node that %s gives a copy", name)
		}
		state, w.sets.leads = was, led
	}
	w.sets.leads = nil
	if g.leads(asks) == nil {
		t.Error("the lead goes at the moment of the copy, and it counts")
	}
	if _, err := g.asked(nil); err == nil {
		t.Error("a node that does not know of the sets gets a copy")
	}
	var alone *setGiver
	if _, err := alone.asked(appendAsks(nil, asks)); err == nil {
		t.Error("a node that does not know of the sets gives a copy")
	}
	if asks, err := alone.asked(nil); err != nil || alone.has(t.Context(), asks) != nil || alone.leads(asks) != nil {
		t.Error("without sets", err)
	}
	for _, bad := range [][]seedAsk{{{0, 5, true, []uint64{9}}}, {{2, 5, false, make([]uint64, 4)}}} {
		if _, err := g.asked(appendAsks(nil, bad)); err == nil {
			t.Errorf("asked for %+v", bad)
		}
	}
}

// A question comes as it was sent, cut or with something behind it not at all.
func TestSeedAsks(t *testing.T) {
	list := []seedAsk{{0, 7, true, []uint64{1, 1 << 60}}, {3, 1<<32 - 1, false, nil}, {15, 0, false, []uint64{0}}}
	b := appendAsks(nil, list)
	if got, err := decodeAsks(b); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := 1; n < len(b); n++ {
		if got, err := decodeAsks(b[:n]); err == nil {
			t.Errorf("%d bytes of it are %+v", n, got)
		}
	}
	for _, bad := range [][]byte{append(slices.Clone(b), 0), {2, 1, 0, 0, 0, 0}, {1, 0}, {1, 1, 16, 0, 0, 0}, {1, 1, 0, 0, 2, 0}, {1, 2, 1, 0, 0, 0, 1, 0, 0, 0}} {
		if got, err := decodeAsks(bad); err == nil {
			t.Errorf("%x is %+v", bad, got)
		}
	}
}
