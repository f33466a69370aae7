package mapping

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A bound stream keeps its topic's settings: the time is the broker's, batches are compressed anew, compaction leaves the last message of each
// topic; MQTT's readers and Kafka's see the same of it, before a crash and after it.
func TestStreamSettings(t *testing.T) {
	t.Parallel()

	for name, settings := range map[string]map[string]string{
		"time": {"message.timestamp.type": "LogAppendTime"},
		"gzip": {"compression.type": "gzip"},
		"lz4":  {"compression.type": "lz4", "message.timestamp.type": "LogAppendTime"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, `[{filter: "c/#", topic: c}]`)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var change []kadm.AlterConfig
			for k, v := range settings {
				change = append(change, kadm.AlterConfig{Name: k, Value: &v})
			}
			if res, err := n.admin().AlterTopicConfigs(ctx, change, "c"); err != nil || res[0].Err != nil {
				t.Fatal(res, err)
			}
			absent := n.mqtt(wire.V5, "absent", true)
			absent.sub(1, "c/#", "")
			_ = absent.Disconnect()
			live := n.mqtt(wire.V5, "live", false)
			live.sub(1, "c/#", "")
			began := time.Now()
			sent := publishSettings(n)
			same(t, "live", live.take(len(sent)), sent)
			n.crash()
			same(t, "Kafka", messagesOf(n.consume("c", "", len(sent))), sent)
			for _, r := range n.consume("c", "", len(sent)) {
				if settings["message.timestamp.type"] != "" && r.Timestamp.Before(began.Add(-time.Second)) {
					t.Errorf("%s at %d has the time %v of its producer", r.Key, r.Offset, r.Timestamp)
				}
			}
			replay := n.mqtt(wire.V5, "replay", false)
			replay.sub(1, "c/#", "earliest")
			same(t, "replay", replay.take(len(sent)), sent)
			if settings["message.timestamp.type"] != "" {
				since := n.mqtt(wire.V5, "since", false)
				since.sub(1, "c/#", began.Add(-time.Second).Format(time.RFC3339Nano))
				same(t, "since the load began", since.take(len(sent)), sent)
			}
			same(t, "absent and back", n.mqtt(wire.V5, "absent", true).take(len(sent)), sent)
		})
	}
}

// publishSettings publishes by both protocols, what Kafka's client sends with a time long ago.
func publishSettings(n *node) (sent []message) {
	n.Helper()
	pub, kafka := n.mqtt(wire.V5, "pub", false), n.kafka()
	for i := range 60 {
		topic := fmt.Sprintf("c/%d", i%5)
		if i%3 == 0 {
			n.produce(kafka, &kgo.Record{Topic: "c", Key: []byte(topic), Value: fmt.Append(nil, i), Timestamp: time.Unix(1e9, 0)})
		} else {
			pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: fmt.Append(nil, i), QoS: byte(1 + i%2)})
		}
		sent = append(sent, message{topic, fmt.Sprint(i), ""})
	}
	return sent
}
