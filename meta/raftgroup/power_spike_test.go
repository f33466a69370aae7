//go:build spike

package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
)

// TestPowerCut saves from several workers at once and cuts the power at moments when something is about to become durable: what is
// left, with or without torn sectors, holds every entry whose save had returned, term and vote with it, and no entry with a gap
// or with other content.
func TestPowerCut(t *testing.T) {
	const workers, shardsEach, saves = 4, 4, 60
	options := func(fs vfs.FS) journal.Options {
		return journal.Options{Dir: "log", FS: fs, SegmentBytes: 1 << 20, GroupBytesMax: 32 << 10, TailBytes: 64 << 10}
	}
	type image struct {
		fs    *vfs.Mem
		known [workers*shardsEach + 1]uint64
	}
	var images []image
	var known [workers*shardsEach + 1]atomic.Uint64 // last index whose save returned
	mem := vfs.NewMem()
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex // guards rng and images: files are synced by several goroutines
	mem.OnSync = func(string, string) {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(5) != 0 {
			return
		}
		im := image{}
		for i := range known {
			im.known[i] = known[i].Load() // before the cut: what is acknowledged later need not be there
		}
		cut := vfs.Cut{}
		if rng.IntN(2) == 0 {
			cut.Rand = rand.New(rand.NewPCG(rng.Uint64(), 0))
		}
		im.fs = mem.Crash(cut)
		images = append(images, im)
	}
	l, _, err := openJournal(options(mem))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() {
			for i := range uint64(saves) {
				var uds []pb.Update
				for s := w*shardsEach + 1; s <= (w+1)*shardsEach; s++ {
					uds = append(uds, powerUpdate(s, i))
				}
				if err := l.SaveRaftState(uds, w+1); err != nil {
					t.Error(err)
					return
				}
				for _, ud := range uds {
					known[ud.ShardID].Store(ud.EntriesToSave[len(ud.EntriesToSave)-1].Index)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d power cuts, %d saves in %d groups of the log", len(images), l.saves.Load(), l.commits.Load())
	for n, im := range images {
		if err := powerImage(options(im.fs), im.known[:]); err != nil {
			t.Errorf("cut %d: %v", n, err)
		}
	}
}

// powerImage opens what a cut left, and checks it against what was known before.
func powerImage(o journal.Options, known []uint64) error {
	l, _, err := openJournal(o)
	if err != nil {
		return err
	}
	errs := []error{}
	for s := 1; s < len(known); s++ {
		errs = append(errs, powerCheck(l, uint64(s), known[s]))
	}
	return errors.Join(append(errs, l.Close())...)
}

// powerUpdate is the i-th save of a shard: three entries, in a new term every tenth time.
func powerUpdate(shard, i uint64) pb.Update {
	ud := pb.Update{ShardID: shard, ReplicaID: 1, State: pb.State{Term: 1 + i/10, Vote: 1}}
	for k := range uint64(3) {
		e := pb.Entry{Term: ud.State.Term, Index: 3*i + k + 1, Cmd: make([]byte, 600)}
		binary.LittleEndian.PutUint64(e.Cmd, shard<<32|e.Index)
		ud.EntriesToSave = append(ud.EntriesToSave, e)
	}
	return ud
}

func powerCheck(l *raftLog, shard, known uint64) error {
	g := l.group(shard, 1)
	last := uint64(0)
	for i, e := range g.entries {
		if e.Index != uint64(i)+1 || binary.LittleEndian.Uint64(e.Cmd) != shard<<32|e.Index || e.Term != 1+(e.Index-1)/30 {
			return fmt.Errorf("shard %d: entry %d of term %d at place %d", shard, e.Index, e.Term, i+1)
		}
		last = e.Index
	}
	if last < known || last%3 != 0 {
		return fmt.Errorf("shard %d ends at %d, %d was saved", shard, last, known)
	}
	if last > 0 && (g.state.Term != 1+(last-1)/30 || g.state.Vote != 1) {
		return fmt.Errorf("shard %d: term %d, vote %d behind entry %d", shard, g.state.Term, g.state.Vote, last)
	}
	return nil
}
