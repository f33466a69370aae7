package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/meta"
)

// ErrNoController says that no node decides about the shards just now, or that the one which does cannot be reached.
var ErrNoController = errors.New("cluster: no node decides about the shards just now")

// BalanceOptions say how shards are balanced. The zero value is the usual way.
type BalanceOptions struct {
	DryRun  bool // the plan is made, and nothing moves
	AnyRack bool // racks do not count
}

// planAsk waits for the controller to make a plan.
type planAsk struct {
	o    BalanceOptions
	done func(Plan, error) // it may not block
}

// plansMost bounds those that wait.
const plansMost = 16

// Balance says who shall have the shards, and has them move there. It returns when that is in the catalog, which whoever leads carries out. What was under way and is not
// in the plan any more is not gone on with. Errors: meta.ErrLevel, ErrNoController, those of the catalog, that of ctx.
func (c *Controller) Balance(ctx context.Context, o BalanceOptions) (Plan, error) {
	if at := c.o.Catalog.Load().Cluster(); at != nil && at.Level < meta.LevelBalance {
		return Plan{}, fmt.Errorf("%w: shards move to other nodes from level %d on, the cluster is at %d until all of its nodes run this program", meta.ErrLevel, meta.LevelBalance, at.Level)
	}
	if !c.due(c.o.Catalog.Load()) {
		return Plan{}, fmt.Errorf("%w: there is no set %d of shards", meta.ErrShard, c.o.Set)
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	for { // it may just be elected
		p, err := c.balanceOnce(ctx, o)
		if err == nil || !errors.Is(err, ErrNoController) {
			return p, err
		}
		if pace.Sleep(ctx, c.clk, c.o.Lease/beats) != nil {
			return Plan{}, err
		}
	}
}

func (c *Controller) balanceOnce(ctx context.Context, o BalanceOptions) (Plan, error) {
	at, known := c.o.Group.Leader()
	switch {
	case !known:
		return Plan{}, ErrNoController
	case at == c.o.Node:
		type answer struct {
			p   Plan
			err error
		}
		answered := make(chan answer, 1)
		c.askPlan(o, func(p Plan, err error) { answered <- answer{p, err} })
		select {
		case a := <-answered:
			return a.p, a.err
		case <-ctx.Done():
			return Plan{}, fmt.Errorf("%w: %w", ErrNoController, ctx.Err())
		}
	}
	body := []byte{wireVersion, 0}
	if o.DryRun {
		body[1] |= 1
	}
	if o.AnyRack {
		body[1] |= 2
	}
	b, err := c.ask(ctx, at, c.method(methodBalance), body)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: %w", ErrNoController, err)
	}
	return decodePlan(b)
}

func (c *Controller) serveBalance(_ meta.NodeID, b []byte, answer func([]byte, string)) {
	if len(b) != 2 || b[0] != wireVersion || b[1] > 3 {
		answer(nil, errWire.Error())
		return
	}
	c.askPlan(BalanceOptions{DryRun: b[1]&1 != 0, AnyRack: b[1]&2 != 0}, func(p Plan, err error) {
		if err != nil {
			answer(nil, err.Error())
			return
		}
		answer(p.encode(), "")
	})
}

// askPlan has run make a plan, if this node is the controller.
func (c *Controller) askPlan(o BalanceOptions, done func(Plan, error)) {
	_, ok := c.reigns()
	c.mu.Lock()
	if ok = ok && c.ctx.Err() == nil && len(c.mu.plans) < plansMost; ok {
		c.mu.plans = append(c.mu.plans, planAsk{o, done})
	}
	c.mu.Unlock()
	if !ok {
		done(Plan{}, fmt.Errorf("%w: %s", ErrNoController, notController))
		return
	}
	c.wake()
}

// refusePlans answers those who wait for a plan that this node is not the controller, or stops.
func (c *Controller) refusePlans() {
	c.mu.Lock()
	list := c.mu.plans
	c.mu.plans = nil
	c.mu.Unlock()
	for i := range list {
		list[i].done(Plan{}, fmt.Errorf("%w: %s", ErrNoController, notController))
	}
}

// plan makes the plan that was asked for first, and has the catalog say it.
func (c *Controller) plan(term uint64, s *meta.Snapshot, now time.Duration) {
	sh := c.shard(s)
	c.mu.Lock()
	if sh == nil || len(c.mu.plans) == 0 {
		c.mu.Unlock()
		return
	}
	p := c.mu.plans[0]
	c.mu.plans = c.mu.plans[1:]
	known, _ := c.known(now)
	c.mu.Unlock()
	defer c.wake() // there may be more
	plan, _ := c.balance(s, sh, known, p.o)
	if p.o.DryRun {
		p.done(plan, nil)
		return
	}
	c.change(term, func(s *meta.Snapshot) (want meta.Shard, changed bool) {
		have := c.shard(s)
		if have == nil {
			return want, false
		}
		want = clone(have)
		plan, want.Replicas = c.balance(s, have, known, p.o)
		want.Target, want.Home = plan.target(), nil
		return want, !same(&want, have)
	}, func(err error) {
		if sh := c.shard(c.o.Catalog.Load()); err == nil && sh != nil {
			c.back.atOnce(sh)
		}
		switch {
		case err == nil && plan.Balanced():
			c.log.Info("the shards are balanced", "nodes", plan.Have)
		case err == nil:
			c.log.Info("the shards are to move", "from", plan.Have, "to", plan.Want)
		case errors.Is(err, errDeposed):
			err = fmt.Errorf("%w: %w", ErrNoController, err)
		}
		p.done(plan, err)
	})
}

// balance is the plan, and the order in which the nodes that have the shards are preferred as leaders by then: of a set beside the first, so that each leads, and has, as many as another one.
func (c *Controller) balance(s *meta.Snapshot, sh *meta.Shard, known map[meta.NodeID]Known, o BalanceOptions) (p Plan, replicas []meta.NodeID) {
	p = balance(s, sh, known, c.most(s), !o.AnyRack)
	if c.o.Set == 0 {
		return p, sh.Replicas
	}
	p.Want = share(s, c.o.Set, sh, p.Want, candidates(s, sh, known, !o.AnyRack))
	p.LeadMoves = sh.Leader != 0 && !slices.Contains(p.Want, sh.Leader)
	can := func(id meta.NodeID) bool {
		k := known[id]
		return slices.Contains(p.Want, id) && k.Alive && !k.Draining && !k.Leaving
	}
	stay, gone := slices.Clone(sh.Replicas), slices.Clone(sh.Replicas)
	stay = slices.DeleteFunc(stay, func(id meta.NodeID) bool { return !slices.Contains(p.Want, id) })
	gone = slices.DeleteFunc(gone, func(id meta.NodeID) bool { return slices.Contains(p.Want, id) })
	replicas = evens(s, c.o.Set, append(stay, gone...), can) // who goes is preferred no more
	if first := replicas[0]; slices.Contains(p.Want, first) {
		p.Want = prefer(p.Want, first)
		p.LeadMoves = sh.Leader != 0 && sh.Leader != first && can(first)
	}
	return p, replicas
}
