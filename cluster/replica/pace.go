package replica

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
)

// Pace is how fast a leader gives those what they lack who are not in sync, all of them together: streams, and copies, which their owner has wait here. It is
// one for all sets of shards. A stream of one that acknowledgements wait for has no pace. It is safe for concurrent use.
type Pace struct {
	*pace.Limiter
	clk   clock.Clock
	rate  atomic.Int64
	hurry atomic.Int32
}

// NewPace makes one, of so many bytes a second; 0: as fast as it goes.
func NewPace(clk clock.Clock, rate int64) *Pace {
	p := &Pace{clk: clk}
	p.rate.Store(rate)
	p.Limiter = pace.NewLimiter(clk, func() int64 {
		if p.hurry.Load() > 0 {
			return 0
		}
		return p.rate.Load()
	})
	return p
}

// Set changes the rate. Who waits goes on waiting, for less than a second for each that shares it.
func (p *Pace) Set(rate int64) { p.rate.Store(rate) }

// hurry says that nothing can be acknowledged in a set until somebody has caught up, or that it can again: there is no pace while that is so of any set.
func (r *Replicas) hurry(on bool) {
	switch p := r.o.Pace; {
	case p == nil || r.hurries.Swap(on) == on:
	case on:
		p.hurry.Add(1)
	default:
		p.hurry.Add(-1)
	}
}

// Wait counts n bytes, and returns when they have had their time, or ctx ends. A nil Pace never waits.
func (p *Pace) Wait(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	if d := p.Take(n); d > 0 {
		return pace.Sleep(ctx, p.clk, d)
	}
	return ctx.Err()
}

// Await says whom acknowledgements of the set wait for: those have no pace from now on, and with all set nobody has, since too few are in sync.
func (r *Replicas) Await(nodes []link.NodeID, all bool) {
	list := slices.Clone(nodes)
	r.awaited.Store(&list)
	r.hurry(all)
}

// paced says whether the follower gets what it lacks at a pace.
func (s *served) paced() bool {
	if s.r.o.Pace == nil {
		return false
	}
	list := s.r.awaited.Load()
	return list == nil || !slices.Contains(*list, s.ch.Peer())
}
