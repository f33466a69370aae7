package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sluicemq/sluice/internal/otlp/otlptest"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/trace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// exporting is an Exporter and what it takes from.
func exporting(t *testing.T, queue int, o Options) (*trace.Spans, *Exporter, *lines) {
	t.Helper()
	log := &lines{}
	o.Linger, o.Logger, o.Service, o.Instance, o.Version = time.Millisecond, slog.New(slog.NewTextHandler(log, nil)), "plant", "7", "1.2"
	spans := trace.NewSpans(trace.SpanOptions{Ratio: 1, PerSecond: 100_000, Queue: queue, Counts: &trace.SpanCounts{}})
	e, err := Start(o, spans)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return spans, e, log
}

func TestExportWhole(t *testing.T) {
	ca := testx.TempCert(t)
	c := otlptest.Start(t, "", credentials.NewTLS(ca.ServerConfig()))
	spans, _, _ := exporting(t, 10, Options{Collector: c.Addr, TLS: ca.ClientConfig(false), Headers: map[string]string{"authorization": "Bearer x"}})
	parent, _ := trace.ParseContext([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	a := spans.Begin(parent)
	a.SetTracestate([]byte("vendor=1"))
	a.Client, a.Topic, a.Size, a.QoS, a.PacketID, a.Retain, a.Again = "press", "jobs/7", 5, 1, 9, true, true
	a.Finish("")
	b := spans.Deliver(a.Context)
	b.Client, b.Topic = "panel", strings.Repeat("é", 100)+"\xc3" // cut in the middle of a letter
	b.Finish("dropped: slow_reader")
	testx.Eventually(t, patience, func() bool { return len(c.Spans()) == 2 })
	got := map[string]*tracepb.Span{}
	for _, s := range c.Spans() {
		got[s.GetName()] = s
	}
	p, d := got["publish"], got["deliver"]
	if p == nil || d == nil {
		t.Fatalf("%v", got)
	}
	if hex.EncodeToString(p.GetTraceId()) != "4bf92f3577b34da6a3ce929d0e0e4736" || hex.EncodeToString(p.GetParentSpanId()) != "00f067aa0ba902b7" || p.GetTraceState() != "vendor=1" ||
		p.GetKind() != tracepb.Span_SPAN_KIND_PRODUCER || p.GetStatus() != nil || p.GetStartTimeUnixNano() == 0 || p.GetEndTimeUnixNano() < p.GetStartTimeUnixNano() {
		t.Errorf("%v", p)
	}
	if !bytes.Equal(d.GetTraceId(), p.GetTraceId()) || !bytes.Equal(d.GetParentSpanId(), p.GetSpanId()) || d.GetKind() != tracepb.Span_SPAN_KIND_CONSUMER ||
		d.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || d.GetStatus().GetMessage() != "dropped: slow_reader" {
		t.Errorf("%v", d)
	}
	for key, want := range map[string]string{"messaging.system": "mqtt", "messaging.operation.name": "publish", "messaging.operation.type": "send", "messaging.destination.name": "jobs/7",
		"messaging.client.id": "press", "messaging.message.body.size": "5", "mqtt.qos": "1", "mqtt.packet_id": "9", "mqtt.retain": "true", "mqtt.dup": "true"} {
		if v := otlptest.Attribute(p, key); v != want {
			t.Errorf("%s: %q, want %q", key, v, want)
		}
	}
	if v := otlptest.Attribute(d, "messaging.destination.name"); v != strings.Repeat("é", 100)+"�" || otlptest.Attribute(d, "messaging.operation.type") != "process" {
		t.Errorf("%q", v)
	}
	if c.Resource("service.name") != "plant" || c.Resource("service.instance.id") != "7" || c.Resource("service.version") != "1.2" || fmt.Sprint(c.Header("authorization")) != "[Bearer x]" {
		t.Errorf("%s, %s, %v", c.Resource("service.name"), c.Resource("service.instance.id"), c.Header("authorization"))
	}
	testx.Eventually(t, patience, func() bool { return spans.Counts().Exported.Load() == 2 }) // once the answer is there
}

// TestAway: nobody is there, then somebody is. What fits waits; the log has two lines.
func TestAway(t *testing.T) {
	addr := testx.ClosedAddr(t)
	spans, _, log := exporting(t, 5, Options{Collector: addr})
	spans.Begin(trace.Context{}).Finish("")
	testx.Eventually(t, patience, func() bool { return log.count("the collector takes no spans") == 1 })
	for range 20 { // one is on its way
		if sp := spans.Begin(trace.Context{}); sp != nil {
			sp.Finish("")
		}
	}
	if n := spans.Waiting(); n != 5 || spans.Counts().Full.Load() != 15 {
		t.Errorf("%d wait, %d lost", n, spans.Counts().Full.Load())
	}
	c := otlptest.Start(t, addr, nil)
	testx.Eventually(t, patience, func() bool { return len(c.Spans()) == 6 && log.count("takes spans again") == 1 })
	if n := log.count("the collector takes no spans"); n != 1 || spans.Counts().Collector.Load() != 0 {
		t.Errorf("%d lines, %d refused", n, spans.Counts().Collector.Load())
	}
}

// TestStalls: a collector that answers nothing holds up nobody who ends spans, and the end no longer than it may.
func TestStalls(t *testing.T) {
	c := otlptest.Start(t, "", nil)
	c.Answer(func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	spans, e, log := exporting(t, 3, Options{Collector: c.Addr, Timeout: 20 * time.Millisecond})
	testx.Eventually(t, patience, func() bool {
		if sp := spans.Begin(trace.Context{}); sp != nil {
			sp.Finish("")
		}
		return log.count("the collector takes no spans") == 1 && spans.Counts().Full.Load() > 0
	})
	if n := spans.Waiting(); n > 3 {
		t.Errorf("%d wait", n)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if spans.Counts().Collector.Load() == 0 || spans.Counts().Exported.Load() != 0 || spans.Waiting() != 0 {
		t.Errorf("%d left, %d wait", spans.Counts().Collector.Load(), spans.Waiting())
	}
}

func TestRefused(t *testing.T) {
	c := otlptest.Start(t, "", nil)
	c.Answer(func(context.Context) ([]byte, error) { return nil, status.Error(codes.PermissionDenied, "no") })
	spans, _, log := exporting(t, 10, Options{Collector: c.Addr})
	spans.Begin(trace.Context{}).Finish("")
	testx.Eventually(t, patience, func() bool { return spans.Counts().Collector.Load() == 1 && log.count("PermissionDenied") == 1 })
	partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), "too old")
	c.Answer(func(context.Context) ([]byte, error) {
		return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial), nil
	})
	calls := c.Calls()
	spans.Begin(trace.Context{}).Finish("")
	testx.Eventually(t, patience, func() bool { return spans.Counts().Collector.Load() == 2 })
	c.Answer(nil)
	spans.Begin(trace.Context{}).Finish("")
	testx.Eventually(t, patience, func() bool { return spans.Counts().Exported.Load() == 1 && log.count("takes spans again") == 1 })
	if n := c.Calls() - calls; n != 2 || log.count("level=WARN") != 1 {
		t.Errorf("%d calls, %d warnings", n, log.count("level=WARN"))
	}
}

func TestRejectedAnswer(t *testing.T) {
	for name, b := range map[string][]byte{"empty": nil, "cut": {0x0a, 5, 8}, "no tag": {0xff}, "another field": {0x12, 1, 1}, "no length": {0x0a}, "endless": {0x0a, 2, 8, 0xff}} {
		if n, why := rejected(b); n != 0 || why != "" {
			t.Errorf("%s: %d, %q", name, n, why)
		}
	}
}

// TestCloseSends: what waits when the node ends is sent.
func TestCloseSends(t *testing.T) {
	c := otlptest.Start(t, "", nil)
	spans, e, _ := exporting(t, 2000, Options{Collector: c.Addr})
	for range batchMax + 10 {
		spans.Begin(trace.Context{}).Finish("")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(c.Spans()); n != batchMax+10 || spans.Counts().Collector.Load() != 0 {
		t.Errorf("%d sent, %d left", n, spans.Counts().Collector.Load())
	}
}

func TestWrongAuthority(t *testing.T) {
	ca, other := testx.TempCert(t), testx.TempCert(t)
	c := otlptest.Start(t, "", credentials.NewTLS(ca.ServerConfig()))
	spans, _, log := exporting(t, 2, Options{Collector: c.Addr, TLS: &tls.Config{RootCAs: other.ClientConfig(false).RootCAs}}) //nolint:gosec // a test
	spans.Begin(trace.Context{}).Finish("")
	testx.Eventually(t, patience, func() bool { return log.count("the collector takes no spans") == 1 })
	if c.Calls() != 0 {
		t.Error("it was called")
	}
}
