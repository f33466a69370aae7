package offload

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// errKilled is what a step throws to end the process there: nothing behind it happens.
var errKilled = errors.New("killed")

// killer ends the process at the step of a number, counted from 0.
type killer struct {
	at, n int
	dead  bool
	seen  []string
}

func (k *killer) step(name string) {
	if k.dead {
		return // deferred calls of what has been killed
	}
	k.seen = append(k.seen, name)
	if k.n++; k.n-1 == k.at {
		k.dead = true
		panic(errKilled)
	}
}

// life calls do, and tells whether it was killed.
func (k *killer) life(t *testing.T, do func() error) (killed bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if err, ok := r.(error); !ok || !errors.Is(err, errKilled) {
				panic(r)
			}
			killed = true
		}
	}()
	if err := do(); err != nil {
		t.Error(err)
	}
	return false
}

// story is a life with everything in it, as a list of what happens before turns: what it is told of may have happened before a kill.
func story(w *world) []func() {
	parts := func(i int) *part { return w.mu.parts[record.PartitionID(100+i)] }
	return []func(){
		func() {
			for i := range 3 {
				more(w, parts(i))
			}
		},
		func() { more(w, parts(0)); w.deleteBelow(parts(1), 30) },
		func() { w.deleteBelow(parts(0), 60); w.deleteBelow(parts(1), 60); w.drop(parts(2)) },
		func() { w.clk.Advance(15 * time.Minute) },
		func() { plant(w); w.clk.Advance(25 * time.Hour) },
		func() { more(w, parts(1)); w.clk.Advance(7 * time.Hour) },
	}
}

// plant puts an orphan of an earlier life: the object that would come next, where that is known.
func plant(w *world) {
	id := object.ID{Shard: 1, Epoch: w.m.Epochs()[0].Epoch, Sequence: max(w.f.seq, 5)}
	b := object.NewBuilder(id, w.clk.Now().UnixMilli(), object.Options{})
	b.Run(object.Topic{Name: "x"}, 0)
	b.Add(object.Extent{First: 1, Last: 2, Bytes: 100})
	o, err := b.Finish()
	if err != nil {
		w.t.Fatal(err)
	}
	put(w.t, w, o)
}

func storyWorld(t *testing.T, k *killer) *world {
	t.Helper()
	o := small()
	o.Step = k.step
	w := newWorld(t, o)
	for i, pol := range []Policy{Immediate, Archive, Immediate} {
		p := w.add(record.PartitionID(100+i), 1, pol)
		p.LocalBytes = 0
	}
	return w
}

// TestKilled kills the process at each step of a life that has all of them, also while it holds an object that nobody knows of, and goes on
// with what is on stable storage. Nothing is lost; nothing leaves the log before its commit (the world looks); what is left over goes in time.
func TestKilled(t *testing.T) {
	all := &killer{at: -1}
	w := storyWorld(t, all)
	for _, happen := range story(w) {
		happen()
		w.turn()
	}
	for _, name := range Steps {
		if !slices.Contains(all.seen, name) && !slices.Contains(passSteps, name) {
			t.Errorf("the story has no step %q", name)
		}
	}
	for _, name := range all.seen {
		if !slices.Contains(Steps, name) {
			t.Errorf("Steps does not name %q", name)
		}
	}
	settled := len(w.s.names())
	for at := range all.seen {
		k := &killer{at: at}
		w := storyWorld(t, k)
		for _, happen := range story(w) {
			happen()
			if k.life(t, func() error { return w.f.Turn(bg) }) {
				w.mu.held = 0 // they died with the process
				w.check()
				w.restart()
				w.turn()
			}
			w.check()
		}
		if !k.dead {
			t.Errorf("step %d of %d never came", at, len(all.seen))
		}
		drain(w)
		w.check()
		there, rows := len(w.s.objectNames()), w.m.Stats().Objects
		if there != rows {
			t.Errorf("killed at %d, %s: %d objects in the store, %d in the manifest", at, all.seen[at], there, rows)
		}
		if n := len(w.s.names()) - settled; n > 1 {
			t.Errorf("killed at %d, %s: %d objects more than without", at, all.seen[at], n)
		}
	}
}

// drain makes turns until all that can go has gone, orphans included.
func drain(w *world) {
	w.t.Helper()
	for range 12 {
		w.clk.Advance(7 * time.Hour)
		w.turn()
	}
}

// TestKilledWithinPut kills the process while the store reads, and once the object is there but the answer is not.
func TestKilledWithinPut(t *testing.T) {
	for _, after := range []bool{false, true} {
		w, p := produced(t)
		k := &killer{at: 0}
		w.s.setFault(func(op, name string) *fault {
			if _, ok := object.ParseName(name); !ok || op != "put" || k.dead {
				return nil
			}
			if !after {
				return &fault{do: func() { k.step("within") }}
			}
			return &fault{after: true, err: errKilled}
		})
		if after {
			// The answer never comes: whoever waits for it is gone.
			if err := w.f.Turn(bg); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
		} else if !k.life(t, func() error { return w.f.Turn(bg) }) {
			t.Fatal("it lives")
		}
		w.mu.held = 0
		w.s.setFault(nil)
		w.check()
		if w.localStart(p) != 0 {
			t.Error(w.localStart(p))
		}
		w.restart()
		w.turn()
		drain(w)
		whole(t, w, p)
	}
}
