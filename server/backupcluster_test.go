package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/localtier"
	"github.com/sluicemq/sluice/meta"
)

// cutWorld is a node of a cluster as a cut sees it. asked, if it is set, is called before each answer about a shard.
type cutWorld struct {
	state   cutState
	shards  []broker.ReplicaState
	catalog *meta.Catalog
	asked   func(w *cutWorld)
	silent  int // of which barrier on the majority does not answer, from 1 on; 0: it does
	calls   int
}

func (w *cutWorld) now() cutState { return w.state }

func (w *cutWorld) replica(id record.ShardID) broker.ReplicaState {
	if w.asked != nil {
		w.asked(w)
	}
	return w.shards[id]
}

func (w *cutWorld) barrier(context.Context) error {
	if w.calls++; w.calls == w.silent {
		return errors.New("nobody is there")
	}
	return nil
}

func (w *cutWorld) snapshot() *meta.Snapshot { return w.catalog.Load() }

// leads has the catalog say who leads all shards.
func (w *cutWorld) leads(id meta.NodeID, epoch uint32) {
	var list []meta.Entry
	for i := range w.shards {
		sh := &meta.Shard{ID: uint32(i), Change: uint64(epoch), Epoch: epoch, Leader: id, Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{1, 2}}
		list = append(list, sh.Entry())
	}
	w.catalog.Apply(uint64(epoch), list)
}

// newCutWorld is one of two shards, which node 1 leads, and which have all that is in their logs.
func newCutWorld(t *testing.T) (*cutWorld, *clusterCut) {
	t.Helper()
	w := &cutWorld{state: cutState{own: 1, epoch: 5, leads: true}, catalog: newCatalogStore().Catalog}
	for range 2 {
		w.shards = append(w.shards, broker.ReplicaState{Role: broker.RoleLeader, Epoch: 5, Last: 9, Durable: 9, HighWatermark: 9, Applied: 9})
	}
	if err := w.catalog.Recovered(); err != nil {
		t.Fatal(err)
	}
	w.leads(1, 5)
	return w, &clusterCut{at: w, shards: len(w.shards), wait: 5 * time.Second}
}

func (c *clusterCut) takes(written bool) error {
	if err := c.begin(context.Background(), written); err != nil {
		return err
	}
	return c.seal(context.Background())
}

// A backup of a cluster is refused, by name and so that the control plane says it can be asked for again, where it might have what the cluster has not
// committed, or lack what it has: at a node that does not lead, that applies no changes any more, that loses the lead at any moment, or whose majority is silent.
func TestCutRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *cutWorld)
		wait   time.Duration
		failed bool // the checkpoint
		want   string
	}{
		"follows":             {change: func(w *cutWorld) { w.state.leads = false }, want: "does not lead"},
		"halts":               {change: func(w *cutWorld) { w.state.halted = errors.New("its disk is gone") }, want: "its disk is gone"},
		"has no store":        {change: func(w *cutWorld) { w.state.storeless = true }, want: "tier.store of this node is off"},
		"takes over":          {change: func(w *cutWorld) { w.state.entries = 3 }, want: "while it was alone"},
		"has no checkpoint":   {failed: true, want: "checkpoint"},
		"is cut off":          {change: func(w *cutWorld) { w.silent = 1 }, want: "majority"},
		"is cut off later":    {change: func(w *cutWorld) { w.silent = 2 }, want: "majority"},
		"is deposed":          {change: func(w *cutWorld) { w.shards[1].Role = broker.RoleFollower }, want: "the lead went"},
		"lets go":             {change: func(w *cutWorld) { w.shards[0].Role = broker.RoleNone }, want: "the lead went"},
		"leads anew":          {change: func(w *cutWorld) { w.shards[1].Epoch = 6 }, want: "the lead went"},
		"has led before":      {change: func(w *cutWorld) { w.leads(1, 6) }, want: "the lead went"},
		"is late to know":     {change: func(w *cutWorld) { w.leads(2, 5) }, want: "the lead went"},
		"is one of too few":   {change: func(w *cutWorld) { w.shards[1].Applied, w.shards[1].HighWatermark = 8, 8 }, wait: time.Millisecond, want: "not committed"},
		"has yet to apply it": {change: func(w *cutWorld) { w.shards[1].Applied = 8 }, wait: time.Millisecond, want: "not committed"},
		"is deposed while it waits": {change: func(w *cutWorld) {
			w.shards[1].Applied = 8
			n := 0
			w.asked = func(w *cutWorld) {
				if n++; n == 6 {
					w.shards[1].Role = broker.RoleFollower
				}
			}
		}, want: "the lead went"},
	} {
		w, cut := newCutWorld(t)
		if c.change != nil {
			c.change(w)
		}
		if c.wait > 0 {
			cut.wait = c.wait
		}
		err := backupFault(cut.takes(!c.failed))
		if !errors.Is(err, control.ErrBackupUnable) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a node that %s: %v, want %q", name, err, c.want)
		}
	}
}

// What is in the log and not committed yet is waited for, and what comes behind it is not.
func TestCutWaits(t *testing.T) {
	w, cut := newCutWorld(t)
	w.shards[1].Applied = 5
	w.asked = func(w *cutWorld) {
		w.shards[1].Last++
		w.shards[1].Applied++
	}
	if err := cut.takes(true); err != nil {
		t.Error(err)
	}
	if w.shards[1].Applied < 9 {
		t.Errorf("%+v is a backup", w.shards[1])
	}
	var alone *clusterCut
	if err := errors.Join(alone.begin(t.Context(), false), alone.seal(t.Context())); err != nil {
		t.Errorf("a node that is alone: %v", err)
	}
}

// A node that cannot reach the store in which history lies deletes no backup: what that holds there would stay for good.
func TestStorelessDeletesNoBackup(t *testing.T) {
	n, _ := testNode(t, vfs.NewMem())
	defer func() {
		if err := stopNode(n); err != nil {
			t.Error(err)
		}
	}()
	row := history.Epoch{Epoch: 3, Created: 1, Store: "elsewhere"}
	done := make(chan error, 1)
	n.broker.ChangeTier(0, []broker.TierChange{{Key: row.Key(), Value: row.Encode(nil)}}, func(err error) { done <- err })
	if err := <-done; err != nil || !n.storeless() {
		t.Fatal(err, n.storeless())
	}
	dir := t.TempDir()
	st, err := localtier.Open(t.Context(), localtier.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	w, err := backup.Create(t.Context(), st, backup.Options{})
	if err == nil {
		_, err = w.Finish(t.Context(), func(*backup.Manifest) {})
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{node: n}
	cfg := config.Default()
	cfg.Backup.Store = "local:dir=" + dir
	s.cfg.Store(&cfg)
	b := &backups{s: s}
	if err := b.Delete(t.Context(), w.ID(), func(control.BackupProgress) {}); !errors.Is(err, control.ErrBackupUnable) || !strings.Contains(err.Error(), "tier.store of this node is off") {
		t.Error(err)
	}
	if list, err := b.List(t.Context()); err != nil || len(list) != 1 || list[0].ID != w.ID() {
		t.Errorf("%+v, %v", list, err)
	}
}
