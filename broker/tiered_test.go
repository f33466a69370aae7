package broker

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// memManifest is a TierManifest that remembers.
type memManifest struct {
	rows   map[tierKey]string
	refuse error
}

func newMemManifest() *memManifest { return &memManifest{rows: map[tierKey]string{}} }

func (m *memManifest) Apply(shard record.ShardID, key, value []byte) error {
	switch {
	case m.refuse != nil:
		return m.refuse
	case value == nil:
		delete(m.rows, tierKey{shard, string(key)})
	default:
		m.rows[tierKey{shard, string(key)}] = string(value)
	}
	return nil
}

func (m *memManifest) Value(shard record.ShardID, key []byte) []byte {
	if v, ok := m.rows[tierKey{shard, string(key)}]; ok {
		return []byte(v)
	}
	return nil
}

// changeTier changes rows, and waits for the answer.
func (tb *testBroker) changeTier(t testing.TB, shard record.ShardID, changes ...TierChange) error {
	t.Helper()
	var err error
	n := 0
	tb.b.ChangeTier(shard, changes, func(e error) { err = e; n++ })
	tb.pump()
	if n != 1 {
		t.Fatalf("answered %d times", n)
	}
	return err
}

func tierRow(key, value string) TierChange {
	return TierChange{Key: []byte(key), Value: []byte(value)}
}

// Rows of a change are told as a whole, in order, by shard, once they are in the log; a value may be empty.
func TestTierRows(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	m := newMemManifest()
	tb.b.UseTier(m)
	if err := tb.changeTier(t, 1, tierRow("a", "1"), tierRow("b", ""), tierRow("a", "2")); err != nil {
		t.Fatal(err)
	}
	if err := tb.changeTier(t, 2, tierRow("a", "3"), TierChange{Key: []byte("none")}); err != nil {
		t.Fatal(err)
	}
	check(t, "rows", m.rows, map[tierKey]string{{1, "a"}: "2", {1, "b"}: "", {2, "a"}: "3"})
	tb.log.fail = errors.New("broken")
	if err := tb.changeTier(t, 1, TierChange{Key: []byte("a")}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the log does not write: %v", err)
	}
	check(t, "rows", len(m.rows), 3)
	tb.log.fail = nil
	tb.b.reserved.Store(true) // a full disk
	if err := tb.changeTier(t, 1, TierChange{Key: []byte("a")}, tierRow("c", "4")); err != nil {
		t.Errorf("on a full disk: %v", err)
	}
	check(t, "rows", m.rows, map[tierKey]string{{1, "b"}: "", {1, "c"}: "4", {2, "a"}: "3"})
	if err := tb.changeTier(t, 0); err != nil {
		t.Errorf("no change: %v", err)
	}
	check(t, "under way", tb.b.tier.underWay.Load(), int64(0))
}

func TestTierRowsRefused(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	tb.b.UseTier(newMemManifest())
	big := TierChange{Key: []byte("k"), Value: make([]byte, TierValueMax)}
	for _, c := range []struct {
		name    string
		shard   record.ShardID
		changes []TierChange
		want    error
	}{
		{"no key", 0, []TierChange{{}}, ErrQuota},
		{"a long key", 0, []TierChange{{Key: make([]byte, TierKeyMax+1)}}, ErrQuota},
		{"a long value", 0, []TierChange{{Key: []byte("k"), Value: make([]byte, TierValueMax+1)}}, ErrQuota},
		{"a large change", 0, []TierChange{big, big}, ErrQuota},
		{"no shard", modelShards, []TierChange{tierRow("a", "")}, ErrInvalidRequest},
		{"the largest value", 0, []TierChange{big}, nil},
	} {
		if err := tb.changeTier(t, c.shard, c.changes...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	done := func(error) {}
	for range tierUnderWayMax / (TierValueMax + 100) {
		tb.b.ChangeTier(0, []TierChange{big}, done)
	}
	busy := error(nil)
	tb.b.ChangeTier(0, []TierChange{big}, func(err error) { busy = err })
	if !errors.Is(busy, ErrBusy) {
		t.Errorf("too much is under way: %v", busy)
	}
	tb.pump()
	if err := tb.changeTier(t, 0, big); err != nil {
		t.Errorf("later: %v", err)
	}
	tb.b.opts.Volatile = true
	if err := tb.changeTier(t, 0, tierRow("a", "")); !errors.Is(err, ErrVolatileOnly) {
		t.Errorf("without a log: %v", err)
	}
}

// A change that is cut is none, and its encoding is what was encoded.
func TestTierRowsEncoding(t *testing.T) {
	want := []TierChange{tierRow("a", "1"), {Key: []byte("b")}, tierRow("c", "")}
	cmd := appendTierChanges(nil, want)
	d := decoder{b: cmd}
	got := d.tierChanges()
	if !d.ok() || !slices.EqualFunc(got, want, func(a, b TierChange) bool {
		return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	}) {
		t.Errorf("%v, expected %v", got, want)
	}
	for n := range len(cmd) {
		if d := (decoder{b: cmd[:n]}); len(d.tierChanges()) >= 0 && d.ok() {
			t.Errorf("%d bytes of %d pass", n, len(cmd))
		}
	}
}

// tierModel is a broker with rows of the manifest, and what must be there: what was acknowledged, and of what was not, all of a change or nothing.
type tierModel struct {
	t      *testing.T
	r      *rand.Rand
	tb     *testBroker
	points *memCheckpoints
	m      *memManifest
	want   map[tierKey]string
	n      int
}

func (tm *tierModel) change() {
	shard := record.ShardID(tm.r.IntN(modelShards))
	next := maps.Clone(tm.want)
	var changes []TierChange
	for range 1 + tm.r.IntN(4) {
		tm.n++
		key := fmt.Sprint("o", tm.r.IntN(10))
		c := TierChange{Key: []byte(key)}
		if tm.r.IntN(3) == 0 {
			delete(next, tierKey{shard, key})
		} else {
			c = tierRow(key, fmt.Sprint(tm.n))
			next[tierKey{shard, key}] = fmt.Sprint(tm.n)
		}
		changes = append(changes, c)
	}
	if tm.r.IntN(8) == 0 {
		tm.tb.log.fail = errors.New("disk full")
	}
	err := tm.tb.changeTier(tm.t, shard, changes...)
	if tm.tb.log.fail = nil; err == nil {
		tm.want = next
	}
}

// restart ends the broker as a kill would; without a store the rows stay all the same.
func (tm *tierModel) restart(idle bool) {
	old := tm.tb
	tm.m = newMemManifest()
	if old.tier = tm.m; idle {
		old.tier = nil
	}
	tb, err := old.restart(2, tm.points)
	if err != nil {
		tm.t.Fatal(err)
	}
	old.b.Close()
	if tm.tb = tb; idle {
		if len(tm.want) > 0 && tb.b.TierRows() == 0 {
			tm.t.Fatal("rows were met, and are not told")
		}
		if tm.r.IntN(2) == 0 {
			_ = tb.b.Checkpoint(tm.points)
		}
		tm.restart(false)
	}
}

// Rows are what was acknowledged, after any number of kills and checkpoints, some of which fail half way, and of runs without a store.
func TestTierRowsModel(t *testing.T) {
	for seed := range uint64(40) {
		tm := &tierModel{t: t, r: rand.New(rand.NewPCG(seed, 2)), points: &memCheckpoints{}, want: map[tierKey]string{}, m: newMemManifest()}
		tm.tb = openTestBroker(t, 2, nil)
		tm.tb.b.UseTier(tm.m)
		for range 120 {
			switch k := tm.r.IntN(12); k {
			case 0:
				tm.restart(tm.r.IntN(3) == 0)
			case 1, 2:
				tm.points.step = nil
				if left := tm.r.IntN(2 * modelShards); k == 2 {
					tm.points.step = func() error {
						if left--; left < 0 {
							return errors.New("the store does not write")
						}
						return nil
					}
				}
				_ = tm.tb.b.Checkpoint(tm.points)
				tm.points.step = nil
			default:
				tm.change()
			}
			if !maps.Equal(tm.m.rows, tm.want) {
				t.Fatalf("seed %d: %v, expected %v", seed, tm.m.rows, tm.want)
			}
		}
		tm.tb.b.Close()
	}
}

// A row of the checkpoint that the manifest does not know stops the start: history would be lost silently. A command's is told.
func TestTierRowsUnknown(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	m := newMemManifest()
	tb.b.UseTier(m)
	m.refuse = errors.New("no row")
	if err := tb.changeTier(t, 1, tierRow("a", "1")); err != nil || tb.faults.Load() != 1 {
		t.Errorf("%v, %d errors are logged", err, tb.faults.Load())
	}
	m.refuse = nil
	points := &memCheckpoints{}
	_ = tb.changeTier(t, 1, tierRow("a", "1"))
	if err := tb.b.Checkpoint(points); err != nil {
		t.Fatal(err)
	}
	tb.tier = &memManifest{refuse: errors.New("no row")}
	if _, err := tb.restart(1, points); err == nil || !strings.Contains(err.Error(), "bad row") {
		t.Errorf("%v", err)
	}
}

// restarted ends the broker as a kill would; the log has forgotten where partitions began.
func (gb *groupBench) restarted(t testing.TB, points *memCheckpoints) *groupBench {
	t.Helper()
	gb.log.start = nil
	tb, err := gb.restartWith(2, points, gb.b.Topic(0, "t").Spec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tb.b.Close)
	return &groupBench{tb}
}

// restored restores partition 0 of the topic.
func (gb *groupBench) restored(start, end record.Offset, aborted ...AbortedRange) error {
	err := errors.New("not answered")
	gb.b.RestorePartition(gb.b.Topic(0, "t").Partition(0), start, end, aborted, func(e error) { err = e })
	gb.pump()
	return err
}

// A partition that was restored begins and ends where it is told to, whatever is appended comes behind, and what was aborted is known.
func TestRestorePartition(t *testing.T) {
	aborted := []AbortedRange{{7, 20, 25}, {8, 15, 40}, {7, 90, 99}, {8, 95, 99}} // of the last two, the markers were lost
	for _, flushed := range []bool{false, true} {
		gb := newGroupBench(t)
		if err := gb.restored(10, 100, aborted...); err != nil {
			t.Fatal(err)
		}
		points := &memCheckpoints{}
		for range 3 {
			p := gb.b.Topic(0, "t").Partition(0)
			check(t, "place", []record.Offset{p.LogStart(), p.LastStable(), p.HighWatermark()}, []record.Offset{10, 100, 100})
			check(t, "aborted", gb.b.AbortedTransactions(p, 0, 1000), aborted)
			if flushed {
				if err := gb.b.Checkpoint(points); err != nil {
					t.Fatal(err)
				}
			}
			gb = gb.restarted(t, points)
		}
		p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
		if err := gb.restored(0, 5); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("again: %v", err)
		}
		_ = a.append(p, batchOf(record.BatchOptions{}, "a", "b"), 1)
		gb.pump()
		if r := a.results[1]; r.Err != nil || r.Base != 100 || p.HighWatermark() != 102 {
			t.Errorf("appended at %d, %v, up to %d", r.Base, r.Err, p.HighWatermark())
		}
		gb = gb.restarted(t, points)
		if p = gb.b.Topic(0, "t").Partition(0); p.LogStart() != 10 || p.HighWatermark() != 102 {
			t.Errorf("from %d to %d", p.LogStart(), p.HighWatermark())
		}
		check(t, "aborted", gb.b.AbortedTransactions(p, 26, 101), aborted[1:])
		check(t, "aborted", gb.b.AbortedTransactions(p, 16, 19), aborted[1:2])
		check(t, "aborted", gb.b.AbortedTransactions(p, 41, 101), aborted[2:])
		check(t, "aborted", gb.b.AbortedTransactions(p, 100, 101), []AbortedRange(nil))
		gb.b.Local(0).DeleteRecords(p, 30, func(record.Offset, error) {})
		gb.pump()
		check(t, "aborted", gb.b.AbortedTransactions(p, 0, 101), aborted[1:])
		gb = gb.restarted(t, points)
		if p = gb.b.Topic(0, "t").Partition(0); p.LogStart() != 30 || p.HighWatermark() != 102 {
			t.Errorf("from %d to %d", p.LogStart(), p.HighWatermark())
		}
	}
}

// A partition that somebody appends to while it is restored has that behind. One that has something is not restored, and a log that does not write
// leaves it empty.
func TestRestorePartitionMeanwhile(t *testing.T) {
	gb := newGroupBench(t)
	p, a := gb.b.Topic(0, "t").Partition(0), gb.appender(0)
	for _, c := range []struct {
		start, end record.Offset
		aborted    []AbortedRange
	}{{-1, 5, nil}, {6, 5, nil}, {0, 5, []AbortedRange{{1, 3, 5}}}, {0, 9, []AbortedRange{{1, 3, 5}, {1, 0, 4}}}, {0, 9, []AbortedRange{{1, 5, 4}}}} {
		if err := gb.restored(c.start, c.end, c.aborted...); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	gb.log.fail = errors.New("broken")
	if err := gb.restored(10, 100); !errors.Is(err, ErrUnavailable) || p.mu.next != 0 {
		t.Errorf("%v, next is %d", err, p.mu.next)
	}
	gb.log.fail = nil
	err := errors.New("not answered")
	gb.b.RestorePartition(p, 10, 100, nil, func(e error) { err = e })
	_ = a.append(p, batchOf(record.BatchOptions{}, "a"), 1)
	gb.pump()
	if err != nil || a.results[1].Base != 100 || p.HighWatermark() != 101 || p.LogStart() != 10 {
		t.Errorf("%v, appended at %d: from %d to %d", err, a.results[1].Base, p.LogStart(), p.HighWatermark())
	}
	gb = gb.crashed()
	if p = gb.b.Topic(0, "t").Partition(0); p.HighWatermark() != 101 || p.LogStart() != 10 {
		t.Errorf("from %d to %d", p.LogStart(), p.HighWatermark())
	}
	q, a := gb.b.Topic(0, "t").Partition(1), gb.appender(0)
	_ = a.append(q, batchOf(record.BatchOptions{}, "a"), 1)
	gb.b.RestorePartition(q, 10, 100, nil, func(e error) { err = e })
	if !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a batch is on its way: %v", err)
	}
	gb.pump()
	gb.b.DropTopic(0, TopicID{1})
	gb.b.RestorePartition(q, 10, 100, nil, func(e error) { err = e })
	if !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("dropped: %v", err)
	}
}
