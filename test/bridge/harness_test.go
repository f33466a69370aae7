// Package bridge proves what docs/bridge.md says: nodes that are connected by bridges, to each other and to Mosquitto, while messages run and
// one or the other is killed.
package bridge

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/bench/mqttclient"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { common.Clean() })) }

const (
	patience = 60 * time.Second
	// quiet is how long nothing more may come.
	quiet = 300 * time.Millisecond
)

// address is one that nobody listens on, for brokers that come back to where they were.
func address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// broker is one side: a node, or Mosquitto.
type broker struct {
	*testing.T
	addr string
	up   func()
	kill func() // without a goodbye
	log  func() string
}

func (b *broker) url() string { return "mqtt://" + b.addr }

// node makes a node with these bridges, as YAML, and does not start it.
func node(t *testing.T, bridges string, set ...string) *broker {
	t.Helper()
	b := &broker{T: t, addr: address(t)}
	dir := t.TempDir()
	var run *common.Broker
	b.up = func() {
		t.Helper()
		run = common.Start(t, dir, append([]string{"listeners.mqtt.tcp=" + b.addr, "listeners.mqtt.ws=off", "listeners.http=off", "bridges=" + bridges,
			"cluster.shards=8", "journal.checkpoint_interval=200ms", "journal.segment_size=4MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}, set...)...)
	}
	b.kill = func() { run.Kill() }
	b.log = func() string { return run.Log() }
	return b
}

// mosquitto makes a broker of that make.
func mosquitto(t *testing.T, lines ...string) *broker {
	t.Helper()
	const path = "/usr/sbin/mosquitto"
	if _, err := os.Stat(path); err != nil {
		t.Skip("there is no ", path)
	}
	b := &broker{T: t, addr: address(t)}
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(b.addr)
	conf := append([]string{"listener " + port + " " + host, "allow_anonymous true", "persistence true", "persistence_location " + dir + "/",
		"autosave_interval 1", "max_queued_messages 0"}, lines...)
	if os.Getuid() == 0 {
		conf = append(conf, "user root")
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var cmd *exec.Cmd
	out := &output{}
	b.up = func() {
		t.Helper()
		cmd = exec.Command(path, "-c", file)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testx.Eventually(t, patience, func() bool {
			c, err := net.Dial("tcp", b.addr)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		}, "mosquitto listens")
	}
	b.kill = func() {
		if cmd != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	b.log = out.String
	t.Cleanup(func() { b.kill() })
	return b
}

// output is what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write makes it an io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String gives all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
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
