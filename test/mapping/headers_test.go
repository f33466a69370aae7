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
	for _, f := range []string{"headers_test.go", "matrix_test.go", "rules_test.go", "changes_test.go", "settings_test.go", "../crash/kill_test.go",
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
