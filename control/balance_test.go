package control

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// balanced is a node's Shards that are balanced in one way.
type balanced struct {
	placed
	b       []Balance
	err     error
	dry, no bool // as it was asked
}

func (b *balanced) Balance(_ context.Context, dryRun, anyRack bool) ([]Balance, error) {
	b.dry, b.no = dryRun, anyRack
	return b.b, b.err
}

// Balance shows of each set each node once that has the shards or shall have them, in order, with its rack, and says whom to ask again.
func TestBalance(t *testing.T) {
	w := &balanced{b: []Balance{{Have: []meta.NodeID{3, 1}, Want: []meta.NodeID{1, 2}, Leader: 3, LeadMoves: true},
		{Set: 1, Have: []meta.NodeID{2}, Want: []meta.NodeID{2}, Leader: 2, Balanced: true}}}
	c := meta.New(nil)
	c.Apply(0, []meta.Entry{(&meta.Node{ID: 2, State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Address: "h:1", Rack: "b"}).Entry()})
	if err := c.Recovered(); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Node: 1, Shards: w, Catalog: c})
	t.Cleanup(func() { s.Close(context.Background()) })
	service := &shardService{s: s}
	out, err := service.Balance(t.Context(), &api.BalanceShardsRequest{DryRun: true, AnyRack: true})
	if err != nil || !w.dry || !w.no || out.Leader != 3 || !out.LeadMoves || out.Balanced || len(out.Nodes) != 3 {
		t.Fatalf("%v, %v", out, err)
	}
	for i, want := range []*api.ShardPlace{{Node: 3, Has: true}, {Node: 1, Has: true, Shall: true}, {Node: 2, Rack: "b", Shall: true}} {
		if got := out.Nodes[i]; got.Node != want.Node || got.Rack != want.Rack || got.Has != want.Has || got.Shall != want.Shall {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if len(out.Sets) != 1 || !proto.Equal(out.Sets[0], &api.ShardSetBalance{Number: 1, Balanced: true, Leader: 2, Nodes: []*api.ShardPlace{{Node: 2, Rack: "b", Has: true, Shall: true}}}) {
		t.Errorf("of the other sets: %v", out.Sets)
	}
	for err, code := range map[error]codes.Code{ErrUndecided: codes.Unavailable, meta.ErrLevel: codes.FailedPrecondition, errors.New("x"): codes.Internal} {
		w.err = err
		if _, got := service.Balance(t.Context(), &api.BalanceShardsRequest{}); status.Code(got) != code || w.dry || w.no {
			t.Errorf("%v is answered %v", err, got)
		}
	}
	lone := New(Options{})
	t.Cleanup(func() { lone.Close(context.Background()) })
	if _, err := (&shardService{s: lone}).Balance(t.Context(), &api.BalanceShardsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("alone: %v", err)
	}
}
