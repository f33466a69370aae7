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

const calmTick = 40 * time.Millisecond

// calmThree is three, all of which know that all vote, with time enough for nobody else to be elected on a machine that others use too.
func calmThree(t *testing.T) *nodes {
	t.Helper()
	ns := three(t, func(o *Options) { o.Tick, o.AnswerWait = calmTick, soon })
	for _, n := range ns.list {
		testx.Eventually(t, soon, func() bool {
			for id := range ns.list {
				if o := n.c.Load().Node(id); o == nil || o.State != meta.NodeActive {
					return false
				}
			}
			return true
		}, "node", n.g.o.Node, "knows all")
	}
	return ns
}

// The lead is handed over, and nobody else is elected, while all nodes change the catalog: each change is made, and not only when the one that a leader lost is given up.
func TestHandOver(t *testing.T) {
	ns := calmThree(t)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var made, late atomic.Int64
	for id, n := range ns.list {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				begin := time.Now()
				if err := n.set(user(fmt.Sprintf("by%d-%d", id, i%1000))); err != nil && !errors.Is(err, meta.ErrConflict) {
					t.Errorf("node %d: change %d: %v", id, i, err)
				}
				if time.Since(begin) > attemptTicks*calmTick {
					late.Add(1)
				}
				made.Add(1)
			}
		})
	}
	for i := range 12 {
		n := ns.leader()
		term, reigns := n.g.Reign()
		to := n.g.o.Node%3 + 1
		if err := n.g.HandOver(within(t), only(to)); err != nil {
			t.Fatal(err)
		}
		id, known := n.g.Leader()
		if now, _ := ns.list[to].g.Reign(); !reigns || !known || id != to || now != term+1 {
			t.Errorf("%d: node %d hands over to %d in term %d: node %d leads in term %d", i, n.g.o.Node, to, term, id, now)
		}
		if i%2 == 1 { // the others at once
			had := made.Load()
			testx.Eventually(t, soon, func() bool { return made.Load() > had+10 }, "changes go on")
		}
	}
	cancel()
	all.Wait()
	t.Logf("%d changes, %d of them late", made.Load(), late.Load())
	if late.Load() > 12 { // each hand-over may meet a change of each node
		t.Errorf("%d changes took longer than one whose loss nobody notices", late.Load())
	}
}

func only(id meta.NodeID) func(meta.NodeID) meta.NodeID {
	return func(meta.NodeID) meta.NodeID { return id }
}

// Who does not lead hands nothing over, and a request for that goes to no other node: who leads there may be counted on.
func TestHandOverOfOthers(t *testing.T) {
	ns := calmThree(t)
	n := ns.leader()
	term, _ := n.g.Reign()
	for id, o := range ns.list {
		if o == n {
			continue
		}
		if err := o.g.HandOver(within(t), only(n.g.o.Node)); err != nil {
			t.Errorf("node %d, which does not lead: %v", id, err)
		}
		if err := o.g.transfer(6 - id - n.g.o.Node); err != nil { // to the third one
			t.Error(err)
		}
		begun := time.Now()
		testx.Eventually(t, soon, func() bool { return time.Since(begun) > 2*electionTicks*calmTick }, "some time goes by")
		o.mustSet(t, user("after"))
	}
	if now, ok := n.g.Reign(); !ok || now != term {
		t.Errorf("it led in term %d, and in %d now: %v", term, now, ok)
	}
}

// Where the node cannot be reached that is asked first, another one is. A node that has failed to hand over leads no more than as long as an election takes: the others elect
// one, and it follows.
func TestHandOverFails(t *testing.T) {
	ns := calmThree(t)
	n := ns.leader()
	first, second := n.g.o.Node%3+1, (n.g.o.Node+1)%3+1
	ns.list[first].net.set(true)
	if err := n.g.HandOver(within(t), func(asked meta.NodeID) meta.NodeID {
		if asked == first {
			return second
		}
		return first
	}); err != nil {
		t.Error(err)
	}
	if id, known := n.g.Leader(); !known || id != second {
		t.Errorf("node %d leads", id)
	}
	ns.list[first].net.set(false)
	ns.list[first].mustSet(t, user("back"))
	n = ns.leader()
	if err := n.g.HandOver(within(t), only(9)); !errors.Is(err, meta.ErrNoNode) {
		t.Errorf("handed over to node 9: %v", err)
	}
	ns.othersLead(n.g.o.Node)
	n.mustSet(t, user("after"))
}
