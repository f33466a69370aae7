package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/meta"
)

// holdLog is what a hold asks of a *journal.Log.
type holdLog interface {
	HoldNew(name string)
	Hold(name string, at journal.Position)
	Limited() bool
	LowSpace() bool
}

// setHolds keep this node's log for nodes that get a copy from another one, while it leads sets of shards that these have to follow afterwards: what they lack of
// them then is what came behind the copy. A nil one holds nothing.
type setHolds struct {
	sets    copySets
	log     holdLog
	replica func(record.ShardID) broker.ReplicaState
	cluster func() *meta.Cluster
	clock   clock.Clock
	mu      struct {
		sync.Mutex
		over  bool
		peers map[link.NodeID]*setHold
	}
}

// setHold is that for one node.
type setHold struct {
	sets  []int
	asked time.Duration // when it was asked for last
	timer clock.Timer
}

// name of a hold in the log.
func (h *setHolds) name(peer link.NodeID) string { return fmt.Sprintf("%s-%d", seedHold, peer) }

// hold holds the log for a node that has stopped following the sets, until it follows them again, and answers where they end. The node counts on it that none
// of its streams is there any more: whom the leader has none of it does not take in.
func (h *setHolds) hold(peer link.NodeID, asks []seedAsk) ([]seedAsk, error) {
	c := h.cluster()
	for _, a := range asks {
		switch {
		case c == nil || a.set > int(c.Sets) || h.sets.Leads(a.set) != a.epoch || a.epoch == 0:
			return nil, fmt.Errorf("this node does not lead set %d of the shards in epoch %d", a.set, a.epoch)
		case h.sets.Serves(a.set, peer):
			return nil, fmt.Errorf("node %d follows set %d of the shards yet; come again", peer, a.set)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.over {
		return nil, errors.New("the node stops")
	}
	p := h.mu.peers[peer]
	if p == nil {
		h.log.HoldNew(h.name(peer))
		p = new(setHold)
		if h.mu.peers == nil {
			h.mu.peers = make(map[link.NodeID]*setHold)
		}
		h.mu.peers[peer] = p
		p.timer = h.clock.AfterFunc(seedHoldLook, func() { h.look(peer, p) })
	}
	p.asked = h.clock.Mono()
	for i := range asks {
		a := &asks[i]
		if !slices.Contains(p.sets, a.set) {
			p.sets = append(p.sets, a.set)
		}
		a.ends = nil
		set := c.Set(a.set)
		for id := range set.Count {
			a.ends = append(a.ends, h.replica(record.ShardID(set.First+id)).Last) // what is behind comes into the log that is held
		}
	}
	return asks, nil
}

// look lets go of the log when the node follows, nobody asks for it any more, or there is no room: who is refused for want of that is a client.
func (h *setHolds) look(peer link.NodeID, p *setHold) {
	h.mu.Lock()
	sets, asked := slices.Clone(p.sets), p.asked
	h.mu.Unlock()
	needed := false
	for _, set := range sets { // its stream holds what it has not read
		needed = needed || h.sets.Leads(set) != 0 && !h.sets.Serves(set, peer)
	}
	needed = needed && !h.log.Limited() && !h.log.LowSpace() && h.clock.Mono()-asked < seedHoldRest
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.mu.over || h.mu.peers[peer] != p:
	case needed || p.asked != asked:
		p.timer.Reset(seedHoldLook)
	default:
		h.letGoLocked(peer)
	}
}

func (h *setHolds) letGoLocked(peer link.NodeID) {
	h.mu.peers[peer].timer.Stop()
	delete(h.mu.peers, peer)
	h.log.Hold(h.name(peer), journal.Position{})
}

func (h *setHolds) close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.over = true
	for peer := range h.mu.peers {
		h.letGoLocked(peer)
	}
}

// setGiver looks after what has to be in a copy of a node's data, of the sets beside the first. A nil one is that of a node without them.
type setGiver struct {
	sets    copySets
	replica func(record.ShardID) broker.ReplicaState
	cluster func() *meta.Cluster
	clock   clock.Clock
	wait    time.Duration // as long as what has to be in it may take to come
}

// setGiveWait is how long a follower may take to have what the leader of a set had.
const setGiveWait = 30 * time.Second

// asked reads what has to be in a copy.
func (g *setGiver) asked(body []byte) ([]seedAsk, error) {
	asks, err := decodeAsks(body)
	if err != nil {
		return nil, err
	}
	sets := 0
	if g != nil {
		if c := g.cluster(); c != nil {
			sets = int(c.Sets)
		}
	}
	switch {
	case sets > 0 && len(asks) == 0:
		return nil, fmt.Errorf("the cluster has %d sets of shards beside the first, of which the node that asks does not know; come again", sets)
	case len(asks) > 0 && (sets == 0 || asks[len(asks)-1].set > sets):
		return nil, errors.New("this node does not know of the sets of shards that it is asked for; come again")
	}
	for _, a := range asks {
		if n := int(g.cluster().Set(a.set).Count); len(a.ends) != n {
			return nil, errSeedAsk
		}
	}
	return asks, nil
}

// has waits until this node's log has all that the leaders of sets had when they held theirs. Of a set that it has to lead it is what the node that asks has
// acknowledged, too.
func (g *setGiver) has(ctx context.Context, asks []seedAsk) error {
	if len(asks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.wait)
	defer cancel()
	for tries := 1; ; tries++ {
		if err := g.leads(asks); err != nil {
			return err
		}
		set, ok := g.lacks(asks)
		if ok {
			return nil
		}
		if pace.Sleep(ctx, g.clock, sealAgain.Wait(tries)) != nil {
			return fmt.Errorf("this node lacks something of set %d of the shards itself; come again", set)
		}
	}
}

// lacks names a set of which this node's log has not all that is asked for; ok: there is none.
func (g *setGiver) lacks(asks []seedAsk) (set int, ok bool) {
	for _, a := range asks {
		first := g.cluster().Set(a.set).First
		for i, end := range a.ends {
			r := g.replica(record.ShardID(first + uint32(i)))
			if uint32(r.Epoch) != a.epoch || r.Durable < end || r.Role != broker.RoleLeader && (r.Role != broker.RoleFollower || !r.Synced) {
				return a.set, false
			}
		}
	}
	return 0, true
}

// leads says whether the node leads the sets that it has to. Once it has been asked behind the moment of the copy, nobody else led any of them before that.
func (g *setGiver) leads(asks []seedAsk) error {
	for _, a := range asks {
		if a.leads && g.sets.Leads(a.set) != a.epoch {
			return fmt.Errorf("this node does not lead set %d of the shards in epoch %d any more", a.set, a.epoch)
		}
	}
	return nil
}
