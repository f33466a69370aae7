package mqtt

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/journal/record"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// fakeLoop is a loop that the test's goroutine runs.
type fakeLoop struct {
	mu    sync.Mutex
	tasks []engine.Task
	mono  int64
	unix  int64
	pool  alloc.Pool
	conns []*conn
}

func (l *fakeLoop) NowMono() int64      { return l.mono }
func (l *fakeLoop) NowUnixMilli() int64 { return l.unix }
func (l *fakeLoop) Pool() *alloc.Pool   { return &l.pool }
func (l *fakeLoop) States(at, n int, visit func(state any)) int {
	next := at + n
	for ; at < min(next, len(l.conns)); at++ {
		visit(l.conns[at])
	}
	if next >= len(l.conns) {
		return -1
	}
	return next
}
func (l *fakeLoop) Post(t engine.Task) {
	l.mu.Lock()
	l.tasks = append(l.tasks, t)
	l.mu.Unlock()
}

func (l *fakeLoop) run() bool {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, t := range tasks {
		t.Run(nil)
	}
	return len(tasks) > 0
}

// fakeLink is a connection whose other end the test reads.
type fakeLink struct {
	scratch  []byte
	out      []byte
	keep     bool // false: output is thrown away
	held     int  // bytes that the peer has not taken
	paused   bool
	closed   bool
	err      error
	need     int
	deadline int64
	in       []byte
}

func (k *fakeLink) Write(p []byte) {
	if k.keep {
		k.out = append(k.out, p...)
	}
}

func (k *fakeLink) Reserve(n int) []byte {
	if cap(k.scratch) < n {
		k.scratch = make([]byte, n)
	}
	return k.scratch[:0]
}
func (k *fakeLink) Commit(n int)                               { k.Write(k.scratch[:n]) }
func (k *fakeLink) WriteBlock(_ *alloc.Block, p []byte)        { k.Write(p) }
func (k *fakeLink) Queued() int                                { return k.held }
func (k *fakeLink) Need(n int)                                 { k.need = n }
func (k *fakeLink) PauseRead()                                 { k.paused = true }
func (k *fakeLink) ResumeRead()                                { k.paused = false }
func (k *fakeLink) Close(err error)                            { k.closed, k.err = true, err }
func (k *fakeLink) CloseAfterFlush(err error, _ time.Duration) { k.Close(err) }
func (k *fakeLink) SetDeadline(mono int64)                     { k.deadline = mono }
func (k *fakeLink) Remote() netip.AddrPort                     { return netip.MustParseAddrPort("127.0.0.1:9") }
func (k *fakeLink) TLS() *tls.ConnectionState                  { return nil }
func (k *fakeLink) Listener() string                           { return "test" }

// memoryLog is a broker.Log that commits when told.
type memoryLog struct {
	b      *broker.Broker
	mu     sync.Mutex
	awake  bool
	groups [][]byte
}

func (m *memoryLog) Wake() { m.mu.Lock(); m.awake = true; m.mu.Unlock() }
func (m *memoryLog) commit() bool {
	any := false
	for {
		m.mu.Lock()
		awake := m.awake
		m.awake = false
		m.mu.Unlock()
		if !awake {
			return any
		}
		any = true
		g, more := m.b.Gather(nil, 1<<20)
		m.mu.Lock()
		m.awake = m.awake || more
		m.groups = append(m.groups, g)
		m.mu.Unlock()
		m.b.Committed(broker.Place{})
	}
}

func (m *memoryLog) Read(p record.PartitionID, from record.Offset, fn func(record.Batch) bool) error {
	m.mu.Lock()
	groups := m.groups
	m.mu.Unlock()
	for _, g := range groups {
		for len(g) > 0 {
			f, n, err := record.DecodeFrame(g)
			if err != nil {
				return err
			}
			g = g[n:]
			if f.Kind != record.KindRecords || f.Partition != p {
				continue
			}
			batch, _, err := record.ParseBatch(record.FrameBatch(f.Payload))
			if err != nil {
				return err
			}
			if batch.LastOffset() >= from && !fn(batch) {
				return nil
			}
		}
	}
	return nil
}
func (m *memoryLog) SetLogStart(record.PartitionID, record.Offset) {}
func (m *memoryLog) DropPartition(record.PartitionID)              {}

// world is a Handler over a real core, one loop, and connections that the test holds the other end of.
type world struct {
	t     testing.TB
	h     *Handler
	l     *loopState
	loop  *fakeLoop
	b     *broker.Broker
	log   *memoryLog
	lines *strings.Builder
	hold  bool // nothing is committed
}

func newWorld(t testing.TB, o Options) *world {
	t.Helper()
	return newWorldAt(t, o, clock.Real{})
}

// newWorldAt is newWorld with a clock for the core's timers.
func newWorldAt(t testing.TB, o Options, clk clock.Clock) *world {
	t.Helper()
	w := &world{t: t, loop: &fakeLoop{mono: 1e9, unix: 1_700_000_000_000}, lines: &strings.Builder{}}
	w.b = broker.New(broker.Options{Shards: 2, Loops: 1, Clock: clk, Events: events.New()})
	w.log = &memoryLog{b: w.b}
	w.b.UseLog(w.log)
	w.b.Recovered()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(w.lines, nil))
	}
	o.Broker = w.b
	w.h = newHandler(&o)
	w.l = w.h.addLoop(w.loop, w.b.Local(0))
	t.Cleanup(func() { w.h.Close(); w.b.Close() })
	return w
}

// turn runs the loop, the core and the log until nothing happens any more.
func (w *world) turn() {
	for quiet := 0; quiet < 3; quiet++ {
		if w.loop.run() {
			quiet = 0
		}
		w.b.Local(0).Drain()
		w.b.Local(0).EndTurn()
		w.l.endTurn()
		if !w.hold && w.log.commit() {
			quiet = 0
		}
	}
}

// peer is a client's end.
type peer struct {
	w       *world
	k       *fakeLink
	c       *conn
	version byte
}

func (w *world) dial() *peer {
	k := &fakeLink{keep: true}
	c := w.l.open(k)
	w.loop.conns = append(w.loop.conns, c)
	return &peer{w: w, k: k, c: c, version: wire.V5}
}

// send gives bytes to the connection as the engine would.
func (p *peer) send(b []byte) {
	p.k.in = append(p.k.in, b...)
	p.feed()
	p.w.turn()
	for range 8 {
		if len(p.k.in) > 0 && !p.k.paused {
			p.feed()
			p.w.turn()
		}
	}
}

func (p *peer) feed() {
	if p.k.closed || p.k.paused || len(p.k.in) == 0 {
		return
	}
	n := p.c.onData(p.k.in)
	p.k.in = p.k.in[n:]
}

// packets takes what the connection has sent.
func (p *peer) packets() (all []wire.Header) {
	p.w.t.Helper()
	out := p.k.out
	p.k.out = nil
	for len(out) > 0 {
		h := wire.Header{Type: wire.PacketType(out[0] >> 4), Flags: out[0] & 15}
		size, n := binary.Uvarint(out[1:])
		h.Size = 1 + n + int(size)
		h.Body = out[1+n : h.Size]
		out = out[h.Size:]
		all = append(all, h)
	}
	return all
}

// types are the types of what the connection has sent.
func (p *peer) types() string {
	var s []string
	for _, h := range p.packets() {
		s = append(s, h.Type.String())
	}
	return strings.Join(s, " ")
}

func (w *world) connect(version byte, id string, with ...func(*wire.Connect)) *peer {
	w.t.Helper()
	p := w.dial()
	p.version = version
	k := wire.Connect{Version: version, ClientID: []byte(id), CleanStart: true}
	for _, f := range with {
		f(&k)
	}
	p.send(wire.AppendConnect(nil, &k))
	got := p.packets()
	if len(got) == 0 || got[0].Type != wire.CONNACK {
		w.t.Fatalf("connect %s: %v", id, got)
	}
	a, err := wire.DecodeConnack(got[0].Body, version)
	if err != nil || a.Reason != wire.Success {
		w.t.Fatalf("connect %s: %v %v", id, a.Reason, err)
	}
	return p
}

func (p *peer) subscribe(qos byte, filters ...string) {
	p.w.t.Helper()
	s := wire.SubscribeOut{PacketID: 1}
	for _, f := range filters {
		s.Filters = append(s.Filters, wire.FilterRequest{Filter: []byte(f), QoS: qos})
	}
	p.send(wire.AppendSubscribe(nil, p.version, &s))
	if got := p.types(); !strings.HasPrefix(got, "SUBACK") {
		p.w.t.Fatalf("subscribe: %s", got)
	}
}

func (p *peer) publish(topic, payload string, qos byte, id uint16) {
	p.send(wire.AppendPublish(nil, p.version, &wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: id}))
}

// lastDisconnect is the reason of the DISCONNECT that the connection has sent.
func (p *peer) lastDisconnect() wire.ReasonCode {
	p.w.t.Helper()
	for _, h := range p.packets() {
		if h.Type == wire.DISCONNECT {
			d, err := wire.DecodeServerDisconnect(h.Body, p.version)
			if err != nil {
				p.w.t.Fatal(err)
			}
			return d.Reason
		}
	}
	p.w.t.Fatal("no DISCONNECT")
	return 0
}

// slowAuthn verifies when the test lets it.
type slowAuthn struct {
	gate chan struct{}
	err  error
}

func (a *slowAuthn) Authenticate(ctx context.Context, c broker.Credentials) (broker.Identity, error) {
	select {
	case <-a.gate:
	case <-ctx.Done():
		return broker.Identity{}, ctx.Err()
	}
	return broker.Identity{User: c.Username, Source: "password"}, a.err
}

// rules is an Authorizer that counts.
type rules struct {
	asked, generation uint64
	deny              string
}

func (r *rules) Authorize(_ *broker.Identity, _ broker.Action, topic []byte) bool {
	r.asked++
	return string(topic) != r.deny
}
func (r *rules) Generation() uint64 { return r.generation }
