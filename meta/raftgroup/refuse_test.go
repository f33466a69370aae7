package raftgroup

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// refusedStart starts a node that must not, and closes it.
func (ns *nodes) refusedStart(t *testing.T, n *testNode, want error) {
	t.Helper()
	if err := n.g.Start(within(t), n.c); !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
	_ = n.g.Close()
}

// told is a log that calls a function with each line's error.
type told struct {
	slog.Handler
	err func(error)
}

func (l told) Enabled(context.Context, slog.Level) bool { return true }

func (l told) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			l.err(err)
		}
		return true
	})
	return nil
}

// notAdded has node 2 ask to join: it asks again when it is refused, and when it ends says what it was refused for. It does not ask for longer
// than JoinWait, in which a starved machine may bring it no answer.
func (ns *nodes) notAdded(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ns.tweak = func(o *Options) {
		o.Logger = slog.New(told{slog.DiscardHandler, func(err error) {
			if errors.Is(err, ErrNotAdded) {
				cancel()
			}
		}})
	}
	n := ns.open(2, "", address)
	if err := n.g.Start(ctx, n.c); !errors.Is(err, ErrNotAdded) {
		t.Errorf("%v, want %v", err, ErrNotAdded)
	}
	_ = n.g.Close()
	ns.tweak = func(o *Options) { o.JoinWait = 200 * time.Millisecond }
	n = ns.open(2, "", address)
	ctx = within(t)
	if err := n.g.Start(ctx, n.c); err == nil || ctx.Err() != nil {
		t.Errorf("%v, want a node that gives up asking (%v)", err, ctx.Err())
	}
	_ = n.g.Close()
}

// A data directory of another node, of another cluster, with another number of shards, or an address that is none: refused by name.
func TestRefusedStarts(t *testing.T) {
	ns := newNodes(t)
	first := ns.start(1, "")
	first.mustSet(t, user("a"))
	address := first.address

	ns.notAdded(t, address)
	ns.tweak = func(o *Options) { o.Shards = 5 }
	if err := first.g.Add(within(t), meta.Node{ID: 3, Roles: meta.RolesAll, Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	ns.refusedStart(t, ns.open(3, "", address), ErrShards)
	ns.tweak = func(o *Options) { o.Cluster = "cluster-b" }
	ns.refusedStart(t, ns.open(4, "", address), ErrOtherCluster)
	ns.tweak = func(o *Options) { o.Node = 1 }
	ns.refusedStart(t, ns.open(5, "", address), ErrOtherNode)

	ns.stop(1)
	ns.tweak = func(o *Options) { o.Node = 2 }
	ns.refusedStart(t, ns.open(1, address), ErrOtherDisk)
	ns.tweak = func(o *Options) { o.Cluster = "cluster-b" }
	ns.refusedStart(t, ns.open(1, address), ErrOtherCluster)
	ns.tweak = func(o *Options) { o.Shards = 5 }
	ns.refusedStart(t, ns.open(1, address), ErrShards)
	ns.tweak = func(o *Options) { o.Form, o.Dir = nil, t.TempDir() }
	n := ns.open(1, "")
	if err := n.g.Start(within(t), n.c); err == nil {
		t.Error("a node of no cluster has started")
	}
	_ = n.g.Close()
	ns.tweak = nil
	if ns.start(1, address).c.Load().User("a") == nil {
		t.Error("after all of that the node has nothing")
	}
}
