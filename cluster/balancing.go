package cluster

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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
	// Given says who shall have other sets beside the first, by plans that are not carried out: as Want of a Plan. For a dry run alone.
	Given map[int][]meta.NodeID
}

// encode is {version, flags u8 (1: change nothing, 2: racks do not count)}, and {set u8, n u8, n × u32} for each set that is given.
func (o *BalanceOptions) encode() []byte {
	b := []byte{wireVersion, 0}
	if o.DryRun {
		b[1] |= 1
	}
	if o.AnyRack {
		b[1] |= 2
	}
	for _, set := range slices.Sorted(maps.Keys(o.Given)) {
		list := o.Given[set]
		b = append(b, byte(set), byte(len(list)))
		for _, id := range list {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
	}
	return b
}

func decodeBalance(b []byte) (o BalanceOptions, err error) {
	if len(b) < 2 || b[0] != wireVersion || b[1] > 3 || len(b) > 2 && b[1]&1 == 0 {
		return o, errWire
	}
	o.DryRun, o.AnyRack = b[1]&1 != 0, b[1]&2 != 0
	last := 0
	for b = b[2:]; len(b) > 0; {
		if len(b) < 2 || int(b[0]) <= last || b[0] > meta.SetsMax || b[1] == 0 || b[1] > meta.ReplicasMax || len(b) < 2+4*int(b[1]) {
			return BalanceOptions{}, errWire
		}
		last = int(b[0])
		list := make([]meta.NodeID, b[1])
		b = b[2:]
		for i := range list {
			list[i] = meta.NodeID(binary.LittleEndian.Uint32(b))
			b = b[4:]
		}
		if o.Given == nil {
			o.Given = make(map[int][]meta.NodeID)
		}
		o.Given[last] = list
	}
	return o, nil
}

// BalanceAll is Balance of these sets' Controllers, one after the other, each of what the ones before make of theirs. Where one fails, those before it are as they are then.
func BalanceAll(ctx context.Context, list []*Controller, o BalanceOptions) (plans []Plan, err error) {
	o.Given = nil
	for _, c := range list {
		p, err := c.Balance(ctx, o)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
		if o.DryRun && c.o.Set > 0 && len(p.Want) > 0 {
			if o.Given == nil {
				o.Given = make(map[int][]meta.NodeID)
			}
			o.Given[c.o.Set] = p.Want
		}
	}
	return plans, nil
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
	b, err := c.ask(ctx, at, c.method(methodBalance), o.encode())
	if err != nil {
		return Plan{}, fmt.Errorf("%w: %w", ErrNoController, err)
	}
	return decodePlan(b)
}

func (c *Controller) serveBalance(_ meta.NodeID, b []byte, answer func([]byte, string)) {
	o, err := decodeBalance(b)
	if err != nil {
		answer(nil, err.Error())
		return
	}
	c.askPlan(o, func(p Plan, err error) {
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
	if p.o.DryRun {
		plan, _ := c.balance(planned(s, p.o.Given), sh, known, p.o)
		p.done(plan, nil)
		return
	}
	plan, _ := c.balance(s, sh, known, p.o)
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

// planned is the catalog as it would be if plans of sets were carried out.
func planned(s *meta.Snapshot, given map[int][]meta.NodeID) *meta.Snapshot {
	var list []meta.Shard
	for set, want := range given {
		cl := s.Cluster()
		if cl == nil || set > int(cl.Sets) {
			continue
		}
		if sh := s.Shard(cl.Set(set).First); sh != nil {
			next := clone(sh)
			next.Replicas, next.Target = want, nil
			list = append(list, next)
		}
	}
	return s.WithShards(list...)
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
		replicas = follows(s, c.o.Set, replicas, can)
		slices.SortStableFunc(p.Want, func(a, b meta.NodeID) int { // who comes is behind
			return cmp.Compare(uint(slices.Index(replicas, a)), uint(slices.Index(replicas, b)))
		})
		p.LeadMoves = sh.Leader != 0 && sh.Leader != first && can(first)
	}
	return p, replicas
}
