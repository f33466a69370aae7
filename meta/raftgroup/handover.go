package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	dragonboat "github.com/lni/dragonboat/v4"

	"github.com/sluicemq/sluice/meta"
)

// quietTicks is for how long a node that is about to hand over takes no changes: whoever follows is told in that time what is decided, and applies it.
// Dragonboat has nobody stand for election who has not, and the lead would not be handed over.
const quietTicks = heartbeatTicks + 2

// HandOver has another node lead the group, if this one does, and returns when one does. heir says who, at each attempt anew, and is told who was asked last; 0: nobody
// is there. From the call on the caller lets nobody count on this node's lead, and never does again: Silence has to go by between the last time that somebody did and
// an election in which the others vote at once, and what tells the heir to stand for that may come to it late (section 3.10 of Ongaro's thesis). So this node does not
// lead on after an error either, which is that of ctx: it says no more what a leader says, and the others elect one. Changes wait for the other leader.
func (g *Group) HandOver(ctx context.Context, heir func(asked meta.NodeID) meta.NodeID) error {
	if _, ok := g.Reign(); !ok {
		return nil
	}
	if err := g.handOver(ctx, heir); err != nil {
		g.voice.halted.Store(true)
		g.voice.hush(electionTicks * g.o.Tick)
		return fmt.Errorf("hand over the lead of the catalog's group: %w", err)
	}
	return nil
}

func (g *Group) handOver(ctx context.Context, heir func(asked meta.NodeID) meta.NodeID) error {
	if err := sleep(ctx, (electionTicks-quietTicks)*g.o.Tick); err != nil {
		return err
	}
	g.voice.handing.Store(true)
	defer g.voice.handing.Store(false)
	if err := sleep(ctx, quietTicks*g.o.Tick); err != nil {
		return err
	}
	var asked meta.NodeID
	var until time.Time // Dragonboat takes no other request before
	for {
		id, known := g.Leader()
		if known && id != g.o.Node {
			return nil
		}
		if known && time.Now().After(until) {
			if to := heir(asked); to != 0 {
				if err := g.transfer(to); err != nil {
					return err
				}
				asked, until = to, time.Now().Add((electionTicks+1)*g.o.Tick)
			}
		}
		if err := sleep(ctx, g.o.Tick/10); err != nil {
			return err
		}
	}
}

// transfer asks for the lead to be handed over to a node. It goes no further than to this node's own copy (voice).
func (g *Group) transfer(to meta.NodeID) error {
	n := g.catalog.Load().Node(to)
	if n == nil || n.State != meta.NodeActive || to == g.o.Node {
		return fmt.Errorf("%w to hand over to: node %d", meta.ErrNoNode, to)
	}
	if err := g.host.RequestLeaderTransfer(shardID, replicaOf(to, n.Replica)); err != nil && !errors.Is(err, dragonboat.ErrSystemBusy) {
		return err
	}
	return nil
}
