package control

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/trace"
)

// traceEvery is how often a trace tells what has happened.
const traceEvery = 100 * time.Millisecond

// traceRows is how many events one answer of a trace holds.
const traceRows = 1000

// probe reads what a trace is about.
func probe(r *api.WatchTraceRequest) (p trace.Probe, err error) {
	n := 0
	for _, s := range []string{r.Client, r.Topic, r.Address, r.Message} {
		if s != "" {
			n++
		}
	}
	if n != 1 {
		return p, wrong("trace: want a client, a topic, an address or a message")
	}
	switch {
	case r.Client != "":
		p.Client = r.Client
	case r.Topic != "":
		filter := []byte(r.Topic)
		if !broker.ValidFilter(filter) {
			return p, wrong("trace topic %s: it is no MQTT topic filter", quoted(r.Topic))
		}
		p.Topic = func(topic []byte) bool { return broker.FilterMatches(filter, topic) }
	case r.Address != "":
		if p.Address, err = netip.ParsePrefix(r.Address); err != nil {
			a, err := netip.ParseAddr(r.Address)
			if err != nil {
				return p, wrong("trace address %s: want an IP address or a network such as 10.0.0.0/8", quoted(r.Address))
			}
			p.Address = netip.PrefixFrom(a, a.BitLen())
		}
	case r.Message == "*":
		p.Labels = true
	default:
		p.Label = r.Message
	}
	return p, nil
}

// WatchTrace tells what happens, until its caller goes.
func (e *explainService) WatchTrace(r *api.WatchTraceRequest, out grpc.ServerStreamingServer[api.TraceEvents]) error {
	p, err := probe(r)
	if err != nil {
		return err
	}
	p.Tenant = tenantOf(out.Context())
	s, err := e.s.o.Broker.Tracer().Open(p)
	if err != nil {
		return status.Error(codes.ResourceExhausted, "trace: "+err.Error())
	}
	defer s.Close()
	if err := e.armed(out.Context()); err != nil {
		return err
	}
	if err := out.Send(&api.TraceEvents{}); err != nil {
		return err
	}
	tick := time.NewTicker(traceEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-out.Context().Done():
			return status.FromContextError(out.Context().Err()).Err()
		case <-e.s.jobs.Done():
			return status.Error(codes.Unavailable, "trace: the node stops")
		}
		list, lost := s.Read()
		for len(list) > 0 || lost > 0 {
			n := min(len(list), traceRows)
			if err := out.Send(&api.TraceEvents{Events: shownEvents(list[:n]), Lost: int64(lost)}); err != nil {
				return err
			}
			list, lost = list[n:], 0
		}
	}
}

// armed waits until every loop has come round: what it was told before, of the probe, it knows then.
func (e *explainService) armed(ctx context.Context) error {
	for i := range e.s.o.Broker.Loops() {
		_, err := await(ctx, func(done func(struct{})) {
			e.s.o.Connections.Visit(broker.RowPlace{Part: i}, 1, func(Connection) {}, func(broker.RowPlace, bool) { done(struct{}{}) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func shownEvents(list []trace.Event) []*api.TraceEvent {
	out := make([]*api.TraceEvent, 0, len(list))
	for i := range list {
		v := &list[i]
		out = append(out, &api.TraceEvent{AtNs: v.At, Message: v.Mark.Number(), Kind: v.Kind.String(), Client: text(v.Client), Text: text(v.Text),
			Trace: text(v.Label), Size: int64(v.Size), Qos: uint32(v.QoS), PacketId: uint32(v.PacketID), Shard: uint32(v.Shard), Seq: v.Seq})
	}
	return out
}

// ExplainMessage shows what is remembered of messages.
func (e *explainService) ExplainMessage(_ context.Context, r *api.ExplainMessageRequest) (*api.ExplainMessageResponse, error) {
	if (r.Trace == "") == (r.Message == 0) {
		return nil, wrong("explain message: want the value of its user property trace, or its number")
	}
	t := e.s.o.Broker.Tracer()
	label := trace.Text(r.Trace)
	list, messages := t.Find(func(v *trace.Event) bool {
		if r.Message != 0 {
			return v.Mark.Number() == r.Message
		}
		return v.Kind == trace.Received && v.Label == label
	})
	if messages == 0 {
		what, next := "explain message "+quoted(r.Trace), ""
		if r.Message != 0 {
			what = fmt.Sprintf("explain message #%d", r.Message)
		}
		if t.Armed() == 0 {
			next = "; nothing is remembered now: set mqtt.trace_property, or run sluice trace message while it is published"
		}
		return nil, missing("%s: nothing is remembered of it%s", what, next)
	}
	return &api.ExplainMessageResponse{Events: shownEvents(list[:min(len(list), traceRows)]), Messages: int64(messages), Standing: t.Armed() > 0}, nil
}
