package broker

import (
	"net/netip"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/internal/trace"
)

// What is written here is written for messages that somebody asks about. To know that nobody does costs a look at Message.Trace.

// Tracer has who asks.
func (b *Broker) Tracer() *trace.Tracer { return b.tracer }

// FilterMatches says whether an MQTT filter, one of shared groups without its prefix, matches a topic.
func FilterMatches(filter, topic []byte) bool { return topics.FilterMatches(filter, topic) }

// ValidFilter says whether it is one.
func ValidFilter(filter []byte) bool { return topics.CheckFilter(filter) == nil }

func (b *Broker) traceLoops() {
	b.tracer = trace.New(len(b.locals), b.clock.Now)
	for i, l := range b.locals {
		b.tracer.Attach(i, func(to *trace.Loop) { l.Run(func() { l.trace = to }) })
	}
}

// What traceRoute names of those who match; the others are counted.
const (
	traceFilters     = 16
	traceSubscribers = 8 // of a filter
)

// traceRoute tells who is subscribed to m's topic. It asks the index itself: routes do not know filters any more.
func (l *Local) traceRoute(tenant uint32, m *Message, mt *match) {
	t := l.trace
	if t == nil {
		return
	}
	if mt.bound != nil {
		t.Add(m.Trace, trace.Event{Kind: trace.Streamed, Text: trace.Text(mt.bound.topic.Name())})
	}
	var found topics.Matches
	l.b.index.Match(tenant, m.Topic, &found)
	if len(found.Filters) == 0 {
		t.Add(m.Trace, trace.Event{Kind: trace.NoMatch})
		return
	}
	more := 0
	for i := range found.Filters {
		f := &found.Filters[i]
		_, group, filter := l.b.index.Filter(f.ID)
		if filter == nil || i >= traceFilters {
			more += len(f.Entries)
			continue
		}
		text := trace.Text(filter)
		if len(group) > 0 {
			text = trace.Text("$share/" + string(group) + "/" + string(filter))
		}
		for k, e := range f.Entries {
			if k == traceSubscribers {
				more += len(f.Entries) - k
				break
			}
			if sess := l.b.slots.session(e.Subscriber); sess != nil {
				t.Add(m.Trace, trace.Event{Kind: trace.Matched, Text: text, Client: sess.id, QoS: min(m.QoS, QoS(e.Options&optQoS))})
			}
		}
	}
	if more > 0 {
		t.Add(m.Trace, trace.Event{Kind: trace.Matched, Size: int32(more)})
	}
}

// traceKept tells that a message is in the log. Whoever gets it from there knows it by its place.
func (l *Local) traceKept(s *shard, seq uint64, m trace.Mark) {
	if t := l.trace; t != nil {
		t.Remember(m, uint16(s.id), seq)
		t.Add(m, trace.Event{Kind: trace.Kept, Shard: uint16(s.id), Seq: seq})
	}
}

// markOf is the mark of a message, which may have been given when it was kept.
func markOf(t *trace.Loop, m *Message, ref Ref) trace.Mark {
	if m.Trace != 0 {
		return m.Trace
	}
	return t.Of(ref.Shard, ref.Seq)
}

// traceBehind tells that a message waits in the log for c, which has no room or is sent others first.
func (l *Local) traceBehind(c *Client, m *Message, ref Ref) {
	t := l.trace
	if t == nil || !t.Probes() {
		return
	}
	mark := markOf(t, m, ref)
	var topic []byte
	if mark == 0 {
		topic = m.Topic
	}
	if probes := t.Wants(c.tenant, c.sess.id, netip.Addr{}, topic, nil); probes != 0 {
		had := mark
		if mark = t.Mark(l.nowMilli(), probes, mark); had == 0 && mark != 0 {
			t.Remember(mark, ref.Shard, ref.Seq)
		}
	}
	t.Add(mark, trace.Event{Kind: trace.Queued, Client: c.sess.id, Text: "in the log: others come first, or it has no room"})
}

// traceDropped tells that what a queue held for c is not sent.
func (l *Local) traceDropped(c *Client, m *Message, ref Ref, why DropReason) {
	t := l.trace
	if t == nil {
		return
	}
	t.Add(markOf(t, m, ref), trace.Event{Kind: trace.Dropped, Client: c.sess.id, Text: why.String()})
}
