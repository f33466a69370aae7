package e2e

import (
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/rewrite"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func rewriting(t *testing.T, list ...[2]string) (rs rewrite.Rules) {
	t.Helper()
	for _, l := range list {
		r, err := rewrite.New(rewrite.Publish|rewrite.Subscribe, l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

// notBefore forbids what rules have not rewritten.
type notBefore struct{}

func (notBefore) Authorize(_ *broker.Identity, _ broker.Action, topic []byte) bool {
	return !strings.Contains(string(topic), "/old/")
}
func (notBefore) Generation() uint64 { return 1 }

// Topics and filters are others before anybody looks at them.
func TestRewrite(t *testing.T) {
	n := start(t, nodeOptions{authz: notBefore{}, settings: func(s *mqtt.Settings) {
		s.Exclusive = true
		s.Rewrite = rewriting(t, [2]string{"+/old/+/#", "$1/new/$2/$3"}, [2]string{"+/bad/+", "$1/x$2"}, [2]string{"+/forbidden", "$1/old/$1"})
	}})
	t.Run("in", func(t *testing.T) {
		in(t, n, both, func(w *world) {
			by, pub := w.connect("by"), w.connect("pub")
			by.sub(1, "new/#", "quiet")
			want := func(topic, payload string) {
				w.Helper()
				if m := by.recv(); string(m.Topic) != w.name(topic) || string(m.Payload) != payload {
					w.Fatalf("%s of %s, want %s of %s", m.Payload, m.Topic, payload, topic)
				}
			}
			for qos := byte(0); qos <= 2; qos++ {
				pub.pub("old/a/b/c", "1", qos)
				want("new/a/b/c", "1")
			}
			pub.pub("new/a", "2", 1)
			want("new/a", "2")

			// A will.
			mourned := w.connect("mourned", func(k *wire.Connect) {
				k.HasWill, k.Will = true, wire.Will{Topic: []byte(w.name("old/will")), Payload: []byte("3"), QoS: 1}
			})
			_ = mourned.Close()
			want("new/will", "3")
		})
	})
	t.Run("filters", func(t *testing.T) { in(t, n, both, rewrittenFilters) })
	t.Run("live", func(t *testing.T) { in(t, n, only5, rewrittenLive) })
}

// rewrittenFilters: ordinary, shared and exclusive filters are rewritten, and UNSUBSCRIBE finds them.
func rewrittenFilters(w *world) {
	by, pub := w.connect("by"), w.connect("pub")
	by.sub(1, "new/#", "quiet")
	if codes, err := by.Unsubscribe(w.name("old/#")); err != nil || w.version == wire.V5 && codes[0] != wire.NoSubscriptionExisted {
		w.Errorf("old/# is no filter of a rule: %v %v", codes, err)
	}
	if codes, err := by.Unsubscribe(w.name("new/#")); err != nil || w.version == wire.V5 && codes[0] != wire.Success {
		w.Fatalf("%v %v", codes, err)
	}
	for _, prefix := range []string{"", "$share/g/", "$exclusive/"} {
		filters := []string{prefix + w.name("old/+/#"), prefix + w.name("old/second/x")}
		for _, f := range filters {
			if got := by.code(f); got != wire.GrantedQoS1 {
				w.Fatalf("%s: %v", f, got)
			}
		}
		pub.pub("new/first", prefix, 1)
		by.expect(prefix)
		codes, err := by.Unsubscribe(filters...)
		if err != nil || w.version == wire.V5 && (codes[0] != wire.Success || codes[1] != wire.Success) {
			w.Fatalf("%s: %v %v", prefix, codes, err)
		}
		pub.pub("new/first", "nobody's", 1)
		by.quiet("quiet")
	}
	for filter, code := range map[string]wire.ReasonCode{"bad/+": wire.TopicFilterInvalid, "old/#/x": wire.TopicFilterInvalid, "forbidden": wire.NotAuthorized} {
		if got := by.code(w.name(filter)); got != w.refusal(code) {
			w.Errorf("%s: %v, want %v", filter, got, code)
		}
	}
}

// rewrittenLive: an alias names the topic as the client does, and rules may change while clients are there.
func rewrittenLive(w *world) {
	by, pub := w.connect("by"), w.connect("pub")
	by.sub(1, "new/#")
	for _, topic := range []string{w.name("old/aliased"), ""} {
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("x"), QoS: 1, TopicAlias: 1}); err != nil {
			w.Fatal(err)
		}
		if m := by.recv(); string(m.Topic) != w.name("new/aliased") {
			w.Errorf("came as %s", m.Topic)
		}
	}
	s := mqtt.DefaultSettings()
	s.Rewrite = rewriting(w.T, [2]string{"+/later", "$1/new/later"})
	w.n.handler.Set(s)
	pub.pub("later", "y", 1)
	if m := by.recv(); string(m.Topic) != w.name("new/later") {
		w.Errorf("came as %s", m.Topic)
	}
}
