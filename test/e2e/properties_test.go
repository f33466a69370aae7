package e2e

import (
	"fmt"
	"testing"

	"github.com/sluicemq/sluice/internal/template"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func templates(t *testing.T, pairs ...string) (list []mqtt.PropertyTemplate) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		value, err := template.Parse(pairs[i+1])
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, mqtt.PropertyTemplate{Name: []byte(pairs[i]), Value: value})
	}
	return list
}

// User properties are what rules make of them, in order and whatever the client says, and all else of a message stays as it is.
func TestUserProperties(t *testing.T) {
	n := start(t, nodeOptions{settings: func(s *mqtt.Settings) {
		s.Properties = []mqtt.PropertyRule{
			{Filter: []byte("#"), Set: templates(t, "client", "%c", "user", "%u", "at", "<%t>")},
			{Filter: []byte("+/more/#"), Remove: []string{"secret", "at"}, Set: templates(t, "more", "100%%")},
			{Filter: []byte("+/none"), Remove: []string{"client", "at"}},
			{Filter: []byte("other"), Set: templates(t, "other", "x")},
		}
	}})
	in(t, n, both, func(w *world) {
		by := (&world{w.T, w.n, wire.V5, w.prefix}).connect("by")
		by.sub(1, "#")
		want := func(topic, props string) {
			w.Helper()
			m := by.recv()
			got := ""
			for u := m.Props.User().Read(); ; {
				name, value, ok := u.Next()
				if !ok {
					break
				}
				got += fmt.Sprintf("%s=%s ", name, value)
			}
			if string(m.Topic) != w.name(topic) || got != props {
				w.Errorf("%s has %q, want %q", m.Topic, got, props)
			}
			if ct := string(m.Props.ContentType()); w.version == wire.V5 && topic != "will" && ct != "text" {
				w.Errorf("%s has content type %q", m.Topic, ct)
			}
		}
		client := "client=" + w.id("pub") + " "
		sent, kept := "", ""
		pub := w.connect("pub", func(k *wire.Connect) {
			k.HasWill, k.Will = true, wire.Will{Topic: []byte(w.name("will")), QoS: 1}
		})
		var user []byte
		if w.version == wire.V5 {
			for _, p := range [][2]string{{"client", "me"}, {"secret", "1"}, {"x", "y"}, {"user", "root"}, {"x", "z"}} {
				user = wire.AppendUserProperty(user, []byte(p[0]), []byte(p[1]))
			}
			sent, kept = "secret=1 x=y x=z ", "x=y x=z "
		}
		with := func(p *wire.PublishOut) {
			if w.version == wire.V5 {
				p.Forward = append(wire.AppendProperty(nil, wire.Property{ID: wire.PropContentType, Data: []byte("text")}), user...)
			}
		}
		for qos := byte(0); qos <= 2; qos++ {
			pub.pub("a", "", qos, with)
			want("a", sent+client+"at=<"+w.name("a")+"> ")
			pub.pub("more/a", "", qos, with)
			want("more/a", kept+client+"more=100% ")
			pub.pub("none", "", qos, with)
			want("none", sent)
		}
		_ = pub.Close()
		want("will", client+"at=<"+w.name("will")+"> ")
	})
}
