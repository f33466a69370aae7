package otlp

import (
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/sluicemq/sluice/internal/trace"
)

// request is what a batch looks like on the wire: TracesData has the one field of ExportTraceServiceRequest, whose package needs grpc-gateway.
func request(o *Options, batch []*trace.Span) *tracepb.TracesData {
	spans := make([]*tracepb.Span, len(batch))
	for i, s := range batch {
		spans[i] = encode(s)
	}
	attributes := []*commonpb.KeyValue{text("service.name", o.Service), text("service.instance.id", o.Instance), text("service.version", o.Version)}
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: attributes},
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "sluice", Version: o.Version}, Spans: spans}},
	}}}
}

// encode names things as OpenTelemetry's conventions for messaging do, and what these have no word for after MQTT. The name of a span is the same for
// all topics: tools count by it, and there may be a million topics.
func encode(s *trace.Span) *tracepb.Span {
	// The publish span's context is what the message carries from here on, which makes it PRODUCER by the conventions; a delivery is the work of a consumer.
	name, operation, kind := "publish", "send", tracepb.Span_SPAN_KIND_PRODUCER
	if s.Kind == trace.SpanDeliver {
		name, operation, kind = "deliver", "process", tracepb.Span_SPAN_KIND_CONSUMER
	}
	list := make([]*commonpb.KeyValue, 0, 11)
	list = append(list, text("messaging.system", "mqtt"), text("messaging.operation.name", name), text("messaging.operation.type", operation),
		text("messaging.destination.name", s.Topic), text("messaging.client.id", s.Client),
		number("messaging.message.body.size", int64(s.Size)), number("mqtt.qos", int64(s.QoS)))
	if s.PacketID != 0 {
		list = append(list, number("mqtt.packet_id", int64(s.PacketID)))
	}
	if s.Retain {
		list = append(list, yes("mqtt.retain"))
	}
	if s.Again {
		list = append(list, yes("mqtt.dup"))
	}
	out := &tracepb.Span{TraceId: s.Trace[:], SpanId: s.Span[:], TraceState: clean(s.Tracestate), Flags: flagsSampled, Name: name, Kind: kind,
		StartTimeUnixNano: uint64(s.Start), EndTimeUnixNano: uint64(max(s.End, s.Start)), Attributes: list}
	if s.Parent != (trace.SpanID{}) {
		out.ParentSpanId, out.Flags = s.Parent[:], flagsSampled|flagsRemote
	}
	if s.Failed != "" {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: clean(s.Failed)}
	}
	return out
}

// Flags of a span: that it is sampled; that its parent is somebody else's is known, and so.
const (
	flagsSampled = 1
	flagsRemote  = 1<<8 | 1<<9
)

// clean is s as a message of protobuf may hold it: one that is cut in the middle of a letter would have the whole batch refused.
func clean(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func text(k, v string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: clean(v)}}}
}

func number(k string, v int64) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: v}}}
}

func yes(k string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: true}}}
}
