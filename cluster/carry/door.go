package carry

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
)

// Leader says where clients belong now: at node, which is this one if here; not known while nobody leads. Any goroutine asks, and it must not
// block.
type Leader interface {
	Leader() (node link.NodeID, here, known bool)
}

// Protocol is the protocol of the clients. Its Handler serves those that belong here, carried ones too.
type Protocol interface {
	engine.Handler
	// Version is the protocol version of a client by its first bytes, 0 if there is none in them; enough false: it takes more to say.
	Version(b []byte) (version byte, enough bool)
	// Unavailable answers a client that has said nothing but its first bytes, and cannot be served now, and ends the connection. Runs on its loop.
	Unavailable(c *engine.Conn, version byte)
	// Elsewhere tells such a client where it is served, and ends the connection; false: its version has no word for that. Runs on its loop.
	Elsewhere(c *engine.Conn, version byte, at string) bool
}

// Options of a Door.
type Options struct {
	Mesh   *link.Mesh
	Engine *engine.Engine
	Leader Leader

	// Redirect says where clients of a listener reach the node that leads, so that those who can be are sent there; empty: they are carried. nil: all are. Any loop
	// calls it, once a connection.
	Redirect func(listener string, leader link.NodeID) string

	// Named tells of a listener that Serve is not told of, by its name; false: there is none. A client of one is taken by a leader that has one of the same name and
	// rules, and by no other. nil: there are none. Any goroutine calls it.
	Named func(listener string) (Named, bool)

	Wait   time.Duration // how long a client waits for somebody to lead; 0: 5 s
	Memory int64         // bytes that may be held for all carried clients of this node; above it those who take nothing are ended; 0: 32 MiB
	Logger *slog.Logger  // nil: slog.Default
}

// Named is a listener with rules of its own.
type Named struct {
	Rules    string // the same at two nodes if their listeners of this name do the same with clients; without #
	Listener engine.ListenerOptions
}

const (
	// defaultWait is longer than an election takes: some clients give up when they are refused.
	defaultWait   = 5 * time.Second
	defaultMemory = 32 << 20

	// heldFair is what a client may have held while there is too much of all, and stuckAfter how long it may take nothing of more.
	heldFair   = 16 << 10
	stuckAfter = time.Second
	sweepEvery = 250 * time.Millisecond
	// partBytes is the largest message that is made of a client's bytes: a quarter of a window, so that credit comes back while others are under way.
	partBytes = 8 << 10
	// copyBelow is the size below which a message for a client is copied, if less than queueSmall is queued for it.
	copyBelow, queueSmall = 4 << 10, 16 << 10
	// lookEvery is how often a node looks whether there is a leader for those who wait.
	lookEvery = 50 * time.Millisecond
	// sayEvery is how often the log has it that the leader does not take clients.
	sayEvery = 10 * time.Second
	// byeTimeout is how long the last bytes to a client may take.
	byeTimeout = 2 * time.Second
)

// Door is the handler of listeners of a node of a cluster: it serves a client by the protocol where this node leads, and carries it to the leader
// otherwise. Its Handler methods run on the client's loop.
type Door struct {
	o        Options
	log      *slog.Logger
	serves   atomic.Pointer[serving]
	loops    []doorLoop
	closed   atomic.Bool
	sweeping atomic.Bool
	held     atomic.Int64

	carried, waiting, brought                     atomic.Int64
	carriedTotal, broughtTotal, redirected        atomic.Uint64
	refusedNobody, refusedLeader, endedSlow, lost atomic.Uint64
	said                                          atomic.Int64 // Unix nanoseconds at which the log said last that the leader did not take a client
}

// serving is what a Door has from Serve on.
type serving struct {
	protocol Protocol
	inlets   map[string]*engine.Inlet
	named    sync.Map // by name, those of named listeners that clients were brought of
}

// doorLoop belongs to its loop.
type doorLoop struct {
	waiting []*client
	looking bool // a look is due
}

// Stats are levels and counts of a Door.
type Stats struct {
	Carried   int64 // clients of this node that the leader serves now
	Waiting   int64 // clients that wait for somebody to lead
	Brought   int64 // clients that other nodes have brought here
	HeldBytes int64 // of carried clients' bytes

	CarriedTotal, BroughtTotal uint64
	Redirected                 uint64 // clients that were sent to the leader
	RefusedNobody              uint64 // clients that were refused because nobody took them for too long
	RefusedLeader              uint64 // clients that the leader did not take
	Lost                       uint64 // carried clients that were ended because their leader was gone
	Slow                       uint64 // ended because too much was held of them
}

// New makes a Door and registers it with the mesh, which must not be connected yet. Clients that are brought before Serve are refused.
func New(o Options) *Door {
	if o.Wait == 0 {
		o.Wait = defaultWait
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	d := &Door{o: o, log: o.Logger, loops: make([]doorLoop, len(o.Engine.Loops()))}
	if d.log == nil {
		d.log = slog.Default()
	}
	o.Mesh.Handle(link.KindTunnel, d.accept)
	return d
}

// Serve says what serves clients. listeners are those whose clients other nodes may bring here: their names and limits. It comes before any listener
// has the Door for its handler.
func (d *Door) Serve(p Protocol, listeners []engine.ListenerOptions) {
	s := &serving{protocol: p, inlets: make(map[string]*engine.Inlet)}
	for _, lo := range listeners {
		lo.Handler = p
		s.inlets[lo.Name] = d.o.Engine.Inlet(lo)
	}
	d.serves.Store(s)
}

// ruledBy is the name of a listener as the leader is told it, with its rules if it has any of its own.
func (d *Door) ruledBy(listener string) string {
	if d.o.Named != nil {
		if n, ok := d.o.Named(listener); ok {
			return listener + "#" + n.Rules
		}
	}
	return listener
}

// say has the log tell why the leader has refused a client: one of those that come in ten seconds.
func (d *Door) say(listener string, why error) {
	now, last := time.Now().UnixNano(), d.said.Load()
	if now-last >= int64(sayEvery) && d.said.CompareAndSwap(last, now) {
		d.log.Warn("the node that leads does not take a client", "listener", listener, "err", why)
	}
}

// inlet is where clients of a listener come in that ruledBy has told, nil if they do not.
func (d *Door) inlet(s *serving, told string) *engine.Inlet {
	if in := s.inlets[told]; in != nil || d.o.Named == nil {
		return in
	}
	name, rules, _ := strings.Cut(told, "#")
	n, ok := d.o.Named(name)
	if !ok || n.Rules != rules {
		return nil
	}
	if in, ok := s.named.Load(name); ok {
		return in.(*engine.Inlet) //nolint:forcetypeassert // nothing else is stored
	}
	n.Listener.Handler = s.protocol
	in, _ := s.named.LoadOrStore(name, d.o.Engine.Inlet(n.Listener))
	return in.(*engine.Inlet) //nolint:forcetypeassert // nothing else is stored
}

// protocol is what serves clients; Serve has been called.
func (d *Door) protocol() Protocol { return d.serves.Load().protocol }

// Stats gathers what was counted. Any goroutine may call it.
func (d *Door) Stats() Stats {
	return Stats{Carried: d.carried.Load(), Waiting: d.waiting.Load(), Brought: d.brought.Load(), HeldBytes: d.held.Load(),
		Redirected: d.redirected.Load(), CarriedTotal: d.carriedTotal.Load(), BroughtTotal: d.broughtTotal.Load(), RefusedNobody: d.refusedNobody.Load(),
		RefusedLeader: d.refusedLeader.Load(), Lost: d.lost.Load(), Slow: d.endedSlow.Load()}
}

// Shutdown has the Door take in nobody any more, and ends the connections of those who are carried, who come back to another node. Any goroutine may
// call it.
func (d *Door) Shutdown() {
	d.closed.Store(true)
	for _, l := range d.o.Engine.Loops() {
		l.Post(&walk{do: (*client).leave})
	}
}

// sweep looks for clients that take nothing, because too much is held of all. Any goroutine may call it.
func (d *Door) sweep() {
	if d.sweeping.Swap(true) {
		return
	}
	for _, l := range d.o.Engine.Loops() {
		l.Post(&walk{do: func(cl *client) { cl.stuck(l.NowMono()) }})
	}
	time.AfterFunc(sweepEvery, func() {
		if d.sweeping.Store(false); d.held.Load() > d.o.Memory && !d.closed.Load() {
			d.sweep()
		}
	})
}

// walk does something with a loop's carried clients, some at a time.
type walk struct {
	at int
	do func(*client)
}

// walkStep is how many connections are looked at in one go.
const walkStep = 1024

// Run makes it an engine.Task.
func (f *walk) Run(l *engine.Loop) {
	f.at = l.States(f.at, walkStep, func(state any) {
		if cl, ok := state.(*client); ok {
			f.do(cl)
		}
	})
	if f.at >= 0 {
		l.Post(f)
	}
}

// OnOpen takes a client in. Where it belongs is decided by then, or when it speaks.
func (d *Door) OnOpen(c *engine.Conn) {
	if _, here, _ := d.o.Leader.Leader(); here {
		d.protocol().OnOpen(c)
		return
	}
	c.SetState(&client{d: d, c: c})
}

// OnData takes what a client sends.
func (d *Door) OnData(c *engine.Conn, b []byte) int {
	if cl, ok := c.State().(*client); ok {
		return cl.data(b)
	}
	return d.protocol().OnData(c, b)
}

// OnDrain tells the protocol, of its own clients. What a carried one has taken is told by the messages themselves.
func (d *Door) OnDrain(c *engine.Conn) {
	if _, ok := c.State().(*client); !ok {
		d.protocol().OnDrain(c)
	}
}

// OnClose ends a client.
func (d *Door) OnClose(c *engine.Conn, err error) {
	if cl, ok := c.State().(*client); ok {
		cl.gone()
		return
	}
	d.protocol().OnClose(c, err)
}

// wait has a client wait for a leader, within bounds.
func (d *Door) wait(cl *client) {
	l := &d.loops[cl.c.Loop().ID()]
	l.waiting = append(l.waiting, cl)
	d.waiting.Add(1)
	d.lookSoon(l, cl.c.Loop())
}

func (d *Door) lookSoon(l *doorLoop, loop *engine.Loop) {
	if l.looking {
		return
	}
	l.looking = true
	time.AfterFunc(lookEvery, func() { loop.Post(engine.TaskFunc(d.look)) })
}

// look goes on with those who wait on a loop, if there is a leader, and refuses those who have waited for too long.
func (d *Door) look(loop *engine.Loop) {
	l := &d.loops[loop.ID()]
	l.looking = false
	node, here, known := d.o.Leader.Leader()
	ready := here || known && d.o.Mesh.Reaches(node)
	rest := l.waiting[:0]
	for _, cl := range l.waiting {
		switch {
		case cl.state != stateWaiting:
			d.waiting.Add(-1)
		case ready && loop.NowMono() >= cl.again:
			d.waiting.Add(-1)
			cl.state = stateNew
			cl.c.ResumeRead() // what it has said comes again
		case loop.NowMono()-cl.since >= int64(d.o.Wait):
			d.waiting.Add(-1)
			if cl.why != nil {
				d.say(cl.c.Listener(), cl.why)
			}
			d.refusedNobody.Add(1)
			cl.refuse()
		default:
			rest = append(rest, cl)
		}
	}
	clear(l.waiting[len(rest):])
	l.waiting = rest
	if len(rest) > 0 {
		d.lookSoon(l, loop)
	}
}

var (
	errLeaderGone = errors.New("the node that served the client does not any more")
	errLeaving    = errors.New("this node goes down")
	errElsewhere  = errors.New("another node serves the client, which was told so")
	errRefused    = errors.New("nobody can serve the client now")
	errSlow       = errors.New("too much waits for carried clients, and this one takes nothing")
)

var _ engine.Handler = (*Door)(nil)
