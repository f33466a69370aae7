package cluster

import (
	"context"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// handOverWait bounds how long a node that is about to stop waits until another one leads the catalog's group.
const handOverWait = 2 * time.Second

// HandOver has another node lead the catalog's group, if this one does: it is about to stop, and has left the lead of its shards to others (Controller.Leave). An
// election would take as long as a node that is silent is waited for, and who leads shards would be granted nothing all the while. controls are all Controllers of
// the node. They grant nothing from here on, whatever comes of it: whoever leads the group next counts on nobody having been granted anything for as long as an
// election takes (Controller.Start), so the group lets that time go by before. Errors: those of Group.HandOver.
func HandOver(ctx context.Context, controls []*Controller) error {
	c := controls[0]
	if _, ok := c.reigns(); !ok {
		return nil
	}
	to := c.heir()
	if to == 0 {
		return nil // nobody is there who could
	}
	for _, each := range controls {
		each.cease()
	}
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	begin := c.clk.Mono()
	if err := c.o.Group.HandOver(ctx, to); err != nil {
		return err
	}
	c.log.Info("another node leads the catalog's group", "node", to, "after", (c.clk.Mono() - begin).Round(time.Millisecond))
	return nil
}

// heir is who is to lead the group after this node: the one that leads the shards, if it is there, or else the first one that is; 0: nobody is.
func (c *Controller) heir() (to meta.NodeID) {
	leader := c.State().Leader
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clk.Mono()
	for id, h := range c.mu.heard {
		switch {
		case id == c.o.Node || h.leaving || h.paused || now > h.at+c.o.Lease/2:
		case to == 0, id == leader, to != leader && id < to:
			to = id
		}
	}
	return to
}

// cease has the controller grant nothing any more.
func (c *Controller) cease() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ceased = true
}
