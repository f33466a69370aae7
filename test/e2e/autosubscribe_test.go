package e2e

import (
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A new session begins with subscriptions, by SUBSCRIBE's rules; one that is resumed has what it had.
func TestAutoSubscribe(t *testing.T) {
	n := start(t, nodeOptions{authz: onlyPlain{}, settings: func(s *mqtt.Settings) {
		s.MaxQoS = 1
		s.AutoSubscribe = []mqtt.AutoSubscription{
			{Filter: "t/of/%c/+", QoS: 2}, {Filter: "t/own/%c", NoLocal: true}, {Filter: "forbidden/%c"}, {Filter: "t/user/%u/%c"},
			{Filter: "$exclusive/t/off/%c"}, {Filter: "t/kept/%c", QoS: 1, RetainAsPublished: true}, {Filter: "t/unkept/%c", QoS: 1, RetainHandling: 2},
		}
	}})
	in(t, n, both, func(w *world) {
		pub := w.connect("pub")
		say := func(topic, payload string, opts ...func(*wire.PublishOut)) {
			w.Helper()
			p := wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: 1}
			for _, o := range opts {
				o(&p)
			}
			if _, err := pub.Publish(&p); err != nil {
				w.Fatal(err)
			}
		}
		for i, o := range []with{func(*wire.Connect) {}, kept} {
			id := "c" + string(rune('0'+i))
			say("t/kept/"+w.id(id), "retained", retain)
			say("t/unkept/"+w.id(id), "retained", retain)
			c := w.connect(id, o)
			if m := c.recv(); string(m.Payload) != "retained" || !m.Retain || string(m.Topic) != "t/kept/"+w.id(id) {
				w.Fatalf("%s %s", m.Topic, m.Payload)
			}
			for _, topic := range []string{"forbidden/", "t/user//", "t/off/"} {
				say(topic+w.id(id), "nobody's")
			}
			if w.version == wire.V5 { // which has no-local
				if _, err := c.Publish(&wire.PublishOut{Topic: []byte("t/own/" + w.id(id)), Payload: []byte("own"), QoS: 1}); err != nil {
					w.Fatal(err)
				}
			}
			say("t/of/"+w.id(id)+"/x", "1")
			if m := c.expect("1")[0]; m.QoS != 1 {
				w.Errorf("QoS %d", m.QoS)
			}
			if codes, err := c.Unsubscribe("t/of/"+w.id(id)+"/+", "t/kept/"+w.id(id)); err != nil || w.version == wire.V5 && (codes[0] != wire.Success || codes[1] != wire.Success) {
				w.Fatalf("%v %v", codes, err)
			}
			_ = c.Close()
			say("t/unkept/"+w.id(id), "while it was away")
			c = w.connect(id, o)
			if i == 0 {
				c.expect("retained") // another session, which begins as the first
				continue
			}
			say("t/of/"+w.id(id)+"/x", "it wants that no more")
			say("t/unkept/"+w.id(id), "2")
			c.expect("while it was away", "2")
			c.bye()
			w.connect(id).bye()
		}
	})
}

// Nobody names itself into other levels or wildcards.
func TestAutoSubscribeBadNames(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) {
		s.AutoSubscribe = []mqtt.AutoSubscription{{Filter: "t/of/%c/+", QoS: 2}, {Filter: "t/own/%c"}}
	}})
	in(t, n, both, func(w *world) {
		wild := "+"
		if w.version == wire.V5 {
			wild = "#" // the versions run side by side: each has a name of its own
		}
		for _, id := range []string{wild, w.name("x")} {
			c, err := w.try(id)
			if err != nil {
				w.Fatal(err)
			}
			pub := w.connect("pub")
			for _, topic := range []string{"t/of/" + w.id("c9") + "/x", "t/own/" + w.name("x")} {
				if _, err := pub.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("not its own"), QoS: 1}); err != nil {
					w.Fatal(err)
				}
			}
			c.sub(1, "quiet")
			c.quiet("quiet")
			c.bye()
			pub.bye()
		}
	})
}
