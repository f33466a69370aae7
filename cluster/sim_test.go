package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/cluster/replica"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

var (
	simSeeds = flag.Int("cluster.seeds", 60, "how many simulated clusters TestSimulated has")
	simSeed  = flag.Uint64("cluster.seed", 0, "the one seed that TestSimulated has; 0: the first ones")
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
	cut            map[[2]int]bool // from, to
	slow           time.Duration   // what messages take at most
	lossy          int             // of 100 messages, so many are lost
	lag            int             // of 100 applies, so many are late
	starve         int             // of 100 confirmations, so many find that nobody runs their goroutine for a while
	record         []simRecord     // what is committed
	epochs         map[uint32]meta.NodeID
	planned, moved int // balances, and those by which something moves, under mu
	left           int // times that a node which had halted was left as it was, and the others had to go on
	failed         string
	healed         time.Duration // the longest that it took until a node led when all was well
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
	data []simRecord // on disk

	run     int // odd: it is up
	paused  bool
	halted  bool     // its catalog takes nothing over any more
	broken  bool     // its journal has failed
	held    []func() // what happens when it goes on
	catalog *meta.Catalog
	control *Controller
	serve   map[uint16]func(meta.NodeID, []byte, func([]byte, string))
	ctx     context.Context
	stop    context.CancelFunc

	// The core.
	led          [simShards]uint32
	opened       bool
	others       []uint64
	joins        map[uint64]bool // those of them that lack something
	least        int
	hw           int
	acked        map[meta.NodeID]int
	caught       map[meta.NodeID]time.Duration
	taken        uint32    // the epoch of the leader whose data it has
	resumed      time.Time // when it last went on
	spoke, heard time.Time // when it last could send somebody something, and be sent something
	streams      struct {
		lead   uint32
		leader meta.NodeID
		epoch  uint32
	}
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

// simCore is the node's broker.
type simCore struct {
	n   *simNode
	run int
}

// Lead makes it a Core.
func (c simCore) Lead(shard record.ShardID, epoch record.Epoch, others []uint64, least int, _ func(error)) {
	n := c.n
	n.do(c.run, func() {
		n.led[shard] = uint32(epoch)
		if shard != simShards-1 {
			return
		}
		n.others, n.least, n.hw, n.joins = others, least, 0, map[uint64]bool{}
		n.acked, n.caught = map[meta.NodeID]int{}, map[meta.NodeID]time.Duration{}
		n.s.begins(n, uint32(epoch))
		n.after(5*time.Millisecond, func() {
			n.opened = n.led[0] == uint32(epoch)
			n.s.outside(n.control.Moved)
		})
		n.write(uint32(epoch))
	})
}

// begins looks whether a node may lead.
func (s *sim) begins(n *simNode, epoch uint32) {
	s.tracef("node %d leads %d", n.id, epoch)
	if was, ok := s.epochs[epoch]; ok {
		s.fail("nodes %d and %d led epoch %d", was, n.id, epoch)
	}
	s.epochs[epoch] = n.id
	for _, o := range s.nodes {
		if o != n && o.up() && !o.paused && o.led[0] != 0 && o.resumed != time.Now() { // who goes on this moment lets go this moment: look sees to it
			s.fail("nodes %d (epoch %d) and %d (epoch %d) lead at once", o.id, o.led[0], n.id, epoch)
		}
	}
	if len(n.data) < len(s.record) || !slices.Equal(n.data[:len(s.record)], s.record) {
		s.fail("node %d leads epoch %d with %d records, and lacks some of %d that are committed", n.id, epoch, len(n.data), len(s.record))
	}
}

// write has a leader write, as long as it leads.
func (n *simNode) write(epoch uint32) {
	if n.led[0] != epoch {
		return
	}
	if n.opened {
		n.data = append(n.data, simRecord{epoch, len(n.data)})
		n.commit()
	}
	n.after(20*time.Millisecond, func() { n.write(epoch) })
}

// commit moves the high watermark.
func (n *simNode) commit() {
	if n.led[0] == 0 || len(n.others)+1 < n.least {
		return
	}
	hw := len(n.data)
	for _, o := range n.others {
		hw = min(hw, n.acked[meta.NodeID(o)])
	}
	s := n.s
	for n.hw = max(n.hw, hw); len(s.record) < n.hw; {
		s.record = append(s.record, n.data[len(s.record)])
	}
	if !slices.Equal(s.record[:n.hw], n.data[:n.hw]) {
		s.fail("node %d commits in epoch %d what differs from what was committed", n.id, n.led[0])
	}
}

// SetInSync makes it a Core.
func (c simCore) SetInSync(_ record.ShardID, epoch record.Epoch, others []uint64, least int) (err error) {
	n := c.n
	if !n.do(c.run, func() {
		if n.led[0] != uint32(epoch) {
			err = errors.New("it does not lead")
			return
		}
		for _, o := range others {
			n.joins[o] = n.joins[o] || !slices.Contains(n.others, o)
			if n.joins[o] = n.joins[o] && n.acked[meta.NodeID(o)] < n.hw; n.joins[o] {
				err = errors.New("it lacks something")
			}
		}
		n.others, n.least = others, least
		n.commit()
	}) {
		return errSimDown
	}
	return err
}

// Resign makes it a Core.
func (c simCore) Resign(shard record.ShardID, done func()) {
	c.n.do(c.run, func() {
		if c.n.led[shard] != 0 && shard == 0 {
			c.n.s.tracef("node %d lets go of %d", c.n.id, c.n.led[0])
		}
		c.n.led[shard], c.n.opened = 0, false
	})
	done()
}

// Failure makes it a Core.
func (c simCore) Failure() (err error) {
	c.n.do(c.run, func() {
		if c.n.broken {
			err = errors.New("the journal has failed")
		}
	})
	return err
}

// Leads makes it a Core.
func (c simCore) Leads(record.ShardID, int) (open bool) {
	c.n.do(c.run, func() { open = c.n.opened })
	return open
}

// simStreams are the node's streams.
type simStreams struct {
	n   *simNode
	run int
}

func (c simStreams) set(lead uint32, leader meta.NodeID, epoch uint32) {
	c.n.do(c.run, func() {
		st := &c.n.streams
		st.lead, st.leader, st.epoch = lead, leader, epoch
		if leader != 0 {
			c.n.fetch(leader, epoch)
		}
	})
}

// Lead makes it Streams.
func (c simStreams) Lead(epoch record.Epoch) { c.set(uint32(epoch), 0, 0) }

// Follow makes it Streams.
func (c simStreams) Follow(leader link.NodeID, epoch record.Epoch) {
	c.set(0, meta.NodeID(leader), uint32(epoch))
}

// Rest makes it Streams.
func (c simStreams) Rest() { c.set(0, 0, 0) }

// Await makes it Streams. Nothing has a pace here.
func (simStreams) Await([]link.NodeID, bool) {}

// Followers makes it Streams.
func (c simStreams) Followers() (list []replica.Follower) {
	c.n.do(c.run, func() {
		for id, at := range c.n.caught {
			list = append(list, replica.Follower{Node: link.NodeID(id), CaughtUp: at})
		}
	})
	return list
}

// fetch asks the leader for what it has, again and again.
func (n *simNode) fetch(leader meta.NodeID, epoch uint32) {
	follows := func() bool { return n.streams.leader == leader && n.streams.epoch == epoch }
	if !follows() {
		return
	}
	l, have := n.s.node(leader), slices.Clone(n.data)
	n.send(l, func() {
		if l.streams.lead != epoch {
			return
		}
		if len(have) <= len(l.data) && slices.Equal(have, l.data[:len(have)]) {
			l.acked[n.id] = max(l.acked[n.id], len(have))
			if len(have) == len(l.data) {
				l.caught[n.id] = simClock{n: l}.Mono()
			}
			l.commit()
		}
		data := slices.Clone(l.data)
		l.send(n, func() {
			if follows() && (n.taken != epoch || len(data) > len(n.data)) { // a stream is in order
				n.data, n.taken = data, epoch
			}
		})
	})
	n.after(15*time.Millisecond, func() { n.fetch(leader, epoch) })
}

// start brings a node up, anew or again.
func (s *sim) start(n *simNode) {
	s.mu.Lock()
	n.run++
	n.paused, n.held, n.led, n.opened = false, nil, [simShards]uint32{}, false
	n.halted, n.broken = false, false
	n.streams.lead, n.streams.leader = 0, 0
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
	n.control = New(Options{Node: n.id, Catalog: n.catalog, Group: group, Peers: simPeers{n, run}, Core: simCore{n, run}, Streams: simStreams{n, run},
		Shards: simShards, Lease: simLease, Replicas: 3, Lag: 2 * time.Second, Clock: simClock{n, run}})
	wait := time.Duration(0)
	if old != nil {
		wait = simElection * simTick // raftgroup.rest
	}
	control := n.control
	n.do(run, func() {
		n.after(wait, func() {
			n.ticks()
			s.outside(func() { control.Start(simElection * simTick * 9 / 10) })
		})
	})
}

func (n *simNode) ticks() {
	n.raft.tick()
	n.after(simTick, n.ticks)
}

// first is what the catalog begins with.
func (s *sim) first() []meta.Entry {
	entries := []meta.Entry{(&meta.Cluster{ID: "c", Shards: simShards, Level: meta.LevelBalance}).Entry()}
	for _, n := range s.nodes {
		node := meta.Node{ID: n.id, Rack: []string{"a", "b"}[n.id/4], State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Level: 1, Disk: fmt.Sprint("disk", n.id), Address: fmt.Sprintf("h%d:1", n.id)}
		entries = append(entries, node.Entry())
	}
	return entries
}

// kill ends a run of a node: nothing of it happens any more.
func (s *sim) kill(n *simNode) {
	s.enter(func() {
		s.tracef("node %d is killed", n.id)
		n.run++
		n.stop()
		n.led, n.opened, n.paused, n.held = [simShards]uint32{}, false, false, nil
		waiting := n.raft.waiting
		n.raft.waiting = map[int]func(error){}
		for _, done := range waiting {
			done(errSimDown)
		}
	})
	n.control.Close()
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

// simulate has a cluster live for a minute, and gives what went wrong.
func simulate(t *testing.T, seed uint64) (s *sim, failed string) {
	t.Helper()
	s = &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), dice: rand.New(rand.NewPCG(seed, 8)), begin: time.Now(), cut: map[[2]int]bool{}, epochs: map[uint32]meta.NodeID{}}
	for i := range 3 + seed%4/3 { // in every fourth cluster one more than have the shards
		rate := 1 + simDrift*(2*s.dice.Float64()-1)
		if s.dice.IntN(2) == 0 {
			rate = 1 + simDrift*float64(2*s.dice.IntN(2)-1)
		}
		s.nodes = append(s.nodes, &simNode{s: s, id: meta.NodeID(i + 1), rate: rate})
	}
	for _, n := range s.nodes {
		s.start(n)
	}
	s.heals("at first")
	for range 5 {
		for range 4 + s.dice.IntN(8) {
			s.fault()
			s.live(time.Duration(s.dice.Int64N(int64(1500 * time.Millisecond))))
		}
		s.heals("after faults")
	}
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

// look says whether two lead at once, or one does that has long been cut off.
func (s *sim) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	leads := 0
	for _, n := range s.nodes {
		for _, o := range s.nodes { // what one that stands still was sent it has when it goes on
			if o != n && o.up() && !s.cut[[2]int{int(n.id), int(o.id)}] {
				n.spoke = time.Now()
			}
			if o != n && o.up() && !s.cut[[2]int{int(o.id), int(n.id)}] {
				n.heard = time.Now()
			}
		}
		if n.led[0] == 0 || n.paused {
			continue
		}
		if leads++; leads > 1 {
			s.fail("two nodes lead at once: %d does in epoch %d", n.id, n.led[0])
		}
		if alone := max(time.Since(n.spoke), time.Since(n.heard)); alone > simLease+20*time.Millisecond {
			s.fail("node %d has reached nobody, or nobody it, for %v, and leads", n.id, alone)
		}
	}
}

// fault has something go wrong, or an operator want something.
func (s *sim) fault() {
	n := s.nodes[s.dice.IntN(len(s.nodes))]
	switch what := s.dice.IntN(14 + 3*(len(s.nodes)-3)); what {
	case 0, 1:
		if s.isUp(n) {
			s.kill(n)
		}
	case 2:
		if !s.isUp(n) {
			s.start(n)
		}
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
			n.control.drain(s.dice.IntN(2) == 0)
		}
	case 12:
		s.enter(func() { n.halted = n.up() })
	case 13:
		s.enter(func() { n.broken = n.up() })
	case 14, 15, 16:
		if s.isUp(n) {
			s.balance(n)
		}
	case 11:
		if s.isUp(n) {
			to := meta.NodeID(1 + s.dice.IntN(len(s.nodes)))
			ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
			go func() {
				defer cancel()
				_ = n.control.Move(ctx, to)
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
	epochs, left, moved, worst := 0, 0, 0, time.Duration(0)
	for seed := first; seed < first+count; seed++ {
		synctest.Test(t, func(t *testing.T) {
			s, failed := simulate(t, seed)
			if failed != "" {
				t.Errorf("seed %d (-cluster.seed %d): %s", seed, seed, failed)
			}
			epochs, left, moved, worst = epochs+len(s.epochs), left+s.left, moved+s.moved, max(worst, s.healed)
		})
	}
	t.Logf("%d clusters, %d reigns, %d times shards were to move; when all was well again a node led after %v at most", count, epochs, moved, worst.Round(time.Millisecond))
	if *simSeed == 0 && (epochs < 4*int(count) || left < int(count)/4 || moved < int(count)/3) {
		t.Errorf("%d clusters had %d reigns, %d times a node that had halted, and %d times shards that were to move: too few to show anything", count, epochs, left, moved)
	}
}
