package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// later publishes to a topic of the corner by $delayed, and gives what is said of it: Success below MQTT 5.
func (c *client) later(how, topic, payload string, qos byte) wire.ReasonCode {
	c.w.Helper()
	code, err := c.Publish(&wire.PublishOut{Topic: []byte("$delayed/" + how + "/" + c.w.name(topic)), Payload: []byte(payload), QoS: qos})
	if err != nil && !code.Failed() {
		c.w.Fatalf("publish %s later: %v", topic, err)
	}
	return code
}

// notSecret forbids topics that end with secret.
type notSecret struct{}

func (notSecret) Authorize(_ *broker.Identity, _ broker.Action, topic []byte) bool {
	return !strings.HasSuffix(string(topic), "/secret")
}
func (notSecret) Generation() uint64 { return 1 }

// A message comes after its time under its own topic, with its QoS and properties, though its client has left.
func TestDelayed(t *testing.T) {
	n := start(t, nodeOptions{authz: notSecret{}, limits: broker.Limits{DelayedPerClient: 4},
		settings: func(s *mqtt.Settings) { s.Rewrite = rewriting(t, [2]string{"+/old/#", "$1/new/$2"}) }})
	t.Run("comes", func(t *testing.T) {
		in(t, n, both, func(w *world) {
			by, all, pub := w.connect("by"), w.connect("all"), w.connect("pub")
			by.sub(2, "#")
			if got := all.code("#"); got != wire.GrantedQoS1 {
				w.Fatal(got)
			}
			began := time.Now()
			pub.later("1", "old/x", "0", 0)
			pub.later("1", "y", "1", 1)
			pub.later("1", "y", "2", 2)
			pub.later("0", "y", "now", 1)
			if m := by.recv(); string(m.Payload) != "now" || string(m.Topic) != w.name("y") {
				w.Fatalf("%s of %s", m.Payload, m.Topic)
			}
			pub.bye()
			topics := []string{"new/x", "y", "y"}
			for seen := ""; len(seen) < 3; {
				m := by.recv()
				i := int(m.Payload[0] - '0')
				if seen += string(m.Payload); string(m.Topic) != w.name(topics[i]) || int(m.QoS) != i || m.Retain || strings.Count(seen, string(m.Payload)) > 1 {
					w.Errorf("%s of %s at QoS %d", m.Payload, m.Topic, m.QoS)
				}
			}
			if d := time.Since(began); d < 900*time.Millisecond { // a loop's clock stands still for a turn
				w.Errorf("they came after %v", d)
			}
			for own := 0; own < 4; { // other runs publish too
				m := all.recv()
				if m.Topic[0] == '$' {
					w.Fatalf("# matches %s", m.Topic)
				}
				if strings.HasPrefix(string(m.Topic), w.prefix+"/") {
					own++
				}
			}
		})
	})
	t.Run("retained", func(t *testing.T) { in(t, n, only5, delayedRetained) })
	t.Run("cancel", func(t *testing.T) { in(t, n, both, delayedCancelled) })
	t.Run("refused", func(t *testing.T) { in(t, n, both, delayedRefused) })
}

// delayedRetained: the retain flag holds, and a message's expiry counts from when it is published.
func delayedRetained(w *world) {
	by, pub := w.connect("by"), w.connect("pub")
	by.sub(1, "r")
	p := wire.PublishOut{Topic: []byte("$delayed/1/" + w.name("r")), Payload: []byte("kept"), QoS: 1, Retain: true, HasExpiry: true, Expiry: 100}
	if _, err := pub.Publish(&p); err != nil {
		w.Fatal(err)
	}
	if m := by.recv(); m.Props.Expiry != 100 {
		w.Errorf("expiry %d", m.Props.Expiry)
	}
	late := w.connect("late")
	late.sub(1, "r")
	if m := late.recv(); !m.Retain || string(m.Payload) != "kept" {
		w.Errorf("%s, retained %t", m.Payload, m.Retain)
	}
}

// delayedCancelled: a client takes back what it has sent, over connections, and nobody else's.
func delayedCancelled(w *world) {
	by, a, b := w.connect("by"), w.connect("a"), w.connect("b")
	by.sub(1, "#")
	a.later("1", "x", "cancelled", 1)
	a.later("1", "other", "other", 1)
	b.later("1", "x", "b's", 1)
	a.bye()
	a = w.connect("a")
	a.later("cancel", "x", "", 1)
	by.expectAny("other", "b's")
	by.quiet("x")
}

// expectAny receives these payloads in any order.
func (c *client) expectAny(payloads ...string) {
	c.w.Helper()
	want := map[string]bool{}
	for _, p := range payloads {
		want[p] = true
	}
	for range payloads {
		if m := c.recv(); !want[string(m.Payload)] {
			c.w.Fatalf("%q came, want one of %v", m.Payload, payloads)
		} else {
			delete(want, string(m.Payload))
		}
	}
}

// delayedRefused: what is refused, and by which words. Below MQTT 5 it is acknowledged and dropped, but for a quota, which ends the connection.
func delayedRefused(w *world) {
	c := w.connect("c")
	for how, code := range map[string]wire.ReasonCode{"4294968": wire.QuotaExceeded, "99999999999999999999": wire.QuotaExceeded, "x": wire.TopicNameInvalid,
		"-1": wire.TopicNameInvalid, "1.5": wire.TopicNameInvalid, "": wire.TopicNameInvalid} {
		for qos := byte(1); qos <= 2; qos++ {
			if got := c.later(how, "t", "", qos); w.version == wire.V5 && got != code {
				w.Errorf("%q: %v, want %v", how, got, code)
			}
		}
	}
	if got := c.later("10", "secret", "", 1); w.version == wire.V5 && got != wire.NotAuthorized {
		w.Errorf("rules: %v", got)
	}
	if got := c.later("cancel", "secret", "", 1); w.version == wire.V5 && got != wire.NotAuthorized {
		w.Errorf("rules of a cancelled one: %v", got)
	}
	for _, topic := range []string{"$delayed/1", "$delayed/1/", "$delayed/", "$delayed/1/$delayed/1/x", "$delayed/1/$SYS/x"} {
		code, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1})
		if w.version == wire.V5 && !code.Failed() || w.version != wire.V5 && err != nil {
			w.Errorf("%s: %v %v", topic, code, err)
		}
	}
	if _, err := w.try(w.id("will"), func(k *wire.Connect) {
		k.HasWill, k.Will = true, wire.Will{Topic: []byte("$delayed/1/" + w.name("x"))}
	}); err == nil {
		w.Error("a will by $delayed")
	}
	for range 4 {
		if got := c.later("4294967", "t", "", 1); w.version == wire.V5 && got.Failed() {
			w.Errorf("below the limit: %v", got)
		}
	}
	code, err := c.Publish(&wire.PublishOut{Topic: []byte("$delayed/100/" + w.name("t")), QoS: 1})
	if w.version == wire.V5 && code != wire.QuotaExceeded || w.version != wire.V5 && err == nil {
		w.Errorf("over the limit: %v %v", code, err)
	}
	c = w.connect("c")
	c.later("cancel", "t", "", 1)
	if got := c.later("100", "t", "", 1); w.version == wire.V5 && got.Failed() {
		w.Errorf("after they were cancelled: %v", got)
	}
}

// Where it is off, or a delay is too long, nothing is published at another time than was asked for.
func TestDelayedOff(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.Delayed = 0 }})
	in(t, n, both, func(w *world) {
		c := w.connect("c")
		if got := c.code("$delayed/#"); got != wire.GrantedQoS1 {
			w.Fatal(got)
		}
		if got := c.later("0", "x", "", 1); w.version == wire.V5 && got != wire.TopicNameInvalid {
			w.Errorf("off: %v", got)
		}
		c.sub(1, "quiet")
		c.quiet("quiet")
	})
}
