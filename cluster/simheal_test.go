package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// heals ends all faults but that of one node which has halted, at times, and looks whether one of the others leads soon and all of them are in sync.
func (s *sim) heals(when string) {
	s.enter(func() {
		s.tracef("all is well")
		clear(s.cut)
		s.slow, s.lossy, s.lag, s.starve = 0, 0, 0, 0
	})
	drains := s.nodes[s.dice.IntN(len(s.nodes))] // one may want to lead no more for good
	leave := s.dice.IntN(2) == 0                 // one that has halted as it is
	for _, n := range s.nodes {
		s.pause(n, false)
		halted := n.halted
		if leave && halted && n != drains && s.isUp(n) && !n.broken {
			leave = false
			s.left++
			continue
		}
		if s.isUp(n) && (halted || n.broken) {
			s.kill(n)
		}
		if !s.isUp(n) {
			s.start(n)
		}
		n.control.drain(n == drains && s.dice.IntN(2) == 0)
	}
	begin := time.Now()
	for s.failed == "" && !s.leads() {
		if s.live(10 * time.Millisecond); time.Since(begin) > simHeal {
			s.fail("%s nobody leads for %v:%s", when, simHeal, s.states())
		}
	}
	s.healed = max(s.healed, time.Since(begin))
	for s.failed == "" && (!s.leads() || !s.applied() || !s.inSync()) {
		if s.live(20 * time.Millisecond); time.Since(begin) > 3*simHeal {
			s.fail("%s not all nodes are in sync after %v:%s", when, 3*simHeal, s.states())
		}
	}
	s.live(3 * time.Second) // what an operator has asked for before is over
	s.balanced(when)
	before := s.epoch()
	s.live(simLease)
	if now := s.epoch(); s.failed == "" && now != before {
		s.fail("%s the lead moves though nothing happens, from epoch %d to %d:%s", when, before, now, s.states())
	}
}

// applied says whether the catalogs have all that is decided.
func (s *sim) applied() (all bool) {
	s.enter(func() {
		last := 0
		for _, n := range s.nodes {
			last = max(last, n.raft.commit)
		}
		all = !slices.ContainsFunc(s.nodes, func(n *simNode) bool { return !n.halted && n.raft.applied < last })
	})
	return all
}

// epoch is the last one that a node's catalog has.
func (s *sim) epoch() (last uint32) {
	for _, n := range s.nodes {
		if sh := n.catalog.Load().Shard(0); sh != nil {
			last = max(last, sh.Epoch)
		}
	}
	return last
}

// simHeal is how long it may take until a node leads: applies that are late, an election or two, a lease.
const simHeal = 8 * time.Second

func (s *sim) leads() bool {
	for _, n := range s.nodes {
		if s.isUp(n) && !n.halted && n.control.State().Leading {
			return true
		}
	}
	return false
}

func (s *sim) inSync() bool {
	var live []*simNode
	for _, n := range s.nodes {
		if !n.halted {
			live = append(live, n)
		}
	}
	for _, n := range live {
		sh := n.catalog.Load().Shard(0)
		if sh == nil {
			return false
		}
		for _, o := range live {
			if (len(s.nodes) == 3 || slices.Contains(sh.Replicas, o.id)) && !slices.Contains(sh.ISR, o.id) {
				return false
			}
		}
	}
	return true
}

// balance has shards be balanced, as an operator asks at a node.
func (s *sim) balance(n *simNode) {
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	go func() {
		defer cancel()
		if p, err := n.control.Balance(ctx, BalanceOptions{}); err == nil {
			s.enter(func() {
				s.tracef("balanced: %+v", p)
				if s.planned++; !p.Balanced() {
					s.moved++
				}
			})
		}
	}()
}

// balanced looks whether shards that are balanced when all is well lie in all racks soon, on nodes that have not halted, and are there once.
func (s *sim) balanced(when string) {
	if len(s.nodes) == 3 {
		return
	}
	for _, n := range s.nodes { // else there may be too few
		n.control.drain(false)
	}
	s.live(simLease) // the controller has heard of it
	done := func() bool {
		for _, n := range s.nodes {
			if n.halted {
				continue
			}
			sh := n.catalog.Load().Shard(0)
			if sh == nil || sh.Target != nil || len(sh.Replicas) != 3 || len(sh.ISR) != 3 || slices.ContainsFunc(sh.Replicas, func(id meta.NodeID) bool { return s.node(id).halted }) {
				return false
			}
		}
		return s.leads()
	}
	for begin, made := time.Now(), s.plans(); s.failed == "" && (s.plans() == made || !done()); {
		for _, n := range s.nodes {
			if !n.halted && s.plans() == made {
				s.balance(n)
				break
			}
		}
		if s.live(200 * time.Millisecond); time.Since(begin) > 2*simHeal {
			s.fail("%s shards are not balanced after %v:%s", when, 2*simHeal, s.states())
		}
	}
}

// plans is how many plans were made.
func (s *sim) plans() (made int) {
	s.enter(func() { made = s.planned })
	return made
}

func (s *sim) states() string {
	var b strings.Builder
	for _, n := range s.nodes {
		fmt.Fprintf(&b, "\nnode %d: %+v, catalog %+v, raft %c term %d leader %d commit %d applied %d", n.id, n.control.State(), n.catalog.Load().Shard(0), n.raft.role, n.raft.term, n.raft.leader, n.raft.commit,
			n.raft.applied)
	}
	return b.String()
}
