package broker

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

// TestFollowerReads: a follower serves what it has applied, in its leader's epoch alone, and wakes who waits for more. What its log has beyond that nobody sees.
func TestFollowerReads(t *testing.T) {
	tr := newTrio(t)
	s, l := tr.leader.sender(), tr.leader.b.Local(0)
	produce := func(value string) {
		t.Helper()
		if err := l.Append(s.app, tr.leader.part(), batchOf(record.BatchOptions{}, value), AppendOptions{}, 1); err != nil {
			t.Fatal(err)
		}
		tr.leader.pump()
	}
	produce("a")
	tr.carry(1)
	fl, part := tr.follower.b.Local(0), tr.follower.part()
	var f StreamFetch
	read := func(follows record.Epoch, from record.Offset) {
		t.Helper()
		f.Follows = follows
		if fl.FetchTail(part, from, 1<<20, false, &f) {
			t.Fatal("it is not in memory")
		}
	}
	for follows, want := range map[record.Epoch]error{0: ErrNotLeader, 1: nil, 2: ErrNotLeader} {
		if read(follows, 0); !errors.Is(f.Err, want) || (len(f.Batches) == 1) != (want == nil) {
			t.Errorf("in epoch %d: %v, %d batches", follows, f.Err, len(f.Batches))
		}
	}
	produce("b")
	var frames []byte
	tr.leader.log.frames(func(fr record.Frame) {
		if fr.Shard == trioShard && fr.Kind <= record.KindCommand && fr.Index > tr.follower.b.Replica(trioShard).Last {
			frames = record.AppendFrame(frames, &fr)
		}
	})
	if err := tr.follower.b.Follow(trioShard, 1, frames); err != nil {
		t.Fatal(err)
	}
	tr.follower.pump() // the log has it, and it is not committed
	if read(1, 1); f.Err != nil || f.Ahead || f.Bytes != 0 || f.HighWatermark != 1 {
		t.Errorf("what is not committed: %+v", f)
	}
	var w, other Watcher
	woken, told := false, false
	fl.WatchRead(part, &f, false, 1, &w, func() { woken = true })
	if read(1, 2); f.Err != nil || !f.Ahead {
		t.Errorf("ahead of the follower: %v, %v", f.Err, f.Ahead)
	}
	fl.WatchRead(part, &f, true, 1, &other, func() { told = true })
	tr.follower.pump()
	if woken || told {
		t.Error("woken for nothing")
	}
	tr.carry(1)
	if !woken || !told {
		t.Errorf("woken: %v, %v", woken, told)
	}
	if read(1, 1); f.Err != nil || len(f.Batches) != 1 || f.HighWatermark != 2 {
		t.Errorf("what is committed: %+v", f)
	}
	if read(1, -1); !errors.Is(f.Err, ErrOffsetOutOfRange) {
		t.Errorf("before the begin: %v", f.Err)
	}
	f.Release()
	tr.follower.b.Resign(trioShard, func() {})
	tr.follower.pump()
	if read(1, 0); !errors.Is(f.Err, ErrNotLeader) {
		t.Errorf("of no role: %v", f.Err)
	}
}

// TestCurrent: a follower knows of all that was acknowledged once it has come to the begin of its leader's epoch, and not before.
func TestCurrent(t *testing.T) {
	tr := newTrio(t)
	tr.carry(1)
	if !tr.follower.b.current(trioShard) {
		t.Error("it has all, and does not say so")
	}
	history, end := tr.leader.b.ReplicaHistory(trioShard)
	tr.follower.b.FollowLeader(trioShard, 2, history, end, func(_ uint64, err error) {
		if err != nil || tr.follower.b.current(trioShard) {
			t.Errorf("of a leader of whose epoch it has nothing yet: current, or %v", err)
		}
	})
	tr.follower.pump()
	tr.follower.b.Resign(trioShard, func() {})
	tr.follower.pump()
	if tr.follower.b.current(trioShard) {
		t.Error("of no role, and current")
	}
}

// TestFollowerReadsNoStore: what lies in a store alone is the leader's.
func TestFollowerReadsNoStore(t *testing.T) {
	tr := newTrio(t)
	s := tr.leader.sender()
	if err := tr.leader.b.Local(0).Append(s.app, tr.leader.part(), batchOf(record.BatchOptions{}, "a"), AppendOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	tr.leader.pump()
	tr.carry(1)
	tr.follower.log.far = map[record.PartitionID]record.Offset{100: 1}
	f := StreamFetch{Follows: 1}
	fl, done := tr.follower.b.Local(0), false
	if !fl.FetchTail(tr.follower.part(), 0, 1<<20, false, &f) {
		t.Fatal("memory has it")
	}
	fl.FetchCold(tr.follower.part(), 0, 1<<20, false, &f, func() { done = true })
	tr.follower.pump()
	if !done || !errors.Is(f.Err, ErrTier) || f.Bytes != 0 || fl.Leave(&f) {
		t.Errorf("answered: %v, %v, %d bytes", done, f.Err, f.Bytes)
	}
}
