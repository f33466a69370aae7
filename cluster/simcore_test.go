package cluster

import (
	"errors"
	"slices"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/cluster/replica"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// simPart is a node's part in a set of shards.
type simPart struct {
	n       *simNode
	set     meta.ShardSet
	control *Controller
	data    []simRecord // on disk

	// The core.
	told    int // times that it was told to let go
	led     []uint32
	opened  bool
	others  []uint64
	joins   map[uint64]bool // those of them that lack something
	least   int
	hw      int
	acked   map[meta.NodeID]int
	caught  map[meta.NodeID]time.Duration
	taken   uint32 // the epoch of the leader whose data it has
	streams struct {
		lead   uint32
		leader meta.NodeID
		epoch  uint32
		rest   time.Time // until then it has none, whatever it is to have
	}
}

// breaks ends the stream that the node follows by, and it has another one only later.
func (p *simPart) breaks(d time.Duration) {
	p.streams.rest = time.Now().Add(d)
	p.n.reset()
}

// reset has the others learn that the node's streams are gone, as one does whose connections to it end.
func (n *simNode) reset() {
	for _, o := range n.s.nodes {
		if o != n {
			n.send(o, func() {
				for _, p := range o.parts {
					delete(p.caught, n.id)
				}
			})
		}
	}
}

// forget has the part be as after a start.
func (p *simPart) forget() {
	p.led, p.opened = make([]uint32, p.set.Count), false
	p.streams.lead, p.streams.leader, p.streams.rest = 0, 0, time.Time{}
}

// simCore is the node's broker.
type simCore struct {
	p   *simPart
	run int
}

// Lead makes it a Core. It comes into force a little later, of all shards at once, unless the core is told to let go meanwhile.
func (c simCore) Lead(shard record.ShardID, epoch record.Epoch, others []uint64, least int, _ func(error)) {
	p := c.p
	if uint32(shard) != p.set.First+p.set.Count-1 {
		return
	}
	p.n.do(c.run, func() {
		told := p.told
		p.n.after(p.n.s.late+time.Duration(p.n.s.rnd.Int64N(int64(time.Millisecond))), func() {
			if p.told == told {
				p.lead(uint32(epoch), others, least)
			}
		})
	})
}

func (p *simPart) lead(epoch uint32, others []uint64, least int) {
	for i := range p.led {
		p.led[i] = epoch
	}
	p.others, p.least, p.hw, p.joins = others, least, 0, map[uint64]bool{}
	p.acked, p.caught = map[meta.NodeID]int{}, map[meta.NodeID]time.Duration{}
	p.begins(epoch)
	p.n.after(5*time.Millisecond, func() {
		p.opened = p.led[0] == epoch
		p.n.s.outside(p.control.Moved)
	})
	p.write(epoch)
}

// begins looks whether a node may lead.
func (p *simPart) begins(epoch uint32) {
	n, s, set := p.n, p.n.s, &p.n.s.sets[p.set.Number]
	s.tracef("node %d leads set %d in %d", n.id, p.set.Number, epoch)
	if was, ok := set.epochs[epoch]; ok {
		s.fail("nodes %d and %d led set %d in epoch %d", was, n.id, p.set.Number, epoch)
	}
	set.epochs[epoch] = n.id
	for _, o := range s.nodes {
		if led := o.parts[p.set.Number].led[0]; o != n && o.up() && !o.paused && led != 0 && o.resumed != time.Now() { // who goes on this moment lets go this moment: look sees to it
			s.fail("nodes %d (epoch %d) and %d (epoch %d) lead set %d at once", o.id, led, n.id, epoch, p.set.Number)
		}
	}
	if len(p.data) < len(set.record) || !slices.Equal(p.data[:len(set.record)], set.record) {
		s.fail("node %d leads set %d in epoch %d with %d records, and lacks some of %d that are committed", n.id, p.set.Number, epoch, len(p.data), len(set.record))
	}
}

// write has a leader write, as long as it leads.
func (p *simPart) write(epoch uint32) {
	if p.led[0] != epoch {
		return
	}
	if p.opened {
		p.data = append(p.data, simRecord{epoch, len(p.data)})
		p.commit()
	}
	pace := 20 * time.Millisecond
	if p.set.Number > 0 {
		pace *= 2
	}
	p.n.after(pace, func() { p.write(epoch) })
}

// commit moves the high watermark.
func (p *simPart) commit() {
	if p.led[0] == 0 || len(p.others)+1 < p.least {
		return
	}
	hw := len(p.data)
	for _, o := range p.others {
		hw = min(hw, p.acked[meta.NodeID(o)])
	}
	set := &p.n.s.sets[p.set.Number]
	for p.hw = max(p.hw, hw); len(set.record) < p.hw; {
		set.record = append(set.record, p.data[len(set.record)])
	}
	if !slices.Equal(set.record[:p.hw], p.data[:p.hw]) {
		p.n.s.fail("node %d commits in set %d in epoch %d what differs from what was committed", p.n.id, p.set.Number, p.led[0])
	}
}

// SetInSync makes it a Core.
func (c simCore) SetInSync(_ record.ShardID, epoch record.Epoch, others []uint64, least int) (err error) {
	p := c.p
	if !p.n.do(c.run, func() {
		if p.led[0] != uint32(epoch) {
			err = errors.New("it does not lead")
			return
		}
		for _, o := range others {
			p.joins[o] = p.joins[o] || !slices.Contains(p.others, o)
			if p.joins[o] = p.joins[o] && p.acked[meta.NodeID(o)] < p.hw; p.joins[o] {
				err = errors.New("it lacks something")
			}
		}
		p.others, p.least = others, least
		p.commit()
	}) {
		return errSimDown
	}
	return err
}

// Resign makes it a Core.
func (c simCore) Resign(shard record.ShardID, done func()) {
	p := c.p
	p.n.do(c.run, func() {
		if p.led[0] != 0 && uint32(shard) == p.set.First {
			p.n.s.tracef("node %d lets go of set %d in %d", p.n.id, p.set.Number, p.led[0])
		}
		p.told++
		p.led[uint32(shard)-p.set.First], p.opened = 0, false
	})
	done()
}

// Failure makes it a Core.
func (c simCore) Failure() (err error) {
	c.p.n.do(c.run, func() {
		if c.p.n.broken {
			err = errors.New("the journal has failed")
		}
	})
	return err
}

// Leads makes it a Core.
func (c simCore) Leads(record.ShardID, int) (open bool) {
	c.p.n.do(c.run, func() { open = c.p.opened })
	return open
}

// simStreams are the node's streams.
type simStreams struct {
	p   *simPart
	run int
}

func (c simStreams) set(lead uint32, leader meta.NodeID, epoch uint32) {
	c.p.n.do(c.run, func() {
		st := &c.p.streams
		st.lead, st.leader, st.epoch = lead, leader, epoch
		if leader != 0 {
			c.p.fetch(leader, epoch)
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
	c.p.n.do(c.run, func() {
		if c.p.led[0] != c.p.streams.lead {
			return // those are of a lead before
		}
		for id, at := range c.p.caught {
			list = append(list, replica.Follower{Node: link.NodeID(id), CaughtUp: at})
		}
	})
	return list
}

// fetch asks the leader for what it has, again and again.
func (p *simPart) fetch(leader meta.NodeID, epoch uint32) {
	n := p.n
	follows := func() bool { return p.streams.leader == leader && p.streams.epoch == epoch }
	if !follows() {
		return
	}
	n.after(15*time.Millisecond, func() { p.fetch(leader, epoch) })
	if time.Now().Before(p.streams.rest) {
		return
	}
	l, have := n.s.node(leader).parts[p.set.Number], slices.Clone(p.data)
	n.send(l.n, func() {
		if l.streams.lead != epoch || l.led[0] != epoch {
			return
		}
		if len(have) <= len(l.data) && slices.Equal(have, l.data[:len(have)]) {
			l.acked[n.id] = max(l.acked[n.id], len(have))
			if len(have) == len(l.data) {
				l.caught[n.id] = simClock{n: l.n}.Mono()
			}
			l.commit()
		}
		data := slices.Clone(l.data)
		l.n.send(n, func() {
			if follows() && (p.taken != epoch || len(data) > len(p.data)) { // a stream is in order
				p.data, p.taken = data, epoch
			}
		})
	})
}
