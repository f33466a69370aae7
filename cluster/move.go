package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// ErrNotInSync says that a node cannot lead, since it may lack something.
var ErrNotInSync = errors.New("cluster: the node is not in sync")

// Yields says why a node leaves the lead to others, as far as another one can lead. The control plane answers with it.
type Yields string

// Why a node does.
const (
	YieldsNot       Yields = ""
	YieldsDrained   Yields = "drained"    // it was asked to
	YieldsStopping  Yields = "stopping"   // it is about to stop
	YieldsFailed    Yields = "failed"     // its disk has failed, or is full
	YieldsStoreless Yields = "no_store"   // the cluster has history in a store that it has not
	YieldsNoClients Yields = "no_clients" // Options.Reluctant
	YieldsBehind    Yields = "behind"     // it gets a copy, as it cannot go on from the leader of a set of shards
)

// SetYields says why the node is to lead no more, as far as another one can; YieldsNot: it may again.
func (c *Controller) SetYields(why Yields) {
	c.mu.Lock()
	c.mu.yields = why
	c.mu.Unlock()
	c.wake()
}

// SetBehind says whether the node leaves the lead to others because it is to get a copy of their data.
func (c *Controller) SetBehind(behind bool) {
	c.mu.Lock()
	c.mu.behind = behind
	c.mu.Unlock()
	c.wake()
}

// Yields says why the node leaves the lead to others.
func (c *Controller) Yields() Yields {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.yieldsLocked()
}

func (c *Controller) yieldsLocked() Yields {
	switch {
	case c.mu.leaving:
		return YieldsStopping
	case c.mu.yields != YieldsNot:
		return c.mu.yields
	case c.o.Core.Failure() != nil:
		return YieldsFailed
	case c.mu.behind || c.mu.pause.asked > 0:
		return YieldsBehind
	case c.o.Reluctant:
		return YieldsNoClients
	}
	return YieldsNot
}

// Leave has the node lead no more, and nobody wait for it: it is about to stop. It returns when that is so, or cannot be; or with ctx.
func (c *Controller) Leave(ctx context.Context) error {
	c.mu.Lock()
	c.mu.leaving = true
	c.mu.Unlock()
	c.wake()
	return c.until(ctx, func(sh *meta.Shard) bool {
		if c.replaceable(sh) {
			return false
		}
		others := slices.DeleteFunc(slices.Clone(c.State().Alive), func(id meta.NodeID) bool { return id == c.o.Node || !slices.Contains(sh.ISR, id) })
		if len(others) < LeastInSync(len(sh.Replicas)) { // it is needed: whoever is there will wait for its return
			return len(others) == 0 || sh.Leader != c.o.Node && sh.Leader != 0
		}
		return sh.Leader != c.o.Node && sh.Leader != 0 && !slices.Contains(sh.ISR, c.o.Node)
	})
}

// Placed are the nodes that have the shards, or are to have them when they have caught up.
func (c *Controller) Placed() []meta.NodeID {
	s := c.o.Catalog.Load()
	if sh := c.shard(s); sh != nil {
		return comers(s, sh, c.most(s))
	}
	return nil
}

// until waits for the catalog to say something of the shards.
func (c *Controller) until(ctx context.Context, done func(*meta.Shard) bool) error {
	for {
		if sh := c.shard(c.o.Catalog.Load()); sh == nil || done(sh) {
			return nil
		}
		over := make(chan struct{})
		t := c.clk.AfterFunc(c.o.Lease/(4*beats), func() { close(over) })
		select {
		case <-over:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// ask sends a request to another node, and waits for its answer, which is the caller's.
func (c *Controller) ask(ctx context.Context, to meta.NodeID, method uint16, body []byte) (answer []byte, err error) {
	answered := make(chan struct{})
	var got []byte
	var failed error
	c.o.Peers.Ask(to, method, body, askWait, func(b []byte, err error) {
		got, failed = slices.Clone(b), err // it is its own for the call alone
		close(answered)
	})
	select {
	case <-answered:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if failed != nil {
		return nil, fmt.Errorf("ask node %d: %w", to, failed)
	}
	return got, nil
}

// askWait is how long another node may take to answer what is asked for an operator.
const askWait = 5 * time.Second

// drain is SetYields, as an operator has it.
func (c *Controller) drain(draining bool) {
	why := YieldsNot
	if draining {
		why = YieldsDrained
	}
	c.SetYields(why)
}

// DrainNode is drain of any node, and, if it is to drain, waits until it does not lead.
func (c *Controller) DrainNode(ctx context.Context, id meta.NodeID, draining bool) error {
	if id == c.o.Node {
		c.drain(draining)
	} else {
		body := []byte{wireVersion, 1}
		if draining {
			body[1] = 0
		}
		if _, err := c.ask(ctx, id, c.method(methodDrain), body); err != nil {
			return err
		}
	}
	if !draining {
		return nil
	}
	return c.until(ctx, func(sh *meta.Shard) bool {
		return sh.Leader != id || len(sh.ISR) <= 1 && c.own(c.o.Catalog.Load()) == 0
	})
}

func (c *Controller) serveDrain(_ meta.NodeID, b []byte, answer func([]byte, string)) {
	if len(b) != 2 || b[0] != wireVersion || b[1] > 1 {
		answer(nil, errWire.Error())
		return
	}
	c.drain(b[1] == 0)
	answer(nil, "")
}

// Move has leadership move to a node that is in sync, and returns when it has. Errors: ErrNotInSync, also when it is not any more; meta.ErrNoMajority, that of ctx.
func (c *Controller) Move(ctx context.Context, to meta.NodeID) error {
	if c.shard(c.o.Catalog.Load()) == nil {
		return fmt.Errorf("%w: node %d", ErrNotInSync, to)
	}
	var asked meta.NodeID // who decides, and has been told: what it has been told is lost with it
	var failed error
	err := c.until(ctx, func(sh *meta.Shard) bool {
		at, known := c.o.Group.Leader()
		switch {
		case sh.Leader == to:
			return true
		case !slices.Contains(sh.ISR, to) && (slices.Contains(sh.Replicas, to) || asked == 0 && !c.mayBring(sh, to)):
			failed = fmt.Errorf("%w: node %d", ErrNotInSync, to)
		case !known && asked == 0:
			failed = meta.ErrNoMajority
		case !known || at == asked:
		case at == c.o.Node:
			c.setMove(to)
			asked = at
		default:
			_, failed = c.ask(ctx, at, c.method(methodMove), []byte{wireVersion, byte(to), byte(to >> 8)})
			asked = at
		}
		return failed != nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (c *Controller) setMove(to meta.NodeID) {
	c.mu.Lock()
	c.mu.move, c.mu.asked = to, to
	c.mu.Unlock()
	c.wake()
}

// reigns is Group.Reign, once there is a group.
func (c *Controller) reigns() (term uint64, ok bool) {
	if !c.begun.Load() {
		return 0, false
	}
	return c.o.Group.Reign()
}

func (c *Controller) serveMove(_ meta.NodeID, b []byte, answer func([]byte, string)) {
	if len(b) != 3 || b[0] != wireVersion {
		answer(nil, errWire.Error())
		return
	}
	if _, ok := c.reigns(); !ok {
		answer(nil, notController)
		return
	}
	c.setMove(meta.NodeID(uint32(b[1]) | uint32(b[2])<<8))
	answer(nil, "")
}

// ErrLed says that there is no need for an unclean election: a node leads, or one is there that lacks nothing.
var ErrLed = errors.New("cluster: a node leads, or one can that lacks nothing")

// ElectUnclean has a node lead that may lack what was acknowledged. Errors: ErrLed; those of the catalog.
func (c *Controller) ElectUnclean(ctx context.Context, id meta.NodeID) error {
	done := make(chan error, 1)
	c.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
		have := c.shard(s)
		switch {
		case have == nil:
			return nil, meta.ErrNoCluster
		case have.Leader != 0:
			return nil, fmt.Errorf("%w: node %d leads", ErrLed, have.Leader)
		case slices.Contains(have.ISR, id) || slices.Contains(have.Eligible, id):
			return nil, ErrLed
		}
		want := clone(have)
		want.Leader, want.Epoch, want.ISR, want.Eligible = id, have.Epoch+1, []meta.NodeID{id}, nil
		if c.o.Set > 0 && !slices.Contains(want.Replicas, id) { // all nodes follow: so it may have more than nothing
			want.Replicas, want.Target, want.Home = []meta.NodeID{id}, nil, nil
		}
		return c.entriesBy(meta.ElectUnclean, s, &want)
	}, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
