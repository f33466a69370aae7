package raftgroup

import (
	"context"
	"fmt"

	"github.com/sluicemq/sluice/meta"
)

// quietTicks is for how long a node that is about to hand over takes no changes: whoever follows is told in that time what is decided, and applies it.
// Dragonboat has nobody stand for election who has not, and the lead would not be handed over.
const quietTicks = heartbeatTicks + 2

// HandOver has another node lead the group, if this one does, and returns when one does; or with the error of ctx, and an election has to find one. From the call on
// the caller lets nobody count on its lead, and never does again: the others vote at once then, so Silence goes by before, and what tells the other node to stand for
// election may come to it late (section 3.10 of Ongaro's thesis). Changes wait for the other one.
func (g *Group) HandOver(ctx context.Context, to meta.NodeID) error {
	n := g.catalog.Load().Node(to)
	if n == nil || n.State == meta.NodeRemoved || to == g.o.Node {
		return fmt.Errorf("%w: node %d", meta.ErrNoNode, to)
	}
	if _, ok := g.Reign(); !ok {
		return nil
	}
	err := g.handOver(ctx, replicaOf(to, n.Replica))
	if err != nil {
		return fmt.Errorf("hand the lead of the catalog's group over to node %d: %w", to, err)
	}
	return nil
}

func (g *Group) handOver(ctx context.Context, to uint64) error {
	if err := sleep(ctx, (electionTicks-quietTicks)*g.o.Tick); err != nil {
		return err
	}
	g.voice.handing.Store(true)
	defer g.voice.handing.Store(false)
	if err := sleep(ctx, quietTicks*g.o.Tick); err != nil {
		return err
	}
	const again = 10 * (electionTicks + 1) // Dragonboat gives it up after electionTicks
	for i := 0; ; i++ {
		if id, known := g.Leader(); known && id != g.o.Node {
			return nil
		}
		if i%again == 0 {
			if err := g.host.RequestLeaderTransfer(shardID, to); err != nil {
				return err
			}
		}
		if err := sleep(ctx, g.o.Tick/10); err != nil {
			return err
		}
	}
}
