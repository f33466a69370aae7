package mapping

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// told is an event as a reader has it.
type told struct {
	Event    string `json:"event"`
	At       int64  `json:"at"`
	Node     int    `json:"node"`
	ClientID string `json:"client_id"`
	Filter   string `json:"filter"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

func readEvent(t testing.TB, payload string) (e told) {
	t.Helper()
	if err := json.Unmarshal([]byte(payload), &e); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	if e.At == 0 || e.Node != 1 {
		t.Errorf("%s: want a time and a node", payload)
	}
	return e
}

// bye ends the connection with a DISCONNECT.
func (c *client) bye() {
	c.n.Helper()
	if err := c.Disconnect(); err != nil {
		c.n.Fatal(err)
	}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// The life of a session reaches MQTT subscribers, one that was away among them, and Kafka's readers by client, in its order; what is not switched on
// does not.
func TestEvents(t *testing.T) {
	n := start(t, "[]", "events.kinds=[client.connected, client.disconnected, session]", "events.kafka_topic=_sluice.events", "kafka.partitions=3")
	watch := n.mqtt(wire.V5, "watch", true)
	watch.sub(1, "$SYS/broker/events/#", "")
	live := n.mqtt(wire.V311, "live", false)
	live.sub(0, "$SYS/broker/events/client/+", "")
	mine := func(c *client, from string, count int) (list []string) {
		t.Helper()
		for len(list) < count {
			p, err := c.Receive(patience)
			if err != nil {
				t.Fatalf("%v, behind %v", err, list)
			}
			e := readEvent(t, string(p.Payload))
			if want := "$SYS/broker/events/" + strings.Replace(e.Event, ".", "/", 1); string(p.Topic) != want || p.Retain {
				t.Errorf("%s on %s", e.Event, p.Topic)
			}
			if e.ClientID == from {
				list = append(list, e.Event+e.Filter)
			}
		}
		return list
	}
	// Subscribers have the order of each topic alone.
	expect := func(who string, got []string, want string) {
		t.Helper()
		if have := strings.Join(got, " "); have != want {
			t.Errorf("%s: got %s\nwant %s", who, have, want)
		}
	}
	d := n.mqtt(wire.V5, "d/1", true)
	d.sub(1, "to/d", "")
	d.bye()
	const life = "client.connected session.created session.subscribedto/d client.disconnected"
	expect("a kept subscriber", sorted(mine(watch, "d/1", 4)), "client.connected client.disconnected session.created session.subscribedto/d")
	expect("a live one", sorted(mine(live, "d/1", 2)), "client.connected client.disconnected")
	watch.bye()
	d = n.mqtt(wire.V5, "d/1", true)
	d.bye()
	mine(live, "d/1", 2)
	watch = n.mqtt(wire.V5, "watch", true)
	expect("one that was away", sorted(mine(watch, "d/1", 3)), "client.connected client.disconnected session.resumed")

	at := make(map[string]int32)
	all := make(map[string][]string)
	for _, r := range n.consume("_sluice.events", "", 14) {
		e := readEvent(t, string(r.Value))
		if string(r.Key) != e.ClientID {
			t.Errorf("key %q of %s", r.Key, r.Value)
		}
		if p, ok := at[e.ClientID]; ok && p != r.Partition {
			t.Errorf("%s is in partitions %d and %d", e.ClientID, p, r.Partition)
		}
		at[e.ClientID] = r.Partition
		all[e.ClientID] = append(all[e.ClientID], e.Event+e.Filter)
		if e.Event == "client.connected" && (!strings.HasPrefix(e.Address, "127.0.0.1:") || !strings.HasPrefix(e.Protocol, "MQTT ")) {
			t.Errorf("%s", r.Value)
		}
	}
	expect("Kafka's readers", all["d/1"], life+" client.connected session.resumed client.disconnected")
}

// A client cannot tell events, and nobody is told any where they are off.
func TestNoEvents(t *testing.T) {
	n := start(t, "[]")
	watch := n.mqtt(wire.V5, "watch", false)
	watch.sub(1, "$SYS/broker/events/#", "")
	d := n.mqtt(wire.V5, "d", false)
	if code, err := d.Publish(&wire.PublishOut{Topic: []byte("$SYS/broker/events/client/connected"), Payload: []byte("{}"), QoS: 1}); err == nil || code != wire.NotAuthorized {
		t.Errorf("published an event: %v %v", code, err)
	}
	watch.take(0)
}
