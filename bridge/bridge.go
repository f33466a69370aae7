package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// SessionPrefix begins the client ids of bridges at their own node; nobody else may have such a one.
const SessionPrefix = "$bridge/"

// Options of a Bridge.
type Options struct {
	Name      string
	Addresses []string // as mqttclient.ParseTarget takes them; the first that answers counts
	// TLS makes what connections over TLS go by, anew for each of them; nil: the system's authorities.
	TLS       func() (*tls.Config, error)
	Version   byte // wire.V311 or wire.V5
	ClientID  string
	User      string // empty: none
	Password  string
	KeepAlive time.Duration // at least a second
	Topics    []Topic
	Node      Node
	// Changed is told when the bridge is up, and when it is no more. It must not block.
	Changed func(up bool)
	Logger  *slog.Logger

	RetryMin, RetryMax time.Duration // between attempts; 0: half a second and half a minute
	Timeout            time.Duration // of connecting and of each write; 0: 10 s
}

// Node is the bridge's own node.
type Node interface {
	// Leads tells whether sessions are served here. Of several nodes one does, and that one runs the bridges.
	Leads() bool
	// Dial opens a connection to it.
	Dial() (net.Conn, error)
	// Session tells whether there is a session of that client id, and which identifiers of QoS 2 messages it has not released.
	Session(clientID string) (received []uint16, known bool)
	// Subscribed tells whether the session of that client id has this filter.
	Subscribed(clientID, filter string) bool
	// Queued is how many messages wait in the session.
	Queued(clientID string) int64
	// Takes is how many messages it takes at a time, and how large a packet is at most.
	Takes() (receiveMaximum uint16, packetMaximum uint32)
}

// Bridge is one of them, which runs until Close.
type Bridge struct {
	o       Options
	log     *slog.Logger
	out, in routes
	stop    context.CancelFunc
	done    chan struct{}

	up       atomic.Bool
	counts   [2]counters // out, in
	connects atomic.Uint64

	// Of the goroutine.
	plain      bool // the other broker knows no bridges
	drops      int  // connections in a row that were closed without a word when they said that they were of a bridge
	subscribed bool // this run has subscribed there
	prepared   bool // the session here is there, and queues what is to go out
}

// counters are of one direction.
type counters struct {
	messages, refused atomic.Uint64
	other             *counters // of the other direction
}

// Stats are what a bridge has done since it was started.
type Stats struct {
	Connected  bool
	Connects   uint64
	Out, In    uint64 // messages handed over; one that was handed over again counts again
	RefusedOut uint64 // that the other broker did not take, or whose topic or size has no place there
	RefusedIn  uint64
	Queued     int64
}

// New checks the options and makes a bridge that does nothing until Start.
func New(o Options) (*Bridge, error) {
	b := &Bridge{o: o, log: o.Logger, done: make(chan struct{})}
	if b.log == nil {
		b.log = slog.Default()
	}
	b.log = b.log.With("bridge", o.Name)
	b.counts[0].other, b.counts[1].other = &b.counts[1], &b.counts[0]
	normal(&b.o.RetryMin, 500*time.Millisecond)
	normal(&b.o.RetryMax, 30*time.Second)
	normal(&b.o.Timeout, 10*time.Second)
	if len(o.Addresses) == 0 {
		return nil, errors.New("a bridge needs an address")
	}
	for _, a := range o.Addresses {
		if _, err := mqttclient.ParseTarget(a); err != nil {
			return nil, err
		}
	}
	if len(o.ClientID) == 0 || len(o.ClientID) > 65535 || !wire.ValidText([]byte(o.ClientID)) {
		return nil, fmt.Errorf("client id %q: want 1 to 65535 bytes of UTF-8", o.ClientID)
	}
	var err error
	if b.out, err = newRoutes(o.Topics, Out); err != nil {
		return nil, err
	}
	if b.in, err = newRoutes(o.Topics, In); err != nil {
		return nil, err
	}
	return b, nil
}

func normal(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// SessionID is its client id at its own node.
func (b *Bridge) SessionID() string { return SessionPrefix + b.o.Name }

// Start has it connect, and connect again whenever it has lost a connection.
func (b *Bridge) Start() {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go b.run(ctx)
}

// Close ends it. Both sessions stay. It must have been started.
func (b *Bridge) Close() {
	b.stop()
	<-b.done
}

// Stats gives its counters.
func (b *Bridge) Stats() Stats {
	return Stats{Connected: b.up.Load(), Connects: b.connects.Load(), Out: b.counts[0].messages.Load(), In: b.counts[1].messages.Load(),
		RefusedOut: b.counts[0].refused.Load(), RefusedIn: b.counts[1].refused.Load(), Queued: b.o.Node.Queued(b.SessionID())}
}

// Name is what the configuration calls it.
func (b *Bridge) Name() string { return b.o.Name }

// leadAgain is how often a node that does not lead looks whether it does.
const leadAgain = 250 * time.Millisecond

// steady is how long a connection has to last for the next one to be tried at once.
const steady = 10 * time.Second

func (b *Bridge) run(ctx context.Context) {
	defer close(b.done)
	wait := b.o.RetryMin
	var told string
	for ctx.Err() == nil {
		if !b.o.Node.Leads() {
			b.prepared, b.subscribed = false, false // who leads meanwhile does it
			pause(ctx, leadAgain)
			continue
		}
		began := time.Now()
		err := b.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steady {
			wait, told = b.o.RetryMin, ""
		}
		if text := err.Error(); text != told { // a broker that is away for a day is one line, not a thousand
			told = text
			b.log.Warn("bridge is not connected; it tries again", "err", err)
		}
		pause(ctx, wait/2+rand.N(wait)) // many that have lost the same broker do not come back at the same moment
		wait = min(2*wait, b.o.RetryMax)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// once connects to both sides and hands packets over until one of them ends.
func (b *Bridge) once(ctx context.Context) error {
	there, err := b.dial(ctx)
	if err != nil {
		return errors.Join(err, b.prepare())
	}
	defer func() { _ = there.c.Close() }()
	here, err := b.join(ctx, there)
	if err != nil {
		return err
	}
	defer func() { _ = here.c.Close() }()
	b.connects.Add(1)
	b.tell(true)
	defer b.tell(false)
	b.log.Info("bridge is connected", "address", there.address, "version", versionName(b.o.Version), "session_present", there.present)
	return b.relay(ctx, here, there)
}

func versionName(v byte) string {
	if v == wire.V5 {
		return "5"
	}
	return "3.1.1"
}

func (b *Bridge) tell(up bool) {
	b.up.Store(up)
	if b.o.Changed != nil {
		b.o.Changed(up)
	}
}

// relay runs both ways until one ends, and waits for the other.
func (b *Bridge) relay(ctx context.Context, here, there *side) error {
	over, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 3)
	for _, w := range []*way{
		{from: here, to: there, routes: b.out, count: &b.counts[0]},
		{from: there, to: here, routes: b.in, count: &b.counts[1], keepAlive: b.o.KeepAlive * 3 / 2},
	} {
		go func() { ended <- w.run() }()
	}
	go func() { ended <- b.ping(over, there) }()
	left := 3
	var first error
	select {
	case first = <-ended:
		left--
	case <-ctx.Done():
		first = ctx.Err()
		_ = there.write(wire.AppendDisconnect(nil, there.c.Version, &wire.Disconnect{}))
		_ = here.answer(wire.AppendDisconnect(nil, here.c.Version, &wire.Disconnect{}))
	}
	stop()
	here.open.close()
	there.open.close()
	_ = here.c.Close()
	_ = there.c.Close()
	for ; left > 0; left-- {
		<-ended //nolint:errcheck // the first one is told
	}
	return first
}

// ping has the other broker hear of the bridge, and it of the broker.
func (b *Bridge) ping(ctx context.Context, there *side) error {
	tick := time.NewTicker(b.o.KeepAlive / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := there.write(wire.AppendPingreq(nil)); err != nil {
				return err
			}
		}
	}
}
