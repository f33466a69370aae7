package offload

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
)

var errNotLeader = errors.New("this node does not lead")

// nodeOf is a node of a cluster: an Offloader of one lead. Log, catalog and manifest are those of the world, which all nodes have.
type nodeOf struct {
	*Offloader
	leads atomic.Bool
	known atomic.Bool // what has gone from the manifest, to the nodes that follow
}

// leadCatalog refuses changes of a lead that is over, as the core does.
type leadCatalog struct {
	simCatalog
	n *nodeOf
}

func (c leadCatalog) Change(shard record.ShardID, changes []Change, done func(error)) {
	if !c.n.leads.Load() {
		go done(errNotLeader)
		return
	}
	c.simCatalog.Change(shard, changes, done)
}

// lead begins a lead.
func (w *world) lead(step func(string)) *nodeOf {
	w.t.Helper()
	n := new(nodeOf)
	n.leads.Store(true)
	n.known.Store(true)
	o := w.o
	o.Store, o.Log, o.Catalog, o.Manifest, o.Clock = w.s, simLog{w}, leadCatalog{simCatalog{w}, n}, w.m, w.clk
	o.Shared, o.Leads, o.Step = true, n.leads.Load, step
	o.Everywhere = func() func() bool { return n.known.Load }
	n.Offloader = New(o)
	n.sleep = func(ctx context.Context, d time.Duration) error { w.clk.Advance(d); return ctx.Err() }
	w.t.Cleanup(n.Close)
	return n
}

func (w *world) search(n *nodeOf) {
	w.t.Helper()
	w.clk.Advance(n.o.OrphanGrace + n.o.DeleteDelay)
	for more := true; more; more = n.more {
		if err := n.Turn(bg); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A node has stored an object, and loses the lead before its row is committed. The next one offloads the same, under a name of its own. The first one's row is refused, for
// good, and what it has stored is an orphan, which the leader removes after the grace, and nothing else. Whoever has lost the lead removes nothing, whatever its
// manifest says.
func TestTwoOffloadTheSame(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	var second *nodeOf
	var first *nodeOf
	first = w.lead(func(name string) {
		if name != "committing" || second != nil {
			return
		}
		first.leads.Store(false)
		second = w.lead(nil)
		if err := second.Turn(bg); err != nil {
			t.Error(err)
		}
	})
	if err := first.Turn(bg); !errors.Is(err, errNotLeader) {
		t.Fatalf("the first one's row: %v", err)
	}
	names := w.s.objectNames()
	if len(names) != 2 || w.m.Stats().Objects != 1 {
		t.Fatalf("%v are stored, %d rows", names, w.m.Stats().Objects)
	}
	w.check()
	w.clk.Advance(2 * first.o.OrphanGrace)
	_ = first.Turn(bg) // its commit is refused again
	first.pending = nil
	_ = first.Turn(bg)
	if got := w.s.objectNames(); !slices.Equal(got, names) {
		t.Fatalf("the first one has left %v of %v", got, names)
	}
	w.search(second)
	left := w.s.objectNames()
	if len(left) != 1 || !slices.Contains(names, left[0]) {
		t.Fatalf("the leader has left %v of %v", left, names)
	}
	w.check()
	// The lead goes back: another epoch again, and what others have written is its own.
	second.leads.Store(false)
	third := w.lead(nil)
	w.produce(p, 10, 500)
	w.seal()
	if err := third.Turn(bg); err != nil {
		t.Fatal(err)
	}
	epochs := w.m.Epochs()
	if len(epochs) != 3 || len(third.Own()) != 3 {
		t.Errorf("epochs %+v", epochs)
	}
	w.deleteBelow(p, p.end)
	w.search(third)
	w.search(third)
	if left := w.s.objectNames(); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

// What has gone from the manifest stays in the store as long as a node that may lead has not heard of it: its manifest names it. That is so for what is removed for its
// row, and for what a search finds.
func TestStaysUntilKnown(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	n := w.lead(nil)
	if err := n.Turn(bg); err != nil {
		t.Fatal(err)
	}
	names := w.s.objectNames()
	n.known.Store(false)
	w.deleteBelow(p, p.end)
	w.search(n)
	w.search(n)
	if got := w.s.objectNames(); !slices.Equal(got, names) || w.m.Stats().Objects != 0 {
		t.Fatalf("%v stay of %v", got, names)
	}
	n.leads.Store(false)
	n.Close()
	n = w.lead(nil) // to which it is an orphan
	n.known.Store(false)
	w.search(n)
	w.search(n)
	if got := w.s.objectNames(); !slices.Equal(got, names) {
		t.Fatalf("a search leaves %v of %v", got, names)
	}
	n.known.Store(true)
	w.search(n)
	if got := w.s.objectNames(); len(got) != 0 {
		t.Errorf("%v are left", got)
	}
}

// A search does not remove what had a row when it began: that all nodes know what had none then says nothing of it.
func TestSearchAndRow(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	n := w.lead(nil)
	if err := n.Turn(bg); err != nil {
		t.Fatal(err)
	}
	names := w.s.objectNames()
	w.clk.Advance(2 * n.o.OrphanGrace)
	dropped := false
	w.s.setFault(func(op, name string) *fault {
		if op == "list" && name == "" && !dropped { // the search has begun
			dropped = true
			w.mu.Lock()
			for _, o := range w.objectsLocked() {
				w.applyLocked(o.Shard, []Change{{Key: o.Key()}})
			}
			w.mu.Unlock()
		}
		return nil
	})
	if err := n.scan(bg); err != nil {
		t.Fatal(err)
	}
	if got := w.s.objectNames(); !dropped || !slices.Equal(got, names) {
		t.Errorf("%v stay of %v", got, names)
	}
}

// Several nodes need a store that can put if absent: names would not be theirs alone.
func TestSharedNeedsPutIfAbsent(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	w.s.uncond = true
	n := w.lead(nil)
	if err := n.Turn(bg); err == nil {
		t.Error("it offloads")
	}
	if names := w.s.names(); len(names) != 0 {
		t.Errorf("%v are stored", names)
	}
}

// A node that follows lets go of what the manifest has, and does nothing to the store.
func TestLetGo(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	if err := w.lead(nil).Turn(bg); err != nil {
		t.Fatal(err)
	}
	p.LocalMillis = 0
	w.clk.Advance(time.Second)
	w.s.setFault(func(op, name string) *fault {
		t.Errorf("%s %s", op, name)
		return nil
	})
	f := w.lead(nil)
	f.leads.Store(false)
	f.LetGo()
	w.s.setFault(nil)
	if got := w.localStart(p); got != p.end {
		t.Errorf("the log begins at %d of %d", got, p.end)
	}
	w.check()
}

// Of the holds for other nodes' objects the one of the last lead stays, however often the lead moves.
func TestForeignHoldMoves(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1, StoreName: "another"})
	p := w.add(1, 0, Immediate)
	w.produce(p, 10, 500)
	w.seal()
	w.turn()
	w.o.StoreName = "ours"
	for range 3 {
		n := w.lead(nil)
		if err := n.Turn(bg); err != nil {
			t.Fatal(err)
		}
		n.leads.Store(false)
		holds := slices.DeleteFunc(w.s.names(), func(n string) bool { return !strings.HasPrefix(n, holdPrefix) })
		if want := holdPrefix + foreignHold(n.epoch); len(holds) != 1 || holds[0] != want {
			t.Errorf("%v, want %s", holds, want)
		}
	}
}
