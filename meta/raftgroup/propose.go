package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	dragonboat "github.com/lni/dragonboat/v4"

	"github.com/sluicemq/sluice/meta"
)

// Propose makes it a meta.Group. Any node takes changes: those of a node that does not lead go to the one that does. A change is answered once,
// within Options.AnswerWait. What was lost on the way is sent again, and made once.
func (g *Group) Propose(base uint64, changes []meta.Entry, done func(error)) {
	if err := g.Halted(); err != nil {
		done(err)
		return
	}
	if err := checkChanges(changes); err != nil {
		done(err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.started || g.closed() {
		go done(ErrClosed) // not under the lock; the last one of a group
		return
	}
	select {
	case g.proposals <- proposal{base, changes, done}:
	default:
		go done(meta.ErrBusy)
	}
}

// propose sends changes off, one after the other, until the group closes.
func (g *Group) propose() {
	for {
		select {
		case p := <-g.proposals:
			p.done(g.decide(&p))
		case <-g.closing:
			return
		}
	}
}

// pause is how long a change waits for a leader to come.
const pauseTicks = 1

// decide has the group decide about one change.
func (g *Group) decide(p *proposal) error {
	g.seq++
	cmd := appendCommand(nil, &command{replica: g.id.replica(), run: g.id.run, seq: g.seq, base: p.base, changes: p.changes})
	deadline := time.Now().Add(g.o.AnswerWait)
	attempt := attemptTicks * g.o.Tick
	sentOff := false
	for {
		left := time.Until(deadline)
		if left < 2*g.o.Tick {
			return g.undecided(sentOff)
		}
		result, state := g.attempt(cmd, min(left, attempt))
		switch state {
		case attemptDone:
			return resultError(result)
		case attemptClosed:
			return ErrClosed
		case attemptLost:
			sentOff = true
		case attemptRefused:
			if sleep(g.ctx, pauseTicks*g.o.Tick) != nil {
				return ErrClosed
			}
		}
		if err := g.Halted(); err != nil {
			return err
		}
	}
}

// undecided says what is known of a change whose time is over.
func (g *Group) undecided(sentOff bool) error {
	_, led := g.Leader()
	switch {
	case !sentOff:
		return meta.ErrNoMajority
	case !led:
		return fmt.Errorf("%w (no leader: fewer than half of the catalog's nodes can be reached)", meta.ErrUnknown)
	}
	return meta.ErrUnknown
}

func resultError(result uint64) error {
	switch result {
	case resultMade:
		return nil
	case resultConflict:
		return meta.ErrConflict
	case resultEntries:
		return fmt.Errorf("%w: it has at most %d entries", ErrBounds, entriesMax)
	case resultBytes:
		return fmt.Errorf("%w: it has at most %d bytes", ErrBounds, bytesMax)
	}
	return fmt.Errorf("raftgroup: a command had the unknown result %d", result)
}

// attemptState says what became of one attempt.
type attemptState int

const (
	attemptDone    attemptState = iota
	attemptRefused              // it is not in the log, and will not be
	attemptLost                 // nobody knows
	attemptClosed
)

// attempt sends a command off once. With a leader that was lost it is given up as soon as there is another one: it is sent again, and counts once.
func (g *Group) attempt(cmd []byte, wait time.Duration) (result uint64, state attemptState) {
	_, to, known, err := g.host.GetLeaderID(shardID)
	if g.voice.handing.Load() || err == nil && !known { // that its leader is gone is known by the term alone
		return 0, attemptRefused
	}
	rs, err := g.host.Propose(g.host.GetNoOPSession(shardID), cmd, wait)
	if err != nil {
		if errors.Is(err, dragonboat.ErrClosed) || errors.Is(err, dragonboat.ErrShardClosed) || errors.Is(err, dragonboat.ErrShardNotFound) {
			return 0, attemptClosed
		}
		return 0, attemptRefused
	}
	defer rs.Release()
	tick := time.NewTicker(g.o.Tick)
	defer tick.Stop()
	for {
		select {
		case r := <-rs.ResultC():
			switch {
			case r.Completed():
				return r.GetResult().Value, attemptDone
			case r.Terminated():
				return 0, attemptClosed
			case r.Dropped():
				return 0, attemptRefused
			}
			return 0, attemptLost
		case <-tick.C:
			if _, term, known, err := g.host.GetLeaderID(shardID); err == nil && known && term != to {
				return 0, attemptLost
			}
		case <-g.closing:
			return 0, attemptClosed
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Barrier returns when everything that was decided before the call is in the catalog of this node, or with meta.ErrNoMajority when ctx ends.
func (g *Group) Barrier(ctx context.Context) error {
	for {
		if err := g.Halted(); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTicks*g.o.Tick)
		_, err := g.host.SyncRead(attempt, shardID, nil)
		cancel()
		if err == nil {
			return nil
		}
		if errors.Is(err, dragonboat.ErrClosed) || errors.Is(err, dragonboat.ErrShardClosed) || errors.Is(err, dragonboat.ErrShardNotFound) {
			return ErrClosed
		}
		if sleep(ctx, pauseTicks*g.o.Tick) != nil {
			return fmt.Errorf("%w (%w)", meta.ErrNoMajority, err)
		}
	}
}

// Reign tells in which term of the group this node leads it, as far as it knows. ok false: it does not.
func (g *Group) Reign() (term uint64, ok bool) {
	replica, term, known, err := g.host.GetLeaderID(shardID)
	return term, err == nil && known && replica == g.id.replica()
}

// Silence is for how long at least the majority has heard nothing of any earlier leader when one is elected: nobody votes for another one before (section 4.2.3
// of Ongaro's thesis; Dragonboat does so with CheckQuorum). A tenth is taken off for clocks that do not run alike. Of a leader that hands over they have
// heard, and nobody has counted on its lead for as long (HandOver).
func (g *Group) Silence() time.Duration { return electionTicks * g.o.Tick * 9 / 10 }

// Leader is the node that leads the group, as far as this one knows.
func (g *Group) Leader() (id meta.NodeID, known bool) {
	replica, _, ok, err := g.host.GetLeaderID(shardID)
	if err != nil || !ok {
		return 0, false
	}
	return nodeOfReplica(replica), true
}
