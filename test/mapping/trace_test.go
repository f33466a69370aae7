package mapping

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/sluicemq/sluice/internal/otlp/otlptest"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

const (
	traceOfParent = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanOfParent  = "00f067aa0ba902b7"
	parentText    = "00-" + traceOfParent + "-" + spanOfParent + "-01"
)

// traced waits for so many spans of a topic, by name and client.
func traced(t testing.TB, c *otlptest.Collector, topic string, count int) map[string]*tracepb.Span {
	t.Helper()
	var got map[string]*tracepb.Span
	testx.Eventually(t, patience, func() bool {
		got = make(map[string]*tracepb.Span)
		for _, s := range c.Spans() {
			if otlptest.Attribute(s, "messaging.destination.name") == topic {
				got[s.GetName()+" "+otlptest.Attribute(s, "messaging.client.id")] = s
			}
		}
		return len(got) >= count
	}, "spans of", topic)
	if len(got) != count {
		t.Fatalf("%d spans of %s, want %d: %v", len(got), topic, count, got)
	}
	return got
}

// contextOf is the context that a message carries of a span.
func contextOf(s *tracepb.Span) string {
	return "00-" + hex.EncodeToString(s.GetTraceId()) + "-" + hex.EncodeToString(s.GetSpanId()) + "-01"
}

func isChild(child, parent *tracepb.Span) bool {
	return string(child.GetTraceId()) == string(parent.GetTraceId()) && string(child.GetParentSpanId()) == string(parent.GetSpanId())
}

// headerOf are a record's headers of a name, in order.
func headerOf(r *kgo.Record, name string) (list []string) {
	for _, h := range r.Headers {
		if h.Key == name {
			list = append(list, string(h.Value))
		}
	}
	return list
}

// TestTraceAcross follows messages between MQTT 3, MQTT 5 and Kafka: each reader has one context, and each span the parent that it is to have.
func TestTraceAcross(t *testing.T) {
	t.Parallel()
	c := otlptest.Start(t, "", nil)
	n := start(t, `[{filter: "t/#", topic: t}]`, "tracing.endpoint=http://"+c.Addr, "tracing.sample_ratio=1", "tracing.service_name=plant", "node.id=7")
	three, five, sub, old := n.mqtt(wire.V311, "three", false), n.mqtt(wire.V5, "five", false), n.mqtt(wire.V5, "sub", false), n.mqtt(wire.V311, "old", false)
	for _, filter := range []string{"t/#", "live/#"} {
		sub.sub(1, filter, "")
		old.sub(0, filter, "")
	}

	three.pub(wire.PublishOut{Topic: []byte("live/1"), Payload: []byte("12345"), QoS: 1}) // nothing is stored
	three.pub(wire.PublishOut{Topic: []byte("t/1"), Payload: []byte("12345"), QoS: 1})
	five.pub(wire.PublishOut{Topic: []byte("t/2"), Payload: []byte("12345"), QoS: 1, Forward: wire.AppendUserProperty(wire.AppendUserProperty(wire.AppendUserProperty(nil,
		[]byte("traceparent"), []byte(parentText)), []byte("tracestate"), []byte("v=1")), []byte("k"), []byte("v"))})
	producer := n.kafka()
	n.produce(producer, &kgo.Record{Topic: "t", Key: []byte("t/3"), Value: []byte("12345"), Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(parentText)}, {Key: "k", Value: []byte("v")}}})

	got := make(map[string]message)
	for _, m := range sub.take(4) {
		got[m.topic] = m
	}
	records := make(map[string]*kgo.Record)
	for _, r := range n.consume("t", "", 3) {
		records[string(r.Key)] = r
	}
	for _, topic := range []string{"live/1", "t/1"} {
		spans := traced(t, c, topic, 3)
		publish, deliver, quick := spans["publish three"], spans["deliver sub"], spans["deliver old"]
		if publish == nil || deliver == nil || quick == nil || len(publish.GetParentSpanId()) != 0 || !isChild(deliver, publish) || !isChild(quick, publish) {
			t.Fatalf("%s: %v", topic, spans)
		}
		if want := "traceparent=" + contextOf(publish); got[topic].props != want {
			t.Errorf("%s: the subscriber got %s, want %s", topic, got[topic].props, want)
		}
		if otlptest.Attribute(deliver, "mqtt.qos") != "1" || otlptest.Attribute(quick, "mqtt.qos") != "0" || otlptest.Attribute(publish, "messaging.message.body.size") != "5" ||
			deliver.GetStatus() != nil || deliver.GetStartTimeUnixNano() < publish.GetStartTimeUnixNano() {
			t.Errorf("%s: %v, %v", topic, publish, deliver)
		}
		if r := records[topic]; r != nil {
			if h := headerOf(r, "traceparent"); len(h) != 1 || h[0] != contextOf(publish) {
				t.Errorf("%s: the consumer got %q", topic, h)
			}
		}
	}
	spans := traced(t, c, "t/2", 3)
	publish := spans["publish five"]
	if hex.EncodeToString(publish.GetTraceId()) != traceOfParent || hex.EncodeToString(publish.GetParentSpanId()) != spanOfParent || publish.GetTraceState() != "v=1" ||
		!isChild(spans["deliver sub"], publish) {
		t.Errorf("t/2: %v", spans)
	}
	if want := "tracestate=v=1;k=v;traceparent=" + contextOf(publish); got["t/2"].props != want {
		t.Errorf("t/2: the subscriber got %s, want %s", got["t/2"].props, want)
	}
	if h := headerOf(records["t/2"], "traceparent"); len(h) != 1 || h[0] != contextOf(publish) {
		t.Errorf("t/2: the consumer got %q", h)
	}
	spans = traced(t, c, "t/3", 2)
	for _, s := range spans {
		if hex.EncodeToString(s.GetTraceId()) != traceOfParent || hex.EncodeToString(s.GetParentSpanId()) != spanOfParent || s.GetName() != "deliver" {
			t.Errorf("t/3: %v", s)
		}
	}
	if want := "traceparent=" + parentText + ";k=v"; got["t/3"].props != want {
		t.Errorf("t/3: the subscriber got %s, want %s", got["t/3"].props, want)
	}
	if c.Resource("service.name") != "plant" || c.Resource("service.instance.id") != "7" {
		t.Errorf("the spans are of %s, %s", c.Resource("service.name"), c.Resource("service.instance.id"))
	}
}

// TestTraceKept: a session that was away when a message came, over a crash, has it with the context that it came with.
func TestTraceKept(t *testing.T) {
	t.Parallel()
	c := otlptest.Start(t, "", nil)
	n := start(t, `[{filter: "t/#", topic: t}]`, "tracing.endpoint=http://"+c.Addr, "tracing.sample_ratio=1")
	sub := n.mqtt(wire.V5, "sub", true)
	for _, filter := range []string{"t/#", "kept/#"} {
		sub.sub(1, filter, "")
	}
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	pub := n.mqtt(wire.V311, "pub", false)
	for _, topic := range []string{"t/1", "kept/1"} {
		pub.pub(wire.PublishOut{Topic: []byte(topic), Payload: []byte("x"), QoS: 1})
	}
	published := map[string]*tracepb.Span{"t/1": traced(t, c, "t/1", 1)["publish pub"], "kept/1": traced(t, c, "kept/1", 1)["publish pub"]}
	n.crash()
	sub = n.mqtt(wire.V5, "sub", true)
	for _, m := range sub.take(2) {
		if want := "traceparent=" + contextOf(published[m.topic]); !strings.Contains(m.props, want) {
			t.Errorf("%s: %s, want %s", m.topic, m.props, want)
		}
		if d := traced(t, c, m.topic, 2)["deliver sub"]; !isChild(d, published[m.topic]) || d.GetStatus() != nil {
			t.Errorf("%s: %v", m.topic, d)
		}
	}
}
