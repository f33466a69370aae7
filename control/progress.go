package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/meta"
)

// Phase says how far a node is on its way to having the shards.
type Phase string

// The phases of a node, in order. They are in answers of the control plane and in labels of metrics.
const (
	PhaseNone       Phase = "none"        // it is not to have them
	PhaseAway       Phase = "away"        // it does not follow
	PhasePreparing  Phase = "preparing"   // a copy is made for it
	PhaseCopying    Phase = "copying"     // it gets that
	PhaseCatchingUp Phase = "catching_up" // it gets what the log has behind
	PhaseInSync     Phase = "in_sync"
)

// Phases are all of them, in order.
var Phases = []Phase{PhaseNone, PhaseAway, PhasePreparing, PhaseCopying, PhaseCatchingUp, PhaseInSync}

// Progress is how far a node is in its phase: while a copy is made or sent of that, while it catches up of the log since it began to.
type Progress struct {
	Phase Phase
	pace.Progress
}

// progressWait is how long other nodes may take to say what they know. Who asks sees the rest without it.
const progressWait = 2 * time.Second

func progressOf(id meta.NodeID, p Progress) *api.NodeProgress {
	out := &api.NodeProgress{Node: uint32(id), Phase: string(p.Phase), DoneBytes: uint64(p.Done), TotalBytes: uint64(p.Total), BytesPerSecond: uint64(p.Rate), Never: p.Left == pace.Never}
	if p.Left >= 0 {
		left := uint64((p.Left + time.Second - 1) / time.Second)
		out.SecondsLeft = &left
	}
	return out
}

// asOthersKnow adds what other nodes know: the one that leads a set how far the others are, each of those that are there why it leaves the lead to others. st is what this
// one shows.
func (s *Server) asOthersKnow(ctx context.Context, st *api.ShardStatus) {
	var ask []meta.NodeID
	for _, id := range s.others(ctx) {
		leads := func(set *api.ShardSet) bool { return set.Leader == uint32(id) }
		if uint32(id) == st.Leader || slices.Contains(st.Alive, uint32(id)) || slices.ContainsFunc(st.Sets, leads) {
			ask = append(ask, id)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, progressWait)
	defer cancel()
	answers := make(chan *api.ShardStatus, len(ask))
	for _, id := range ask {
		go func() {
			its, err := askFor[*api.ShardStatus](ctx, s, id, api.Shards_Status_FullMethodName, &api.ShardStatusRequest{})
			if err != nil {
				its = nil
			}
			answers <- its
		}()
	}
	for range ask {
		its := <-answers
		if its.GetOpen() && !st.Open {
			st.Followers, st.Progress = its.Followers, its.Progress
		}
		for i, set := range its.GetSets() { // both have them by number, but one may not have heard of the last yet
			if i < len(st.Sets) && set.Open && !st.Sets[i].Open {
				st.Sets[i].Followers, st.Sets[i].Progress = set.Followers, set.Progress
			}
		}
		st.Yields = append(st.Yields, its.GetYields()...)
	}
	slices.SortFunc(st.Yields, func(a, b *api.NodeYields) int { return cmp.Compare(a.Node, b.Node) })
}

// progressOfNode is how far a node is with all sets: with that of which it lacks most. It is nil while that of a set is not known.
func progressOfNode(id uint32, st *api.ShardStatus) (least *api.NodeProgress) {
	rank := func(p *api.NodeProgress) int {
		if p.Phase == string(PhaseNone) {
			return len(Phases) // others count before it
		}
		return slices.Index(Phases, Phase(p.Phase))
	}
	see := func(list []*api.NodeProgress) (known bool) {
		p := progressOf(meta.NodeID(id), Progress{Phase: PhaseNone})
		if i := slices.IndexFunc(list, func(p *api.NodeProgress) bool { return p.Node == id }); i >= 0 {
			p = list[i]
		}
		if least == nil || rank(p) < rank(least) {
			least = p
		}
		return len(list) > 0
	}
	known := see(st.Progress)
	for _, set := range st.Sets {
		known = see(set.Progress) && known
	}
	if !known {
		return nil
	}
	return least
}
