package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// The lead is handed over as soon as nobody has counted on it for long enough, while all nodes change the catalog: each change is made, and soon.
func TestHandOver(t *testing.T) {
	ns := three(t, func(o *Options) { o.Tick = 40 * time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var made atomic.Int64
	var longest [4]time.Duration
	for id, n := range ns.list {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				begin := time.Now()
				if err := n.set(user(fmt.Sprintf("by%d-%d", id, i%1000))); err != nil && !errors.Is(err, meta.ErrConflict) {
					t.Errorf("node %d: change %d: %v", id, i, err)
				}
				longest[id] = max(longest[id], time.Since(begin))
				made.Add(1)
			}
		})
	}
	for i := range 12 {
		n := ns.leader()
		_, reigns := n.g.Reign()
		to := n.g.o.Node%3 + 1
		begin := time.Now()
		if err := n.g.HandOver(within(t), to); err != nil {
			t.Fatal(err)
		}
		id, known := n.g.Leader()
		if d := time.Since(begin); d > (electionTicks+2)*n.g.o.Tick || !reigns || !known || id != to {
			t.Errorf("%d: node %d hands over to %d in %v: node %d leads", i, n.g.o.Node, to, d, id)
		}
		if i%2 == 1 { // the others at once
			had := made.Load()
			testx.Eventually(t, soon, func() bool { return made.Load() > had+10 }, "changes go on")
		}
	}
	cancel()
	all.Wait()
	t.Logf("%d changes, the longest of each node took %v", made.Load(), longest[1:])
	for id, d := range longest {
		if d > attemptTicks*40*time.Millisecond { // as one whose loss nobody notices
			t.Errorf("a change of node %d took %v", id, d)
		}
	}
}

// The lead is not handed over to a node that is not one, nor by one that does not lead; where the other node cannot be reached, that takes no longer than the caller waits.
func TestHandOverRefused(t *testing.T) {
	ns := three(t, nil)
	n := ns.leader()
	for _, to := range []meta.NodeID{n.g.o.Node, 9} {
		if err := n.g.HandOver(within(t), to); !errors.Is(err, meta.ErrNoNode) {
			t.Errorf("handed over to node %d: %v", to, err)
		}
	}
	for id, o := range ns.list {
		if o != n {
			if err := o.g.HandOver(within(t), id%3+1); err != nil {
				t.Errorf("node %d, which does not lead: %v", id, err)
			}
		}
	}
	to := n.g.o.Node%3 + 1
	ns.list[to].net.set(true)
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := n.g.HandOver(short, to); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("handed over to one that is cut off: %v", err)
	}
	n.mustSet(t, user("after"))
}
