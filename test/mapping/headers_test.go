package mapping

import (
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// What a message says beside its payload is in headers, only where it is not the default.
func TestHeaders(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "h/#", topic: h}]`)
	pub := n.mqtt(wire.V5, "pub", false)
	before := time.Now()
	pub.pub(wire.PublishOut{Topic: []byte("h/plain"), Payload: []byte("x"), QoS: 1})
	props := append([]byte{0x01, 1, 0x09, 0, 2, 0xff, 0x00}, wire.AppendUserProperty(nil, []byte("k"), []byte("v"))...)
	pub.pub(wire.PublishOut{Topic: []byte("h/all"), Payload: []byte("x"), QoS: 2, Retain: true, HasExpiry: true, Expiry: 60, Forward: props})
	pub.pub(wire.PublishOut{Topic: []byte("h/0"), Payload: nil, QoS: 0})
	got := map[string]*kgo.Record{}
	for _, r := range n.consume("h", "", 3) {
		got[string(r.Key)] = r
		if r.Timestamp.Before(before.Add(-time.Second)) || r.Timestamp.After(time.Now().Add(time.Second)) {
			t.Errorf("%s: its time is %v", r.Key, r.Timestamp)
		}
	}
	text := func(r *kgo.Record) string {
		var list []string
		for _, h := range r.Headers {
			if h.Key == "mqtt.deadline" {
				left := time.UnixMilli(int64(binary.BigEndian.Uint64(h.Value))).Sub(r.Timestamp)
				list = append(list, fmt.Sprint("deadline in ", left))
				continue
			}
			list = append(list, fmt.Sprintf("%s=%q", h.Key, h.Value))
		}
		return strings.Join(list, " ")
	}
	for topic, want := range map[string]string{"h/plain": "", "h/0": `mqtt.qos="0"`,
		"h/all": `mqtt.qos="2" mqtt.retain="1" deadline in 1m0s mqtt.format="\x01" mqtt.correlation="\xff\x00" k="v"`} {
		if s := text(got[topic]); s != want {
			t.Errorf("%s: headers %s, want %s", topic, s, want)
		}
	}
	if v := got["h/0"].Value; v == nil || len(v) > 0 {
		t.Errorf("an empty payload is %v", v)
	}
}

// What rules of user properties make of a message is in its headers, whatever version its client speaks and whatever it says of itself: set takes the place of what it has sent
// under the name, remove leaves nothing, what would be empty is not there, and a name of the broker's own headers does not pass for one. MQTT subscribers see the same.
func TestUserPropertyRules(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "p/#", topic: p}]`, `mqtt.user_properties=[{topic: "p/#", set: {client: "%c", user: "%u", from: "mqtt %t", mqtt.qos: "9"}, remove: [internal]}, {topic: p/late, set: {from: late}}]`)
	sub := n.mqtt(wire.V5, "sub", false)
	sub.sub(1, "p/#", "")
	five, four := n.mqtt(wire.V5, "five", false), n.mqtt(wire.V311, "four", false)
	var props []byte
	for _, p := range [][2]string{{"client", "somebody else"}, {"internal", "1"}, {"kept", "a"}, {"client", "again"}, {"user", "root"}, {"kept", "b"}} {
		props = wire.AppendUserProperty(props, []byte(p[0]), []byte(p[1]))
	}
	five.pub(wire.PublishOut{Topic: []byte("p/5"), Payload: []byte("x"), QoS: 1, Forward: props})
	four.pub(wire.PublishOut{Topic: []byte("p/4"), Payload: []byte("x"), QoS: 1})
	four.pub(wire.PublishOut{Topic: []byte("p/late"), Payload: []byte("x"), QoS: 1})
	want := map[string]string{
		"p/5":    "kept=a;kept=b;client=five;from=mqtt p/5;mqtt.user.mqtt.qos=9",
		"p/4":    "client=four;from=mqtt p/4;mqtt.user.mqtt.qos=9",
		"p/late": "client=four;mqtt.user.mqtt.qos=9;from=late",
	}
	for _, r := range n.consume("p", "", 3) {
		var got []string
		for _, h := range r.Headers {
			got = append(got, h.Key+"="+string(h.Value))
		}
		if text := strings.Join(got, ";"); text != want[string(r.Key)] {
			t.Errorf("%s: headers %s, want %s", r.Key, text, want[string(r.Key)])
		}
	}
	for _, m := range sub.take(3) {
		if w := strings.ReplaceAll(want[m.topic], "mqtt.user.", ""); m.props != w {
			t.Errorf("%s: properties %s, want %s", m.topic, m.props, w)
		}
	}
}

// A message goes to the partition that Kafka's own clients take for its key.
func TestPartitioner(t *testing.T) {
	t.Parallel()
	n := start(t, `[{filter: "part/#", topic: part, partitions: 7}]`)
	pub := n.mqtt(wire.V5, "pub", false)
	kafka := n.kafka() // franz-go's default partitioner is Kafka's for records with keys
	const keys = 60
	for i := range keys {
		topic := "part/" + strings.Repeat("x", i)
		pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte("m"), QoS: 1})
		n.produce(kafka, &kgo.Record{Topic: "part", Key: []byte(topic), Value: []byte("k")})
	}
	at := map[string]int32{}
	for _, r := range n.consume("part", "", 2*keys) {
		if p, seen := at[string(r.Key)]; seen && p != r.Partition {
			t.Errorf("key %s is in partitions %d and %d", r.Key, p, r.Partition)
		}
		at[string(r.Key)] = r.Partition
	}
	if len(at) != keys {
		t.Errorf("%d keys, want %d", len(at), keys)
	}
}

// Each test that docs/mapping.md names is there.
func TestDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/mapping.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range []string{"headers_test.go", "matrix_test.go", "rules_test.go", "changes_test.go", "settings_test.go", "trace_test.go", "../crash/kill_test.go",
		"../../broker/replay_test.go"} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(b)
	}
	named := regexp.MustCompile(`Test[A-Z]\w+`).FindAllString(string(page), -1)
	for _, name := range named {
		if !strings.Contains(source.String(), "func "+name+"(t *testing.T)") {
			t.Errorf("docs/mapping.md names %s, and no test has that name", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("docs/mapping.md names %d tests", len(named))
	}
}
