package cluster

import (
	"context"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// beat sends a heartbeat, if one is due and none is under way to the node that is to have it: of one that was sent to a leader before nobody may ever hear again.
func (c *Controller) beat(now time.Duration, sh *meta.Shard) {
	interval := c.o.Lease/beats - c.o.Lease/(8*beats)
	if c.awaits(sh) && c.lease.epoch != sh.Epoch {
		interval = c.o.Lease / (8 * beats)
	}
	to, known := c.o.Group.Leader()
	c.mu.Lock()
	hb := heartbeat{resigned: c.resigned, paused: c.paused && c.knows(meta.LevelSets), draining: c.yieldsLocked() != YieldsNot, leaving: c.mu.leaving}
	if !known || c.mu.beating == to || c.mu.beating == 0 && hb == c.said && now-c.beaten < interval {
		c.mu.Unlock()
		return
	}
	c.mu.beating, c.said, c.beaten = to, hb, now
	c.mu.beats++
	number := c.mu.beats
	c.mu.Unlock()
	answered := func(g *grant) {
		c.mu.Lock()
		if number == c.mu.beats {
			c.mu.beating = 0
		}
		if g != nil {
			if now >= c.mu.granted {
				c.mu.granted, c.mu.alive = now, g.alive
			}
			c.mu.lease = c.mu.lease.longer(g.epoch, now+c.o.Lease)
		}
		c.mu.Unlock()
		if g != nil {
			c.wake()
			c.yield(g.yield)
		}
	}
	if to == c.o.Node {
		c.receive(pending{from: to, at: now, hb: hb, done: answered})
		return
	}
	c.o.Peers.Ask(to, c.method(methodHeartbeat), hb.encode(), c.o.Lease/2, func(answer []byte, err error) {
		if err == nil {
			if g, err := decodeGrant(answer); err == nil {
				answered(&g)
				return
			}
		}
		answered(nil)
	})
}

// knows says whether all nodes know what there is from a level on.
func (c *Controller) knows(level uint32) bool {
	at := c.o.Catalog.Load().Cluster()
	return at != nil && at.Level >= level
}

// longer is the lease with a grant more. A grant of an earlier epoch, or of none, takes nothing from it.
func (l lease) longer(epoch uint32, end time.Duration) lease {
	switch {
	case epoch > l.epoch:
		return lease{epoch, end}
	case epoch == l.epoch:
		l.end = max(l.end, end)
	}
	return l
}

// yield lets go, for another node to lead, as an operator has asked.
func (c *Controller) yield(to meta.NodeID) {
	if to == 0 || to == c.o.Node {
		return
	}
	c.later(func() {
		c.next.Store(uint32(to))
		c.resign("leadership moves")
	})
}

// Successor is the node for which this one has let go of the lead, since it was asked to; 0: it has let go for another reason, or leads. It takes no lock.
func (c *Controller) Successor() meta.NodeID { return meta.NodeID(c.next.Load()) }

func (c *Controller) serveHeartbeat(from meta.NodeID, body []byte, answer func([]byte, string)) {
	hb, err := decodeHeartbeat(body)
	if err != nil {
		answer(nil, err.Error())
		return
	}
	c.receive(pending{from: from, at: c.clk.Mono(), hb: hb, done: func(g *grant) {
		if g == nil {
			answer(nil, notController)
			return
		}
		answer(g.encode(), "")
	}})
}

const notController = "this node is not the controller"

// receive has a heartbeat wait for the next confirmation.
func (c *Controller) receive(p pending) {
	if _, ok := c.reigns(); !ok || c.ctx.Err() != nil {
		p.done(nil)
		return
	}
	c.mu.Lock()
	c.mu.pending = append(c.mu.pending, p)
	first := len(c.mu.pending) == 1
	c.mu.Unlock()
	if first { // whoever was before has asked
		select {
		case c.reign.ask <- struct{}{}:
		default:
		}
	}
}

// confirm grants what has come before the majority said that this node still reigns.
func (c *Controller) confirm() {
	for {
		select {
		case <-c.reign.ask:
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		list := c.mu.pending
		c.mu.pending = nil
		c.mu.Unlock()
		g := c.confirmed(list)
		for i := range list {
			list[i].done(g)
		}
		if c.ctx.Err() != nil {
			return
		}
	}
}

// confirmed asks the majority, and gives what is granted to those that came before; nil: nothing.
func (c *Controller) confirmed(list []pending) *grant {
	term, ok := c.o.Group.Reign()
	if !ok || c.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.o.Lease)
	defer cancel()
	if err := c.o.Group.Barrier(ctx); err != nil {
		return nil
	}
	if now, ok := c.o.Group.Reign(); !ok || now != term || c.reign.begun.Load() != term {
		return nil // a reign grants nothing before its first change is made
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clk.Mono()
	g := &grant{yield: c.mu.move}
	ceased := c.mu.ceased             // who is there is of interest yet
	sh := c.shard(c.o.Catalog.Load()) // of after the reign's first change, and, as no election is under way, nobody makes another epoch of it before the leases are over
	if sh != nil && !ceased && !c.mu.electing && (sh.Leader == c.mu.lent.to || c.returned(now)) {
		g.epoch = sh.Epoch
	}
	for i := range list {
		p := &list[i]
		if g.epoch != 0 && p.from == sh.Leader {
			c.mu.lent = lent{to: p.from, epoch: g.epoch, at: p.at}
		}
		h := heard{at: p.at, heartbeat: p.hb}
		if had, ok := c.mu.heard[p.from]; !ok || had.heartbeat != p.hb {
			c.wake()
		}
		c.mu.heard[p.from] = h
	}
	if ceased {
		return nil
	}
	for id, h := range c.mu.heard {
		if now < h.at+c.o.Lease && !h.leaving {
			g.alive = append(g.alive, id)
		}
	}
	sortNodes(g.alive)
	return g
}
