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

// asOthersKnow adds what other nodes know: the one that leads how far the others are, each of those that are there why it leaves the lead to others. st is what this
// one shows.
func (s *Server) asOthersKnow(ctx context.Context, st *api.ShardStatus) {
	var ask []meta.NodeID
	for _, id := range s.others(ctx) {
		if uint32(id) == st.Leader || slices.Contains(st.Alive, uint32(id)) {
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
		st.Yields = append(st.Yields, its.GetYields()...)
	}
	slices.SortFunc(st.Yields, func(a, b *api.NodeYields) int { return cmp.Compare(a.Node, b.Node) })
}
