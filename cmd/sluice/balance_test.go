package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/control/api"
)

// Who waits for shards that move reads which nodes are yet to come and to go, and how far the first one is that comes.
func TestMovesText(t *testing.T) {
	for _, c := range []struct {
		s    *api.ShardStatus
		want string
	}{
		{&api.ShardStatus{Replicas: []uint32{1, 2, 3}, Target: []uint32{1, 4, 5}, Progress: []*api.NodeProgress{{Node: 5, Phase: "copying", DoneBytes: 1, TotalBytes: 2}}},
			"nodes to come: 4 5, to go: 2 3: node 5 gets a copy: 1B of 2B"},
		{&api.ShardStatus{Replicas: []uint32{1, 2, 3, 4}, Target: []uint32{1, 2, 4}}, "nodes to go: 3"},
		{&api.ShardStatus{Replicas: []uint32{1, 2}, Target: []uint32{1, 2, 4}}, "nodes to come: 4"},
	} {
		if got := movesText(setsOf(c.s)[0], false); got != c.want {
			t.Errorf("%v: %q, want %q", c.s, got, c.want)
		}
	}
}

// Who waits for shards that were not said to move yet reads of which sets, where there are several.
func TestToMoveText(t *testing.T) {
	set := func(number uint32, balanced, leadMoves bool) *api.ShardSetBalance {
		return &api.ShardSetBalance{Number: number, Balanced: balanced, LeadMoves: leadMoves}
	}
	for _, c := range []struct {
		b    *api.ShardBalance
		want string
	}{
		{&api.ShardBalance{}, "shards are to be moved"},
		{&api.ShardBalance{Sets: []*api.ShardSetBalance{set(1, true, false), set(2, false, true)}}, "shards of sets 0 2 are to be moved"},
		{&api.ShardBalance{Balanced: true, Sets: []*api.ShardSetBalance{set(1, true, true), set(2, true, false)}}, "the lead of set 1 is to be moved"},
		{&api.ShardBalance{Balanced: true, Sets: []*api.ShardSetBalance{set(1, true, true), set(2, false, false), set(3, true, true)}}, "shards of set 2 are to be moved, leads of sets 1 3 are to be moved"},
	} {
		if got := toMoveText(c.b); got != c.want {
			t.Errorf("%v: %q, want %q", c.b, got, c.want)
		}
	}
}

// The table says of each node whether its shards stay, and where the lead is.
func TestBalanceShown(t *testing.T) {
	f := &controlFlags{}
	var out strings.Builder
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	f.output.add(cmd)
	err := f.showBalance(cmd, &api.ShardBalance{Leader: 3, LeadMoves: true, Nodes: []*api.ShardPlace{{Node: 2, Rack: "a", Has: true, Shall: true}, {Node: 3, Rack: "a\x1b", Has: true}, {Node: 10, Shall: true}}}, true)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err != nil || len(lines) != 4 || strings.Join(strings.Fields(lines[1]), " ") != "2 a stay" || !strings.HasSuffix(lines[2], "go, leads until then") || strings.Contains(lines[2], "\x1b") ||
		strings.Join(strings.Fields(lines[3]), " ") != "10 come" {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
