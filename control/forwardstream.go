package control

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluicemq/sluice/meta"
)

// A call that answers more than once goes to the node that leads as many that answer once: the first begins it there, each asks for the next message, and the
// last one ends it if the caller goes. The node that leads has one message ready and makes the next when that has been taken, so that neither node holds more than
// one. What is not asked about for farIdle has lost its node, and ends.
const (
	farPoll = 5 * time.Second  // how long a question waits for a message; less than askTimeout of the server
	farIdle = 30 * time.Second // how long nobody has to ask
	farMost = 64               // calls of other nodes that run here
	farEnd  = 2 * time.Second  // how long the end of one may take to be told
)

// The steps of a call that answers more than once.
const (
	stepBegin = "begin"
	stepNext  = "next"
	stepEnd   = "end"
)

// farKey names a call of another node, which has chosen its number.
type farKey struct {
	node   meta.NodeID
	number uint64
}

// farStreams are calls of other nodes that run here.
type farStreams struct {
	sync.Mutex
	byKey map[farKey]*farStream
}

// farStream is one of them: the grpc.ServerStream of its handler, whose messages are taken by questions.
type farStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	req    []byte // nil: it was read
	out    chan []byte
	ended  chan struct{} // err is set
	err    error
	idle   *time.Timer
}

func (f *farStream) Context() context.Context     { return f.ctx }
func (f *farStream) SetHeader(metadata.MD) error  { return nil }
func (f *farStream) SendHeader(metadata.MD) error { return nil }
func (f *farStream) SetTrailer(metadata.MD)       {}

// RecvMsg gives the request, once.
func (f *farStream) RecvMsg(m any) error {
	if f.req == nil {
		return io.EOF
	}
	b := f.req
	f.req = nil
	if err := proto.Unmarshal(b, m.(proto.Message)); err != nil {
		return wrong("the request of another node is none: %v", err)
	}
	return nil
}

// SendMsg waits until the message before has been taken.
func (f *farStream) SendMsg(m any) error {
	b, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	select {
	case f.out <- b:
		return nil
	case <-f.ctx.Done():
		return status.FromContextError(f.ctx.Err()).Err()
	}
}

// step answers a question of another node about a call that answers more than once.
func (s *Server) step(ctx context.Context, node meta.NodeID, q *forwardedCall) forwardedAnswer {
	key := farKey{node, q.Stream}
	f, err := s.far.find(key), error(nil)
	switch {
	case q.Step == stepBegin && f == nil:
		if f, err = s.beginFar(ctx, key, q); err != nil {
			return answerOf(err)
		}
	case q.Step == stepEnd:
		if f != nil {
			s.endFar(key, f)
		}
		return forwardedAnswer{}
	case q.Step != stepNext || f == nil:
		return answerOf(status.Error(codes.Unavailable, "the node that leads does not have the call any more; make it again"))
	}
	f.idle.Stop()
	a := f.next(ctx)
	if a.More {
		f.idle.Reset(farIdle)
	} else {
		s.endFar(key, f)
	}
	return a
}

// next waits for a message, or for the end.
func (f *farStream) next(ctx context.Context) forwardedAnswer {
	wait := time.NewTimer(farPoll)
	defer wait.Stop()
	select {
	case b := <-f.out:
		return forwardedAnswer{More: true, Sent: true, Response: b}
	case <-f.ended:
	case <-wait.C:
		return forwardedAnswer{More: true}
	case <-ctx.Done():
		return answerOf(status.FromContextError(ctx.Err()).Err())
	}
	select {
	case b := <-f.out: // the last one
		return forwardedAnswer{More: true, Sent: true, Response: b}
	default:
		return answerOf(f.err)
	}
}

// endFar ends a call, and forgets it. It does not wait.
func (s *Server) endFar(k farKey, f *farStream) {
	f.cancel()
	f.idle.Stop()
	s.far.drop(k, f)
}

func answerOf(err error) forwardedAnswer {
	return forwardedAnswer{Code: status.Code(err), Message: status.Convert(err).Message()}
}

func (f *farStreams) find(k farKey) *farStream {
	f.Lock()
	defer f.Unlock()
	return f.byKey[k]
}

func (f *farStreams) drop(k farKey, c *farStream) {
	f.Lock()
	defer f.Unlock()
	if f.byKey[k] == c {
		delete(f.byKey, k)
	}
}

// add makes a call known, unless there are too many.
func (f *farStreams) add(k farKey, c *farStream) bool {
	f.Lock()
	defer f.Unlock()
	if len(f.byKey) >= farMost {
		return false
	}
	if f.byKey == nil {
		f.byKey = make(map[farKey]*farStream)
	}
	f.byKey[k] = c
	return true
}

// beginFar runs a call of another node's caller, through the gate as any other.
func (s *Server) beginFar(ctx context.Context, key farKey, q *forwardedCall) (*farStream, error) {
	to := s.methods[q.Method]
	if to == nil || to.stream == nil || !rules[q.Method].led {
		return nil, status.Errorf(codes.Unimplemented, "node %d asks for %s, which this version does not answer for others", key.node, quoted(q.Method))
	}
	f := &farStream{out: make(chan []byte, 1), ended: make(chan struct{}), req: q.Request}
	if f.req == nil {
		f.req = []byte{}
	}
	f.ctx, f.cancel = context.WithCancel(s.callerFrom(context.WithoutCancel(ctx), key.node, q))
	f.idle = time.AfterFunc(farIdle, func() { s.endFar(key, f) })
	if !s.far.add(key, f) {
		s.endFar(key, f)
		return nil, status.Errorf(codes.ResourceExhausted, "%d calls of other nodes run here", farMost)
	}
	if !s.enter() {
		s.endFar(key, f)
		return nil, status.Error(codes.Unavailable, "the node stops")
	}
	go func() {
		defer s.calls.Done()
		defer context.AfterFunc(s.jobs, f.cancel)()
		f.err = s.stream(to.impl, f, &grpc.StreamServerInfo{FullMethod: q.Method, IsServerStream: true}, to.stream)
		if f.err != nil && s.jobs.Err() != nil {
			f.err = status.Error(codes.Unavailable, "the node that leads stops")
		}
		f.cancel()
		close(f.ended)
	}()
	return f, nil
}

// callerFrom is the context of a call whose caller another node has let in.
func (s *Server) callerFrom(ctx context.Context, node meta.NodeID, f *forwardedCall) context.Context {
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: stringAddr(fmt.Sprintf("%s by node %d", text(f.Remote), node))})
	return context.WithValue(ctx, forwardedKey{}, caller{name: text(f.Principal), role: ParseRole(f.Role), by: text(f.By),
		in: tenancy{text(f.Tenant), f.TenantID}})
}

// forwardStream has the node that leads answer a call that answers more than once.
func (s *Server) forwardStream(who caller, leader meta.NodeID, method string, ss grpc.ServerStream) error {
	ctx := ss.Context()
	if _, again := ctx.Value(forwardedKey{}).(caller); again {
		return status.Errorf(codes.Unavailable, "%s: the lead went to node %d meanwhile; ask again", methodName(method), leader)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(s.methods[method].input.FullName())
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	req := in.New().Interface()
	if err := ss.RecvMsg(req); err != nil {
		return err
	}
	b, err := proto.Marshal(req)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	var number [8]byte
	_, _ = rand.Read(number[:]) // it never fails
	q := forwardedCall{Method: method, Principal: who.name, Role: who.role.String(), By: who.by, Remote: remote(ctx), Tenant: who.in.name, TenantID: who.in.number, Request: b,
		Stream: binary.LittleEndian.Uint64(number[:]) | 1, Step: stepBegin}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(s.jobs, cancel)()
	defer cancel()
	for {
		a, err := s.askStep(ctx, leader, &q)
		if err == nil && a.Sent {
			var m proto.Message
			if m, err = s.newAnswer(method); err == nil {
				err = proto.Unmarshal(a.Response, m)
			}
			if err == nil {
				err = ss.SendMsg(m)
			}
		}
		switch {
		case err != nil:
			s.endStep(ctx, leader, &q)
			if s.jobs.Err() != nil {
				return status.Error(codes.Unavailable, "the node stops")
			}
			return err
		case !a.More && a.Code != codes.OK:
			return status.Error(a.Code, a.Message)
		case !a.More:
			return nil
		}
		q.Step, q.Request = stepNext, nil
	}
}

// askStep asks once.
func (s *Server) askStep(ctx context.Context, leader meta.NodeID, q *forwardedCall) (a forwardedAnswer, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return a, status.Error(codes.Internal, err.Error())
	}
	b, err = s.o.Peers.Ask(ctx, leader, b)
	switch {
	case err != nil && ctx.Err() != nil:
		return a, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return a, status.Errorf(codes.Unavailable, "%s: node %d cannot be asked: %v", methodName(q.Method), leader, err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, status.Errorf(codes.Internal, "%s: the answer of node %d is none: %v", methodName(q.Method), leader, err)
	}
	return a, nil
}

// endStep ends the call at the node that leads: its caller has gone. If that is not heard there, it ends by itself.
func (s *Server) endStep(ctx context.Context, leader meta.NodeID, q *forwardedCall) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farEnd)
	defer cancel()
	q.Step, q.Request = stepEnd, nil
	_, _ = s.askStep(ctx, leader, q)
}
