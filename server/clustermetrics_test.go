package server

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/internal/pace"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/meta"
)

// fakeGroup is a catalog's group that has a link and nothing else.
type fakeGroup struct {
	ClusterGroup
	mesh *link.Mesh
}

func (g *fakeGroup) Mesh() *link.Mesh            { return g.mesh }
func (g *fakeGroup) Leader() (meta.NodeID, bool) { return 1, true }
func (g *fakeGroup) Halted() error               { return nil }

// testMesh is a node's link that listens.
func testMesh(t *testing.T, id link.NodeID, token string) (m *link.Mesh, addr string) {
	t.Helper()
	m, err := link.New(link.Options{ID: id, Token: []byte(token), DeadAfter: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	a, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return m, a.String()
}

// A node of a cluster exports all that metrics.md says of it, under the types that it says.
func TestClusterMetrics(t *testing.T) {
	one, at := testMesh(t, 1, "a token")
	two, _ := testMesh(t, 2, "a token")
	stranger, _ := testMesh(t, 3, "another")
	if _, err := stranger.Dial(t.Context(), at); link.ReasonOf(err) != link.ReasonToken {
		t.Fatalf("a stranger is let in: %v", err)
	}
	connected := func(n int) {
		t.Helper()
		testx.Eventually(t, patience, func() bool { return len(one.Connected()) == n }, n, "nodes are connected")
	}
	for range 2 {
		if _, err := two.Dial(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		connected(1)
		if len(one.Stats().Ends) == 0 {
			one.Disconnect(2, "once more")
			connected(0)
			testx.Eventually(t, patience, func() bool { return len(two.Connected()) == 0 }, "the other end has gone")
		}
	}
	testx.Eventually(t, patience, func() bool { return len(one.Stats().RTT) == 1 }, "a round trip is measured")

	s := &Server{catalog: newCatalogStore(), node: &node{cluster: &fakeGroup{mesh: one}}}
	cfg := config.Default()
	s.cfg.Store(&cfg)
	c := &collector{s: s, descs: make(map[string]*prometheus.Desc)}
	c.describe(clusterMetricHelp)
	ch := make(chan prometheus.Metric, 1000)
	c.collectCluster(sink{c, ch})
	collectShards(sink{c, ch}, []control.Placement{{}, {Set: 1}})
	collectProgress(sink{c, ch}, "sluice_set_", []string{"1"}, map[meta.NodeID]control.Progress{2: {Phase: control.PhaseCatchingUp}})
	collectProgress(sink{c, ch}, "sluice_cluster_", nil, map[meta.NodeID]control.Progress{2: {Phase: control.PhaseCatchingUp}}) // of which there is something to tell
	close(ch)
	types := make(map[string]bool) // whether it only grows
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		for name, desc := range c.descs {
			if desc == m.Desc() {
				types[name] = d.Counter != nil
			}
		}
	}
	for name := range clusterMetricHelp {
		if grows, seen := types[name]; !seen || grows != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: exported %v, a counter %v", name, seen, grows)
		}
	}
}

// What there was before sets of shards is of set 0 and has no label; without others nothing is told of them.
func TestSetMetrics(t *testing.T) {
	c := &collector{descs: make(map[string]*prometheus.Desc)}
	c.describe(clusterMetricHelp)
	collected := func(sets ...control.Placement) map[string]float64 {
		ch := make(chan prometheus.Metric, 1000)
		collectShards(sink{c, ch}, sets)
		close(ch)
		all := make(map[string]float64)
		for m := range ch {
			var d dto.Metric
			if err := m.Write(&d); err != nil {
				t.Fatal(err)
			}
			for name, desc := range c.descs {
				if desc == m.Desc() {
					for _, l := range d.Label {
						name += "," + l.GetName() + "=" + l.GetValue()
					}
					all[name] = d.Gauge.GetValue()
				}
			}
		}
		return all
	}
	first := control.Placement{Shards: 4, Shard: &meta.Shard{Epoch: 3, ISR: []meta.NodeID{1, 2}, Replicas: []meta.NodeID{1, 2, 3}}, Leader: 2, Least: 2}
	alone := collected(first)
	all := collected(first, control.Placement{Set: 1, First: 4, Shards: 4, Leader: 1, Open: true, Least: 2, Followers: map[meta.NodeID]uint64{2: 5, 3: 7},
		Progress: map[meta.NodeID]control.Progress{
			1: {Phase: control.PhaseInSync},
			3: {Phase: control.PhaseCatchingUp, Progress: pace.Progress{Total: 50, Done: 20, Rate: 10, Left: 3 * time.Second}},
		},
		Shard: &meta.Shard{Epoch: 9, ISR: []meta.NodeID{1}, Replicas: []meta.NodeID{1, 2, 3}}}, control.Placement{Set: 2, First: 8, Shards: 4})
	for name, v := range alone {
		if strings.HasPrefix(name, "sluice_set") || all[name] != v {
			t.Errorf("%s is %v without other sets, and %v with some", name, v, all[name])
		}
	}
	for name, want := range map[string]float64{"sluice_cluster_leads": 0, "sluice_cluster_epoch": 3, "sluice_set_leads,set=1": 1, "sluice_set_leader_known,set=1": 1,
		"sluice_set_epoch,set=1": 9, "sluice_set_in_sync,set=1": 1, "sluice_set_least_in_sync,set=1": 2, "sluice_set_replicas,set=1": 3, "sluice_set_lag_frames,set=1": 7,
		"sluice_set_nodes,phase=in_sync,set=1": 1, "sluice_set_nodes,phase=catching_up,set=1": 1, "sluice_set_nodes,phase=away,set=1": 0, "sluice_set_behind_bytes,node=3,set=1": 30,
		"sluice_set_catchup_bytes_per_second,node=3,set=1": 10, "sluice_set_catchup_seconds,node=3,set=1": 3, "sluice_set_nodes,phase=in_sync,set=2": 0,
		"sluice_set_leads,set=2": 0, "sluice_set_leader_known,set=2": 0, "sluice_set_epoch,set=2": 0} {
		if got, ok := all[name]; !ok || got != want {
			t.Errorf("%s is %v, told %v; want %v", name, got, ok, want)
		}
	}
}
