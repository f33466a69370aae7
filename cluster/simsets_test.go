package cluster

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// Simulated clusters with several sets of shards.

// anySet is one of the sets that are there.
func (s *sim) anySet() int {
	if s.grown == 0 {
		return 0
	}
	return s.dice.IntN(s.grown + 1)
}

// grow makes the sets, and waits until each is led by the node that is to.
func (s *sim) grow() {
	sets := len(s.sets) - 1
	if sets == 0 || s.failed != "" {
		return
	}
	if s.leader(1) != nil || s.epochOf(1) != 0 {
		s.fail("a set that is not there is led")
	}
	s.makeSets(sets)
	s.heals("after sets were made")
	s.evenly("when sets were made")
}

func (s *sim) makeSets(sets int) {
	n := s.leader(0)
	n.catalog.Update(func(now *meta.Snapshot) ([]meta.Entry, error) { return s.growsTo(now, sets) }, func(err error) {
		if err != nil {
			s.t.Errorf("%d sets are not made: %v", sets, err)
		}
	})
	s.grown = sets
}

// growsTo are the entries by which there are so many sets, each with the number of replicas that it is to have.
func (s *sim) growsTo(now *meta.Snapshot, sets int) ([]meta.Entry, error) {
	if _, err := meta.GrowSets(now, uint32(sets), 0); err != nil {
		return nil, err
	}
	next := *now.Cluster()
	next.Sets = uint32(sets)
	copy(next.Replicas[1:], s.factors)
	return []meta.Entry{next.Entry()}, nil
}

// replicas is how many a set is to have.
func (s *sim) replicas(set int) int {
	for _, n := range s.nodes {
		if !n.halted && s.isUp(n) {
			return n.catalog.Load().Cluster().SetReplicas(set, 3)
		}
	}
	return 3
}

// evenly looks whether each set comes to be led by the first of its replicas, soon and without an operator, and nothing moves from there on.
func (s *sim) evenly(when string) {
	for _, n := range s.nodes {
		n.drain(false)
	}
	begin := time.Now()
	done := func() bool {
		for k := 1; k <= s.grown; k++ {
			n := s.leader(k)
			if n == nil || n.parts[k].shard().Replicas[0] != n.id && !s.node(n.parts[k].shard().Replicas[0]).halted {
				return false
			}
			sh := n.parts[k].shard()
			if shall := slices.Concat(sh.Home, sh.Target); len(shall) > 0 && !slices.ContainsFunc(shall, func(id meta.NodeID) bool { return s.node(id).halted }) {
				return false
			}
		}
		return true
	}
	for s.failed == "" && !done() {
		if s.live(50 * time.Millisecond); time.Since(begin) > simHeal+2*backMost*backLeases*simLease {
			s.fail("%s sets are not led by those that are to:%s", when, s.states())
		}
	}
	before := s.allEpochs()
	s.live(4 * simLease)
	if now := s.allEpochs(); s.failed == "" && !slices.Equal(now, before) {
		s.fail("%s leads move though nothing happens, from epochs %v to %v:%s", when, before, now, s.states())
	}
}

func (s *sim) allEpochs() (list []uint32) {
	for k := range s.grown + 1 {
		list = append(list, s.epochOf(k))
	}
	return list
}

// spread looks whether sets are led as they are to when all is well for long, and by as many nodes as can be when they are balanced.
func (s *sim) spread() {
	if s.grown == 0 || s.failed != "" {
		return
	}
	s.heals("in the end")
	s.evenly("in the end")
	if len(s.nodes) > 3 || s.failed != "" || slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.halted }) {
		return
	}
	for range 2 { // where sets of one replica have gone after others were looked at, those are by the second time
		for k := range s.grown + 1 {
			s.balancedSet("in the end", k)
		}
	}
	begin := time.Now()
	for s.failed == "" && !s.even() {
		if s.live(20 * time.Millisecond); time.Since(begin) > simHeal {
			s.fail("sets are not spread over nodes when they are balanced:%s", s.states())
		}
	}
}

// even says whether no node leads two sets more than another one.
func (s *sim) even() bool {
	led := make([]int, len(s.nodes))
	for k := 1; k <= s.grown; k++ {
		n := s.leader(k)
		if n == nil {
			return false
		}
		led[n.id-1]++
	}
	return slices.Max(led) <= slices.Min(led)+1
}

// calm is a cluster of three nodes with three sets beside the first, in which nothing happens: each has so many replicas, or as many as there are.
func calm(t *testing.T, factors []uint8, lives func(*sim)) {
	t.Helper()
	still(t, 3, factors, func(s *sim) {
		if s.grow(); s.failed == "" {
			lives(s)
		}
	})
}

// still is calm before the sets are made, of which there may be so many.
func still(t *testing.T, sets int, factors []uint8, lives func(*sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 1, 3, sets)
		s.factors = factors
		for _, n := range s.nodes {
			s.start(n)
		}
		if s.heals("at first"); s.failed == "" {
			lives(s)
		}
		for _, n := range s.nodes {
			if s.isUp(n) {
				s.kill(n)
			}
		}
		if synctest.Wait(); s.failed != "" {
			t.Error(s.failed)
		}
	})
}

// until lets time pass until it is so, and fails where it takes too long.
func (s *sim) until(what string, done func() bool) {
	for begin := time.Now(); s.failed == "" && !done(); {
		if s.live(10 * time.Millisecond); time.Since(begin) > 4*simHeal {
			s.fail("%s: not after %v:%s", what, 4*simHeal, s.states())
		}
	}
}

// stands looks whether these sets are led as before, and go on.
func (s *sim) stands(when string, sets []int, epochs []uint32, committed []int) {
	for _, k := range sets {
		if now := s.epochOf(k); now != epochs[k] {
			s.fail("%s set %d, which it is none of, goes from epoch %d to %d:%s", when, k, epochs[k], now, s.states())
		}
		if now := len(s.sets[k].record); now <= committed[k] {
			s.fail("%s set %d, which it is none of, commits nothing", when, k)
		}
	}
}

func (s *sim) committed() (list []int) {
	s.enter(func() {
		for k := range s.sets {
			list = append(list, len(s.sets[k].record))
		}
	})
	return list
}

// While one set changes its leader the others stand: when an operator moves it, when the node drains that leads it, when that is lost. What an operator has moved stays, also over a
// drain of the node, and what a node has lost by a restart comes back to it by itself.
func TestSetsStandAlone(t *testing.T) {
	calm(t, nil, func(s *sim) {
		for k := 1; k <= 3; k++ {
			if s.leader(k) != s.nodes[k-1] {
				s.fail("set %d does not begin on node %d:%s", k, k, s.states())
			}
		}
		group := func() (leads *simNode) {
			s.enter(func() {
				for _, n := range s.nodes {
					if n.up() && n.raft.role == 'l' {
						leads = n
					}
				}
			})
			return leads
		}
		epochs, had := s.allEpochs(), s.committed()
		to := s.nodes[2]
		go func() { _ = s.nodes[0].parts[2].control.Move(s.nodes[0].ctx, to.id) }()
		s.until("set 2 moves", func() bool { return s.leader(2) == to })
		s.live(3 * backLeases * simLease)
		s.stands("when one is moved", []int{0, 1, 3}, epochs, had)
		if s.leader(2) != to || s.nodes[0].parts[2].shard().Replicas[0] != to.id {
			s.fail("what was moved has moved back:%s", s.states())
		}

		to.drain(true) // it leads sets 2 and 3
		epochs, had = s.allEpochs(), s.committed()
		s.until("node 3 drains", func() bool { return s.leader(2) != nil && s.leader(2) != to && s.leader(3) != nil && s.leader(3) != to })
		s.live(2 * backLeases * simLease)
		s.stands("when a node drains", []int{0, 1}, epochs, had)
		to.drain(false)
		s.until("node 3 leads again", func() bool { return s.leader(2) == to && s.leader(3) == to })
		s.stands("when a node drains no more", []int{0, 1}, epochs, had)

		lost := s.nodes[2] // it leads sets, and not the catalog's group, nor the first set
		if lost == group() || lost == s.leader(0) {
			s.fail("node 3 leads more than sets 2 and 3:%s", s.states())
			return
		}
		epochs, had = s.allEpochs(), s.committed()
		s.kill(lost)
		s.until("a node is lost", func() bool { return s.leader(2) != nil && s.leader(3) != nil })
		s.stands("when a node is lost", []int{0, 1}, epochs, had)
		s.start(lost)
		begin := time.Now()
		s.until("the node is back", func() bool { return s.leader(2) == lost && s.leader(3) == lost })
		if d := time.Since(begin); d < backLeases*simLease*9/10 {
			s.fail("the node has the lead back after %v", d)
		}
		s.stands("when the node is back", []int{0, 1}, epochs, had)
	})
}

// When all sets of a node leave it, in any order, another one leads each and nobody waits for the node; when nodes are restarted in turn, leads are spread again without an operator.
func TestSetsLeave(t *testing.T) {
	calm(t, nil, func(s *sim) {
		for i, n := range s.nodes {
			controls := n.controls()
			if i%2 == 1 {
				slices.Reverse(controls)
			}
			ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
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
			for k := range s.sets {
				if sh := n.parts[k].shard(); sh.Leader == n.id || sh.Leader == 0 || slices.Contains(sh.ISR, n.id) {
					s.fail("node %d has left set %d, and it is %+v", n.id, k, *sh)
				}
			}
			s.kill(n)
			s.live(simLease)
			s.start(n)
			s.until("it is back", func() bool { return s.leads() && s.inSync() })
		}
		s.evenly("after a rolling restart")
		if !s.even() {
			s.fail("leads are not spread after a rolling restart:%s", s.states())
		}
	})
}

// A node that begins to lead is told that another one is in sync no more before its core has heard that it is to lead: that counts as soon as it has.
func TestSetsLeaveOneThatBegins(t *testing.T) {
	calm(t, nil, func(s *sim) {
		s.enter(func() { s.late = simLease / 4 })
		for _, n := range s.nodes {
			ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
			left := make(chan error, len(s.sets))
			for _, c := range n.controls() {
				go func() { left <- c.Leave(ctx) }()
			}
			s.until("all sets leave a node", func() bool { return len(left) == len(s.sets) })
			cancel()
			s.kill(n)
			for k := range s.sets {
				s.goesOn(fmt.Sprintf("when node %d has gone", n.id), k)
			}
			s.start(n)
			s.until("it is back", func() bool { return s.leads() && s.inSync() })
		}
	})
}

// A node that is paused in all sets neither leads nor follows: others lead what it led, and it comes back when that ends.
func TestSetsPause(t *testing.T) {
	calm(t, nil, func(s *sim) {
		n := s.nodes[0]
		if s.leader(1) != n {
			s.fail("set 1 does not begin on node 1:%s", s.states())
		}
		for _, o := range s.nodes[1:] { // one that drains leads rather than one that would not, whom nobody is to ask again and again
			o.drain(true)
		}
		paused := make(chan func(), len(s.sets))
		for _, c := range n.controls() {
			go func() {
				resume, err := c.Pause(n.ctx)
				if err != nil {
					s.t.Error(err)
				}
				paused <- resume
			}()
		}
		s.until("all sets pause", func() bool { return len(paused) == len(s.sets) })
		rests := func() (yes bool) {
			s.enter(func() {
				yes = true
				for _, p := range n.parts {
					yes = yes && p.streams.lead == 0 && p.streams.leader == 0 && !p.opened
				}
			})
			return yes
		}
		if !rests() {
			s.fail("a node that is paused leads or follows:%s", s.states())
		}
		s.until("others lead", func() bool {
			for k := range s.sets {
				if l := s.leader(k); l == nil || l == n {
					return false
				}
			}
			return true
		})
		for begin := time.Now(); time.Since(begin) < 4*simLease && s.failed == ""; s.live(10 * time.Millisecond) {
			if !rests() {
				s.fail("a node that is paused leads or follows:%s", s.states())
			}
		}
		for k := range s.sets {
			if epoch := s.epochOf(k); epoch > 6 {
				s.fail("set %d has gone from one to the other: epoch %d:%s", k, epoch, s.states())
			}
		}
		for _, o := range s.nodes[1:] {
			o.drain(false)
		}
		for range s.sets {
			(<-paused)()
		}
		s.heals("after a pause")
		s.evenly("after a pause")
		if s.leader(1) != n {
			s.fail("the node does not lead again what it led:%s", s.states())
		}
	})
}

// A follower that is lost soon after the lead began is waited for no longer than one that is lost later: until its connection ends, not until its lease is over.
func TestSetsLoseFollower(t *testing.T) {
	for _, after := range []time.Duration{200 * time.Millisecond, simLease, 3 * time.Second} { // the last one is longer than Options.Lag
		calm(t, nil, func(s *sim) {
			s.until("all are in sync", s.inSync)
			to, lost := s.nodes[0], s.nodes[2]
			if s.leader(2) == to {
				to = s.nodes[1]
			}
			go func() { _ = s.nodes[0].parts[2].control.Move(s.nodes[0].ctx, to.id) }()
			s.until("set 2 moves", func() bool { return s.leader(2) == to && to.parts[2].opened })
			s.live(after)
			if !slices.Contains(to.parts[2].shard().ISR, lost.id) {
				s.fail("a healthy follower is not in sync:%s", s.states())
			}
			epoch, had := s.epochOf(2), s.committed()[2]
			s.kill(lost)
			var worst time.Duration
			for begin, last := time.Now(), time.Now(); time.Since(begin) < 2*simLease && s.failed == ""; s.live(10 * time.Millisecond) {
				if now := s.committed()[2]; now > had {
					had, last = now, time.Now()
				}
				worst = max(worst, time.Since(last))
			}
			t.Logf("lost %v after the lead began: %v without an acknowledgement", after, worst)
			if worst > simLease/2 {
				s.fail("a follower is lost %v after the lead began, and nothing is acknowledged for %v", after, worst)
			}
			if now := s.epochOf(2); now != epoch {
				s.fail("the lead moves when a follower is lost, from epoch %d to %d", epoch, now)
			}
		})
	}
}

// The only node in sync of a set, which is paused, is not elected again and again: nobody leads until that ends, then it does at once.
func TestSetsPausedAlone(t *testing.T) {
	calm(t, nil, func(s *sim) {
		n := s.leader(1)
		others := slices.DeleteFunc(slices.Clone(s.nodes), func(o *simNode) bool { return o == n })
		behind, lost := others[0], others[1]
		s.enter(func() { behind.parts[1].breaks(time.Hour) })
		s.until("one is behind", func() bool { return !slices.Contains(n.parts[1].shard().ISR, behind.id) })
		s.kill(lost)
		s.until("the other one is lost", func() bool { return slices.Equal(n.parts[1].shard().ISR, []meta.NodeID{n.id}) })
		s.live(2 * simLease)
		paused := make(chan func(), 1)
		go func() {
			resume, err := n.parts[1].control.Pause(n.ctx)
			if err != nil {
				s.t.Error(err)
			}
			paused <- resume
		}()
		s.until("nobody leads", func() bool { return len(paused) == 1 && n.parts[1].shard().Leader == 0 })
		epoch := s.epochOf(1)
		s.live(8 * simLease)
		if now := s.epochOf(1); now != epoch {
			s.fail("a node that is paused is elected again and again: from epoch %d to %d", epoch, now)
		}
		resume, begin := <-paused, time.Now()
		resume()
		s.until("it leads again", func() bool { return s.leader(1) == n })
		if took := time.Since(begin); took > simLease {
			s.fail("it leads %v after the pause", took)
		}
	})
}

// Sets begin on all nodes that are there, also where these drain: with one replica alone a lost node would take what was acknowledged with it. They are led by one that does not.
func TestSetsBeginWhileNodesDrain(t *testing.T) {
	for drains := range 4 { // so many
		still(t, 3, nil, func(s *sim) {
			for _, n := range s.nodes[:drains] {
				n.drain(true)
			}
			s.live(2 * simLease)
			s.makeSets(3)
			s.until("sets begin", s.leads)
			for k := 1; k <= 3; k++ {
				sh := s.leader(k).parts[k].shard()
				if sh.Epoch != 1 || len(sh.Replicas) != 3 || len(sh.ISR) != 3 {
					s.fail("set %d begins with %+v where %d of three drain", k, *sh, drains)
				}
				if drains < 3 && int(sh.Leader) <= drains {
					s.fail("set %d begins with a leader that drains: %+v", k, *sh)
				}
			}
		})
	}
}

// A set that begins while a node is away gets it when it comes.
func TestSetsBeginWithoutOne(t *testing.T) {
	still(t, 3, nil, func(s *sim) {
		away := s.nodes[2]
		if s.leader(0) == away {
			away = s.nodes[1]
		}
		s.kill(away)
		s.until("it is known to be away", func() bool { return s.leader(0) != nil && !slices.Contains(s.leader(0).parts[0].shard().ISR, away.id) })
		s.live(2 * simLease)
		s.makeSets(3)
		s.until("sets begin", s.leads)
		for k := 1; k <= 3; k++ {
			if sh := s.leader(k).parts[k].shard(); len(sh.Replicas) != 2 || len(sh.ISR) != 2 {
				s.fail("set %d begins with %+v where two are there", k, *sh)
			}
		}
		s.start(away)
		s.until("it comes to all sets", func() bool {
			for k := 1; k <= 3; k++ {
				if sh := away.parts[k].shard(); sh == nil || len(sh.Replicas) != 3 || len(sh.ISR) != 3 {
					return false
				}
			}
			return s.applied()
		})
		s.evenly("with all three")
		if !s.even() {
			s.fail("leads are not spread over three:%s", s.states())
		}
	})
}

// balanceAll has all sets be balanced, as an operator asks at a node.
func (s *sim) balanceAll(n *simNode, o BalanceOptions) (plans []Plan) {
	type answer struct {
		plans []Plan
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		plans, err := BalanceAll(n.ctx, n.controls()[:s.grown+1], o)
		done <- answer{plans, err}
	}()
	s.until("sets are balanced", func() bool { return len(done) == 1 })
	if s.failed != "" {
		return nil
	}
	a := <-done
	if a.err != nil {
		s.fail("the sets are not balanced: %v", a.err)
	}
	return a.plans
}

// behind counts in how many sets each node is behind the one that leads, by that.
func (s *sim) behind() map[meta.NodeID]map[meta.NodeID]int {
	all := make(map[meta.NodeID]map[meta.NodeID]int)
	for k := 1; k <= s.grown; k++ {
		sh := s.leader(0).parts[k].shard()
		if all[sh.Leader] == nil {
			all[sh.Leader] = make(map[meta.NodeID]int)
		}
		all[sh.Leader][sh.Replicas[1]]++
	}
	return all
}

// A dry run shows what balancing does, each set after the ones before it. When sets were moved to one node, and when they are balanced, those of each node are
// led by as many of one other as of another when it is lost.
func TestSetsBalanceInTurn(t *testing.T) {
	still(t, 6, nil, func(s *sim) {
		s.grow()
		leads := func(n *simNode) (led int) {
			for k := 1; k <= s.grown; k++ {
				if s.leader(k) == n && n.parts[k].shard().Replicas[0] == n.id {
					led++
				}
			}
			return led
		}
		for _, to := range s.nodes[:2] {
			for k := range s.sets {
				go func() { _ = s.nodes[0].parts[k].control.Move(s.nodes[0].ctx, to.id) }()
			}
			s.until("one leads all", func() bool { return leads(to) == 6 && s.leader(0) == to })
			s.live(simLease)
			for id, sets := range s.behind()[to.id] {
				if sets != 3 {
					s.fail("behind node %d, which leads all sets, node %d is in %d:%s", to.id, id, sets, s.states())
				}
			}
		}
		for _, at := range s.nodes { // one of them decides, the others ask it
			dry := s.balanceAll(at, BalanceOptions{DryRun: true})
			moves := 0
			for _, p := range dry {
				if p.LeadMoves {
					moves++
				}
			}
			if s.failed == "" && moves != 4 {
				s.fail("a dry run shows %d leads that go, and 4 will: %+v", moves, dry)
			}
			if at == s.nodes[2] && s.failed == "" {
				if done := s.balanceAll(at, BalanceOptions{}); !reflect.DeepEqual(done, dry) {
					s.fail("a dry run shows %+v, and what is done is %+v", dry, done)
				}
			}
		}
		s.until("leads are spread", func() bool { return leads(s.nodes[0]) == 2 && leads(s.nodes[1]) == 2 && leads(s.nodes[2]) == 2 })
		if s.failed != "" {
			return
		}
		for first, others := range s.behind() {
			if len(others) != 2 {
				s.fail("behind node %d are %v:%s", first, others, s.states())
			}
		}
		if s.failed != "" {
			return
		}
		s.kill(s.nodes[0])
		if s.until("a node is lost", s.leads); s.failed != "" {
			return
		}
		led := make(map[meta.NodeID]int)
		for k := 1; k <= s.grown; k++ {
			led[s.leader(k).id]++
		}
		if led[2] != 3 || led[3] != 3 {
			s.fail("when a node is lost the others lead %v:%s", led, s.states())
		}
	})
}
