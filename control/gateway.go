package control

import (
	"context"
	_ "embed" // of the OpenAPI document
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// gatewayRoot is below what all paths of the HTTP API lie.
const gatewayRoot = "/api/v1/"

// openAPI is the OpenAPI document of all routes; a test makes it.
//
//go:embed openapi.json
var openAPI []byte

// route is a method of a service as HTTP has it. Its path, its messages and whether GET may call it follow from what is registered and from rules:
// nothing is said twice.
type route struct {
	path   string // /api/v1/topics/create
	method string // /sluice.control.v1.Topics/Create
	input  protoreflect.MessageDescriptor
	output protoreflect.MessageDescriptor
	impl   any
	unary  grpc.MethodHandler // nil: it answers more than once
	stream grpc.StreamHandler
	reads  bool // GET may call it
}

// kebab is a name of a service or method as a path has it: ResetOffsets is reset-offsets.
func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// routes gives the routes of services, by path.
func routes(services []service) map[string]*route {
	all := make(map[string]*route)
	for _, s := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.desc.ServiceName))
		if err != nil {
			panic("control: a service without a descriptor: " + err.Error()) // generated code registers both
		}
		of := d.(protoreflect.ServiceDescriptor)
		add := func(name string, unary grpc.MethodHandler, stream grpc.StreamHandler) {
			m := of.Methods().ByName(protoreflect.Name(name))
			r := &route{path: gatewayRoot + kebab(string(of.Name())) + "/" + kebab(name), method: "/" + s.desc.ServiceName + "/" + name, input: m.Input(), output: m.Output(),
				impl: s.impl, unary: unary, stream: stream}
			r.reads = !rules[r.method].changes
			all[r.path] = r
		}
		for i := range s.desc.Methods {
			add(s.desc.Methods[i].MethodName, s.desc.Methods[i].Handler, nil)
		}
		for i := range s.desc.Streams {
			add(s.desc.Streams[i].StreamName, nil, s.desc.Streams[i].Handler)
		}
	}
	return all
}

// gateway answers the methods of the control plane over HTTP, in JSON, through the same gate.
type gateway struct {
	s      *Server
	routes map[string]*route
}

// HTTP is the control plane over HTTP and JSON, for paths below /api/v1/. Every call but that for the OpenAPI document shows a token, on loopback too: a
// page in somebody's browser can reach loopback as well. Close waits for calls that are under way.
func (s *Server) HTTP() http.Handler { return &gateway{s: s, routes: routes(s.services)} }

// ServeHTTP answers one call.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.s.enter() {
		writeError(w, status.Error(codes.Unavailable, "the node stops"))
		return
	}
	defer g.s.calls.Done()
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == gatewayRoot+"openapi.json" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		h.Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI)
		return
	}
	to := g.routes[r.URL.Path]
	switch {
	case to == nil:
		writeError(w, status.Errorf(codes.NotFound, "there is no %s; %sopenapi.json has all paths", quoted(r.URL.Path), gatewayRoot))
		return
	case r.Method == http.MethodPost, r.Method == http.MethodGet && to.reads:
	default:
		h.Set("Allow", strings.Join(to.verbs(), ", "))
		writeErrorAs(w, http.StatusMethodNotAllowed, status.Errorf(codes.Unimplemented, "%s: want %s, found %s", to.path, strings.Join(to.verbs(), " or "), quoted(r.Method)))
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(callTimeout + writeTimeout)) // a listener that cannot has none
	ctx := callerContext(r)
	if err := g.s.admitHTTP(ctx, to.method); err != nil {
		writeError(w, err)
		return
	}
	if to.unary == nil {
		g.stream(ctx, w, r, to)
		return
	}
	resp, err := to.unary(to.impl, ctx, func(m any) error { return readRequest(w, r, m.(proto.Message)) }, g.s.unary)
	if err != nil {
		writeError(w, err)
		return
	}
	b, err := gatewayJSON.Marshal(resp.(proto.Message))
	if err != nil {
		writeError(w, status.Errorf(codes.Internal, "the answer cannot be shown: %v", err))
		return
	}
	h.Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}

// writeTimeout is how long a caller may take to read a message.
const writeTimeout = 30 * time.Second

// gatewayJSON shows what has its default too, under the names of the .proto files.
var gatewayJSON = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

func (r *route) verbs() []string {
	if r.reads {
		return []string{http.MethodGet, http.MethodPost}
	}
	return []string{http.MethodPost}
}

// admitHTTP lets a call in before its body is read. It is asked again where gRPC's calls are asked.
func (s *Server) admitHTTP(ctx context.Context, method string) error {
	var c caller
	var err error
	if len(s.o.Principals().list) == 0 {
		err = s.refuse(ctx, method, c, status.Error(codes.Unauthenticated,
			"the HTTP API asks for a token, on loopback too, and the node has none: set auth.control_token or control.principals"))
	} else {
		c, err = s.admit(ctx, method)
	}
	if err != nil {
		s.refusedChange(ctx, c, method, nil, err)
		s.o.Called(methodName(method), status.Code(err).String(), -1)
	}
	return err
}

// callerContext is the context of an HTTP call as the gate knows calls: who is at the other end, what he shows, and whose tenant he means.
func callerContext(r *http.Request) context.Context {
	ctx := r.Context()
	p := &peer.Peer{Addr: stringAddr(r.RemoteAddr)}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		p.Addr = net.TCPAddrFromAddrPort(at)
	}
	md := metadata.MD{}
	md.Set("authorization", r.Header.Values("Authorization")...)
	if named := r.Header.Values(tenantHeader); len(named) > 0 {
		md.Set(tenantKey, named...)
	}
	return metadata.NewIncomingContext(peer.NewContext(ctx, p), md)
}

// stringAddr is an address that is none of TCP.
type stringAddr string

func (a stringAddr) Network() string { return "unknown" }
func (a stringAddr) String() string  { return string(a) }

// readRequest reads the message of a call: from the query of a GET, from the body of a POST.
func readRequest(w http.ResponseWriter, r *http.Request, m proto.Message) error {
	body, err := readBody(w, r)
	if err != nil {
		w.Header().Set("Connection", "close") // the rest of the body is not waited for
		return err
	}
	// What is left of the time for reading is not for the answer: its end would cancel the call. While there is something to read it stays: net/http reads
	// the rest of a body behind the handler.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	switch {
	case r.Method == http.MethodGet:
		return fromQuery(r.URL.RawQuery, m)
	case len(body) == 0:
		return nil
	}
	if err := protojson.Unmarshal(body, m); err != nil {
		return wrong("the body is no %s in JSON: %s", m.ProtoReflect().Descriptor().Name(), jsonFault(err))
	}
	return nil
}

// readBody reads the body of a POST to its end; a GET has none. After an error there may be more of it.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	switch {
	case r.Method == http.MethodGet && r.ContentLength != 0:
		return nil, wrong("the fields of a GET are in its query; found a body")
	case r.Method == http.MethodGet:
		return nil, nil
	case r.URL.RawQuery != "":
		return nil, wrong("the fields of a POST are in its body, as JSON; found a query")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestBytes))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return nil, status.Errorf(codes.ResourceExhausted, "a request has at most %d bytes", requestBytes)
	case err != nil:
		return nil, wrong("the request was cut short")
	}
	return body, nil
}

// jsonFault is what protojson says, without its prefix, which has another space from build to build.
func jsonFault(err error) string {
	text := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		return r
	}, err.Error())
	return short(strings.TrimSpace(strings.TrimPrefix(text, "proto:")))
}

// httpStatus gives the status of a code, as google.rpc.Code has it.
func httpStatus(c codes.Code) int {
	switch c { //nolint:exhaustive // all others are faults of the node
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return 499 // client closed request
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fault is an error as HTTP's callers get it.
type fault struct {
	Code    string `json:"code"` // gRPC's: NOT_FOUND
	Message string `json:"message"`
}

func faultOf(err error) fault {
	st := status.Convert(err)
	name := strings.ToUpper(strings.ReplaceAll(kebab(st.Code().String()), "-", "_"))
	if st.Code() == codes.Canceled {
		name = "CANCELLED" // as google.rpc.Code spells it
	}
	return fault{name, st.Message()}
}

func writeError(w http.ResponseWriter, err error) { writeErrorAs(w, httpStatus(status.Code(err)), err) }

func writeErrorAs(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sluice"`)
	}
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]fault{"error": faultOf(err)})
}

// stream answers a call that answers more than once: a line of JSON each, {"result": …}, the last one {"error": …} if it has failed. An error before
// the first answer is that of any call.
func (g *gateway) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, to *route) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.s.jobs, cancel)() // the node goes, and its HTTP server waits for nobody
	ss := &httpStream{ctx: ctx, w: w, r: r}
	info := &grpc.StreamServerInfo{FullMethod: to.method, IsServerStream: true}
	err := g.s.stream(to.impl, ss, info, to.stream)
	switch {
	case err == nil && !ss.begun:
		ss.begin()
	case err != nil && !ss.begun:
		writeError(w, err)
	case err != nil:
		_ = ss.line(map[string]fault{"error": faultOf(err)})
	}
}

// httpStream is a stream of gRPC whose other end is a call of HTTP. One goroutine at a time sends.
type httpStream struct {
	ctx   context.Context
	w     http.ResponseWriter
	r     *http.Request
	read  bool // the request was
	begun bool // the answer has
}

func (h *httpStream) begin() {
	h.begun = true
	h.w.Header().Set("Content-Type", "application/x-ndjson")
	h.w.WriteHeader(http.StatusOK)
}

// line sends one line, at once.
func (h *httpStream) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c := http.NewResponseController(h.w)
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := h.w.Write(append(b, '\n')); err != nil {
		return status.Errorf(codes.Unavailable, "the caller is gone: %v", err)
	}
	if err := c.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return status.Errorf(codes.Unavailable, "the caller is gone: %v", err)
	}
	return nil
}

// Context ends with the call.
func (h *httpStream) Context() context.Context { return h.ctx }

// RecvMsg gives the request, once.
func (h *httpStream) RecvMsg(m any) error {
	if h.read {
		return io.EOF
	}
	h.read = true
	return readRequest(h.w, h.r, m.(proto.Message))
}

// SendMsg sends an answer.
func (h *httpStream) SendMsg(m any) error {
	if h.ctx.Err() != nil {
		return status.FromContextError(h.ctx.Err()).Err()
	}
	b, err := gatewayJSON.Marshal(m.(proto.Message))
	if err != nil {
		return status.Errorf(codes.Internal, "the answer cannot be shown: %v", err)
	}
	if !h.begun {
		h.begin()
	}
	return h.line(map[string]json.RawMessage{"result": b})
}

// SetHeader, SendHeader and SetTrailer have nothing to say over HTTP.
func (h *httpStream) SetHeader(metadata.MD) error  { return nil }
func (h *httpStream) SendHeader(metadata.MD) error { return nil }
func (h *httpStream) SetTrailer(metadata.MD)       {}
