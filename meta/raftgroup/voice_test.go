package raftgroup

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// lead has a node lead the group.
func (ns *nodes) lead(id meta.NodeID) {
	ns.t.Helper()
	n := ns.list[id]
	testx.Eventually(ns.t, soon, func() bool {
		if l, ok := n.g.Leader(); ok && l == id {
			return true
		}
		for _, o := range ns.list {
			_ = o.g.host.RequestLeaderTransfer(shardID, n.g.id.replica()) // not HandOver: nobody counts on what Silence says
		}
		return false
	}, "node", id, "leads")
}

// newerCommand is one that a program of commandVersion does not understand.
func newerCommand(name string) []byte {
	cmd := appendCommand(nil, &command{replica: replicaOf(9, 1), run: 1, seq: 1, base: 1 << 40, changes: []meta.Entry{user(name)}})
	cmd[0] = commandVersion + 1
	return cmd
}

// others wait until another node than id leads, and all others know that.
func (ns *nodes) othersLead(id meta.NodeID) {
	ns.t.Helper()
	for _, n := range ns.list {
		testx.Eventually(ns.t, soon, func() bool {
			l, ok := n.g.Leader()
			return ok && l != id
		}, "another one leads than", id)
	}
}

// A node that leads the group and does not understand what the log says leads it no more: the others decide without it. It goes on to vote.
func TestHaltedLeader(t *testing.T) {
	ns := three(t, func(o *Options) {
		if o.Node != 1 {
			o.reads = commandVersion + 1
		}
	})
	old := ns.list[1]
	testx.Eventually(t, soon, func() bool { // whoever else leads by then would be the next one to lead
		ns.lead(1)
		_, state := ns.list[2].g.attempt(newerCommand("newer"), time.Second)
		return state == attemptDone
	}, "the newer command is made")
	testx.Eventually(t, soon, func() bool { return errors.Is(old.g.Halted(), ErrCommandVersion) }, "the older program refuses it")
	ns.othersLead(1)
	if err := ns.list[2].g.Barrier(within(t)); err != nil {
		t.Errorf("a barrier: %v", err)
	}
	ns.list[2].mustSet(t, user("without it"))
	ns.list[3].sees(t, "without it")
	ns.stop(3)
	ns.list[2].mustSet(t, user("with its vote"))
	if _, leads := old.g.Reign(); leads {
		t.Error("it leads again")
	}
}

// A node that leads the group and cannot write its state any more leads it no more, and the process goes on.
func TestHaltedByDisk(t *testing.T) {
	var broken atomic.Bool
	errDisk := errors.New("the disk is gone")
	ns := three(t, func(o *Options) {
		if o.Node == 2 {
			o.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
					return errDisk
				}
				return nil
			}))
		}
	})
	ns.lead(2)
	broken.Store(true)
	ns.list[1].mustSet(t, user("more than it can hold"))
	testx.Eventually(t, soon, func() bool { return ns.list[2].g.Halted() != nil }, "it has halted")
	ns.othersLead(2)
	ns.list[3].mustSet(t, user("without it"))
	ns.list[1].sees(t, "without it")
	if err := ns.list[2].set(user("x")); !errors.Is(err, ErrHalted) {
		t.Errorf("a change at the node that has halted: %v", err)
	}
	broken.Store(false)
	g := ns.list[2].g
	delete(ns.list, 2)
	_ = g.Close() // it says what has failed, and comes back
}

// A node halts as the leader of two that are left, while changes are under way: it has what the other one has not yet. The other one leads nevertheless.
func TestHaltedMidway(t *testing.T) {
	ns := three(t, func(o *Options) {
		if o.Node != 1 {
			o.reads = commandVersion + 1
		}
	})
	two := ns.list[2]
	ns.stop(3)
	for seq := uint64(1); ns.list[1].g.Halted() == nil; {
		ns.lead(1)
		for i := range 256 {
			cmd := appendCommand(nil, &command{replica: replicaOf(8, 1), run: 1, seq: seq, changes: []meta.Entry{user("x")}})
			seq++
			if i == 128 {
				cmd = newerCommand("newer")
			}
			if rs, err := two.g.host.Propose(two.g.host.GetNoOPSession(shardID), cmd, soon); err == nil {
				rs.Release()
			}
		}
		for wait := 0; wait < 100 && ns.list[1].g.Halted() == nil; wait++ {
			_ = sleep(within(t), testTick)
		}
	}
	two.mustSet(t, user("after"))
	two.sees(t, "newer")
	if l, ok := two.g.Leader(); !ok || l != 2 {
		t.Errorf("%d leads (%v)", l, ok)
	}
}

// What a copy that has halted says and takes.
func TestVoice(t *testing.T) {
	var v voice
	all := []raftpb.Message{{Type: raftpb.Heartbeat}, {Type: raftpb.ReplicateResp}, {Type: raftpb.RequestPreVote}, {Type: raftpb.RequestVoteResp}, {Type: raftpb.Propose}}
	types := func(list []raftpb.Message) (out []raftpb.MessageType) {
		for _, m := range list {
			out = append(out, m.Type)
		}
		return out
	}
	look := func(when string, list []raftpb.Message, want ...raftpb.MessageType) {
		t.Helper()
		if got := types(list); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	look("it says", v.said(all), types(all)...)
	look("it takes", v.heard(all), types(all)...)
	v.halted.Store(true)
	look("halted, it says", v.said(all), types(all)...)
	look("halted, it takes", v.heard(all), types(all[:4])...)
	v.hush(time.Hour)
	look("hushed, it says", v.said(all), raftpb.ReplicateResp, raftpb.RequestVoteResp, raftpb.Propose)
	look("hushed, it takes", v.heard(all), types(all[:4])...)
}

// Who is quiet votes for nobody while a leader is there, and for whoever asks once it has been gone for the time of an election.
func TestVoiceVotes(t *testing.T) {
	v := voice{}
	v.halted.Store(true)
	v.hush(time.Hour)
	asked := func() bool {
		got := v.heard([]raftpb.Message{{Type: raftpb.RequestPreVote, From: 7}, {Type: raftpb.RequestVote, From: 7}})
		if len(got) != 2 || got[0].Hint != got[1].Hint {
			t.Fatalf("taken: %v", got)
		}
		return got[0].Hint == 7
	}
	if asked() {
		t.Error("it votes before the hour since it was hushed")
	}
	v.began = v.began.Add(-time.Hour)
	if !asked() {
		t.Error("it does not vote after the hour")
	}
	v.heard([]raftpb.Message{{Type: raftpb.Heartbeat}})
	if asked() {
		t.Error("it votes while a leader is there")
	}
	v.began = v.began.Add(-time.Hour)
	if !asked() {
		t.Error("it does not vote an hour after the leader was heard")
	}
}
