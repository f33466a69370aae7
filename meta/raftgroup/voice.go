package raftgroup

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A copy that has halted must not lead: it answers no barrier, so nobody would be granted the lead of the shards. Dragonboat has it campaign no more, as
// something that was decided is not applied, but not step down. Nor can it let go: a leadership is handed over only by who has not been counted on for Silence, and a
// replica that is stopped has no vote. So it is hushed: what only a leader or a candidate says stays unsaid. CheckQuorum has it step down then, the others
// elect somebody as if it were cut off, and it goes on to take entries and to vote.
//
// Before that, it leads for a moment (hushTicks), and takes no proposals: what it has and one of the others lacks would have it vote for none of them, where no
// more than the majority are left.
//
// And it has to be told when a leader is gone. Dragonboat votes for nobody while a leader may be there, which it knows of its own clock for less than a time for
// elections in each round, and for no moment at all if that round was drawn the shortest: a copy that campaigns would have left that state. Here the time is
// counted from what the last leader said (patience), and a vote that is asked for after it is marked as one that needs no such look.
type voice struct {
	halted   atomic.Bool // it takes no proposals of others
	handing  atomic.Bool // likewise, and no changes of its own: another one is to lead (HandOver)
	once     sync.Once   // a node that halts may be handing over
	quiet    atomic.Bool
	began    time.Time     // when it became quiet
	leader   atomic.Int64  // when a leader was heard last, in ns from then
	patience time.Duration // how long after that nobody is voted for
}

const hushTicks = electionTicks / 2

// hush keeps a copy that has halted from leading, for good.
func (g *Group) hush() {
	g.voice.halted.Store(true)
	if sleep(g.ctx, hushTicks*g.o.Tick) == nil {
		g.voice.hush(electionTicks * g.o.Tick)
	}
}

func (v *voice) hush(patience time.Duration) {
	v.once.Do(func() {
		v.began, v.patience = time.Now(), patience
		v.quiet.Store(true)
	})
}

// said are those of a batch's messages that are sent. The list stays as it is: Dragonboat uses it again.
func (v *voice) said(list []raftpb.Message) []raftpb.Message {
	if !v.quiet.Load() {
		return untransferred(list)
	}
	return without(list, raftpb.Replicate, raftpb.Heartbeat, raftpb.InstallSnapshot, raftpb.TimeoutNow, raftpb.ReadIndexResp, raftpb.RequestVote, raftpb.RequestPreVote, raftpb.LeaderTransfer)
}

// heard are those of a batch's messages that are taken. Their hints are changed in place.
func (v *voice) heard(list []raftpb.Message) []raftpb.Message {
	if list = untransferred(list); !v.halted.Load() && !v.handing.Load() {
		return list
	}
	if v.quiet.Load() {
		v.free(list)
	}
	return without(list, raftpb.Propose)
}

// ofLeaders are the messages by which a leader shows that it is there.
var ofLeaders = []raftpb.MessageType{raftpb.Replicate, raftpb.Heartbeat, raftpb.InstallSnapshot, raftpb.TimeoutNow}

// free has a copy that is quiet vote once the leader is gone: Dragonboat takes a request with its sender as the hint for one of a leader that hands over.
func (v *voice) free(list []raftpb.Message) {
	now := time.Since(v.began)
	for i := range list {
		m := &list[i]
		switch {
		case slices.Contains(ofLeaders, m.Type):
			v.leader.Store(int64(now))
		case m.Type != raftpb.RequestVote && m.Type != raftpb.RequestPreVote:
		case now-time.Duration(v.leader.Load()) >= v.patience:
			m.Hint = m.From
		}
	}
}

// untransferred are the messages but requests to hand over the lead. Who leads hands it over by itself (HandOver), when nobody counts on it any more: Dragonboat would
// send one that came too late on to whoever leads by then, who has granted leases a moment ago.
func untransferred(list []raftpb.Message) []raftpb.Message {
	if !slices.ContainsFunc(list, func(m raftpb.Message) bool { return m.Type == raftpb.LeaderTransfer }) {
		return list
	}
	return without(list, raftpb.LeaderTransfer)
}

func without(list []raftpb.Message, types ...raftpb.MessageType) (out []raftpb.Message) {
	for i := range list {
		if !slices.Contains(types, list[i].Type) {
			out = append(out, list[i])
		}
	}
	return out
}
