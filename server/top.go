package server

import "strconv"

// slowRanks is how many of the slowest clients metrics have: by rank, as no label has a client's name.
const slowRanks = 5

// collectTop tells of the slowest clients and the busiest topics.
func (c *collector) collectTop(k sink, late uint64) {
	k.counter("sluice_mqtt_late_total", late)
	slow := c.s.node.mqtt.Slow()
	k.gauge("sluice_mqtt_slow_subscribers", float64(len(slow)))
	for i := range slowRanks {
		seconds := 0.0
		if i < len(slow) {
			seconds = slow[i].Longest.Seconds()
		}
		k.gauge("sluice_mqtt_slow_subscriber_seconds", seconds, strconv.Itoa(i+1))
	}
	for _, t := range c.s.node.mqtt.Busy() {
		k.counter("sluice_mqtt_topic_messages_received_total", t.MessagesIn, t.Topic)
		k.counter("sluice_mqtt_topic_messages_sent_total", t.MessagesOut, t.Topic)
		k.counter("sluice_mqtt_topic_received_bytes_total", t.BytesIn, t.Topic)
		k.counter("sluice_mqtt_topic_sent_bytes_total", t.BytesOut, t.Topic)
	}
}
