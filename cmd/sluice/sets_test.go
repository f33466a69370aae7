package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
)

// fakeShards is the control plane of a cluster of two nodes, with sets of shards.
type fakeShards struct {
	api.UnimplementedShardsServer
	mu      sync.Mutex
	st      *api.ShardStatus
	looks   int      // at the status
	changes []string // as they were asked for
	behind  int      // so many looks later node 2 is in sync with the last set
}

// withShards has the commands of a test ask it.
func withShards(t *testing.T, sets int) *fakeShards {
	t.Helper()
	w := &fakeShards{st: &api.ShardStatus{Asked: 1, Shards: 6, Leader: 1, Epoch: 4, Open: true, Replicas: []uint32{1, 2}, InSync: []uint32{1, 2}, Alive: []uint32{1, 2}, LeastInSync: 2}}
	for range sets {
		w.grow()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	api.RegisterShardsServer(s, w)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Setenv(serverVariable, l.Addr().String())
	return w
}

// grow makes the next set, which node 2 leads.
func (w *fakeShards) grow() *api.ShardSet {
	k := uint32(len(w.st.Sets) + 1)
	set := &api.ShardSet{Number: k, First: 6 + 4*(k-1), Shards: 4, Leader: 2, Epoch: k, Replicas: []uint32{1, 2}, InSync: []uint32{1, 2}, LeastInSync: 2}
	w.st.Sets = append(w.st.Sets, set)
	return set
}

func (w *fakeShards) Status(context.Context, *api.ShardStatusRequest) (*api.ShardStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	for _, set := range w.st.Sets {
		if set.Leader == 0 && w.looks%2 == 0 {
			set.Leader = 1
			break
		}
	}
	if w.behind--; w.behind == 0 {
		last := w.st.Sets[len(w.st.Sets)-1]
		last.InSync, last.Progress = []uint32{1, 2}, nil
	}
	return w.st, nil
}

func (w *fakeShards) asked(format string, args ...any) {
	w.changes = append(w.changes, fmt.Sprintf(format, args...))
}

func (w *fakeShards) Sets(_ context.Context, r *api.ShardSetsRequest) (*api.ShardStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked("%d sets", r.Sets)
	if int(r.Sets) < len(w.st.Sets) {
		return nil, status.Error(codes.FailedPrecondition, "they do not become fewer")
	}
	for range int(r.Sets) - len(w.st.Sets) {
		w.grow().Leader = 0
	}
	return w.st, nil
}

func (w *fakeShards) Move(_ context.Context, r *api.MoveShardsRequest) (*api.ShardStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked("move %d to %d", r.Set, r.To)
	if r.Set == 0 {
		w.st.Leader = r.To
	} else {
		w.st.Sets[r.Set-1].Leader = r.To
	}
	return w.st, nil
}

func (w *fakeShards) ElectUnclean(_ context.Context, r *api.ElectUncleanRequest) (*api.ShardStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked("elect %d for %d", r.Node, r.Set)
	return w.st, nil
}

func (w *fakeShards) Balance(context.Context, *api.BalanceShardsRequest) (*api.ShardBalance, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked("balance")
	out := &api.ShardBalance{Balanced: true, Leader: 1, Nodes: []*api.ShardPlace{{Node: 1, Has: true, Shall: true}}}
	for i, set := range w.st.Sets {
		out.Sets = append(out.Sets, &api.ShardSetBalance{Number: set.Number, Balanced: i > 0, Leader: 2, Nodes: []*api.ShardPlace{{Node: 2, Has: true, Shall: true}, {Node: 3, Shall: i == 0}}})
	}
	return out, nil
}

// was gives what was asked for since the last time.
func (w *fakeShards) was() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := strings.Join(w.changes, ", ")
	w.changes = nil
	return list
}

// table is what a command has written, with one space between columns.
func table(out string) string {
	var lines []string
	for line := range strings.Lines(out) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

const firstSetOnly = `NODE ROLE IN SYNC ALIVE LAG PROGRESS
1 leads, epoch 4 yes yes
2 follows yes yes`

// Where there are sets of shards beside the first, the status tells of each; where there are none, it says what it said before there were any.
func TestShardStatusOfSets(t *testing.T) {
	w := withShards(t, 0)
	if out := table(says(t, 0, "", "shard", "status")); out != firstSetOnly {
		t.Errorf("without sets:\n%s", out)
	}
	w.grow()
	last := w.grow()
	last.Leader, last.InSync, last.Eligible, last.Replicas = 0, []uint32{1}, []uint32{3}, []uint32{1, 2, 3}
	last.Target, last.Progress = []uint32{1, 2, 4}, []*api.NodeProgress{{Node: 2, Phase: "catching_up", DoneBytes: 1, TotalBytes: 2}, {Node: 4, Phase: "away"}}
	last.Followers = []*api.ShardFollower{{Node: 2, Lag: 7}, {Node: 3, Lag: 9}}
	last.LeastInSync = 2
	w.looks = 1 << 20
	want := `SET SHARDS LEADER PREFERRED EPOCH IN SYNC NOT IN SYNC LAG MOVES
0 0-5 1 4 1 2
1 6-9 2 1 1 1 2
2 10-13 - 1 2 1 2 catches up: 1B of 2B; 3 lacks nothing; 4 away 9 to come: 4, to go: 3`
	if out := table(says(t, 0, "", "shard", "status")); out != firstSetOnly+"\n\n"+want {
		t.Errorf("of sets:\n%s", out)
	}
	last.Leader, w.looks = 0, 1<<20
	if out := table(says(t, 0, "", "shard", "sets")); out != want {
		t.Errorf("sets alone:\n%s", out)
	}
	last.Leader, w.looks = 0, 1<<20
	var st shardStatus
	var list []shardSet
	if err := json.Unmarshal([]byte(says(t, 0, "", "shard", "status", "-o", "json")), &st); err != nil || st.Leader != 1 || len(st.Sets) != 2 || st.Sets[1].First != 10 || st.Sets[1].Lag[3] != 9 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := json.Unmarshal([]byte(says(t, 0, "", "shard", "sets", "-o", "json")), &list); err != nil || len(list) != 3 || list[0].Leader != 1 || list[2].Set != 2 || len(list[2].Progress) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if asked := w.was(); asked != "" {
		t.Errorf("looking has asked for %s", asked)
	}
}

// More sets are asked for by their number, and --wait ends when each has a leader.
func TestShardSetsGrow(t *testing.T) {
	w := withShards(t, 0)
	for _, bad := range []string{"0", "x", "-1", "4294967297"} {
		if out, code := sluice(t, "", "shard", "sets", bad); code != 2 {
			t.Errorf("%s sets: code %d, %s", bad, code, out)
		}
	}
	says(t, 2, "say how many", "shard", "sets", "--wait")
	out := says(t, 0, "sets with a leader: 0 of 2", "shard", "sets", "2", "--wait")
	if !strings.Contains(table(out), "\n1 6-9 1 1 1 1 2\n2 10-13 1 1 2 1 2") || w.was() != "2 sets" {
		t.Errorf("they are\n%s", out)
	}
	says(t, 1, "they do not become fewer", "shard", "sets", "1")
}

// A set is moved by its number, all of them by --all, and with --wait as soon as the node is in sync with it; where there is no such set nothing is asked of the first.
func TestShardMoveOfSets(t *testing.T) {
	w := withShards(t, 2)
	for _, c := range []struct{ args, want string }{
		{"shard move --to 2", "move 0 to 2"},
		{"shard move --to 1 --set 2", "move 2 to 1"},
		{"shard move --to 1 --all", "move 0 to 1, move 1 to 1"}, // the other is there
		{"shard move --to 1 --all --wait", ""},
		{"shard move --to 2 --all --wait", "move 0 to 2, move 1 to 2, move 2 to 2"},
		{"shard move --to 1 --set 2", "move 2 to 1"},
		{"shard elect --node 2 --set 1 --accept-loss", "elect 2 for 1"},
		{"shard elect --node 2 --accept-loss", "elect 2 for 0"},
	} {
		out := says(t, 0, "", strings.Fields(c.args)...)
		if asked := w.was(); asked != c.want || !strings.Contains(out, "10-13") {
			t.Errorf("%s has asked for %q, want %q, and shown\n%s", c.args, asked, c.want, out)
		}
	}
	w.st.Sets[1].InSync, w.st.Sets[1].Progress = []uint32{1}, []*api.NodeProgress{{Node: 2, Phase: "catching_up", DoneBytes: 1, TotalBytes: 2}}
	w.behind = 4
	says(t, 0, "node 2 catches up: 1B of 2B", "shard", "move", "--to", "2", "--set", "2", "--wait")
	if asked := w.was(); asked != "move 2 to 2" {
		t.Errorf("it has asked for %s", asked)
	}
	says(t, 1, "set 3: there is no such set", "shard", "move", "--to", "1", "--set", "3")
	says(t, 1, "set 3: there is no such set", "shard", "move", "--to", "1", "--set", "3", "--wait")
	says(t, 1, "set 3: there is no such set", "shard", "elect", "--node", "1", "--set", "3", "--accept-loss")
	says(t, 2, "give one of", "shard", "move", "--to", "1", "--set", "0", "--all")
	says(t, 2, "give --to", "shard", "move", "--all")
	if asked := w.was(); asked != "" {
		t.Errorf("refused commands have asked for %s", asked)
	}
}

// Balancing shows the plan of each set, and says that nothing moves if that is so of all.
func TestBalanceOfSets(t *testing.T) {
	w := withShards(t, 2)
	out := says(t, 0, "", "shard", "balance", "--dry-run")
	want := "SET NODE RACK SHARDS\n0 1 stay, leads\n1 2 stay, leads\n1 3 come\n2 2 stay, leads\n2 3 go"
	if got := table(out); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	var b shardBalance
	if err := json.Unmarshal([]byte(says(t, 0, "", "shard", "balance", "-o", "json")), &b); err != nil || len(b.Sets) != 2 || b.Sets[0].Balanced || !b.Sets[1].Balanced || len(b.Sets[0].Nodes) != 2 {
		t.Errorf("%+v, %v", b, err)
	}
	w.mu.Lock()
	w.st.Sets = nil
	w.mu.Unlock()
	if got := table(says(t, 0, "nothing moves", "shard", "balance")); !strings.HasSuffix(got, "NODE RACK SHARDS\n1 stay, leads") {
		t.Errorf("without sets:\n%s", got)
	}
	if got := movesText(&api.ShardSet{Number: 3, Replicas: []uint32{1, 2}, Target: []uint32{1, 4}}, true); got != "nodes of set 3 to come: 4, to go: 2" {
		t.Errorf("of a set that moves: %s", got)
	}
}

// A set's number of replicas is changed by its number, and shown where some have one of their own.
func TestShardReplicasOfSets(t *testing.T) {
	w := withShards(t, 0)
	w.grow().Factor = 1
	for _, bad := range [][]string{{"2"}, {"0", "--set", "1"}, {"x", "--set", "1"}, {"--set", "1"}} {
		if out, code := sluice(t, "", append([]string{"shard", "replicas"}, bad...)...); code != 2 {
			t.Errorf("%v: code %d, %s", bad, code, out)
		}
	}
	says(t, 2, "say how many", "shard", "sets", "--replicas", "2")
	out := table(says(t, 0, "", "shard", "replicas", "2", "--set", "1", "--wait"))
	if want := "SET SHARDS LEADER PREFERRED EPOCH REPLICAS IN SYNC NOT IN SYNC LAG MOVES\n0 0-5 1 4 2 1 2\n1 6-9 2 1 1 2 1 2"; out != want || w.was() != "2 replicas of 1" {
		t.Errorf("%s", out)
	}
	w.mu.Lock()
	set := w.st.Sets[0]
	set.Factor, set.Replicas, set.InSync, set.Home, w.looks = 2, []uint32{2}, []uint32{2}, []uint32{1}, 1<<20
	w.mu.Unlock()
	if out := table(says(t, 0, "", "shard", "sets")); !strings.HasSuffix(out, "1 of 2 2 until 1 is back") {
		t.Errorf("%s", out)
	}
}

func (w *fakeShards) Replicas(_ context.Context, r *api.ShardReplicasRequest) (*api.ShardStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked("%d replicas of %d", r.Replicas, r.Set)
	w.st.Sets[r.Set-1].Factor = r.Replicas
	return w.st, nil
}
