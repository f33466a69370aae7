package control

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/meta/topicconfig"
)

// Bounds of the control plane. Whoever comes beyond one waits, or is told.
const (
	connectionsMax = 256      // of one listener; the next ones wait in the kernel's queue
	streamsMax     = 1024     // calls of one connection at once; the client holds back more
	workMax        = 64       // calls that are worked on at once; the others wait
	requestBytes   = 1 << 20  // of one request
	headerBytes    = 16 << 10 // of one request's headers
	callTimeout    = 30 * time.Second
)

// Options are what a Server is built of.
type Options struct {
	Broker      *broker.Broker
	Connections Connections
	Slow        SlowSubscribers // nil: nobody is known to be slow
	Catalog     *meta.Catalog
	Gate        *auth.Provider
	// Tenants calls a function once the tenants that are in the catalog now count for who comes in. nil: they do at once.
	Tenants  func(count func())
	ACLs     ACLs
	Quotas   Quotas
	Bans     Bans
	Bindings Bindings
	Backups  Backups
	Tier     Tier   // nil: the node has no store
	Nodes    Nodes  // nil: the node is alone
	Shards   Shards // likewise
	Peers    Peers  // likewise
	Node     meta.NodeID
	Logger   *slog.Logger // nil: slog.Default
	// Principals are who may call; it is asked at each call. nil: whoever is on loopback may everything.
	Principals func() *Principals
	// VerifyCaller says what is wrong with the certificates that a caller has shown, its own first; it is asked at each call. nil: no certificate is good.
	VerifyCaller func(chain []*x509.Certificate) error
	// TLS is for listeners on other addresses than loopback. nil: they speak in the clear.
	TLS *tls.Config
	// ValidTopic says whether a topic may have this name.
	ValidTopic func(name string) bool
	// Spreads says why the leaders of a topic's partitions cannot be spread over nodes, if one is made by this name; nil if they can. Without it they never can.
	Spreads func(tenant uint32, name string) error
	// Replicated says how many replicas a topic gets that asks for so many (0: it does not say), and with which settings; 0: as many as all have. Without it: 0.
	Replicated func(tenant uint32, name string, s topicconfig.Settings, asked int) (topicconfig.Settings, int, error)
	// Partitions is how many a topic gets that is created without a number; PartitionsMax how many it may have.
	Partitions    func() int32
	PartitionsMax int32
	// Called is told of every call when it has ended: its method, its code, and how long it took; below 0: a stream. nil: nobody is. Any
	// goroutine calls it.
	Called func(method, code string, took time.Duration)
}

// Server is the control plane of one node. New, Listen any number of times, Drain, Close.
type Server struct {
	o            Options
	log          *slog.Logger
	health       *health.Server
	work         chan struct{}                       // a place in it for each call that is worked on
	workOfOthers chan struct{}                       // likewise, of those that other nodes have sent
	heavy        chan struct{}                       // and for each that takes much memory
	start        uint64                              // tells page tokens of this run from those of another
	refused      struct{ known, strangers refusals } // lines of the log

	audit          *auditFile
	refusedChanges struct{ known, strangers refusals }
	omitted        atomic.Int64    // refused changes without a record
	far            farStreams      // of other nodes
	jobs           context.Context // of what is long: ends with Drain or Close
	endJobs        context.CancelFunc

	mu struct {
		sync.Mutex
		closed  bool
		servers []*grpc.Server
		addrs   []net.Addr
	}
	serving  sync.WaitGroup
	services []service
	methods  map[string]*route // by the name that gRPC has
	calls    sync.WaitGroup    // that do not come by gRPC
}

// New makes a control plane that listens nowhere yet.
func New(o Options) *Server {
	s := &Server{o: o, log: o.Logger, health: health.NewServer(), work: make(chan struct{}, workMax), workOfOthers: make(chan struct{}, workMax), heavy: make(chan struct{}, heavyMax)}
	s.jobs, s.endJobs = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = slog.Default()
	}
	s.audit, s.services, s.methods = newAuditFile(s.log), servicesOf(s), make(map[string]*route)
	for _, r := range routes(s.services) {
		s.methods[r.method] = r
	}
	if s.o.Called == nil {
		s.o.Called = func(string, string, time.Duration) {}
	}
	if s.o.Principals == nil {
		s.o.Principals = func() *Principals { return new(Principals) }
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	s.start = binary.LittleEndian.Uint64(b[:])
	return s
}

// Listen opens one address, HOST:PORT. loopback: it can be reached from this machine alone.
func (s *Server) Listen(address string, loopback bool) (net.Addr, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("open grpc on %s: %w", address, err)
	}
	creds := insecure.NewCredentials()
	if s.o.TLS != nil && !loopback {
		creds = credentials.NewTLS(s.o.TLS)
	}
	g := s.newGRPC(creds)
	s.mu.Lock()
	s.mu.servers = append(s.mu.servers, g)
	s.mu.addrs = append(s.mu.addrs, ln.Addr())
	s.mu.Unlock()
	limited := netutil.LimitListener(ln, connectionsMax)
	s.serving.Go(func() {
		if err := g.Serve(limited); err != nil {
			s.log.Error("the control plane has stopped", "address", ln.Addr().String(), "err", err)
		}
	})
	return ln.Addr(), nil
}

// service is a service with who answers it.
type service struct {
	desc *grpc.ServiceDesc
	impl any
}

// servicesOf are all services but those that gRPC has itself.
func servicesOf(s *Server) []service {
	return []service{
		{&api.Topics_ServiceDesc, &topicService{s: s}},
		{&api.Groups_ServiceDesc, &groupService{s: s}},
		{&api.Clients_ServiceDesc, &clientService{s: s}},
		{&api.Sessions_ServiceDesc, &sessionService{s: s}},
		{&api.Subscriptions_ServiceDesc, &subscriptionService{s: s}},
		{&api.Users_ServiceDesc, &userService{s: s}},
		{&api.Acls_ServiceDesc, &aclService{s: s}},
		{&api.Quotas_ServiceDesc, &quotaService{s: s}},
		{&api.Bans_ServiceDesc, &banService{s: s}},
		{&api.Bindings_ServiceDesc, &bindingService{s: s}},
		{&api.Backups_ServiceDesc, &backupService{s: s}},
		{&api.Tiers_ServiceDesc, &tierService{s: s}},
		{&api.Tenants_ServiceDesc, &tenantService{s: s}},
		{&api.Nodes_ServiceDesc, &nodeService{s: s}},
		{&api.Shards_ServiceDesc, &shardService{s: s}},
		{&api.Explanations_ServiceDesc, &explainService{s: s}},
	}
}

// enter begins a call that does not come by gRPC; calls.Done ends it. false: the Server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	s.calls.Add(1)
	return true
}

func (s *Server) newGRPC(creds credentials.TransportCredentials) *grpc.Server {
	g := grpc.NewServer(grpc.Creds(creds), grpc.MaxRecvMsgSize(requestBytes), grpc.MaxHeaderListSize(headerBytes),
		grpc.MaxConcurrentStreams(streamsMax), grpc.ConnectionTimeout(10*time.Second), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 10 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	healthpb.RegisterHealthServer(g, s.health)
	for _, e := range s.services {
		g.RegisterService(e.desc, e.impl)
	}
	reflection.Register(g)
	return g
}

// Addresses are those that are listened on, in the order of Listen.
func (s *Server) Addresses() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]net.Addr(nil), s.mu.addrs...)
}

// Drain has the health service say that the node goes, and ends what is long. Other calls are answered until Close.
func (s *Server) Drain() {
	s.endJobs()
	s.health.Shutdown()
}

// Close takes no more calls and waits for those that run until ctx ends; then it cuts them off. Calls over HTTP are cut off by who serves it: Close
// waits for their ends.
func (s *Server) Close(ctx context.Context) {
	s.Drain()
	s.mu.Lock()
	servers := s.mu.servers
	s.mu.servers, s.mu.closed = nil, true
	s.mu.Unlock()
	var graceful sync.WaitGroup
	for _, g := range servers {
		graceful.Go(g.GracefulStop)
	}
	done := make(chan struct{})
	go func() {
		graceful.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		for _, g := range servers {
			g.Stop()
		}
		<-done
	}
	s.serving.Wait()
	s.calls.Wait()
	s.audit.close(ctx)
}
