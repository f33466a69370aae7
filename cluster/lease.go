package cluster

import (
	"context"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/meta"
)

// beat sends a heartbeat, if none is under way.
func (c *Controller) beat(now time.Duration) {
	to, known := c.o.Group.Leader()
	c.mu.Lock()
	hb := heartbeat{resigned: c.resigned, draining: c.mu.draining, leaving: c.mu.leaving}
	if !known || c.mu.beating || hb == c.said && now-c.beaten < c.o.Lease/beats-c.o.Lease/(8*beats) {
		c.mu.Unlock()
		return
	}
	c.mu.beating, c.said, c.beaten = true, hb, now
	c.mu.Unlock()
	answered := func(g *grant) {
		c.mu.Lock()
		c.mu.beating = false
		if g != nil {
			c.mu.granted, c.mu.grant = now, *g
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
	_, err := c.o.Mesh.Go(link.NodeID(to), methodHeartbeat, hb.encode(), c.o.Lease/2, func(m link.Message, err error) {
		defer m.Release()
		if err != nil {
			answered(nil)
			return
		}
		g, err := decodeGrant(m.Bytes())
		if err != nil {
			answered(nil)
			return
		}
		answered(&g)
	})
	if err != nil {
		answered(nil)
	}
}

// yield lets go, for another node to lead, as an operator has asked.
func (c *Controller) yield(to meta.NodeID) {
	if to == 0 || to == c.o.Node {
		return
	}
	c.later(func() { c.resign("leadership moves") })
}

func (c *Controller) serveHeartbeat(r *link.Request) {
	hb, err := decodeHeartbeat(r.Body.Bytes())
	if err != nil {
		r.Fail(err.Error())
		return
	}
	c.receive(pending{from: meta.NodeID(r.Peer), at: c.clk.Mono(), hb: hb, done: func(g *grant) {
		if g == nil {
			r.Fail("this node is not the controller")
			return
		}
		r.Reply(g.encode())
	}})
}

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
	for i := range list {
		p := &list[i]
		h := heard{at: p.at, heartbeat: p.hb}
		if had, ok := c.mu.heard[p.from]; !ok || had.heartbeat != p.hb {
			c.wake()
		}
		c.mu.heard[p.from] = h
	}
	g := &grant{yield: c.mu.move}
	for id, h := range c.mu.heard {
		if now < h.at+c.o.Lease && !h.leaving {
			g.alive = append(g.alive, id)
		}
	}
	sortNodes(g.alive)
	return g
}
