package control

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// otherLeads is a cluster in which another Server leads, or nobody answers.
type otherLeads struct {
	s      *Server
	err    error
	answer []byte // instead of what it says
}

func (l *otherLeads) Leader() (meta.NodeID, bool) { return 2, true }

func (l *otherLeads) All() []meta.NodeID { return []meta.NodeID{2} }

func (l *otherLeads) Ask(ctx context.Context, _ meta.NodeID, call []byte) ([]byte, error) {
	if l.err != nil || l.answer != nil {
		return l.answer, l.err
	}
	return l.s.Forwarded(ctx, 1, call), nil
}

// answering has a method of a Server answered by a test.
func answering[Req any](s *Server, method string, answer func(context.Context, *Req) (any, error)) {
	r := *s.methods[method]
	r.unary = func(_ any, ctx context.Context, dec func(any) error, by grpc.UnaryServerInterceptor) (any, error) {
		in := new(Req)
		if err := dec(in); err != nil {
			return nil, err
		}
		return by(ctx, in, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, req any) (any, error) { return answer(ctx, req.(*Req)) })
	}
	s.methods[method] = &r
}

// forwarding is a pair of which the second leads; call makes a call at the first.
func forwarding(t *testing.T, principals *Principals) (l *otherLeads, trail string, call func(ctx context.Context, method string, req proto.Message) (any, error)) {
	t.Helper()
	leads := New(Options{Node: 2})
	trail = filepath.Join(t.TempDir(), "audit")
	leads.SetAudit(trail, true)
	l = &otherLeads{s: leads}
	takes := New(Options{Node: 1, Peers: l, Principals: func() *Principals { return principals }})
	t.Cleanup(func() {
		for _, s := range []*Server{takes, leads} {
			s.Close(context.Background())
		}
	})
	return l, trail, func(ctx context.Context, method string, req proto.Message) (any, error) {
		return takes.unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
			return nil, errors.New("answered here")
		})
	}
}

const (
	methodCreate = "/sluice.control.v1.Topics/Create"
	methodTopics = "/sluice.control.v1.Topics/List"
	methodUsers  = "/sluice.control.v1.Users/List"
)

// A call about what the leader has is answered by it, with the caller's role and name, which are in its audit trail.
func TestForward(t *testing.T) {
	l, trail, call := forwarding(t, NewPrincipals("", []Principal{{Name: "op", Role: RoleOperator, Token: "secret"}, {Name: "eye", Role: RoleViewer, Token: "look"}}))
	answering(l.s, methodCreate, func(ctx context.Context, q *api.CreateTopicRequest) (any, error) {
		if c, err := l.s.identify(ctx); err != nil || c.name != "op" || c.role != RoleOperator || fromLoopback(ctx) {
			t.Errorf("%v %v, loopback %v", c, err, fromLoopback(ctx))
		}
		if q.GetName() == "there" {
			return nil, status.Error(codes.AlreadyExists, "it is there")
		}
		return &api.Topic{Name: q.GetName() + " made"}, nil
	})
	resp, err := call(as("secret"), methodCreate, &api.CreateTopicRequest{Name: "x"})
	if made, ok := resp.(*api.Topic); err != nil || !ok || made.GetName() != "x made" {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err = call(as("secret"), methodCreate, &api.CreateTopicRequest{Name: "there"}); status.Code(err) != codes.AlreadyExists || status.Convert(err).Message() != "it is there" {
		t.Error(err)
	}
	if _, err = call(as("look"), methodCreate, &api.CreateTopicRequest{Name: "y"}); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
	if _, err = call(as("secret"), methodUsers, &api.ListUsersRequest{}); err == nil || err.Error() != "answered here" {
		t.Errorf("what every node has: %v", err)
	}
	b, err := os.ReadFile(trail)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.Count(s, `"principal":"op"`) != 4 || strings.Count(s, `"remote":"192.0.2.1:7 by node 1"`) != 4 || strings.Contains(s, "eye") {
		t.Errorf("%s", s)
	}
}

// What the leader sends back is an answer, or it is said what is wrong with it.
func TestForwardFails(t *testing.T) {
	l, _, call := forwarding(t, new(Principals))
	here := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	l.err = errors.New("the link is down")
	if _, err := call(here, methodTopics, &api.ListTopicsRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "node 2") || !strings.Contains(err.Error(), "the link is down") {
		t.Error(err)
	}
	l.err = nil
	for _, answer := range []string{"", "{", `{"Code":0,"Response":"/w=="}`, `[]`} {
		l.answer = []byte(answer)
		if _, err := call(here, methodTopics, &api.ListTopicsRequest{}); status.Code(err) != codes.Internal {
			t.Errorf("%s: %v", answer, err)
		}
	}
	// It is not sent on a second time.
	l.answer = nil
	l.s.o.Peers = l
	answering(l.s, methodTopics, func(context.Context, *api.ListTopicsRequest) (any, error) { return &api.ListTopicsResponse{}, nil })
	if _, err := call(here, methodTopics, &api.ListTopicsRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "ask again") {
		t.Error(err)
	}
}

// Calls that wait for another node do not keep off those that others have sent: two nodes would wait for each other.
func TestForwardedBesideOwn(t *testing.T) {
	l, _, call := forwarding(t, new(Principals))
	here := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}})
	answering(l.s, methodTopics, func(context.Context, *api.ListTopicsRequest) (any, error) { return &api.ListTopicsResponse{}, nil })
	for range workMax {
		l.s.work <- struct{}{}
	}
	if _, err := call(here, methodTopics, &api.ListTopicsRequest{}); err != nil {
		t.Error(err)
	}
	for range workMax {
		<-l.s.work
	}
}

// A node is believed who has called it, and no more: where the call arrives the role that it names has to do, and what is an admin's is done by no node for another,
// whatever role it names.
func TestForwardedRoles(t *testing.T) {
	s := New(Options{Node: 2, Logger: slog.New(slog.DiscardHandler)})
	defer s.Close(context.Background())
	sent := func(method string, role Role) codes.Code {
		t.Helper()
		call, err := json.Marshal(forwardedCall{Method: method, Principal: "x", Role: role.String()})
		if err != nil {
			t.Fatal(err)
		}
		var a forwardedAnswer
		if err := json.Unmarshal(s.Forwarded(t.Context(), 1, call), &a); err != nil {
			t.Fatal(err)
		}
		return a.Code
	}
	forwarded := 0
	for method, r := range rules {
		to := s.methods[method]
		switch {
		case to == nil || to.unary == nil || !r.led && !r.spread:
			if c := sent(method, RoleAdmin); c != codes.Unimplemented {
				t.Errorf("%s: %v", method, c)
			}
		default:
			forwarded++
			for role := RoleNone; role < r.least; role++ {
				if c := sent(method, role); c != codes.PermissionDenied {
					t.Errorf("%s as %v: %v", method, role, c)
				}
			}
		}
	}
	if forwarded < 15 {
		t.Errorf("%d methods are sent on", forwarded)
	}
}

// FuzzForwarded: whatever another node sends is answered.
func FuzzForwarded(f *testing.F) {
	s := New(Options{})
	answering(s, methodTopics, func(context.Context, *api.ListTopicsRequest) (any, error) { return &api.ListTopicsResponse{}, nil })
	for _, method := range []string{methodTopics, methodUsers, "/sluice.control.v1.Explanations/WatchTrace", "/grpc.health.v1.Health/Check", ""} {
		b, _ := json.Marshal(forwardedCall{Method: method, Principal: "x", Role: "viewer"})
		f.Add(b)
	}
	f.Add([]byte(`{"Method":"/sluice.control.v1.Topics/List","Role":"admin","Request":"/w=="}`))
	f.Add([]byte(`{"Method":"/sluice.control.v1.Topics/List"}`))
	f.Fuzz(func(t *testing.T, call []byte) {
		var q forwardedCall
		bad := json.Unmarshal(call, &q)
		if q.Method != methodTopics && strings.HasPrefix(q.Method, "/sluice.") {
			if _, led := s.elsewhere(q.Method); led || rules[q.Method].led || rules[q.Method].spread {
				t.Skip("needs a broker")
			}
		}
		var a forwardedAnswer
		if err := json.Unmarshal(s.Forwarded(t.Context(), 3, call), &a); err != nil {
			t.Fatal(err)
		}
		if q.Stream != 0 && q.Step == stepEnd {
			return // there is nothing to end
		}
		if a.Code == codes.OK && (bad != nil || q.Method != methodTopics || ParseRole(q.Role) == RoleNone) {
			t.Errorf("%s is answered", call)
		}
	})
}
