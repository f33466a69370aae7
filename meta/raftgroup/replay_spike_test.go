//go:build spike

package raftgroup

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"pgregory.net/rapid"

	"github.com/sluicemq/sluice/journal/record"
)

// memoryLog commits what raftLog gathers to a slice, in groups of at most max bytes. Twice the disk is full: at group full, and twice that.
func memoryLog(max, full int) (*raftLog, *[]byte) {
	l, disk := newRaftLog(), new([]byte)
	groups := 0
	l.wake = func() {
		for more := true; more; {
			var group []byte
			if group, more = l.Gather(make([]byte, 0, max), max); len(group) == 0 {
				return
			}
			if groups++; groups == full || groups == 2*full {
				l.Failed(fmt.Errorf("group %d: %w", groups, errFull))
				more = true
				continue
			}
			*disk = append(*disk, group...)
			l.committed()
		}
	}
	return l, disk
}

// view is all that Dragonboat can ask a replica's log.
type view struct {
	State    raftio.RaftState
	NoState  bool
	Snapshot uint64 // index
	Entries  []pb.Entry
}

func look(t *rapid.T, l *raftLog, shard uint64) view {
	st, err := l.ReadRaftState(shard, 1, 0)
	ss, _ := l.GetSnapshot(shard, 1)
	v := view{State: st, NoState: errors.Is(err, raftio.ErrNoSavedLog), Snapshot: ss.Index}
	var size uint64
	v.Entries, size, err = l.IterateEntries(nil, 0, shard, 1, st.FirstIndex, st.FirstIndex+st.EntryCount, 1<<30)
	if err != nil || uint64(len(v.Entries)) != st.EntryCount || (len(v.Entries) > 0) != (size > 0) {
		t.Fatalf("%d entries of %d bytes, %d were said to be there; %v", len(v.Entries), size, st.EntryCount, err)
	}
	return v
}

// TestReplayModel saves updates of three replicas as Raft would, with truncations, snapshots made and installed, and compaction,
// cuts the log at a frame, and replays it: each replica is as it was after one of its saves, and after the last if nothing was cut.
func TestReplayModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, disk := memoryLog(rapid.SampledFrom([]int{100, 700, 1500, 1 << 20}).Draw(t, "group"), rapid.SampledFrom([]int{1, 3, 11, 1 << 20}).Draw(t, "full"))
		const shards = 3
		history := make(map[uint64][]view)
		for s := uint64(1); s <= shards; s++ {
			history[s] = []view{look(t, l, s)}
		}
		for range rapid.IntRange(1, 30).Draw(t, "saves") {
			s := rapid.Uint64Range(1, shards).Draw(t, "shard")
			ud := pb.Update{ShardID: s, ReplicaID: 1}
			g := l.group(s, 1)
			last := g.snapshot.Index
			if len(g.entries) > 0 {
				last = max(last, g.first+uint64(len(g.entries))-1)
			}
			term := g.state.Term + rapid.Uint64Range(0, 1).Draw(t, "term")
			switch rapid.IntRange(0, 9).Draw(t, "op") {
			case 0: // a snapshot made here, and the log behind it compacted
				if last > g.snapshot.Index {
					ud.Snapshot = pb.Snapshot{Index: last, Term: term, ShardID: s}
					must(t, l.SaveSnapshots([]pb.Update{ud}))
					history[s] = append(history[s], look(t, l, s))
					must(t, l.RemoveEntriesTo(s, 1, last-min(last, 2)))
				}
				history[s] = append(history[s], look(t, l, s))
				continue
			case 1: // a snapshot installed
				ud.Snapshot = pb.Snapshot{Index: last + 5, Term: term, ShardID: s}
				last += 5
			}
			from := max(last-min(last, rapid.Uint64Range(0, 3).Draw(t, "truncated")), g.snapshot.Index, ud.Snapshot.Index) + 1
			for i := range rapid.Uint64Range(0, 6).Draw(t, "entries") {
				ud.EntriesToSave = append(ud.EntriesToSave, pb.Entry{
					Term: term, Index: from + i, Cmd: make([]byte, rapid.IntRange(1, 100).Draw(t, "size")),
				})
			}
			ud.State = pb.State{Term: max(term, 1), Vote: 1, Commit: g.snapshot.Index}
			must(t, l.SaveRaftState([]pb.Update{ud}, 1))
			history[s] = append(history[s], look(t, l, s))
		}
		keep := rapid.IntRange(0, 40).Draw(t, "frames kept")
		again := newRaftLog()
		src := *disk
		for frames := 0; len(src) > 0 && frames != keep; frames++ {
			f, n, err := record.DecodeFrame(src)
			must(t, err)
			must(t, again.replay(&f))
			src = src[n:]
		}
		again.endReplay()
		for s := uint64(1); s <= shards; s++ {
			got := look(t, again, s)
			then := history[s]
			if len(src) == 0 {
				then = then[len(then)-1:]
			}
			same := false
			for _, v := range then {
				// The commit index is not always written, so a replay may know an older one.
				v.State.State.Commit, got.State.State.Commit = 0, 0
				same = same || cmp.Equal(v, got)
			}
			if !same {
				t.Fatalf("shard %d replays to\n%+v, last was\n%+v", s, got, then[len(then)-1])
			}
		}
	})
}

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}
