package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// newOffloaded is a world whose topic now has some records, all of them in the store.
func newOffloaded(t *testing.T) *tierWorld {
	t.Helper()
	w := newTierWorld(t, 1)
	for i := range w.topics[0].parts {
		for range 5 {
			w.produceTo(w.topics[0], i)
		}
	}
	w.flush()
	return w
}

// produceTo appends a batch.
func (w *tierWorld) produceTo(mt *tierTopic, i int) {
	w.t.Helper()
	b := w.batch(mt.parts[i], nil)
	b.seal(record.Producer{}, 0)
	w.send(w.partition(mt, i), []*tierBatch{b})
}

func (w *tierWorld) flush() {
	w.t.Helper()
	ch := make(chan error, 1)
	go func() { ch <- w.n.tier.out.Flush(context.Background()) }()
	if err := w.wait("flush", 500*time.Millisecond, ch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tierWorld) turn() {
	w.t.Helper()
	ch := make(chan error, 1)
	go func() { ch <- w.n.tier.turn(context.Background()) }()
	if err := w.wait("turn", 500*time.Millisecond, ch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tierWorld) stop() {
	w.t.Helper()
	if err := stopNode(w.n); err != nil {
		w.t.Fatal(err)
	}
}

// While a topic is brought back nobody is told that his offset is out of range, and nobody writes to it.
func TestRebuildHoldsReaders(t *testing.T) {
	w := newOffloaded(t)
	w.stop()
	w.disk = vfs.NewMem()
	w.open()
	mt := w.topics[0]
	asked := 0
	_, err := w.n.tier.rebuild(context.Background(), false, &teller{tell: func(p *api.TierProgress) {
		if w.n.broker.Topic(0, mt.name) == nil {
			return
		}
		asked++
		part := w.partition(mt, 0)
		if _, err := w.read(part, 3, false, true); !errors.Is(err, broker.ErrTier) {
			t.Errorf("%v: a fetch gets %v", p.Phase, err)
		}
		for _, at := range []int64{broker.LatestOffset, broker.EarliestOffset, 5} {
			err := w.ask("offset", 0, func(done func(error)) {
				w.local.OffsetAt(part, at, false, func(_ broker.FoundOffset, err error) { done(err) })
			})
			if !errors.Is(err, broker.ErrTier) {
				t.Errorf("%v: offset %d: %v", p.Phase, at, err)
			}
		}
		b := w.batch(mt.parts[0], nil)
		b.seal(record.Producer{}, 0)
		w.onLoop(func() {
			if err := w.local.Append(w.app, part, b.raw, broker.AppendOptions{}, 0); !errors.Is(err, broker.ErrTier) {
				t.Errorf("%v: an append gets %v", p.Phase, err)
			}
		})
	}})
	if err != nil || asked == 0 {
		t.Fatal(err, asked)
	}
	w.checkPart(mt, 0)
	w.checkPart(mt, 1)
	w.produceTo(mt, 0)
	w.checkPart(mt, 0)
	w.stop()
}

// What was restored, and is not in the manifest yet, is not out of range: a crash came between the two, and a rebuild brings it.
func TestRestoredWithoutRows(t *testing.T) {
	w := newTierWorld(t, 2)
	part := w.partition(w.topics[0], 0)
	w.must("restore", func(done func(error)) { w.n.broker.RestorePartition(part, 10, 20, nil, done) })
	for _, o := range []record.Offset{10, 19} {
		if _, err := w.read(part, o, false, true); !errors.Is(err, broker.ErrTier) {
			t.Errorf("offset %d: %v", o, err)
		}
	}
	for _, o := range []record.Offset{9, 21} {
		if _, err := w.read(part, o, false, true); !errors.Is(err, broker.ErrOffsetOutOfRange) {
			t.Errorf("offset %d: %v", o, err)
		}
	}
	w.stop()
}

// A search for orphans that meets a rebuild removes nothing that the rebuild takes up.
func TestRebuildMeetsSearch(t *testing.T) {
	w := newOffloaded(t)
	mt := w.topics[0]
	w.must("delete topic", func(done func(error)) { w.n.broker.DeleteTopic(w.topic(mt), done) })
	w.turn()
	w.stop()
	w.open() // what was to be removed is an orphan now
	rebuilt := make(chan error, 1)
	var once sync.Once
	hook := func(op, name string) {
		if _, ok := object.ParseName(name); !ok || op != "get" {
			return
		}
		once.Do(func() {
			over := make(chan struct{})
			go func() {
				_, err := w.n.tier.rebuild(context.Background(), false, &teller{tell: func(*api.TierProgress) {}})
				rebuilt <- err
				close(over)
			}()
			select {
			case <-over:
			case <-time.After(300 * time.Millisecond): // it waits for the search
			}
		})
	}
	w.store.hook.Store(&hook) // before the search is due
	w.clk.Advance(2 * time.Hour)
	w.turn()
	if err := w.wait("rebuild", 0, rebuilt); err != nil {
		t.Fatal(err)
	}
	r, err := w.n.tier.verify(context.Background(), &api.VerifyTierRequest{}, &teller{tell: func(p *api.TierProgress) { t.Log(p.Notes) }})
	if err != nil || r.Wrong != 0 {
		t.Errorf("%v, %v", r, err)
	}
	w.stop()
}

// A node does not start with a store of another name that has not its history, or does not answer. One that has it is the same place, or a copy, and
// what was written under the old name is still the node's to remove.
func TestStoreMoved(t *testing.T) {
	w := newOffloaded(t)
	mt := w.topics[0]
	w.stop()
	old := w.store
	w.store, w.place = newMemTier(w.clk, 9), "elsewhere"
	refused := func(says string) {
		t.Helper()
		n, err := w.start(newMains(w.disk, vfs.Cut{}))
		if err == nil {
			_ = stopNode(n)
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Fatalf("%v, want %q", err, says)
		}
	}
	refused("has not the history")
	w.store.set(0, true)
	refused("cannot be seen")
	w.store.set(0, false)
	w.store.objects = maps.Clone(old.objects)
	w.open()
	w.checkPart(mt, 0)
	w.produceTo(mt, 0)
	w.flush()
	if e := w.n.tier.out.Status().Epoch; e != 2 {
		t.Errorf("new objects have epoch %d", e)
	}
	if list := w.n.tier.moved(); list != nil {
		t.Errorf("%+v", list)
	}
	w.must("delete topic", func(done func(error)) { w.n.broker.DeleteTopic(w.topic(mt), done) })
	var left []string
	for range 12 { // a turn finds them dead, a later one removes them
		w.turn()
		w.clk.Advance(10 * time.Minute)
		left = slices.DeleteFunc(w.store.names(), func(name string) bool {
			_, ok := object.ParseName(name)
			return !ok
		})
		if len(left) == 0 {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("%v are still there", left)
	}
	w.stop()
}
