package offload

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

// small are options under which a few kilobytes are much.
func small() Options {
	return Options{ObjectBytes: 64 * kib, MinObjectBytes: 8 * kib, StoreName: "mem"}
}

// firstSequence is that of the first object in a world.
const firstSequence = 1_700_000_000_000 << sequenceBits

// TestImmediate: what is sealed goes, whole; it leaves the log when local retention takes it, and not before.
func TestImmediate(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	p.LocalMillis = time.Hour.Milliseconds()
	for range 10 {
		w.produce(p, 10, 1000)
	}
	w.turn()
	if n := len(w.s.objectNames()); n != 0 {
		t.Fatalf("%d objects of a segment that is written to", n)
	}
	w.seal()
	w.produce(p, 5, 1000)
	w.turn()
	w.check()
	if start, end, ok := w.m.Bounds(100); !ok || start != 0 || end != 100 {
		t.Fatal(start, end, ok)
	}
	if got := w.localStart(p); got != 0 {
		t.Errorf("offset %d is the first in the log", got)
	}
	w.clk.Advance(time.Hour + time.Second)
	w.turn()
	if got := w.localStart(p); got != 100 {
		t.Errorf("offset %d is the first in the log", got)
	}
	w.check()
	if names := w.s.objectNames(); len(names) != 1 || names[0] != (object.ID{Shard: 1, Epoch: 1, Sequence: firstSequence}).Name() {
		t.Error(names)
	}
	if s := w.f.Status(); s.Epoch != 1 || s.Err != nil || s.Phase != Idle || s.LastUpload.IsZero() {
		t.Errorf("%+v", s)
	}
}

// TestArchive: what local retention takes goes, and leaves the log at once; the rest stays, in the log alone.
func TestArchive(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Archive)
	p.LocalBytes = 5000
	for range 20 {
		w.produce(p, 10, 1000)
		w.seal()
	}
	w.turn()
	if _, end, ok := w.m.Bounds(100); !ok || end != 150 {
		t.Fatal(end, ok)
	}
	if got := w.localStart(p); got != 150 {
		t.Errorf("offset %d is the first in the log", got)
	}
	w.check()
}

// TestUndecided: nothing at or behind the last stable offset goes, nor of a topic without a policy.
func TestUndecided(t *testing.T) {
	w := newWorld(t, small())
	p, q := w.add(100, 1, Immediate), w.add(101, 1, None)
	for range 20 {
		w.produce(p, 10, 1000)
		w.produce(q, 10, 1000)
	}
	w.seal()
	p.LastStable = 110
	w.turn()
	if _, end, ok := w.m.Bounds(100); !ok || end != 110 {
		t.Error(end, ok)
	}
	if _, _, ok := w.m.Bounds(101); ok {
		t.Error("a topic without a policy was offloaded")
	}
}

// TestGroups: partitions of one shard share objects; other shards, tenants, classes and retentions do not.
func TestGroups(t *testing.T) {
	w := newWorld(t, small())
	day := (24 * time.Hour).Milliseconds()
	for i, c := range []struct {
		shard  record.ShardID
		tenant record.TenantID
		class  string
		keep   int64
	}{{1, 0, "", -1}, {1, 0, "", -1}, {2, 0, "", -1}, {1, 3, "", -1}, {1, 0, "COLD", -1}, {1, 0, "", day}, {1, 0, "", day * 5 / 4}, {1, 0, "", 365 * day}} {
		p := w.add(record.PartitionID(100+i), c.shard, Immediate)
		p.Tenant, p.Class, p.RetentionMillis = c.tenant, c.class, c.keep
		for range 10 {
			w.produce(p, 1, 1000)
		}
	}
	w.seal()
	w.turn()
	w.check()
	together := map[int]int{}
	for o := range w.m.All() {
		for _, r := range o.Runs {
			together[len(o.Runs)]++
			if want := w.mu.parts[r.Partition]; o.ID.Tenant != want.Tenant || o.Shard != want.Shard || o.Class != want.Class {
				t.Errorf("%+v has partition %d", o, r.Partition)
			}
		}
	}
	if together[1] != 4 || together[2] != 4 || w.m.Stats().Objects != 6 {
		t.Errorf("%v, %+v", together, w.m.Stats())
	}
}

// TestOldestFirst: what pins the oldest segment goes first, whichever shard it is of.
func TestOldestFirst(t *testing.T) {
	w := newWorld(t, small())
	var order []record.ShardID
	for i := range 6 {
		p := w.add(record.PartitionID(100+i), record.ShardID(5-i), Immediate)
		for range 20 {
			w.produce(p, 1, 1000)
		}
		w.seal()
	}
	w.s.setFault(func(op, name string) *fault {
		if id, ok := object.ParseName(name); ok && op == "put" {
			order = append(order, id.Shard)
		}
		return nil
	})
	w.turn()
	for i, s := range order {
		if len(order) != 6 || s != record.ShardID(5-i) {
			t.Fatal(order)
		}
	}
}

// TestLittle: a little is not uploaded before MaxLag has passed, and then it is; what came behind an object waits anew.
func TestLittle(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	w.produce(p, 1, 1000)
	w.seal()
	w.turn()
	if n := len(w.s.objectNames()); n != 0 {
		t.Fatalf("%d objects", n)
	}
	if s := w.f.Status(); s.WaitingBytes != 1000 || s.WaitingPartitions != 1 || !s.WaitingSince.Equal(w.clk.Now()) {
		t.Errorf("%+v", s)
	}
	w.clk.Advance(10*time.Minute - time.Second)
	w.turn()
	if n := len(w.s.objectNames()); n != 0 {
		t.Fatalf("%d objects", n)
	}
	w.clk.Advance(time.Second)
	w.turn()
	if n := len(w.s.objectNames()); n != 1 {
		t.Fatalf("%d objects", n)
	}
	w.produce(p, 1, 1000)
	w.seal()
	w.clk.Advance(time.Hour)
	w.turn()
	if n := len(w.s.objectNames()); n != 1 {
		t.Fatalf("%d objects", n)
	}
	w.check()
}

// TestFlush: all goes, however little, of the segment that was written to too.
func TestFlush(t *testing.T) {
	w := newWorld(t, small())
	p, q := w.add(100, 1, Immediate), w.add(101, 2, Archive)
	w.produce(p, 3, 1000)
	w.produce(q, 3, 1000)
	if err := w.f.Flush(bg); err != nil {
		t.Fatal(err)
	}
	if _, end, ok := w.m.Bounds(100); !ok || end != 3 {
		t.Error(end, ok)
	}
	if _, _, ok := w.m.Bounds(101); ok {
		t.Error("what is not due was flushed")
	}
	w.check()
}

// TestPressed: with the log full all goes at once, and leaves it.
func TestPressed(t *testing.T) {
	w := newWorld(t, small())
	p, q := w.add(100, 1, Immediate), w.add(101, 2, Archive)
	w.produce(p, 3, 1000)
	w.produce(q, 3, 1000)
	w.seal()
	w.mu.pressed = true
	w.turn()
	if w.localStart(p) != 3 || w.localStart(q) != 3 {
		t.Error(w.localStart(p), w.localStart(q))
	}
	w.check()
}

// TestRestart: after a restart the next object goes on behind the last, under the same epoch, and local copies that have come back go again.
func TestRestart(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	for round := range 4 {
		for range 10 {
			w.produce(p, 1, 1000)
		}
		w.seal()
		w.turn()
		w.restart()
		if _, end, _ := w.m.Bounds(100); end != record.Offset(10*(round+1)) {
			t.Fatal(end)
		}
	}
	w.check()
	names := w.s.objectNames()
	for i, name := range names {
		if want := (object.ID{Shard: 1, Epoch: 1, Sequence: firstSequence + uint64(i)}); name != want.Name() {
			t.Error(names)
		}
	}
	p.LocalBytes = 0
	w.turn()
	if w.localStart(p) != 40 {
		t.Error(w.localStart(p))
	}
	w.check()
}

// TestEpochs: two nodes with one store get epochs of their own, also where one has lost its disk, and never above the other's orphans.
func TestEpochs(t *testing.T) {
	w := newWorld(t, small())
	offload := func(id record.PartitionID) {
		p := w.add(id, 1, Immediate)
		w.produce(p, 1, 9000)
		w.seal()
		w.turn()
	}
	offload(100)
	w.mu.rows = map[record.ShardID]map[string][]byte{} // the disk is lost
	w.mu.parts = map[record.PartitionID]*part{}
	w.restart()
	offload(101)
	if got := w.f.Status().Epoch; got != 2 {
		t.Errorf("epoch %d", got)
	}
	// The other's object is no orphan of ours, however old.
	w.clk.Advance(48 * time.Hour)
	w.turn()
	if n := len(w.s.objectNames()); n != 2 {
		t.Errorf("%d objects", n)
	}
	// Somebody else claims the next one between our look and our claim.
	w.s.setFault(func(op, name string) *fault {
		if op == "put" && name == epochName(3) {
			w.s.mu.Lock()
			w.s.objects[name] = memObject{b: []byte("other"), mod: w.clk.Now()}
			w.s.mu.Unlock()
		}
		return nil
	})
	if e, err := mint(w.f); err != nil || e != 4 {
		t.Error(e, err)
	}
	offload(102)
	if got := w.f.Status().Epoch; got != 4 {
		t.Errorf("epoch %d", got)
	}
	// An epoch that was minted for another store is not good for this one.
	w.o.StoreName = "other"
	w.restart()
	offload(103)
	if got := w.f.Status().Epoch; got != 5 {
		t.Errorf("epoch %d", got)
	}
}

// TestBusy: two turns at once are refused, a flush waits for its turn, and Close ends what is under way.
func TestBusy(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	w.produce(p, 1, 9000)
	w.seal()
	within := make(chan struct{})
	w.s.setFault(func(op, name string) *fault {
		if _, ok := object.ParseName(name); ok && op == "put" {
			return &fault{stall: true, do: func() { close(within) }}
		}
		return nil
	})
	first := make(chan error, 1)
	go func() { first <- w.f.Turn(bg) }()
	testx.Receive(t, within, patience)
	if s := w.f.Status(); s.Phase != Uploading || s.Object == "" || s.Size < 9000 {
		t.Errorf("%+v", s)
	}
	if err := w.f.Turn(bg); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	late, cancel := context.WithCancel(bg)
	cancel()
	if err := w.f.Flush(late); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.f.Close()
	if err := testx.Receive(t, first, patience); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := w.f.Turn(bg); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	w.s.setFault(nil)
	w.restart()
	w.turn()
	w.check()
}

// TestRun: turns are made by themselves; Wake makes one at once; a failure is waited after.
func TestRun(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	ended := make(chan struct{})
	go func() { w.f.Run(bg); close(ended) }()
	resting := func() {
		testx.Eventually(t, patience, func() bool { return w.clk.Pending() == 1 && w.f.Status().Phase == Idle })
	}
	resting()
	w.produce(p, 1, 9000)
	w.seal()
	w.f.Wake()
	testx.Eventually(t, patience, func() bool { return w.m.Stats().Objects == 1 })
	resting()
	w.produce(p, 1, 9000)
	w.seal()
	w.s.setFault(func(op, _ string) *fault {
		if op == "put" {
			return &fault{err: storeError(tier.Denied)}
		}
		return nil
	})
	w.clk.Advance(5 * time.Second)
	testx.Eventually(t, patience, func() bool { return w.f.Status().Fails == 1 })
	resting()
	w.s.setFault(nil)
	w.f.Wake() // is no reason to try sooner
	w.clk.Advance(10 * time.Second)
	if n := w.m.Stats().Objects; n != 1 {
		t.Errorf("%d objects", n)
	}
	w.clk.Advance(30 * time.Second)
	testx.Eventually(t, patience, func() bool { return w.m.Stats().Objects == 2 })
	w.f.Close()
	testx.Receive(t, ended, patience)
	w.check()
}

// TestDead: an object that nobody needs loses its row first, and is removed after the delay.
func TestDead(t *testing.T) {
	w := newWorld(t, small())
	p, q := w.add(100, 1, Immediate), w.add(101, 1, Immediate)
	w.produce(p, 10, 9000)
	w.seal()
	w.turn()
	w.produce(p, 10, 9000)
	w.produce(q, 10, 9000)
	w.seal()
	w.turn()
	if n := w.m.Stats().Objects; n != 2 {
		t.Fatalf("%d objects", n)
	}
	w.deleteBelow(p, 10)
	w.turn()
	if n, there := w.m.Stats().Objects, len(w.s.objectNames()); n != 1 || there != 2 || w.f.Status().Doomed != 1 {
		t.Fatalf("%d objects, %d in the store", n, there)
	}
	w.clk.Advance(10 * time.Minute)
	w.turn()
	if there := len(w.s.objectNames()); there != 1 {
		t.Fatalf("%d in the store", there)
	}
	w.deleteBelow(p, 20)
	w.turn()
	if n := w.m.Stats().Objects; n != 1 {
		t.Fatalf("%d objects: the other partition has lost its own", n)
	}
	w.drop(q)
	w.restart() // the manifest has to learn again what was dropped, and where the log starts
	w.turn()
	w.clk.Advance(10 * time.Minute)
	w.turn()
	if n, there := w.m.Stats().Objects, len(w.s.objectNames()); n != 0 || there != 0 {
		t.Fatalf("%d objects, %d in the store", n, there)
	}
	if w.f.stats.Deleted.Load() != 1 || w.f.stats.DeletedBytes.Load() < 9000 {
		t.Error(w.f.stats.Deleted.Load())
	}
}

// TestRowComesBack: an object that is to be removed stays if it has a row again: a rebuild has brought back the topic that was deleted.
func TestRowComesBack(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	w.produce(p, 10, 9000)
	w.seal()
	w.turn()
	var rows []*history.Object
	for o := range w.m.All() {
		rows = append(rows, o)
	}
	w.drop(p)
	w.turn()
	if len(rows) != 1 || w.f.Status().Doomed != 1 {
		t.Fatalf("%d rows, %d objects to be removed", len(rows), w.f.Status().Doomed)
	}
	w.add(101, 1, None)
	rows[0].Runs[0].Partition = 101
	if err := w.m.Apply(1, rows[0].Key(), rows[0].Encode(nil)); err != nil {
		t.Fatal(err)
	}
	w.clk.Advance(time.Hour)
	w.turn()
	if names := w.s.objectNames(); len(names) != 1 || w.f.Status().Doomed != 0 {
		t.Errorf("%v in the store, %d to be removed", names, w.f.Status().Doomed)
	}
}

// TestCopy: a node that came out of a backup of another, or was rebuilt from its store, needs the other's objects, and removes none of them: neither
// what it needs no more, nor what the other has stored since.
func TestCopy(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	w.produce(p, 10, 9000)
	w.seal()
	w.turn()
	theirs := w.f.Status().Epoch
	w.o.StoreName += " of another"
	w.restart()
	w.produce(p, 10, 9000)
	w.seal()
	w.turn()
	if own := w.f.Status().Epoch; own == theirs || len(w.s.objectNames()) != 2 {
		t.Fatalf("epoch %d of %d, %v", own, theirs, w.s.objectNames())
	}
	w.deleteBelow(p, 20)
	w.turn()
	w.clk.Advance(48 * time.Hour)
	w.turn()
	there := w.s.objectNames()
	if len(there) != 1 || w.m.Stats().Objects != 0 || w.f.stats.Left.Load() != 1 {
		t.Fatalf("%v, %d objects, %d left", there, w.m.Stats().Objects, w.f.stats.Left.Load())
	}
	if id, ok := object.ParseName(there[0]); !ok || id.Epoch != theirs {
		t.Errorf("%v is left", there)
	}
}

// TestOrphans: objects of our epochs that no row tells of go after the time of grace, by the store's clock and by ours; nobody else's do. What the
// store has lost is told.
func TestOrphans(t *testing.T) {
	w := newWorld(t, small())
	p := w.add(100, 1, Immediate)
	w.produce(p, 10, 9000)
	w.seal()
	w.turn()
	mine := w.s.objectNames()[0]
	plant := func(id object.ID, made time.Time) string {
		b := object.NewBuilder(id, made.UnixMilli(), object.Options{})
		b.Run(object.Topic{Name: "x"}, 0)
		b.Add(object.Extent{First: 1, Last: 2, Bytes: 100})
		o, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		put(t, w, o)
		return o.Name()
	}
	old := plant(object.ID{Shard: 1, Epoch: 1, Sequence: 90}, w.clk.Now())
	foreign := plant(object.ID{Shard: 1, Epoch: 2, Sequence: 1}, w.clk.Now())
	w.clk.Advance(23 * time.Hour)
	young := plant(object.ID{Shard: 1, Epoch: 1, Sequence: 91}, w.clk.Now())
	w.turn()
	if got := w.s.objectNames(); len(got) != 4 {
		t.Fatal(got)
	}
	w.clk.Advance(7 * time.Hour)
	// The store's clock is wrong: the one is older than we know.
	w.s.mu.Lock()
	o := w.s.objects[young]
	o.mod = o.mod.Add(-100 * time.Hour)
	w.s.objects[young] = o
	w.s.mu.Unlock()
	w.turn()
	if got := w.s.objectNames(); len(got) != 3 || got[0] != young || got[1] != mine || got[2] != foreign {
		t.Fatal(got, old)
	}
	w.s.remove(mine)
	w.clk.Advance(7 * time.Hour)
	w.turn()
	if s := w.f.Status(); s.Missing != 1 || w.f.stats.Missing.Load() != 1 || s.ScannedAt.IsZero() || w.s.swept < 2 {
		t.Errorf("%+v", s)
	}
}

// TestMany: a store of more names than a turn looks at is searched over several, and rows of more objects than a command takes go with several.
func TestMany(t *testing.T) {
	o := small()
	o.ObjectBytes, o.MinObjectBytes = 100, 1
	w := newWorld(t, o)
	p := w.add(100, 1, Immediate)
	const n = rowsMax + 50
	for range n {
		w.produce(p, 1, 100)
	}
	w.seal()
	w.turn()
	if got := w.m.Stats().Objects; got != n {
		t.Fatalf("%d objects", got)
	}
	w.check()
	w.deleteBelow(p, n)
	for turns := 0; w.m.Stats().Objects > 0; turns++ {
		if w.turn(); turns > 3 {
			t.Fatal("rows are left")
		}
	}
}
