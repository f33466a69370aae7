package crash

import (
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// TestKillHolder kills a broker while an absent session holds a filter exclusively, and while nobody does any more. What a new session begins with,
// and rewritten topics, come from the configuration.
func TestKillHolder(t *testing.T) {
	dir := t.TempDir()
	settings := append([]string{"mqtt.exclusive_subscription=true", "mqtt.rewrite=[{from: old/#, to: new/$1}]",
		"mqtt.auto_subscribe=[{topic: own/%c, qos: 1}]"}, small...)
	b := common.Start(t, dir, settings...)
	dial := func(id string, expiry uint32) *mqttclient.Client {
		t.Helper()
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: b.URL(), Connect: wire.Connect{Version: wire.V5, ClientID: []byte(id), SessionExpiry: expiry}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c *mqttclient.Client, want wire.ReasonCode) {
		t.Helper()
		codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte("$exclusive/old/x"), QoS: 1})
		if err != nil || codes[0] != want {
			t.Fatalf("%v %v, want %v", codes, err, want)
		}
	}
	ask(dial("holder", 1000), wire.GrantedQoS1)
	b.Kill()
	b = common.Start(t, dir, settings...)
	other := dial("other", 0)
	ask(other, wire.QuotaExceeded)
	for _, topic := range []string{"own/holder", "old/x"} {
		if _, err := other.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("x"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	holder, got := dial("holder", 1000), map[string]bool{}
	for range 2 {
		m, err := holder.Receive(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got[string(m.Topic)] = true
	}
	if !got["own/holder"] || !got["new/x"] {
		t.Errorf("%v", got)
	}
	if _, err := holder.Unsubscribe("$exclusive/old/x"); err != nil {
		t.Fatal(err)
	}
	b.Kill()
	b = common.Start(t, dir, settings...)
	ask(dial("other", 0), wire.GrantedQoS1)
	ask(dial("holder", 1000), wire.QuotaExceeded)
	b.Kill()
}
