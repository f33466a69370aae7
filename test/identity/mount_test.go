package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// mounted is a node with a listener at which topics lie under a/ and one at which they lie under the user's, beside one without a prefix.
func mounted(t *testing.T, set ...string) *node {
	t.Helper()
	return start(t, []string{"mqtt.tcp"}, append([]string{"auth.anonymous=loopback", "auth.password_file=" + passwordFile(t, "ann", "secret"), "mqtt.exclusive_subscription=true",
		"listeners.mqtt.named=[{name: a, address: '127.0.0.1:0', mountpoint: a/}, {name: own, address: '127.0.0.1:0', mountpoint: 'u/%u/'}]"}, set...)...)
}

func version(v byte) func(*wire.Connect) { return func(k *wire.Connect) { k.Version = v } }

func subscribe(t *testing.T, c *mqttclient.Client, filters ...string) {
	t.Helper()
	for _, f := range filters {
		codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte(f), QoS: 2})
		if err != nil || codes[0].Failed() {
			t.Fatalf("subscribe to %s: %v %v", f, codes, err)
		}
	}
}

func publish(t *testing.T, c *mqttclient.Client, topic, payload string, qos byte) {
	t.Helper()
	if _, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// mayNot is a publish that is answered 0x87.
func mayNot(t *testing.T, c *mqttclient.Client, topic string) {
	t.Helper()
	if code, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1}); code != wire.NotAuthorized {
		t.Errorf("publishing to %s: %v %v", topic, code, err)
	}
}

func wants(t *testing.T, c *mqttclient.Client, topic, payload string) {
	t.Helper()
	m, err := c.Receive(patience)
	if err != nil || string(m.Topic) != topic || string(m.Payload) != payload {
		t.Fatalf("got %q of %q, %v, want %q of %q", m.Payload, m.Topic, err, payload, topic)
	}
}

// What clients of a listener with a prefix name lies under it, and is shown to them without it; others see full names.
func TestMountpoint(t *testing.T) {
	n := mounted(t)
	for _, v := range []byte{wire.V311, wire.V5} {
		all := n.connect("mqtt.tcp", "all", nil, version(v))
		subscribe(t, all, "a/#")
		in, to := n.connect("mqtt.a", "in", nil, version(v)), n.connect("mqtt.a", "to", nil, version(v))
		subscribe(t, in, "x/+", "$share/g/s/#", "$exclusive/e")
		for qos := byte(0); qos <= 2; qos++ {
			for range 3 { // with aliases in version 5
				publish(t, to, "x/1", "one", qos)
				wants(t, in, "x/1", "one")
				wants(t, all, "a/x/1", "one")
			}
		}
		publish(t, to, "s/1", "shared", 1)
		wants(t, in, "s/1", "shared")
		wants(t, all, "a/s/1", "shared")
		publish(t, all, "a/e", "exclusive", 1)
		wants(t, in, "e", "exclusive")
		wants(t, all, "a/e", "exclusive")
		publish(t, to, "$delayed/0/x/2", "later", 1)
		wants(t, in, "x/2", "later")
		wants(t, all, "a/x/2", "later")
		large := strings.Repeat("z", 100_000)
		publish(t, all, "a/x/large", large, 1)
		wants(t, in, "x/large", large)
		wants(t, all, "a/x/large", large)
		publish(t, all, "x/1", "not under it", 1)

		// The will, and what is retained.
		mourned := n.connect("mqtt.a", "mourned", nil, version(v), func(k *wire.Connect) {
			k.HasWill, k.Will = true, wire.Will{Topic: []byte("x/will"), Payload: []byte("gone"), QoS: 1}
		})
		_ = mourned.Close()
		wants(t, in, "x/will", "gone")
		wants(t, all, "a/x/will", "gone")
		if _, err := to.Publish(&wire.PublishOut{Topic: []byte("kept"), Payload: []byte("kept"), QoS: 1, Retain: true}); err != nil {
			t.Fatal(err)
		}
		wants(t, all, "a/kept", "kept")
		subscribe(t, in, "kept")
		wants(t, in, "kept", "kept")
		if _, err := to.Publish(&wire.PublishOut{Topic: []byte("kept"), QoS: 1, Retain: true}); err != nil { // takes it back
			t.Fatal(err)
		}
		wants(t, all, "a/kept", "")
		wants(t, in, "kept", "")
		if _, err := in.Unsubscribe("x/+"); err != nil {
			t.Fatal(err)
		}
		publish(t, to, "x/1", "nobody", 1)
		publish(t, to, "s/2", "last", 1)
		wants(t, in, "s/2", "last")
		for _, c := range []*mqttclient.Client{all, in, to} {
			_ = c.Disconnect()
		}
	}
}

// The server's own tree does not lie under a prefix, and nobody makes another one there.
func TestMountpointAndSys(t *testing.T) {
	n := mounted(t, "mqtt.sys_interval=1s")
	plain, c := n.connect("mqtt.tcp", "plain", nil), n.connect("mqtt.a", "c", nil)
	subscribe(t, c, "$SYS/#", "#")
	subscribe(t, plain, "$SYS/#")
	if m, err := plain.Receive(patience); err != nil || !strings.HasPrefix(string(m.Topic), "$SYS/") {
		t.Fatalf("%q, %v", m.Topic, err)
	}
	for _, topic := range []string{"$SYS/x", "$other/x"} {
		mayNot(t, c, topic)
	}
	if codes, err := c.Subscribe(wire.FilterRequest{Filter: []byte("$share/g/$exclusive/x")}); err != nil || codes[0] != wire.TopicFilterInvalid {
		t.Errorf("shared and exclusive: %v %v", codes, err)
	}
	if _, err := n.try("mqtt.a", "w", nil, func(k *wire.Connect) {
		k.HasWill, k.Will = true, wire.Will{Topic: []byte("$SYS/x"), Payload: []byte("x")}
	}); err == nil || !strings.Contains(err.Error(), "opic") {
		t.Errorf("a will of the server's: %v", err)
	}
	publish(t, c, "end", "end", 1)
	wants(t, c, "end", "end") // before anything of $SYS
}

// The prefix may be the user's. Rules are about full names; who has no user does not come in.
func TestMountpointOfUser(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(rules, []byte("deny publish by user ann on u/ann/secret\nallow all by all on #\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := mounted(t, "auth.acl_file="+rules, "mqtt.auto_subscribe=[{topic: 'for/%c', qos: 1}]")
	ann, all := n.connect("mqtt.own", "c1", nil, as("ann", "secret")), n.connect("mqtt.tcp", "all", nil)
	subscribe(t, all, "u/#")
	publish(t, ann, "x", "1", 1)
	wants(t, all, "u/ann/x", "1")
	publish(t, all, "u/ann/for/c1", "for me", 1)
	wants(t, ann, "for/c1", "for me")
	mayNot(t, ann, "secret") // by the full name
	for _, v := range []byte{wire.V311, wire.V5} {
		if _, err := n.try("mqtt.own", "nobody", nil, version(v)); err == nil || !strings.Contains(err.Error(), "uthorized") {
			t.Errorf("without a user: %v", err)
		}
	}
}

// A session is about full names: what it has brought from another listener and does not lie under the prefix is not handed out there, and goes on elsewhere.
func TestMountpointAndSession(t *testing.T) {
	n := mounted(t)
	stays := func(k *wire.Connect) { k.CleanStart, k.SessionExpiry = false, 3600 }
	c := n.connect("mqtt.tcp", "roams", nil, stays)
	subscribe(t, c, "a/x", "b/x")
	_ = c.Disconnect()
	pub := n.connect("mqtt.tcp", "pub", nil)
	publish(t, pub, "b/x", "outside", 1)
	publish(t, pub, "a/x", "inside", 1)
	c = n.connect("mqtt.a", "roams", nil, stays)
	wants(t, c, "x", "inside")
	testx.Eventually(t, patience, func() bool { // the loops tell their counters once in a while
		v, _ := n.metric("sluice_mqtt_messages_dropped_total", `reason="outside_prefix"`)
		return v == 1
	})
	_ = c.Disconnect()
	c = n.connect("mqtt.tcp", "roams", nil, stays)
	publish(t, pub, "b/x", "again", 1)
	wants(t, c, "b/x", "again")
}
