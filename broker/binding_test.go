package broker

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

func TestParseBinding(t *testing.T) {
	for _, c := range []struct{ filter, topic, key, deliver, want string }{
		{"a/+", "t", "", "", ""},
		{"a/#", "t", "topic", "key", ""},
		{"#", "t", "level:2", "x/${key}/y", ""},
		{"a", "t", "client", "off", ""},
		{"a/b#", "t", "", "", "no MQTT topic filter"},
		{"", "t", "", "", "no MQTT topic filter"},
		{"$SYS/#", "t", "", "", "begin with $"},
		{"a", "t", "level:0", "", "from 1 on"},
		{"a", "t", "level:x", "", "from 1 on"},
		{"a", "t", "colour", "", "want topic, level:N or client"},
		{"a", "t", "", "x/y", "one ${key}"},
		{"a", "t", "", "${key}/${key}", "one ${key}"},
		{"a", "t", "", "x/+/${key}", "does not make a topic"},
		{"a", "t", "", "$x/${key}", "does not make a topic"},
	} {
		b, err := ParseBinding(c.filter, c.topic, c.key, c.deliver)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: %v", c, err)
		case err == nil && c.key != "" && (b.KeyText() != c.key || b.DeliverText() != c.deliver):
			t.Errorf("%+v: reads as %s, %s", c, b.KeyText(), b.DeliverText())
		}
	}
}

func TestTopicLevel(t *testing.T) {
	for _, c := range []struct {
		topic string
		n     int
		want  string
	}{{"a/b/c", 1, "a"}, {"a/b/c", 3, "c"}, {"a/b/c", 4, ""}, {"/b", 1, ""}, {"/b", 2, "b"}, {"a", 1, "a"}} {
		if got := topicLevel([]byte(c.topic), c.n); string(got) != c.want {
			t.Errorf("level %d of %s is %q, want %q", c.n, c.topic, got, c.want)
		}
	}
}

func TestLongestBinding(t *testing.T) {
	for _, c := range []struct{ a, b string }{ // a takes what both match
		{"a/b", "a/+"}, {"a/+", "a/#"}, {"a/+/c", "a/#"}, {"+/b/c", "a/#"}, {"a/b/+", "a/+/c"}, {"a/b/c", "a/b/#"}, {"a/+", "+/b"}, {"a/#", "#"},
	} {
		a, _ := ParseBinding(c.a, "t", "", "")
		b, _ := ParseBinding(c.b, "t", "", "")
		if compareBindings(a, b) >= 0 || compareBindings(b, a) <= 0 {
			t.Errorf("%s does not come before %s", c.a, c.b)
		}
	}
}

func TestFiltersMeet(t *testing.T) {
	for _, c := range []struct {
		a, b string
		meet bool
	}{{"a/b", "a/b", true}, {"a/+", "+/b", true}, {"a/#", "a", true}, {"a/b", "a/c", false}, {"a", "a/b", false}, {"#", "x/y", true}, {"a/+/c", "a/b/#", true},
		{"a/+/c", "a/b/d", false}, {"cmd/#", "cmd/#", true}, {"cmd/dev/x", "cmd/#", true}, {"+/+", "a/b/c", false}} {
		if filtersMeet([]byte(c.a), []byte(c.b)) != c.meet || filtersMeet([]byte(c.b), []byte(c.a)) != c.meet {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.meet)
		}
	}
}

// The hashes are those of Kafka's own test of its murmur2 (UtilsTest).
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("%s: %d, want %d", key, got, want)
		}
	}
}

// Who has published a message is known by its slot as long as the node runs, and by the number of a kept session after a restart too.
func TestPublishedBy(t *testing.T) {
	b := New(Options{Loops: 1})
	defer b.Close()
	kept := &Client{Slot: 7, sess: &Session{d: &durable{id: 42}}}
	other := &Client{Slot: 8, sess: &Session{d: &durable{id: 43}}}
	live := &Client{Slot: 7, sess: &Session{}}
	for _, c := range []struct {
		what                 string
		durable, run         uint64
		byKept, byOther, byL bool
	}{{"of this run", 42, b.run, true, false, true}, {"of an earlier run", 42, b.run ^ 1, true, false, false}, {"of an earlier live session", 0, b.run ^ 1, false, false, false}} {
		var builder record.BatchBuilder
		builder.Begin(nil, 1)
		who := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, c.durable), c.run<<32|7)
		builder.Append(&record.Input{Key: []byte("k"), Headers: []record.Header{{Key: []byte(headerPublisher), Value: who}}})
		it := record.Batch(builder.Finish(&record.BatchOptions{})).Records()
		it.Next()
		var m Message
		b.publishedBy(&m, it.Record())
		if m.by(kept) != c.byKept || m.by(other) != c.byOther || m.by(live) != c.byL {
			t.Errorf("%s: by the kept session %v, by another %v, by a live one %v", c.what, m.by(kept), m.by(other), m.by(live))
		}
	}
}
