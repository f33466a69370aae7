// Package mapping proves what docs/mapping.md says: what becomes of a message between MQTT and Kafka, whichever way it goes, with real nodes
// and clients.
package mapping

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(common.CleanExit)) }

const (
	patience = 20 * time.Second
	// quiet is how long nothing more may come.
	quiet = 300 * time.Millisecond
)

// node is a process with bindings.
type node struct {
	testing.TB
	dir, bindings string
	set           []string
	run           *common.Broker
}

// start runs a node; bindings are YAML as the configuration has them.
func start(t testing.TB, bindings string, set ...string) *node {
	t.Helper()
	n := &node{TB: t, dir: t.TempDir(), bindings: bindings, set: set}
	n.up()
	return n
}

func (n *node) up() {
	n.Helper()
	n.run = common.Start(n, n.dir, append([]string{"listeners.kafka.tcp=127.0.0.1:0", "bindings=" + n.bindings}, n.set...)...)
}

// crash kills the node and starts it again on what it has left.
func (n *node) crash() {
	n.Helper()
	n.run.Kill()
	n.up()
}

// kafka is a Kafka client.
func (n *node) kafka(opts ...kgo.Opt) *kgo.Client {
	n.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(n.run.Listeners["kafka.tcp"]), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(cl.Close)
	return cl
}

// produce sends records and waits for all of them.
func (n *node) produce(cl *kgo.Client, records ...*kgo.Record) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		n.Fatal("produce:", err)
	}
}

// consume reads a topic from its beginning, by a group of its own if it has a name, until it has count records.
func (n *node) consume(topic, group string, count int) (got []*kgo.Record) {
	n.Helper()
	opts := []kgo.Opt{kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
	if group != "" {
		opts = append(opts, kgo.ConsumerGroup(group))
	}
	cl := n.kafka(opts...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wrong []kgo.FetchError // of partitions, which the client goes on to ask
	for len(got) < count {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			n.Fatalf("fetch of %s: %v, after %d records of %d: %v\n%v", topic, err, len(got), count, wrong, messagesOf(got))
		}
		wrong = append(wrong, fs.Errors()...)
		got = append(got, fs.Records()...)
	}
	return got
}

func (n *node) admin() *kadm.Client { return kadm.NewClient(n.kafka()) }

// client is an MQTT client.
type client struct {
	*mqttclient.Client
	n *node
}

// mqtt connects; a kept session outlives the connection.
func (n *node) mqtt(version byte, id string, kept bool) *client {
	n.Helper()
	k := wire.Connect{Version: version, ClientID: []byte(id), CleanStart: !kept}
	if kept && version == wire.V5 {
		k.SessionExpiry = 3600
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + n.run.Listeners["mqtt.tcp"], Connect: k})
	if err != nil {
		n.Fatalf("connect %s: %v", id, err)
	}
	n.Cleanup(func() { _ = c.Close() })
	return &client{c, n}
}

// sub subscribes; from, if not empty, is where the subscription starts.
func (c *client) sub(qos byte, filter, from string) {
	c.n.Helper()
	if code := c.trySub(qos, filter, from); code.Failed() {
		c.n.Fatalf("subscribe %s from %q: %v", filter, from, code)
	}
}

func (c *client) trySub(qos byte, filter, from string) wire.ReasonCode {
	c.n.Helper()
	s := &wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(filter), QoS: qos}}}
	if from != "" {
		s.User = wire.AppendUserProperty(nil, []byte("from"), []byte(from))
	}
	codes, err := c.SubscribeWith(s)
	if err != nil {
		c.n.Fatalf("subscribe %s: %v", filter, err)
	}
	return codes[0]
}

// pub publishes and waits for the acknowledgement.
func (c *client) pub(p wire.PublishOut) {
	c.n.Helper()
	if code, err := c.Publish(&p); err != nil || code.Failed() {
		c.n.Fatalf("publish to %s: %v %v", p.Topic, code, err)
	}
}

// message is what a reader got, in words that MQTT and Kafka have in common.
type message struct {
	topic, payload string
	props          string // user properties and the others, in order
}

// take receives count messages, and is sure that no more come.
func (c *client) take(count int) []message {
	c.n.Helper()
	got := c.takeSome(count)
	if p, err := c.Receive(quiet); err == nil {
		c.n.Fatalf("one message too many, behind %d: %s %s", count, p.Topic, p.Payload)
	}
	return got
}

func (c *client) takeSome(count int) (got []message) {
	c.n.Helper()
	for len(got) < count {
		p, err := c.Receive(patience)
		if err != nil {
			c.n.Fatalf("received %d messages of %d: %v\n%v", len(got), count, err, got)
		}
		got = append(got, ofMQTT(&p))
	}
	return got
}

func ofMQTT(p *wire.Publish) message {
	forward, _ := p.Props.Forward(nil)
	return message{string(p.Topic), string(p.Payload), propsText(forward)}
}

// propsText spells the properties of a block out, those of MQTT by the names of their headers.
func propsText(block []byte) string {
	var list []string
	names := map[byte]string{0x01: "mqtt.format", 0x03: "mqtt.content_type", 0x08: "mqtt.response_topic", 0x09: "mqtt.correlation"}
	text := func() string {
		k := int(binary.BigEndian.Uint16(block))
		s := string(block[2 : 2+k])
		block = block[2+k:]
		return s
	}
	for len(block) > 0 {
		id := block[0]
		block = block[1:]
		switch id {
		case 0x01:
			list = append(list, fmt.Sprintf("mqtt.format=%x", block[:1]))
			block = block[1:]
		case 0x26:
			k := text()
			list = append(list, k+"="+text())
		default:
			list = append(list, names[id]+"="+text())
		}
	}
	return strings.Join(list, ";")
}

func ofKafka(r *kgo.Record) message {
	m := message{topic: string(r.Key), payload: string(r.Value)}
	var list []string
	for _, h := range r.Headers {
		switch h.Key {
		case "mqtt.format":
			list = append(list, fmt.Sprintf("mqtt.format=%x", h.Value))
		case "mqtt.qos", "mqtt.retain", "mqtt.deadline":
		case "mqtt.topic":
			m.topic = string(h.Value)
		default:
			list = append(list, strings.TrimPrefix(h.Key, "mqtt.user.")+"="+string(h.Value))
		}
	}
	m.props = strings.Join(list, ";")
	return m
}

func messagesOf(records []*kgo.Record) (list []message) {
	for _, r := range records {
		list = append(list, ofKafka(r))
	}
	return list
}

// byTopic sorts messages by topic and keeps the order within each.
func byTopic(list []message) []message {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b message) int { return strings.Compare(a.topic, b.topic) })
	return list
}

// same compares what a reader got with what was sent, topic by topic in order.
func same(t testing.TB, what string, got, want []message) {
	t.Helper()
	got, want = byTopic(got), byTopic(want)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%s: got %d messages, want %d; they differ at %d:\n got %v\nwant %v", what, len(got), len(want), i,
				got[min(i, len(got)):min(i+2, len(got))], want[min(i, len(want)):min(i+2, len(want))])
		}
	}
}
