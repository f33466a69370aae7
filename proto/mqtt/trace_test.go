package mqtt

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// asks has the world's loop trace what p wants.
func (w *world) asks(tb testing.TB, p trace.Probe) *trace.Stream {
	tb.Helper()
	tr := trace.New(1, time.Now)
	tr.Attach(0, func(l *trace.Loop) { w.l.trace = l })
	s, err := tr.Open(p)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// BenchmarkTrace is the way of a message to one receiver while nobody asks, while somebody asks about other clients, topics and networks, and about
// all messages, of which the ring takes as many as it does.
func BenchmarkTrace(b *testing.B) {
	for name, p := range map[string]*trace.Probe{
		"nobody asks": nil, "of another client": {Client: "another"}, "of another network": {Address: netip.MustParsePrefix("10.0.0.0/8")},
		"of another property": {Label: "another"}, "of this topic": {Topic: func([]byte) bool { return true }},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, Options{})
			pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
			sub.subscribe(1, "a/b")
			pub.k.keep, sub.k.keep = false, false
			if p != nil {
				w.asks(b, *p)
			}
			in := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: 1, PacketID: 1})
			ack := make([]byte, 0, 8)
			b.ReportAllocs()
			for b.Loop() {
				pub.c.onData(in)
				sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, sub.c.out.nextID))
			}
		})
	}
}

func TestNobodyAsksCostsNothing(t *testing.T) {
	w := newWorld(t, Options{})
	pub, sub := w.connect(wire.V5, "pub"), w.connect(wire.V5, "sub")
	sub.subscribe(1, "a/b")
	pub.k.keep, sub.k.keep = false, false
	in := wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte("a/b"), Payload: make([]byte, 64), QoS: 1, PacketID: 1})
	ack := make([]byte, 0, 8)
	pass := func() {
		pub.c.onData(in)
		sub.c.onData(wire.AppendShortAck(ack[:0], wire.PUBACK, sub.c.out.nextID))
	}
	if n := testing.AllocsPerRun(100, pass); n != 0 {
		t.Errorf("nobody asks: %v allocations", n)
	}
	s := w.asks(t, trace.Probe{Client: "another"})
	if n := testing.AllocsPerRun(100, pass); n != 0 {
		t.Errorf("somebody asks about another: %v allocations", n)
	}
	s.Close()
	if w.l.trace != nil {
		t.Error("the loop still traces")
	}
}

// TestQueuedMarks has a marked message wait in memory between others.
func TestQueuedMarks(t *testing.T) {
	w := newWorld(t, Options{})
	pub := w.connect(wire.V5, "pub")
	sub := w.connect(wire.V5, "sub", func(k *wire.Connect) { k.ReceiveMaximum = 1 })
	sub.subscribe(1, "#")
	s := w.asks(t, trace.Probe{Topic: func(b []byte) bool { return string(b) == "b" }})
	for i, topic := range []string{"a", "b", "c"} {
		pub.c.onData(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{Topic: []byte(topic), Payload: []byte("payload of " + topic), QoS: 1, PacketID: uint16(i + 1)}))
	}
	var got []string
	for range 3 {
		sub.c.onData(wire.AppendShortAck(nil, wire.PUBACK, sub.c.out.nextID))
		list, _ := s.Read()
		for _, e := range list {
			got = append(got, e.Kind.String())
		}
	}
	if want := []string{"received", "queued", "answered", "sent", "acknowledged"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
