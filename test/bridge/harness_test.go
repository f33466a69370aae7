// Package bridge proves what docs/bridge.md says: nodes that are connected by bridges, to each other and to Mosquitto, while messages run and
// one or the other is killed.
package bridge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(common.CleanExit)) }

const (
	patience = 60 * time.Second
	// quiet is how long nothing more may come.
	quiet = 300 * time.Millisecond
)

// broker is one side: a node, or Mosquitto.
type broker struct {
	*testing.T
	addr string
	up   func()
	kill func() // without a goodbye
	log  func() string

	// Of a node alone.
	file     func(bridges string) // replaces what its configuration file says
	hup      func()
	listener func(name string) string
}

func (b *broker) url() string { return "mqtt://" + b.addr }

// node makes a node with these bridges, as YAML, and does not start it.
func node(t *testing.T, bridges string, set ...string) *broker {
	t.Helper()
	b := &broker{T: t, addr: testx.ClosedAddr(t)}
	dir := t.TempDir()
	var run *common.Broker
	b.file = func(bridges string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "sluice.yaml"), []byte("bridges: "+bridges+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.file(bridges)
	b.hup = func() {
		if err := run.Signal(syscall.SIGHUP); err != nil {
			t.Error(err)
		}
	}
	b.listener = func(name string) string { return run.Listeners[name] }
	b.up = func() {
		t.Helper()
		run = common.Start(t, dir, append([]string{"listeners.mqtt.tcp=" + b.addr, "listeners.mqtt.ws=off", "listeners.http=off",
			"cluster.shards=8", "journal.checkpoint_interval=200ms", "journal.segment_size=4MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}, set...)...)
	}
	b.kill = func() { run.Kill() }
	b.log = func() string { return run.Log() }
	return b
}

// mosquitto makes a broker of that make.
func mosquitto(t *testing.T, lines ...string) *broker {
	t.Helper()
	m := common.NewMosquitto(t, append([]string{"allow_anonymous true"}, lines...)...)
	return &broker{T: t, addr: m.Address, up: m.Start, kill: m.Kill, log: m.Log}
}

// client connects to a broker.
func (b *broker) client(id string) *mqttclient.Client {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: b.url(), Connect: wire.Connect{ClientID: []byte(id), CleanStart: true}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// subscriber hears everything that matches filter, with the retain flag as it was published.
func (b *broker) subscriber(filter string) *mqttclient.Client {
	b.Helper()
	c := b.client("sub-" + strings.ReplaceAll(filter, "/", "-"))
	codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 2, RetainAsPublished: true})
	if err != nil || codes[0].Failed() {
		b.Fatal(codes, err)
	}
	return c
}

// publish sends a message and waits for its acknowledgement. text is its payload, a trailing `!` of the topic the retain flag.
func (b *broker) publish(topic, text string, qos byte) {
	b.Helper()
	c := b.client("pub")
	topic, retain := strings.CutSuffix(topic, "!")
	if _, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte(text), QoS: qos, Retain: retain}); err != nil {
		b.Fatal(err)
	}
	if err := c.Disconnect(); err != nil {
		b.Fatal(err)
	}
}

// want takes messages, in any order, and then nothing more for a moment. They are written as `topic text qos`, with a `!` behind retained topics.
func want(t *testing.T, c *mqttclient.Client, list ...string) {
	t.Helper()
	var got []string
	for len(got) < len(list) {
		m, err := c.Receive(patience)
		if err != nil {
			t.Fatalf("%v came, want %v: %v", got, list, err)
		}
		got = append(got, describe(&m))
	}
	if m, err := c.Receive(quiet); err == nil {
		t.Errorf("and %s came", describe(&m))
	}
	slices.Sort(got)
	slices.Sort(list)
	if !slices.Equal(got, list) {
		t.Errorf("got %v, want %v", got, list)
	}
}

func describe(m *wire.Publish) string {
	retained := ""
	if m.Retain {
		retained = "!"
	}
	return fmt.Sprintf("%s%s %s %d", m.Topic, retained, m.Payload, m.QoS)
}

// connected waits until the bridge of a node is, by what the node says of it.
func connected(b *broker, name string, state string) {
	b.Helper()
	c := b.client("state")
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("$SYS/broker/connection/" + name + "/state")}); err != nil {
		b.Fatal(err)
	}
	for {
		m, err := c.Receive(patience)
		if err != nil {
			b.Fatalf("bridge %s: %v\n%s", name, err, b.log())
		}
		if string(m.Payload) == state {
			break
		}
	}
	_ = c.Disconnect()
}

func plainNode(t *testing.T) *broker {
	t.Helper()
	return node(t, "[]")
}

func plainMosquitto(t *testing.T) *broker {
	t.Helper()
	return mosquitto(t)
}
