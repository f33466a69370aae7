package perf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// budget reads budget.toml: sections and numbers, no more.
func budget(t testing.TB) map[string]float64 {
	t.Helper()
	text, err := os.ReadFile("budget.toml")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	section := ""
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || err != nil {
			t.Fatalf("budget.toml: %q", line)
		}
		all[section+"."+strings.TrimSpace(key)] = v
	}
	return all
}

// spend compares what was measured with the budget.
func spend(t *testing.T, key string, got float64) {
	t.Helper()
	most, ok := budget(t)[key]
	if !ok {
		t.Errorf("budget.toml has no %s; it is %.4g", key, got)
		return
	}
	t.Logf("%s: %.4g of %.4g", key, got, most)
	if got > most {
		t.Errorf("%s: %.4g is over the budget of %.4g", key, got, most)
	}
}

func plainBuild(t *testing.T) {
	t.Helper()
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
}

func connect(t testing.TB, url, id string, with ...func(*mqttclient.Options)) *mqttclient.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o := mqttclient.Options{URL: url, Connect: wire.Connect{Version: wire.V311, ClientID: []byte(id), CleanStart: true, KeepAlive: 600}}
	for _, f := range with {
		f(&o)
	}
	c, _, err := mqttclient.Connect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestBudgetSubscription measures what a filter with one subscriber takes, in the index and in its session.
func TestBudgetSubscription(t *testing.T) {
	plainBuild(t)
	n := start(t, "journal.durability=memory")
	c := connect(t, "mqtt://"+n.ready.Listeners["mqtt.tcp"], "many")
	subscribe := func(from, to int) {
		for from < to {
			s := wire.SubscribeOut{}
			for range 500 {
				s.Filters = append(s.Filters, wire.FilterRequest{Filter: fmt.Appendf(nil, "site%d/+/device%d/#", from%100, from)})
				from++
			}
			if _, err := c.SubscribeWith(&s); err != nil {
				t.Fatal(err)
			}
		}
	}
	subscribe(0, 1000)
	before := n.settled()
	subscribe(1000, 51_000)
	spend(t, "memory.subscription", float64(n.settled().Heap-before.Heap)/50_000)
}

// TestBudgetQueued measures what a message that waits for an absent session holds in memory.
func TestBudgetQueued(t *testing.T) {
	plainBuild(t)
	n := start(t, append(smallTail, "journal.durability=async")...)
	url := "mqtt://" + n.ready.Listeners["mqtt.tcp"]
	absent := connect(t, url, "absent", func(o *mqttclient.Options) { o.Connect.CleanStart = false })
	if _, err := absent.Subscribe(wire.FilterRequest{Filter: []byte("kept"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	_ = absent.Disconnect()
	pub := connect(t, url, "pub")
	const window = 500
	var out []byte
	for i := range window {
		out = wire.AppendPublish(out, wire.V311, &wire.PublishOut{Topic: []byte("kept"), Payload: bytes.Repeat([]byte("x"), 64), QoS: 1, PacketID: uint16(i + 1)})
	}
	acks := make([]byte, 4*window)
	publish := func(count int) {
		_ = pub.Conn().SetDeadline(time.Now().Add(30 * time.Second))
		for range count / window {
			if _, err := pub.Conn().Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(pub.Conn(), acks); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(20_000) // buffers take their size
	before := n.settled()
	publish(100_000)
	spend(t, "memory.queued_message", float64(n.settled().Heap-before.Heap)/100_000)
}

// scanned is how many bytes of the heap a collection has to look at: what it takes, as a count.
func scanned() float64 {
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/scan/heap:bytes"}}
	metrics.Read(s)
	return float64(s[0].Value.Uint64())
}

// TestBudgetCollection measures what a subscription and a retained topic add to the work of each collection.
func TestBudgetCollection(t *testing.T) {
	plainBuild(t)
	const rows = 100_000 // of each
	before := scanned()
	x, r := topics.New(topics.Options{}), topics.NewRetained(topics.RetainedOptions{})
	for i := range rows {
		topic := fmt.Appendf(nil, "site%d/line%d/device%d", i%100, i%13, i)
		filter := topic
		if i%2 == 0 {
			filter = fmt.Appendf(nil, "site%d/+/device%d/#", i%100, i)
		}
		if _, _, err := x.Subscribe(0, nil, filter, topics.Entry{Subscriber: uint32(i)}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Put(0, topic, uint32(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	spend(t, "collection.scanned_bytes_a_row", max(0, scanned()-before)/(2*rows))
	runtime.KeepAlive(x)
	runtime.KeepAlive(r)
}
