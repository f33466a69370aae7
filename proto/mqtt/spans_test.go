package mqtt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

const parentText = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// exports has the world's loop trace by spans.
func (w *world) exports(ratio float64, queue int) *trace.Spans {
	w.t.Helper()
	s := trace.NewSpans(trace.SpanOptions{Ratio: ratio, PerSecond: 100_000, Queue: queue, Counts: &trace.SpanCounts{}})
	w.b.Tracer().Attach(0, func(l *trace.Loop) { w.l.trace = l })
	w.b.Tracer().Export(s)
	return s
}

// ended takes the spans that have ended.
func ended(s *trace.Spans) []*trace.Span { return s.Take(nil, s.Waiting()) }

func user(pairs ...string) (b []byte) {
	for i := 0; i < len(pairs); i += 2 {
		b = wire.AppendUserProperty(b, []byte(pairs[i]), []byte(pairs[i+1]))
	}
	return b
}

// received are the user properties of the PUBLISH that the peer has been sent, in order.
func (p *peer) received() (list [][2]string) {
	p.w.t.Helper()
	for _, h := range p.packets() {
		if h.Type != wire.PUBLISH {
			continue
		}
		m, err := wire.DecodeServerPublish(h.Flags, h.Body, p.version)
		if err != nil {
			p.w.t.Fatal(err)
		}
		for u := m.Props.User().Read(); ; {
			name, value, ok := u.Next()
			if !ok {
				break
			}
			list = append(list, [2]string{string(name), string(value)})
		}
	}
	return list
}

// publishWith publishes with properties.
func (p *peer) publishWith(topic string, qos byte, id uint16, props []byte) {
	p.send(wire.AppendPublish(nil, p.version, &wire.PublishOut{Topic: []byte(topic), Payload: []byte("12345"), QoS: qos, PacketID: id, Forward: props}))
}

// TestSpanOfV3: the broker makes a context for a client that cannot; each receiver's delivery is a child of the publish.
func TestSpanOfV3(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.exports(1, 100)
	pub, five, three := w.connect(wire.V311, "pub"), w.connect(wire.V5, "five"), w.connect(wire.V311, "three")
	five.subscribe(1, "a/#")
	three.subscribe(0, "a/b")
	pub.publish("a/b", "12345", 1, 7)
	if got := pub.types(); got != "PUBACK" {
		t.Fatalf("the publisher got %s", got)
	}
	list := ended(s)
	if len(list) != 2 {
		t.Fatalf("%d spans have ended, want the publish and the delivery at QoS 0", len(list))
	}
	quick, publish := list[0], list[1]
	if publish.Kind != trace.SpanPublish || publish.Client != "pub" || publish.Topic != "a/b" || publish.Size != 5 || publish.QoS != 1 || publish.PacketID != 7 ||
		publish.Parent != (trace.SpanID{}) || publish.Failed != "" || publish.End < publish.Start {
		t.Errorf("%+v", publish)
	}
	if quick.Kind != trace.SpanDeliver || quick.Client != "three" || quick.Parent != publish.Span || quick.Trace != publish.Trace || quick.QoS != 0 {
		t.Errorf("%+v", quick)
	}
	if got, want := fmt.Sprint(five.received()), fmt.Sprint([][2]string{{"traceparent", string(publish.Append(nil))}}); got != want {
		t.Errorf("the subscriber got %s, want %s", got, want)
	}
	five.send(wire.AppendShortAck(nil, wire.PUBACK, five.c.out.nextID))
	list = ended(s)
	if len(list) != 1 || list[0].Client != "five" || list[0].Parent != publish.Span || list[0].QoS != 1 || list[0].PacketID == 0 || list[0].Failed != "" {
		t.Errorf("%+v", list)
	}
	if len(three.packets()) == 0 {
		t.Error("the other subscriber got nothing")
	}
}

// TestSpanParent: what a client of version 5 says of its own span counts; what is none does not, and other properties stay.
func TestSpanParent(t *testing.T) {
	for name, tt := range map[string]struct {
		ratio float64
		props []byte
		want  string // properties that the subscriber gets, * for the broker's context
		child bool
		spans int // publish and delivery
	}{
		"a parent":              {0, user("a", "1", "traceparent", parentText, "tracestate", "v=1", "a", "2"), "a=1 tracestate=v=1 a=2 traceparent=*", true, 2},
		"one that is not":       {0, user("traceparent", strings.TrimSuffix(parentText, "1")+"0", "a", "1"), "traceparent=" + strings.TrimSuffix(parentText, "1") + "0 a=1", false, 0},
		"none":                  {0, user("a", "1"), "a=1", false, 0},
		"none, by ratio":        {1, user("a", "1"), "a=1 traceparent=*", false, 2},
		"nonsense":              {0, user("traceparent", "00-x", "tracestate", "v=1"), "traceparent=00-x tracestate=v=1", false, 0},
		"nonsense, by ratio":    {1, user("traceparent", "00-x", "tracestate", "v=1", "a", "1"), "a=1 traceparent=*", false, 2},
		"two of them, by ratio": {1, user("traceparent", parentText, "traceparent", parentText), "traceparent=*", false, 2},
		"by ratio, not sampled": {1, user("traceparent", strings.TrimSuffix(parentText, "1")+"0"), "traceparent=" + strings.TrimSuffix(parentText, "1") + "0", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			s := w.exports(tt.ratio, 100)
			pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
			sub.subscribe(0, "a")
			pub.publishWith("a", 0, 0, tt.props)
			list := ended(s)
			if len(list) != tt.spans {
				t.Fatalf("%d spans", len(list))
			}
			var got []string
			for _, p := range sub.received() {
				if c, ok := trace.ParseContext([]byte(p[1])); ok && len(list) > 0 && p[0] == trace.Traceparent && c == list[1].Context {
					p[1] = "*"
				}
				got = append(got, p[0]+"="+p[1])
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if parent, _ := trace.ParseContext([]byte(parentText)); len(list) > 0 && (list[1].Trace == parent.Trace && list[1].Parent == parent.Span) != tt.child {
				t.Errorf("%+v", list[1])
			}
			if tt.child && (list[1].Tracestate != "v=1" || list[0].Tracestate != "v=1") {
				t.Errorf("%+v, %+v", list[0], list[1])
			}
		})
	}
}

// TestSpanOfKept: a message that waits in the log for a session has its context there, and QoS 2 ends with PUBCOMP.
func TestSpanOfKept(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.exports(1, 100)
	kept := func(k *wire.Connect) { k.SessionExpiry, k.CleanStart = 3600, false }
	sub := w.connect(wire.V5, "sub", kept)
	sub.subscribe(2, "a")
	sub.send(wire.AppendDisconnect(nil, wire.V5, &wire.Disconnect{}))
	pub := w.connect(wire.V311, "pub")
	pub.publish("a", "x", 2, 3)
	list := ended(s)
	if len(list) != 1 || list[0].Kind != trace.SpanPublish {
		t.Fatalf("%+v", list)
	}
	publish := list[0]
	sub = w.connect(wire.V5, "sub", kept)
	var id uint16
	testx.Eventually(t, 10*time.Second, func() bool { // it is read from the log by another goroutine
		w.turn()
		for id = range sub.c.openSpans().sent {
		}
		return id != 0
	})
	sub.send(wire.AppendShortAck(nil, wire.PUBREC, id))
	if list := ended(s); len(list) != 0 {
		t.Errorf("after PUBREC: %+v", list)
	}
	sub.send(wire.AppendShortAck(nil, wire.PUBCOMP, id))
	if list = ended(s); len(list) != 1 || list[0].Parent != publish.Span || list[0].QoS != 2 || list[0].PacketID != id || list[0].Failed != "" {
		t.Errorf("%+v", list)
	}
}

// TestSpanFailures: what is refused, given back, dropped, and left when a client goes.
func TestSpanFailures(t *testing.T) {
	w := newWorld(t, Options{Authorizer: &rules{deny: "no"}})
	s := w.exports(1, 100)
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(1, "a", "k")
	pub.publish("no", "x", 0, 0)
	pub.publish("no", "x", 1, 1)
	list := ended(s)
	if len(list) != 2 || list[0].Failed == "" || list[1].Failed == "" || list[0].Topic != "no" {
		t.Fatalf("denied: %+v", list)
	}
	sub.k.held = 1 << 30
	pub.publish("a", "x", 0, 0)
	list = ended(s)
	if len(list) != 2 || list[0].Failed != "dropped: slow_reader" || list[0].Client != "sub" || list[1].Failed != "" {
		t.Errorf("dropped: %+v", list)
	}
	pub.publish("a", "x", 1, 2) // waits in memory, and is one delivery when it is sent
	if list = ended(s); len(list) != 1 || list[0].Kind != trace.SpanPublish {
		t.Errorf("queued: %+v", list)
	}
	sub.k.held = 0
	sub.c.onDrain()
	w.turn()
	sub.k.closed = true
	sub.c.onClose(nil)
	if list = ended(s); len(list) != 1 || list[0].Kind != trace.SpanDeliver || !strings.Contains(list[0].Failed, "without acknowledging") {
		t.Errorf("gone: %+v", list)
	}
	kept := w.connect(wire.V5, "kept", func(k *wire.Connect) { k.SessionExpiry = 3600 })
	kept.subscribe(1, "k")
	w.hold = true
	pub.publish("k", "x", 1, 3)
	pub.c.onClose(nil)
	if list = ended(s); len(list) != 1 || list[0].Kind != trace.SpanPublish || !strings.Contains(list[0].Failed, "its publisher has gone") {
		t.Errorf("not answered: %+v", list)
	}
	w.hold = false
	w.turn()
	kept.c.onClose(nil)
	ended(s)
	for range 100 { // all places are free again
		if sp := s.Begin(trace.Context{}); sp == nil {
			t.Fatal("some span has kept its place")
		}
	}
}

// TestSpansOfSilent: a client that acknowledges nothing does not take all places.
func TestSpansOfSilent(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.exports(1, 1000)
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(1, "a")
	for i := range 2 * sentSpansMax {
		pub.publish("a", "x", 1, uint16(i+1))
	}
	known := 0
	for _, sp := range ended(s) {
		if sp.Kind == trace.SpanDeliver && strings.Contains(sp.Failed, "not known") {
			known++
		}
	}
	if known != sentSpansMax || len(sub.c.extra.spans.sent) != sentSpansMax {
		t.Errorf("%d have ended, %d wait", known, len(sub.c.extra.spans.sent))
	}
}

// TestSpansOfFlood: a client that has all of its messages marked gets what is its own in a second, and takes nothing of others, whose user properties are
// their own as well.
func TestSpansOfFlood(t *testing.T) {
	w := newWorld(t, Options{})
	s := trace.NewSpans(trace.SpanOptions{Ratio: 1, PerSecond: 5, Queue: 1000, Now: func() time.Time { return time.Unix(1000, 0) }, Counts: &trace.SpanCounts{}})
	w.b.Tracer().Attach(0, func(l *trace.Loop) { w.l.trace = l })
	w.b.Tracer().Export(s)
	flood, other, sub := w.connect(wire.V5, "flood"), w.connect(wire.V311, "other"), w.connect(wire.V5, "sub")
	sub.subscribe(0, "f")
	for range 100 {
		flood.publishWith("f", 0, 0, user("traceparent", parentText))
	}
	as := 0
	for _, p := range sub.received() {
		if p == [2]string{"traceparent", parentText} {
			as++
		}
	}
	other.publish("o", "x", 0, 0)
	count := make(map[string]int)
	for _, sp := range ended(s) {
		count[sp.Client]++
	}
	if count["flood"] != 5 || count["other"] != 1 || count["sub"] != 50 || as != 95 {
		t.Errorf("%v; %d came as they were sent", count, as)
	}
	if n := s.Counts().Limited.Load(); n != 95+50 {
		t.Errorf("%d counted", n)
	}
}

// TestSpanOfOld: a message that was retained long ago adds nothing to its trace.
func TestSpanOfOld(t *testing.T) {
	w := newWorld(t, Options{})
	s := w.exports(1, 100)
	pub := w.connect(wire.V5, "pub")
	pub.send(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a"), Payload: []byte("x"), Retain: true, QoS: 1, PacketID: 1}))
	if list := ended(s); len(list) != 1 || !list[0].Retain {
		t.Fatalf("%+v", list)
	}
	soon := w.connect(wire.V5, "soon")
	soon.subscribe(0, "a")
	if list := ended(s); len(list) != 1 || list[0].Client != "soon" || !list[0].Retain {
		t.Errorf("%+v", list)
	}
	w.loop.unix += 2 * spanOldest
	late := w.connect(wire.V5, "late")
	late.subscribe(0, "a")
	if list := ended(s); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// TestNoCollectorCostsNothing: without one a loop has nothing to look at but what it has for probes; with one, a message that is not traced allocates nothing.
func TestNoCollectorCostsNothing(t *testing.T) {
	w := newWorld(t, Options{})
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(1, "a/b")
	pub.k.keep, sub.k.keep = false, false
	plain := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: 1, PacketID: 1})
	asking := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: 1, PacketID: 1, Forward: user("traceparent", parentText)})
	ack := make([]byte, 0, 8)
	pass := func(in []byte) func() {
		return func() {
			pub.c.onData(in)
			sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, sub.c.out.nextID))
		}
	}
	if n := testing.AllocsPerRun(100, pass(asking)); n != 0 || w.l.trace != nil {
		t.Errorf("no collector: %v allocations", n)
	}
	s := w.exports(0, 1)
	if n := testing.AllocsPerRun(100, pass(plain)); n != 0 {
		t.Errorf("not traced: %v allocations", n)
	}
	pass(asking)()
	if n := testing.AllocsPerRun(100, pass(asking)); n != 0 { // its queue is full: nobody takes
		t.Errorf("over a bound: %v allocations", n)
	}
	if s.Counts().Full.Load() == 0 {
		t.Error("the bound was not reached")
	}
	w.b.Tracer().Export(nil)
	if w.l.trace != nil {
		t.Error("the loop still looks")
	}
}

// BenchmarkSpans is the way of a message to one receiver without a collector, with one of which the message has no part, and traced whole.
func BenchmarkSpans(b *testing.B) {
	for name, ratio := range map[string]float64{"no collector": -1, "not traced": 0, "traced": 1} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, Options{})
			pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
			sub.subscribe(1, "a/b")
			pub.k.keep, sub.k.keep = false, false
			var s *trace.Spans
			if ratio >= 0 {
				s = trace.NewSpans(trace.SpanOptions{Ratio: ratio, PerSecond: 1 << 29, Queue: 4096, Now: time.Now, Counts: &trace.SpanCounts{}})
				w.b.Tracer().Attach(0, func(l *trace.Loop) { w.l.trace = l })
				w.b.Tracer().Export(s)
			}
			in := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: 1, PacketID: 1})
			ack := make([]byte, 0, 8)
			b.ReportAllocs()
			for b.Loop() {
				pub.c.onData(in)
				sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, sub.c.out.nextID))
				if s != nil && s.Waiting() > 1000 {
					s.Take(nil, 4096)
				}
			}
		})
	}
}
