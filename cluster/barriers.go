package cluster

import (
	"context"
	"errors"
	"sync"
)

// MergeBarriers is g whose Barriers are shared by all who call at the same time: one that has begun after several calls serves all of them. So the Controllers of a
// node ask the majority not much more often than one would.
func MergeBarriers(g Group) Group { return &merged{Group: g, turn: make(chan struct{}, 1)} }

type merged struct {
	Group
	turn chan struct{} // held by who asks

	mu struct {
		sync.Mutex
		next *round // has not begun; nil: there is none
	}
}

// round is one Barrier of all who wait for it.
type round struct {
	done chan struct{}
	err  error // once done
}

// Barrier makes it a Group.
func (m *merged) Barrier(ctx context.Context) error {
	for {
		m.mu.Lock()
		r := m.mu.next
		if r == nil {
			r = &round{done: make(chan struct{})}
			m.mu.next = r
		}
		m.mu.Unlock()
		select {
		case <-r.done:
		case m.turn <- struct{}{}:
			m.ask(ctx, r)
			<-m.turn
		case <-ctx.Done():
			return ctx.Err()
		}
		if (errors.Is(r.err, context.Canceled) || errors.Is(r.err, context.DeadlineExceeded)) && ctx.Err() == nil {
			continue // who asked has given up, others have not
		}
		return r.err
	}
}

// ask has the group answer for a round, unless another one has seen to it.
func (m *merged) ask(ctx context.Context, r *round) {
	m.mu.Lock()
	begins := m.mu.next == r
	if begins {
		m.mu.next = nil // who comes from here on comes after it has begun
	}
	m.mu.Unlock()
	if begins {
		r.err = m.Group.Barrier(ctx)
		close(r.done)
	}
}
