package server

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// spreadNode is a node whose topics' leaders can be spread, as far as its catalog says.
func spreadNode(t *testing.T, at *meta.Cluster, more ...meta.Entry) *node {
	t.Helper()
	n, _ := testNode(t, vfs.NewMem())
	t.Cleanup(func() {
		if err := stopNode(n); err != nil {
			t.Error(err)
		}
	})
	n.topics.entries = meta.New(nil)
	if err := n.topics.entries.Recovered(); err != nil {
		t.Fatal(err)
	}
	if at != nil {
		more = append(more, at.Entry())
	}
	n.topics.entries.Apply(0, more)
	return n
}

// spread says what comes of a topic with leader.spread, which is not made.
func spread(n *node, tenant uint32, name string) kafka.TopicResult {
	yes := "true"
	done := make(chan kafka.TopicResult, 1)
	n.topics.CreateTopics(tenant, []kafka.TopicCreation{{Name: name, Partitions: 2, ReplicationFactor: -1, Configs: []kafka.ConfigEntry{{Key: "leader.spread", Value: &yes}}}}, true,
		func(r []kafka.TopicResult) { done <- r[0] })
	return <-done
}

// hasSpread gives the node a topic with leader.spread, as its log would.
func hasSpread(n *node, name string) {
	settings := []broker.Setting{{Key: "leader.spread", Value: "true"}}
	n.broker.SetTopic(&broker.TopicSpec{ID: broker.TopicID{1}, Name: name, Settings: settings, Config: resolveTopic(settings),
		Partitions: []broker.PartitionSpec{{ID: 1000}}})
}

// Leaders are spread in a cluster that has sets of shards, and not those of a topic that all is written to by one node.
func TestSpreadCreated(t *testing.T) {
	sets := &meta.Cluster{ID: "c", Shards: 4, Level: meta.LevelSets, Sets: 2}
	for what, c := range map[string]struct {
		at   *meta.Cluster
		want string
	}{
		"alone":   {nil, "this node is alone"},
		"level":   {&meta.Cluster{ID: "c", Shards: 4, Level: meta.LevelSets - 1}, "sluice shard sets) from level 7 on, the cluster is at 6"},
		"no sets": {&meta.Cluster{ID: "c", Shards: 4, Level: meta.LevelSets}, "make some with sluice shard sets"},
	} {
		if r := spread(spreadNode(t, c.at), 0, "t"); r.Code != wire.InvalidConfig || !strings.Contains(r.Message, c.want) {
			t.Errorf("%s: %+v, want %q", what, r, c.want)
		}
	}
	n := spreadNode(t, sets, (&meta.Binding{Filter: "m/#", Topic: "bound", Key: "topic", Deliver: "key"}).Entry())
	n.topics.binder.Store(&binder{})
	n.topics.binder.Load().named.Store(&config.Bindings{{Filter: "c/#", Topic: "configured"}})
	n.topics.events.Store(&eventPump{})
	n.topics.events.Load().to.Store(&eventsTo{topic: "events"})
	for _, c := range []struct {
		tenant uint32
		name   string
		want   string // empty: it would be made
	}{
		{0, "t", ""},
		{1, "t", ""},
		{0, "bound", `the binding of "m/#" names the topic`},
		{1, "bound", ""},
		{0, "configured", `the binding of "c/#" names the topic`},
		{0, "events", "events.kafka_topic names the topic"},
		{0, broker.OffsetsTopic, "the broker's own"},
	} {
		r := spread(n, c.tenant, c.name)
		if (r.Code == wire.None) != (c.want == "") || c.want != "" && (r.Code != wire.InvalidConfig || !strings.Contains(r.Message, c.want)) {
			t.Errorf("%q of tenant %d: %+v, want %q", c.name, c.tenant, r, c.want)
		}
	}
	if r := spread(n, 0, "t"); r.Topic == nil || !resolveTopic(r.Topic.Settings).Spread {
		t.Error("the topic that would be made is not spread")
	}
}

// What a topic's leaders are stays: no change says otherwise, and one that says what is so already passes.
func TestSpreadStays(t *testing.T) {
	n := spreadNode(t, nil)
	hasSpread(n, "s")
	value := func(s string) *string { return &s }
	alter := func(replace bool, changes ...kafka.ConfigChange) kafka.TopicResult {
		done := make(chan kafka.TopicResult, 1)
		n.topics.AlterConfigs(0, []kafka.TopicAlteration{{Name: "s", Replace: replace, Changes: changes}}, false, func(r []kafka.TopicResult) { done <- r[0] })
		return <-done
	}
	same, retention := kafka.ConfigChange{Key: "leader.spread", Value: value("true")}, kafka.ConfigChange{Key: "retention.ms", Value: value("1000")}
	for what, r := range map[string]kafka.TopicResult{"set to false": alter(false, kafka.ConfigChange{Key: "leader.spread", Value: value("false")}),
		"taken away": alter(false, kafka.ConfigChange{Key: "leader.spread", Op: 1}), "left out of all": alter(true, retention)} {
		if r.Code != wire.InvalidConfig || !strings.Contains(r.Message, "fixed when a topic is made") {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if r := alter(false, same, retention); r.Code != wire.None {
		t.Errorf("set to what it is: %+v", r)
	}
	if c := n.broker.Topic(0, "s").Spec().Config; !c.Spread || c.RetentionMillis != 1000 {
		t.Errorf("the topic is now %+v", c)
	}
}

// A binding that names a spread topic is refused by name, where the configuration or an operator makes it; one that the catalog has by a race holds up no other.
func TestSpreadUnbound(t *testing.T) {
	n := spreadNode(t, nil)
	hasSpread(n, "s")
	var log bytes.Buffer
	n.o.logger = slog.New(slog.NewTextHandler(&log, nil))
	partitions := func() int { return 1 }
	if b, err := newBinder(t.Context(), n, config.Bindings{{Filter: "a/#", Topic: "s"}}, partitions); !errors.Is(err, broker.ErrBindSpread) || !strings.Contains(err.Error(), `"s"`) {
		t.Fatalf("bound by the configuration: %v, %v", b, err)
	}
	if err := n.broker.Bind([]*broker.Binding{{Filter: "a/#", Topic: "s"}}); !errors.Is(err, broker.ErrBindSpread) {
		t.Errorf("bound in the core: %v", err)
	}
	b, err := newBinder(t.Context(), n, config.Bindings{{Filter: "a/#", Topic: "a"}}, partitions)
	if err != nil {
		t.Fatal(err)
	}
	b.close()
	if err := b.Add(t.Context(), meta.Binding{Filter: "b/#", Topic: "s", Key: "topic", Deliver: "key"}, 0); !errors.Is(err, broker.ErrBindSpread) {
		t.Errorf("bound by an operator: %v", err)
	}
	raced := meta.Binding{Filter: "b/#", Topic: "s", Key: "topic", Deliver: "key"}
	if err := b.update(t.Context(), raced.Entry()); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(t.Context(), meta.Binding{Filter: "c/#", Topic: "c", Key: "topic", Deliver: "key"}, 0); err != nil {
		t.Fatal(err)
	}
	if n.broker.BindingOf("a/x") == nil || n.broker.BindingOf("c/x") == nil || n.broker.BindingOf("b/x") != nil {
		t.Error("want the bindings of a/# and c/# alone in force")
	}
	if said := strings.Count(log.String(), "a binding is not in force"); said != 1 || !strings.Contains(log.String(), "b/#") {
		t.Errorf("said %d times: %s", said, &log)
	}
}

// Topics with a replication factor for which there are sets of shards lie in these, unless they say that they are not spread or cannot be; the default and what was always accepted stay.
func TestReplicationFactor(t *testing.T) {
	sets := &meta.Cluster{ID: "c", Shards: 4, Level: meta.LevelReplicas, Sets: 2, Replicas: [meta.SetsMax + 1]uint8{1: 1}}
	n := spreadNode(t, sets, (&meta.Binding{Filter: "m/#", Topic: "bound", Key: "topic", Deliver: "key"}).Entry())
	n.topics.binder.Store(&binder{})
	n.topics.nodes = threeNodes{}
	ask := func(name string, factor int16, configs ...string) kafka.TopicResult {
		c := kafka.TopicCreation{Name: name, Partitions: 2, ReplicationFactor: factor}
		for i := 0; i < len(configs); i += 2 {
			c.Configs = append(c.Configs, kafka.ConfigEntry{Key: configs[i], Value: &configs[i+1]})
		}
		done := make(chan kafka.TopicResult, 1)
		n.topics.CreateTopics(0, []kafka.TopicCreation{c}, true, func(r []kafka.TopicResult) { done <- r[0] })
		return <-done
	}
	n.broker.SetSetReplicas(&broker.SetReplicas{Usual: 3, Of: []int{1, 3}}) // the sets are none that this core has room for
	for _, c := range []struct {
		name     string
		factor   int16
		configs  []string
		spread   bool
		replicas uint8
		code     wire.ErrorCode
	}{
		{"t", -1, nil, false, 0, wire.None},
		{"t", 3, nil, false, 0, wire.None},
		{"t", 1, nil, false, 0, wire.None}, // no set has begun
		{"t", 4, nil, false, 0, wire.InvalidReplicationFactor},
		{"t", 1, []string{"leader.spread", "false"}, false, 0, wire.None},
		{"t", 1, []string{"leader.spread", "true"}, false, 0, wire.InvalidReplicationFactor},
	} {
		r := ask(c.name, c.factor, c.configs...)
		if r.Code != c.code || r.Code == wire.None && (resolveTopic(r.Topic.Settings).Spread != c.spread || r.Topic.Replicas != c.replicas) {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

// threeNodes is a cluster of which nothing counts but how many there are.
type threeNodes struct{}

func (threeNodes) View() *kafka.View { return &kafka.View{Nodes: make([]kafka.Node, 3)} }
