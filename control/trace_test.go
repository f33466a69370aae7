package control_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// follower gathers what a trace tells.
type follower struct {
	t   *testing.T
	end context.CancelFunc
	s   grpc.ServerStreamingClient[api.TraceEvents]
	mu  struct {
		sync.Mutex
		list []*api.TraceEvent
	}
}

// follow begins a trace; from then on nothing is missed.
func (n *node) follow(r *api.WatchTraceRequest) *follower {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	f := &follower{t: n.t, end: cancel}
	var err error
	if f.s, err = n.explain().WatchTrace(ctx, r); err != nil {
		n.t.Fatal(err)
	}
	if _, err := f.s.Recv(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			b, err := f.s.Recv()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.mu.list = append(f.mu.list, b.Events...)
			f.mu.Unlock()
		}
	}()
	n.t.Cleanup(func() { cancel(); <-done })
	return f
}

// lines are the events as KIND CLIENT TEXT.
func lines(list []*api.TraceEvent) (out []string) {
	for _, e := range list {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Kind, e.Client, e.Text)))
	}
	return out
}

// has waits until the trace has told all of this, in whatever order, and gives all.
func (f *follower) has(want ...string) (all []*api.TraceEvent) {
	f.t.Helper()
	testx.Eventually(f.t, 20*time.Second, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		all = slices.Clone(f.mu.list)
		got := lines(all)
		return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(got, w) })
	}, lately(func() string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Sprintf("want %q, have %q", want, lines(f.mu.list))
	}))
	return all
}

// inOrder checks that events come in this order.
func inOrder(t *testing.T, list []*api.TraceEvent, want ...string) {
	t.Helper()
	got, at := lines(list), 0
	for _, w := range want {
		i := slices.Index(got[at:], w)
		if i < 0 {
			t.Fatalf("%q is not behind the others in %q", w, got)
		}
		at += i + 1
	}
	if !slices.IsSortedFunc(list, func(a, b *api.TraceEvent) int { return int(a.AtNs - b.AtNs) }) {
		t.Errorf("times are not in order: %v", list)
	}
}

func TestTraceOfATopic(t *testing.T) {
	n := start(t)
	f := n.follow(&api.WatchTraceRequest{Topic: "plant/+"})
	n.subscriber("screen", "plant/#", 0, 0, 0)
	pump := n.subscriber("pump", "plant/a", 1, 0, 3600)
	pub := n.mqtt("pub", 0, 5)
	n.publish(pub, "elsewhere", 1, 1, 10)
	n.publish(pub, "plant/a", 1, 1, 10)
	if _, err := pump.Receive(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	all := f.has("acknowledged pump", "answered pub", "sent screen plant/a")
	inOrder(t, all, "received pub plant/a", "matched pump plant/a", "logged", "sent pump plant/a", "acknowledged pump")
	inOrder(t, all, "received pub plant/a", "matched screen plant/#", "logged", "sent screen plant/a")
	inOrder(t, all, "logged", "answered pub")
	for _, e := range all {
		if e.Message != all[0].Message || e.Message == 0 {
			t.Errorf("another message: %v", e)
		}
	}
	n.publish(pub, "plant/b", 0, 1, 10)
	f.has("received pub plant/b", "sent screen plant/b")
	nobody := n.follow(&api.WatchTraceRequest{Topic: "nobody"})
	n.publish(pub, "nobody", 1, 1, 10)
	inOrder(t, nobody.has("answered pub"), "received pub nobody", "nobody", "answered pub")
}

func TestTraceOfAClientThatIsSlow(t *testing.T) {
	n := start(t)
	pub := n.mqtt("pub", 0, 5)
	for id, expiry := range map[string]uint32{"live": 0, "kept": 3600} {
		c := n.subscriber(id, id, 1, 1, expiry)
		f := n.follow(&api.WatchTraceRequest{Client: id})
		n.publish(pub, id, 1, 2, 10)
		where := map[string]string{"live": "in memory: it has no room", "kept": "in the log: others come first, or it has no room"}[id]
		f.has("sent "+id+" "+id, "queued "+id+" "+where)
		for range 2 {
			if _, err := c.Receive(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		testx.Eventually(t, 10*time.Second, func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			got := lines(f.mu.list)
			return len(slices.DeleteFunc(got, func(s string) bool { return s != "acknowledged "+id })) == 2
		}, lately(func() string { return fmt.Sprint(lines(f.has())) }))
		inOrder(t, f.has(), "sent "+id+" "+id, "queued "+id+" "+where, "acknowledged "+id, "sent "+id+" "+id, "acknowledged "+id)
		if err := c.Disconnect(); err != nil {
			t.Fatal(err)
		}
		f.has("ended " + id + " the client has said DISCONNECT")
	}
}

func TestTraceOfDrops(t *testing.T) {
	n := start(t)
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"], Connect: wire.Connect{Version: 5, ClientID: []byte("small"), CleanStart: true, MaximumPacketSize: 200}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("big"), QoS: 0}); err != nil {
		t.Fatal(err)
	}
	f := n.follow(&api.WatchTraceRequest{Address: "127.0.0.0/8"})
	pub := n.mqtt("pub", 0, 5)
	n.publish(pub, "big", 0, 1, 1000)
	if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("$SYS/x"), QoS: 1}); err == nil {
		t.Fatal("$SYS is the server's")
	}
	inOrder(t, f.has("dropped small too_large", "denied pub topic is the server's own"), "received pub big", "matched small big", "dropped small too_large")
	if _, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"], Connect: wire.Connect{Version: 5, ClientID: []byte("auth"), AuthMethod: []byte("x")}}); err == nil {
		t.Fatal("a method that there is not")
	}
	testx.Eventually(t, 10*time.Second, func() bool {
		return slices.ContainsFunc(lines(f.has()), func(s string) bool { return strings.HasPrefix(s, "refused ") })
	}, "the refusal")
	elsewhere := n.follow(&api.WatchTraceRequest{Address: "10.0.0.1"})
	n.publish(pub, "big", 1, 1, 1000)
	f.has("answered pub")
	if list := elsewhere.has(); len(list) != 0 {
		t.Errorf("of another address: %q", lines(list))
	}
}

func TestTraceProperty(t *testing.T) {
	n := start(t, "mqtt.trace_property=true")
	pub := n.mqtt("pub", 0, 5)
	sub := n.subscriber("sub", "t", 1, 0, 3600)
	send := func(value string) {
		t.Helper()
		if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("t"), QoS: 1, Forward: wire.AppendUserProperty(nil, []byte("trace"), []byte(value))}); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Receive(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	f := n.follow(&api.WatchTraceRequest{Message: "other"})
	send("order-17")
	send("other")
	var r *api.ExplainMessageResponse
	testx.Eventually(t, 10*time.Second, func() bool {
		var err error
		if r, err = n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{Trace: "order-17"}); err != nil {
			t.Fatal(err)
		}
		return slices.Contains(lines(r.Events), "acknowledged sub")
	}, "all of its way")
	inOrder(t, r.Events, "received pub t", "matched sub t", "logged", "sent sub t", "acknowledged sub")
	if r.Messages != 1 || !r.Standing || r.Events[0].Trace != "order-17" {
		t.Errorf("%v", r)
	}
	by, err := n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{Message: r.Events[0].Message})
	if err != nil || len(by.Events) != len(r.Events) {
		t.Errorf("by its number: %v, %v", by, err)
	}
	for _, e := range f.has("acknowledged sub") {
		if e.Trace == "order-17" || e.Message == r.Events[0].Message {
			t.Errorf("another message's: %v", e)
		}
	}
	_, err = n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{Trace: "absent"})
	wants(t, err, codes.NotFound, "nothing is remembered of it")
	_, err = n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{Message: 1 << 40})
	wants(t, err, codes.NotFound, "explain message #1099511627776: nothing is remembered of it")
	_, err = n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{})
	wants(t, err, codes.InvalidArgument, "or its number")
}

func TestTracesAreBounded(t *testing.T) {
	n := start(t)
	_, err := n.explain().ExplainMessage(t.Context(), &api.ExplainMessageRequest{Trace: "x"})
	wants(t, err, codes.NotFound, "set mqtt.trace_property")
	var last *follower
	for range 7 {
		last = n.follow(&api.WatchTraceRequest{Client: "c"})
	}
	refused := func(code codes.Code, says string, r *api.WatchTraceRequest) {
		t.Helper()
		s, err := n.explain().WatchTrace(t.Context(), r)
		if err == nil {
			_, err = s.Recv()
		}
		wants(t, err, code, says)
	}
	refused(codes.ResourceExhausted, "as many traces run as may", &api.WatchTraceRequest{Client: "c"})
	for _, r := range []*api.WatchTraceRequest{{}, {Client: "c", Topic: "t"}, {Topic: "a/#/b"}, {Address: "host"}} {
		refused(codes.InvalidArgument, "trace", r)
	}
	last.end()
	testx.Eventually(t, 10*time.Second, func() bool { // its place is free again
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := n.explain().WatchTrace(ctx, &api.WatchTraceRequest{Client: "c"})
		if err == nil {
			_, err = s.Recv()
		}
		return err == nil
	}, "a place for a trace")
}

func TestExplainTopic(t *testing.T) {
	n := start(t, "bindings=[{filter: 'bound/#', topic: things, key: client}]")
	f := n.follow(&api.WatchTraceRequest{Topic: "bound/a"})
	pub := n.mqtt("pub", 0, 5)
	n.subscriber("sub", "bound/#", 1, 0, 0)
	n.publish(pub, "bound/a", 1, 2, 10)
	f.has("stream  things", "answered pub")
	r, err := n.explain().ExplainTopic(t.Context(), &api.ExplainTopicRequest{Topic: "bound/a", Client: "pub"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Binding == nil || r.Binding.Binding.Topic != "things" || r.Binding.Key != "pub" || !r.Publish.Allowed || r.Retained != nil || r.Storage != "" || r.Subscribers != 1 ||
		len(r.Subscriptions) != 1 || r.Messages < 2 || r.Events["received"] != 2 || r.Events["stream"] != 2 {
		t.Errorf("%v", r)
	}
	_, err = n.explain().ExplainTopic(t.Context(), &api.ExplainTopicRequest{})
	wants(t, err, codes.InvalidArgument, "a topic has 1 to")
	_, err = n.explain().ExplainTopic(t.Context(), &api.ExplainTopicRequest{Topic: "t", Host: "here"})
	wants(t, err, codes.InvalidArgument, "want an IP address")
}
