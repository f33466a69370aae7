package cluster

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/cluster/replica"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// Core is what is asked of a *broker.Broker.
type Core interface {
	Lead(shard record.ShardID, epoch record.Epoch, others []uint64, least int, done func(error))
	// SetInSync errors: broker.ErrGap, one of them lacks something yet, and is waited for; any other one: nothing has come of it. Lead may be yet to come into force.
	SetInSync(shard record.ShardID, epoch record.Epoch, others []uint64, least int) error
	Resign(shard record.ShardID, done func())
	Leads(first record.ShardID, n int) bool // these shards take commands
	Failure() error                         // the journal has failed for good, or its disk is full: the node ought not to lead
}

// Streams are the *replica.Replicas.
type Streams interface {
	Lead(epoch record.Epoch)
	Follow(leader link.NodeID, epoch record.Epoch)
	Rest()
	Followers() []replica.Follower
	// Await says whom acknowledgements wait for, so that they are not held up; all: too few are in sync, and nobody is to be.
	Await(nodes []link.NodeID, all bool)
}

// Group is the catalog's group.
type Group interface {
	// Leader is who leads it, as far as this node knows.
	Leader() (id meta.NodeID, known bool)
	// Reign tells in which term of the group this node leads it; ok false: it does not, as far as it knows.
	Reign() (term uint64, ok bool)
	// Halted says why this node takes over no changes of the catalog any more; nil: it does.
	Halted() error
	// Barrier returns once the majority has agreed, after the call, on who leads; or when ctx ends.
	Barrier(ctx context.Context) error
	// HandOver has another node lead the group, if this one does, and returns when one does; or when ctx ends. heir says who, at each attempt anew, and is told who was
	// asked last; 0: nobody is there. From the call on this node grants nothing, so that silence (Controller.Start) is true of who leads next.
	HandOver(ctx context.Context, heir func(asked meta.NodeID) meta.NodeID) error
}

// Options are what a Controller is made with. A node has one for each set of shards.
type Options struct {
	Node     meta.NodeID
	Catalog  *meta.Catalog
	Group    Group
	Peers    Peers
	Core     Core
	Streams  Streams
	Set      int // the number of the set of shards that this is about (meta.ShardSet)
	First    int // its first shard
	Shards   int // how many there are in it
	Lease    time.Duration
	Replicas int           // of each shard, at most
	Lag      time.Duration // a follower that lacks something for so long is not in sync any more
	// Reluctant: the node takes no clients, so it leads only where no other can.
	Reluctant bool
	// Changed is told of each new State, in order, on the Controller's goroutine.
	Changed func(State)
	Clock   clock.Clock  // nil: the system's
	Logger  *slog.Logger // nil: none
}

// State is who leads the set's shards, as this node knows.
type State struct {
	Leader  meta.NodeID // 0: nobody, or it is not known
	Epoch   uint32
	Leading bool // this node does, its lease is not over, and all of these shards take commands
	// Leased: this node leads, its lease is not over, and its shards may wait for others to be in sync before they take commands.
	Leased bool
	Alive  []meta.NodeID
}

func (s *State) equal(o *State) bool {
	return s.Leader == o.Leader && s.Epoch == o.Epoch && s.Leading == o.Leading && s.Leased == o.Leased && slices.Equal(s.Alive, o.Alive)
}

const (
	// beats is how many heartbeats there are in a lease.
	beats = 10
	// openLeases is after how many leases a node lets go whose shards do not open: another one may do better.
	openLeases = 20
)

// Controller is a node's part in who leads. Its methods may be called from any goroutine.
type Controller struct {
	o       Options
	clk     clock.Clock
	log     *slog.Logger
	state   atomic.Pointer[State]
	woken   chan struct{}
	begun   atomic.Bool // the group is up
	silence time.Duration
	next    atomic.Uint32 // see Successor
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup

	// What follows belongs to run.
	lease    lease
	alive    []meta.NodeID // as the controller has said
	resigned uint32
	leading  uint32               // the epoch in which it leads, or is about to; 0: it does not
	opened   bool                 // all shards have taken commands in it
	since    time.Duration        // when it began
	came     map[meta.NodeID]bool // who has been caught up since then
	inSync   []meta.NodeID        // as the core was told
	replicas int                  // likewise: how many there are
	untold   bool                 // not each shard has taken that: it does not lead yet, or one lacks something
	follows  struct {
		leader meta.NodeID
		epoch  uint32
	}
	paused   bool          // somebody keeps it from leading and following
	changing bool          // of those in sync, is under way
	adding   time.Duration // since when acknowledgements wait for one that is to be in sync and lacks something yet; 0: for none
	holdAdd  time.Duration // nobody is taken in before that: the controller has just taken somebody out
	reign    reign
	back     back
	home     homing
	beaten   time.Duration // when it sent the last heartbeat
	said     heartbeat     // in that

	mu struct {
		sync.Mutex
		beating  meta.NodeID   // a heartbeat is under way to it; 0: none is
		beats    uint64        // how many were sent
		granted  time.Duration // when the heartbeat was sent that the last grant answers
		alive    []meta.NodeID // as that says
		lease    lease
		runs     bool // run has begun, or is about to
		pause    pause
		yields   Yields // why the node is to lead no more; empty: it may
		leaving  bool
		behind   bool // see SetBehind
		move     meta.NodeID
		asked    meta.NodeID // whom an operator wants to lead
		pending  []pending   // heartbeats that wait for a confirmation
		heard    map[meta.NodeID]heard
		lent     lent
		ceased   bool     // see HandOver
		electing bool     // a change of who leads is under way, or may be: nobody is granted the lead
		ended    []func() // changes that run is to take up
		plans    []planAsk
	}
}

// heard is the last heartbeat of a node that was granted.
type heard struct {
	at time.Duration
	heartbeat
}

// lease is what lets a node lead: one epoch, until the clock (Mono) says end.
type lease struct {
	epoch uint32
	end   time.Duration
}

// lent is the lead as this controller has granted it last.
type lent struct {
	to    meta.NodeID
	epoch uint32
	at    time.Duration // when the heartbeat came
}

// pending is a heartbeat that has come and is not granted yet.
type pending struct {
	from meta.NodeID
	at   time.Duration
	hb   heartbeat
	done func(*grant) // nil: refused. It may not block
}

// New makes a Controller, and takes its requests from the mesh. It comes before anybody is connected.
func New(o Options) *Controller {
	c := &Controller{o: o, clk: o.Clock, log: o.Logger, woken: make(chan struct{}, 1)}
	if c.clk == nil {
		c.clk = clock.Real{}
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if o.Set > 0 {
		c.log = c.log.With("set", o.Set)
	}
	c.mu.heard = make(map[meta.NodeID]heard)
	c.reign.ask = make(chan struct{}, 1)
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.state.Store(&State{})
	o.Peers.Serve(c.method(methodHeartbeat), c.serveHeartbeat)
	o.Peers.Serve(c.method(methodMove), c.serveMove)
	o.Peers.Serve(c.method(methodDrain), c.serveDrain)
	o.Peers.Serve(c.method(methodBalance), c.serveBalance)
	return c
}

// Start begins: the group is up, and the core's loops run. silence is for how long at least the majority of the group has heard nothing of any earlier leader
// when one is elected; 0: that is not known.
func (c *Controller) Start(silence time.Duration) {
	c.silence = silence
	c.begun.Store(true)
	cancel := c.o.Catalog.Subscribe(func(old, now *meta.Snapshot) {
		if meta.ShardsChanged(old, now) || meta.NodesChanged(old, now) || meta.SetsChanged(old, now) {
			c.wake()
		}
	})
	c.wg.Go(func() {
		defer cancel()
		c.run()
	})
	c.wg.Go(c.confirm)
}

// shard is the entry that counts for all shards of the set: its first one's. nil: there is none yet.
func (c *Controller) shard(s *meta.Snapshot) *meta.Shard { return s.Shard(uint32(c.o.First)) }

// shards are those of the set.
func (c *Controller) shards() iter.Seq[record.ShardID] {
	return func(yield func(record.ShardID) bool) {
		for i := range c.o.Shards {
			if !yield(record.ShardID(c.o.First + i)) {
				return
			}
		}
	}
}

// State is who leads. It takes no lock.
func (c *Controller) State() State { return *c.state.Load() }

// Moved tells that a shard's ReplicaState has changed. It is cheap, and never blocks.
func (c *Controller) Moved() {
	if s := c.state.Load(); s.Leader == c.o.Node && !s.Leading {
		c.wake()
	}
}

func (c *Controller) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// Close lets go of everything, and returns when nothing runs any more.
func (c *Controller) Close() {
	c.stop()
	c.wg.Wait()
}

func (c *Controller) run() {
	if !c.awaitDue() {
		return
	}
	c.mu.Lock()
	c.mu.runs = true
	c.mu.Unlock()
	c.catchUp()
	for {
		c.turn()
		wait := c.o.Lease / beats
		if c.o.Set > 0 { // all sets of a node at one time, so that few reads of the group are enough for them (MergeBarriers)
			wait -= c.clk.Mono() % wait
		}
		switch {
		case c.adding != 0:
			wait = c.o.Lease / (8 * beats)
		case c.leading != 0:
			wait = min(wait, max(c.leaseEnd()-c.clk.Mono(), 0))
		case c.awaits(c.shard(c.o.Catalog.Load())):
			wait = c.o.Lease / (8 * beats)
		}
		over := make(chan struct{})
		t := c.clk.AfterFunc(wait, func() { close(over) })
		select {
		case <-over:
		case <-c.woken:
		case <-c.ctx.Done():
			t.Stop()
			c.resign("the node stops")
			c.publish(c.shard(c.o.Catalog.Load()))
			c.refusePlans()
			return
		}
		t.Stop()
	}
}

// catchUp waits until the catalog has all that was decided before this run of the node: what an earlier run led, it does not lead any more.
func (c *Controller) catchUp() {
	for c.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(c.ctx, c.o.Lease)
		err := c.o.Group.Barrier(ctx)
		cancel()
		if err == nil {
			break
		}
		_ = pace.Sleep(c.ctx, c.clk, c.o.Lease/beats)
	}
	if sh := c.shard(c.o.Catalog.Load()); sh != nil {
		c.resigned = sh.Epoch
	}
}

// leaseEnd is when this node lets go: so much before its lease is over as clocks may differ.
func (c *Controller) leaseEnd() time.Duration { return c.lease.end - c.o.Lease/20 }

// mayLead says whether the catalog, as far as this node has it, and its lease have it lead. Both have to name one epoch: the catalog of a node may be behind,
// and name it for an epoch that is over.
func (c *Controller) mayLead(sh *meta.Shard, now time.Duration) bool {
	return sh != nil && sh.Leader == c.o.Node && sh.Epoch == c.lease.epoch && now < c.leaseEnd()
}

// awaits says whether nothing but a grant of the lead is missing.
func (c *Controller) awaits(sh *meta.Shard) bool {
	return sh != nil && sh.Leader == c.o.Node && sh.Epoch > c.resigned && c.leading == 0
}

// turn looks at everything once.
func (c *Controller) turn() {
	c.takeUp()
	s := c.o.Catalog.Load()
	sh := c.shard(s)
	now := c.clk.Mono()
	c.takePause(sh)
	if c.leading != 0 && (!c.mayLead(sh, now) || sh.Epoch != c.leading) {
		why := "another node leads"
		if now >= c.leaseEnd() {
			why = "the lease is over"
		}
		c.resign(why)
	}
	if c.leading != 0 && !c.opened && now-c.since > openLeases*c.o.Lease {
		c.resign("shards do not open")
	}
	if err := c.o.Group.Halted(); err != nil { // it would not hear that it is to lead, nor that another one does
		c.resign(err.Error())
		c.publish(sh)
		return
	}
	c.beat(now, sh)
	c.role(sh, now)
	c.lead(s, sh, now)
	c.govern(s, now)
	c.publish(sh)
}

// takeUp takes over what other goroutines have left.
func (c *Controller) takeUp() {
	c.mu.Lock()
	c.lease, c.alive = c.mu.lease, c.mu.alive
	if c.clk.Mono() > c.mu.granted+2*c.o.Lease {
		c.alive = nil // nobody says so any more
	}
	ended := c.mu.ended
	c.mu.ended = nil
	c.mu.Unlock()
	for _, fn := range ended {
		fn()
	}
}

// later has run call fn.
func (c *Controller) later(fn func()) {
	c.mu.Lock()
	c.mu.ended = append(c.mu.ended, fn)
	c.mu.Unlock()
	c.wake()
}

// role makes the node what the catalog says.
func (c *Controller) role(sh *meta.Shard, now time.Duration) {
	switch {
	case sh == nil || c.paused:
	case sh.Leader == c.o.Node:
		if c.awaits(sh) && c.mayLead(sh, now) {
			c.begin(sh, now)
		}
	case sh.Leader != c.follows.leader || sh.Epoch != c.follows.epoch:
		c.follows.leader, c.follows.epoch = sh.Leader, sh.Epoch
		if sh.Leader == 0 {
			c.o.Streams.Rest()
			return
		}
		c.log.Info("this node follows", "leader", sh.Leader, "epoch", sh.Epoch)
		c.o.Streams.Follow(link.NodeID(sh.Leader), record.Epoch(sh.Epoch))
	}
}

// begin leads all shards.
func (c *Controller) begin(sh *meta.Shard, now time.Duration) {
	c.log.Info("this node leads", "epoch", sh.Epoch, "in_sync", sh.ISR)
	c.leading, c.opened, c.since, c.came = sh.Epoch, false, now, make(map[meta.NodeID]bool)
	c.next.Store(0)
	c.follows.leader, c.follows.epoch = 0, 0
	c.inSync, c.replicas, c.untold = sh.ISR, len(sh.Replicas), false
	c.o.Streams.Rest()
	epoch, others := record.Epoch(sh.Epoch), c.others(sh.ISR)
	for i := range c.shards() {
		c.o.Core.Lead(i, epoch, others, LeastInSync(len(sh.Replicas)), func(err error) {
			if err != nil {
				c.log.Error("a shard cannot be led", "shard", i, "epoch", epoch, "err", err)
			}
		})
	}
	c.await(sh.ISR, LeastInSync(len(sh.Replicas)))
	c.o.Streams.Lead(epoch)
}

// await has the streams know whom the core waits for.
func (c *Controller) await(inSync []meta.NodeID, least int) {
	var list []link.NodeID
	for _, id := range inSync {
		if id != c.o.Node {
			list = append(list, link.NodeID(id))
		}
	}
	c.o.Streams.Await(list, len(inSync) < least)
}

// others are those of a list beside this node, as the core has them.
func (c *Controller) others(list []meta.NodeID) (out []uint64) {
	for _, id := range list {
		if id != c.o.Node {
			out = append(out, uint64(id))
		}
	}
	return out
}

// resign lets go of all shards, and waits until it has.
func (c *Controller) resign(why string) {
	if c.leading == 0 {
		return
	}
	c.log.Info("this node does not lead any more", "epoch", c.leading, "why", why)
	c.resigned = max(c.resigned, c.leading)
	c.leading, c.opened, c.changing, c.adding = 0, false, false, 0
	gone := make(chan struct{}, c.o.Shards)
	for i := range c.shards() {
		c.o.Core.Resign(i, func() { gone <- struct{}{} })
	}
	for range c.o.Shards {
		<-gone
	}
	c.o.Streams.Rest()
	c.publish(nil)
}

// publish makes what is known now the State.
func (c *Controller) publish(sh *meta.Shard) {
	next := State{Alive: c.alive}
	if sh != nil {
		next.Leader, next.Epoch = sh.Leader, sh.Epoch
		next.Leased = c.leading != 0 && c.leading == sh.Epoch
		next.Leading = next.Leased && c.opened
		if sh.Leader == c.o.Node && c.leading == 0 {
			next.Leader = 0 // it has let go: who comes is not known yet
		}
	}
	if old := c.state.Load(); !old.equal(&next) {
		c.state.Store(&next)
		if c.o.Changed != nil {
			c.o.Changed(next)
		}
	}
}
