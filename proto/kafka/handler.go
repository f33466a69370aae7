package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
)

// Settings are what an operator can change while the node runs.
type Settings struct {
	AutoCreateTopics bool
	Partitions       int32 // of a topic that is created without a number
	RequestBytes     int   // largest request
	FetchBytes       int   // largest answer to a fetch, one batch aside
	IdleTimeout      time.Duration
	Advertised       string        // HOST:PORT that clients are told; empty: what they have reached
	AdvertisedTLS    string        // for those who come by TLS; empty: Advertised
	Mechanisms       []string      // of SASL that may be offered
	NearestReplica   bool          // consumers that say in which rack they are read from the in-sync replica there
	SessionLifetime  time.Duration // after which a client that came in by SASL has to say anew who it is; 0: never
}

// DefaultSettings are what the configuration's defaults say.
func DefaultSettings() Settings {
	return Settings{AutoCreateTopics: true, Partitions: 1, RequestBytes: 100 << 20, FetchBytes: 55 << 20, IdleTimeout: 10 * time.Minute,
		Mechanisms: []string{mechanismPlain, "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}}
}

// Options of a Handler.
type Options struct {
	Broker       *broker.Broker
	Loops        []*engine.Loop // of the engine that the Handler's listeners belong to
	Catalog      Catalog
	Users        Users
	Authn        broker.QuickAuthenticator // nil: everybody comes in, anonymously
	Authz        broker.ResourceAuthorizer // nil: everything is allowed
	ACLs         ACLs                      // nil: requests of ACLs are refused
	Quotas       *broker.Quotas            // nil: none
	QuotaCatalog QuotaCatalog              // nil: quotas cannot be changed
	NodeID       int32
	Cluster      Cluster       // nil: the node is alone
	Leader       Leader        // nil: what only the leader can do is refused elsewhere
	LogDir       func() LogDir // nil: nothing is kept
	Settings     *Settings     // nil: DefaultSettings
	LeaderWait   time.Duration // for which requests wait when there is no leader; 0: 2 s
	Logger       *slog.Logger  // nil: slog.Default
}

// Handler is the Kafka protocol for an engine: one for all loops and listeners. Its methods that engine calls run on the connection's
// loop; the others may be called from anywhere.
type Handler struct {
	broker       *broker.Broker
	catalog      Catalog
	users        Users
	authn        broker.QuickAuthenticator
	authz        broker.ResourceAuthorizer
	acls         ACLs
	quotas       *broker.Quotas
	quotaCatalog QuotaCatalog
	recheck      Rechecker                // nil if authn is none
	sasl         broker.SASLAuthenticator // nil likewise
	now          func() time.Time
	ctx          context.Context // of what is verified off the loops; Close ends it
	cancel       context.CancelFunc
	working      sync.WaitGroup
	nodeID       int32
	cluster      Cluster // nil: the node is alone
	leader       Leader  // nil: nobody is asked
	leaderWait   time.Duration
	alone        View          // what is known then
	logDir       func() LogDir // asks the volume: off the loops
	logPath      string        // of it
	log          *slog.Logger
	settings     atomic.Pointer[Settings]
	draining     atomic.Bool
	loops        []*loopState
	stops        []func()
	closing      sync.Once
}

// verifyTimeout is how long it may take to verify a client.
const verifyTimeout = 30 * time.Second

// everybody lets all clients in.
type everybody struct{}

// Authenticate and Quick make it a broker.QuickAuthenticator.
func (everybody) Authenticate(_ context.Context, c broker.Credentials) (broker.Identity, error) {
	return broker.Identity{Source: "anonymous", Remote: c.Remote.Addr()}, nil
}

// Quick always knows.
func (e everybody) Quick(c broker.Credentials) (broker.Identity, bool, error) {
	id, err := e.Authenticate(context.Background(), c)
	return id, true, err
}

// NewHandler makes a Handler. Close it after its engine.
func NewHandler(o Options) *Handler {
	h := &Handler{broker: o.Broker, catalog: o.Catalog, users: o.Users, authn: o.Authn, authz: o.Authz, acls: o.ACLs,
		quotas: o.Quotas, quotaCatalog: o.QuotaCatalog, nodeID: o.NodeID, cluster: o.Cluster, leader: o.Leader, leaderWait: cmp.Or(o.LeaderWait, 2*time.Second), alone: aloneView(o.NodeID), logDir: o.LogDir, log: o.Logger, now: time.Now}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.recheck, _ = o.Authn.(Rechecker)
	h.sasl, _ = o.Authn.(broker.SASLAuthenticator)
	if h.authn == nil {
		h.authn = everybody{}
	}
	if h.quotas == nil {
		h.quotas = &broker.Quotas{}
	}
	if h.logDir == nil {
		h.logDir = func() LogDir { return LogDir{Total: -1, Usable: -1} }
	}
	h.logPath = h.logDir().Path
	if h.log == nil {
		h.log = slog.Default()
	}
	if o.Settings == nil {
		s := DefaultSettings()
		o.Settings = &s
	}
	h.Set(*o.Settings)
	for _, el := range o.Loops {
		l := newLoopState(h, el, o.Broker.Local(el.ID()))
		h.loops = append(h.loops, l)
		h.stops = append(h.stops, el.Every(time.Second, l.tick))
	}
	return h
}

// Set replaces the settings.
func (h *Handler) Set(s Settings) { h.settings.Store(&s) }

// Shutdown closes every connection once what it is owed has left; new ones are closed at once. Clients go on elsewhere, or come back.
func (h *Handler) Shutdown() {
	h.draining.Store(true)
	for _, l := range h.loops {
		l.loop.Post(engine.TaskFunc(func(*engine.Loop) { l.drain() }))
	}
}

// Rechecker says whether a client that is in would still come in: nil, or why not. certs are those that it showed.
type Rechecker interface {
	Recheck(id *broker.Identity, certs []*x509.Certificate) error
}

// Recheck looks at every client again after users, certificates or rules have changed, and closes those who would not come in any more.
func (h *Handler) Recheck() {
	if h.recheck == nil {
		return
	}
	for _, l := range h.loops {
		l.run(func() {
			for c := l.first; c != nil; {
				next := c.next
				if c.id != nil && h.recheck.Recheck(c.id, c.certificates()) != nil {
					c.shut(errRefused)
				}
				c = next
			}
		})
	}
}

// Close ends what the Handler itself runs.
func (h *Handler) Close() {
	h.closing.Do(func() {
		for _, stop := range h.stops {
			stop()
		}
		h.cancel()
		h.working.Wait()
	})
}

// OnOpen begins a connection.
func (h *Handler) OnOpen(c *engine.Conn) { c.SetState(h.loops[c.Loop().ID()].open(c)) }

// OnData takes requests.
func (h *Handler) OnData(c *engine.Conn, b []byte) int { return c.State().(*conn).onData(b) }

// OnDrain goes on with a client that has read what waited for it.
func (h *Handler) OnDrain(c *engine.Conn) { c.State().(*conn).onDrain() }

// OnClose ends a connection.
func (h *Handler) OnClose(c *engine.Conn, err error) { c.State().(*conn).onClose(err) }

// link is what a conn asks of its *engine.Conn.
type link interface {
	Write(p []byte)
	Reserve(n int) []byte
	Commit(n int)
	WriteRef(p []byte, r alloc.Ref)
	Queued() int
	Need(n int)
	Held() alloc.Ref
	PauseRead()
	ResumeRead()
	Close(err error)
	CloseAfterFlush(err error, timeout time.Duration)
	SetDeadline(mono int64)
	RemoteAddr() net.Addr
	LocalAddr() net.Addr
	TLS() *tls.ConnectionState
	Listener() string
}

var (
	_ engine.Handler = (*Handler)(nil)
	_ link           = (*engine.Conn)(nil)
)
