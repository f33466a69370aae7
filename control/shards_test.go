package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/meta"
)

// clusterOf is the catalog of a cluster, whose group decides everything at once. It is its own group.
type clusterOf struct{ *meta.Catalog }

func newClusterOf(t *testing.T, c meta.Cluster) *clusterOf {
	t.Helper()
	g := new(clusterOf)
	g.Catalog = meta.New(g)
	g.Apply(0, []meta.Entry{c.Entry()})
	if err := g.Recovered(); err != nil {
		t.Fatal(err)
	}
	return g
}

// Propose makes it a meta.Group.
func (g *clusterOf) Propose(_ uint64, changes []meta.Entry, done func(error)) {
	g.Apply(0, changes)
	done(nil)
}

// inSets is a node's Shards, one Placement for each set that its catalog has.
type inSets struct {
	Shards
	c     *meta.Catalog
	moved [][2]int // set and node as asked, 100 more for an election
	err   error
}

func (w *inSets) Placements() []Placement {
	c := w.c.Load().Cluster()
	list := make([]Placement, 1+c.Sets)
	for k := range list {
		set := c.Set(k)
		list[k] = Placement{Set: k, Factor: c.SetReplicas(k, 0), First: int(set.First), Shards: int(set.Count), Leader: meta.NodeID(1 + k%2),
			Shard: &meta.Shard{Leader: meta.NodeID(1 + k%2), Epoch: uint32(10 + k), Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{1, 2}}}
	}
	return list
}

func (w *inSets) Move(_ context.Context, set int, to meta.NodeID) error {
	w.moved = append(w.moved, [2]int{set, int(to)})
	return w.err
}

func (w *inSets) ElectUnclean(_ context.Context, set int, id meta.NodeID) error {
	return w.Move(context.Background(), set, 100+id)
}

// The sets of shards grow, and who leads one is changed by its number; what there is not is refused by name, and changes nothing.
func TestShardSets(t *testing.T) {
	c := newClusterOf(t, meta.Cluster{ID: "c", Shards: 6, Level: meta.LevelSets})
	w := &inSets{c: c.Catalog}
	s := New(Options{Node: 1, Shards: w, Catalog: c.Catalog})
	t.Cleanup(func() { s.Close(context.Background()) })
	service := &shardService{s: s}
	if st := service.shown(); st.Shards != 6 || len(st.Sets) != 0 {
		t.Fatalf("without sets: %v", st)
	}
	refused := func(code codes.Code, says string, err error) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), says) {
			t.Errorf("%v, want %v with %q", err, code, says)
		}
	}
	_, err := service.Move(t.Context(), &api.MoveShardsRequest{To: 2, Set: 1})
	refused(codes.NotFound, "there is one set of shards, 0", err)
	st, err := service.Sets(t.Context(), &api.ShardSetsRequest{Sets: 3})
	if err != nil || st.Shards != 6 || st.Leader != 1 || st.Epoch != 10 || len(st.Sets) != 3 {
		t.Fatalf("3 sets: %v, %v", st, err)
	}
	want := &api.ShardSet{Number: 3, First: 6 + 2*meta.SetShards, Shards: meta.SetShards, Leader: 2, Epoch: 13, Replicas: []uint32{1, 2}, InSync: []uint32{1, 2}}
	if !proto.Equal(st.Sets[2], want) {
		t.Errorf("%v, want %v", st.Sets[2], want)
	}
	if again, err := service.Sets(t.Context(), &api.ShardSetsRequest{Sets: 3}); err != nil || len(again.Sets) != 3 {
		t.Errorf("as many as there are: %v, %v", again, err)
	}
	for sets, says := range map[uint32]string{0: "want 1 to 15", meta.SetsMax + 1: "want 1 to 15"} {
		_, err := service.Sets(t.Context(), &api.ShardSetsRequest{Sets: sets})
		refused(codes.InvalidArgument, says, err)
	}
	_, err = service.Sets(t.Context(), &api.ShardSetsRequest{Sets: 2})
	refused(codes.FailedPrecondition, "do not become fewer", err)
	_, err = service.Move(t.Context(), &api.MoveShardsRequest{To: 2, Set: 4})
	refused(codes.NotFound, "move the lead to node 2, set 4: the sets of shards are 0 to 3", err)
	_, err = service.ElectUnclean(t.Context(), &api.ElectUncleanRequest{Node: 2, Set: 1 << 31})
	refused(codes.NotFound, "the sets of shards are 0 to 3", err)
	if len(w.moved) != 0 {
		t.Errorf("%v has moved", w.moved)
	}
	for range 2 {
		_, moved := service.Move(t.Context(), &api.MoveShardsRequest{To: 2, Set: 3})
		_, first := service.Move(t.Context(), &api.MoveShardsRequest{To: 1})
		_, elected := service.ElectUnclean(t.Context(), &api.ElectUncleanRequest{Node: 2, Set: 1})
		if w.err == nil && (moved != nil || first != nil || elected != nil) {
			t.Error(moved, first, elected)
		} else if w.err != nil {
			refused(codes.FailedPrecondition, "node 2, set 3", moved)
			refused(codes.FailedPrecondition, "elect node 2, set 1", elected)
		}
		w.err = ErrNotInSync
	}
	if len(w.moved) != 6 || w.moved[0] != [2]int{3, 2} || w.moved[1] != [2]int{0, 1} || w.moved[2] != [2]int{1, 102} {
		t.Errorf("asked were %v", w.moved)
	}
	low := newClusterOf(t, meta.Cluster{ID: "c", Shards: 6, Level: meta.LevelSets - 1})
	old := New(Options{Node: 1, Shards: &inSets{c: low.Catalog}, Catalog: low.Catalog})
	lone := New(Options{})
	t.Cleanup(func() { old.Close(context.Background()); lone.Close(context.Background()) })
	_, err = (&shardService{s: old}).Sets(t.Context(), &api.ShardSetsRequest{Sets: 3})
	refused(codes.FailedPrecondition, "from level 7 on, the cluster is at 6", err)
	_, err = (&shardService{s: lone}).Sets(t.Context(), &api.ShardSetsRequest{Sets: 3})
	refused(codes.FailedPrecondition, "listeners.cluster", err)
}

// Sets have numbers of replicas of their own, those that are made and those that are there; what cannot be is refused by name.
func TestShardReplicas(t *testing.T) {
	c := newClusterOf(t, meta.Cluster{ID: "c", Shards: 6, Level: meta.LevelReplicas, Sets: 1})
	for id := range 3 {
		c.Apply(0, []meta.Entry{(&meta.Node{ID: meta.NodeID(1 + id), State: meta.NodeActive, Roles: meta.RolesAll, Replica: 1, Level: meta.LevelReplicas, Address: fmt.Sprintf("n%d:1", id)}).Entry()})
	}
	s := New(Options{Node: 1, Shards: &inSets{c: c.Catalog}, Catalog: c.Catalog})
	t.Cleanup(func() { s.Close(context.Background()) })
	service := &shardService{s: s}
	st, err := service.Sets(t.Context(), &api.ShardSetsRequest{Sets: 3, Replicas: 2})
	if err != nil || len(st.Sets) != 3 || st.Sets[0].Factor != 0 || st.Sets[1].Factor != 2 || st.Sets[2].Factor != 2 {
		t.Fatalf("%v, %v", st, err)
	}
	if st, err = service.Replicas(t.Context(), &api.ShardReplicasRequest{Set: 3, Replicas: 1}); err != nil || st.Sets[2].Factor != 1 || st.Sets[1].Factor != 2 {
		t.Fatalf("%v, %v", st, err)
	}
	refused := func(code codes.Code, says string, err error) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), says) {
			t.Errorf("%v, want %v with %q", err, code, says)
		}
	}
	for r, want := range map[*api.ShardReplicasRequest]struct {
		code codes.Code
		says string
	}{
		{Set: 4, Replicas: 1}:  {codes.NotFound, "the sets of shards are 0 to 3"},
		{Set: 0, Replicas: 1}:  {codes.InvalidArgument, "cluster.replicas"},
		{Set: 1, Replicas: 0}:  {codes.InvalidArgument, "want 1 to 15"},
		{Set: 1, Replicas: 16}: {codes.InvalidArgument, "want 1 to 15"},
		{Set: 1, Replicas: 4}:  {codes.FailedPrecondition, "4 replicas are more than there are nodes that can have shards, 3"},
	} {
		_, err := service.Replicas(t.Context(), r)
		refused(want.code, want.says, err)
	}
	_, err = service.Sets(t.Context(), &api.ShardSetsRequest{Sets: 4, Replicas: 4})
	refused(codes.FailedPrecondition, "more than there are nodes", err)
	low := newClusterOf(t, meta.Cluster{ID: "c", Shards: 6, Level: meta.LevelSets, Sets: 1})
	old := New(Options{Node: 1, Shards: &inSets{c: low.Catalog}, Catalog: low.Catalog})
	t.Cleanup(func() { old.Close(context.Background()) })
	_, err = (&shardService{s: old}).Replicas(t.Context(), &api.ShardReplicasRequest{Set: 1, Replicas: 1})
	refused(codes.FailedPrecondition, "from level 8 on, the cluster is at 7", err)
	for r, want := range map[any]string{&api.ShardSetsRequest{Sets: 3, Replicas: 2}: "3 sets, 2 replicas", &api.ShardReplicasRequest{Set: 3, Replicas: 1}: "set 3, 1 replicas"} {
		if got := subject(r); got != want {
			t.Errorf("the trail calls it %q, want %q", got, want)
		}
	}
}

// Who has the cluster have more sets is an operator, and the trail says who, how many there were and how many there are.
func TestShardSetsInTheTrail(t *testing.T) {
	c := newClusterOf(t, meta.Cluster{ID: "c", Shards: 6, Level: meta.LevelSets, Sets: 1})
	ps := NewPrincipals("", []Principal{{Name: "eve", Role: RoleViewer, Token: "token-of-eve"}, {Name: "olaf", Role: RoleOperator, Token: "token-of-olaf"}})
	s := New(Options{Node: 1, Shards: &inSets{c: c.Catalog}, Catalog: c.Catalog, Principals: func() *Principals { return ps }, Logger: slog.New(slog.DiscardHandler)})
	path := filepath.Join(t.TempDir(), "audit")
	s.SetAudit(path, true)
	service := &shardService{s: s}
	call := func(token string, req proto.Message, method string, do func(context.Context) (any, error)) error {
		_, err := s.unary(as(token), req, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) { return do(ctx) })
		return err
	}
	grow := &api.ShardSetsRequest{Sets: 2}
	sets := func(ctx context.Context) (any, error) { return service.Sets(ctx, grow) }
	if err := call("token-of-eve", grow, api.Shards_Sets_FullMethodName, sets); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer: %v", err)
	}
	if err := call("token-of-olaf", grow, api.Shards_Sets_FullMethodName, sets); err != nil {
		t.Error(err)
	}
	move := &api.MoveShardsRequest{To: 2, Set: 1}
	if err := call("token-of-olaf", move, api.Shards_Move_FullMethodName, func(ctx context.Context) (any, error) { return service.Move(ctx, move) }); err != nil {
		t.Error(err)
	}
	s.Close(context.Background())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		var r struct {
			Event, Principal, Subject string
			Before, After             struct{ Sets []json.RawMessage }
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.Join([]string{r.Event, r.Principal, r.Subject, strings.Repeat("<", len(r.Before.Sets)), strings.Repeat(">", len(r.After.Sets))}, " "))
	}
	want := []string{"refused eve 2 sets  ", "asked olaf 2 sets  ", "done olaf 2 sets < >>", "asked olaf node 2, set 1  ", "done olaf node 2, set 1 << >>"}
	if strings.Join(list, "\n") != strings.Join(want, "\n") {
		t.Errorf("the trail is\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
	}
}

// How far the others are in a set is asked of the node that leads it, and a node is as far as it is in the set of which it lacks most.
func TestProgressOfSets(t *testing.T) {
	sh := &meta.Shard{Leader: 1, Epoch: 7, Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{1}}
	its := &meta.Shard{Leader: 2, Epoch: 8, Replicas: []meta.NodeID{1, 2}, ISR: []meta.NodeID{2}}
	behind := map[meta.NodeID]Progress{1: {Phase: PhaseCatchingUp, Progress: pace.Progress{Done: 1, Total: 9}}, 2: {Phase: PhaseInSync}}
	other := New(Options{Node: 2, Shards: &placed{p: Placement{Shard: sh, Leader: 1},
		sets: []Placement{{Set: 1, Shard: its, Leader: 2, Open: true, Followers: map[meta.NodeID]uint64{1: 5}, Progress: behind}, {Set: 2, Shard: sh, Leader: 1}, {Set: 3, Open: true}}}})
	l := &otherLeads{s: other}
	synced := map[meta.NodeID]Progress{1: {Phase: PhaseInSync}, 2: {Phase: PhasePreparing}}
	own := &placed{p: Placement{Shard: sh, Leader: 1, Open: true, Progress: synced}, // no node is alive, as it knows: the one that leads is asked all the same
		sets: []Placement{{Set: 1, Shard: its, Leader: 2}, {Set: 2, Shard: sh, Leader: 1, Open: true, Progress: synced}}}
	s := New(Options{Node: 1, Peers: l, Shards: own})
	t.Cleanup(func() { s.Close(context.Background()); other.Close(context.Background()) })
	ctx := context.WithValue(t.Context(), callerKey{}, caller{name: "eye", role: RoleViewer})
	st, err := (&shardService{s: s}).Status(ctx, &api.ShardStatusRequest{})
	if err != nil || len(st.Sets) != 2 || len(st.Sets[0].Followers) != 1 || st.Sets[0].Followers[0].Lag != 5 || st.Sets[0].Open || len(st.Sets[0].Progress) != 2 || len(st.Sets[1].Progress) != 2 {
		t.Fatalf("%v, %v", st, err)
	}
	phases := func() (out []string) {
		nodes := []*api.Node{{Id: 1}, {Id: 2}, {Id: 3}}
		(&nodeService{s: s}).addOthersKnow(ctx, nodes)
		for _, n := range nodes {
			out = append(out, n.Progress.GetPhase())
		}
		return out
	}
	if got := strings.Join(phases(), " "); got != "catching_up preparing none" {
		t.Errorf("the nodes are %s", got)
	}
	own.sets[0].Leader, l.s = 0, New(Options{Node: 2, Shards: &placed{}}) // nobody leads it
	t.Cleanup(func() { l.s.Close(context.Background()) })
	if got := strings.Join(phases(), ""); got != "" {
		t.Errorf("of a set nobody knows, and the nodes are %s", got)
	}
}
