package crash

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// TestKillDelayed kills a broker with messages that wait for their time. What was acknowledged comes: at its time, or at once if that has passed;
// what was cancelled does not.
func TestKillDelayed(t *testing.T) {
	dir := t.TempDir()
	b := common.Start(t, dir, small...)
	dial := func(id string) *mqttclient.Client {
		t.Helper()
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: b.URL(), Connect: wire.Connect{Version: wire.V5, ClientID: []byte(id), SessionExpiry: 1000}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	publish := func(c *mqttclient.Client, topic, payload string, qos byte) {
		t.Helper()
		if code, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}); err != nil || code.Failed() {
			t.Fatal(code, err)
		}
	}
	by := dial("by")
	if _, err := by.Subscribe(wire.FilterRequest{Filter: []byte("t/#"), QoS: 2}); err != nil {
		t.Fatal(err)
	}
	const n, far = 100, 6
	began, pub := time.Now(), dial("pub")
	for i := range n {
		publish(pub, fmt.Sprintf("$delayed/%d/t/%d", 1+i%2*(far-1), i), fmt.Sprint(i), byte(1+i/2%2))
		publish(pub, fmt.Sprintf("$delayed/1/t/not/%d", i), "cancelled", 1)
		publish(pub, fmt.Sprintf("$delayed/cancel/t/not/%d", i), "", 1)
	}
	b.Kill()
	b = common.Start(t, dir, small...)
	by = dial("by")
	seen, once := map[string]bool{}, map[string]bool{}
	for range n {
		m, err := by.Receive(10 * far * time.Second)
		if err != nil {
			t.Fatal(len(seen), err)
		}
		i := 0
		if _, err := fmt.Sscan(string(m.Payload), &i); err != nil || seen[string(m.Payload)] && !m.Dup {
			t.Fatalf("%s of %s, dup %t: %v", m.Payload, m.Topic, m.Dup, err)
		}
		if d := time.Since(began); i%2 == 1 && d < far*time.Second {
			t.Errorf("%d came after %v", i, d)
		}
		seen[string(m.Payload)] = true
		once[string(m.Payload)] = m.QoS == 2
	}
	if len(seen) != n {
		t.Errorf("%d of %d came", len(seen), n)
	}
	b.Kill()
	b = common.Start(t, dir, small...)
	publish(dial("pub"), "t/last", "last", 2)
	by = dial("by")
	for {
		m, err := by.Receive(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Payload) == "last" {
			break
		}
		if !seen[string(m.Payload)] || once[string(m.Payload)] {
			t.Errorf("%s came again as a new one", m.Payload)
		}
	}
	b.Kill()
}
