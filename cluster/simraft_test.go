package cluster

import (
	"context"
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/sluicemq/sluice/meta"
)

// The catalog's group of a simulated cluster: Raft with CheckQuorum and PreVote, as Dragonboat does it and package raftgroup uses it, in as few lines as show
// what package cluster builds on: who may vote and when, reads that ask the majority, proposals that are lost or sent twice, logs that are applied late.

const (
	simTick      = 50 * time.Millisecond
	simElection  = 10 // ticks
	simHeartbeat = 2
	simAttempt   = 30
	simAnswer    = 5 * time.Second
)

type simCommand struct {
	node, run, seq int
	base           uint64
	changes        []meta.Entry
}

type simEntry struct {
	term uint64
	cmd  *simCommand // nil: nothing
}

// raft is one node's part. Everything is under sim.mu.
type raft struct {
	n *simNode

	// On disk.
	term    uint64
	vote    meta.NodeID
	log     []simEntry // the first one is nothing
	applied int        // part of the log that the catalog has

	role     byte // 'f', 'c', 'p' (asks whether it may), 'l'
	leader   meta.NodeID
	silent   int // ticks since a leader was heard
	patience int
	beat     int
	commit   int
	votes    map[meta.NodeID]bool
	match    map[meta.NodeID]int
	active   map[meta.NodeID]bool
	reads    []*simRead
	readSeq  uint64
	heir     meta.NodeID // whom the leader hands over to
	hushed   int         // ticks since the node has halted: it takes no proposals, and soon says nothing that only a leader says (raftgroup's voice)

	applying bool
	results  map[[2]int]simResult // of the last command of a node's run
	changed  int                  // the last entry that changed the shards
	waiting  map[int]func(error)  // proposals of this node by seq; called with mu
	seq      int
	queue    []*simCommand
	busy     bool
}

type simResult struct {
	seq int
	err error
}

// simRead is a read that waits for the majority.
type simRead struct {
	seq   uint64
	index int
	acks  map[meta.NodeID]bool
	done  func(index int)
}

func (r *raft) last() int { return len(r.log) - 1 }

func (r *raft) newPatience() { r.patience = simElection + r.n.s.rnd.IntN(simElection) }

// tick is called every 50 ms of the node's clock.
func (r *raft) tick() {
	r.silent++
	if r.n.halted {
		r.hushed++
	}
	switch r.role {
	case 'l':
		if r.silent >= simElection {
			r.silent = 0
			if len(r.active)+1 < r.n.s.majority() {
				r.become('f', r.term, 0)
				return
			}
			clear(r.active)
		}
		if r.beat++; r.beat >= simHeartbeat {
			r.beat = 0
			r.sendAll()
		}
	default:
		if r.silent >= r.patience {
			r.silent = 0
			r.newPatience()
			if r.hushed == 0 { // what is decided and not applied may be a change of who votes
				r.campaign(true, false)
			}
		}
	}
}

func (r *raft) become(role byte, term uint64, leader meta.NodeID) {
	if term > r.term {
		r.term, r.vote = term, 0
	}
	r.role, r.leader, r.reads, r.heir = role, leader, nil, 0
	r.newPatience()
}

// campaign asks for votes: whether there would be some (pre), or for those of all who have not voted, whether they hear of a leader or not (heir).
func (r *raft) campaign(pre, heir bool) {
	if r.role = 'p'; !pre {
		r.become('c', r.term+1, 0)
		r.vote = r.n.id
	}
	r.leader = 0
	r.votes = map[meta.NodeID]bool{r.n.id: true}
	term := r.term
	if pre {
		term++
	}
	for _, p := range r.n.s.nodes {
		if p != r.n {
			last, lastTerm := r.last(), r.log[r.last()].term
			r.n.send(p, func() { p.raft.asked(r.n, term, last, lastTerm, pre, heir) })
		}
	}
	r.count(pre)
}

// asked is a request for a vote.
func (r *raft) asked(from *simNode, term uint64, last int, lastTerm uint64, pre, heir bool) {
	if term < r.term || !heir && (r.leader != 0 && r.silent < simElection || r.role == 'l') {
		return // it has heard of a leader lately
	}
	own := r.log[r.last()].term
	whole := lastTerm > own || lastTerm == own && last >= r.last()
	if !pre {
		if term > r.term {
			r.become('f', term, 0)
		}
		if r.vote != 0 && r.vote != from.id {
			return
		}
	}
	if !whole {
		return
	}
	if !pre {
		r.vote, r.silent = from.id, 0
	}
	r.n.send(from, func() { from.raft.voted(r.n.id, term, pre) })
}

func (r *raft) voted(from meta.NodeID, term uint64, pre bool) {
	if pre && (r.role != 'p' || term != r.term+1) || !pre && (r.role != 'c' || term != r.term) {
		return
	}
	r.votes[from] = true
	r.count(pre)
}

func (r *raft) count(pre bool) {
	if len(r.votes) < r.n.s.majority() {
		return
	}
	if pre {
		r.campaign(false, false)
		return
	}
	r.become('l', r.term, r.n.id)
	r.silent, r.match, r.active = 0, map[meta.NodeID]int{}, map[meta.NodeID]bool{}
	r.log = append(r.log, simEntry{term: r.term})
	r.sendAll()
}

func (r *raft) sendAll() {
	for _, p := range r.n.s.nodes {
		if p != r.n {
			r.sendTo(p)
		}
	}
	r.advance()
}

func (r *raft) sendTo(p *simNode) {
	if r.hushed > simElection/2 {
		return
	}
	term, commit, from := r.term, r.commit, min(r.match[p.id]+1, len(r.log))
	prev, entries := r.log[from-1].term, slices.Clone(r.log[from:])
	reads := uint64(0)
	if len(r.reads) > 0 {
		reads = r.reads[len(r.reads)-1].seq
	}
	r.n.send(p, func() { p.raft.append(r.n, term, from-1, prev, entries, commit, reads) })
}

func (r *raft) append(from *simNode, term uint64, prev int, prevTerm uint64, entries []simEntry, commit int, reads uint64) {
	if term < r.term {
		own := r.term
		r.n.send(from, func() {
			if own > from.raft.term {
				from.raft.become('f', own, 0)
			}
		})
		return
	}
	if term > r.term || r.role != 'f' || r.leader != from.id {
		r.become('f', term, from.id)
	}
	r.silent = 0
	match := 0
	if prev < len(r.log) && r.log[prev].term == prevTerm {
		for i, e := range entries {
			if at := prev + 1 + i; at >= len(r.log) || r.log[at].term != e.term {
				r.log = append(r.log[:at:at], entries[i:]...)
				break
			}
		}
		match = prev + len(entries)
		r.commit = max(r.commit, min(commit, match))
		r.apply()
	}
	r.n.send(from, func() { from.raft.appended(r.n.id, term, match, reads) })
}

func (r *raft) appended(from meta.NodeID, term uint64, match int, reads uint64) {
	if r.role != 'l' || term != r.term {
		return
	}
	r.active[from] = true
	r.match[from] = max(r.match[from], match)
	for _, read := range r.reads {
		if read.seq <= reads {
			read.acks[from] = true
		}
	}
	r.advance()
	r.handOver()
}

// handOver has the heir stand for election, once it lacks nothing.
func (r *raft) handOver() {
	if r.heir == 0 || r.match[r.heir] < r.last() {
		return
	}
	to, term := r.n.s.node(r.heir).raft, r.term
	r.heir = 0
	r.n.send(to.n, func() {
		if to := to.n.raft; to.term == term && to.role == 'f' && to.hushed == 0 {
			to.campaign(false, true)
		}
	})
}

func (r *raft) advance() {
	all := []int{r.last()}
	for _, p := range r.n.s.nodes {
		if p != r.n {
			all = append(all, r.match[p.id])
		}
	}
	sort.Sort(sort.Reverse(sort.IntSlice(all)))
	if at := all[r.n.s.majority()-1]; at > r.commit && r.log[at].term == r.term {
		r.commit = at
		r.apply()
	}
	for len(r.reads) > 0 && len(r.reads[0].acks)+1 >= r.n.s.majority() {
		read := r.reads[0]
		r.reads = r.reads[1:]
		read.done(read.index)
	}
}

// apply takes what is committed into the catalog, some time later.
func (r *raft) apply() {
	if r.n.halted || r.applying || r.applied >= r.commit {
		return
	}
	r.applying = true
	n := r.n
	n.after(n.applyLag(), func() {
		r.applying = false
		if n.halted {
			return
		}
		r.take(r.applied + 1)
		r.apply()
	})
}

func (r *raft) take(index int) {
	r.applied = index
	cmd := r.log[index].cmd
	if cmd == nil {
		return
	}
	key := [2]int{cmd.node, cmd.run}
	if last, ok := r.results[key]; !ok || last.seq < cmd.seq {
		var err error
		if uint64(r.changed) > cmd.base {
			err = meta.ErrConflict
		} else {
			r.changed = index
			r.n.catalog.Apply(uint64(index), cmd.changes)
		}
		r.results[key] = simResult{cmd.seq, err}
	}
	if cmd.node == int(r.n.id) && cmd.run == r.n.run && r.waiting[cmd.seq] != nil {
		if last := r.results[key]; last.seq == cmd.seq {
			done := r.waiting[cmd.seq]
			delete(r.waiting, cmd.seq)
			done(last.err)
		}
	}
}

// propose sends the next command off, again and again, until it is answered or its time is over.
func (r *raft) propose() {
	if r.busy || len(r.queue) == 0 {
		return
	}
	r.busy = true
	cmd := r.queue[0]
	r.queue = r.queue[1:]
	n := r.n
	answered := r.waiting[cmd.seq]
	sent, over := false, false
	end := func(err error) {
		if over {
			return
		}
		over = true
		delete(r.waiting, cmd.seq)
		r.busy = false
		answered(err)
		r.propose()
	}
	r.waiting[cmd.seq] = end
	var attempt func()
	attempt = func() {
		if over {
			return
		}
		term, ticks := r.term, 1
		if r.leader != 0 {
			sent = true
			to := n.s.node(r.leader)
			ticks = simAttempt / 3
			n.send(to, func() {
				if to.raft.role == 'l' && to.raft.hushed == 0 {
					to.raft.log = append(to.raft.log, simEntry{to.raft.term, cmd})
					to.raft.sendAll()
				}
			})
		}
		var wait func()
		wait = func() { // for an answer, or for another leader
			if ticks--; ticks < 0 || r.leader != 0 && r.term != term {
				attempt()
				return
			}
			n.after(simTick, wait)
		}
		wait()
	}
	n.after(simAnswer, func() {
		if !sent {
			end(meta.ErrNoMajority)
			return
		}
		end(meta.ErrUnknown)
	})
	attempt()
}

// read has done called with the index that has to be applied, once the majority has confirmed the leader; false: this node leads, and does not know yet what
// is committed.
func (r *raft) read(done func(index int)) bool {
	switch {
	case r.role == 'l':
		if r.log[r.commit].term != r.term {
			return false
		}
		r.readSeq++
		r.reads = append(r.reads, &simRead{seq: r.readSeq, index: r.commit, acks: map[meta.NodeID]bool{}, done: done})
		r.sendAll()
	case r.leader != 0:
		n, to := r.n, r.n.s.node(r.leader)
		n.send(to, func() {
			if to.raft.role == 'l' {
				to.raft.read(func(index int) { to.send(n, func() { done(index) }) })
			}
		})
	}
	return true
}

// simGroup is the group as the controller has it.
type simGroup struct {
	n   *simNode
	run int
}

func (g *simGroup) Leader() (meta.NodeID, bool) {
	g.n.s.mu.Lock()
	defer g.n.s.mu.Unlock()
	return g.n.raft.leader, g.n.raft.leader != 0 && g.n.run == g.run
}

func (g *simGroup) Reign() (uint64, bool) {
	g.n.s.mu.Lock()
	defer g.n.s.mu.Unlock()
	return g.n.raft.term, g.n.raft.role == 'l' && g.n.run == g.run
}

// Halted makes it a Group.
func (g *simGroup) Halted() error {
	g.n.s.mu.Lock()
	defer g.n.s.mu.Unlock()
	if g.n.halted {
		return meta.ErrHalted
	}
	return nil
}

var errSimDown = errors.New("the node is down")

// Barrier makes it a Group.
func (g *simGroup) Barrier(ctx context.Context) error {
	n := g.n
	for {
		done := make(chan struct{})
		read := func(index int) {
			var wait func()
			wait = func() {
				if n.raft.applied >= index {
					n.s.outside(func() { close(done) })
					return
				}
				n.after(simTick/10, wait)
			}
			wait()
		}
		var try func()
		try = func() {
			if !n.raft.read(read) {
				n.after(simTick, try)
			}
		}
		n.do(g.run, try)
		attempt := time.NewTimer(simAttempt * simTick)
		select {
		case <-done:
			attempt.Stop()
			n.starve(ctx)
			return nil
		case <-attempt.C:
		case <-ctx.Done():
			attempt.Stop()
			return ctx.Err()
		}
	}
}

// HandOver makes it a Group.
func (g *simGroup) HandOver(ctx context.Context, heir func(meta.NodeID) meta.NodeID) error {
	n := g.n
	waited := make(chan struct{})
	n.do(g.run, func() { n.after(simElection*simTick, func() { close(waited) }) })
	select {
	case <-waited:
	case <-ctx.Done():
		return ctx.Err()
	}
	to := heir(0)
	n.do(g.run, func() {
		if r := n.raft; r.role == 'l' {
			r.heir = to
			r.handOver()
		}
	})
	for {
		if id, known := g.Leader(); known && id != n.id {
			return nil
		}
		wait := time.NewTimer(simTick / 10)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// Propose makes it a meta.Group.
func (g *simGroup) Propose(base uint64, changes []meta.Entry, done func(error)) {
	n := g.n
	ok := n.do(g.run, func() {
		r := n.raft
		r.seq++
		r.queue = append(r.queue, &simCommand{node: int(n.id), run: n.run, seq: r.seq, base: base, changes: changes})
		r.waiting[r.seq] = func(err error) { n.s.outside(func() { done(err) }) }
		r.propose()
	})
	if !ok {
		go done(errSimDown)
	}
}
