package cluster

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// Simulated clusters whose sets have numbers of replicas of their own. That nothing of what was committed is lacked by who leads next is looked at all the while (begins, commit).

// settled says whether a set has so many replicas, all in sync, and nothing is on its way.
func (s *sim) settled(set, replicas int) bool {
	n := s.leader(set)
	if n == nil {
		return false
	}
	sh := n.parts[set].shard()
	return len(sh.Replicas) == replicas && len(sh.ISR) == replicas && sh.Target == nil && sh.Home == nil
}

// on are the nodes that have a set.
func (s *sim) on(set int) []meta.NodeID { return s.leader(set).parts[set].shard().Replicas }

// goesOn looks whether a set commits.
func (s *sim) goesOn(when string, set int) {
	had := s.committed()[set]
	s.until(when+" the set commits", func() bool { return s.committed()[set] > had })
}

// Sets begin with as many replicas as they are to have, each of one replica on another node.
func TestReplicasBegin(t *testing.T) {
	calm(t, []uint8{1, 1, 2}, func(s *sim) {
		for k, want := range map[int]int{0: 3, 1: 1, 2: 1, 3: 2} {
			if !s.settled(k, want) {
				s.fail("set %d does not have %d replicas:%s", k, want, s.states())
				return
			}
		}
		if slices.Equal(s.on(1), s.on(2)) {
			s.fail("two sets are on one node:%s", s.states())
		}
	})
}

// When the only node that has a set drains, another one gets what it lacks and leads; the set is back as soon as it may.
func TestOnlyReplicaDrains(t *testing.T) {
	calm(t, []uint8{1, 1, 1}, func(s *sim) {
		n := s.leader(1)
		n.drain(true)
		s.until("another one leads it", func() bool { l := s.leader(1); return l != nil && l != n && !slices.Contains(s.on(1), n.id) })
		if s.failed != "" {
			return
		}
		s.goesOn("on another node", 1)
		s.until("it has it alone", func() bool { return s.applied() && len(s.on(1)) == 1 })
		if sh := n.parts[1].shard(); !slices.Equal(sh.Home, ids(n.id)) || len(sh.Replicas) != 1 {
			s.fail("node %d is not to have it back: %+v", n.id, *sh)
		}
		s.live(2 * backLeases * simLease)
		if s.leader(1) == n {
			s.fail("it comes back to a node that drains")
		}
		n.drain(false)
		begin := time.Now()
		s.until("it is back", func() bool { return s.leader(1) == n && s.settled(1, 1) })
		if d := time.Since(begin); d < backLeases*simLease*9/10 {
			s.fail("it is back after %v", d)
		}
	})
}

// Nodes are stopped in order, one after the other: sets of one and of two replicas are handed over and go on meanwhile, and are where they were in the end.
func TestFewReplicasLeave(t *testing.T) {
	calm(t, []uint8{1, 2, 1}, func(s *sim) {
		for _, n := range s.nodes {
			ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
			controls := n.controls()
			left := make(chan error, len(controls))
			for _, c := range controls {
				go func() { left <- c.Leave(ctx) }()
			}
			s.until("all sets leave a node", func() bool { return len(left) == len(controls) })
			for range len(left) {
				if err := <-left; err != nil {
					s.fail("a set does not leave node %d: %v:%s", n.id, err, s.states())
				}
			}
			cancel()
			s.kill(n)
			for k := range s.sets {
				s.until("others lead what it had", func() bool { l := s.leader(k); return l != nil && !slices.Contains(l.parts[k].shard().ISR, n.id) })
				s.goesOn("while a node is stopped", k)
			}
			s.start(n)
			s.until("it is back", func() bool { return s.leads() && s.settled(0, 3) })
		}
		s.until("all is as it was", func() bool { return s.settled(1, 1) && s.settled(2, 2) && s.settled(3, 1) })
		if s.failed == "" && (s.on(1)[0] != 1 || !slices.Contains(s.on(2), 2) || s.on(3)[0] != 3) {
			s.fail("sets are not where they were:%s", s.states())
		}
	})
}

// A set of one replica waits for the node that has it, when that is lost, and has all of it then. One of two goes on with another node in the place of the lost one.
func TestFewReplicasLost(t *testing.T) {
	calm(t, []uint8{1, 2, 3}, func(s *sim) {
		n := s.leader(1)
		s.kill(n)
		s.until("others lead what they can", func() bool { return s.leader(0) != nil && s.leader(2) != nil && s.leader(3) != nil })
		s.live(4 * simLease)
		if s.leader(1) != nil {
			s.fail("one leads that has no part in the set:%s", s.states())
		}
		s.goesOn("without a node", 2)
		s.start(n)
		s.until("it leads again", func() bool { return s.leader(1) == n })
		if s.failed != "" {
			return
		}
		s.goesOn("when its node is back", 1)
		s.until("two have it", func() bool { return s.settled(2, 2) && s.settled(0, 3) })
		lost := s.leader(2)
		for range 2 { // first the one that leads, then another one
			s.kill(lost)
			s.until("another one leads", func() bool { return s.leader(2) != nil && len(s.leader(2).parts[2].shard().ISR) == 2 })
			if s.failed != "" {
				return
			}
			s.goesOn("without a node", 2)
			s.start(lost)
			s.until("it is as it was", func() bool { return s.settled(2, 2) && slices.Contains(s.on(2), lost.id) && s.settled(0, 3) })
			if s.failed != "" {
				return
			}
			lost = s.node(s.on(2)[1])
		}
	})
}

// The number of replicas is changed while the set is written to: more, fewer, and a node is asked to lead that has no part in it.
func TestReplicasChange(t *testing.T) {
	calm(t, []uint8{1, 2, 3}, func(s *sim) {
		for _, to := range []int{3, 2, 1, 2, 1} {
			for k := 1; k <= 3; k++ {
				s.leader(0).catalog.Update(func(now *meta.Snapshot) ([]meta.Entry, error) {
					next := *now.Cluster()
					next.Replicas[k] = uint8(to)
					return []meta.Entry{next.Entry()}, nil
				}, func(err error) {
					if err != nil {
						s.t.Error(err)
					}
				})
			}
			s.until("they have as many", func() bool { return s.settled(1, to) && s.settled(2, to) && s.settled(3, to) })
			if s.failed != "" {
				return
			}
			s.goesOn("with another number", 1)
		}
		n := s.leader(1)
		to := s.nodes[int(n.id)%3]
		go func() { _ = s.nodes[0].parts[1].control.Move(s.nodes[0].ctx, to.id) }()
		s.until("another node has it", func() bool { return s.leader(1) == to && s.settled(1, 1) })
		s.live(2 * backLeases * simLease)
		if s.leader(1) != to {
			s.fail("what was moved has moved back:%s", s.states())
		}
	})
}

// A node that has no part in a set can be elected when the one is lost that has it: what that one alone has is lost.
func TestOnlyReplicaGivenUp(t *testing.T) {
	calm(t, []uint8{1, 1, 2}, func(s *sim) {
		n := s.leader(1)
		s.kill(n)
		to := s.nodes[int(n.id)%3]
		s.until("the other sets are led", func() bool { return s.leader(0) != nil && to.parts[1].shard().Leader == 0 })
		s.enter(func() {
			set := &s.sets[1]
			set.record = set.record[:min(len(set.record), len(to.parts[1].data))]
		})
		done := make(chan error, 1)
		go func() { done <- to.parts[1].control.ElectUnclean(to.ctx, to.id) }()
		s.until("it leads", func() bool { return s.leader(1) == to })
		if err := <-done; err != nil {
			s.fail("%v", err)
		}
		s.goesOn("on the other node", 1)
		s.start(n)
		s.until("all follow", func() bool { return s.settled(0, 3) && s.settled(1, 1) })
		s.goesOn("when the lost one is back", 1)
	})
}

// Who shall stand in is said once: as long as nothing else is known of the nodes, what is made of it changes no more, whoever comes along or does not.
func TestStandInIsSaidOnce(t *testing.T) {
	s := catalogOf(t, 3).Load()
	for _, c := range []struct {
		name  string
		sh    meta.Shard
		known map[meta.NodeID]Known
		short bool
	}{
		{name: "one does not come along", sh: meta.Shard{Leader: 1, Epoch: 1, Replicas: ids(1, 3), ISR: ids(1), Eligible: ids(3)}, known: allThere(3), short: true},
		{name: "all that are left drain", sh: meta.Shard{Leader: 1, Epoch: 1, Replicas: ids(1), ISR: ids(1)},
			known: map[meta.NodeID]Known{1: {Alive: true, Draining: true, Leaving: true}, 2: {Alive: true, Draining: true}, 3: {Alive: true, Draining: true}}},
		{name: "it drains", sh: meta.Shard{Leader: 1, Epoch: 1, Replicas: ids(1), ISR: ids(1)}, known: map[meta.NodeID]Known{1: {Alive: true, Draining: true}, 2: {Alive: true}, 3: {Alive: true}}},
		{name: "who was to lead drains", sh: meta.Shard{Leader: 1, Epoch: 1, Replicas: ids(1, 2), ISR: ids(1, 2), Target: ids(2)}, known: map[meta.NodeID]Known{1: {Alive: true}, 2: {Alive: true, Draining: true}}},
		{name: "one is lost", sh: meta.Shard{Leader: 1, Epoch: 1, Replicas: ids(1, 3), ISR: ids(1), Eligible: ids(3)}, known: allThere(2)},
	} {
		in := standsIn(s, 1, &c.sh, c.known, c.short)
		if in == nil {
			t.Errorf("%s: nobody stands in", c.name)
			continue
		}
		sh := c.sh
		sh.Target = in
		if again := standsIn(s, 1, &sh, c.known, c.short); again != nil {
			t.Errorf("%s: %v, and then %v", c.name, in, again)
		}
	}
}
