package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/meta"
)

var (
	simSeeds = flag.Int("cluster.seeds", 45, "how many simulated clusters TestSimulated has")
	simSeed  = flag.Uint64("cluster.seed", 0, "the one seed that TestSimulated has; 0: the first ones")
	simNodes = flag.Int("cluster.nodes", 0, "how many nodes the clusters of TestSimulated have; 0: three, or four")
	simSets  = flag.Int("cluster.sets", -1, "how many sets of shards there are in them beside the first; -1: none in most, up to three in the others")
	simTrace = flag.Bool("cluster.trace", false, "log what the nodes of a simulated cluster do")
)

const (
	simLease  = 1250 * time.Millisecond
	simShards = 2
	simDrift  = 0.05 // how far clocks run from the true one, at most
)

// sim is a cluster in virtual time: Controllers as they are, over a group, streams and a core that are simulated, on clocks that run apart, with nodes that
// stand still, are killed and come back, and links that are slow, lossy and cut.
type sim struct {
	t     *testing.T
	rnd   *rand.Rand // under mu
	dice  *rand.Rand // of the one who makes faults
	begin time.Time

	mu             sync.Mutex
	nodes          []*simNode
	later          []func()        // to be called without mu
	late           time.Duration   // that much time after it was told to the core of a node leads
	cut            map[[2]int]bool // from, to
	slow           time.Duration   // what messages take at most
	lossy          int             // of 100 messages, so many are lost
	lag            int             // of 100 applies, so many are late
	starve         int             // of 100 confirmations, so many find that nobody runs their goroutine for a while
	sets           []simSet
	grown          int     // sets that are there
	factors        []uint8 // how many replicas those beside the first have by the catalog
	planned, moved int     // balances, and those by which something moves, under mu
	handed         int     // nodes that have stopped in good order
	left           int     // times that a node which had halted was left as it was, and the others had to go on
	failed         string
	healed         time.Duration // the longest that it took until a node led when all was well
}

// simSet is what is known of a set of shards.
type simSet struct {
	record []simRecord // what is committed
	epochs map[uint32]meta.NodeID
}

type simRecord struct {
	epoch uint32
	n     int
}

// simNode is a node. What is not said to be on disk goes with its run.
type simNode struct {
	s    *sim
	id   meta.NodeID
	rate float64 // of its clock

	raft *raft

	run     int // odd: it is up
	paused  bool
	halted  bool     // its catalog takes nothing over any more
	broken  bool     // its journal has failed
	stops   int      // the run that is about to end
	held    []func() // what happens when it goes on
	catalog *meta.Catalog
	parts   []*simPart // one for each set
	serve   map[uint16]func(meta.NodeID, []byte, func([]byte, string))
	ctx     context.Context
	stop    context.CancelFunc

	resumed      time.Time // when it last went on
	spoke, heard time.Time // when it last could send somebody something, and be sent something
}

func (s *sim) majority() int { return len(s.nodes)/2 + 1 }

func (s *sim) node(id meta.NodeID) *simNode { return s.nodes[id-1] }

func (s *sim) outside(fn func()) { s.later = append(s.later, fn) }

// enter calls fn with mu, and then what it has left.
func (s *sim) enter(fn func()) {
	s.mu.Lock()
	fn()
	later := s.later
	s.later = nil
	s.mu.Unlock()
	for _, fn := range later {
		fn()
	}
}

func (s *sim) fail(format string, args ...any) {
	if s.failed == "" {
		s.failed = fmt.Sprintf("at %v: ", time.Since(s.begin)) + fmt.Sprintf(format, args...)
	}
}

func (s *sim) tracef(format string, args ...any) {
	if *simTrace {
		s.t.Logf("%v "+format, append([]any{time.Since(s.begin)}, args...)...)
	}
}

func (n *simNode) up() bool { return n.run%2 == 1 }

func (s *sim) isUp(n *simNode) (up bool) {
	s.enter(func() { up = n.up() })
	return up
}

// do has something happen to a run of the node, now, or when it goes on; false: that run is over.
func (n *simNode) do(run int, fn func()) (ok bool) {
	n.s.enter(func() { ok = n.doLocked(run, fn) })
	return ok
}

func (n *simNode) doLocked(run int, fn func()) bool {
	switch {
	case n.run != run || !n.up():
		return false
	case n.paused:
		n.held = append(n.held, func() {
			if n.run == run {
				fn()
			}
		})
	default:
		fn()
	}
	return true
}

// after is called with mu: fn comes with it, after d of the node's clock.
func (n *simNode) after(d time.Duration, fn func()) {
	run := n.run
	time.AfterFunc(time.Duration(float64(d)/n.rate), func() { n.do(run, fn) })
}

// send is called with mu: fn happens to another node, if the message arrives.
func (n *simNode) send(to *simNode, fn func()) {
	s := n.s
	if s.cut[[2]int{int(n.id), int(to.id)}] || s.rnd.IntN(100) < s.lossy {
		return
	}
	delay := time.Duration(s.rnd.Int64N(int64(time.Millisecond))) + 50*time.Microsecond
	if s.slow > 0 && s.rnd.IntN(4) == 0 {
		delay += time.Duration(s.rnd.Int64N(int64(s.slow)))
	}
	run := to.run
	time.AfterFunc(delay, func() {
		to.s.enter(func() {
			if !s.cut[[2]int{int(n.id), int(to.id)}] {
				to.doLocked(run, fn)
			}
		})
	})
}

func (n *simNode) applyLag() time.Duration {
	s := n.s
	if s.rnd.IntN(100) < s.lag {
		return time.Duration(s.rnd.Int64N(int64(4 * time.Second)))
	}
	return time.Duration(s.rnd.Int64N(int64(2 * time.Millisecond)))
}

// starve has the goroutine that calls it wait as one that the machine does not run.
func (n *simNode) starve(ctx context.Context) {
	var wait time.Duration
	n.s.enter(func() {
		if n.s.rnd.IntN(100) < n.s.starve {
			wait = time.Duration(n.s.rnd.Int64N(int64(2 * time.Second)))
		}
	})
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
}

// simClock is a node's clock.
type simClock struct {
	n   *simNode
	run int
}

// Now makes it a clock.Clock.
func (c simClock) Now() time.Time { return time.Now() }

// Mono makes it a clock.Clock.
func (c simClock) Mono() time.Duration {
	return time.Duration(float64(time.Since(c.n.s.begin)+time.Hour) * c.n.rate)
}

// AfterFunc makes it a clock.Clock.
func (c simClock) AfterFunc(d time.Duration, f func()) clock.Timer {
	return simTimer{time.AfterFunc(time.Duration(float64(max(d, 0))/c.n.rate)+1, func() {
		if !c.n.do(c.run, func() { c.n.s.outside(f) }) {
			f() // who waits in a run that is over ends
		}
	})}
}

type simTimer struct{ *time.Timer }

// simPeers are the other nodes as a run of one has them.
type simPeers struct {
	n   *simNode
	run int
}

// Serve makes it Peers.
func (p simPeers) Serve(method uint16, serve func(meta.NodeID, []byte, func([]byte, string))) {
	p.n.serve[method] = serve
}

// Ask makes it Peers.
func (p simPeers) Ask(to meta.NodeID, method uint16, body []byte, wait time.Duration, answered func([]byte, error)) {
	n, peer := p.n, p.n.s.node(to)
	over := false // under mu
	answer := func(b []byte, err error) {
		if !over {
			over = true
			n.s.outside(func() { answered(b, err) })
		}
	}
	ok := n.do(p.run, func() {
		n.send(peer, func() {
			serve, run := peer.serve[method], peer.run
			n.s.outside(func() {
				serve(n.id, body, func(b []byte, refusal string) {
					var err error
					if refusal != "" {
						err = errors.New(refusal)
					}
					peer.do(run, func() { peer.send(n, func() { answer(b, err) }) })
				})
			})
		})
		n.after(wait, func() { answer(nil, context.DeadlineExceeded) })
	})
	if !ok {
		go answered(nil, errSimDown)
	}
}

// start brings a node up, anew or again.
func (s *sim) start(n *simNode) {
	s.mu.Lock()
	n.run++
	n.paused, n.held = false, nil
	n.halted, n.broken = false, false
	for _, p := range n.parts {
		p.forget()
	}
	n.serve = make(map[uint16]func(meta.NodeID, []byte, func([]byte, string)))
	n.ctx, n.stop = context.WithCancel(context.Background())
	run := n.run
	old := n.raft
	r := &raft{n: n, log: []simEntry{{}}, role: 'f', results: map[[2]int]simResult{}, waiting: map[int]func(error){}}
	if old != nil {
		r.term, r.vote, r.log = old.term, old.vote, old.log
	}
	n.raft = r
	r.newPatience()
	group := &simGroup{n: n, run: run}
	n.catalog = meta.New(group)
	n.catalog.Apply(0, s.first())
	if err := n.catalog.Recovered(); err != nil {
		s.t.Error(err)
	}
	if old != nil {
		for i := 1; i <= old.applied; i++ {
			r.take(i)
		}
		r.commit = old.applied
	}
	s.tracef("node %d starts", n.id)
	s.mu.Unlock()
	shared := Group(group)
	if len(n.parts) > 1 {
		shared = MergeBarriers(group)
	}
	for _, p := range n.parts {
		p.control = New(Options{Node: n.id, Catalog: n.catalog, Group: shared, Peers: simPeers{n, run}, Core: simCore{p, run}, Streams: simStreams{p, run},
			Set: p.set.Number, First: int(p.set.First), Shards: int(p.set.Count), Lease: simLease, Replicas: 3, Lag: 2 * time.Second, Clock: simClock{n, run}})
	}
	wait := time.Duration(0)
	if old != nil {
		wait = simElection * simTick // raftgroup.rest
	}
	controls := n.controls()
	n.do(run, func() {
		n.after(wait, func() {
			n.ticks()
			for _, c := range controls {
				s.outside(func() { c.Start(simElection * simTick * 9 / 10) })
			}
		})
	})
}

// controls are the node's Controllers.
func (n *simNode) controls() (list []*Controller) {
	for _, p := range n.parts {
		list = append(list, p.control)
	}
	return list
}

// drain has the node leave the lead of all sets to others, or not.
func (n *simNode) drain(draining bool) {
	for _, c := range n.controls() {
		c.drain(draining)
	}
}

func (n *simNode) ticks() {
	n.raft.tick()
	n.after(simTick, n.ticks)
}

// first is what the catalog begins with.
func (s *sim) first() []meta.Entry {
	entries := []meta.Entry{(&meta.Cluster{ID: "c", Shards: simShards, Level: meta.LevelReplicas}).Entry()}
	for _, n := range s.nodes {
		node := meta.Node{ID: n.id, Rack: []string{"a", "b"}[n.id/4], State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Level: 1, Disk: fmt.Sprint("disk", n.id), Address: fmt.Sprintf("h%d:1", n.id)}
		entries = append(entries, node.Entry())
	}
	return entries
}

// kill ends a run of a node: nothing of it happens any more.
func (s *sim) kill(n *simNode) { s.end(n, n.run) }

// end is kill, if that run is not over.
func (s *sim) end(n *simNode, run int) {
	var controls []*Controller
	s.enter(func() {
		if n.run != run {
			return
		}
		s.tracef("node %d is killed", n.id)
		controls = n.controls()
		n.run++
		n.stop()
		n.reset()
		n.paused, n.held = false, nil
		for _, p := range n.parts {
			p.forget()
		}
		waiting := n.raft.waiting
		n.raft.waiting = map[int]func(error){}
		for _, done := range waiting {
			done(errSimDown)
		}
	})
	for _, c := range controls {
		c.Close()
	}
}

// stops has a node hand over what it leads, and end, as one does that is told to.
func (s *sim) stops(n *simNode) {
	var run int
	var controls []*Controller
	s.enter(func() { run, n.stops, controls = n.run, n.run, n.controls() })
	ctx, cancel := context.WithTimeout(n.ctx, 5*time.Second)
	go func() {
		defer cancel()
		left := make(chan error)
		for _, c := range controls {
			go func() { left <- c.Leave(ctx) }()
		}
		for range controls {
			_ = <-left
		}
		if err := HandOver(ctx, controls); err == nil {
			s.enter(func() { s.handed++ })
		}
		s.end(n, run)
	}()
}

// goOn ends a pause, if that run of the node is not over.
func (s *sim) goOn(n *simNode, run int) {
	s.enter(func() {
		if n.run == run {
			s.pauseLocked(n, false)
		}
	})
}

func (s *sim) pause(n *simNode, paused bool) { s.enter(func() { s.pauseLocked(n, paused) }) }

func (s *sim) pauseLocked(n *simNode, paused bool) {
	if !n.up() || n.paused == paused {
		return
	}
	s.tracef("node %d stands still: %v", n.id, paused)
	n.paused, n.resumed = paused, time.Now()
	held := n.held
	if n.held = nil; !paused {
		for _, fn := range held {
			fn()
		}
	}
}

// newSim is a cluster whose nodes are down.
func newSim(t *testing.T, seed uint64, nodes, sets int) *sim {
	t.Helper()
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), dice: rand.New(rand.NewPCG(seed, 8)), begin: time.Now(), cut: map[[2]int]bool{}}
	s.sets = make([]simSet, 1+sets)
	for i := range s.sets {
		s.sets[i].epochs = map[uint32]meta.NodeID{}
	}
	for i := range nodes {
		rate := 1 + simDrift*(2*s.dice.Float64()-1)
		if s.dice.IntN(2) == 0 {
			rate = 1 + simDrift*float64(2*s.dice.IntN(2)-1)
		}
		n := &simNode{s: s, id: meta.NodeID(i + 1), rate: rate}
		for k := range s.sets {
			n.parts = append(n.parts, &simPart{n: n, set: (&meta.Cluster{Shards: simShards}).Set(k)})
		}
		s.nodes = append(s.nodes, n)
	}
	return s
}

// simulate has a cluster live for a minute, and gives what went wrong.
func simulate(t *testing.T, seed uint64) (s *sim, failed string) {
	t.Helper()
	sets := 0 // beside the first
	if seed%3 == 0 {
		sets = 1 + int(seed/3%3)
	}
	if *simSets >= 0 {
		sets = *simSets
	}
	nodes := 3 + int(seed%4/3) // in every fourth cluster one node more than have the shards
	if *simNodes > 0 {
		nodes = *simNodes
	}
	s = newSim(t, seed, nodes, sets)
	for range sets {
		s.factors = append(s.factors, uint8(s.dice.IntN(4)))
	}
	for _, n := range s.nodes {
		s.start(n)
	}
	s.heals("at first")
	s.grow()
	for range 5 {
		for range 4 + s.dice.IntN(8) {
			s.fault()
			s.live(time.Duration(s.dice.Int64N(int64(1500 * time.Millisecond))))
		}
		s.heals("after faults")
	}
	s.spread()
	for _, n := range s.nodes {
		s.kill(n)
	}
	synctest.Wait()
	return s, s.failed
}

// live lets time pass, and looks at the nodes all the while.
func (s *sim) live(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end) && s.failed == ""; {
		<-time.After(10 * time.Millisecond) // of virtual time
		synctest.Wait()
		s.look()
	}
}

// look says whether two lead a set at once, or one does that has long been cut off.
func (s *sim) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	leads := make([]int, len(s.sets))
	for _, n := range s.nodes {
		for _, o := range s.nodes { // what one that stands still was sent it has when it goes on
			if o != n && o.up() && !s.cut[[2]int{int(n.id), int(o.id)}] {
				n.spoke = time.Now()
			}
			if o != n && o.up() && !s.cut[[2]int{int(o.id), int(n.id)}] {
				n.heard = time.Now()
			}
		}
		for k, p := range n.parts {
			if p.led[0] == 0 || n.paused {
				continue
			}
			if leads[k]++; leads[k] > 1 {
				s.fail("two nodes lead set %d at once: %d does in epoch %d", k, n.id, p.led[0])
			}
			if alone := max(time.Since(n.spoke), time.Since(n.heard)); alone > simLease+20*time.Millisecond {
				s.fail("node %d has reached nobody, or nobody it, for %v, and leads set %d", n.id, alone, k)
			}
		}
	}
}

// fault has something go wrong, or an operator want something.
func (s *sim) fault() {
	n := s.nodes[s.dice.IntN(len(s.nodes))]
	switch what := s.dice.IntN(15 + 3*(len(s.nodes)-3)); what {
	case 0, 1:
		if s.isUp(n) {
			s.kill(n)
		}
	case 2:
		if !s.isUp(n) {
			s.start(n)
			return
		}
		p := n.parts[s.anySet()]
		s.enter(func() { p.breaks(time.Duration(s.dice.Int64N(int64(time.Second)))) })
	case 3, 4:
		s.pause(n, true)
		s.enter(func() {
			run := n.run
			time.AfterFunc(time.Duration(s.dice.Int64N(int64(4*time.Second))), func() { s.goOn(n, run) })
		})
	case 5, 6, 7:
		s.enter(func() {
			for _, o := range s.nodes {
				in, out := s.dice.IntN(4) > 0, s.dice.IntN(4) > 0
				s.cut[[2]int{int(n.id), int(o.id)}], s.cut[[2]int{int(o.id), int(n.id)}] = out, in
			}
			s.tracef("node %d is cut off: %v", n.id, s.cut)
		})
	case 8:
		s.enter(func() { clear(s.cut) })
	case 9:
		s.enter(func() {
			s.slow, s.lossy = time.Duration(s.dice.Int64N(int64(400*time.Millisecond))), s.dice.IntN(20)
			s.lag, s.starve = s.dice.IntN(30), s.dice.IntN(10)
			s.tracef("messages take %v, %d%% are lost, %d%% of applies are late", s.slow, s.lossy, s.lag)
		})
	case 10:
		if s.isUp(n) {
			n.drain(s.dice.IntN(2) == 0)
		}
	case 12:
		s.enter(func() { n.halted = n.up() })
	case 13:
		s.enter(func() { n.broken = n.up() })
	case 14:
		if s.isUp(n) {
			s.stops(n)
		}
	case 15, 16, 17:
		if s.isUp(n) {
			s.balance(n, s.anySet())
		}
	case 11:
		if s.isUp(n) {
			to := meta.NodeID(1 + s.dice.IntN(len(s.nodes)))
			control := n.parts[s.anySet()].control
			ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
			go func() {
				defer cancel()
				_ = control.Move(ctx, to)
			}()
		}
	}
}

// Whatever happens to nodes, links and clocks: at no moment do two nodes lead, who leads has all that was committed, who is cut off lets go before its lease
// is over, and when all is well again one leads and the others are in sync.
func TestSimulated(t *testing.T) {
	first, count := uint64(1), uint64(*simSeeds)
	if *simSeed != 0 {
		first, count = *simSeed, 1
	}
	epochs, handed, left, moved, worst := 0, 0, 0, 0, time.Duration(0)
	for seed := first; seed < first+count; seed++ {
		synctest.Test(t, func(t *testing.T) {
			s, failed := simulate(t, seed)
			if failed != "" {
				t.Errorf("seed %d (-cluster.seed %d): %s", seed, seed, failed)
			}
			epochs, handed, left, moved, worst = epochs+len(s.sets[0].epochs), handed+s.handed, left+s.left, moved+s.moved, max(worst, s.healed)
		})
	}
	t.Logf("%d clusters, %d reigns, %d times a node stopped in good order, %d times shards were to move; when all was well again a node led after %v at most", count, epochs, handed, moved, worst.Round(time.Millisecond))
	if *simSeed == 0 && *simNodes == 0 && *simSets < 0 && (epochs < 4*int(count) || handed < int(count)/3 || left < int(count)/4 || moved < int(count)/3) {
		t.Errorf("%d clusters had %d reigns, %d times a node that stopped in good order, %d times one that had halted, and %d times shards that were to move: too few to show anything", count, epochs, handed, left, moved)
	}
}
