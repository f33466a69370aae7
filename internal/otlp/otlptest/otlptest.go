// Package otlptest is a collector of OpenTelemetry for tests: a gRPC server with TraceService.Export, which keeps what it is sent, or stalls, or refuses.
// It reads requests as the generated types of OTLP have them, and owns nothing that the product links.
package otlptest

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Collector is the server. Its methods are safe for concurrent use.
type Collector struct {
	Addr string // HOST:PORT
	srv  *grpc.Server
	mu   struct {
		sync.Mutex
		spans    []*tracepb.Span
		resource []*commonpb.KeyValue
		headers  metadata.MD
		calls    int
		answer   func(context.Context) (unknown []byte, err error)
	}
}

// Start runs a Collector on an address until the test ends; creds may be nil, and address empty for any free port of loopback.
func Start(t testing.TB, address string, creds credentials.TransportCredentials) *Collector {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Addr: l.Addr().String()}
	var opts []grpc.ServerOption
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	c.srv = grpc.NewServer(opts...)
	c.srv.RegisterService(&grpc.ServiceDesc{ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: c.export}}}, c)
	var done sync.WaitGroup
	done.Go(func() { _ = c.srv.Serve(l) })
	t.Cleanup(func() { c.srv.Stop(); done.Wait() })
	return c
}

// Stop ends it before the test does.
func (c *Collector) Stop() { c.srv.Stop() }

func (c *Collector) export(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc has it so
	var in tracepb.TracesData // ExportTraceServiceRequest has the same one field
	if err := decode(&in); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.mu.calls++
	answer := c.mu.answer
	c.mu.Unlock()
	out := &emptypb.Empty{}
	if answer != nil {
		unknown, err := answer(ctx)
		if err != nil {
			return nil, err
		}
		out.ProtoReflect().SetUnknown(unknown)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.headers, _ = metadata.FromIncomingContext(ctx)
	for _, r := range in.GetResourceSpans() {
		c.mu.resource = r.GetResource().GetAttributes()
		for _, s := range r.GetScopeSpans() {
			c.mu.spans = append(c.mu.spans, s.GetSpans()...)
		}
	}
	return out, nil
}

// Answer has calls end as fn says from now on: with unknown as what ExportTraceServiceResponse holds, or an error, and then nothing is kept of them. nil: all is
// well again.
func (c *Collector) Answer(fn func(context.Context) (unknown []byte, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.answer = fn
}

// Calls is how many have come.
func (c *Collector) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.calls
}

// Spans are those that have come so far.
func (c *Collector) Spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*tracepb.Span, len(c.mu.spans))
	for i, s := range c.mu.spans {
		list[i] = proto.CloneOf(s)
	}
	return list
}

// Resource is an attribute of whom the last spans are of.
func (c *Collector) Resource(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return attribute(c.mu.resource, key)
}

// Header is what the last call has brought under a name.
func (c *Collector) Header(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.headers.Get(name)
}

// Attribute is an attribute of a span as text; empty: it has none.
func Attribute(s *tracepb.Span, key string) string { return attribute(s.GetAttributes(), key) }

func attribute(list []*commonpb.KeyValue, key string) string {
	for _, kv := range list {
		if kv.GetKey() != key {
			continue
		}
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			return v.StringValue
		case *commonpb.AnyValue_IntValue:
			return strconv.FormatInt(v.IntValue, 10)
		case *commonpb.AnyValue_BoolValue:
			if v.BoolValue {
				return "true"
			}
			return "false"
		}
	}
	return ""
}
