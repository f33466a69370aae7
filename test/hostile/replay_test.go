package hostile

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// Clients that ask for the whole past of a large stream thousands of times, take hardly any of it, leave in the middle, or ask for what is not
// there, cost little memory and nobody's latency. Who asks once gets all of it meanwhile.
func TestReplayStorm(t *testing.T) {
	const stored, size = 4000, 4 << 10
	b := common.Start(t, t.TempDir(), `bindings=[{filter: "k/#", topic: k, partitions: 4}]`)
	pub := connect(t, b.URL(), "pub")
	for i := range stored {
		out := wire.PublishOut{Topic: fmt.Appendf(nil, "k/%d", i%50), Payload: append(fmt.Appendf(nil, "%d ", i), make([]byte, size)...)}
		if i == stored-1 {
			out.QoS = 1
			if code, err := pub.Publish(&out); err != nil || code.Failed() {
				t.Fatal(code, err)
			}
		} else if err := pub.SendRaw(wire.AppendPublish(nil, wire.V5, &out)); err != nil {
			t.Fatal(err)
		}
	}
	p := watch(t, b)
	before := rss(t, b)
	done := make(chan error, 8)
	for i := range 4 {
		c := connect(t, b.URL(), fmt.Sprint("replays", i), func(o *mqttclient.Options) {
			o.Connect.ReceiveMaximum = 1
			if i%2 == 1 {
				o.Connect.SessionExpiry = 60
			}
		})
		go func() { done <- replayStorm(c, i) }()
	}
	reader := connect(t, b.URL(), "reader")
	go func() { done <- wholePast(reader, stored) }()
	go func() { done <- wrongPast(connect(t, b.URL(), "wrong")) }()
	for range 6 {
		if err := testx.Receive(t, done, patience); err != nil {
			t.Error(err)
		}
	}
	within(t, b, before+192<<20)
	p.end()
}

func subscribeFrom(filter, from string) *wire.SubscribeOut {
	return &wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(filter), QoS: 1}}, User: wire.AppendUserProperty(nil, []byte("from"), []byte(from))}
}

// replayStorm asks for the past of the same filter, of others, leaves some, and goes without taking anything. Beyond the bound of what a
// connection may have under way it is told so.
func replayStorm(c *mqttclient.Client, who int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	over := 0
	for i := range 600 {
		<-tick.C
		filter := "k/#"
		if i%2 == 0 {
			filter = fmt.Sprintf("k/%d/#", i)
		}
		codes, err := c.SubscribeWith(subscribeFrom(filter, "earliest"))
		if err != nil {
			return fmt.Errorf("replays %d: %w", who, err)
		}
		if codes[0] == wire.QuotaExceeded {
			over++
		} else if codes[0].Failed() {
			return fmt.Errorf("replays %d: %v", who, codes[0])
		}
		if i%10 == 9 {
			if _, err := c.Unsubscribe(filter); err != nil {
				return fmt.Errorf("replays %d: %w", who, err)
			}
		}
	}
	if over == 0 {
		return fmt.Errorf("replays %d: nothing bounds how many are under way", who)
	}
	return c.Close() // in the middle of all of them
}

// wholePast takes the whole stream.
func wholePast(c *mqttclient.Client, stored int) error {
	if codes, err := c.SubscribeWith(subscribeFrom("k/#", "earliest")); err != nil || codes[0].Failed() {
		return fmt.Errorf("reader: %v %w", codes, err)
	}
	for i := range stored {
		if _, err := c.Receive(patience); err != nil {
			return fmt.Errorf("reader: %d of %d: %w", i, stored, err)
		}
	}
	return c.Close()
}

// wrongPast asks for places that there are not. Who asks for what lies ahead gets what comes.
func wrongPast(c *mqttclient.Client) error {
	for _, from := range []string{"", "-1", "yesterday", "2026-13-45T99:00:00Z", "99999999999999999999", "0x10", "earliest ", "1.5"} {
		codes, err := c.SubscribeWith(subscribeFrom("k/#", from))
		if err != nil || codes[0] != wire.ImplementationSpecific {
			return fmt.Errorf("from %q: %v %w", from, codes, err)
		}
	}
	for _, from := range []string{"9223372036854775807", "2200-01-01T00:00:00Z", "latest"} {
		codes, err := c.SubscribeWith(subscribeFrom("k/#", from))
		if err != nil || codes[0].Failed() {
			return fmt.Errorf("from %q: %v %w", from, codes, err)
		}
	}
	if m, err := c.Receive(200 * time.Millisecond); err == nil {
		return fmt.Errorf("from ahead of all: got %s", m.Topic)
	}
	return c.Close()
}
