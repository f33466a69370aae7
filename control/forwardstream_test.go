package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

const (
	methodPrefetch = "/sluice.control.v1.Tiers/Prefetch"
	methodTrace    = "/sluice.control.v1.Explanations/WatchTrace"
	farPatience    = 30 * time.Second
)

// caughtStream is a caller's end: what it gets waits until the test takes it.
type caughtStream struct {
	grpc.ServerStream
	ctx context.Context
	req proto.Message
	got chan string
}

func (c *caughtStream) Context() context.Context { return c.ctx }

func (c *caughtStream) RecvMsg(m any) error {
	proto.Merge(m.(proto.Message), c.req)
	return nil
}

func (c *caughtStream) SendMsg(m any) error {
	select {
	case c.got <- m.(*api.TierProgress).GetPhase():
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// streaming has a method of the leader answered by a test, and gives what makes the call at the other node.
func streaming(t *testing.T, answer func(s *Server, q *api.PrefetchTierRequest, out grpc.ServerStream) error) (l *otherLeads, trail string, call func(context.Context) (got chan string, err chan error)) {
	t.Helper()
	l, trail, _ = forwarding(t, new(Principals))
	r := *l.s.methods[methodPrefetch]
	r.stream = func(_ any, out grpc.ServerStream) error {
		q := new(api.PrefetchTierRequest)
		if err := out.RecvMsg(q); err != nil {
			return err
		}
		return answer(l.s, q, out)
	}
	l.s.methods[methodPrefetch] = &r
	takes := New(Options{Node: 1, Peers: l, Principals: func() *Principals {
		return NewPrincipals("", []Principal{{Name: "op", Role: RoleOperator, Token: "secret"}})
	}})
	t.Cleanup(func() { takes.Close(context.Background()) })
	return l, trail, func(ctx context.Context) (chan string, chan error) {
		got, ended := make(chan string), make(chan error, 1)
		ss := &caughtStream{ctx: ctx, req: &api.PrefetchTierRequest{Topic: "asked"}, got: got}
		go func() {
			ended <- takes.stream(nil, ss, &grpc.StreamServerInfo{FullMethod: methodPrefetch, IsServerStream: true}, func(any, grpc.ServerStream) error {
				return errors.New("answered here")
			})
		}()
		return got, ended
	}
}

func (f *farStreams) running() int {
	f.Lock()
	defer f.Unlock()
	return len(f.byKey)
}

// A call that answers more than once is answered by the node that leads: all messages in order, and its end, for the caller that the first node has let in.
func TestForwardStream(t *testing.T) {
	l, trail, call := streaming(t, func(s *Server, q *api.PrefetchTierRequest, out grpc.ServerStream) error {
		if c, err := s.identify(out.Context()); err != nil || c.name != "op" || c.role != RoleOperator {
			t.Errorf("%v %v", c, err)
		}
		for i := range 20 {
			if err := out.SendMsg(&api.TierProgress{Phase: fmt.Sprint(q.GetTopic(), i)}); err != nil {
				return err
			}
		}
		return status.Error(codes.DataLoss, "it is over")
	})
	got, ended := call(as("secret"))
	for i := range 20 {
		if m := testx.Receive(t, got, farPatience); m != fmt.Sprint("asked", i) {
			t.Errorf("message %d is %s", i, m)
		}
	}
	if err := testx.Receive(t, ended, farPatience); status.Code(err) != codes.DataLoss || status.Convert(err).Message() != "it is over" {
		t.Error(err)
	}
	if n := l.s.far.running(); n > 0 {
		t.Errorf("%d calls are left", n)
	}
	b, err := os.ReadFile(trail)
	if err != nil || !strings.Contains(string(b), `"principal":"op"`) || !strings.Contains(string(b), "by node 1") {
		t.Errorf("%s %v", b, err)
	}
	_, ended = call(as("nobody"))
	if err := testx.Receive(t, ended, farPatience); status.Code(err) != codes.Unauthenticated {
		t.Error(err)
	}
}

// Whoever does not take what comes holds up the call at the node that leads, which has two messages ready at most, and ends it by going.
func TestForwardStreamIsBounded(t *testing.T) {
	var sent atomic.Int32
	over := make(chan error, 1)
	l, _, call := streaming(t, func(_ *Server, _ *api.PrefetchTierRequest, out grpc.ServerStream) error {
		for {
			if err := out.SendMsg(&api.TierProgress{Phase: "x"}); err != nil {
				over <- err
				return err
			}
			sent.Add(1)
		}
	})
	ctx, cancel := context.WithCancel(as("secret"))
	got, ended := call(ctx)
	for range 3 {
		testx.Receive(t, got, farPatience)
	}
	if n := sent.Load(); n > 3+2 { // one on its way to the caller, one ready
		t.Errorf("%d messages were made, 3 are taken", n)
	}
	cancel()
	if err := testx.Receive(t, over, farPatience); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	if err := testx.Receive(t, ended, farPatience); err == nil {
		t.Error("it has ended well")
	}
	testx.Eventually(t, farPatience, func() bool { return l.s.far.running() == 0 }, "the call is forgotten")
}

// When the node that leads stops, and when it cannot be asked, the caller is told.
func TestForwardStreamWithoutLeader(t *testing.T) {
	l, _, call := streaming(t, func(_ *Server, _ *api.PrefetchTierRequest, out grpc.ServerStream) error {
		if err := out.SendMsg(&api.TierProgress{Phase: "x"}); err != nil {
			return err
		}
		<-out.Context().Done()
		return out.Context().Err()
	})
	got, ended := call(as("secret"))
	testx.Receive(t, got, farPatience)
	l.s.Drain()
	if err := testx.Receive(t, ended, farPatience); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	l.err = errors.New("the link is down")
	_, ended = call(as("secret"))
	if err := testx.Receive(t, ended, farPatience); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the link is down") {
		t.Error(err)
	}
}

// What another node asks is answered, whatever it is.
func TestForwardedSteps(t *testing.T) {
	s := New(Options{Node: 2})
	defer s.Close(context.Background())
	for _, c := range []struct {
		call forwardedCall
		want codes.Code
	}{
		{forwardedCall{Method: methodPrefetch, Role: "operator", Stream: 1, Step: stepNext}, codes.Unavailable},
		{forwardedCall{Method: methodPrefetch, Role: "operator", Stream: 1}, codes.Unavailable},
		{forwardedCall{Method: methodPrefetch, Role: "operator", Stream: 1, Step: stepEnd}, codes.OK},
		{forwardedCall{Method: methodPrefetch, Role: "viewer", Stream: 1, Step: stepBegin}, codes.PermissionDenied},
		{forwardedCall{Method: methodTrace, Role: "viewer", Stream: 1, Step: stepBegin}, codes.PermissionDenied},
		{forwardedCall{Method: methodTopics, Role: "admin", Stream: 1, Step: stepBegin}, codes.Unimplemented},
		{forwardedCall{Method: "/sluice.control.v1.Backups/Verify", Role: "admin", Stream: 1, Step: stepBegin}, codes.Unimplemented},
		{forwardedCall{Method: methodPrefetch, Role: "operator", Stream: 1, Step: stepBegin, Request: []byte{0xff}}, codes.InvalidArgument},
	} {
		b, err := json.Marshal(c.call)
		if err != nil {
			t.Fatal(err)
		}
		var a forwardedAnswer
		if err := json.Unmarshal(s.Forwarded(t.Context(), 1, b), &a); err != nil || a.Code != c.want || a.More {
			t.Errorf("%+v: %+v, %v", c.call, a, err)
		}
	}
	for i := range uint64(farMost) {
		s.far.add(farKey{3, i}, new(farStream))
	}
	b, _ := json.Marshal(forwardedCall{Method: methodPrefetch, Role: "operator", Stream: 1, Step: stepBegin})
	var a forwardedAnswer
	if err := json.Unmarshal(s.Forwarded(t.Context(), 1, b), &a); err != nil || a.Code != codes.ResourceExhausted {
		t.Errorf("%+v, %v", a, err)
	}
}
