package kafka

import (
	"errors"
	"slices"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Consumers read from the replica in their rack (KIP-392): the leader sends them there, and back they are sent by the follower, with the field that the
// leader has for it, PreferredReadReplica. Errors alone do not do: franz-go stays with a follower that answers NOT_LEADER_OR_FOLLOWER or
// OFFSET_NOT_AVAILABLE until the leader's epoch changes.

const (
	// comeBack is for how long the leader serves a client itself that comes back from where it was sent to: that node may be down, or be of a program that
	// does not know this, and the client would come and go without a record.
	comeBack = 10 * time.Second
	// aheadWait is for how long a follower may be behind a client that it serves: it hears of what is committed some milliseconds after the leader.
	aheadWait = 500 * time.Millisecond
)

// turns is what a connection remembers of partitions that it reads, by the loop's clock.
type turns struct {
	sent  map[record.PartitionID]int64 // when the client was sent to a follower
	ahead map[record.PartitionID]int64 // since when it has been ahead of this one
}

func noteTurn(m *map[record.PartitionID]int64, id record.PartitionID, now int64) {
	if *m == nil {
		*m = make(map[record.PartitionID]int64)
	}
	(*m)[id] = now
}

// follows says whether this node serves the fetch of what is placed so though another one leads: it is in sync, and in the client's rack.
func (f *fetchState) follows(v *View, pl *Placement) bool {
	h := f.r.c.l.h
	if f.rack == "" || !pl.Follows || !h.settings.Load().NearestReplica {
		return false
	}
	own := v.find(h.nodeID)
	return own != nil && own.Rack == f.rack
}

// place says whether a partition is read here, and what is told of it if not.
func (f *fetchState) place(v *View, p *fetchPart) {
	h, set := f.r.c.l.h, v.setOf(p.part)
	pl := v.set(set)
	p.read.Follows, p.sendTo = 0, 0
	switch p.code = epochCode(pl, p.epoch); {
	case p.code != wire.None:
	case h.leadsPart(pl, p.part):
		f.sets |= 1 << set
	case f.follows(v, pl):
		f.sets |= 1 << set
		p.read.Follows = record.Epoch(pl.Epoch)
	default:
		f.sendBack(v, p, wire.NotLeaderOrFollower)
	}
}

// sendBack sends the client to the node that leads, if it knows of racks and can reach that one; else it is told the code.
func (f *fetchState) sendBack(v *View, p *fetchPart, code wire.ErrorCode) {
	c := f.r.c
	p.read.Release()
	p.read.Err, p.code = nil, code
	n := v.find(v.of(p.part).Leader)
	if f.rack == "" || n == nil || n.ID == c.l.h.nodeID {
		return
	}
	if _, ok := c.endpoint(n); ok {
		p.code, p.sendTo = wire.None, n.ID
		p.read.HighWatermark, p.read.LastStable, p.read.LogStart = -1, -1, -1
		c.l.n.sentBack++
	}
}

// nearNodes are the followers that a client is to read from while this node leads. They are found once, where all that is read is of one set of shards.
type nearNodes struct {
	pl    *Placement // for which they were found; nil: for none
	nodes []int32
}

// find has them be those in the client's rack, unless this node is there too.
func (n *nearNodes) find(f *fetchState, v *View, p *broker.Partition) []int32 {
	c, h, pl := f.r.c, f.r.c.l.h, v.of(p)
	if n.pl == pl {
		return n.nodes
	}
	n.pl, n.nodes = pl, n.nodes[:0]
	if !h.settings.Load().NearestReplica || !h.leadsPart(pl, p) {
		return nil
	}
	for i := range v.Nodes {
		o := &v.Nodes[i]
		if o.Rack != f.rack || !slices.Contains(pl.ISR, o.ID) {
			continue
		}
		if o.ID == h.nodeID {
			n.nodes = n.nodes[:0]
			break
		}
		if _, reached := c.endpoint(o); reached && o.Alive {
			n.nodes = append(n.nodes, o.ID)
		}
	}
	return n.nodes
}

// nearest is the one of them that has the partition's turn, 0 if it is read here: the client has just come back, or what it asks for lies in a store.
func (f *fetchState) nearest(v *View, near *nearNodes, p *fetchPart) int32 {
	if f.rack == "" || p.read.Follows != 0 {
		return 0
	}
	nodes := near.find(f, v, p.part)
	if len(nodes) == 0 {
		return 0
	}
	c, id := f.r.c, p.part.ID()
	if at, known := c.turns.sent[id]; known {
		if c.l.loop.NowMono()-at < int64(comeBack) {
			return 0
		}
		delete(c.turns.sent, id)
	}
	if offset(p.offset) < c.l.h.broker.LocalStart(p.part) {
		return 0
	}
	return nodes[uint64(id)%uint64(len(nodes))]
}

// sendNearer sends the client to a follower. What is asked for lies within the log: the leader has looked.
func (f *fetchState) sendNearer(p *fetchPart, to int32) {
	p.sendTo = to
	noteTurn(&f.r.c.turns.sent, p.part.ID(), f.r.c.l.loop.NowMono())
	f.r.c.l.n.sentNearer++
}

// followed looks at what a follower's read has found. What it has not the leader may have: it alone says what there is not.
func (f *fetchState) followed(p *fetchPart) {
	if p.read.Follows == 0 {
		return
	}
	c, id, v := f.r.c, p.part.ID(), f.r.c.l.h.view()
	switch {
	case p.read.Err == nil && !p.read.Ahead:
		delete(c.turns.ahead, id)
	case p.read.Err == nil:
		now := c.l.loop.NowMono()
		since, known := c.turns.ahead[id]
		if !known {
			noteTurn(&c.turns.ahead, id, now)
			return
		}
		if f.last || now-since >= int64(aheadWait) {
			delete(c.turns.ahead, id)
			f.sendBack(v, p, wire.OffsetNotAvailable)
		}
	case errors.Is(p.read.Err, broker.ErrUnknownTopic):
	case errors.Is(p.read.Err, broker.ErrOffsetOutOfRange):
		f.sendBack(v, p, wire.NotLeaderOrFollower)
	default:
		f.sendBack(v, p, codeOf(p.read.Err))
	}
}

// ahead says whether the client is ahead of this follower somewhere.
func (f *fetchState) ahead() bool {
	if f.rack == "" {
		return false
	}
	for i := range f.parts {
		if p := &f.parts[i]; p.read.Ahead && p.code == wire.None && p.sendTo == 0 {
			return true
		}
	}
	return false
}
