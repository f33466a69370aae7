package mapping

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// Bindings that change by SIGHUP while messages go through the filter: each that is acknowledged reaches who is there and who comes back, once,
// and is in no more than one stream; one that is published while a binding is known to count is in its stream.
func TestBindingsChange(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := &node{TB: t, dir: t.TempDir()}
			configure := func(bindings string) {
				if err := os.WriteFile(filepath.Join(n.dir, "sluice.yaml"), []byte("bindings: "+bindings+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			configure(`[{filter: "s/#", topic: one, partitions: 2}]`)
			n.run = common.Start(t, n.dir, "listeners.kafka.tcp=127.0.0.1:0", "listeners.mqtt.transport="+transport)
			changeUnderLoad(n, func(to string) {
				bindings := "[]"
				if to != "" {
					bindings = `[{filter: "s/#", topic: ` + to + `}]`
				}
				const taken = "msg=reload change=\"bindings: " // one of the lines of each reload
				reloads := strings.Count(n.run.Log(), taken)
				configure(bindings)
				if err := n.run.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				testx.Eventually(t, patience, func() bool { return strings.Count(n.run.Log(), taken) > reloads }, "the configuration is not taken over")
			})
		})
	}
}

// The same by commands: sluice binding add, which changes one too, and delete. They count when they have said so.
func TestBindingCommands(t *testing.T) {
	t.Parallel()
	n := start(t, "[]", "listeners.grpc=127.0.0.1:0")
	command := func(args ...string) {
		t.Helper()
		args = append([]string{"binding"}, append(args, "--server", n.run.Listeners["grpc"])...)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, common.Binary(t), args...).CombinedOutput(); err != nil {
			t.Fatalf("sluice %q: %v\n%s", args, err, out)
		}
	}
	command("add", "s/#", "--topic", "one", "--partitions", "2")
	rounds := 0
	changeUnderLoad(n, func(to string) {
		rounds++
		switch {
		case to == "":
			command("delete", "s/#")
		case rounds%2 == 0: // the key is another one; the second level
			command("add", "s/#", "--topic", to, "--key", "level:2")
		default:
			command("add", "s/#", "--topic", to)
		}
	})
}

// changeUnderLoad has change bind s/#, which is bound to stream one, to other streams while clients publish to it. Change returns when the binding counts.
func changeUnderLoad(n *node, change func(to string)) {
	n.Helper()
	live, absent := n.mqtt(wire.V5, "live", false), n.mqtt(wire.V5, "absent", true)
	live.sub(2, "s/#", "")
	absent.sub(2, "s/#", "")
	_ = absent.Disconnect()

	stop := make(chan struct{})
	var load sync.WaitGroup
	var sent [3][]message
	for i := range sent {
		pub := n.mqtt(wire.V5, fmt.Sprint("pub", i), false)
		load.Go(func() { sent[i] = publishUntil(pub, i, stop) })
	}
	probe := n.mqtt(wire.V5, "probe", false)
	probes := map[string]string{} // payload -> its stream
	var asked []message
	for round, to := range []string{"two", "", "one", "", "two", "one"} {
		change(to)
		m := message{"s/probe", fmt.Sprint("probe", round), ""}
		probe.pub(wire.PublishOut{Topic: []byte(m.topic), Payload: []byte(m.payload), QoS: 1})
		probes[m.payload] = to
		asked = append(asked, m)
	}
	close(stop)
	load.Wait()
	for _, list := range sent {
		asked = append(asked, list...)
	}
	// What goes directly may overtake what a binding has taken: the order is not compared.
	same(n, "live", byPayload(live.take(len(asked))), byPayload(asked))
	same(n, "absent and back", byPayload(n.mqtt(wire.V5, "absent", true).take(len(asked))), byPayload(asked))
	in := map[string]string{}
	for _, stream := range []string{"one", "two"} {
		for _, r := range n.consume(stream, "", n.records(stream)) {
			if was := in[string(r.Value)]; was != "" {
				n.Errorf("%s is in %s and in %s", r.Value, was, stream)
			}
			in[string(r.Value)] = stream
		}
	}
	for payload, stream := range probes {
		if in[payload] != stream {
			n.Errorf("%s is in %q, want %q", payload, in[payload], stream)
		}
	}
}

// records is how many records a stream has.
func (n *node) records(stream string) (sum int) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ends, err := n.admin().ListEndOffsets(ctx, stream)
	if err != nil {
		n.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { sum += int(o.Offset) })
	return sum
}

// publishUntil publishes to a topic of the publisher's own at one QoS, one message after the other, and gives what was acknowledged.
func publishUntil(pub *client, i int, stop <-chan struct{}) (sent []message) {
	topic := fmt.Sprint("s/", i)
	for k := 0; ; k++ {
		select {
		case <-stop:
			return sent
		default:
		}
		payload := fmt.Sprintf("%d-%d", i, k)
		code, err := pub.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: byte(1 + i%2)})
		if err != nil || code.Failed() {
			pub.n.Errorf("publish %s: %v %v", payload, code, err)
			return sent
		}
		sent = append(sent, message{topic, payload, ""})
	}
}

func byPayload(list []message) []message {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b message) int { return strings.Compare(a.payload, b.payload) })
	return list
}
