package bench_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
)

// mixOf gives parts that last 300 ms: idle connections, telemetry and commands.
func mixOf(b *brokertest.Broker) (bench.Config, []bench.MixPart) {
	common := bench.Config{Warmup: 50 * time.Millisecond, Duration: 300 * time.Millisecond, Drain: 5 * time.Second}
	part := func(name, scenario string, rate float64, qos byte) bench.MixPart {
		cfg := small(scenario, b)
		cfg.Messages, cfg.Rate, cfg.QoS, cfg.Inflight = 0, rate, qos, 0
		cfg.Warmup, cfg.Duration, cfg.Drain = common.Warmup, common.Duration, common.Drain
		return bench.MixPart{Name: name, MQTT: &cfg}
	}
	return common, []bench.MixPart{part("sensors", "idle", 0, 0), part("telemetry", "fanin", 2000, 0), part("commands", "pairs", 500, 1)}
}

func TestMixedRun(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	common, parts := mixOf(b)
	k := smallKafka("e2e", node(t))
	k.Messages, k.Rate, k.Warmup, k.Duration, k.Drain = 0, 1000, common.Warmup, common.Duration, common.Drain
	parts = append(parts, bench.MixPart{Name: "log", Kafka: &k})
	var lines []string
	common.Progress = func(line string) { lines = append(lines, line) }
	res, err := bench.RunMixed(t.Context(), common, parts)
	if err != nil {
		t.Fatal(err)
	}
	if !res.OK || len(res.Parts) != 4 || len(res.Notes) > 0 || res.Scenario != "mixed" || len(lines) < 2 {
		t.Fatalf("%q, %d parts, %v, %q", res.Violations, len(res.Parts), res.Notes, lines)
	}
	checkMixedSeries(t, res)
	var sent uint64
	for _, p := range res.Parts[1:] {
		if !p.OK || p.Latency == nil || p.Seconds != 0.3 || p.Server != nil {
			t.Errorf("%s: %q, %+v, %v s", p.Name, p.Violations, p.Latency, p.Seconds)
		}
		sent += p.Counts.Sent
	}
	if res.Counts.Sent != sent || sent < 1100 || res.Config.Connections < 50+7+8+2 || res.Config.Rate != 3500 {
		t.Errorf("sent %d of %d, %+v", res.Counts.Sent, sent, res.Config)
	}
}

// checkMixedSeries wants the seconds of the whole to be those of its parts together.
func checkMixedSeries(t *testing.T, res *bench.Result) {
	t.Helper()
	s := res.Series
	if s == nil || len(s.Points) == 0 || s.Until-s.From < 0.29 || s.Until-s.From > 0.31 {
		t.Fatalf("series of the whole: %+v", s)
	}
	var sent, received, cores uint64
	for i := range s.Points {
		p := &s.Points[i]
		sent += p.Sent
		received += p.Received
		if p.GeneratorCores > 0 {
			cores++
		}
		var of, worst float64
		for _, part := range res.Parts {
			if i < len(part.Series.Points) {
				of += float64(part.Series.Points[i].Connected)
				if l := part.Series.Points[i].Latency; l != nil {
					worst = max(worst, l.P99)
				}
			}
		}
		if float64(p.Connected) != of || worst > 0 && p.Latency.P99 != worst {
			t.Errorf("second %d: %+v; the parts have %v connections and a p99 of %v", i, p, of, worst)
		}
	}
	if sent != res.Counts.Sent || received != res.Counts.Received || cores == 0 {
		t.Errorf("the series has %d sent and %d received, %+v", sent, received, res.Counts)
	}
}

func TestMixedRunFindsFaults(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{DropEvery: 20}})
	common, parts := mixOf(b)
	for i := range parts {
		parts[i].MQTT.Drain = 100 * time.Millisecond
	}
	res, err := bench.RunMixed(t.Context(), common, parts)
	if err != nil || res.OK || !strings.Contains(strings.Join(res.Violations, "\n"), "telemetry: LOST") {
		t.Errorf("%v, %q", err, res.Violations)
	}
	var lost uint64
	for _, p := range res.Series.Points {
		lost += p.Lost
	}
	if lost == 0 || lost != res.Counts.Lost || len(res.Faults) != len(res.Violations) || res.Faults[0].Part == "" {
		t.Errorf("%d of %d lost are in the series; %+v", lost, res.Counts.Lost, res.Faults)
	}
}

func TestMixedRunEndsWhenAPartCannotRun(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	common, parts := mixOf(b)
	parts[2].MQTT.URL = "127.0.0.1:1"
	_, err := bench.RunMixed(t.Context(), common, parts)
	if err == nil || !strings.Contains(err.Error(), "commands: ") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

func TestInterruptedMixedRunIsPartial(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	common, parts := mixOf(b)
	common.Duration = time.Hour
	for i := range parts {
		parts[i].MQTT.Duration = time.Hour
	}
	ctx, cancel := context.WithCancel(t.Context())
	common.Progress = func(line string) {
		if strings.Contains(line, "received") {
			cancel()
		}
	}
	res, err := bench.RunMixed(ctx, common, parts)
	if err != nil || !res.Partial || res.Counts.Sent == 0 || len(res.Parts) != 3 {
		t.Errorf("%v, %+v", err, res)
	}
}
