package offload

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// later lets all waits of removal pass, and runs the turns that do it.
func later(w *world) {
	w.turn()
	w.clk.Advance(w.f.o.OrphanGrace + w.f.o.DeleteDelay)
	for more := true; more; more = w.f.more {
		w.turn()
	}
}

// TestHold: what a backup needs stays when the node needs it no more, also over a restart, and goes when the backup does.
func TestHold(t *testing.T) {
	w, p := produced(t)
	w.turn()
	kept := w.s.objectNames()
	if err := w.f.HoldAll(bg, "backup"); err != nil {
		t.Fatal(err)
	}
	more(w, p) // while the backup is made
	w.clk.Advance(time.Hour)
	w.turn()
	during := w.s.objectNames()
	if len(during) <= len(kept) {
		t.Fatalf("%v after %v", during, kept)
	}
	if err := w.f.Hold(bg, "backup"); err != nil {
		t.Fatal(err)
	}
	more(w, p) // afterwards
	w.clk.Advance(time.Hour)
	w.turn()
	if len(w.s.objectNames()) <= len(during) {
		t.Fatal("nothing came after the backup")
	}
	w.deleteBelow(p, p.end)
	later(w)
	if got := w.s.objectNames(); !slices.Equal(got, during) || w.m.Stats().Objects != 0 {
		t.Fatalf("%v stay of %v, %d rows", got, during, w.m.Stats().Objects)
	}
	w.f.Close()
	w.restart()
	later(w)
	if got := w.s.objectNames(); !slices.Equal(got, during) {
		t.Fatalf("after a restart %v stay of %v", got, during)
	}
	if found, err := w.f.Release(bg, "backup"); err != nil || !found {
		t.Fatal(found, err)
	}
	if found, err := w.f.Release(bg, "backup"); err != nil || found {
		t.Fatal(found, err)
	}
	later(w)
	if got := w.s.objectNames(); len(got) > 0 {
		t.Errorf("%v are left", got)
	}
}

// TestHoldInDoubt: while holds cannot be read, nothing is removed.
func TestHoldInDoubt(t *testing.T) {
	for name, f := range map[string]func(*world){
		"the list fails": func(w *world) {
			w.s.setFault(func(op, n string) *fault {
				if op == "list" && n == holdPrefix {
					return &fault{err: storeError(tier.Denied)}
				}
				return nil
			})
		},
		"it cannot be read": func(w *world) {
			w.s.mu.Lock()
			defer w.s.mu.Unlock()
			w.s.objects[holdPrefix+"x"] = memObject{b: []byte("sluice hold 2\n")}
		},
	} {
		w, p := produced(t)
		w.turn()
		there := w.s.objectNames()
		f(w)
		w.deleteBelow(p, p.end)
		for range 5 {
			_ = w.f.Turn(bg)
			w.clk.Advance(w.f.o.OrphanGrace + w.f.o.DeleteDelay)
		}
		if got := w.s.objectNames(); !slices.Equal(got, there) {
			t.Errorf("%s: %v stay of %v", name, got, there)
		}
	}
}

// TestHoldForeign: a copy of a node holds what the other one has written, for as long as it needs it.
func TestHoldForeign(t *testing.T) {
	w, p := produced(t)
	w.o.StoreName = "mem"
	w.turn()
	there := w.s.objectNames()
	w.f.Close()
	w.o.StoreName += " restored=1"
	w.restart()
	w.turn()
	holds := slices.DeleteFunc(w.s.names(), func(n string) bool { return !strings.HasPrefix(n, holdPrefix) })
	if len(holds) != 1 {
		t.Fatalf("%v", holds)
	}
	h, err := w.f.holds(bg)
	if err != nil || len(h) != 1 {
		t.Fatalf("%v %v", h, err)
	}
	for o := range w.m.All() {
		if !h.has(o.ID) {
			t.Errorf("%s is not held", o.ID.Name())
		}
	}
	w.deleteBelow(p, p.end)
	later(w)
	later(w)
	if h, err := w.f.holds(bg); err != nil || len(h) > 0 {
		t.Errorf("%v is still held: %v", h, err)
	}
	if got := w.s.objectNames(); !slices.Equal(got, there) {
		t.Errorf("%v stay of %v, which another node has written", got, there)
	}
}

// TestAdoptHeld: what a node has held of another's is held no more once it has adopted that: nothing but itself needs it, and orphans among it go with the
// search that begins then.
func TestAdoptHeld(t *testing.T) {
	w, _ := produced(t)
	w.o.StoreName = "mem"
	w.turn()
	orphan := object.ID{Shard: 1, Epoch: 1}
	for o := range w.m.All() {
		orphan.Sequence = o.ID.Sequence - 1 // below what is needed, up to which all is held
	}
	needed := w.s.objectNames()
	w.s.mu.Lock()
	w.s.objects[orphan.Name()] = memObject{b: []byte("no row tells of it"), mod: w.clk.Now()}
	w.s.mu.Unlock()
	w.f.Close()
	w.o.StoreName += " restored=1"
	w.restart()
	w.turn()
	w.clk.Advance(w.f.o.OrphanGrace + time.Hour)
	w.turn()
	if h, err := w.f.holds(bg); err != nil || !h.has(orphan) {
		t.Fatalf("%v %v", h, err)
	}
	if _, err := adopt(t, w, 1, false, false); err != nil {
		t.Fatal(err)
	}
	w.turn()
	if h, err := w.f.holds(bg); err != nil || len(h) > 0 {
		t.Errorf("%v is still held: %v", h, err)
	}
	if got := w.s.objectNames(); !slices.Equal(got, needed) {
		t.Errorf("%v stay, %v are needed", got, needed)
	}
}

func TestHoldNames(t *testing.T) {
	w, _ := produced(t)
	for _, name := range []string{"", "a/b", "..", "a~", strings.Repeat("x", 65)} {
		if err := w.f.HoldAll(bg, name); err == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

func FuzzHold(f *testing.F) {
	f.Add(held(nil).encode())
	f.Add(held{}.encode())
	f.Add(held{1: 2, 0x7fffffff: 1 << 63}.encode())
	f.Add([]byte(holdHead + "\n00000001 0000000000000002\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHold(b)
		if err != nil {
			if !errors.Is(err, errHold) || h != nil {
				t.Fatal(h, err)
			}
			return
		}
		again, err := parseHold(h.encode())
		if err != nil || (h == nil) != (again == nil) || !maps.Equal[map[record.Epoch]uint64, map[record.Epoch]uint64](h, again) {
			t.Fatalf("%v became %v, %v", h, again, err)
		}
	})
}

// TestHoldWhatHasGone: what a backup has in it when it is taken stays, also where it has lost its row before it is known what that was, be it the newest object of all.
func TestHoldWhatHasGone(t *testing.T) {
	w, p := produced(t)
	w.turn()
	if err := w.f.HoldAll(bg, "backup"); err != nil {
		t.Fatal(err)
	}
	there := w.s.objectNames() // the moment of the backup
	w.deleteBelow(p, p.end)
	w.turn()
	if n := w.m.Stats().Objects; n > 0 {
		t.Fatalf("%d rows are left", n)
	}
	if err := w.f.Hold(bg, "backup"); err != nil {
		t.Fatal(err)
	}
	later(w)
	if got := w.s.objectNames(); !slices.Equal(got, there) {
		t.Errorf("%v stay of %v", got, there)
	}
}

// TestHoldWhatIsUnderWay: an object that is in the store, and whose row may be in a backup's log, but not in the manifest yet.
func TestHoldWhatIsUnderWay(t *testing.T) {
	w, _ := produced(t)
	held := false
	w.o.Step = func(step string) {
		if held || step != "committing" {
			return
		}
		held = true
		if err := errors.Join(w.f.HoldAll(bg, "backup"), w.f.Hold(bg, "backup")); err != nil {
			t.Error(err)
		}
	}
	w.restart()
	w.turn()
	h, err := w.f.holds(bg)
	first := object.ID{Sequence: 1 << 63}
	for o := range w.m.All() {
		if o.ID.Sequence < first.Sequence {
			first = o.ID
		}
	}
	if err != nil || !held || !h.has(first) {
		t.Errorf("%v is not held: %v, %v", first, h, err)
	}
}

// Holds are asked for by whoever leads, and are made by any node of a cluster, which need not.
func TestHoldByFollower(t *testing.T) {
	w := newWorld(t, Options{MinObjectBytes: 1})
	p := w.add(1, 0, Immediate)
	p.LocalBytes = 0
	w.produce(p, 10, 500)
	w.seal()
	first := w.lead(nil)
	if err := first.Turn(bg); err != nil {
		t.Fatal(err)
	}
	first.leads.Store(false)
	there := w.s.objectNames()
	idle := w.lead(nil)
	idle.leads.Store(false)
	if err := errors.Join(idle.HoldAll(bg, "backup"), idle.Hold(bg, "backup")); err != nil {
		t.Fatal(err)
	}
	next := w.lead(nil)
	w.produce(p, 10, 500)
	w.seal()
	if err := next.Turn(bg); err != nil {
		t.Fatal(err)
	}
	w.deleteBelow(p, p.end)
	w.search(next)
	w.search(next)
	if got := w.s.objectNames(); !slices.Equal(got, there) || w.m.Stats().Objects > 0 {
		t.Errorf("%v stay of %v, %d rows", got, there, w.m.Stats().Objects)
	}
	if found, err := idle.Release(bg, "backup"); !found || err != nil {
		t.Error(found, err)
	}
	w.search(next)
	w.search(next)
	if got := w.s.objectNames(); len(got) > 0 {
		t.Errorf("%v are left", got)
	}
}
