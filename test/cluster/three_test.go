package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// keepSession leaves a session behind that has a subscription at QoS 1, for expiry seconds.
func keepSession(t *testing.T, n *common.Node, id string, expiry uint32, filter string) {
	t.Helper()
	c, _ := dial(t, n, id, expiry)
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

// dial connects an MQTT client to a node.
func dial(t *testing.T, n *common.Node, id string, expiry uint32) (*mqttclient.Client, *wire.Connack) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	c, ack, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.MQTT, Connect: wire.Connect{ClientID: []byte(id), SessionExpiry: expiry}})
	if err != nil {
		t.Fatalf("%s at node %d: %v", id, n.ID, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, ack
}

func publish(t *testing.T, c *mqttclient.Client, topic, payload string, retain bool) {
	t.Helper()
	reason, err := c.Publish(&wire.PublishOut{QoS: 1, Retain: retain, Topic: []byte(topic), Payload: []byte(payload)})
	if err != nil || reason.Failed() {
		t.Fatalf("publish to %s: %v, %v", topic, reason, err)
	}
}

func receive(t *testing.T, c *mqttclient.Client, want string) {
	t.Helper()
	m, err := c.Receive(longest)
	if err != nil || string(m.Payload) != want {
		t.Fatalf("%q, %v; want %q", m.Payload, err, want)
	}
}

// Any node takes any client, and all clients see one broker.
func TestThreeAreOne(t *testing.T) {
	c := common.StartCluster(t, 3)
	t.Run("mqtt", func(t *testing.T) { threeByMQTT(t, c) })
	t.Run("kafka", func(t *testing.T) { threeByKafka(t, c) })
	t.Run("control", func(t *testing.T) { threeByControl(t, c) })
	t.Run("drained", func(t *testing.T) { threeShowDrained(t, c) })
	if t.Failed() {
		t.Log(c.Logs())
	}
}

func threeByMQTT(t *testing.T, c *common.Cluster) {
	t.Helper()
	const kept = 3600
	for i, n := range c.Nodes {
		other := c.Nodes[(i+1)%3]
		sub, _ := dial(t, n, fmt.Sprint("sub-", i), kept)
		if _, err := sub.Subscribe(wire.FilterRequest{Filter: fmt.Appendf(nil, "one/%d/#", i), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		pub, _ := dial(t, other, fmt.Sprint("pub-", i), 0)
		publish(t, pub, fmt.Sprintf("one/%d/a", i), "live", false)
		receive(t, sub, "live")
		if err := sub.Disconnect(); err != nil {
			t.Fatal(err)
		}
		publish(t, pub, fmt.Sprintf("one/%d/a", i), "kept", false)
		publish(t, pub, fmt.Sprintf("retained/%d", i), "stays", true)
		// The session goes on through another node, and is taken over by a third.
		again, ack := dial(t, other, fmt.Sprint("sub-", i), kept)
		if !ack.SessionPresent {
			t.Errorf("the session of node %d is not there at node %d", n.ID, other.ID)
		}
		receive(t, again, "kept")
		dial(t, c.Nodes[(i+2)%3], fmt.Sprint("sub-", i), kept)
		packets, err := again.WaitClosed(longest)
		if err != nil || len(packets) == 0 {
			t.Fatalf("taken over: %v, %v", packets, err)
		}
		if d, err := packets[len(packets)-1].Disconnect(); err != nil || d.Reason != wire.SessionTakenOver {
			t.Errorf("taken over: %v, %v", d.Reason, err)
		}
	}
	for i, n := range c.Nodes {
		sub, _ := dial(t, n, fmt.Sprint("late-", i), 0)
		if _, err := sub.Subscribe(wire.FilterRequest{Filter: fmt.Appendf(nil, "retained/%d", (i+1)%3), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		receive(t, sub, "stays")
	}
}

func threeByKafka(t *testing.T, c *common.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	for i, n := range c.Nodes {
		topic := fmt.Sprint("topic-", i)
		w, err := kgo.NewClient(kgo.SeedBrokers(n.Kafka), kgo.DefaultProduceTopic(topic), kgo.UnknownTopicRetries(-1))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		adm := kadm.NewClient(w)
		if _, err := adm.CreateTopic(ctx, 2, -1, nil, topic); err != nil {
			t.Fatalf("create a topic by node %d: %v", n.ID, err)
		}
		if err := w.ProduceSync(ctx, kgo.StringRecord("first"), kgo.StringRecord("second")).FirstErr(); err != nil {
			t.Fatalf("produce by node %d: %v", n.ID, err)
		}
		leader := c.Leader().ID
		for _, o := range c.Nodes {
			metadataOf(ctx, t, o, topic, leader)
		}
		r, err := kgo.NewClient(kgo.SeedBrokers(c.Nodes[(i+1)%3].Kafka), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(fmt.Sprint("group-", i)),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var got []string
		for len(got) < 2 && ctx.Err() == nil {
			r.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		if slices.Sort(got); !slices.Equal(got, []string{"first", "second"}) {
			t.Errorf("read %v", got)
		}
	}
}

// metadataOf waits until a node has it that all three have the topic and who leads.
func metadataOf(ctx context.Context, t *testing.T, n *common.Node, topic string, leader int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.Kafka), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var m kadm.Metadata
	testx.Eventually(t, longest, func() bool {
		m, err = kadm.NewClient(cl).Metadata(ctx, topic)
		if err != nil || len(m.Brokers) != 3 || int(m.Controller) != leader || len(m.Topics[topic].Partitions) != 2 {
			return false
		}
		for _, p := range m.Topics[topic].Partitions {
			if int(p.Leader) != leader || len(p.Replicas) != 3 || len(p.ISR) != 3 {
				return false
			}
		}
		return true
	}, "metadata of node", n.ID)
}

// gaps measures how long a client of each protocol stood still at most.
type gaps struct {
	mqtt, kafka atomic.Int64 // ns
}

// watchGaps publishes as long as it is not told to stop: by MQTT, as a client that comes in at the next node each time its connection ends, and to Kafka's topic.
func watchGaps(t *testing.T, c *common.Cluster, stop chan struct{}) (g *gaps, wait func()) {
	t.Helper()
	g = new(gaps)
	l := &load{t: t, c: c}
	cl := l.open(kgo.DefaultProduceTopic("gaps"), kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	ended := make(chan struct{}, 2)
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	note := func(to *atomic.Int64, last *time.Time) {
		now := time.Now()
		if !last.IsZero() {
			to.Store(max(to.Load(), int64(now.Sub(*last))))
		}
		*last = now
	}
	go func() {
		defer func() { ended <- struct{}{} }()
		var last time.Time
		for !stopped() {
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			if err := cl.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err == nil {
				note(&g.kafka, &last)
			}
			cancel()
		}
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		var last time.Time
		for i := 0; !stopped(); i++ {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			mc, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + c.Nodes[i%len(c.Nodes)].MQTT, Connect: wire.Connect{ClientID: []byte("gaps"), SessionExpiry: 60}})
			cancel()
			for err == nil && !stopped() {
				if _, err = mc.Publish(&wire.PublishOut{QoS: 1, Topic: []byte("gaps/x"), Payload: []byte("x")}); err == nil {
					note(&g.mqtt, &last)
				}
			}
			if mc != nil {
				_ = mc.Close()
			}
		}
	}()
	return g, func() {
		<-ended
		<-ended
		cl.Close()
	}
}

// kafkaByControl: Kafka's clients are at every node, and each node knows where.
func kafkaByControl(t *testing.T, c *common.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.Kafka), kgo.ClientID(fmt.Sprint("kafka-at-", n.ID)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		if err := cl.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		out, err := n.Run("client", "list", "--protocol", "kafka", "--output", "json")
		var rows []struct {
			ID               string
			Node, Connection int
		}
		if err != nil || json.Unmarshal([]byte(out), &rows) != nil {
			t.Fatal(err, out)
		}
		for _, other := range c.Nodes {
			name := fmt.Sprint("kafka-at-", other.ID)
			i := slices.IndexFunc(rows, func(r struct {
				ID               string
				Node, Connection int
			}) bool {
				return r.ID == name && r.Node == other.ID
			})
			if i < 0 {
				t.Fatalf("node %d does not list %s at node %d:\n%s", n.ID, name, other.ID, out)
			}
			for _, command := range [][]string{{"client", "describe"}, {"explain"}} {
				if out, err := n.Run(append(command, "--connection", fmt.Sprintf("%d/%d", other.ID, rows[i].Connection))...); err != nil || !strings.Contains(out, name) {
					t.Errorf("%v at node %d: %v\n%s", command, n.ID, err, out)
				}
			}
		}
		if _, err := n.Run("client", "describe", "--connection", "9/1"); err == nil || !strings.Contains(err.Error(), "there is no node 9") {
			t.Error(err)
		}
	}
	if out, err := c.Nodes[0].Run("client", "kick", "kafka-at-3"); err != nil || !strings.Contains(out, "kicked") {
		t.Error(err, out)
	}
}

// threeByControl: every node answers for the one that leads.
func threeByControl(t *testing.T, c *common.Cluster) {
	t.Helper()
	leader := c.Leader()
	kafkaByControl(t, c)
	for _, n := range c.Nodes {
		name := fmt.Sprint("by-control-", n.ID)
		sub, _ := dial(t, n, name, 3600)
		if _, err := sub.Subscribe(wire.FilterRequest{Filter: []byte("of/" + name), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Run("topic", "create", name, "--partitions", "2"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Run("topic", "create", name); err == nil || !strings.Contains(err.Error(), "exists") {
			t.Errorf("made twice: %v", err)
		}
		for _, other := range c.Nodes {
			for _, listing := range [][]string{{"client", "list"}, {"session", "list"}, {"subscription", "list"}, {"topic", "list"}} {
				if out, err := other.Run(listing...); err != nil || !strings.Contains(out, name) {
					t.Errorf("%v at node %d does not show %s: %v\n%s", listing, other.ID, name, err, out)
				}
			}
		}
		if out, err := n.Run("explain", "--client", name); err != nil || !strings.Contains(out, fmt.Sprintf("%d/", leader.ID)) {
			t.Errorf("explained at node %d: %v\n%s", n.ID, err, out)
		}
		if _, err := n.Run("client", "kick", name); err != nil {
			t.Error(err)
		}
		if _, err := sub.WaitClosed(longest); err != nil {
			t.Errorf("kicked at node %d: %v", n.ID, err)
		}
		traceByControl(t, n, name+"-traced")
	}
}

// threeShowDrained: every node shows which one an operator has drained, until that ends.
func threeShowDrained(t *testing.T, c *common.Cluster) {
	t.Helper()
	was := c.Leader()
	id := strconv.Itoa(was.ID)
	shown := func(want map[int]string, what string) {
		t.Helper()
		for _, n := range c.Nodes {
			var s common.Status
			testx.Eventually(t, longest, func() bool { s, _ = n.Status(); return maps.Equal(s.Yields, want) }, fmt.Sprintf("at node %d %s", n.ID, what), &s)
		}
	}
	shown(nil, "nobody is drained")
	out, err := c.Nodes[was.ID%3].Run("node", "drain", id, "--wait")
	if err != nil || !strings.Contains(out, "active, drained") {
		t.Fatalf("drained: %v\n%s", err, out)
	}
	shown(map[int]string{was.ID: "drained"}, "a node is drained")
	for _, n := range c.Nodes {
		if out, err := n.Run("node", "list"); err != nil || strings.Count(out, "drained") != 1 {
			t.Errorf("nodes by node %d: %v\n%s", n.ID, err, out)
		}
		if out, err := n.Run("shard", "status"); err != nil || !strings.Contains(out, "follows, drained") {
			t.Errorf("shards by node %d: %v\n%s", n.ID, err, out)
		}
	}
	if out, err := was.Run("node", "drain", id, "--end"); err != nil || strings.Contains(out, "drained") {
		t.Errorf("ended: %v\n%s", err, out)
	}
	shown(nil, "nobody is drained any more")
}

// traceByControl: a trace shows at any node what the one that leads sees, from when it has begun.
func traceByControl(t *testing.T, n *common.Node, name string) {
	t.Helper()
	type result struct {
		out string
		err error
	}
	traced := make(chan result, 1)
	go func() {
		out, err := n.Run("trace", "client", name, "--limit", "1", "--for", longest.String())
		traced <- result{out, err}
	}()
	c, _ := dial(t, n, name, 0)
	for {
		publish(t, c, "traced/"+name, "x", false)
		select {
		case r := <-traced:
			if r.err != nil || !strings.Contains(r.out, "traced/"+name) {
				t.Errorf("a trace at node %d: %v\n%s", n.ID, r.err, r.out)
			}
			return
		case <-time.After(10 * time.Millisecond): // the next one may be the first that it sees
		}
	}
}

// A node that leads is killed: clients of the two others go on. How long they stood still is told, and bounded by what a starved machine needs.
func TestLeaderLost(t *testing.T) {
	c := common.StartCluster(t, 3)
	was := c.Leader()
	stop := make(chan struct{})
	g, wait := watchGaps(t, c, stop)
	testx.Eventually(t, longest, func() bool { return g.kafka.Load() > 0 && g.mqtt.Load() > 0 }, "clients publish")
	g.kafka.Store(0)
	g.mqtt.Store(0)
	was.Kill()
	if now := c.Leader(); now == was {
		t.Error("the node that was killed leads")
	}
	testx.Eventually(t, longest, func() bool { return g.kafka.Load() > 0 && g.mqtt.Load() > 0 }, "clients go on")
	close(stop)
	wait()
	t.Logf("longest time without an acknowledgement: MQTT %v, Kafka %v", time.Duration(g.mqtt.Load()).Round(time.Millisecond), time.Duration(g.kafka.Load()).Round(time.Millisecond))
	was.Start()
	c.AwaitSynced()
}

// All nodes are restarted in turn, in order: nothing stands still for long.
func TestRollingRestart(t *testing.T) {
	c := common.StartCluster(t, 3)
	stop := make(chan struct{})
	g, wait := watchGaps(t, c, stop)
	var log string // of those that have stopped
	for _, n := range c.Nodes {
		p := n.Broker()
		n.Stop()
		log += p.Log()
		n.Start()
		c.AwaitSynced()
	}
	close(stop)
	wait()
	if !strings.Contains(log, "another node leads the catalog's group") || strings.Contains(log, "is not handed over") {
		t.Error("who leads the catalog's group does not hand it over: " + log)
	}
	t.Logf("longest time without an acknowledgement: MQTT %v, Kafka %v", time.Duration(g.mqtt.Load()).Round(time.Millisecond), time.Duration(g.kafka.Load()).Round(time.Millisecond))
}
