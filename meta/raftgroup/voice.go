package raftgroup

import (
	"slices"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A copy that has halted must not lead: it answers no barrier, so nobody would be granted the lead of the shards. Dragonboat has it campaign no more, as
// something that was decided is not applied, but not step down. Nor can it let go: a leadership that is handed over would break what Silence says, and a
// replica that is stopped has no vote. So it is hushed: what only a leader or a candidate says stays unsaid. CheckQuorum has it step down then, the others
// elect somebody as if it were cut off, and it goes on to take entries and to vote.
//
// Before that, it leads for a moment (hushTicks), and takes no proposals: what it has and one of the others lacks would have it vote for none of them, where no
// more than the majority are left.
type voice struct {
	halted atomic.Bool // it takes no proposals of others
	quiet  atomic.Bool
}

const hushTicks = electionTicks / 2

// hush keeps a copy that has halted from leading, for good.
func (g *Group) hush() {
	g.voice.halted.Store(true)
	if sleep(g.ctx, hushTicks*g.o.Tick) == nil {
		g.voice.quiet.Store(true)
	}
}

// said are those of a batch's messages that are sent. The list stays as it is: Dragonboat uses it again.
func (v *voice) said(list []raftpb.Message) []raftpb.Message {
	if !v.quiet.Load() {
		return list
	}
	return without(list, raftpb.Replicate, raftpb.Heartbeat, raftpb.InstallSnapshot, raftpb.TimeoutNow, raftpb.ReadIndexResp, raftpb.RequestVote, raftpb.RequestPreVote)
}

// heard are those of a batch's messages that are taken.
func (v *voice) heard(list []raftpb.Message) []raftpb.Message {
	if !v.halted.Load() {
		return list
	}
	return without(list, raftpb.Propose)
}

func without(list []raftpb.Message, types ...raftpb.MessageType) (out []raftpb.Message) {
	for i := range list {
		if !slices.Contains(types, list[i].Type) {
			out = append(out, list[i])
		}
	}
	return out
}
