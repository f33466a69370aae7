package server

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

var update = flag.Bool("update", false, "write docs/operate/metrics.md anew")

const metricsDoc = "../docs/operate/metrics.md"

const metricsIntro = `# Metrics

What ` + "`/metrics`" + ` of ` + "`listeners.http`" + ` shows, in the format of Prometheus. Names are ` + "`sluice_<part>_<what>_<unit>`" + `, with ` + "`_total`" + ` for what
only grows; units are seconds and bytes. No label has a value that a client can choose, but for
` + "`topic`" + `, which is there with ` + "`mqtt.topic_metrics`" + ` alone, for so many topics of 200 bytes at most ([events](events.md#the-busiest-topics)). The runtime's own (` + "`go_*`, `process_*`" + `) are there as
well. This page is checked against the program by its tests; ` + "`go test ./server -run MetricsUpToDate -update`" + ` writes it anew.

| name | type | labels | what it says |
|---|---|---|---|
`

// exported is what the registry of a running node gives: a table row by name.
func exported(t *testing.T) map[string]string {
	t.Helper()
	ca := testx.TempCert(t)
	loaded, err := config.Load(config.LoadOptions{Set: []string{"tls.cert=" + ca.ServerCertFile, "tls.key=" + ca.ServerKeyFile, "tls.client_ca=" + ca.CAFile, "tls.crl=" + ca.Revoke(t)}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := loaded.Config
	cfg.Node.Data = t.TempDir()
	cfg.Journal.Durability = "memory"
	cfg.Capacity.Model = "../bench/plan/default.json" // whose metrics are there with a model alone
	cfg.MQTT.TopicMetrics = 1
	cfg.Listeners.MQTT.TCP = config.Addrs{"127.0.0.1:0"}
	cfg.Listeners.MQTT.TLS, cfg.Listeners.MQTT.WS, cfg.Listeners.MQTT.WSS, cfg.Listeners.MQTT.Unix = nil, nil, nil, nil
	cfg.Listeners.HTTP, cfg.Listeners.Kafka.TCP, cfg.Listeners.GRPC = config.Addrs{"127.0.0.1:0"}, config.Addrs{"127.0.0.1:0"}, config.Addrs{"127.0.0.1:0"}
	cfg.Bridges = config.Bridges{{Name: "hq", Addresses: []string{"127.0.0.1:1"}, Version: "5", ClientID: "hq", KeepAlive: time.Minute,
		Topics: []config.BridgeTopic{{Filter: "#", Direction: "out"}}}}
	s, err := New(cfg, Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.node.broker.Tenants().Set([]broker.LimitedTenant{{Number: 1, Name: "one"}})
	c := dial(t, "mqtt://"+ready.Listeners["mqtt.tcp"], "c", 0) // its CONNECT and its end are counted by reason
	if _, err := c.Publish(&wire.PublishOut{Topic: []byte("t"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.SendRaw([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitClosed(patience); err != nil {
		t.Fatal(err)
	}
	callHealth(t, ready.Listeners["grpc"])
	all := make(map[string]string)
	testx.Eventually(t, patience, func() bool { // the loops tell what they counted once a second
		families, err := s.metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, "`"+l.GetName()+"`")
			}
			all[f.GetName()] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
		}
		return all["sluice_mqtt_connects_total"] != "" && all["sluice_mqtt_disconnects_total"] != "" &&
			all["sluice_mqtt_topic_sent_bytes_total"] != ""
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

// callHealth makes one call of the control plane.
func callHealth(t *testing.T, address string) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
}

// clusterRows are the table's rows of what a node of a cluster has beside the others: TestClusterMetrics shows that it exports them.
func clusterRows() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(clusterMetricHelp)) {
		help, label, _ := strings.Cut(clusterMetricHelp[name], "|")
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		if label != "" {
			label = "`" + label + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, kind, label, help)
	}
	return b.String()
}

// TestMetricsUpToDate: docs/operate/metrics.md says exactly what a node exports.
func TestMetricsUpToDate(t *testing.T) {
	all := exported(t)
	var b strings.Builder
	b.WriteString(metricsIntro)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(name, "sluice_") {
			b.WriteString(all[name])
		}
	}
	for name := range metricHelp {
		if all[name] == "" {
			t.Errorf("%s is named in metricHelp and never exported", name)
		}
	}
	b.WriteString(clusterRows())
	if *update {
		if err := os.WriteFile(metricsDoc, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != b.String() {
		t.Errorf("%s is not what the program exports; write it anew with -update. It should say:\n%s", metricsDoc, b.String())
	}
}
