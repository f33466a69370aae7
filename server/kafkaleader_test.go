package server

import (
	"testing"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/proto/kafka"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// ledBy is a cluster in which a node leads.
type ledBy int32

func (l ledBy) View() *kafka.View {
	return &kafka.View{Nodes: []kafka.Node{{ID: 1}, {ID: 2}}, All: kafka.Placement{Leader: int32(l)}}
}

// leaderPair is a node that answers by a link as the leader does, and the link of another one, number 1.
func leaderPair(t *testing.T) (n *node, asks *link.Mesh) {
	t.Helper()
	return linked(t, func(n *node, leads *link.Mesh) {
		(&kafkaLeader{mesh: leads, cluster: ledBy(2), broker: n.broker, topics: n.topics}).serve()
	})
}

// linked is a node with a link, number 2, on which serve registers what it answers, and the link of another one, number 1, which is connected to it.
func linked(t *testing.T, serve func(n *node, answers *link.Mesh)) (n *node, asks *link.Mesh) {
	t.Helper()
	n, _ = testNode(t, vfs.NewMem())
	t.Cleanup(func() {
		if err := stopNode(n); err != nil {
			t.Error(err)
		}
	})
	mesh := func(id link.NodeID) *link.Mesh {
		m, err := link.New(link.Options{ID: id, Cluster: [16]byte{1}, Token: []byte("token of a test"), Feature: 1, FeatureMin: 1, AllowPlaintext: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	asks = mesh(1)
	answers := mesh(2)
	serve(n, answers)
	at, err := answers.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := asks.SetPeers(map[link.NodeID]string{2: at.String()}); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, patience, func() bool { return len(asks.Connected()) == 1 && len(answers.Connected()) == 1 }, "a connection")
	return n, asks
}

// A node asks the leader for producer ids and topics of its clients; without one, or with an answer that is none, the client is told to come again.
func TestKafkaLeader(t *testing.T) {
	n, asks := leaderPair(t)
	producer := func(k *kafkaLeader) (id int64, err error) {
		done := make(chan struct{})
		k.ProducerID(func(i int64, e error) { id, err = i, e; close(done) })
		<-done
		return id, err
	}
	create := func(k *kafkaLeader, list ...kafka.TopicCreation) (results []kafka.TopicResult) {
		done := make(chan struct{})
		k.CreateTopics(0, list, func(r []kafka.TopicResult) { results = r; close(done) })
		<-done
		return results
	}
	k := &kafkaLeader{mesh: asks, cluster: ledBy(2)}
	first, err := producer(k)
	if err != nil || first < 0 {
		t.Fatal(first, err)
	}
	if second, err := producer(k); err != nil || second == first {
		t.Errorf("ids %d and %d, %v", first, second, err)
	}
	compact := "compact"
	res := create(k, kafka.TopicCreation{Name: "a", Partitions: 3, ReplicationFactor: 1, Configs: []kafka.ConfigEntry{{Key: "cleanup.policy", Value: &compact}}},
		kafka.TopicCreation{Name: "b", Partitions: 10_001}, kafka.TopicCreation{Name: "d", Partitions: 1, ReplicationFactor: 2}, kafka.TopicCreation{Name: "e", Partitions: 1, ReplicationFactor: 3},
		kafka.TopicCreation{Name: "a/b", Partitions: 1}, kafka.TopicCreation{Name: "f"})
	if len(res) != 6 || res[4].Code != wire.InvalidTopicException || res[5].Code != wire.InvalidPartitions || res[2].Code != wire.None || res[3].Code != wire.InvalidReplicationFactor || res[0].Code != wire.None || res[1].Code != wire.InvalidPartitions || res[1].Message == "" {
		t.Errorf("%+v", res)
	}
	if a := n.broker.Topic(0, "a"); a == nil || len(a.Partitions()) != 3 || !a.Spec().Config.Compact || n.broker.Topic(0, "b") != nil {
		t.Error("the leader has not made what it was asked for")
	}
	for what, k := range map[string]*kafkaLeader{"no leader": {mesh: asks, cluster: ledBy(-1)}, "a leader that is away": {mesh: asks, cluster: ledBy(3)}} {
		if id, err := producer(k); err == nil {
			t.Errorf("%s: id %d", what, id)
		}
		if res := create(k, kafka.TopicCreation{Name: "c"}, kafka.TopicCreation{Name: "d"}); len(res) != 2 || res[0].Code != wire.NotController || res[1].Code != wire.NotController {
			t.Errorf("%s: %+v", what, res)
		}
	}
	done := make(chan error, 1)
	if _, err := asks.Go(2, methodCreateTopics, []byte("{"), 0, func(m link.Message, err error) {
		if err == nil {
			m.Release()
		}
		done <- err
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("what is no request is answered")
	}
}

// Configurations are changed by the leader; without one the client is told to come again.
func TestKafkaLeaderConfigs(t *testing.T) {
	n, asks := leaderPair(t)
	k := &kafkaLeader{mesh: asks, cluster: ledBy(2)}
	made := make(chan []kafka.TopicResult, 1)
	k.CreateTopics(0, []kafka.TopicCreation{{Name: "a", Partitions: 1, ReplicationFactor: 1}}, func(r []kafka.TopicResult) { made <- r })
	if res := <-made; res[0].Code != wire.None {
		t.Fatal(res)
	}
	alter := func(k *kafkaLeader, value string, validateOnly bool, names ...string) (results []kafka.TopicResult) {
		var list []kafka.TopicAlteration
		for _, name := range names {
			list = append(list, kafka.TopicAlteration{Name: name, Changes: []kafka.ConfigChange{{Key: "retention.ms", Value: &value}}})
		}
		done := make(chan struct{})
		k.AlterConfigs(0, list, validateOnly, func(r []kafka.TopicResult) { results = r; close(done) })
		<-done
		return results
	}
	for _, validateOnly := range []bool{true, false} {
		res := alter(k, "600000", validateOnly, "a", "gone")
		if len(res) != 2 || res[0].Code != wire.None || res[1].Code != wire.UnknownTopicOrPartition {
			t.Errorf("configurations, validate only %v: %+v", validateOnly, res)
		}
		if set := n.broker.Topic(0, "a").Spec().Config.RetentionMillis == 600_000; set == validateOnly {
			t.Errorf("validate only %v: the retention is %d ms", validateOnly, n.broker.Topic(0, "a").Spec().Config.RetentionMillis)
		}
	}
	if res := alter(k, "soon", false, "a"); len(res) != 1 || res[0].Code != wire.InvalidConfig {
		t.Errorf("a value that is none: %+v", res)
	}
	for what, k := range map[string]*kafkaLeader{"no leader": {mesh: asks, cluster: ledBy(-1)}, "a leader that is away": {mesh: asks, cluster: ledBy(3)}} {
		if res := alter(k, "600000", false, "a"); len(res) != 1 || res[0].Code != wire.NotController {
			t.Errorf("%s: %+v", what, res)
		}
	}
}
