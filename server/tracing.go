package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/otlp"
	"github.com/sluicemq/sluice/internal/trace"
)

var tracingMetricHelp = map[string]string{
	"sluice_tracing_spans_exported_total": "Spans that the collector of traces has taken.",
	"sluice_tracing_spans_lost_total":     "Spans that it has not: not begun for tracing.max_per_second (rate), no room (queue), refused by it, or left at the end (collector).|reason",
}

// tracing is what takes spans to a collector, nothing while there is none. Its methods are safe for concurrent use.
type tracing struct {
	s      *Server
	counts trace.SpanCounts
	mu     struct {
		sync.Mutex
		of       config.Tracing
		exporter *otlp.Exporter // nil: there is no collector
	}
}

// options are what the configuration says of a collector. ok false: there is none.
func (t *tracing) options(cfg *config.Config) (o otlp.Options, ok bool, err error) {
	c := &cfg.Tracing
	if c.Endpoint == "" {
		return o, false, nil
	}
	o = otlp.Options{Timeout: c.Timeout, Service: c.ServiceName, Version: t.s.o.Version, Instance: strconv.Itoa(cfg.Node.ID), Logger: t.s.log}
	var plain bool
	if o.Collector, plain, err = c.Collector(); err != nil {
		return o, false, fmt.Errorf("tracing.endpoint: %w", err)
	}
	if o.Headers, err = c.HeaderMap(); err != nil {
		return o, false, fmt.Errorf("tracing.headers: %w", err)
	}
	if plain {
		return o, true, nil
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return o, false, fmt.Errorf("tracing.ca: %w", err)
		}
		if o.TLS.RootCAs = x509.NewCertPool(); !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return o, false, fmt.Errorf("tracing.ca: %s: no certificate in PEM form in it", c.CA)
		}
	}
	return o, true, nil
}

// check says what is wrong with the configuration of a collector.
func (t *tracing) check(cfg *config.Config) error {
	_, _, err := t.options(cfg)
	return err
}

// configure goes on as the configuration says. With an error nothing has changed. Spans that are open then, of a collector that changes, are lost.
func (t *tracing) configure(cfg *config.Config) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.of == cfg.Tracing && cfg.Tracing.CA == "" { // else that file may be another one
		return nil
	}
	o, wanted, err := t.options(cfg)
	if err != nil {
		return err
	}
	var spans *trace.Spans
	var next *otlp.Exporter
	if wanted {
		c := &cfg.Tracing
		spans = trace.NewSpans(trace.SpanOptions{Ratio: c.SampleRatio, PerSecond: c.MaxPerSecond, Queue: c.Queue, Counts: &t.counts})
		if next, err = otlp.Start(o, spans); err != nil {
			return fmt.Errorf("tracing.endpoint: %w", err)
		}
	}
	t.s.node.broker.Tracer().Export(spans)
	t.endLocked()
	t.mu.of, t.mu.exporter = cfg.Tracing, next
	return nil
}

// close sends what waits, if the collector is there. The connections have ended by then, and their spans with them.
func (t *tracing) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked()
}

func (t *tracing) endLocked() {
	if t.mu.exporter == nil {
		return
	}
	if err := t.mu.exporter.Close(); err != nil {
		t.s.log.Warn("the connection to the collector of traces", "err", err)
	}
	t.mu.exporter = nil
}

func (t *tracing) collect(k sink) {
	k.counter("sluice_tracing_spans_exported_total", t.counts.Exported.Load())
	k.counter("sluice_tracing_spans_lost_total", t.counts.Limited.Load(), "rate")
	k.counter("sluice_tracing_spans_lost_total", t.counts.Full.Load(), "queue")
	k.counter("sluice_tracing_spans_lost_total", t.counts.Collector.Load(), "collector")
}
