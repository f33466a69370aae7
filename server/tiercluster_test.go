package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
	"github.com/sluicemq/sluice/journal/tier/offload"
	"github.com/sluicemq/sluice/meta"
)

// shared gives the node's tier the part that one of a cluster has; nobody leads.
func (w *tierWorld) shared(forms bool) *tierLead {
	t := w.n.tier
	l := &tierLead{cluster: "abc", forms: forms, lone: t.name, woken: make(chan struct{}, 1)}
	l.letting = letting{t: t, checkpoint: t.log.checkpoint, want: make(map[record.PartitionID]record.Offset), seen: make(map[object.ID]struct{})}
	t.lead = l
	return l
}

// Local copies go when this node's store has what the manifest names, and no sooner: the leader's may be another place. What is there all the same goes.
func TestLetGoOfWhatIsThere(t *testing.T) {
	w := newOffloaded(t)
	defer w.stop()
	l := w.shared(false)
	log := clusterLog{offloadLog{w.n.tier.log}, &l.letting}
	turn := func() error {
		ch := make(chan error, 1)
		go func() { ch <- l.letting.turn(context.Background()) }()
		return w.wait("turn", 500*time.Millisecond, ch)
	}
	a, b := w.partition(w.topics[0], 0).ID(), w.partition(w.topics[0], 1).ID()
	startA, startB := log.LocalStart(a), log.LocalStart(b)
	_, endA, _ := w.n.tier.manifest.Bounds(a)
	_, endB, _ := w.n.tier.manifest.Bounds(b)
	if startA >= endA || startB >= endB {
		t.Fatalf("the log has from %d and %d, the store up to %d and %d", startA, startB, endA, endB)
	}
	log.SetLocalStart(a, endA)
	if log.LocalStart(a) != startA {
		t.Error("it is let go of before anybody has looked")
	}
	name := w.n.tier.manifest.Runs(a, startA, 1)[0].ID.Name()
	w.store.mu.Lock()
	taken := w.store.objects[name]
	delete(w.store.objects, name)
	w.store.mu.Unlock()
	if err := turn(); !errors.Is(err, tier.ErrNotFound) || log.LocalStart(a) != startA {
		t.Errorf("%v, the log has from %d", err, log.LocalStart(a))
	}
	w.store.mu.Lock()
	w.store.objects[name] = taken
	w.store.mu.Unlock()
	// Without a checkpoint that has the rows a restart might not know of them, and take for deleted what the log lacks.
	l.letting.checkpoint = func() bool { return false }
	log.SetLocalStart(a, endA)
	if err := turn(); err != nil || log.LocalStart(a) != startA {
		t.Errorf("without a checkpoint: %v, the log has from %d", err, log.LocalStart(a))
	}
	l.letting.checkpoint = func() bool {
		if log.LocalStart(a) != startA {
			t.Error("it is let go of before the checkpoint")
		}
		return w.n.tier.log.checkpoint()
	}
	log.SetLocalStart(a, endA)
	if err := turn(); err != nil || log.LocalStart(a) < endA || log.LocalStart(b) != startB {
		t.Errorf("%v, the log has from %d and %d", err, log.LocalStart(a), log.LocalStart(b))
	}
	l.letting.checkpoint = w.n.tier.log.checkpoint
	log.SetLocalStart(b, endB)
	if err := turn(); err != nil || log.LocalStart(b) < endB {
		t.Errorf("%v, the log has from %d", err, log.LocalStart(b))
	}
	w.n.tier.lead = nil
}

// A node that stops while it makes an Offloader for its lead leaves none behind.
func TestStopsWhileItTakesOver(t *testing.T) {
	out := offload.New(offload.Options{})
	tr := &tiering{lead: &tierLead{woken: make(chan struct{}, 1)}}
	tr.lead.mu.out, tr.lead.mu.epoch, tr.lead.mu.wanted = out, 3, 3
	ctx, stop := context.WithCancel(context.Background())
	stop()
	tr.followLead(ctx, offload.Options{})
	if tr.lead.mu.out != nil {
		t.Error("it is there, and is not closed")
	}
}

// What a node that does not lead is asked for it refuses.
func TestFollowerRefuses(t *testing.T) {
	w := newOffloaded(t)
	defer w.stop()
	out := w.n.tier.out
	w.shared(false).leader = func() (node meta.NodeID, known bool) { return 7, true }
	if _, err := w.n.tier.offloader(); !errors.Is(err, broker.ErrNotLeader) || !strings.Contains(err.Error(), "node 7") {
		t.Error(err)
	}
	if s := w.n.tier.status(); s.Phase != "node 7 leads, and offloads" {
		t.Errorf("%+v", s)
	}
	w.n.tier.lead = nil
	if got, err := w.n.tier.offloader(); err != nil || got != out {
		t.Error("a node that is alone has none")
	}
}

// The node that forms a cluster brings along what it has written to the store while it was alone, and not what the node has that it was restored from.
func TestClusterTakesOver(t *testing.T) {
	w := newOffloaded(t)
	defer w.stop()
	tr := w.n.tier
	other := history.Epoch{Epoch: 77, Created: 1, Store: tr.store.name + copyMark + "other"}
	w.must("row", func(done func(error)) {
		w.n.broker.ChangeTier(0, []broker.TierChange{{Key: other.Key(), Value: other.Encode(nil)}}, done)
	})
	lone := tr.name
	w.shared(true)
	defer func() { tr.lead, tr.name = nil, lone }()
	tr.name = tr.store.name + clusterMark + "abc"
	tr.rename(0)
	w.must("all before", func(done func(error)) {
		w.n.broker.ChangeTier(0, []broker.TierChange{{Key: other.Key(), Value: other.Encode(nil)}}, done)
	})
	for _, e := range tr.manifest.Epochs() {
		want := tr.name
		if e.Epoch == 77 {
			want = other.Store
		}
		if e.Store != want || e.Epoch != 77 && !e.Adopted {
			t.Errorf("epoch %+v, want %q", e, want)
		}
	}
	if !slices.ContainsFunc(tr.manifest.Epochs(), func(e history.Epoch) bool { return e.Store == tr.name }) {
		t.Error("nothing was taken over")
	}
}

func TestMarkOf(t *testing.T) {
	for name, want := range map[string]string{"local dir=/a": "", "s3 bucket=b restored=12": " restored=12", "local dir=/a cluster=x": " cluster=x"} {
		if got := markOf(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}
