package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ServerMetrics is what the server says of itself, of the time from one look at its metrics to the next. What another server than
// ours does not have is 0; Go's own figures are of any server in Go.
type ServerMetrics struct {
	JournalBytes   float64 `json:"journal_bytes"` // written to the log, with headers and padding
	Groups         float64 `json:"groups"`        // of frames, each written once
	Flushes        float64 `json:"flushes"`       // waits for stable storage
	FlushSeconds   float64 `json:"flush_seconds"`
	Journaled      float64 `json:"journaled_messages"`
	Wakeups        float64 `json:"wakeups"` // of loops from their wait
	SocketReads    float64 `json:"socket_reads"`
	SocketWrites   float64 `json:"socket_writes"`
	BytesIn        float64 `json:"bytes_in"` // of sockets
	BytesOut       float64 `json:"bytes_out"`
	TLSHandshakes  float64 `json:"tls_handshakes,omitempty"`
	CPUSeconds     float64 `json:"cpu_seconds"` // by the server's own account
	Allocations    float64 `json:"allocations"` // of Go's heap
	AllocatedBytes float64 `json:"allocated_bytes"`
	Collections    float64 `json:"collections"`
	GCCPUSeconds   float64 `json:"gc_cpu_seconds"` // Go's estimate, of collections that have ended
}

// metricNames are where they come from, each added up over its labels. A name behind a bar is a label's value.
var metricNames = map[string]func(*ServerMetrics) *float64{
	"sluice_journal_written_bytes_total":        func(m *ServerMetrics) *float64 { return &m.JournalBytes },
	"sluice_journal_groups_total":               func(m *ServerMetrics) *float64 { return &m.Groups },
	"sluice_journal_flush_seconds|count":        func(m *ServerMetrics) *float64 { return &m.Flushes },
	"sluice_journal_flush_seconds|sum":          func(m *ServerMetrics) *float64 { return &m.FlushSeconds },
	"sluice_broker_journaled_total":             func(m *ServerMetrics) *float64 { return &m.Journaled },
	"sluice_engine_wakeups_total":               func(m *ServerMetrics) *float64 { return &m.Wakeups },
	"sluice_engine_system_calls_total|read":     func(m *ServerMetrics) *float64 { return &m.SocketReads },
	"sluice_engine_system_calls_total|write":    func(m *ServerMetrics) *float64 { return &m.SocketWrites },
	"sluice_engine_received_bytes_total":        func(m *ServerMetrics) *float64 { return &m.BytesIn },
	"sluice_engine_sent_bytes_total":            func(m *ServerMetrics) *float64 { return &m.BytesOut },
	"sluice_engine_tls_handshakes_total":        func(m *ServerMetrics) *float64 { return &m.TLSHandshakes },
	"process_cpu_seconds_total":                 func(m *ServerMetrics) *float64 { return &m.CPUSeconds },
	"go_memstats_mallocs_total":                 func(m *ServerMetrics) *float64 { return &m.Allocations },
	"go_memstats_alloc_bytes_total":             func(m *ServerMetrics) *float64 { return &m.AllocatedBytes },
	"go_gc_duration_seconds|count":              func(m *ServerMetrics) *float64 { return &m.Collections },
	"go_cpu_classes_gc_total_cpu_seconds_total": func(m *ServerMetrics) *float64 { return &m.GCCPUSeconds },
}

// scrape is what a server showed at one moment, by the names of metricNames.
type scrape map[string]float64

// since gives what has been added since before; nil if either is not known.
func (s scrape) since(before scrape) *ServerMetrics {
	if s == nil || before == nil {
		return nil
	}
	m := &ServerMetrics{}
	for name, of := range metricNames {
		*of(m) = max(s[name]-before[name], 0)
	}
	return m
}

const (
	scrapeTimeout  = 5 * time.Second
	scrapeBytesMax = 32 << 20
)

// metricsClient keeps no connection: what a run measures is not to have one more.
var metricsClient = &http.Client{Timeout: scrapeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}

// scrapeMetrics asks the address for its metrics, in Prometheus's text format.
func scrapeMetrics(ctx context.Context, url string) (scrape, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scrapeTimeout) // the run's end is looked at too
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, misuse("metrics address %q: %v", url, err)
	}
	q.Header.Set("Accept", "text/plain;version=0.0.4")
	p, err := metricsClient.Do(q)
	if err != nil {
		return nil, fmt.Errorf("look at the server's metrics: %w", err)
	}
	defer func() { _ = p.Body.Close() }()
	if p.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("look at the server's metrics: %s answers %s", url, p.Status)
	}
	return parseMetrics(io.LimitReader(p.Body, scrapeBytesMax))
}

func parseMetrics(r io.Reader) (scrape, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("the server's metrics are not in Prometheus's text format: %w", err)
	}
	if len(families) == 0 {
		return nil, errors.New("the server shows no metrics")
	}
	s := scrape{}
	for name, f := range families {
		for _, m := range f.Metric {
			s.add(name, m)
		}
	}
	return s, nil
}

// add takes one metric: its value under the name, and under the name with each label's value.
func (s scrape) add(name string, m *dto.Metric) {
	if h := m.GetHistogram(); h != nil {
		s[name+"|count"] += float64(h.GetSampleCount())
		s[name+"|sum"] += h.GetSampleSum()
		return
	}
	if h := m.GetSummary(); h != nil {
		s[name+"|count"] += float64(h.GetSampleCount())
		return
	}
	v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
	s[name] += v
	for _, l := range m.Label {
		if key := name + "|" + l.GetValue(); metricNames[key] != nil {
			s[key] += v
		}
	}
}
