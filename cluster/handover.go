package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// handOverWait bounds how long a node that is about to stop waits until another one leads the catalog's group.
const handOverWait = 2 * time.Second

var errNoTime = errors.New("cluster: there is no time left for it")

// HandOver has another node lead the catalog's group, if this one does: it is about to stop, and has left the lead of its shards to others (Controller.Leave). An
// election would take as long as a node that is silent is waited for, and who leads shards would be granted nothing all the while. controls are all Controllers of
// the node. They grant and decide nothing from here on, whatever comes of it: whoever leads the group next counts on nobody having been granted anything for as long
// as an election takes (silence, of Controller.Start), so the group lets that time go by before. Errors: those of Group.HandOver.
func HandOver(ctx context.Context, controls []*Controller) error {
	c := controls[0]
	if _, ok := c.reigns(); !ok {
		return nil
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < 2*c.silence {
		return errNoTime
	}
	if c.heir(0) == 0 {
		c.log.Info("no other node is there to lead the catalog's group")
		return nil
	}
	for _, each := range controls {
		each.cease()
	}
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	begin := c.clk.Mono()
	if err := c.o.Group.HandOver(ctx, c.heir); err != nil {
		return err
	}
	to, _ := c.o.Group.Leader()
	c.log.Info("another node leads the catalog's group", "node", to, "after", (c.clk.Mono() - begin).Round(time.Millisecond))
	return nil
}

// heir is who is to lead the group after this node: the one that leads the shards, if it is there, or else the first one that is; but, where there is another one, not the
// one that was asked last. 0: nobody is there.
func (c *Controller) heir(asked meta.NodeID) (to meta.NodeID) {
	leader := c.State().Leader
	s := c.o.Catalog.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clk.Mono()
	for id, h := range c.mu.heard {
		n := s.Node(id)
		switch {
		case id == c.o.Node || h.leaving || h.paused || n == nil || n.State != meta.NodeActive || now > h.at+3*c.o.Lease/beats:
		case to == 0, to == asked, id != asked && (id == leader || to != leader && id < to):
			to = id
		}
	}
	return to
}

// cease has the controller grant and decide nothing any more.
func (c *Controller) cease() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ceased = true
}

func (c *Controller) ceased() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.ceased
}
