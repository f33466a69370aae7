package offload

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/history"
	"github.com/sluicemq/sluice/journal/tier/object"
)

func adopt(t *testing.T, w *world, e record.Epoch, sure, dry bool) (g Foreign, err error) {
	t.Helper()
	err = w.f.Alone(bg, func(ctx context.Context, _ Mint) (err error) {
		g, err = w.f.Adopt(ctx, e, sure, dry)
		return err
	})
	return g, err
}

// What a node that is gone has left in the store goes once its epoch is adopted, and not before; nothing else does, and no new object gets the epoch.
func TestAdopt(t *testing.T) {
	dead, _ := produced(t)
	dead.turn()
	dead.f.Close()
	w, mine := produced(t)
	for name, o := range dead.s.objects {
		w.s.objects[name] = o
	}
	left := dead.s.objectNames()
	w.turn()
	if g := w.f.Status().Epoch; g != 2 {
		t.Fatalf("epoch %d", g)
	}
	for range 3 {
		w.clk.Advance(30 * time.Hour)
		w.turn()
	}
	if n := len(w.s.objectNames()); n != len(left)+1 {
		t.Fatalf("%d objects: what another node has written is removed", n)
	}
	if n := w.f.stats.Foreign.Load(); n != int64(len(left)) {
		t.Errorf("%d objects of others are counted", n)
	}
	if _, err := adopt(t, w, 2, true, false); !errors.Is(err, ErrOwnEpoch) {
		t.Error(err)
	}
	if _, err := adopt(t, w, 7, true, false); !errors.Is(err, ErrNoEpoch) {
		t.Error(err)
	}
	g, err := adopt(t, w, 1, false, true)
	if err != nil || g.Objects != len(left) || g.Unknown != len(left) || g.Bytes == 0 || g.UnknownBytes != g.Bytes || g.Last.IsZero() {
		t.Errorf("%+v, %v", g, err)
	}
	w.clk.Advance(30 * time.Hour)
	w.turn()
	if n := len(w.s.objectNames()); n != len(left)+1 {
		t.Fatal("a dry run is not dry")
	}
	if _, err := adopt(t, w, 1, false, false); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if err := w.f.Alone(bg, func(ctx context.Context, _ Mint) error {
		list, err := w.f.Foreigns(ctx)
		if len(list) != 0 {
			t.Errorf("%+v", list)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	w.clk.Advance(30 * time.Hour)
	more(w, mine)
	w.turn()
	for _, name := range w.s.objectNames() {
		if id, _ := object.ParseName(name); id.Epoch == 1 {
			t.Errorf("%s is still there", name)
		}
	}
	if g := w.f.Status().Epoch; g != 2 {
		t.Errorf("epoch %d", g)
	}
	if n := w.f.stats.Foreign.Load(); n != 0 {
		t.Errorf("%d objects of others are counted", n)
	}
	w.check()
}

// A node that may live keeps its epoch, unless somebody is sure.
func TestAdoptLive(t *testing.T) {
	other, _ := produced(t)
	other.turn()
	w, _ := produced(t)
	for name, o := range other.s.objects {
		w.s.objects[name] = o
	}
	w.turn()
	if _, err := adopt(t, w, 1, false, true); !errors.Is(err, ErrLiveEpoch) {
		t.Error(err)
	}
	if _, err := adopt(t, w, 1, true, false); err != nil {
		t.Error(err)
	}
	for _, e := range w.m.Epochs() {
		if e != (history.Epoch{Epoch: e.Epoch, Created: e.Created, Store: "mem", Adopted: e.Epoch == 1}) {
			t.Errorf("%+v", e)
		}
	}
}

// While something has the store for itself no turn runs, and Close ends it.
func TestAlone(t *testing.T) {
	w, _ := produced(t)
	in := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- w.f.Alone(bg, func(ctx context.Context, _ Mint) error {
			close(in)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	<-in
	if err := w.f.Turn(bg); !errors.Is(err, ErrBusy) || w.f.Status().Phase != Alone {
		t.Error(err, w.f.Status().Phase)
	}
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := w.f.Alone(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.f.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// No object goes before a power cut could bring its row back, however short the delay is.
func TestRowsGoFirst(t *testing.T) {
	w, p := produced(t)
	w.o.DeleteDelay = 1
	w.restart()
	w.turn()
	w.deleteBelow(p, p.end)
	deleted := 0
	w.s.setFault(func(op, _ string) *fault {
		if op == "delete" {
			deleted++
			if w.mu.unsynced > 0 {
				t.Error("an object goes whose row may come back")
			}
		}
		return nil
	})
	for range 3 {
		w.clk.Advance(time.Second)
		w.turn()
	}
	if deleted == 0 {
		t.Error("nothing is removed")
	}
}

// A store that is gone is seen while a turn still tries: the error, and when it tries again.
func TestStatusWhileRetrying(t *testing.T) {
	for _, op := range []string{"list", "put"} {
		w, _ := produced(t)
		if op == "put" {
			if _, err := mint(w.f); err != nil {
				t.Fatal(err)
			}
		}
		told := 0
		w.slept = func() {
			s := w.f.Status()
			if s.Err == nil || s.FailedSince.IsZero() || s.NextTry.IsZero() || s.NextTry.After(w.clk.Now()) {
				t.Errorf("%s: %+v", op, s)
			}
			told++
		}
		w.s.setFault(func(o, _ string) *fault {
			if o == op {
				return &fault{err: storeError(tier.Unavailable)}
			}
			return nil
		})
		if err := w.f.Turn(bg); err == nil || told < tries-1 {
			t.Errorf("%s: %v, told %d times", op, err, told)
		}
		w.slept = nil
		w.s.setFault(nil)
		w.turn()
		if s := w.f.Status(); s.Err != nil || !s.NextTry.IsZero() || !s.FailedSince.IsZero() {
			t.Errorf("%s: %+v", op, s)
		}
	}
}
