package mqtt

import (
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// What is here runs while there is a collector of traces, and then for the messages that are traced. A message's context travels in its user
// properties, put there before the core sees it: so it lies in the log with the message, is a header for Kafka's readers and comes back to sessions
// that are behind, without a word of its own anywhere.

// openSpans are those of a connection that have not ended.
type openSpans struct {
	taken map[uint64]*trace.Span // of PUBLISH that are not answered, by the numbers of their marks
	sent  map[uint16]*trace.Span // of messages in flight, by their identifiers
}

func (c *conn) openSpans() *openSpans {
	x := c.extras()
	if x.spans == nil {
		x.spans = &openSpans{taken: make(map[uint64]*trace.Span), sent: make(map[uint16]*trace.Span)}
	}
	return x.spans
}

// contextOf gives the context among a message's properties and what it says of the state, a view. Zero: there is none, or nobody can say which of
// several counts.
func contextOf(props []byte) (parent trace.Context, state []byte) {
	found := 0
	for u := wire.UserProperties(props).Read(); ; {
		name, value, ok := u.Next()
		if !ok {
			break
		}
		switch string(name) {
		case trace.Traceparent:
			found++
			parent, _ = trace.ParseContext(value)
		case trace.Tracestate:
			state = value
		}
	}
	if found != 1 || parent == (trace.Context{}) {
		return trace.Context{}, nil
	}
	return parent, state
}

// setContext appends block with context in the place of any other to dst. keep says whether the state is of the same trace.
func setContext(dst, block []byte, context trace.Context, keep bool) []byte {
	for all := wire.ReadProperties(block); ; {
		p, ok := all.Next()
		if !ok {
			break
		}
		if p.ID != wire.PropUser || string(p.Data) != trace.Traceparent && (keep || string(p.Data) != trace.Tracestate) {
			dst = wire.AppendProperty(dst, p)
		}
	}
	var value [64]byte
	return wire.AppendUserProperty(dst, []byte(trace.Traceparent), context.Append(value[:0]))
}

// spanReceived begins the span of a PUBLISH if that is traced, has its context be the message's, and gives the mark by which spanAnswered ends it.
func (c *conn) spanReceived(spans *trace.Spans, p *wire.Publish, mark trace.Mark) trace.Mark {
	var parent trace.Context
	var state, props []byte
	if p.Props.HasForward() {
		props, c.l.forward = p.Props.Forward(c.l.forward)
		parent, state = contextOf(props)
	}
	sp := spans.Begin(parent)
	if sp == nil {
		return mark
	}
	sp.SetTracestate(state)
	c.l.context = setContext(c.l.context[:0], props, sp.Context, parent != trace.Context{})
	p.Props.SetForward(c.l.context)
	sp.Client, sp.Topic, sp.Size, sp.QoS, sp.PacketID, sp.Retain, sp.Again = trace.Text(c.clientID()), trace.Text(p.Topic), int32(len(p.Payload)), p.QoS,
		p.PacketID, p.Retain, p.Dup
	mark = c.l.trace.Number(mark)
	c.openSpans().taken[mark.Number()] = sp
	return mark
}

// spanAnswered ends the span of a PUBLISH, if it has one: its publisher hears of it.
func (c *conn) spanAnswered(mark trace.Mark, why string) {
	if sp := c.spanTaken(mark); sp != nil {
		sp.Finish(why)
	}
}

// spanBusy forgets the span of a PUBLISH that comes again.
func (c *conn) spanBusy(mark trace.Mark) {
	if sp := c.spanTaken(mark); sp != nil {
		sp.Drop()
	}
}

func (c *conn) spanTaken(mark trace.Mark) *trace.Span {
	if c.extra == nil || c.extra.spans == nil {
		return nil
	}
	sp := c.extra.spans.taken[mark.Number()]
	delete(c.extra.spans.taken, mark.Number())
	return sp
}

// spanOldest is how old a message may be that nobody has kept for the client, in milliseconds: what was retained long ago, and a stream's history, would
// go on in a trace that is over.
const spanOldest = 60_000

// spanDelivered begins the span of a message that was sent, or ends it where nothing answers it.
func (c *conn) spanDelivered(m *broker.Message, d *broker.Delivery, id uint16, f fate) {
	if x := c.extra; x != nil && x.spans != nil && id != 0 {
		x.spans.landed(id) // nobody has said what became of the one before
	}
	spans := c.l.trace.Spans()
	if spans == nil || c.state != stateUp || len(m.Props) == 0 || f == fateQueued || d.Ref.Zero() && c.l.loop.NowUnixMilli()-m.Timestamp > spanOldest && m.Timestamp != 0 {
		return
	}
	parent, state := contextOf(m.Props)
	sp := spans.Deliver(parent)
	if sp == nil {
		return
	}
	sp.SetTracestate(state)
	sp.Client, sp.Topic, sp.Size, sp.QoS, sp.PacketID, sp.Retain, sp.Again = trace.Text(c.clientID()), trace.Text(m.Topic), int32(len(m.Payload)), d.QoS, id,
		d.Retain, d.Dup
	switch {
	case f >= fateDropped:
		sp.Finish("dropped: " + Drop(f-fateDropped).String())
	case id == 0:
		sp.Finish("")
	case len(c.openSpans().sent) >= sentSpansMax:
		sp.Finish("sent; whether it was acknowledged is not known, as the client has left others without")
	default:
		c.extra.spans.sent[id] = sp
	}
}

// sentSpansMax is how many deliveries to one client wait for its acknowledgement: those who never give one leave others room.
const sentSpansMax = 16

// landed ends the span of what bears an identifier.
func (o *openSpans) landed(id uint16) {
	if sp := o.sent[id]; sp != nil {
		delete(o.sent, id)
		sp.Finish("")
	}
}

// spansEnd ends the spans of a connection that ends.
func (c *conn) spansEnd() {
	if c.extra == nil || c.extra.spans == nil {
		return
	}
	for _, sp := range c.extra.spans.taken {
		sp.Finish("its publisher has gone before it was answered")
	}
	for _, sp := range c.extra.spans.sent {
		sp.Finish("the client has gone without acknowledging it")
	}
}
