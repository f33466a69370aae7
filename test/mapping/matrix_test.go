package mapping

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// TestMatrix: whoever publishes, by MQTT 3.1.1, MQTT 5 or Kafka, and whoever reads, by MQTT live, after absence, in a shared group, from the past,
// or by a Kafka group: each gets every message once, in the order of its topic, with what belongs to it.
func TestMatrix(t *testing.T) {
	for _, transport := range []string{"epoll", "netpoll"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n := start(t, "[{filter: plant/+/temp, topic: temps, partitions: 3}]", "listeners.mqtt.transport="+transport, "listeners.kafka.transport="+transport)
			live := n.mqtt(wire.V5, "live", false)
			live.sub(1, "plant/#", "")
			old := n.mqtt(wire.V311, "old", false)
			old.sub(1, "plant/+/temp", "")
			absent := n.mqtt(wire.V5, "absent", true)
			absent.sub(2, "plant/+/temp", "")
			if err := absent.Disconnect(); err != nil {
				t.Fatal(err)
			}
			member := n.mqtt(wire.V5, "member", false)
			member.sub(1, "$share/g/plant/+/temp", "")
			gone := n.mqtt(wire.V5, "gone", true)
			gone.sub(1, "$share/h/plant/+/temp", "")
			if err := gone.Disconnect(); err != nil {
				t.Fatal(err)
			}

			sent := publishAll(n)
			plain := make([]message, len(sent))
			for i := range sent {
				plain[i] = message{topic: sent[i].topic, payload: sent[i].payload}
			}
			same(t, "live, MQTT 5", live.take(len(sent)), sent)
			same(t, "live, MQTT 3.1.1", old.take(len(sent)), plain)
			same(t, "shared", member.take(len(sent)), sent)
			same(t, "absent and back", n.mqtt(wire.V5, "absent", true).take(len(sent)), sent)
			same(t, "shared, absent and back", n.mqtt(wire.V5, "gone", true).take(len(sent)), sent)
			same(t, "Kafka group", messagesOf(n.consume("temps", "readers", len(sent))), sent)
			replay := n.mqtt(wire.V5, "replay", false)
			replay.sub(1, "plant/+/temp", "earliest")
			same(t, "replay", replay.take(len(sent)), sent)
		})
	}
}

// publishAll publishes by each protocol, and gives what was sent.
func publishAll(n *node) (sent []message) {
	n.Helper()
	v3, v5 := n.mqtt(wire.V311, "pub3", false), n.mqtt(wire.V5, "pub5", false)
	kafka := n.kafka(kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	forward := append(wire.AppendUserProperty(nil, []byte("unit"), []byte("°C")), 0x03, 0, 4, 't', 'e', 'x', 't')
	forward = wire.AppendUserProperty(forward, []byte("mqtt.own"), []byte("x"))
	forward = binary.BigEndian.AppendUint16(append(forward, 0x08), 5)
	forward = append(forward, "reply"...)
	for i := range 40 {
		for k := range 3 {
			topic, payload := fmt.Sprintf("plant/v3-%d/temp", k), fmt.Sprint(i)
			v3.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: 1})
			sent = append(sent, message{topic, payload, ""})

			topic = fmt.Sprintf("plant/v5-%d/temp", k)
			v5.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: byte(1 + k%2), Forward: forward})
			sent = append(sent, message{topic, payload, propsText(forward)})
		}
		var records []*kgo.Record
		for k := range 3 {
			topic := fmt.Sprintf("plant/k-%d/temp", k)
			records = append(records, &kgo.Record{Topic: "temps", Key: []byte(topic), Value: fmt.Append(nil, i),
				Headers: []kgo.RecordHeader{{Key: "unit", Value: []byte("K")}, {Key: "mqtt.content_type", Value: []byte("t")}}})
			sent = append(sent, message{topic, fmt.Sprint(i), "unit=K;mqtt.content_type=t"})
		}
		n.produce(kafka, records...)
	}
	return sent
}
