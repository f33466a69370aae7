package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenerOptions describe a listener. Zero values are production, but for Address and Handler.
type ListenerOptions struct {
	Name    string // for logs, metrics and Conn.Listener
	Network string // tcp (default), tcp4, tcp6, unix
	Address string // host:port, or a path for unix; port 0 is any free one

	// TLS makes it a TLS listener. It is read for every handshake, so GetConfigForClient, GetCertificate and VerifyConnection see
	// what is in force at that time: that is how certificates are reloaded.
	TLS *tls.Config

	WebSocket      bool
	WSPath         string   // default /mqtt; "*" takes any
	WSSubprotocols []string // default mqtt, mqttv3.1; the client's first that is in it is taken. A client may ask for none
	WSOrigins      []string // if set, a request whose Origin is not in it is refused; one without Origin (no browser) is not
	WSMessageMax   int64    // bytes of one message, over all its fragments; 0: 256 MiB and 64 KiB

	// Proxy makes it a listener for proxies: each connection begins with a header of the PROXY protocol, version 1 or 2, below TLS and
	// WebSocket, and the client's address in it is that of the connection. Proxy tells for the address of each connection whether it is a
	// trusted proxy's; others are closed at once. It is not asked about Unix sockets, whose peers are trusted. Any goroutine may call it.
	Proxy func(netip.Addr) bool

	// Admit tells whether connections from an address are taken; others are closed before anything is read of them, or, of clients behind
	// proxies, once the header has told their address. It is not asked about Unix sockets. It does not block; any goroutine may call it. nil:
	// all are.
	Admit func(netip.Addr) bool

	Transport string // epoll, netpoll, or auto (default): see docs/adr/0002-transport.md

	// MaxConns says how many connections of this listener may be open, 0 for no limit beside Options.MaxConns; it is asked for each that
	// comes. nil: no limit.
	MaxConns func() int

	// AcceptRate says how many connections are taken in a second, 0 for no limit; it is asked for each of them. A tenth of it may come
	// at once; what is over waits in the backlog. nil: no limit.
	AcceptRate         func() int
	HandshakeTimeout   time.Duration // for TLS and WebSocket handshake together, and before them for the PROXY protocol's header; 0: 10 s
	FirstPacketTimeout time.Duration // from OnOpen until the handler sets a deadline of its own; 0: 10 s, negative: none
	WriteTimeout       time.Duration // a peer that takes none of its output for so long is closed; 0: 1 min, negative: none

	HighWater, LowWater int // bytes queued: over the first OnDrain is owed, at the second it comes; 0: 1 MiB, a quarter of HighWater
	MaxInput            int // bytes received and not taken that close the connection; 0: 256 MiB and 64 KiB

	Handler Handler
}

// inputMax is the largest MQTT packet, the largest of any protocol here, and a little.
const inputMax = 256<<20 + 64<<10

func (o *ListenerOptions) setDefaults() error {
	if o.Handler == nil {
		return errors.New("no handler")
	}
	if o.Network == "" {
		o.Network = "tcp"
	}
	if o.WSPath == "" {
		o.WSPath = "/mqtt"
	}
	if o.WSSubprotocols == nil {
		o.WSSubprotocols = []string{"mqtt", "mqttv3.1"}
	}
	if o.WSMessageMax <= 0 {
		o.WSMessageMax = inputMax
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.FirstPacketTimeout == 0 {
		o.FirstPacketTimeout = 10 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = time.Minute
	}
	if o.HighWater <= 0 {
		o.HighWater = 1 << 20
	}
	if o.LowWater <= 0 || o.LowWater >= o.HighWater {
		o.LowWater = o.HighWater / 4
	}
	if o.MaxInput <= 0 {
		o.MaxInput = inputMax
	}
	return nil
}

// listener accepts for the loops. Its goroutine makes the system calls that wait, and takes many connections per wake-up.
type listener struct {
	e       *Engine
	o       ListenerOptions
	netpoll bool
	addr    net.Addr
	sock    *os.File
	raw     syscall.RawConn
	stop    chan struct{}
	done    chan struct{}
	log     limitedLog
	headers limitedLog   // of those that the PROXY protocol lacks
	open    atomic.Int64 // connections

	tokens  float64 // AcceptRate's bucket
	filled  time.Time
	batch   []accepted
	failure error

	mu struct {
		sync.Mutex
		started, shut bool
	}
}

type accepted struct {
	fd   int
	peer peerAddr
}

// acceptBatch is how many connections are taken in a row before they are handed over.
const acceptBatch = 64

func newListener(e *Engine, o ListenerOptions) (*listener, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	ln := &listener{e: e, o: o, stop: make(chan struct{}), done: make(chan struct{})}
	ln.log.to, ln.headers.to = e.log, e.log
	switch o.Transport {
	case "", "auto":
		ln.netpoll = !epollHere
	case "epoll":
		if !epollHere {
			return nil, errors.New("transport epoll is for Linux alone; use netpoll or auto")
		}
	case "netpoll":
		ln.netpoll = true
	default:
		return nil, fmt.Errorf("transport %q: known are auto, epoll, netpoll", o.Transport)
	}
	if o.Network == "unix" {
		removeStaleSocket(o.Address)
	}
	// Go's own listener gives names and dual stack. Accepted sockets inherit its options (Linux), which
	// saves three calls for each.
	lc := net.ListenConfig{KeepAlive: -1, Control: func(network, _ string, c syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var err error
		if cerr := c.Control(func(fd uintptr) { err = setSocketOptions(int(fd)) }); cerr != nil {
			return cerr
		}
		return err
	}}
	sock, err := lc.Listen(context.Background(), o.Network, o.Address)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	ln.addr = sock.Addr()
	if u, ok := sock.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	if ln.sock, err = dupSocket(sock); err != nil {
		return nil, err
	}
	ln.raw, err = ln.sock.SyscallConn()
	return ln, err
}

// dupSocket is the descriptor of sock as a file, in whose RawConn the acceptor can wait: that of a net.Listener does not let it.
func dupSocket(sock net.Listener) (*os.File, error) {
	sc, ok := sock.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("network %s has no descriptor", sock.Addr().Network())
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := raw.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate the listening socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "listener"), nil // it does not block, so the runtime's poller takes it
}

// setSocketOptions says what connections inherit: small packets leave at once, and a peer that is gone is found by the kernel within
// some two minutes, whatever keep-alive the protocol has.
func setSocketOptions(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		setKeepAliveTimes(fd),
	)
}

// removeStaleSocket removes a Unix socket that nobody answers, as a crash leaves it. Anything else stays, and Listen says so.
func removeStaleSocket(path string) {
	if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeSocket == 0 {
		return
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path) // if it fails Listen fails, and says why
	}
}

func (ln *listener) start() {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.mu.started || ln.mu.shut {
		return
	}
	ln.mu.started = true
	go ln.run()
}

// shut closes the socket and waits for the acceptor.
func (ln *listener) shut() {
	ln.mu.Lock()
	started, shut := ln.mu.started, ln.mu.shut
	ln.mu.shut = true
	ln.mu.Unlock()
	if !shut {
		close(ln.stop)
		_ = ln.sock.Close()
	}
	if started {
		<-ln.done
	}
	if !shut && ln.o.Network == "unix" {
		_ = os.Remove(ln.o.Address) // it may be gone already
	}
}

func (ln *listener) run() {
	defer close(ln.done)
	wait := time.NewTimer(time.Hour)
	defer wait.Stop()
	take := func(fd uintptr) bool { return ln.take(int(fd)) }
	for {
		if d := ln.pace(); d > 0 {
			wait.Reset(d)
			select {
			case <-ln.stop:
				return
			case <-wait.C:
				continue
			}
		}
		ln.failure = nil
		err := ln.raw.Read(take)
		for _, a := range ln.batch {
			ln.admit(a)
		}
		ln.batch = ln.batch[:0]
		if err != nil {
			return // shut
		}
		if ln.failure == nil {
			continue
		}
		wait.Reset(ln.answer(ln.failure))
		select {
		case <-ln.stop:
			return
		case <-wait.C:
		}
	}
}

// take accepts what waits, as far as the bucket goes. False means that nothing waits.
func (ln *listener) take(fd int) bool {
	limit := min(acceptBatch, int(ln.tokens))
	for len(ln.batch) < limit {
		n, peer, err := sockAccept(fd)
		switch {
		case err == nil:
			ln.batch = append(ln.batch, accepted{fd: n, peer: peer})
		case errors.Is(err, unix.EAGAIN):
			return len(ln.batch) > 0
		case errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
			ln.failure = err
			ln.e.refuseWithSpare(fd)
			return true
		default:
			ln.failure = err
			return true
		}
	}
	return true
}

// pace says how long to wait until the bucket has a connection's token.
func (ln *listener) pace() time.Duration {
	rate := 0.0
	if ln.o.AcceptRate != nil {
		rate = float64(ln.o.AcceptRate())
	}
	if rate <= 0 {
		ln.tokens, ln.filled = acceptBatch, time.Time{}
		return 0
	}
	now := time.Now()
	burst := max(rate/10, 1)
	if ln.filled.IsZero() {
		ln.tokens = burst
	} else {
		ln.tokens = min(ln.tokens+now.Sub(ln.filled).Seconds()*rate, burst)
	}
	ln.filled = now
	if ln.tokens >= 1 {
		return 0
	}
	return time.Duration((1-ln.tokens)/rate*float64(time.Second)) + time.Millisecond
}

// admit hands a connection to a loop, or closes it.
func (ln *listener) admit(a accepted) {
	e := ln.e
	ln.tokens--
	if ln.o.Proxy != nil && !ln.trusts(&a.peer) {
		e.accepts.untrusted.Add(1)
		_ = unix.Close(a.fd)
		ln.log.warn("connection refused", "listener", ln.o.Name, "address", a.peer.addrPort().String(), "err", ErrProxyTrust)
		return
	}
	if ln.o.Proxy == nil && !ln.admits(&a.peer) {
		e.accepts.banned.Add(1)
		_ = unix.Close(a.fd)
		return
	}
	if !ln.enter() {
		_ = unix.Close(a.fd)
		return
	}
	e.accepts.accepted.Add(1)
	c := &Conn{lst: ln, id: e.nextID.Add(1), fd: int32(a.fd), peer: a.peer}
	c.loop = e.loops[int(e.next.Add(1)-1)%len(e.loops)]
	c.loop.Post((*opening)(c))
}

// admits asks about an address.
func (ln *listener) admits(a *peerAddr) bool {
	return ln.o.Admit == nil || a.size == 0 || ln.o.Admit(a.addrPort().Addr())
}

// enter counts a connection in, unless as many are open as may be.
func (ln *listener) enter() bool {
	e := ln.e
	all, here := e.open.Add(1), ln.open.Add(1)
	most, mostHere := e.maxConns(), 0
	if ln.o.MaxConns != nil {
		mostHere = ln.o.MaxConns()
	}
	switch {
	case most > 0 && all > int64(most):
		e.accepts.maxConns.Add(1)
		ln.log.warn("connection refused: too many are open", "listener", ln.o.Name, "limit", most)
	case mostHere > 0 && here > int64(mostHere):
		e.accepts.listenerConns.Add(1)
		ln.log.warn("connection refused: too many are open at this listener", "listener", ln.o.Name, "limit", mostHere)
	default:
		return true
	}
	ln.leave()
	return false
}

func (ln *listener) leave() {
	ln.open.Add(-1)
	ln.e.open.Add(-1)
}

// answer tells what a failed accept means, and how long to leave it alone.
func (ln *listener) answer(err error) time.Duration {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		ln.e.accepts.noDescriptor.Add(1)
		ln.log.warn("no descriptor left for a connection: raise the limit of open files", "listener", ln.o.Name, "err", err)
		return 10 * time.Millisecond
	}
	ln.e.accepts.errors.Add(1)
	ln.log.warn("accept failed", "listener", ln.o.Name, "err", err)
	return 50 * time.Millisecond
}

// opening is a connection on its way to its loop.
type opening Conn

// Run makes the connection the loop's.
func (o *opening) Run(l *Loop) {
	c := (*Conn)(o)
	l.takeSlot(c)
	c.since = l.now
	if l.stopping {
		l.local.refusedShutdown++
		c.shut(ErrShutdown)
		return
	}
	if err := c.watch(); err != nil {
		c.shut(err)
		return
	}
	if c.lst.o.Proxy != nil {
		c.beginProxy()
		return
	}
	c.begin()
}

// begin puts up the layers below the handler.
func (c *Conn) begin() {
	switch {
	case c.lst.o.TLS != nil:
		c.beginTLS()
	case c.lst.o.WebSocket:
		c.beginWebSocket()
	default:
		c.opened()
	}
}
