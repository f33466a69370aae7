package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What a Handler is told by OnClose, beside io.EOF (the peer closed), what was given to Close, and the system's errors.
var (
	ErrClosed       = errors.New("connection closed")
	ErrIdle         = errors.New("deadline passed")
	ErrShutdown     = errors.New("engine is shutting down")
	ErrWriteTimeout = errors.New("peer did not take the output in time")
	ErrInputLimit   = errors.New("unconsumed input over the limit")
)

// Handler is a protocol. All methods run on the loop of the connection, one at a time; none may block. One Handler serves all
// connections of its listeners: what belongs to one connection hangs on Conn.State.
type Handler interface {
	// OnOpen tells of a new connection, after TLS handshake and WebSocket upgrade. A connection that does not get so far is never seen.
	OnOpen(c *Conn)
	// OnData gets all bytes that were received and not taken yet, and returns how many it took. b dies at return; the rest is kept and
	// comes again with what follows it. Conn.Need says how many bytes are worth another call.
	OnData(c *Conn, b []byte) (n int)
	// OnDrain tells that the out queue, which had grown over high water, is at or below low water again.
	OnDrain(c *Conn)
	// OnClose comes exactly once for each OnOpen, after all else, at the end of a turn and never inside of a call to Conn.Close. Of c,
	// only ID, State, the addresses and the listener mean something then; what is written is dropped.
	OnClose(c *Conn, err error)
}

// Task is what another goroutine has a loop do. The loop does not keep it.
type Task interface{ Run(l *Loop) }

// TaskFunc makes a Task of a function. It allocates: for what is rare.
type TaskFunc func(l *Loop)

// Run calls f.
func (f TaskFunc) Run(l *Loop) { f(l) }

// Options of an Engine. The zero value is production.
type Options struct {
	Loops  int          // 0: one per core (GOMAXPROCS)
	Logger *slog.Logger // nil: slog.Default

	// MaxConns says how many connections may be open, over all listeners, 0 for no limit; it is asked for each that comes. nil: no limit.
	MaxConns func() int

	HandshakesRunning int // TLS handshakes that compute at the same time; 0: one per core
	HandshakesMax     int // TLS handshakes begun and not done, each with a goroutine; what is over waits; 0: 512
	HandshakesWaiting int // connections whose handshake waits for its turn; what is over is refused; 0: 4096
}

// Engine is a set of loops and the listeners that feed them.
type Engine struct {
	o       Options
	log     *slog.Logger
	loops   []*Loop
	base    time.Time // where NowMono is 0
	nextID  atomic.Uint64
	next    atomic.Uint32 // round robin over loops
	hs      handshakePool
	spare   spareDescriptor
	np      netpollShared
	accepts acceptCounters
	open    atomic.Int64   // connections
	refuses atomic.Bool    // no more are taken in
	wg      sync.WaitGroup // loops
	stop    context.CancelFunc
	ctx     context.Context

	mu struct {
		sync.Mutex
		listeners []*listener
		started   bool
		closed    bool
	}
}

// New makes an engine whose loops do not run yet: register hooks and listeners, then Start.
func New(o Options) (*Engine, error) {
	if o.Loops <= 0 {
		o.Loops = runtime.GOMAXPROCS(0)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	e := &Engine{o: o, log: o.Logger, base: time.Now()}
	e.ctx, e.stop = context.WithCancel(context.Background())
	for i := range o.Loops {
		l, err := newLoop(e, i)
		if err != nil {
			for _, l := range e.loops {
				l.poll.close()
			}
			return nil, fmt.Errorf("make loop %d: %w", i, err)
		}
		e.loops = append(e.loops, l)
	}
	e.hs.init(e)
	e.spare.open()
	return e, nil
}

func (e *Engine) maxConns() int {
	if e.o.MaxConns == nil {
		return 0
	}
	return e.o.MaxConns()
}

// Loops are the engine's loops; the index is Loop.ID.
func (e *Engine) Loops() []*Loop { return e.loops }

// Start runs the loops. Listeners may be added before and after.
func (e *Engine) Start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.started || e.mu.closed {
		return
	}
	e.mu.started = true
	for _, l := range e.loops {
		e.wg.Add(1)
		go l.run()
	}
	for _, ln := range e.mu.listeners {
		ln.start()
	}
}

// Listen opens a listener and returns the address that it got.
func (e *Engine) Listen(o ListenerOptions) (net.Addr, error) {
	ln, err := newListener(e, o)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", o.Name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.closed {
		ln.shut()
		return nil, fmt.Errorf("listener %s: %w", o.Name, ErrShutdown)
	}
	e.mu.listeners = append(e.mu.listeners, ln)
	if e.mu.started {
		ln.start()
	}
	return ln.addr, nil
}

// CloseListener stops accepting at the listeners of this name, and waits until their acceptors do not run. Connections live on.
func (e *Engine) CloseListener(name string) {
	var gone []*listener
	e.mu.Lock()
	e.mu.listeners = slices.DeleteFunc(e.mu.listeners, func(ln *listener) bool {
		if ln.o.Name != name {
			return false
		}
		gone = append(gone, ln)
		return true
	})
	e.mu.Unlock()
	for _, ln := range gone {
		ln.shut()
	}
}

// CloseListeners stops accepting, over pipes too, and waits until no acceptor runs. Connections live on.
func (e *Engine) CloseListeners() {
	e.refuses.Store(true)
	e.mu.Lock()
	listeners := e.mu.listeners
	e.mu.listeners = nil
	e.mu.Unlock()
	for _, ln := range listeners {
		ln.shut()
	}
}

// Drain stops accepting and waits until every connection is closed, which is the handlers' task, or ctx is done.
func (e *Engine) Drain(ctx context.Context) error {
	e.CloseListeners()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for e.Stats().Open > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections are open: %w", e.Stats().Open, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Close stops accepting, closes every connection with ErrShutdown after its OnClose, and waits for every goroutine of the engine, or
// until ctx is done. Tasks posted afterwards are dropped.
func (e *Engine) Close(ctx context.Context) error {
	e.CloseListeners()
	e.mu.Lock()
	closed, started := e.mu.closed, e.mu.started
	e.mu.closed = true
	e.mu.Unlock()
	if closed {
		return nil
	}
	e.stop()
	for _, l := range e.loops {
		l.stop()
	}
	if !started {
		for _, l := range e.loops {
			l.poll.close()
		}
	}
	done := make(chan struct{})
	go func() {
		e.wg.Wait()
		e.hs.wait()
		e.np.close()
		close(done)
	}()
	select {
	case <-done:
		e.spare.close()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loops have not ended: %w", ctx.Err())
	}
}
