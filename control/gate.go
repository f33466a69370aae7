package control

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// refusals bounds how many lines are written in a second.
type refusals struct{ second, lines atomic.Int64 }

// Lines in a second, of callers that are known and of all others.
const (
	refusalsLogged  = 5
	strangersLogged = 1
)

func (r *refusals) mayLog(now time.Time, most int64) bool {
	if sec := now.Unix(); r.second.Swap(sec) != sec {
		r.lines.Store(0)
	}
	return r.lines.Add(1) <= most
}

// admit lets a call in and says whose it is, or says how to be let in.
func (s *Server) admit(ctx context.Context, method string) (caller, error) {
	if rules[method].open {
		return caller{name: "anonymous"}, nil
	}
	c, err := s.identify(ctx)
	if err == nil {
		c.in, err = s.inTenant(ctx, c, method)
		if no := c.may(method); no != nil {
			err = no // whatever there is to say of its tenant
		}
	}
	if err != nil {
		return c, s.refuse(ctx, method, c, err)
	}
	return c, nil
}

func (s *Server) refuse(ctx context.Context, method string, c caller, err error) error {
	lines, most := &s.refused.known, int64(refusalsLogged)
	if status.Code(err) == codes.Unauthenticated { // whoever sends anything must not push out what insiders are refused
		lines, most = &s.refused.strangers, strangersLogged
	}
	if lines.mayLog(time.Now(), most) {
		s.log.Warn("a call of the control plane is refused", "principal", c.name, "remote", remote(ctx), "method", method, "err", status.Convert(err).Message())
	}
	return err
}

func fromLoopback(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	a, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	return ok && ip.Unmap().IsLoopback()
}

func remote(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// unary stands before every call: who may, how many at once, for how long; what changes something leaves its trace.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() { s.o.Called(methodName(info.FullMethod), status.Code(err).String(), time.Since(began)) }()
	who, err := s.admit(ctx, info.FullMethod)
	if err != nil {
		s.refusedChange(ctx, who, info.FullMethod, req, err)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	work := s.work
	if _, ok := ctx.Value(forwardedKey{}).(caller); ok {
		work = s.workOfOthers // a call that waits for another node holds its place here: two nodes full of them would wait for each other
	}
	select {
	case work <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-work }()
	ctx = context.WithValue(ctx, callerKey{}, who)
	if leader, ok := s.elsewhere(info.FullMethod); ok {
		return s.forward(ctx, leader, info.FullMethod, req.(proto.Message))
	}
	if rules[info.FullMethod].changes {
		return s.changing(ctx, who, info.FullMethod, req, handle)
	}
	return handle(ctx, req)
}

// stream stands before the calls that answer more than once: what is long, reflection, health's watch.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, method := ss.Context(), info.FullMethod
	who, err := s.admit(ctx, method)
	leader, elsewhere := s.elsewhere(method)
	ss = &tenantStream{ss, context.WithValue(ctx, callerKey{}, who)}
	switch {
	case err != nil:
		s.refusedChange(ctx, who, method, nil, err)
	case elsewhere:
		err = s.forwardStream(who, leader, method, ss)
	case rules[method].changes:
		s.log.Info("control", "method", method, "principal", who.name, "role", who.role.String(), "remote", remote(ctx), "code", "begins")
		c := &changingStream{ServerStream: ss, s: s, caller: who, method: method}
		err = handle(srv, c)
		c.ended(err)
	default:
		err = handle(srv, ss)
	}
	s.o.Called(methodName(method), status.Code(err).String(), -1)
	return err
}

// methodName is a method's service and name, without the package: there are as many as are registered.
func methodName(full string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "." + name
}
