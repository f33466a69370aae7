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
	drains := s.nodes[s.dice.IntN(len(s.nodes))]                   // one may want to lead no more for good
	leave := s.dice.IntN(2) == 0 && !slices.Contains(s.factors, 1) // one that has halted as it is: it may be the only one that has a set
	for _, n := range s.nodes {
		s.pause(n, false)
		halted := n.halted
		if leave && halted && n != drains && s.isUp(n) && !n.broken && n.stops != n.run {
			leave = false
			s.left++
			continue
		}
		if s.isUp(n) && (halted || n.broken || n.stops == n.run) {
			s.kill(n)
		}
		if !s.isUp(n) {
			s.start(n)
		}
		n.drain(n == drains && s.dice.IntN(2) == 0)
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

// epoch is the last one of the first set that a node's catalog has.
func (s *sim) epoch() uint32 { return s.epochOf(0) }

func (s *sim) epochOf(set int) (last uint32) {
	for _, n := range s.nodes {
		if sh := n.parts[set].shard(); sh != nil {
			last = max(last, sh.Epoch)
		}
	}
	return last
}

// shard is the set's entry in the node's catalog.
func (p *simPart) shard() *meta.Shard { return p.n.catalog.Load().Shard(p.set.First) }

// simHeal is how long it may take until a node leads: applies that are late, an election or two, a lease.
const simHeal = 8 * time.Second

// leads says whether each set has a node that leads it.
func (s *sim) leads() bool {
	for k := range s.grown + 1 {
		if s.leader(k) == nil {
			return false
		}
	}
	return true
}

// leader is the node that leads a set; nil: none does.
func (s *sim) leader(set int) *simNode {
	for _, n := range s.nodes {
		if s.isUp(n) && !n.halted && n.parts[set].control.State().Leading {
			return n
		}
	}
	return nil
}

func (s *sim) inSync() bool {
	var live []*simNode
	for _, n := range s.nodes {
		if !n.halted {
			live = append(live, n)
		}
	}
	for k := range s.grown + 1 {
		for _, n := range live {
			sh := n.parts[k].shard()
			if sh == nil || k > 0 && s.factors != nil && s.factors[k-1] > 0 && len(sh.Replicas) != s.replicas(k) {
				return false
			}
			for _, o := range live {
				if (len(s.nodes) == 3 && s.replicas(k) == 3 || slices.Contains(sh.Replicas, o.id)) && !slices.Contains(sh.ISR, o.id) {
					return false
				}
			}
		}
	}
	return true
}

// balance has shards be balanced, as an operator asks at a node.
func (s *sim) balance(n *simNode, set int) {
	control := n.parts[set].control
	ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
	go func() {
		defer cancel()
		if p, err := control.Balance(ctx, BalanceOptions{}); err == nil {
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
		n.drain(false)
	}
	s.live(simLease) // the controller has heard of it
	for k := range s.grown + 1 {
		s.balancedSet(when, k)
	}
}

func (s *sim) balancedSet(when string, set int) {
	done := func() bool {
		for _, n := range s.nodes {
			if n.halted {
				continue
			}
			sh := n.parts[set].shard()
			if sh == nil || sh.Target != nil || len(sh.Replicas) != s.replicas(set) || len(sh.ISR) != s.replicas(set) || slices.ContainsFunc(sh.Replicas, func(id meta.NodeID) bool { return s.node(id).halted }) {
				return false
			}
		}
		return s.leads()
	}
	for begin, made := time.Now(), s.plans(); s.failed == "" && (s.plans() == made || !done()); {
		for _, n := range s.nodes {
			if !n.halted && s.plans() == made {
				s.balance(n, set)
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
		fmt.Fprintf(&b, "\nnode %d: raft %c term %d leader %d commit %d applied %d", n.id, n.raft.role, n.raft.term, n.raft.leader, n.raft.commit, n.raft.applied)
		for _, p := range n.parts[:s.grown+1] {
			fmt.Fprintf(&b, "\n  set %d: %+v, catalog %+v", p.set.Number, p.control.State(), p.shard())
		}
	}
	return b.String()
}
