package cluster

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// Nodes do what their roles say: one without a journal has no shards and carries its clients, one without clients has a copy and leads only
// when no other can, one with neither votes.
func TestRoles(t *testing.T) {
	c := common.StartCluster(t, 2)
	between := func() string { return testx.ClosedAddr(t) }
	add := func(roles string) *common.Node {
		at := between()
		return c.AddNode(at, "node.roles="+roles, "listeners.cluster="+at, "cluster.peers="+c.Nodes[0].Between)
	}
	keeps, carries, votes := add("[journal, meta]"), add("[broker, meta]"), add("[meta]")
	var s common.Status
	testx.Eventually(t, longest, func() bool {
		s, _ = c.Leader().Status()
		return slices.Equal(s.Replicas, []int{1, 2, 3}) && len(s.InSync) == 3
	}, "the three with a journal are in sync", &s)
	testx.Eventually(t, longest, func() bool {
		s, _ = carries.Status()
		return maps.Equal(s.Yields, map[int]string{keeps.ID: "no_clients", votes.ID: "no_clients"})
	}, "those without clients leave the lead to others for that", &s)
	for _, n := range []*common.Node{keeps, votes} {
		for name := range n.Broker().Listeners {
			if strings.HasPrefix(name, "mqtt") || strings.HasPrefix(name, "kafka") {
				t.Errorf("node %d listens: %s", n.ID, name)
			}
		}
	}
	rolesServe(t, carries, "before")
	lost := c.Leader()
	lost.Kill()
	leader := c.Leader()
	if leader.ID > 2 {
		t.Errorf("node %d leads, and node %d takes clients", leader.ID, 3-lost.ID)
	}
	rolesServe(t, carries, "after")
	if _, err := leader.Run("shard", "move", "--to", "3"); err == nil {
		t.Error("a node without clients was given the lead")
	}
	lost.Start()
	carries.Stop()
	carries.Set("node.roles=[broker, journal, meta]")
	if _, err := common.TryStart(t, carries.Dir, carries.Settings()...); err == nil || !strings.Contains(err.Error(), "has let node 4 in as [broker meta]") {
		t.Errorf("started with another role: %v", err)
	}
}

// rolesServe: clients of both protocols are served by way of a node.
func rolesServe(t *testing.T, n *common.Node, what string) {
	t.Helper()
	c, _ := dial(t, n, "roles-"+what, 0)
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("roles/+"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, c, "roles/x", what, false)
	receive(t, c, what)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.Kafka), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("roles"), kgo.ConsumeTopics("roles"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), kgo.StringRecord(what)).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for {
		f := cl.PollFetches(t.Context())
		if err := f.Err0(); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(f.Records(), func(r *kgo.Record) bool { return string(r.Value) == what }) {
			return
		}
	}
}
