package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// refusals bounds how many refused callers are logged in a second.
type refusals struct{ second, lines atomic.Int64 }

const refusalsLogged = 5

func (r *refusals) mayLog(now time.Time) bool {
	if sec := now.Unix(); r.second.Swap(sec) != sec {
		r.lines.Store(0)
	}
	return r.lines.Add(1) <= refusalsLogged
}

// admit lets a call in, or says how to be let in. Health is for everybody: probes have no secret, and it tells none.
func (s *Server) admit(ctx context.Context, method string) error {
	if strings.HasPrefix(method, "/grpc.health.v1.Health/") {
		return nil
	}
	want := s.o.Token()
	if want == "" {
		if fromLoopback(ctx) {
			return nil
		}
		return s.refuse(ctx, method, status.Error(codes.Unauthenticated,
			"the node has no token for its control plane: it answers on loopback alone; set auth.control_token"))
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		if token, ok := strings.CutPrefix(v, "Bearer "); ok && same(token, want) {
			return nil
		}
	}
	if len(md.Get("authorization")) == 0 {
		return s.refuse(ctx, method, status.Error(codes.Unauthenticated,
			"the node asks for the token of its control plane (auth.control_token), and none was shown: give it by --token or SLUICE_TOKEN"))
	}
	return s.refuse(ctx, method, status.Error(codes.Unauthenticated,
		"the token is not that of the node's control plane (auth.control_token)"))
}

func (s *Server) refuse(ctx context.Context, method string, err error) error {
	if s.refused.mayLog(time.Now()) {
		s.log.Warn("a call of the control plane is refused", "remote", remote(ctx), "method", method, "err", status.Convert(err).Message())
	}
	return err
}

// same compares secrets in a time that says nothing about them, their length included.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
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

// unary stands before every call: who may, how many at once, for how long; what changes something is logged.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() { s.o.Called(methodName(info.FullMethod), status.Code(err).String(), time.Since(began)) }()
	if err := s.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case s.work <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-s.work }()
	resp, err = handle(ctx, req)
	if !reads(info.FullMethod) {
		s.log.Info("control", "method", info.FullMethod, "subject", subject(req), "remote", remote(ctx), "code", status.Code(err).String())
	}
	return resp, err
}

// stream stands before the calls of reflection and of health's watch.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	err := s.admit(ss.Context(), info.FullMethod)
	if err == nil {
		err = handle(srv, ss)
	}
	s.o.Called(methodName(info.FullMethod), status.Code(err).String(), -1)
	return err
}

// methodName is a method's service and name, without the package: there are as many as are registered.
func methodName(full string) string {
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "." + name
}

// reads says that a method changes nothing.
func reads(method string) bool {
	_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	for _, verb := range []string{"List", "Describe", "Find", "Check", "Explain", "Watch"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}

// subject is what a request is about, for the log.
func subject(req any) string {
	switch r := req.(type) {
	case interface{ GetName() string }:
		return short(r.GetName())
	case interface{ GetId() string }:
		return short(r.GetId())
	case interface{ GetGroup() string }:
		return short(r.GetGroup())
	}
	return ""
}
