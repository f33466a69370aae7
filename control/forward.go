package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluicemq/sluice/meta"
)

// Peers are the other nodes of a cluster. The one that leads alone has groups, sessions and MQTT's clients, and makes topics; each has Kafka's clients of
// its own. Any goroutine calls them.
type Peers interface {
	// Leader names the node that leads, if it is another one. false: this one does, or nobody is known to.
	Leader() (meta.NodeID, bool)
	// All names all but this one, in order.
	All() []meta.NodeID
	// Ask sends a node a call and gives its answer, which Server.Forwarded has made there.
	Ask(ctx context.Context, node meta.NodeID, call []byte) ([]byte, error)
}

// forwardedCall is a call on its way to the node that leads, as JSON. The node that has taken it has found out whose it is.
type forwardedCall struct {
	Method    string
	Principal string
	Role      string
	By        string
	Remote    string
	Tenant    string `json:",omitempty"` // whose things it is about, and the number of that, which all nodes know it by
	TenantID  uint32 `json:",omitempty"`
	Request   []byte // as protobuf has it
	Stream    uint64 `json:",omitempty"` // not 0: of a call that answers more than once, which one of the node's
	Step      string `json:",omitempty"` // likewise, what is asked
}

// forwardedAnswer is what came of it.
type forwardedAnswer struct {
	Code     codes.Code
	Message  string `json:",omitempty"`
	Response []byte `json:",omitempty"`
	Sent     bool   `json:",omitempty"` // of a call that answers more than once: Response is a message
	More     bool   `json:",omitempty"` // likewise: it is to be asked about again
}

// forwardedKey has the caller of a call that another node has sent here, callerKey that of any call that was let in.
type (
	forwardedKey struct{}
	callerKey    struct{}
)

// elsewhere says which node has to answer a method, if it is not this one.
func (s *Server) elsewhere(method string) (meta.NodeID, bool) {
	if s.o.Peers == nil || !rules[method].led {
		return 0, false
	}
	return s.o.Peers.Leader()
}

// others are the nodes that have to be asked too, for a call of which each node answers its own part.
func (s *Server) others(ctx context.Context) []meta.NodeID {
	if _, forwarded := ctx.Value(forwardedKey{}).(caller); forwarded || s.o.Peers == nil {
		return nil
	}
	return s.o.Peers.All()
}

// where says who has to be asked about a client: this node, and others. A connection has its number at one node.
func (s *Server) where(ctx context.Context, what string, connection uint64, node uint32) (here bool, others []meta.NodeID, err error) {
	others = s.others(ctx)
	id := meta.NodeID(node)
	switch {
	case node == 0 && connection != 0, node != 0 && id == s.o.Node:
		return true, nil, nil
	case node == 0:
		return true, others, nil
	case slices.Contains(others, id) && uint32(id) == node:
		return false, []meta.NodeID{id}, nil
	}
	return false, nil, missing("%s: there is no node %d; sluice node list shows which there are", what, node)
}

// nobody is the answer where no node that was asked has what is meant.
func nobody(notAsked []uint32, format string, args ...any) error {
	if len(notAsked) > 0 {
		return status.Errorf(codes.Unavailable, format+"; nodes that did not answer: %v", append(args, notAsked)...)
	}
	return missing(format, args...)
}

// forward has the node that leads answer a call.
func (s *Server) forward(ctx context.Context, leader meta.NodeID, method string, req proto.Message) (proto.Message, error) {
	if _, again := ctx.Value(forwardedKey{}).(caller); again {
		return nil, status.Errorf(codes.Unavailable, "%s: the lead went to node %d meanwhile; ask again", methodName(method), leader)
	}
	return s.ask(ctx, leader, method, req)
}

// askFor is ask for a method whose answer is a Resp.
func askFor[Resp proto.Message](ctx context.Context, s *Server, node meta.NodeID, method string, req proto.Message) (Resp, error) {
	var none Resp
	m, err := s.ask(ctx, node, method, req)
	if err != nil {
		return none, err
	}
	return m.(Resp), nil
}

// ask has another node answer a call.
func (s *Server) ask(ctx context.Context, node meta.NodeID, method string, req proto.Message) (proto.Message, error) {
	c, _ := ctx.Value(callerKey{}).(caller)
	b, err := proto.Marshal(req)
	if err == nil {
		b, err = json.Marshal(forwardedCall{Method: method, Principal: c.name, Role: c.role.String(), By: c.by, Remote: remote(ctx),
			Tenant: c.in.name, TenantID: c.in.number, Request: b})
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%s cannot be sent to node %d: %v", methodName(method), node, err)
	}
	if b, err = s.o.Peers.Ask(ctx, node, b); err != nil {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, status.Errorf(codes.Unavailable, "%s: node %d cannot be asked: %v", methodName(method), node, err)
	}
	var a forwardedAnswer
	resp, err := s.newAnswer(method)
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Code == codes.OK {
		err = proto.Unmarshal(a.Response, resp)
	}
	switch {
	case err != nil:
		return nil, status.Errorf(codes.Internal, "%s: the answer of node %d is none: %v", methodName(method), node, err)
	case a.Code != codes.OK:
		return nil, status.Error(a.Code, a.Message)
	}
	return resp, nil
}

// newAnswer makes an empty answer of a method.
func (s *Server) newAnswer(method string) (proto.Message, error) {
	to := s.methods[method]
	if to == nil {
		return nil, fmt.Errorf("control: no method %s", method)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(to.output.FullName())
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}

// Forwarded answers a call that another node of the cluster has taken, and has let its caller in: node is that one. What it changes is in this
// node's audit trail.
func (s *Server) Forwarded(ctx context.Context, node meta.NodeID, body []byte) []byte {
	var f forwardedCall
	if json.Unmarshal(body, &f) == nil && f.Stream != 0 {
		b, _ := json.Marshal(s.step(ctx, node, &f)) // its fields can all be encoded
		return b
	}
	resp, err := s.forwarded(ctx, node, body)
	a := forwardedAnswer{Code: status.Code(err), Message: status.Convert(err).Message()}
	if err == nil {
		if a.Response, err = proto.Marshal(resp); err != nil {
			a = forwardedAnswer{Code: codes.Internal, Message: err.Error()}
		}
	}
	b, _ := json.Marshal(a) // likewise
	return b
}

func (s *Server) forwarded(ctx context.Context, node meta.NodeID, body []byte) (proto.Message, error) {
	if !s.enter() {
		return nil, status.Error(codes.Unavailable, "the node stops")
	}
	defer s.calls.Done()
	var f forwardedCall
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "a call of node %d is none: %v", node, err)
	}
	to := s.methods[f.Method]
	if to == nil || to.unary == nil || !rules[f.Method].led && !rules[f.Method].spread {
		return nil, status.Errorf(codes.Unimplemented, "node %d asks for %s, which this version does not answer for others", node, quoted(f.Method))
	}
	ctx = s.callerFrom(ctx, node, &f)
	resp, err := to.unary(to.impl, ctx, func(m any) error {
		if err := proto.Unmarshal(f.Request, m.(proto.Message)); err != nil {
			return wrong("the request of node %d is no %s: %v", node, to.input.Name(), err)
		}
		return nil
	}, s.unary)
	if err != nil {
		return nil, err
	}
	return resp.(proto.Message), nil
}
