package server

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// setCatalog has the catalog say who has set 1, whose shards are 2 to 5; n is more than that of the last call.
func (w *cutWorld) setCatalog(n uint64, sh meta.Shard) {
	list := []meta.Entry{(&meta.Cluster{ID: "c", Shards: 2, Level: meta.LevelSets, Sets: 2}).Entry()} // the second one was never begun
	for id := uint32(2); id < 6 && sh.Epoch > 0; id++ {
		sh.ID, sh.Change, sh.Replicas = id, n, []meta.NodeID{1, 2, 3}
		list = append(list, sh.Entry())
	}
	w.catalog.Apply(100+n, list)
}

// newSetCutWorld is newCutWorld with set 1, which node 2 leads in epoch 7 and node 1 follows.
func newSetCutWorld(t *testing.T) (*cutWorld, *clusterCut) {
	t.Helper()
	w, cut := newCutWorld(t)
	for range 4 {
		w.shards = append(w.shards, broker.ReplicaState{Role: broker.RoleFollower, Synced: true, Epoch: 7, Last: 9, Durable: 9, HighWatermark: 9, Applied: 9})
	}
	w.setCatalog(1, meta.Shard{Epoch: 7, Leader: 2, ISR: []meta.NodeID{1, 2}})
	return w, cut
}

// A backup has of sets that other nodes lead all that was acknowledged, and nothing that was not: it is refused where the node that takes it is not in sync there,
// or was not for a while, or its log has what is not committed yet.
func TestCutOfSetsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		before, meanwhile func(w *cutWorld)
		want              string
	}{
		"is not in sync": {before: func(w *cutWorld) { w.setCatalog(2, meta.Shard{Epoch: 7, Leader: 2, ISR: []meta.NodeID{2, 3}}) }, want: "not in sync in set 1"},
		"is eligible": {before: func(w *cutWorld) {
			w.setCatalog(2, meta.Shard{Epoch: 7, Leader: 2, ISR: []meta.NodeID{2}, Eligible: []meta.NodeID{1, 3}})
		}, want: "not in sync in set 1"},
		"follows nobody":           {before: func(w *cutWorld) { w.setCatalog(2, meta.Shard{Epoch: 7, ISR: []meta.NodeID{1, 2}}) }, want: "not in sync in set 1"},
		"follows an old leader":    {before: func(w *cutWorld) { w.shards[3].Epoch = 6 }, want: "just begun to follow"},
		"has yet to follow":        {before: func(w *cutWorld) { w.shards[5].Synced = false }, want: "just begun to follow"},
		"has no role":              {before: func(w *cutWorld) { w.shards[2].Role = broker.RoleNone }, want: "just begun to follow"},
		"does not lead it yet":     {before: func(w *cutWorld) { w.setCatalog(2, meta.Shard{Epoch: 7, Leader: 1, ISR: []meta.NodeID{1, 2}}) }, want: "just begun to follow"},
		"has what is uncommitted":  {before: func(w *cutWorld) { w.shards[4].Applied = 8 }, want: "not committed"},
		"follows another one then": {meanwhile: func(w *cutWorld) { w.shards[4].Epoch = 8 }, want: "the lead went"},
		"was out for a while":      {meanwhile: func(w *cutWorld) { w.setCatalog(3, meta.Shard{Epoch: 7, Leader: 2, ISR: []meta.NodeID{1, 2}}) }, want: "have changed"},
		"lacks what has begun": {before: func(w *cutWorld) { w.shards = w.shards[:6] }, meanwhile: func(w *cutWorld) {
			sh := meta.Shard{ID: 6, Change: 1, Epoch: 1, Leader: 3, Replicas: []meta.NodeID{3}, ISR: []meta.NodeID{3}}
			w.catalog.Apply(200, []meta.Entry{sh.Entry()})
		}, want: "have changed"},
	} {
		t.Run(name, func(t *testing.T) {
			w, cut := newSetCutWorld(t)
			cut.wait = 5 * time.Millisecond
			if c.before != nil {
				c.before(w)
			}
			err := cut.begin(t.Context(), true)
			if err == nil {
				if c.meanwhile != nil {
					c.meanwhile(w)
				}
				err = cut.seal(t.Context())
			}
			if err := backupFault(err); !errors.Is(err, control.ErrBackupUnable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A node takes a backup of what it follows, and of what it leads; it waits until it follows, and until what it has is committed.
func TestCutOfSetsWaits(t *testing.T) {
	for _, role := range []broker.Role{broker.RoleFollower, broker.RoleLeader} {
		w, cut := newSetCutWorld(t)
		if role == broker.RoleLeader {
			w.setCatalog(2, meta.Shard{Epoch: 7, Leader: 1, ISR: []meta.NodeID{1, 2}})
		}
		for i := range w.shards[2:] {
			w.shards[2+i].Role = role
		}
		w.shards[5].Epoch, w.shards[4].Applied = 6, 5
		n := 0
		w.asked = func(w *cutWorld) {
			if n++; n == 20 {
				w.shards[5].Epoch = 7
			}
			if n > 20 {
				w.shards[4].Applied++
			}
		}
		if err := cut.takes(true); err != nil {
			t.Error(err)
		}
		if w.shards[4].Applied < 9 || w.calls < 3 {
			t.Errorf("%+v is a backup, after %d questions to the majority", w.shards[4], w.calls)
		}
	}
}

// setCore is a core of two shards and one set behind them, over a log.
func setCore(t *testing.T, fs vfs.FS) (*broker.Broker, *logStorage) {
	t.Helper()
	b := broker.New(broker.Options{Replicated: true, Shards: 2, StreamSets: 1, Loops: 1, ResolveTopic: resolveTopic})
	b.Local(0).SetWake(func() {})
	st, err := openStorage(storageOptions{dir: "journal", fs: fs, segmentBytes: 4 << 20, tailBytes: 1 << 20, groupBytes: 64 << 10, checkpointInterval: time.Hour, checkpointBytes: 1 << 30}, b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.SetStreamSets(1)
	return b, st.(*logStorage)
}

// until drains the core's loop until a condition holds.
func until(t *testing.T, b *broker.Broker, what string, fn func() bool) {
	t.Helper()
	testx.Eventually(t, 20*time.Second, func() bool { b.Local(0).Drain(); return fn() }, what)
}

// noSink hears of nothing.
type noSink struct{}

func (noSink) Appended(broker.Token, broker.AppendResult) {}
func (noSink) Resume()                                    {}

// What a log has of a set, and has not heard to be committed, is in the tables of what is restored of a backup, like that of the first one: the backup was sealed
// when it was.
func TestSettleSets(t *testing.T) {
	fs := vfs.NewMem()
	b, st := setCore(t, fs)
	for id := range record.ShardID(6) {
		b.Lead(id, 1, nil, 1, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	until(t, b, "all are open", func() bool { return b.Leading() && b.Leads(2, 4) })
	var spec *broker.TopicSpec
	b.CreateTopic(0, "wide", broker.TopicID{1}, 4, []broker.Setting{{Key: "leader.spread", Value: "true"}}, func(s *broker.TopicSpec, err error) {
		if spec = s; err != nil {
			t.Error(err)
		}
	})
	until(t, b, "the topic is there", func() bool { return spec != nil || t.Failed() })
	part := b.Topic(0, "wide").Partition(0)
	shard := part.Shard()
	if shard < 2 {
		t.Fatalf("it lies in shard %d", shard)
	}
	if err := b.SetInSync(shard, 1, []uint64{2}, 2); !errors.Is(err, broker.ErrGap) { // node 2 has nothing
		t.Fatal(err)
	}
	var batch record.BatchBuilder
	batch.Begin(nil, 1000)
	batch.Append(&record.Input{Value: []byte("x"), Timestamp: 1000})
	if err := b.Local(0).Append(b.Local(0).NewAppender(noSink{}), part, batch.Finish(&record.BatchOptions{}), broker.AppendOptions{}, 1); err != nil {
		t.Fatal(err)
	}
	until(t, b, "it is in the log", func() bool { r := b.Replica(shard); return r.Durable == r.Last && r.Last > r.HighWatermark })
	err := st.close()
	b.Close()
	if err != nil {
		t.Fatal(err)
	}

	b, st = setCore(t, fs)
	defer func() {
		if err := st.close(); err != nil {
			t.Error(err)
		}
		b.Close()
	}()
	if err := settle(b, 2); err != nil {
		t.Fatal(err)
	}
	if part = b.Topic(0, "wide").Partition(0); part.HighWatermark() != 1 {
		t.Errorf("its high watermark is %d: %+v", part.HighWatermark(), b.Replica(shard))
	}
}
