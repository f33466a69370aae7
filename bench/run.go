package bench

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
)

// notesMax bounds how many remarks a result carries.
const notesMax = 20

// run is one run under way. Loops read cfg, target and the atomics; the goroutine that called Run has the rest.
type run struct {
	cfg      Config
	ctx      context.Context
	target   mqttclient.Target
	endpoint endpoint
	tls      *tls.Config
	tlsHost  string // that a certificate is to be for
	base     time.Time
	nonce    uint32
	rng      *rand.Rand
	filler   []byte

	loops      []*loop
	handshakes handshakes
	result     *Result
	pubs       []*publisher
	subs       []*subscriber
	groups     []*group

	gate         *gate // nil: not a part of a mixed run
	dialOffset   int   // added to dialCount where connections get their source addresses
	quit         atomic.Bool
	dialCount    atomic.Int64
	stopAt       atomic.Int64 // ns since base: nothing more is sent
	measureFrom  atomic.Int64
	measureUntil atomic.Int64
	failed       atomic.Pointer[error] // what made it pointless to go on

	recorder  *recorder
	answered  bool                                     // what is sent is acknowledged
	expect    atomic.Pointer[func(sent uint64) uint64] // how many deliveries so many messages make; nil: nothing is to come
	following atomic.Bool                              // of a broker of several nodes: what is lost with one is asked of another
	over      atomic.Bool                              // the broker is gone: there is nothing left to be measured
	death     atomic.Pointer[string]                   // what tells so
	lastUsage *usage                                   // of the last sample

	mu struct {
		sync.Mutex
		notes       map[string]*note
		order       []string
		connFailure error
	}
}

// note is a remark and when it was first made.
type note struct {
	at    int64
	count int
}

// Run does one run and judges the broker. The result is valid even with an error, as far as the run came: an error says
// that the run could not be done, not that the broker did wrong (see Result.Violations).
func Run(ctx context.Context, cfg Config) (*Result, error) {
	return runAt(ctx, cfg, nil)
}

// runAt is Run, of a part of a mixed run if there is a gate.
func runAt(ctx context.Context, cfg Config, g *gate) (*Result, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if !supported {
		return nil, errors.New("the load generator runs on Linux only")
	}
	target, err := mqttclient.ParseTarget(cfg.URL)
	if err != nil {
		return nil, err
	}
	r, err := newRun(ctx, cfg, target, g)
	if err != nil {
		return nil, err
	}
	err = r.execute(func() error { return scenarios[cfg.Scenario].run(r) })
	r.fillResult()
	return r.end(err)
}

// execute starts the loops, calls f, ends the loops, and adds up what they counted.
func (r *run) execute(f func() error) error {
	if r.gate == nil { // else RunMixed has done it
		defer debug.SetGCPercent(debug.SetGCPercent(800))
		if n := r.cfg.Threads + 2; runtime.GOMAXPROCS(0) < n { // loops wait with a processor slot in hand
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		}
	}
	for _, l := range r.loops {
		go l.main()
	}
	started := ownCPU()
	w := r.startWatch()
	err := f()
	if p := r.failed.Load(); p != nil && err == nil {
		err = *p
	}
	w.halt()
	r.stop()
	r.result.Generator.CPUSeconds = (ownCPU() - started).Seconds()
	r.verify()
	r.endWatch(w)
	return err
}

// end gives the result, which a run that was interrupted has too.
func (r *run) end(err error) (*Result, error) {
	if lack := lackOf(err); lack != nil {
		err, r.result.Void, r.result.OK = lack, lack.Error(), false
	}
	if r.ctx.Err() != nil {
		r.result.Partial = true
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	}
	return r.result, err
}

func newRun(ctx context.Context, cfg Config, target mqttclient.Target, g *gate) (*run, error) {
	r := &run{cfg: cfg, ctx: ctx, target: target, base: time.Now(), tls: target.TLSConfig(cfg.TLS), tlsHost: target.Host}
	if g != nil {
		r.gate, r.base = g, g.base
	}
	var err error
	if r.endpoint, err = resolve(target); err != nil {
		return nil, err
	}
	var b [4]byte
	_, _ = crand.Read(b[:])
	r.nonce = binary.LittleEndian.Uint32(b[:])
	r.rng = rand.New(rand.NewPCG(cfg.Seed, 0x51C3))
	r.filler = make([]byte, cfg.Payload)
	for i := range r.filler {
		r.filler[i] = byte(r.rng.Uint32())
	}
	r.stopAt.Store(math.MaxInt64)
	r.measureFrom.Store(math.MaxInt64)
	r.measureUntil.Store(math.MaxInt64)
	r.mu.notes = map[string]*note{}
	r.handshakes.slots = make(chan struct{}, handshakesMax)
	r.result = newResult(&r.cfg)
	r.result.cfg, r.result.tls, r.result.ws = &r.cfg, target.TLS, target.WS
	r.answered = cfg.QoS > 0
	r.recorder = newRecorder(cfg.Threads)
	for i := range cfg.Threads {
		l, err := newLoop(r, i)
		if err != nil {
			for _, l := range r.loops {
				l.poll.close()
			}
			return nil, err
		}
		r.loops = append(r.loops, l)
	}
	if g != nil {
		g.enter(r)
	}
	return r, nil
}

// clock gives ns since the run's base.
func (r *run) clock() int64 { return int64(time.Since(r.base)) }

// measured says whether a moment lies in the measured part of the run.
func (r *run) measured(at int64) bool {
	return at >= r.measureFrom.Load() && at < r.measureUntil.Load()
}

// fail ends the run.
func (r *run) fail(err error) {
	r.failed.CompareAndSwap(nil, &err)
	r.stopAt.Store(0)
}

// note keeps a remark about something that happened at a moment; further ones of the same text are counted.
func (r *run) note(text string, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.mu.notes[text]; n != nil {
		n.count++
		return
	}
	if len(r.mu.order) < notesMax {
		r.mu.notes[text] = &note{at: at, count: 1}
		r.mu.order = append(r.mu.order, text)
	}
}

// connFailed keeps the first failure of a connection.
func (r *run) connFailed(err error, at int64) {
	r.mu.Lock()
	first := r.mu.connFailure == nil
	if first {
		r.mu.connFailure = err
	}
	r.mu.Unlock()
	if first {
		r.note(err.Error(), at)
	}
}

func (r *run) progress(format string, args ...any) {
	if r.cfg.Progress != nil {
		r.cfg.Progress(fmt.Sprintf(format, args...))
	}
}

// count adds up one of the counters that loops publish.
func (r *run) count(of func(*counts) *atomic.Uint64) (n uint64) {
	for _, l := range r.loops {
		n += of(&l.counts).Load()
	}
	return n
}

func countReady(c *counts) *atomic.Uint64   { return &c.ready }
func countFailed(c *counts) *atomic.Uint64  { return &c.failed }
func countSent(c *counts) *atomic.Uint64    { return &c.sent }
func countAcked(c *counts) *atomic.Uint64   { return &c.acked }
func countPongs(c *counts) *atomic.Uint64   { return &c.pongs }
func countFresh(c *counts) *atomic.Uint64   { return &c.fresh }
func countHeard(c *counts) *atomic.Uint64   { return &c.heard }
func countLive(c *counts) *atomic.Uint64    { return &c.live }
func countBlocked(c *counts) *atomic.Uint64 { return &c.blocked }

// sleep waits until the clock says at. It ends early with an error if the run is over before.
func (r *run) sleep(at int64) error {
	wait := time.NewTimer(time.Duration(at - r.clock()))
	defer wait.Stop()
	check := time.NewTicker(20 * time.Millisecond)
	defer check.Stop()
	for {
		select {
		case <-wait.C:
			return nil
		case <-r.ctx.Done():
			return r.ctx.Err()
		case <-check.C:
			if p := r.failed.Load(); p != nil {
				return *p
			}
			if r.over.Load() {
				return nil
			}
		}
	}
}

// await waits until done holds. It gives up when progress has not changed for idle.
func (r *run) await(idle time.Duration, progress func() uint64, done func() bool) error {
	last, at := progress(), time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
		if p := r.failed.Load(); p != nil {
			return *p
		}
		if r.death.Load() != nil {
			return errIdle
		}
		if now := progress(); now != last {
			last, at = now, time.Now()
		} else if time.Since(at) > idle {
			return errIdle
		}
	}
	return nil
}

var errIdle = errors.New("nothing happens any more")

// connect opens cs, spread over the loops that their l names, and waits until all are ready.
func (r *run) connect(cs []*conn) error {
	files := int(r.dialCount.Load()) + len(cs)
	if r.gate != nil {
		files = int(r.gate.files.Add(int64(len(cs))))
	}
	if err := raiseFileLimit(files + 64); err != nil {
		return err
	}
	want := r.count(countReady) + uint64(len(cs))
	failedBefore := r.count(countFailed)
	byLoop := map[*loop][]*conn{}
	for _, c := range cs {
		byLoop[c.l] = append(byLoop[c.l], c)
	}
	for l, cs := range byLoop {
		l.post(func(l *loop) {
			l.dialAt = l.now
			for _, c := range cs {
				l.open(c)
			}
		})
	}
	err := r.await(r.cfg.ConnectTimeout, func() uint64 { return r.count(countReady) }, func() bool {
		return r.count(countReady) >= want || r.count(countFailed) > failedBefore
	})
	if r.count(countFailed) > failedBefore {
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Errorf("cannot connect: %w", r.mu.connFailure)
	}
	if errors.Is(err, errIdle) {
		return fmt.Errorf("cannot connect: %d of %d connections are not ready and nothing has happened for %v",
			want-r.count(countReady), len(cs), r.cfg.ConnectTimeout)
	}
	return err
}

// newConn makes a connection for the loop that number n falls to.
func (r *run) newConn(kind string, n int) *conn {
	return &conn{
		l: r.loops[n%len(r.loops)], version: r.cfg.Version, clean: true, fd: -1,
		clientID: fmt.Sprintf("sb-%08x-%s%d", r.nonce, kind, n),
	}
}

// topic names a topic of this run.
func (r *run) topic(kind string, n int) string { return fmt.Sprintf("sb/%08x/%s/%d", r.nonce, kind, n) }

// durable makes c's session outlive its connection.
func (c *conn) makeDurable() {
	c.durable, c.clean = true, false
}

// newPublisher makes a publisher for topic on c, with deliveries to fanout receivers.
func (r *run) newPublisher(c *conn, topic string, fanout int) *publisher {
	p := &publisher{c: c, id: uint32(len(r.pubs)), qos: r.cfg.QoS, limit: r.cfg.Messages, idsMax: 65535}
	p.cell = &cell{pub: p, fanout: uint64(fanout)}
	if r.cfg.Rate == 0 {
		p.window = uint64(r.cfg.Inflight)
	}
	c.pub = p
	p.prepare(topic, r.filler)
	r.pubs = append(r.pubs, p)
	return p
}

// newSubscriber makes a receiver on c of what publishers first to first+n-1 send.
func (r *run) newSubscriber(c *conn, first, n int) *subscriber {
	s := &subscriber{c: c, first: uint32(first), tracks: make([]track, n)}
	for i := range s.tracks {
		if first+i < len(r.pubs) {
			s.tracks[i].cell = r.pubs[first+i].cell
		}
	}
	c.sub = s
	c.subQoS = r.cfg.QoS
	r.subs = append(r.subs, s)
	return s
}

// stop ends the loops and waits for them and for handshakes under way.
func (r *run) stop() {
	r.quit.Store(true)
	for _, l := range r.loops {
		l.post(func(*loop) {})
		<-l.done
	}
	r.handshakes.all.Wait()
}

// disconnect has all connections say goodbye and waits for that, for as long as it takes to hand it to the kernel.
func (r *run) disconnect() {
	open := func() (n uint64) {
		for _, l := range r.loops {
			l.call(func(l *loop) {
				for _, c := range l.conns {
					if c != nil {
						n++
					}
				}
			})
		}
		return n
	}
	for _, l := range r.loops {
		l.call(func(l *loop) {
			for _, c := range l.conns {
				if c != nil {
					c.leave()
				}
			}
		})
	}
	_ = r.await(time.Second, open, func() bool { return open() == 0 })
}

// forget removes the durable sessions of the run.
func (r *run) forget() error {
	r.disconnect()
	if !r.cfg.Durable || r.ctx.Err() != nil || r.over.Load() {
		return nil
	}
	var cs []*conn
	again := func(c *conn) {
		cs = append(cs, &conn{l: c.l, fd: -1, version: c.version, clean: true, clientID: c.clientID})
	}
	for _, p := range r.pubs {
		again(p.c)
	}
	for _, s := range r.subs {
		if s.c.pub == nil {
			again(s.c)
		}
	}
	if err := r.connect(cs); err != nil {
		return fmt.Errorf("remove the sessions of the run: %w", err)
	}
	r.disconnect()
	return nil
}
