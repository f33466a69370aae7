package scenarios_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/bench/scenarios"
	"github.com/sluicemq/sluice/internal/testx"
)

// smaller makes of a standard scenario one that takes a fraction of a second. Keys that a load has not are passed over.
var smaller = []string{
	"duration=150ms", "warmup=20ms", "settle=10ms", "late-max=1h", "pairs=4", "publishers=4", "subscribers=3", "connections=40", "filters=200",
	"drop-every=30ms", "rate=500", "records=400", "partitions=3", "producers=2",
}

// shrunk opens a standard scenario and makes it small.
func shrunk(t *testing.T, name string, more ...string) *scenarios.File {
	t.Helper()
	file, err := scenarios.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(file.Text)
	for _, kv := range append(more, smaller...) {
		key, value, _ := strings.Cut(kv, "=")
		for _, p := range file.Parts {
			if !strings.Contains(text, " "+key+": ") && !strings.Contains(text, "{"+key+": ") && !slices.Contains(always, key) {
				continue
			}
			if p.Kind == "groups" && key == "partitions" { // fewer than members are not what is meant
				continue
			}
			if err := p.Set(key, value); err != nil && !strings.Contains(err.Error(), "unknown key") {
				t.Fatal(err)
			}
		}
	}
	if first := file.Parts[0]; first.Protocol == scenarios.Kafka && first.Rate() == 0 && first.Kind != "groups" {
		err = first.Set("records", "400") // as fast as it goes would be too much for the test broker
	} else if strings.Contains(text, "messages: ") {
		err = first.Set("messages", "300")
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// always are keys that are set although a file does not name them.
var always = []string{"duration", "warmup", "late-max", "drain", "timeout", "batch-bytes", "linger", "publishers", "producers"}

// standardOptions are those of the MQTT broker that a standard scenario needs. What is published below sb is bound to the topic bench.
func standardOptions(file *scenarios.File, cert *testx.Cert, f brokertest.Faults, kafka *brokertest.Kafka) brokertest.Options {
	o := brokertest.Options{Faults: f}
	switch file.Parts[0].Transport {
	case "tls":
		o.TLS = cert.ServerConfig()
	case "ws":
		o.WebSocket = true
	case "wss":
		o.TLS, o.WebSocket = cert.ServerConfig(), true
	}
	if file.Parts[0].Kind == "bound" {
		kafka.AddTopic("bench", 4)
		o.Bind = &brokertest.Binding{Prefix: "sb", To: kafka, Topic: "bench", Partitions: 4}
	}
	return o
}

// TestStandardScenariosRun runs each standard file, with its own load, protocol and transport, against a sound broker. Those that need
// more of Kafka than the test broker has run against a node in package bench too.
func TestStandardScenariosRun(t *testing.T) {
	cert := testx.TempCert(t)
	for _, name := range scenarios.Standard() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := shrunk(t, name)
			kafka := brokertest.StartKafka(t, brokertest.KafkaFaults{})
			b := brokertest.Start(t, standardOptions(file, cert, brokertest.Faults{}, kafka))
			to := &scenarios.Target{URLs: map[string]string{"mqtt": b.URL(), "kafka": kafka.URL()}, TLS: cert.ClientConfig(false)}
			res, err := file.Run(t.Context(), to)
			if err != nil || len(res.Violations) > 0 || res.Name != name {
				t.Fatalf("%v, %+v", err, res)
			}
		})
	}
}
