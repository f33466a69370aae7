package control

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/meta"
)

// placed is a node's Shards, of which it shows Placements.
type placed struct {
	Shards
	p    Placement // of set 0
	sets []Placement
}

func (p *placed) Placements() []Placement { return append([]Placement{p.p}, p.sets...) }

// A node that does not lead asks the one that does how far the others are, and shows what itself knows if that does not answer.
func TestProgressOfOthers(t *testing.T) {
	sh := &meta.Shard{Leader: 2, Epoch: 7, Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{2}}
	leads := New(Options{Node: 2, Shards: &placed{p: Placement{Shard: sh, Leader: 2, Open: true, Followers: map[meta.NodeID]uint64{1: 5},
		Progress: map[meta.NodeID]Progress{
			1: {Phase: PhaseCatchingUp, Progress: pace.Progress{Done: 10, Total: 30, Rate: 4, Left: 4500 * time.Millisecond}},
			2: {Phase: PhaseInSync},
			3: {Phase: PhaseCopying, Progress: pace.Progress{Total: 30, Rate: 4, Left: pace.Never}},
			4: {Phase: PhaseAway, Progress: pace.Progress{Left: pace.Unknown}},
		}}}})
	l := &otherLeads{s: leads}
	takes := New(Options{Node: 1, Peers: l, Shards: &placed{p: Placement{Shard: sh, Leader: 2}}})
	t.Cleanup(func() {
		takes.Close(context.Background())
		leads.Close(context.Background())
	})
	ctx := context.WithValue(t.Context(), callerKey{}, caller{name: "eye", role: RoleViewer})
	status := func() *api.ShardStatus {
		t.Helper()
		st, err := (&shardService{s: takes}).Status(ctx, &api.ShardStatusRequest{})
		if err != nil || st.Asked != 1 || st.Leader != 2 || st.Open {
			t.Fatalf("%v, %v", st, err)
		}
		return st
	}
	want := []*api.NodeProgress{
		{Node: 1, Phase: "catching_up", DoneBytes: 10, TotalBytes: 30, BytesPerSecond: 4, SecondsLeft: proto.Uint64(5)},
		{Node: 2, Phase: "in_sync", SecondsLeft: proto.Uint64(0)},
		{Node: 3, Phase: "copying", TotalBytes: 30, BytesPerSecond: 4, Never: true},
		{Node: 4, Phase: "away"},
	}
	st := status()
	if len(st.Progress) != len(want) || len(st.Followers) != 1 || st.Followers[0].Lag != 5 {
		t.Fatalf("%v", st)
	}
	for i, p := range st.Progress {
		if !proto.Equal(p, want[i]) {
			t.Errorf("%v, want %v", p, want[i])
		}
	}
	nodes := []*api.Node{{Id: 3}, {Id: 5}}
	(&nodeService{s: takes}).addOthersKnow(ctx, nodes)
	if !proto.Equal(nodes[0].Progress, want[2]) || nodes[1].Progress.GetPhase() != "none" {
		t.Errorf("nodes are %v", nodes)
	}

	l.err = errors.New("it is cut off")
	if st := status(); len(st.Progress) != 0 || len(st.Followers) != 0 {
		t.Errorf("nobody says %v", st)
	}
	nodes = []*api.Node{{Id: 3}}
	if (&nodeService{s: takes}).addOthersKnow(ctx, nodes); nodes[0].Progress != nil {
		t.Errorf("nobody says %v", nodes[0].Progress)
	}
}

// Each node says of itself why it leaves the lead to others, whichever is asked, and nobody waits for one that is not there.
func TestYieldsOfOthers(t *testing.T) {
	sh := &meta.Shard{Leader: 1, Epoch: 7, Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{1, 2}}
	followed := map[meta.NodeID]Progress{1: {Phase: PhaseInSync}, 2: {Phase: PhaseInSync}}
	other := &placed{p: Placement{Shard: sh, Leader: 1, Yields: "drained"}}
	own := &placed{p: Placement{Shard: sh, Leader: 1, Open: true, Alive: []meta.NodeID{1, 2}, Yields: "failed", Progress: followed}}
	follows := New(Options{Node: 2, Shards: other})
	l := &otherLeads{s: follows}
	leads := New(Options{Node: 1, Peers: l, Shards: own})
	t.Cleanup(func() {
		leads.Close(context.Background())
		follows.Close(context.Background())
	})
	ctx := context.WithValue(t.Context(), callerKey{}, caller{name: "eye", role: RoleViewer})
	check := func(what string, want ...*api.NodeYields) {
		t.Helper()
		st, err := (&shardService{s: leads}).Status(ctx, &api.ShardStatusRequest{})
		if err != nil || len(st.Yields) != len(want) || len(st.Progress) != len(followed) {
			t.Fatalf("%s: %v, %v", what, st, err)
		}
		nodes := []*api.Node{{Id: 1}, {Id: 2}}
		(&nodeService{s: leads}).addOthersKnow(ctx, nodes)
		for i, y := range want {
			if !proto.Equal(st.Yields[i], y) || nodes[y.Node-1].Yields != y.Why {
				t.Errorf("%s: %v, nodes %v; want %v", what, st.Yields, nodes, y)
			}
		}
		if len(want) < 2 && nodes[1].Yields != "" {
			t.Errorf("%s: nodes %v", what, nodes)
		}
	}
	mine, its := &api.NodeYields{Node: 1, Why: "failed"}, &api.NodeYields{Node: 2, Why: "drained"}
	check("both", mine, its)
	l.err = errors.New("it is cut off")
	check("it does not answer", mine)
	l.err, other.p.Yields = nil, ""
	check("it leads again", mine)
	other.p.Yields, own.p.Alive = "drained", []meta.NodeID{1}
	check("it is not there", mine)
}
