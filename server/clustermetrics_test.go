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
	collectProgress(sink{c, ch}, map[meta.NodeID]control.Progress{2: {Phase: control.PhaseCatchingUp}}) // of which there is something to tell
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
