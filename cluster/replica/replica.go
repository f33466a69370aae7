// Package replica carries the frames of shards between nodes: from the leader's log to the followers' logs, over the nodes' link. One stream for each
// pair of nodes carries all shards of a set (Set), which one node leads at a time. It owns the streams alone: who leads is said by its owner, and what a
// replica is by the broker (Core).
//
// A follower opens the stream, in the epoch that it was told. The leader answers with the epochs that each of its shards has had, the follower takes back
// what it has beyond that (KIP-101) and says from where on it wants each shard. The leader goes through its log once, from the oldest of these places, and
// sends what comes, while its own log still writes it. The follower says how far its log is, and the leader how far all are who count.
//
// Bytes: docs/format/replication.md. Goroutines: a leader has one for each follower, which reads the log. A follower hands frames on where they are read,
// and acknowledges where its log is written, so that no goroutine is woken in between; it has one for what has to wait and one for each of the first
// acknowledgements, or of those for which there is no room. A stream that breaks is opened again by the follower, from the start.
package replica

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

// Core is what the streams ask of a *broker.Broker.
type Core interface {
	Replica(shard record.ShardID) broker.ReplicaState
	ReplicaHistory(shard record.ShardID) (epochs []broker.EpochStart, end uint64)
	FollowLeader(shard record.ShardID, epoch record.Epoch, history []broker.EpochStart, end uint64, done func(from uint64, err error))
	Follow(shard record.ShardID, epoch record.Epoch, frames []byte) error
	Acked(shard record.ShardID, epoch record.Epoch, node, index uint64) error
	Watermark(shard record.ShardID, epoch record.Epoch, index uint64) error
}

// Log is what they ask of a *journal.Log.
type Log interface {
	ShardPosition(shard record.ShardID, index uint64) journal.Position
	Scan(from journal.Position) (*journal.Scanner, error)
	SizeFrom(at journal.Position) int64
}

// Options are what Replicas are made with.
type Options struct {
	Mesh *link.Mesh
	Core Core
	Log  Log
	// Behind is told that what this node's log has of a set cannot be continued from the leader's: the leader's does not reach back so far, or the replica has
	// applied what the leader does not have. It has to be made anew from a copy. It is told once for each epoch of a set, on a goroutine of its own.
	Behind func(set int, leader link.NodeID, err error)
	Pace   *Pace        // of all sets together; nil: none
	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: none
}

// Follower is where a node stands that follows this one.
type Follower struct {
	Node link.NodeID
	// CaughtUp is the latest moment (Clock.Mono) of which it is known that the follower's log has all that this node's log had then. 0: none yet.
	CaughtUp time.Duration
	Lag      uint64 // frames that it lacks now, of all shards of the set
	// Progress is how far this stream is in the log: what was sent of what there was to be sent since it began.
	Progress pace.Progress
}

// again is how long a follower waits until it opens its stream anew.
var again = pace.Backoff{First: 20 * time.Millisecond, Most: time.Second}

// Replicas are a node's streams of one set of shards. Its methods may be called from any goroutine.
type Replicas struct {
	o   Options
	set Set
	clk clock.Clock
	log *slog.Logger

	serving atomic.Pointer[[]*served]     // for Moved
	fetched atomic.Pointer[fetcher]       // likewise
	awaited atomic.Pointer[[]link.NodeID] // see Await; nil: not said yet
	hurries atomic.Bool                   // likewise: the pace has been told so
	wg      sync.WaitGroup
	mu      struct {
		sync.Mutex
		closed  bool
		leading record.Epoch // 0: it does not lead
		serving []*served
		fetch   *fetcher
		ending  []*fetcher // told to stop, and may not have yet
	}
}

// publishLocked lets Moved see what there is.
func (r *Replicas) publishLocked() {
	list := append([]*served(nil), r.mu.serving...)
	r.serving.Store(&list)
	r.fetched.Store(r.mu.fetch)
}

// Lead serves the followers that come in this epoch, and nobody else any more. The core leads all shards of the set in it already.
func (r *Replicas) Lead(epoch record.Epoch) { r.change(epoch, 0, 0) }

// Follow has this node follow a leader in all shards of the set, until told otherwise.
func (r *Replicas) Follow(leader link.NodeID, epoch record.Epoch) { r.change(0, leader, epoch) }

// Rest ends both.
func (r *Replicas) Rest() { r.change(0, 0, 0) }

func (r *Replicas) change(leading record.Epoch, leader link.NodeID, epoch record.Epoch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return
	}
	if r.mu.leading != leading {
		for _, s := range r.mu.serving {
			s.end("the node does not lead any more")
		}
		r.mu.serving = nil
	}
	r.mu.leading = leading
	if leading == 0 {
		r.hurry(false)
	}
	if f := r.mu.fetch; f != nil && (f.leader != leader || f.epoch != epoch) {
		f.stop()
		r.mu.ending = append(slices.DeleteFunc(r.mu.ending, (*fetcher).over), f)
		r.mu.fetch = nil
	}
	if r.mu.fetch == nil && leader != 0 {
		f := newFetcher(r, leader, epoch)
		r.mu.fetch = f
		r.wg.Go(f.run)
	}
	r.publishLocked()
}

// Quiet returns once none of the streams is open any more that the last call of Follow, Lead or Rest, and those before it, have ended: nothing is acknowledged by
// them from then on, but for what is on its way. Rest alone does not wait. Errors: that of ctx.
func (r *Replicas) Quiet(ctx context.Context) error {
	r.mu.Lock()
	ending := slices.Clone(r.mu.ending)
	r.mu.Unlock()
	for _, f := range ending {
		select {
		case <-f.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Serves tells whether a node has a stream of the set here, and be it one that has only begun, which is not among the Followers yet.
func (r *Replicas) Serves(node link.NodeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.mu.serving, func(s *served) bool { return s.ch.Peer() == node })
}

// Moved tells that the ReplicaState of a shard of the set has changed. It is cheap, and never blocks: Sets.Moved.
func (r *Replicas) Moved(shard record.ShardID) {
	for _, s := range *r.serving.Load() {
		s.movedTo(int(shard - r.set.First))
	}
	if f := r.fetched.Load(); f != nil {
		f.moved.mark(int(shard - r.set.First)) // its log is further with a group: Flushed
		if f.busy.Load() {
			f.room.ring()
		}
	}
}

// Flushed tells that this node's log has another group, and Moved was told of its shards. It never blocks: Sets.Flushed.
func (r *Replicas) Flushed() {
	if f := r.fetched.Load(); f != nil {
		f.flushed()
	}
}

// Lost tells that what was on its way into this node's log is gone: the leader is asked for it again. It never blocks: Sets.Lost.
func (r *Replicas) Lost() {
	if f := r.fetched.Load(); f != nil {
		if s := f.stream.Load(); s != nil {
			s.fail(errLost)
		}
	}
}

// Followers are those that are connected.
func (r *Replicas) Followers() (list []Follower) {
	r.mu.Lock()
	serving := r.mu.serving
	r.mu.Unlock()
	for _, s := range serving {
		if f, ok := s.follower(); ok {
			list = append(list, f)
		}
	}
	return list
}

// Close ends all streams of the set, and returns when nothing of it runs any more.
func (r *Replicas) Close() {
	r.change(0, 0, 0)
	r.mu.Lock()
	r.mu.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}

// bell wakes one goroutine, however often it is rung.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // it rings already
	}
}

// marks are shards that something has happened to, by their slots in the set.
type marks struct {
	bits []atomic.Uint64
	bell bell
}

func newMarks(shards int) *marks {
	return &marks{bits: make([]atomic.Uint64, (shards+63)/64), bell: newBell()}
}

// mark notes one. Who takes them is woken by the bell, which is the caller's to ring.
func (m *marks) mark(slot int) {
	w, bit := &m.bits[slot/64], uint64(1)<<(slot%64)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// any tells whether there are some.
func (m *marks) any() bool {
	for i := range m.bits {
		if m.bits[i].Load() != 0 {
			return true
		}
	}
	return false
}

// take calls fn for each, and forgets them before.
func (m *marks) take(fn func(slot int)) {
	for i := range m.bits {
		for b := m.bits[i].Swap(0); b != 0; b &= b - 1 {
			fn(i*64 + trailing(b))
		}
	}
}

// within ends with the earlier of a context and a stream.
func within(ctx context.Context, ended <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
