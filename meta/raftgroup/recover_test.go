package raftgroup

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/meta"
)

// A recovery that is cut off at any step is refused at the start, and ends well when it is done again, with what the first call has found.
func TestRecoverCutOff(t *testing.T) {
	errCut := errors.New("cut")
	for _, at := range []string{"before the name", "after the name"} {
		dir := t.TempDir()
		survivorIn(t, dir)
		_, err := Recover(dir, "new", slog.New(slog.DiscardHandler), func(string) error {
			if at == "before the name" {
				return errCut
			}
			return os.Mkdir(filepath.Join(dir, "raft.lost-old", "x"), 0o750) // what is there already cannot be replaced
		})
		if err == nil {
			t.Fatalf("%s: it was not cut off", at)
		}
		g := New(Options{Dir: dir, Node: 2, Cluster: "new", Form: &Form{}})
		if err := g.identify(); !errors.Is(err, ErrRecovery) {
			t.Errorf("%s: a start says %v", at, err)
		}
		_ = os.RemoveAll(filepath.Join(dir, "raft.lost-old"))
		s, err := Recover(dir, "another", slog.New(slog.DiscardHandler), func(name string) error {
			if name != "new" {
				t.Errorf("%s: another name the second time: %s", at, name)
			}
			return nil
		})
		if err != nil || s.Cluster != "old" || s.Node != 2 || s.Epoch != 7 || !s.Whole {
			t.Fatalf("%s: again: %+v, %v", at, s, err)
		}
		if s, err := ReadSurvivor(dir); err != nil || s.Now != "new" || s.Cluster != "old" {
			t.Errorf("%s: afterwards it says %+v, %v", at, s, err)
		}
		g = New(Options{Dir: dir, Node: 2, Cluster: "new", Join: []string{"h:1"}})
		if err := g.identify(); err != nil {
			t.Fatal(err)
		}
		if g.o.Join != nil || g.o.Form == nil || len(g.o.Form.Entries) != 2 {
			t.Errorf("%s: it joins %v, and forms %+v", at, g.o.Join, g.o.Form)
		}
		if _, err := os.Stat(filepath.Join(dir, "state.lost-old")); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// survivorIn writes what node 2 of a lost cluster has: two shards in epoch 7, the second one with another epoch.
func survivorIn(t *testing.T, dir string, more ...meta.Entry) {
	t.Helper()
	id := newIdentity(2)
	id.cluster, id.copy, id.started = "old", 1, true
	if err := id.write(dir); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"raft", "raft.lost-old"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openState(filepath.Join(dir, "state"), nil, slog.New(slog.DiscardHandler), func(uint64, []meta.Entry) {})
	if err != nil {
		t.Fatal(err)
	}
	nodes := []meta.NodeID{1, 2}
	entries := []meta.Entry{(&meta.Cluster{ID: "old", Shards: 2, Level: 1}).Entry(),
		(&meta.Node{ID: 2, State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Level: 1, Disk: "d", Address: "h:1"}).Entry(),
		(&meta.Shard{ID: 0, Change: 4, Epoch: 7, Leader: 1, Replicas: nodes, ISR: nodes}).Entry(),
		(&meta.Shard{ID: 1, Change: 4, Epoch: 8, Leader: 1, Replicas: nodes, ISR: nodes}).Entry()}
	entries = append(entries, more...)
	list := []decided{{index: 1, cmd: appendCommand(nil, &command{replica: id.replica(), run: 1, seq: 1, changes: entries})}}
	if err := errors.Join(s.update(list), s.sync(), s.close()); err != nil {
		t.Fatal(err)
	}
}

// A node has all that was acknowledged if it was in sync in every set of shards, and says which sets it has nothing of.
func TestSurvivorOfSets(t *testing.T) {
	c := &meta.Cluster{ID: "old", Shards: 2, Level: meta.LevelSets, Sets: 2}
	set := func(number int, nodes, inSync []meta.NodeID) meta.Entry {
		return (&meta.Shard{ID: c.Set(number).First, Change: 1, Epoch: 3, Leader: inSync[0], Replicas: nodes, ISR: inSync}).Entry()
	}
	both := []meta.NodeID{1, 2}
	for _, v := range []struct {
		name  string
		more  []meta.Entry
		whole bool
		lost  []int
	}{
		{"in sync in all", []meta.Entry{set(1, both, both), set(2, both, both)}, true, nil},
		{"not in one", []meta.Entry{set(1, both, both[:1]), set(2, both, both)}, false, nil},
		{"no part in one", []meta.Entry{set(1, both, both), set(2, both[:1], both[:1])}, false, []int{2}},
	} {
		dir := t.TempDir()
		survivorIn(t, dir, append([]meta.Entry{c.Entry()}, v.more...)...)
		s, err := ReadSurvivor(dir)
		if err != nil || s.Whole != v.whole || !slices.Equal(s.Lost, v.lost) {
			t.Errorf("%s: %+v, %v", v.name, s, err)
		}
	}
}
