package cluster

import (
	"context"
	"testing"
	"time"
)

// A node that stops hands over the lead of the catalog's group, too: another one has it before the node is gone, and no set that others lead loses its leader. Where
// the node is not there to do so, an election takes longer.
func TestHandOver(t *testing.T) {
	calm(t, nil, func(s *sim) {
		for range 6 {
			n := s.reigns()
			ctx, cancel := context.WithTimeout(n.ctx, 10*time.Second)
			for _, c := range n.controls() {
				if err := c.Leave(ctx); err != nil {
					s.fail("a set does not leave node %d: %v:%s", n.id, err, s.states())
				}
			}
			epochs, had := s.allEpochs(), s.committed()
			begin := time.Now()
			if err := HandOver(ctx, n.controls()); err != nil {
				s.fail("the lead of the group is not handed over: %v", err)
			}
			cancel()
			if d := time.Since(begin); d > 12*simElection*simTick/10 {
				s.fail("to hand over takes %v", d)
			}
			if now := s.reigns(); now == nil || now == n {
				s.fail("node %d has handed over, and none of the others leads the group", n.id)
				return
			}
			s.kill(n)
			s.live(2 * simLease)
			s.stands("when a node stops", []int{0, 1, 2, 3}, epochs, had)
			s.start(n)
			s.until("it is back", func() bool { return s.leads() && s.inSync() })
		}
	})
}

// A node that is cut off while the lead of the group is handed over leads until its lease is over, and nobody else before that.
func TestHandOverWaits(t *testing.T) {
	for _, after := range []time.Duration{0, simElection * simTick * 9 / 10} {
		handOverWaits(t, after)
	}
}

func handOverWaits(t *testing.T, after time.Duration) {
	t.Helper()
	calm(t, nil, func(s *sim) {
		n := s.reigns()
		var lost *simNode
		for k := range s.sets {
			if l := s.leader(k); l != n {
				lost = l
			}
		}
		go func() { _ = HandOver(n.ctx, n.controls()) }()
		s.live(after)
		s.enter(func() {
			for _, o := range s.nodes {
				s.cut[[2]int{int(lost.id), int(o.id)}], s.cut[[2]int{int(o.id), int(lost.id)}] = o != lost, o != lost
			}
		})
		s.live(3 * simLease)
		if now := s.reigns(); now == n || now == lost {
			s.fail("node %d has not handed over to the third one", n.id)
		}
	})
}

// A node that stops while no other one is there keeps the lead of the group, and does not wait.
func TestHandOverToNobody(t *testing.T) {
	calm(t, nil, func(s *sim) {
		n := s.reigns()
		for _, o := range s.nodes {
			if o != n {
				s.kill(o)
			}
		}
		s.live(simLease / 2 * 11 / 10)
		begin := time.Now()
		if err := HandOver(n.ctx, n.controls()); err != nil || time.Since(begin) > 0 {
			s.fail("nobody is there, and it takes %v: %v", time.Since(begin), err)
		}
	})
}

// reigns is the node that leads the catalog's group; nil: none does.
func (s *sim) reigns() (leads *simNode) {
	s.enter(func() {
		for _, n := range s.nodes {
			if n.up() && n.raft.role == 'l' && (leads == nil || n.raft.term > leads.raft.term) {
				leads = n
			}
		}
	})
	return leads
}
