package scenarios_test

import (
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

// TestStandardScenariosRun runs each standard file, with its own load, protocol and transport, against a sound broker. Those that
// need more of Kafka than the test broker has run against a node in package bench.
func TestStandardScenariosRun(t *testing.T) {
	cert := testx.TempCert(t)
	for _, name := range scenarios.Standard() {
		file, err := scenarios.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		kind := file.Parts[0].Kind
		if kind == "transactions" || kind == "groups" || kind == "bound" || name == "kafka-produce-acks0" { // the test broker answers each request
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := string(file.Text)
			for _, kv := range smaller {
				key, _, _ := strings.Cut(kv, "=")
				for _, p := range file.Parts {
					if !strings.Contains(text, " "+key+": ") && !strings.Contains(text, "{"+key+": ") && key != "duration" && key != "warmup" && key != "late-max" {
						continue
					}
					if err := p.Set(key, strings.SplitN(kv, "=", 2)[1]); err != nil && !strings.Contains(err.Error(), "unknown key") {
						t.Fatal(err)
					}
				}
			}
			if first := file.Parts[0]; first.Protocol == scenarios.Kafka && first.Rate() == 0 {
				err = first.Set("records", "400") // as fast as it goes would be too much for the test broker
			} else if strings.Contains(text, "messages: ") {
				err = first.Set("messages", "300")
			}
			if err != nil {
				t.Fatal(err)
			}
			o := brokertest.Options{}
			switch file.Parts[0].Transport {
			case "tls":
				o.TLS = cert.ServerConfig()
			case "ws":
				o.WebSocket = true
			case "wss":
				o.TLS, o.WebSocket = cert.ServerConfig(), true
			}
			b, kafka := brokertest.Start(t, o), brokertest.StartKafka(t, brokertest.KafkaFaults{})
			to := &scenarios.Target{URLs: map[string]string{"mqtt": b.URL(), "kafka": kafka.URL()}, TLS: cert.ClientConfig(false)}
			res, err := file.Run(t.Context(), to)
			if err != nil || len(res.Violations) > 0 || res.Name != name {
				t.Fatalf("%v, %+v", err, res)
			}
		})
	}
}
