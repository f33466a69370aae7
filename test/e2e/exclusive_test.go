package e2e

import (
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// code subscribes to one filter and gives what is said of it.
func (c *client) code(filter string) wire.ReasonCode {
	c.w.Helper()
	return c.subWith(&wire.SubscribeOut{Filters: []wire.FilterRequest{{Filter: []byte(filter), QoS: 1}}})[0]
}

// refusal is a code as the version has it.
func (w *world) refusal(code wire.ReasonCode) wire.ReasonCode {
	if w.version != wire.V5 {
		return wire.UnspecifiedError
	}
	return code
}

// onlyPlain lets clients subscribe to filters that begin with t, the corners of runs.
type onlyPlain struct{}

func (onlyPlain) Authorize(_ *broker.Identity, a broker.Action, topic []byte) bool {
	return a != broker.ActionSubscribe || topic[0] == 't'
}
func (onlyPlain) Generation() uint64 { return 1 }

// $exclusive/FILTER is one client's at a time: until it unsubscribes, or its session ends.
func TestExclusiveSubscription(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) { s.Exclusive = true }, authz: onlyPlain{}})
	t.Run("in", func(t *testing.T) {
		in(t, n, both, func(w *world) {
			a, b, pub := w.connect("a", kept), w.connect("b"), w.connect("pub")
			filter := "$exclusive/" + w.name("x/+")
			taken := w.refusal(wire.QuotaExceeded)
			check := func(what string, c *client, want wire.ReasonCode) {
				w.Helper()
				if got := c.code(filter); got != want {
					w.Errorf("%s: %v, want %v", what, got, want)
				}
			}
			check("free", a, wire.GrantedQoS1)
			check("taken", b, taken)
			check("again", a, wire.GrantedQoS1)
			pub.pub("x/1", "1", 1)
			if m := a.recv(); string(m.Topic) != w.name("x/1") {
				w.Errorf("came as %s", m.Topic)
			}
			_ = a.Close() // the connection, not the session
			a = w.connect("a", kept)
			check("while the holder was away", b, taken)
			if _, err := a.Unsubscribe(filter); err != nil {
				w.Fatal(err)
			}
			check("after UNSUBSCRIBE", b, wire.GrantedQoS1)
			check("the other way round", a, taken)
			b.bye()
			b = w.connect("b") // answered when the session before has ended
			check("after the session", a, wire.GrantedQoS1)

			for _, f := range []string{"$share/g/" + filter, "$exclusive/$share/g/t", "$exclusive/$exclusive/t", "$exclusive/"} {
				if got := b.code(f); got != w.refusal(wire.TopicFilterInvalid) {
					w.Errorf("%s: %v", f, got)
				}
			}
			if got := b.code("$exclusive/not-theirs"); got != w.refusal(wire.NotAuthorized) {
				w.Errorf("what rules forbid: %v", got)
			}
			a.bye()
			w.connect("a").bye()
		})
	})
}

// Where it is off, nobody takes it for an ordinary filter.
func TestExclusiveSubscriptionOff(t *testing.T) {
	each(t, both, func(w *world) {
		if got := w.connect("c").code("$exclusive/" + w.name("x")); got != w.refusal(wire.TopicFilterInvalid) {
			w.Errorf("%v", got)
		}
	})
}
