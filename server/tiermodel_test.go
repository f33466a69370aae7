package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/offload"
)

var (
	tierSeeds = flag.Uint64("tierseeds", 12, "how many histories of a whole node and its store are tried; the long form has thousands")
	tierSeed  = flag.Uint64("tierseed", 0, "the first of them: a failure names its own, which -tierseeds 1 -tierseed N tries again")
	tierOps   = flag.Int("tierops", 40, "operations of each")
)

// TestTierModel runs random histories of a whole node with a store: topics of each kind are written (plainly, by idempotent producers, in
// transactions), read, trimmed, compacted, offloaded and let go of, held for backups; the store fails, the node is killed at any step and loses its disk, and a new one
// is brought back from the store alone. At each moment what readers get is what a list of records says.
func TestTierModel(t *testing.T) {
	for i := range *tierSeeds {
		seed := *tierSeed + i
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { tierHistory(t, seed) }) {
			t.Fatalf("go test ./server -run TestTierModel -tierseeds 1 -tierseed %d -tierops %d", seed, *tierOps)
		}
	}
}

func tierHistory(t *testing.T, seed uint64) { //nolint:thelper // a test: its own lines are to be told
	w := newTierWorld(t, seed)
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(w.trail, "\n"))
		}
	}()
	for range *tierOps {
		w.step()
		w.check()
	}
	w.store.set(0, false)
	w.check()
	if err := stopNode(w.n); err != nil {
		t.Error(err)
	}
}

// tierWorld is a node on a disk that loses what is not synced, its store, and what a reader must find.
type tierWorld struct {
	t      *testing.T
	rnd    *rand.Rand
	clk    *clock.Manual
	disk   *vfs.Mem
	power  *mains
	store  *memTier
	place  string // its name
	n      *node
	loop   *engine.Loop
	local  *broker.Local
	app    *broker.Appender
	sink   *tierSink
	killIn atomic.Int64 // power fails after so many steps of offloading; 0: it does not
	trail  []string

	topics   []*tierTopic
	txns     [tierTxns]*tierTxn // open, or in doubt; nil
	pids     [tierTxns]int64    // of the transactional ids; -1: it has none
	given    map[int64]bool     // producer ids
	ended    map[int64]txnState // how the last transaction of each ended
	lastSent *tierPart
	held     map[string][]string // by the names of backups: objects that stay
	serial   int
	dying    bool
}

// tierTxns are the transactional ids in use.
const tierTxns = 3

// tierTopics are what is written to.
func tierTopics(rnd *rand.Rand) []*tierTopic {
	if rnd.IntN(3) == 0 {
		return []*tierTopic{{name: "now", n: 1, settings: map[string]string{"tier.policy": "immediate"}}, tierKeys(rnd)}
	}
	return []*tierTopic{
		{name: "now", n: 2, settings: map[string]string{"tier.policy": "immediate"}},
		{name: "later", n: 1 + rnd.IntN(2), settings: map[string]string{"tier.policy": "archive", "local.retention.ms": "60000"}},
		tierKeys(rnd),
		{name: "here", n: 1, settings: map[string]string{}},
	}
}

// tierKeys is a compacted topic: it stays here, or is in the store, with partitions that share objects.
func tierKeys(rnd *rand.Rand) *tierTopic {
	mt := &tierTopic{name: "keys", n: 1 + rnd.IntN(4), compact: true, settings: map[string]string{
		"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "600000"}}
	if rnd.IntN(4) > 0 {
		mt.settings["tier.policy"] = "immediate"
	}
	if rnd.IntN(2) == 0 {
		mt.settings["cleanup.policy"], mt.deletes = "compact,delete", true
		mt.settings["retention.ms"], mt.settings["retention.bytes"] = "-1", "-1"
	}
	return mt
}

func newTierWorld(t *testing.T, seed uint64) *tierWorld {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 6))
	w := &tierWorld{t: t, rnd: rnd, clk: clock.NewManual(time.UnixMilli(1_700_000_000_000)), disk: vfs.NewMem(), topics: tierTopics(rnd),
		pids: [tierTxns]int64{-1, -1, -1}, held: map[string][]string{}, given: map[int64]bool{}, ended: map[int64]txnState{}}
	w.store = newMemTier(w.clk, seed)
	t.Cleanup(w.runClock())
	w.open()
	w.makeTopics()
	return w
}

// runClock has the world's time pass at least as ours does: what is paced by it ends.
func (w *tierWorld) runClock() (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	tick := time.NewTicker(time.Millisecond)
	go func() {
		defer close(done)
		for {
			select {
			case <-tick.C:
				w.clk.Advance(time.Millisecond)
			case <-over:
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(over)
		<-done
	}
}

func (w *tierWorld) say(format string, args ...any) {
	w.trail = append(w.trail, fmt.Sprintf(format, args...))
}

// open starts a node on the disk.
func (w *tierWorld) open() {
	w.t.Helper()
	w.power = newMains(w.disk, vfs.Cut{Rand: rand.New(rand.NewPCG(w.rnd.Uint64(), 1))})
	w.killIn.Store(0)
	w.store.off.Store(nil)
	power := w.power
	n, err := w.start(power)
	if err != nil {
		w.t.Fatalf("start: %v", err)
	}
	w.store.off.Store(&power.off)
	w.n, w.loop, w.local = n, n.engine.Loops()[0], n.broker.Local(0)
	w.sink = &tierSink{got: make(chan tierAck, 1024)}
	w.onLoop(func() { w.app = w.local.NewAppender(w.sink) })
}

func (w *tierWorld) start(power *mains) (*node, error) {
	o := tierNodeOptions(&vfs.Fault{FS: w.disk, Judge: power.judge}, w.clk)
	o.tier = tierOptions{store: "memory", settings: map[string]string{"bucket": w.place}, reader: history.ReaderOptions{CacheBytes: 64 << 10, Tries: 3, Wait: time.Millisecond},
		open: func(context.Context) (tier.Store, error) { return w.store, nil },
		offload: offload.Options{ObjectBytes: 32 << 10, MinObjectBytes: 1, Interval: 5 * time.Second, OrphanGrace: 10 * time.Minute, DeleteDelay: time.Minute,
			Step: func(string) {
				if w.killIn.Load() > 0 && w.killIn.Add(-1) == 0 {
					power.fall()
				}
			}}}
	return newNode(w.t.Context(), o)
}

// makeTopics makes those that are not there.
func (w *tierWorld) makeTopics() {
	w.t.Helper()
	for _, mt := range w.topics {
		if w.n.broker.Topic(0, mt.name) == nil {
			var id broker.TopicID
			w.serial++
			copy(id[:], fmt.Sprintf("%s/%d", mt.name, w.serial))
			w.must("create "+mt.name, func(done func(error)) {
				w.n.broker.CreateTopic(0, mt.name, id, mt.n, nil, func(_ *broker.TopicSpec, err error) { done(err) })
			})
			mt.parts = nil
			for range mt.n {
				mt.parts = append(mt.parts, newTierPart(mt))
			}
		}
		if t := w.topic(mt); len(t.Partitions()) < mt.n {
			w.must("grow "+mt.name, func(done func(error)) {
				w.n.broker.GrowTopic(t, mt.n, true, func(_ *broker.TopicSpec, err error) { done(err) })
			})
		}
		w.configure(mt)
	}
}

// configure gives a topic its settings.
func (w *tierWorld) configure(mt *tierTopic) {
	w.t.Helper()
	var list []broker.Setting
	for k, v := range mt.settings {
		list = append(list, broker.Setting{Key: k, Value: v})
	}
	slices.SortFunc(list, func(a, b broker.Setting) int { return strings.Compare(a.Key, b.Key) })
	w.must("configure "+mt.name, func(done func(error)) {
		w.n.broker.ConfigureTopic(w.topic(mt), func([]broker.Setting) ([]broker.Setting, error) { return list, nil }, func(_ *broker.TopicSpec, err error) { done(err) })
	})
}

func (w *tierWorld) topic(mt *tierTopic) *broker.Topic {
	w.t.Helper()
	t := w.n.broker.Topic(0, mt.name)
	if t == nil {
		w.t.Fatalf("topic %s is gone", mt.name)
	}
	return t
}

func (w *tierWorld) partition(mt *tierTopic, i int) *broker.Partition {
	w.t.Helper()
	return w.topic(mt).Partition(int32(i))
}

// onLoop runs fn on the node's loop, and waits for it.
func (w *tierWorld) onLoop(fn func()) {
	done := make(chan struct{})
	w.loop.Post(engine.TaskFunc(func(*engine.Loop) { fn(); close(done) }))
	<-done
}

var errDied = errors.New("the power is gone")

// wait waits for an answer, and moves the clock meanwhile where pump says so. errDied: there will be none.
func (w *tierWorld) wait(what string, pump time.Duration, ch <-chan error) error {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	dead := 0
	// Ticks are counted, not time: a machine that has none for this test gives none.
	for left := patience / time.Millisecond; ; {
		select {
		case err := <-ch:
			return err
		case <-tick.C:
			if pump > 0 {
				w.clk.Advance(pump)
			}
			if w.power.off.Load() {
				if dead++; dead > 20 {
					return errDied
				}
			}
			if left--; left < 0 {
				w.t.Fatalf("%s: no answer; the offloader: %+v", what, w.n.tier.out.Status())
			}
		}
	}
}

// ask starts something that calls back.
func (w *tierWorld) ask(what string, pump time.Duration, start func(done func(error))) error {
	w.t.Helper()
	ch := make(chan error, 1)
	w.loop.Post(engine.TaskFunc(func(*engine.Loop) { start(func(err error) { ch <- err }) }))
	return w.wait(what, pump, ch)
}

// must is ask for what has to succeed, unless the node dies.
func (w *tierWorld) must(what string, start func(done func(error))) bool {
	w.t.Helper()
	err := w.ask(what, 0, start)
	if err != nil && !w.dying {
		w.t.Fatalf("%s: %v", what, err)
	}
	return err == nil
}

// step does something.
func (w *tierWorld) step() {
	w.t.Helper()
	switch n := w.rnd.IntN(100); {
	case n < 70:
		w.operate()
	case n < 76:
		w.restart()
	case n < 90:
		w.kill()
	case n < 94:
		w.loseDisk()
	default:
		w.trouble()
	}
}

// operate is what clients and the node do.
func (w *tierWorld) operate() {
	w.t.Helper()
	switch n := w.rnd.IntN(100); {
	case n < 30:
		w.produce()
	case n < 45:
		w.transact()
	case n < 52:
		w.deleteRecords()
	case n < 60:
		w.retention()
	case n < 80:
		w.offload()
	case n < 85:
		w.checkpoint()
	case n < 92:
		w.pass()
	case n < 96:
		w.hold()
	default:
		w.tick()
	}
}

// offload makes turns, or brings out all there is.
func (w *tierWorld) offload() {
	w.t.Helper()
	all := w.rnd.IntN(2) == 0
	w.say("offload, all %v", all)
	ch := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		if all {
			ch <- w.n.tier.out.Flush(ctx)
			return
		}
		ch <- w.n.tier.out.Turn(ctx)
	}()
	err := w.wait("offload", 500*time.Millisecond, ch)
	if errors.Is(err, errDied) {
		cancel()
		if late := <-ch; late != nil {
			w.t.Logf("of a node that has died: %v", late)
		}
	}
	if err != nil && !w.dying && !w.store.failing() && !errors.Is(err, offload.ErrBusy) {
		w.t.Fatalf("offload: %v", err)
	}
}

// hold has a backup need what the manifest has, or need it no more.
func (w *tierWorld) hold() {
	w.t.Helper()
	name := fmt.Sprint("backup", w.rnd.IntN(2))
	needs := w.rnd.IntN(3) > 0
	w.say("%s needs what there is: %v", name, needs)
	delete(w.held, name)
	ch := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var objects []string
	out, m := w.n.tier.out, w.n.tier.manifest
	go func() {
		if !needs {
			_, err := out.Release(ctx, name)
			ch <- err
			return
		}
		err := out.HoldAll(ctx, name)
		for o := range m.All() {
			objects = append(objects, o.ID.Name())
		}
		if err == nil {
			err = out.Hold(ctx, name)
		}
		ch <- err
	}()
	switch err := w.wait("hold", 500*time.Millisecond, ch); {
	case err == nil && needs:
		w.held[name] = objects
	case errors.Is(err, errDied):
		cancel()
		<-ch //nolint:errcheck // it was given up
	case err != nil && !w.dying && !w.store.failing():
		w.t.Fatalf("hold: %v", err)
	}
}

func (w *tierWorld) checkpoint() { w.n.storage.(*logStorage).checkpoint() }

// tick has retention and compaction looked at.
func (w *tierWorld) tick() {
	w.onLoop(w.local.Tick)
}

// pass lets time pass, so that transactions end and what waits to be removed goes.
func (w *tierWorld) pass() {
	w.t.Helper()
	d := time.Duration(w.rnd.Int64N(int64(40 * time.Minute)))
	w.say("%v pass", d)
	w.endTxns()
	if !w.dying {
		w.clk.Advance(d)
		w.tick()
	}
}

// trouble is the store's.
func (w *tierWorld) trouble() {
	switch w.rnd.IntN(4) {
	case 0:
		w.store.set(0, true)
	case 1:
		w.store.set(15, false)
	default:
		w.store.set(0, false)
	}
	w.say("store: %d %% of requests fail, down %v", w.store.rate.Load(), w.store.down.Load())
}

// restart ends the node well, and begins again.
func (w *tierWorld) restart() {
	w.t.Helper()
	w.say("restart")
	if err := stopNode(w.n); err != nil {
		w.t.Fatalf("stop: %v", err)
	}
	w.open()
	w.recovered()
}

// kill has the power fail under an operation, at one of the next syncs of the disk or steps of offloading.
func (w *tierWorld) kill() {
	w.t.Helper()
	w.say("kill:")
	w.die()
	w.open()
	w.recovered()
}

// die ends the node badly.
func (w *tierWorld) die() {
	w.t.Helper()
	w.dying = true
	switch w.rnd.IntN(3) {
	case 0:
		w.power.armed.Store(true)
		w.operate()
	case 1:
		w.killIn.Store(int64(1 + w.rnd.IntN(25)))
		w.offload()
	default:
		w.operate()
	}
	w.disk = w.power.end()
	w.takeAcks()
	w.n.tier.stop()
	_ = stopNode(w.n) // the disk is gone: it says so
	w.takeAcks()
}

// loseDisk starts a node that has nothing but the store.
func (w *tierWorld) loseDisk() {
	w.t.Helper()
	w.say("the disk is lost:")
	for _, mt := range w.topics {
		for i, p := range mt.parts {
			p.start = max(p.start, w.partition(mt, i).LogStart())
			_, end, _ := w.n.tier.manifest.Bounds(w.partition(mt, i).ID())
			p.stored = end
		}
	}
	w.die()
	w.disk = vfs.NewMem()
	w.store.set(0, false)
	w.dying = false
	w.open()
	if w.rnd.IntN(3) == 0 {
		w.say("it is killed while it rebuilds")
		w.dying = true
		w.power.armed.Store(true)
		_, _ = w.rebuild()
		w.disk = w.power.end()
		w.n.tier.stop()
		_ = stopNode(w.n)
		w.dying = false
		w.open()
	}
	if _, err := w.rebuild(); err != nil {
		w.t.Fatalf("rebuild: %v", err)
	}
	w.rebuilt()
	w.makeTopics()
	w.check()
}

func (w *tierWorld) rebuild() (*api.TierResult, error) {
	w.t.Helper()
	var out *api.TierResult
	ch := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		var err error
		var notes []string
		out, err = w.n.tier.rebuild(ctx, false, &teller{tell: func(p *api.TierProgress) { notes = append(notes, p.Notes...) }})
		// What was deleted may leave gaps: objects go in any order. Of what was not, the comparison tells.
		notes = slices.DeleteFunc(notes, func(n string) bool { return !strings.Contains(n, "left alone") })
		if len(notes) > 0 {
			err = errors.Join(err, fmt.Errorf("%q", notes))
		}
		ch <- err
	}()
	err := w.wait("rebuild", 500*time.Millisecond, ch)
	if errors.Is(err, errDied) {
		cancel()
		if late := <-ch; late != nil {
			w.t.Logf("of a node that has died: %v", late)
		}
		return nil, err
	}
	return out, err
}
