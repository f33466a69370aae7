package trace

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// SpanKind is what a span is of.
type SpanKind uint8

// The kinds of Span.
const (
	SpanPublish SpanKind = iota // a message that a client has published, until its publisher is answered
	SpanDeliver                 // a message that was sent to a client, until that has acknowledged it
)

// Span is what became of one message in one place. Who has begun it fills it in and calls End or Drop, once; it is not safe for concurrent use.
type Span struct {
	Context
	Parent     SpanID // zero: none
	Tracestate string // of the parent
	Start, End int64  // Unix nanoseconds
	Client     string
	Topic      string
	Failed     string // why it did not go well; empty: it did
	Size       int32  // of the payload
	PacketID   uint16 // 0: none
	QoS        uint8
	Kind       SpanKind
	Retain     bool
	Again      bool // it was sent before
	of         *Spans
}

// tracestateMax is the longest tracestate that a span takes along; the specification asks for no more.
const tracestateMax = 512

// SetTracestate takes a tracestate along, if it is not too long.
func (s *Span) SetTracestate(state []byte) {
	if len(state) <= tracestateMax {
		s.Tracestate = string(state)
	}
}

// Finish ends the span, and has it wait for Take. why says what went wrong; empty: nothing did.
func (s *Span) Finish(why string) {
	s.End, s.Failed = s.of.o.Now().UnixNano(), Text(why)
	s.of.put(s)
}

// Drop forgets a span that is to be begun again.
func (s *Span) Drop() { s.of.begun.Add(-1) }

// SpanCounts count spans. They outlive a Spans.
type SpanCounts struct {
	Limited   atomic.Uint64 // not begun: as many as may were begun in this second
	Full      atomic.Uint64 // not begun: as many have begun and were not taken as may; or lost, as nobody takes them any more
	Exported  atomic.Uint64 // the collector has them
	Collector atomic.Uint64 // the collector has refused them, or they were left when the node ended
}

// SpanOptions are those of Spans.
type SpanOptions struct {
	Ratio     float64          // the part of messages without a context that is traced, 0 to 1
	PerSecond int              // messages that are traced in a second, twice over: see Begin. Ten times as many deliveries
	Queue     int              // spans that have begun and that Take has not had
	Now       func() time.Time // nil: time.Now
	Counts    *SpanCounts
}

// deliveriesFor is how many deliveries may be traced for each message that may.
const deliveriesFor = 10

// Spans decides which messages are traced for a collector, within its bounds, and keeps what is known of them until Take. It is safe for concurrent
// use.
type Spans struct {
	o     SpanOptions
	made  bucket       // of messages that came without a context
	asked bucket       // of messages whose context asks for it: one who asks for all does not have the others' places
	given bucket       // of deliveries
	begun atomic.Int64 // and were not taken
	ready chan struct{}
	mu    struct {
		sync.Mutex
		list   []*Span
		closed bool
	}
}

// NewSpans makes a Spans. Tracer.Export has messages be traced by it.
func NewSpans(o SpanOptions) *Spans {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Spans{o: o, ready: make(chan struct{}, 1)}
	s.made.rate, s.asked.rate, s.given.rate = int64(o.PerSecond), int64(o.PerSecond), int64(o.PerSecond)*deliveriesFor
	return s
}

// Begin decides about a message that a client has published, whose context is parent; zero: it has none. The span's own context is to be the message's.
// nil: it is not traced. A context that is not sampled is left alone; one that is counts while there is room, and so does the broker's own choice of the others.
func (s *Spans) Begin(parent Context) *Span {
	from := &s.made
	switch {
	case parent.Trace != ID{}:
		if !parent.Sampled {
			return nil
		}
		from = &s.asked
	case s.o.Ratio <= 0 || s.o.Ratio < 1 && rand.Float64() >= s.o.Ratio: //nolint:gosec // nobody gains by guessing
		return nil
	}
	return s.begin(from, SpanPublish, parent)
}

// Deliver decides the same about a delivery of a message with a context.
func (s *Spans) Deliver(parent Context) *Span {
	if !parent.Sampled {
		return nil
	}
	return s.begin(&s.given, SpanDeliver, parent)
}

func (s *Spans) begin(from *bucket, kind SpanKind, parent Context) *Span {
	now := s.o.Now().UnixNano()
	if !from.take(now) {
		s.o.Counts.Limited.Add(1)
		return nil
	}
	if s.begun.Add(1) > int64(s.o.Queue) {
		s.begun.Add(-1)
		s.o.Counts.Full.Add(1)
		return nil
	}
	sp := &Span{Context: Context{Trace: parent.Trace, Span: newSpanID(), Sampled: true}, Parent: parent.Span, Start: now, Kind: kind, of: s}
	for sp.Trace == (ID{}) {
		binary.NativeEndian.PutUint64(sp.Trace[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(sp.Trace[8:], rand.Uint64())
	}
	return sp
}

func newSpanID() (id SpanID) {
	for id == (SpanID{}) {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

func (s *Spans) put(sp *Span) {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		s.begun.Add(-1)
		s.o.Counts.Full.Add(1)
		return
	}
	s.mu.list = append(s.mu.list, sp)
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Ready gives a value when spans wait.
func (s *Spans) Ready() <-chan struct{} { return s.ready }

// Counts are the counters that the Spans was made with.
func (s *Spans) Counts() *SpanCounts { return s.o.Counts }

// Take appends up to so many of the spans that wait to dst, the oldest first.
func (s *Spans) Take(dst []*Span, most int) []*Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(most, len(s.mu.list))
	dst = append(dst, s.mu.list[:n]...)
	rest := copy(s.mu.list, s.mu.list[n:])
	clear(s.mu.list[rest:])
	s.mu.list = s.mu.list[:rest]
	s.begun.Add(-int64(n))
	return dst
}

// Waiting is how many Take has not had yet.
func (s *Spans) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.list)
}

// Close has spans that end from now on be lost: nobody takes them any more.
func (s *Spans) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.closed = true
}

// bucket lets so many through in a second, those of one second at once if need be.
type bucket struct {
	rate int64
	mu   struct {
		sync.Mutex
		spent int64 // Unix nanoseconds: until when all is spent
	}
}

func (b *bucket) take(now int64) bool {
	if b.rate <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	each := int64(time.Second) / b.rate
	if next := max(b.mu.spent, now-int64(time.Second)) + each; next <= now {
		b.mu.spent = next
		return true
	}
	return false
}
