package mqtt

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"crypto/tls"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/internal/trace"
)

// Options of a Handler.
type Options struct {
	Broker        *broker.Broker
	Loops         []*engine.Loop       // of the engine that the Handler's listeners belong to
	Authenticator broker.Authenticator // nil: everybody comes in, anonymously
	Authorizer    broker.Authorizer    // nil: everything is allowed
	Flapping      Flapping             // nil: nobody comes too often
	Quotas        *broker.Quotas       // nil: none
	Settings      *Settings            // nil: DefaultSettings
	Logger        *slog.Logger         // nil: slog.Default

	// Elsewhere says where clients of a listener are served that this node has served, now that it leads no more; empty: it does not know, and they are told
	// nothing. nil: it never does. Any loop calls it.
	Elsewhere func(listener string) string

	AuthWorkers int // clients verified at the same time; 0: 4
	AuthWaiting int // clients that may wait for it; 0: 4096
}

// Handler is MQTT for an engine: one for all loops and listeners. Its methods that engine calls run on the connection's loop; the
// others may be called from anywhere.
type Handler struct {
	authn    broker.Authenticator
	quick    broker.QuickAuthenticator // nil if authn is none
	recheck  Rechecker                 // nil if authn is none
	sasl     broker.SASLAuthenticator  // nil if authn is none
	authz    broker.Authorizer
	flapping Flapping // nil: nobody comes too often
	quotas   *broker.Quotas
	tenants  *broker.TenantLimits
	held     func(tenant uint32, clientID string) bool // whether a client has a connection
	log      *slog.Logger
	events   *events.Queue                // may be nil
	next     func(listener string) string // Options.Elsewhere
	settings atomic.Pointer[Settings]
	draining atomic.Pointer[failure] // why new clients are refused; nil: they are welcome
	pressure atomic.Int32            // how short of memory the node is
	loops    []*loopState
	busy     busyTopics
	lanes    broker.LaneAuthenticator // nil: all wait in the first lane
	pools    [broker.Lanes]authPool
	stops    []func()
	closing  sync.Once
}

// NewHandler makes a Handler. Close it after its engine.
func NewHandler(o Options) *Handler {
	h := newHandler(&o)
	for _, el := range o.Loops {
		l := h.addLoop(el, o.Broker.Local(el.ID()))
		o.Broker.Tracer().Attach(el.ID(), func(to *trace.Loop) {
			el.Post(engine.TaskFunc(func(*engine.Loop) { l.trace = to }))
		})
		el.OnTurnEnd(l.endTurn)
		h.stops = append(h.stops, el.Every(time.Second, l.tick))
	}
	return h
}

func newHandler(o *Options) *Handler {
	h := &Handler{authn: o.Authenticator, authz: o.Authorizer, flapping: o.Flapping, quotas: o.Quotas, log: o.Logger, events: o.Broker.Events(), tenants: o.Broker.Tenants(), held: o.Broker.Held, next: o.Elsewhere}
	if h.quotas == nil {
		h.quotas = &broker.Quotas{}
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	h.quick, _ = o.Authenticator.(broker.QuickAuthenticator)
	h.sasl, _ = o.Authenticator.(broker.SASLAuthenticator)
	h.recheck, _ = o.Authenticator.(Rechecker)
	if o.Settings == nil {
		s := DefaultSettings()
		o.Settings = &s
	}
	h.Set(*o.Settings)
	h.lanes, _ = o.Authenticator.(broker.LaneAuthenticator)
	h.pools[broker.LaneHere].start(o.AuthWorkers, o.AuthWaiting)
	for i := broker.LaneHere + 1; i < broker.Lanes; i++ {
		h.pools[i].start(laneWorkers, o.AuthWaiting)
	}
	return h
}

func (h *Handler) addLoop(lp loop, core core) *loopState {
	l := &loopState{h: h, loop: lp, core: core, events: h.events, quotaNow: h.quotas.Generation()}
	s := h.settings.Load()
	l.tickSlow(s)
	l.tickBusy(s)
	h.loops = append(h.loops, l)
	return l
}

// Set replaces the settings. Connections that exist keep what their CONNACK told them.
func (h *Handler) Set(s Settings) { h.settings.Store(s.normal()) }

// Levels of Pressure: how short of memory the node is.
const (
	PressureNone   = iota
	PressureShed   // clients that read slowly may have an eighth of limits.queue_bytes wait for them
	PressureRefuse // and nobody new comes in
)

// Pressure tells how short of memory the node is. Any goroutine may call it.
func (h *Handler) Pressure(level int32) { h.pressure.Store(level) }

// queueBytes is how much may wait for one connection now.
func (h *Handler) queueBytes() int {
	n := h.settings.Load().QueueBytes
	if h.pressure.Load() >= PressureShed {
		return n / 8
	}
	return n
}

// Close ends what the Handler itself runs: the pools that verify clients, and its tickers. Clients that wait are dropped.
func (h *Handler) Close() {
	h.closing.Do(func() {
		for _, stop := range h.stops {
			stop()
		}
		for i := range h.pools {
			h.pools[i].close()
		}
	})
}

// OnOpen begins a connection.
func (h *Handler) OnOpen(c *engine.Conn) {
	c.SetState(h.loops[c.Loop().ID()].open(c))
}

// OnData takes packets.
func (h *Handler) OnData(c *engine.Conn, b []byte) int { return c.State().(*conn).onData(b) }

// OnDrain goes on with what waited for a slow client.
func (h *Handler) OnDrain(c *engine.Conn) { c.State().(*conn).onDrain() }

// OnClose ends a connection.
func (h *Handler) OnClose(c *engine.Conn, err error) { c.State().(*conn).onClose(err) }

// link is what a conn asks of its *engine.Conn.
type link interface {
	Write(p []byte)
	Reserve(n int) []byte
	Commit(n int)
	WriteBlock(b *alloc.Block, p []byte)
	Queued() int
	Need(n int)
	PauseRead()
	ResumeRead()
	Close(err error)
	CloseAfterFlush(err error, timeout time.Duration)
	SetDeadline(mono int64)
	Remote() netip.AddrPort
	TLS() *tls.ConnectionState
	Listener() string
}

// loop is what a loopState asks of its *engine.Loop.
type loop interface {
	NowMono() int64
	NowUnixMilli() int64
	Post(t engine.Task)
	Pool() *alloc.Pool
	States(at, n int, visit func(state any)) (next int)
}

// core is what a conn asks of its *broker.Local.
type core interface {
	NewClient(sub broker.Subscriber) *broker.Client
	Connect(c *broker.Client, req *broker.ConnectRequest)
	Disconnect(c *broker.Client, req broker.DisconnectRequest)
	Publish(c *broker.Client, m *broker.Message, dedupe bool, t broker.Token) (broker.Outcome, error)
	Delay(c *broker.Client, m *broker.Message, due int64, dedupe bool, t broker.Token) (broker.Outcome, error)
	CancelDelayed(c *broker.Client, m *broker.Message, dedupe bool, t broker.Token) (broker.Outcome, error)
	Release(c *broker.Client, packetID uint16, t broker.Token) (broker.Outcome, error)
	Subscribe(c *broker.Client, reqs []broker.SubscribeRequest, errs []error, t broker.Token) (broker.Outcome, error)
	Unsubscribe(c *broker.Client, reqs []broker.SubscribeRequest, errs []error, t broker.Token) (broker.Outcome, error)
	Acked(c *broker.Client, packetID uint16)
	Received(c *broker.Client, packetID uint16, t broker.Token) (broker.Outcome, error)
	Ready(c *broker.Client)
	Waits(c *broker.Client) broker.ClientWaits
	Subscribed(c *broker.Client, visit func(group, filter []byte))
	SetTimer(t *broker.LoopTimer, d time.Duration, fn func())
	StopTimer(t *broker.LoopTimer)
}

var (
	_ engine.Handler    = (*Handler)(nil)
	_ link              = (*engine.Conn)(nil)
	_ loop              = (*engine.Loop)(nil)
	_ core              = (*broker.Local)(nil)
	_ broker.Subscriber = (*conn)(nil)
)
