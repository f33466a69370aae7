package server

import (
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/mqtt"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func newFlushHistogram() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_journal_flush_seconds",
		Help: "Time that one group's write took to be on stable storage.", Buckets: prometheus.ExponentialBuckets(20e-6, 2, 16)})
}

// collector reads the counters that the parts keep for themselves when somebody asks: nothing is counted twice, and nothing is
// counted through a metrics library on the way of a message.
type collector struct {
	s     *Server
	descs map[string]*prometheus.Desc
}

// metricHelp names every metric that the collector exports but for those of the tier, with its help and labels after a bar.
var metricHelp = map[string]string{
	"sluice_mqtt_connections":                     "MQTT connections now, with or without CONNECT.",
	"sluice_mqtt_sessions_connected":              "MQTT connections with a session.",
	"sluice_mqtt_packets_received_total":          "MQTT packets taken.|type",
	"sluice_mqtt_packets_sent_total":              "MQTT packets sent.|type",
	"sluice_mqtt_messages_received_total":         "PUBLISH taken.|qos",
	"sluice_mqtt_messages_sent_total":             "PUBLISH sent.|qos",
	"sluice_mqtt_messages_dropped_total":          "Messages not given on.|reason",
	"sluice_mqtt_connects_total":                  "CONNECT answered.|reason",
	"sluice_mqtt_disconnects_total":               "Connections ended with a reason.|reason",
	"sluice_mqtt_connections_lost_total":          "Connections that ended without DISCONNECT from either side.",
	"sluice_mqtt_topic_messages_received_total":   "PUBLISH taken, of the busiest topics (mqtt.topic_metrics).|topic",
	"sluice_mqtt_topic_messages_sent_total":       "PUBLISH sent, of the busiest topics (mqtt.topic_metrics).|topic",
	"sluice_mqtt_topic_received_bytes_total":      "Payload of PUBLISH taken, of the busiest topics (mqtt.topic_metrics).|topic",
	"sluice_mqtt_topic_sent_bytes_total":          "Payload of PUBLISH sent, of the busiest topics (mqtt.topic_metrics).|topic",
	"sluice_mqtt_slow_subscribers":                "Clients that were late within mqtt.slow_subscribers.window, mqtt.slow_subscribers.top at most.",
	"sluice_mqtt_slow_subscriber_seconds":         "The longest that the slowest of them has taken, the next one, and so on to the fifth; 0: there is none.|rank",
	"sluice_mqtt_late_total":                      "Messages found to be acknowledged late, of those that were looked at (mqtt.slow_subscribers.threshold).",
	"sluice_broker_sessions":                      "Kept sessions, connected or not.",
	"sluice_broker_subscriptions":                 "Subscriptions.",
	"sluice_broker_filters":                       "Different topic filters.",
	"sluice_broker_retained_messages":             "Retained messages.",
	"sluice_broker_retained_bytes":                "Bytes of retained messages.",
	"sluice_broker_delayed_messages":              "Messages that wait for their time ($delayed/SECONDS/TOPIC).",
	"sluice_broker_delayed_bytes":                 "Bytes of them.",
	"sluice_broker_delayed_dropped_total":         "Of them those that were not published when their time had come: their own expiry, a limit, or refused for good.|reason",
	"sluice_broker_journaled_total":               "Messages that went to the journal.",
	"sluice_broker_undeliverable_records_total":   "Records of bound streams that make no MQTT topic by their bindings.",
	"sluice_broker_unreadable_records_total":      "Records of bound streams that cannot be opened for MQTT subscribers.",
	"sluice_broker_queue_dropped_total":           "Queued messages that never reached their session.|reason",
	"sluice_broker_sessions_expired_total":        "Kept sessions that expired.",
	"sluice_broker_wills_total":                   "Wills published.",
	"sluice_broker_wills_dropped_total":           "Wills that nobody gets: a limit refused them, or 256 MiB of them waited for room in the log.",
	"sluice_broker_wills_waiting_bytes":           "What wills take in memory that wait for their turn or for room in the log, those of kept sessions apart.",
	"sluice_journal_groups_total":                 "Groups written.",
	"sluice_journal_written_bytes_total":          "Bytes of groups written, with headers and padding.",
	"sluice_journal_log_bytes":                    "Bytes of the log's segments now.",
	"sluice_journal_partition_bytes":              "Bytes of partition segments, which hold what outlives the log's segments, now.",
	"sluice_journal_limited":                      "1 while nothing that takes room is written since the log has journal.max_bytes, else 0.",
	"sluice_journal_groups_failed_total":          "Groups that the disk did not take, and times that what waited was refused for journal.max_bytes (limit).|reason",
	"sluice_broker_publish_ack_seconds":           "From a PUBLISH of QoS 1 or 2 to its acknowledgement.",
	"sluice_broker_publish_delivery_seconds":      "From a PUBLISH to its being handed to a connection that keeps up.",
	"sluice_broker_fetch_seconds":                 "A read of the log for sessions that are behind, or for a stream's readers.",
	"sluice_kafka_connections":                    "Kafka connections now.",
	"sluice_kafka_requests_total":                 "Kafka requests taken.|api",
	"sluice_kafka_received_bytes_total":           "Bytes of Kafka requests.",
	"sluice_kafka_sent_bytes_total":               "Bytes of Kafka answers.",
	"sluice_kafka_followed_bytes_total":           "Bytes of records that consumers have read from this node while another one led (kafka.replica_selector).",
	"sluice_kafka_readers_sent_total":             "Times that the reader of a partition was sent to another node: to a follower in its rack (nearer), or by one back to the node that leads (leader).|to",
	"sluice_kafka_protocol_errors_total":          "Kafka connections ended because of what the client sent.",
	"sluice_broker_throttles_total":               "Times that a client was made to wait by a quota.|quota",
	"sluice_broker_throttle_seconds_total":        "Time that clients were told to wait by quotas.|quota",
	"sluice_broker_topics":                        "Topics.",
	"sluice_broker_partitions":                    "Partitions of all topics.",
	"sluice_broker_catalog_entries":               "Users, rules, quotas and bindings in the catalog; 1,000,000 at most.",
	"sluice_broker_catalog_bytes":                 "Bytes of them; 256 MiB at most.",
	"sluice_broker_producers":                     "Idempotent producers known, each counted once for each partition.",
	"sluice_broker_compactions_total":             "Passes of compaction over a partition.",
	"sluice_broker_compacted_bytes_total":         "Bytes that compaction took away.",
	"sluice_broker_groups":                        "Kafka groups, those that only have offsets included.",
	"sluice_capacity_predicted_cpu_seconds_total": "CPU time that capacity.model says for what the node has counted; with that key alone.",
	"sluice_capacity_headroom_ratio":              "Share of the cores' time that the last minute left free; with capacity.model alone.",
	"sluice_capacity_drift_ratio":                 "CPU time of the last minute over what capacity.model says for it, less 1; 0 without load.",
	"sluice_auth_bans":                            "Bans that count now, those for flapping included.|kind",
	"sluice_auth_banned_total":                    "Connections and clients refused for a ban.|kind",
	"sluice_auth_flapping_total":                  "Times that somebody was banned for coming too often (limits.flapping).|kind",
	"sluice_auth_rechecks_total":                  "Clients that a server of users was asked about again (auth.http.recheck, auth.ldap.recheck), and what came of it.|source,outcome",
	"sluice_engine_accepted_total":                "Connections taken in by a listener.",
	"sluice_engine_refused_total":                 "Connections ended before they could speak.|reason",
	"sluice_engine_received_bytes_total":          "Bytes read from sockets, TLS and frames included.",
	"sluice_engine_sent_bytes_total":              "Bytes written to sockets, TLS and frames included.",
	"sluice_engine_system_calls_total":            "System calls of the loops: reads and writes of sockets, waits for events, wake-ups of another loop, and changes of what is waited for.|call",
	"sluice_engine_wakeups_total":                 "Times that a loop came back from waiting.",
	"sluice_engine_tls_handshakes_total":          "TLS handshakes that succeeded.",
	"sluice_engine_descriptors_out_total":         "Times that accepting found no descriptor left.",
	"sluice_tls_certificate_expiry_seconds":       "When a certificate of a file that the configuration names ends, Unix time.|key,subject",
	"sluice_tls_staple_expiry_seconds":            "Until when the responder's answer about the server's certificate counts that clients get, Unix time; 0: they get none.",
	"sluice_tls_staple_failures_total":            "Times that no good answer about the server's certificate could be had.",
	"sluice_tls_crl_expiry_seconds":               "When a revocation list expires, Unix time; 0: it names no end.|key,issuer",
	"sluice_tls_crl_failures_total":               "Times that a revocation list had changed and could not be read: what was read before goes on to count.",
	"sluice_tls_crl_kept":                         "1 while a revocation list counts though its files have none of the authority any more, or an older one, else 0.|key,issuer",
	"sluice_info":                                 "The version that runs.|version",
}

// gcCPU is what the garbage collector takes, by the runtime's estimate: go_cpu_classes_gc_total_cpu_seconds_total.
var gcCPU = collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/cpu/classes/gc/total:cpu-seconds$`)}

func (s *Server) registerMetrics() {
	c := &collector{s: s, descs: make(map[string]*prometheus.Desc)}
	for _, list := range []map[string]string{metricHelp, eventMetricHelp, tracingMetricHelp, tierMetricHelp, clusterMetricHelp, bridgeMetricHelp, tenantMetricHelp} {
		c.describe(list)
	}
	s.metrics.MustRegister(c, s.flushes, collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(gcCPU)), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// describe makes descriptions of names with their help and labels.
func (c *collector) describe(list map[string]string) {
	for name, help := range list {
		text, label, _ := strings.Cut(help, "|")
		var labels []string
		if label != "" {
			labels = strings.Split(label, ",")
		}
		c.descs[name] = prometheus.NewDesc(name, text, labels, nil)
	}
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// sink sends values under their names.
type sink struct {
	c  *collector
	ch chan<- prometheus.Metric
}

func (k sink) gauge(name string, v float64, labels ...string) {
	k.ch <- prometheus.MustNewConstMetric(k.c.descs[name], prometheus.GaugeValue, v, labels...)
}

func (k sink) histogram(name string, h *broker.Latency) {
	count, sum, buckets := h.Snapshot()
	k.ch <- prometheus.MustNewConstHistogram(k.c.descs[name], count, sum, buckets)
}

func (k sink) seconds(name string, d time.Duration, labels ...string) {
	k.ch <- prometheus.MustNewConstMetric(k.c.descs[name], prometheus.CounterValue, d.Seconds(), labels...)
}

func (k sink) counter(name string, v uint64, labels ...string) {
	k.ch <- prometheus.MustNewConstMetric(k.c.descs[name], prometheus.CounterValue, float64(v), labels...)
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	k := sink{c, ch}
	k.gauge("sluice_info", 1, c.s.o.Version)
	c.collectCertificates(k)
	c.collectAgain(k)
	c.s.tracing.collect(k)
	c.collectMQTT(k)
	c.collectKafka(k)
	st := c.s.node.broker.Stats()
	filters, subs := c.s.node.broker.Subscriptions()
	k.gauge("sluice_broker_sessions", float64(st.Sessions.Load()))
	k.gauge("sluice_broker_subscriptions", float64(subs))
	k.gauge("sluice_broker_filters", float64(filters))
	k.gauge("sluice_broker_retained_messages", float64(st.RetainedMessages.Load()))
	k.gauge("sluice_broker_retained_bytes", float64(st.RetainedBytes.Load()))
	delayed, delayedBytes := c.s.node.broker.DelayedMessages()
	k.gauge("sluice_broker_delayed_messages", float64(delayed))
	k.gauge("sluice_broker_delayed_bytes", float64(delayedBytes))
	for r := range broker.DelayedReasons {
		k.counter("sluice_broker_delayed_dropped_total", uint64(st.DelayedDropped[r].Load()), r.String())
	}
	k.counter("sluice_broker_journaled_total", uint64(st.Journaled.Load()))
	k.counter("sluice_broker_undeliverable_records_total", uint64(st.Undeliverable.Load()))
	k.counter("sluice_broker_unreadable_records_total", uint64(st.Unreadable.Load()))
	k.counter("sluice_broker_sessions_expired_total", uint64(st.SessionsExpired.Load()))
	k.counter("sluice_broker_wills_total", uint64(st.WillsPublished.Load()))
	k.counter("sluice_broker_wills_dropped_total", uint64(st.WillsDropped.Load()))
	k.gauge("sluice_broker_wills_waiting_bytes", float64(st.WillsWaiting.Load()))
	lat := c.s.node.broker.Latencies()
	k.histogram("sluice_broker_publish_ack_seconds", &lat.Ack)
	k.histogram("sluice_broker_publish_delivery_seconds", &lat.Delivery)
	k.histogram("sluice_broker_fetch_seconds", &lat.Fetch)
	for r := range broker.DropReasons {
		k.counter("sluice_broker_queue_dropped_total", uint64(st.QueueDropped[r].Load()), r.String())
	}
	j := c.s.node.storage.counts()
	k.counter("sluice_journal_groups_total", uint64(j.groups))
	k.counter("sluice_journal_written_bytes_total", uint64(j.writtenBytes))
	k.gauge("sluice_journal_log_bytes", float64(j.logBytes))
	k.counter("sluice_journal_groups_failed_total", uint64(j.failedFull), "full")
	k.counter("sluice_journal_groups_failed_total", uint64(j.failedIO), "io_error")
	k.counter("sluice_journal_groups_failed_total", uint64(j.failedLimit), "limit")
	k.gauge("sluice_journal_partition_bytes", float64(j.partBytes))
	limited := 0.0
	if j.limited {
		limited = 1
	}
	k.gauge("sluice_journal_limited", limited)
	for kind := range broker.QuotaKinds {
		times, waited := c.s.node.quotas.Throttled(kind)
		k.counter("sluice_broker_throttles_total", uint64(times), kind.String())
		k.seconds("sluice_broker_throttle_seconds_total", waited, kind.String())
	}
	c.collectEngine(k)
	c.collectBans(k)
	c.collectEvents(k)
	c.collectTenants(k)
	c.collectTier(k)
	c.collectCluster(k)
	c.collectBridges(k)
	c.s.capacity.collect(k)
}

func (c *collector) collectKafka(k sink) {
	n := c.s.node.kafka.Snapshot()
	k.gauge("sluice_kafka_connections", float64(n.Open))
	for api, count := range n.Requests {
		k.counter("sluice_kafka_requests_total", count, api)
	}
	k.counter("sluice_kafka_received_bytes_total", n.BytesIn)
	k.counter("sluice_kafka_sent_bytes_total", n.BytesOut)
	k.counter("sluice_kafka_followed_bytes_total", n.Followed)
	k.counter("sluice_kafka_readers_sent_total", n.SentNearer, "nearer")
	k.counter("sluice_kafka_readers_sent_total", n.SentBack, "leader")
	k.counter("sluice_kafka_protocol_errors_total", n.Broken)
	k.gauge("sluice_broker_topics", float64(c.s.node.broker.TopicCount()))
	k.gauge("sluice_broker_partitions", float64(c.s.node.broker.Stats().Partitions.Load()))
	entries, size := c.s.node.broker.CatalogSize()
	k.gauge("sluice_broker_catalog_entries", float64(entries))
	k.gauge("sluice_broker_catalog_bytes", float64(size))
	k.gauge("sluice_broker_producers", float64(c.s.node.broker.Stats().Producers.Load()))
	k.counter("sluice_broker_compactions_total", uint64(c.s.node.broker.Stats().Compactions.Load()))
	k.counter("sluice_broker_compacted_bytes_total", uint64(max(c.s.node.broker.Stats().CompactedBytes.Load(), 0)))
	k.gauge("sluice_broker_groups", float64(c.s.node.broker.Stats().Groups.Load()))
}

func (c *collector) collectEngine(k sink) {
	e := c.s.node.engine.Stats()
	k.counter("sluice_engine_accepted_total", uint64(e.Accepted))
	k.counter("sluice_engine_received_bytes_total", uint64(e.BytesIn))
	k.counter("sluice_engine_sent_bytes_total", uint64(e.BytesOut))
	k.counter("sluice_engine_system_calls_total", uint64(e.Reads), "read")
	k.counter("sluice_engine_system_calls_total", uint64(e.Writes), "write")
	k.counter("sluice_engine_system_calls_total", uint64(e.Waits), "wait")
	k.counter("sluice_engine_system_calls_total", uint64(e.Wakes), "wake")
	k.counter("sluice_engine_system_calls_total", uint64(e.Controls), "control")
	k.counter("sluice_engine_wakeups_total", uint64(e.Wakeups))
	k.counter("sluice_engine_tls_handshakes_total", uint64(e.Handshakes))
	k.counter("sluice_engine_descriptors_out_total", uint64(e.DescriptorsOut))
	r := &e.Refused
	for _, x := range []struct {
		reason string
		n      int64
	}{
		{"limit", r.MaxConns}, {"listener_limit", r.ListenerConns}, {"no_descriptor", r.NoDescriptor}, {"handshakes_full", r.HandshakesFull}, {"tls_handshake", r.Handshake},
		{"websocket_upgrade", r.Upgrade}, {"proxy_header", r.Proxy}, {"proxy_untrusted", r.Untrusted}, {"banned", r.Banned},
		{"timeout", r.Timeout}, {"shutdown", r.Shutdown},
	} {
		k.counter("sluice_engine_refused_total", uint64(x.n), x.reason)
	}
}

func (c *collector) collectMQTT(k sink) {
	n := c.s.node.mqtt.Snapshot()
	k.gauge("sluice_mqtt_connections", float64(n.Open))
	k.gauge("sluice_mqtt_sessions_connected", float64(n.Connected))
	k.counter("sluice_mqtt_connections_lost_total", n.Lost)
	for t := 1; t < 16; t++ {
		name := strings.ToLower(wire.PacketType(t).String())
		k.counter("sluice_mqtt_packets_received_total", n.PacketsIn[t], name)
		k.counter("sluice_mqtt_packets_sent_total", n.PacketsOut[t], name)
	}
	for q, name := range []string{"0", "1", "2"} {
		k.counter("sluice_mqtt_messages_received_total", n.MessagesIn[q], name)
		k.counter("sluice_mqtt_messages_sent_total", n.MessagesOut[q], name)
	}
	c.collectTop(k, n.Late)
	for _, d := range mqtt.Drops() {
		k.counter("sluice_mqtt_messages_dropped_total", n.Dropped[d], d.String())
	}
	for code := range n.Connects {
		name := strings.ReplaceAll(wire.ReasonCode(code).String(), " ", "_")
		if n.Connects[code] > 0 {
			k.counter("sluice_mqtt_connects_total", n.Connects[code], name)
		}
		if n.Disconnects[code] > 0 {
			k.counter("sluice_mqtt_disconnects_total", n.Disconnects[code], name)
		}
	}
}
