package server

import (
	"context"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/otlp/otlptest"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// lostSpans is a counter of sluice_tracing_spans_lost_total.
func lostSpans(t *testing.T, s *Server, reason string) (n float64) {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "sluice_tracing_spans_lost_total" && m.GetLabel()[0].GetValue() == reason {
				n = m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// exportTo has spans go elsewhere by a reload; empty: nowhere.
func exportTo(t *testing.T, s *Server, endpoint string) {
	t.Helper()
	next := *s.cfg.Load()
	next.Tracing.Endpoint = endpoint
	report, err := s.Reload(next)
	if err != nil || !strings.Contains(strings.Join(report, "\n"), "tracing.endpoint") {
		t.Fatal(report, err)
	}
}

// TestTracingStalls: a collector that stalls holds up no publisher, and what it costs is bounded and counted; a reload goes to another one, or to none.
func TestTracingStalls(t *testing.T) {
	stalled, other := otlptest.Start(t, "", nil), otlptest.Start(t, "", nil)
	stalled.Answer(func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	loaded, err := config.Load(config.LoadOptions{Set: append(testx.Listeners("mqtt.tcp"), "tracing.endpoint=http://"+stalled.Addr, "tracing.sample_ratio=1",
		"tracing.max_per_second=100000", "tracing.queue=20", "tracing.timeout=100ms", "journal.durability=memory", "node.data="+t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(loaded.Config, Options{Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := dial(t, "mqtt://"+ready.Listeners["mqtt.tcp"], "c", 0)
	defer c.Close()
	publish := func(topic string) {
		t.Helper()
		if code, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte("x"), QoS: 1}); err != nil || code.Failed() {
			t.Fatal(code, err)
		}
	}
	testx.Eventually(t, patience, func() bool {
		publish("stalled")
		return lostSpans(t, s, "queue") > 100
	})
	if len(stalled.Spans()) != 0 {
		t.Error("it has answered")
	}
	exportTo(t, s, "http://"+other.Addr)
	if lostSpans(t, s, "collector") == 0 {
		t.Error("what was left for the collector before is not counted")
	}
	testx.Eventually(t, patience, func() bool { // the loop hears of it in its next turn
		publish("other")
		return len(other.Spans()) > 0
	})
	exportTo(t, s, "")
	before := lostSpans(t, s, "queue")
	for range 100 {
		publish("nobody")
	}
	for _, sp := range other.Spans() {
		if v := otlptest.Attribute(sp, "messaging.destination.name"); v == "nobody" {
			t.Error("traced without a collector")
		}
	}
	if lostSpans(t, s, "queue") > before+20 {
		t.Error("spans are begun without a collector")
	}
	next := *s.cfg.Load()
	next.Tracing.Endpoint, next.Tracing.CA = "https://127.0.0.1:1", "/nowhere"
	if _, err := s.Reload(next); err == nil || s.cfg.Load().Tracing.CA != "" {
		t.Errorf("an authority that is not there: %v", err)
	}
}
