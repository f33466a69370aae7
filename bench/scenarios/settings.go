package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicemq/sluice/bench"
)

// What a setting may be at most: more is a slip of the pen.
const (
	connectionsMax = 1_000_000
	filtersMax     = 50_000_000
	payloadMax     = 64 << 20
)

// mqttSettings is the table of the settings of a load on an MQTT broker.
func (l *Load) mqttSettings() []Setting {
	c := &l.mqtt
	s := []Setting{
		number("mqtt-version", &l.version, 5, 4, 5, "4 (3.1.1) or 5"),
		number("pairs", &l.pairs, 0, 0, connectionsMax, "publishers with a subscriber each (pairs; default 64)"),
		number("publishers", &c.Publishers, 0, 0, connectionsMax, "publishers; 0: as the load has it"),
		number("subscribers", &c.Subscribers, 0, 0, connectionsMax, "subscribers, or sessions; 0: as the load has it"),
		number("connections", &c.Conns, 0, 0, connectionsMax, "connections of idle (default 15000) and storm (default 10000)"),
		number("filters", &c.Filters, 0, 0, filtersMax, "filters of wildcards (default 100000)"),
		number("messages", &c.Messages, 0, 0, 0, "messages of each publisher instead of a duration; in all for queue and retained"),
		number("payload", &c.Payload, 64, bench.MinPayload, payloadMax, fmt.Sprintf("payload bytes, at least %d", bench.MinPayload)),
		number("qos", &l.qos, 0, 0, 2, "0, 1 or 2 (queue, reconnect: 1 by default)"),
		number("rate", &c.Rate, 0, 0, bench.RateMax, "messages per second of all publishers, by a timetable"),
		number("pipeline", &l.pipeline, 0, 0, 65535, "unanswered messages of each pair at QoS 0 (default 64)"),
		number("inflight", &l.inflight, 0, 0, 65535, "unanswered messages of each pair at QoS 1 and 2 (default 20)"),
		duration("settle", &c.Settle, time.Minute, 0, "idle: from the last CONNECT to the look at the memory"),
		duration("keep-alive", &c.KeepAlive, 20*time.Minute, time.Second, "keep-alive"),
		number("connect-rate", &c.ConnectRate, 0, 0, bench.RateMax, "connections per second; 0: as fast as they come"),
		number("connect-burst", &c.ConnectBurst, 64, 1, 10_000, "connections under way at once"),
		number("receive-maximum", &c.ReceiveMaximum, 0, 0, 65535, "receive maximum of the subscribers; 0: not given"),
		duration("drop-every", &c.DropEvery, 2*time.Second, time.Millisecond, "reconnect: between two times that connections are dropped"),
		number("drop-share", &c.DropShare, 0.5, 0.001, 1, "reconnect: of the subscribers, how many are dropped"),
		boolean("durable", &c.Durable, false, "sessions outlive their connections (removed after the run)"),
		boolean("keep", &c.Keep, false, "leave behind what queue and retained stored"),
		boolean("allow-loss", &c.AllowLoss, false, "loss at QoS 0 is no failure"),
	}
	return append(s, commonSettings(c)...)
}

// commonSettings are those of every load.
func commonSettings(c *bench.Config) []Setting {
	return []Setting{
		duration("duration", &c.Duration, 10*time.Second, time.Millisecond, "the measured part"),
		duration("warmup", &c.Warmup, time.Second, 0, "load before the measured part"),
		duration("drain", &c.Drain, 5*time.Second, time.Millisecond, "how long nothing may come before the rest is lost"),
		duration("timeout", &c.ConnectTimeout, 30*time.Second, time.Millisecond, "how long the broker may take to connect, and for a request of a control connection"),
		duration("spin", &c.Spin, 60*time.Microsecond, -time.Hour, "with rate: stay awake for so long before a send; negative: sleep"),
		duration("late-max", &c.LateMax, time.Millisecond, 0, "with rate: sends later than that at p99, by the generator's own fault, make the run void"),
		number("seed", &c.Seed, 1, 0, 0, "decides order and content where chance is wanted"),
		number("threads", &c.Threads, 1, 1, 64, "threads that make load"),
	}
}

// kafkaSettings is the table of the settings of a load on a Kafka broker.
func (l *Load) kafkaSettings() []Setting {
	k := &l.kafka
	s := []Setting{
		number("producers", &k.Publishers, 0, 0, 10_000, "producers, each with a connection (default 1; bound: 64 publishers)"),
		number("consumers", &k.Subscribers, 1, 1, 10_000, "consumers, each with a connection and its share of the partitions"),
	}
	if l.Kind == "bound" {
		s = append(s,
			text("mqtt", &k.MQTT, "mqtt://127.0.0.1:1883", "where to publish: mqtt://, no TLS", nil),
			text("prefix", &k.Prefix, "sb", "publish below this topic", nil),
			text("topic", &k.Topic, "", "the topic that the node binds PREFIX/# to", nil))
	}
	s = append(s,
		number("topics", &k.Topics, 1, 1, 1_000_000, "topics"),
		number("partitions", &k.Partitions, 0, 0, 1_000_000, "partitions of each topic (default 1; groups 12, partitions 1000)"),
		number("records", &k.Messages, 0, 0, 0, "records in all instead of a duration (consume: default 256 MiB; partitions: 100 for each)"),
		number("size", &k.Payload, 0, bench.MinPayload, payloadMax, fmt.Sprintf("bytes of a value, at least %d (default 1024; bound: 64)", bench.MinPayload)),
		number("keys", &k.Keys, 0, 0, 1<<30, "distinct keys of a producer in each partition; 0: none, and one partition after the other fills a batch"),
		number("batch-bytes", &k.BatchBytes, 16384, 1, payloadMax, "a batch is sent when it has so many; 1: a batch for each record"),
		duration("linger", &k.Linger, 0, 0, "with rate: how long a batch waits for more"),
		l.acksSetting(),
		text("compression", &k.Compression, "none", "none, gzip, snappy, lz4 or zstd", oneOf("none", "gzip", "snappy", "lz4", "zstd")),
		boolean("no-idempotence", &k.Plain, false, "producers without an id"),
		number("inflight", &k.Inflight, 0, 0, 65535, "unanswered requests of a producer (default 5; bound: 20 messages)"),
		number("rate", &k.Rate, 0, 0, bench.RateMax, "records per second of all producers, by a timetable (e2e: default 2000; transactions: 20000)"),
		duration("fetch-wait", &k.FetchWait, 500*time.Millisecond, time.Millisecond, "how long the broker may hold a fetch back"),
		number("fetch-min", &k.FetchMin, 1, 1, 1<<30, "bytes for which it may"),
		number("fetch-max", &k.FetchMax, 50<<20, 1, 1<<30, "most bytes of a fetch"),
		number("fetch-partition-max", &k.FetchPartitionMax, 1<<20, 1, 1<<30, "most bytes of one partition"),
		boolean("read-back", &l.readBack, true, "produce, partitions: read and verify what was stored"),
		duration("commit", &k.Commit, 100*time.Millisecond, time.Millisecond, "transactions: from the first record of a transaction to its end"),
		number("abort-every", &k.AbortEvery, 0, 0, 1<<30, "transactions: every which is aborted; 0: none"),
		number("groups", &k.Groups, 4, 1, 10_000, "groups: how many"),
		number("members", &k.Members, 3, 1, 10_000, "groups: members of each"),
		duration("heartbeat", &k.Heartbeat, 50*time.Millisecond, time.Millisecond, "groups: most between two heartbeats"),
		boolean("spread", &k.Spread, false, "the topics made have their leaders on several nodes (leader.spread=true)"),
		l.topicSetting(),
		duration("pause-max", &k.PauseMax, 0, 0, "a partition that is longer without an acknowledgement is a fault; 0: none is"),
		boolean("keep", &k.Keep, false, "leave the topics behind"),
		boolean("allow-loss", &k.AllowLoss, false, "loss at acks 0 is no failure"),
	)
	return append(s, commonSettings(&k.Config)...)
}

// acksSetting takes all for -1.
func (l *Load) acksSetting() Setting {
	l.acks, l.kafka.Acks = "all", -1
	return Setting{
		Name: "acks", Type: "string", About: "all (-1), 0 or 1",
		Show: func() string { return l.acks },
		set: func(text string) error {
			n, ok := map[string]int{"all": -1, "-1": -1, "0": 0, "1": 1}[text]
			if !ok {
				return fmt.Errorf("want all, 0 or 1, found %q", text)
			}
			l.acks, l.kafka.Acks = text, n
			return nil
		},
	}
}

// topicSetting may be given again.
func (l *Load) topicSetting() Setting {
	return Setting{
		Name: "topic-setting", Type: "stringArray", About: "NAME=VALUE of the topics made; may be given again",
		Show: func() string { return "" },
		set: func(text string) error {
			name, value, ok := strings.Cut(text, "=")
			if !ok || name == "" {
				return fmt.Errorf("want NAME=VALUE, found %q", text)
			}
			l.kafka.TopicSettings = append(l.kafka.TopicSettings, [2]string{name, value})
			return nil
		},
	}
}
