package sim

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/record"
)

var (
	seeds = flag.Int("sim.seeds", 12, "how many seeds TestReplication runs")
	first = flag.Uint64("sim.seed", 1, "the first of them")
	steps = flag.Int("sim.steps", 6000, "how many steps a seed has")
)

const (
	shards = 4
	nodes  = 3
)

// placement is what the controller says of a shard.
type placement struct {
	epoch  record.Epoch
	leader uint64 // 0: none
	isr    []uint64
}

// message is on its way from one node to another.
type message struct {
	from, to uint64
	shard    record.ShardID
	run      func(to *node)
}

type world struct {
	t      *testing.T
	rnd    *rand.Rand
	clk    *clock.Manual
	nodes  [nodes]*node
	meta   [shards]placement
	net    []message
	cut    map[[2]uint64]bool
	load   load
	marks  [nodes][shards]uint64 // high watermarks that were seen in this run of a node
	counts map[string]int
	within bool // of early
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), clk: clock.NewManual(time.Unix(1_700_000_000, 0)), cut: make(map[[2]uint64]bool), counts: make(map[string]int)}
	for i := range w.nodes {
		w.nodes[i] = &node{id: uint64(i + 1), mem: vfs.NewMem(), clk: w.clk, early: w.early}
		if err := w.nodes[i].start(); err != nil {
			t.Fatal(err)
		}
	}
	for s := range w.meta {
		w.meta[s].isr = []uint64{1, 2, 3}
	}
	w.load.init(w)
	return w
}

func (w *world) node(id uint64) *node { return w.nodes[id-1] }

func (w *world) any() *node { return w.nodes[w.rnd.IntN(nodes)] }

func (w *world) shard() record.ShardID { return record.ShardID(w.rnd.IntN(shards)) }

func (w *world) send(m message) {
	if w.cut[[2]uint64{m.from, m.to}] || w.cut[[2]uint64{m.to, m.from}] || len(w.net) > 200 {
		return
	}
	w.net = append(w.net, m)
}

// deliver brings any message that is under way, or loses it.
func (w *world) deliver(lose bool) {
	if len(w.net) == 0 {
		return
	}
	i := w.rnd.IntN(len(w.net))
	m := w.net[i]
	w.net = slices.Delete(w.net, i, i+1)
	to := w.node(m.to)
	if lose || !to.up() || w.cut[[2]uint64{m.from, m.to}] {
		return
	}
	m.run(to)
}

// elect makes a node of the in-sync replicas the leader. A shard whose in-sync replicas are all down has to wait.
func (w *world) elect(s record.ShardID) {
	p := &w.meta[s]
	var up []uint64
	for _, id := range p.isr {
		if w.node(id).up() {
			up = append(up, id)
		}
	}
	if len(up) == 0 {
		return
	}
	p.leader = up[w.rnd.IntN(len(up))]
	p.epoch++
	w.counts["elections"]++
}

// announce tells a node who leads.
func (w *world) announce(s record.ShardID, n *node) {
	p := w.meta[s]
	p.isr = slices.Clone(p.isr)
	w.send(message{to: n.id, shard: s, run: func(n *node) { w.hear(n, s, p) }})
}

// hear is a node's agent: it makes the controller's news a role.
func (w *world) hear(n *node, s record.ShardID, p placement) {
	if p.leader == 0 || p.epoch <= n.told[s].epoch {
		return
	}
	n.told[s] = p
	if p.leader != n.id {
		n.b.Resign(s, func() {})
		return
	}
	others := slices.DeleteFunc(slices.Clone(p.isr), func(id uint64) bool { return id == n.id })
	n.b.Lead(s, p.epoch, others, 1, func(err error) {
		if err != nil && !errors.Is(err, broker.ErrStaleEpoch) {
			w.t.Errorf("node %d, shard %d, epoch %d: %v", n.id, s, p.epoch, err)
		}
	})
}

// fetch is one turn of a follower: it asks its leader for what comes next, or, at first, for its history.
func (w *world) fetch(n *node, s record.ShardID) {
	p := n.told[s]
	if p.leader == 0 || p.leader == n.id {
		return
	}
	st := n.b.Replica(s)
	if st.Role != broker.RoleFollower || st.Epoch != p.epoch || !st.Synced {
		w.send(message{n.id, p.leader, s, func(leader *node) { w.tellHistory(leader, n.id, s, p.epoch) }})
		return
	}
	w.send(message{n.id, p.leader, s, func(leader *node) { w.tellFrames(leader, n.id, s, p.epoch, st) }})
}

func (w *world) tellHistory(leader *node, to uint64, s record.ShardID, epoch record.Epoch) {
	if st := leader.b.Replica(s); st.Role != broker.RoleLeader || st.Epoch != epoch {
		return
	}
	history, end := leader.b.ReplicaHistory(s)
	w.send(message{leader.id, to, s, func(n *node) {
		if n.told[s].epoch != epoch {
			return
		}
		n.b.FollowLeader(s, epoch, history, end, func(_ uint64, err error) {
			if err != nil && !errors.Is(err, broker.ErrStaleEpoch) {
				own, ownEnd := n.b.ReplicaHistory(s)
				w.t.Fatalf("node %d follows node %d in shard %d, epoch %d: %v\n%+v\n%v %d\n%v %d", n.id, leader.id, s, epoch, err, n.b.Replica(s), own, ownEnd, history, end)
			}
		})
	}})
}

// early brings what a leader is about to write to followers, some of which have it in their logs before the leader does, or when it never will.
func (w *world) early(leader *node, frames []byte) {
	if w.within {
		return
	}
	w.within = true
	defer func() { w.within = false }()
	for _, n := range w.nodes {
		if n == leader || !n.up() || w.cut[[2]uint64{leader.id, n.id}] || w.cut[[2]uint64{n.id, leader.id}] || w.rnd.IntN(2) == 0 {
			continue
		}
		write, tell := w.rnd.IntN(2) == 0, w.rnd.IntN(2) == 0
		for s := range record.ShardID(shards) {
			own, st := leader.b.Replica(s), n.b.Replica(s)
			if own.Role != broker.RoleLeader || st.Role != broker.RoleFollower || !st.Synced || st.Epoch != own.Epoch {
				continue
			}
			err := n.b.Follow(s, own.Epoch, framesOf(frames, s))
			if err != nil && !errors.Is(err, broker.ErrGap) && !errors.Is(err, broker.ErrBusy) {
				w.t.Errorf("node %d, shard %d: %v", n.id, s, err)
			}
			w.counts["groups ahead"]++
		}
		if write && n.st.awake.Load() {
			n.st.commit()
		}
		for s := range record.ShardID(shards) {
			if st := n.b.Replica(s); tell && st.Role == broker.RoleFollower && st.Synced {
				_ = leader.b.Acked(s, st.Epoch, n.id, st.Durable) // of another leader: refused
			}
		}
	}
}

// framesOf are those of a shard.
func framesOf(group []byte, shard record.ShardID) (out []byte) {
	for len(group) > 0 {
		f, size, err := record.ViewFrame(group)
		if err != nil {
			return out
		}
		if f.Shard == shard && (f.Kind == record.KindRecords || f.Kind == record.KindCommand) {
			out = append(out, group[:size]...)
		}
		group = group[size:]
	}
	return out
}

func (w *world) tellFrames(leader *node, to uint64, s record.ShardID, epoch record.Epoch, has broker.ReplicaState) {
	if leader.b.Acked(s, epoch, to, has.Durable) != nil {
		return
	}
	frames, err := leader.frames(s, has.Last+1, 1+w.rnd.IntN(8<<10))
	if err != nil {
		w.t.Fatal(err)
	}
	hw := leader.b.Replica(s).HighWatermark
	w.send(message{leader.id, to, s, func(n *node) {
		err := n.b.Follow(s, epoch, frames)
		if err != nil && !errors.Is(err, broker.ErrStaleEpoch) && !errors.Is(err, broker.ErrGap) && !errors.Is(err, broker.ErrBusy) {
			w.t.Fatalf("node %d, shard %d: %v", n.id, s, err)
		}
		_ = n.b.Watermark(s, epoch, hw)
	}})
}

// resize has a leader take an in-sync replica off, or one on that has come up to it.
func (w *world) resize(s record.ShardID, grow bool) {
	p := &w.meta[s]
	if p.leader == 0 || !w.node(p.leader).up() {
		return
	}
	leader := w.node(p.leader)
	id := w.any().id
	in := slices.Contains(p.isr, id)
	if id == leader.id || in == grow || grow && !w.node(id).up() {
		return
	}
	isr := slices.DeleteFunc(slices.Clone(p.isr), func(o uint64) bool { return o == id })
	if grow {
		isr = append(isr, id)
	}
	others := slices.DeleteFunc(slices.Clone(isr), func(o uint64) bool { return o == leader.id })
	// What the leader takes on counts at once, what it takes off once the controller has it: here both are one step.
	if leader.b.SetInSync(s, p.epoch, others, 1) == nil {
		p.isr = isr
		w.counts["in-sync replicas changed"]++
		return
	}
	_ = leader.b.SetInSync(s, p.epoch, slices.DeleteFunc(slices.Clone(p.isr), func(o uint64) bool { return o == leader.id }), 1) // it is not waited for
}

func (w *world) kill(n *node) {
	n.kill(w.rnd, w.rnd.IntN(4) == 0)
	w.marks[n.id-1] = [shards]uint64{}
	for s := range w.meta {
		if w.meta[s].leader == n.id {
			w.meta[s].leader = 0
		}
	}
	w.load.lost(n)
	w.counts["kills"]++
}

func (w *world) start(n *node) {
	if err := n.start(); err != nil {
		w.t.Fatal(err)
	}
}

// step is one thing that happens.
func (w *world) step() {
	n := w.any()
	k := w.rnd.IntN(1000)
	switch {
	case k < 4:
		if n.up() && w.rnd.IntN(4) == 0 {
			w.kill(n)
		}
	case k < 8:
		if !n.up() {
			w.start(n)
		}
	case k < 40:
		if s := w.shard(); w.meta[s].leader == 0 || w.rnd.IntN(60) == 0 {
			w.elect(s)
		}
	case k < 44:
		w.resize(w.shard(), false)
	case k < 80:
		w.resize(w.shard(), true)
	case k < 81:
		w.cut[[2]uint64{n.id, w.any().id}] = true
	case k < 96:
		clear(w.cut)
	case k < 110:
		w.clk.Advance(time.Duration(w.rnd.IntN(800)) * time.Millisecond)
	case !n.up():
	case k < 115:
		if err := n.b.Checkpoint(n.st); err != nil {
			w.t.Fatal(err)
		}
	case k < 120:
		n.l.Tick()
	case k < 180:
		for s := range record.ShardID(shards) {
			w.announce(s, n)
		}
	case k < 360:
		if n.st.awake.Load() {
			n.st.commit()
		}
	case k < 520:
		n.turn()
		w.watch(n)
	case k < 680:
		for s := range record.ShardID(shards) {
			if w.rnd.IntN(3) > 0 {
				w.fetch(n, s)
			}
		}
	case k < 860:
		for range 1 + w.rnd.IntN(12) {
			w.deliver(w.rnd.IntN(20) == 0)
		}
	default:
		for range 1 + w.rnd.IntN(8) {
			w.load.step()
		}
	}
}

// watch checks that a node's high watermarks and tables do not go back.
func (w *world) watch(n *node) {
	for s := range shards {
		st := n.b.Replica(record.ShardID(s))
		if was := &w.marks[n.id-1][s]; st.HighWatermark < *was {
			w.t.Fatalf("node %d, shard %d: the high watermark has gone back from %d to %d", n.id, s, *was, st.HighWatermark)
		} else {
			*was = st.HighWatermark
		}
		if st.Applied > st.HighWatermark || st.HighWatermark > st.Last {
			w.t.Fatalf("node %d, shard %d: %+v", n.id, s, st)
		}
	}
}

// settle lets the nodes come to an end with everything.
func (w *world) settle() {
	clear(w.cut)
	for _, n := range w.nodes {
		if !n.up() {
			w.start(n)
		}
	}
	for round := 0; ; round++ {
		if round == 500 {
			for s := range shards {
				for _, n := range w.nodes {
					h, _ := n.b.ReplicaHistory(record.ShardID(s))
					w.t.Logf("shard %d %+v: node %d %+v %v", s, w.meta[s], n.id, n.b.Replica(record.ShardID(s)), h)
				}
			}
			w.t.Fatal("the nodes do not come to rest")
		}
		for s := range w.meta {
			if w.meta[s].leader == 0 {
				w.elect(record.ShardID(s))
			}
			for range 3 {
				w.resize(record.ShardID(s), true)
			}
		}
		for _, n := range w.nodes {
			for s := range record.ShardID(shards) {
				w.announce(s, n)
				w.fetch(n, s)
			}
		}
		for len(w.net) > 0 {
			w.deliver(false)
			for _, n := range w.nodes {
				n.turn()
			}
		}
		for _, n := range w.nodes {
			for n.st.awake.Load() {
				n.st.commit()
			}
			n.turn()
		}
		if w.load.rest() && w.settled() {
			return
		}
	}
}

func (w *world) settled() bool {
	for s := range shards {
		end := w.node(w.meta[s].leader).b.Replica(record.ShardID(s))
		if !end.Open || len(w.meta[s].isr) != nodes {
			return false
		}
		for _, n := range w.nodes {
			if st := n.b.Replica(record.ShardID(s)); st.Applied != end.Last || st.Epoch != end.Epoch {
				return false
			}
		}
	}
	return true
}

// check compares the replicas with each other and with what was acknowledged.
func (w *world) check() {
	for _, n := range w.nodes {
		if err := n.b.Checkpoint(n.st); err != nil {
			w.t.Fatal(err)
		}
	}
	for s := range record.ShardID(shards) {
		want := w.nodes[0].rows(w.t, s)
		for _, n := range w.nodes[1:] {
			if diff := cmp.Diff(want, n.rows(w.t, s)); diff != "" {
				w.t.Errorf("shard %d: rows of node 1 and node %d: %s", s, n.id, diff)
			}
		}
	}
	w.load.check()
}

// TestReplication runs a history for each seed.
func TestReplication(t *testing.T) {
	sum := make(map[string]int)
	for seed := *first; seed < *first+uint64(*seeds); seed++ {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range *steps {
				w.step()
			}
			w.settle()
			w.check()
			for _, n := range w.nodes {
				n.kill(w.rnd, true)
			}
			for k, v := range w.counts {
				sum[k] += v
			}
		})
		if !ok {
			t.Fatalf("again: go test ./test/sim -run TestReplication -sim.seed %d -sim.seeds 1 -sim.steps %d", seed, *steps)
		}
	}
	t.Log(sum)
}
