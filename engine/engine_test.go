package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// netpoll's poller and its goroutine pool are the process's, and never end.
		goleak.IgnoreAnyFunction("github.com/cloudwego/netpoll.(*defaultPoll).Wait"),
		goleak.IgnoreAnyFunction("github.com/bytedance/gopkg/util/gopool.(*worker).run.func1"),
	)
}

const patience = 10 * time.Second

// hooks is a Handler of functions; nil is skipped. It counts what it is told.
type hooks struct {
	open  func(c *Conn)
	data  func(c *Conn, b []byte) int
	drain func(c *Conn)
	close func(c *Conn, err error)

	opened, closed atomic.Int64
}

func (h *hooks) OnOpen(c *Conn) {
	h.opened.Add(1)
	if h.open != nil {
		h.open(c)
	}
}

func (h *hooks) OnData(c *Conn, b []byte) int {
	if h.data == nil {
		return len(b)
	}
	return h.data(c, b)
}

func (h *hooks) OnDrain(c *Conn) {
	if h.drain != nil {
		h.drain(c)
	}
}

func (h *hooks) OnClose(c *Conn, err error) {
	h.closed.Add(1)
	if h.close != nil {
		h.close(c, err)
	}
}

// echo sends back what comes.
func echo() *hooks {
	return &hooks{data: func(c *Conn, b []byte) int {
		c.Write(b)
		return len(b)
	}}
}

// setup is an engine with one listener, and the way to dial it.
type setup struct {
	t    testing.TB
	e    *Engine
	h    *hooks
	o    ListenerOptions
	addr net.Addr
	cert *testx.Cert
	fed  *feeder
}

// way is one transport and one stack of layers.
type way struct{ transport, layer string }

func (w way) name() string { return w.transport + "/" + w.layer }

// ways are all that this system has.
func ways() []way {
	var all []way
	for _, transport := range []string{"epoll", "netpoll"} {
		if transport == "epoll" && !epollHere {
			continue
		}
		for _, layer := range []string{"tcp", "tls", "ws", "wss", "unix"} {
			all = append(all, way{transport, layer})
		}
	}
	return append(all, way{"fed", "fed"})
}

// start runs an engine with a listener of w.
func start(t testing.TB, w way, h *hooks, change ...func(*Options, *ListenerOptions)) *setup {
	t.Helper()
	s := &setup{t: t, h: h}
	eo := Options{Loops: 2, Logger: slog.New(slog.DiscardHandler)}
	s.o = ListenerOptions{Name: w.layer, Network: "tcp", Address: "127.0.0.1:0", Transport: w.transport, Handler: h, FirstPacketTimeout: -1}
	switch w.layer {
	case "unix":
		s.o.Network, s.o.Address = "unix", filepath.Join(t.TempDir(), "s")
	case "tls", "wss":
		s.cert = testx.TempCert(t)
		s.o.TLS = s.cert.ServerConfig()
	}
	s.o.WebSocket = w.layer == "ws" || w.layer == "wss"
	for _, f := range change {
		f(&eo, &s.o)
	}
	var err error
	if s.e, err = New(eo); err != nil {
		t.Fatal(err)
	}
	if w.layer == "fed" {
		s.fed = newFeeder(s)
	} else if s.addr, err = s.e.Listen(s.o); err != nil {
		t.Fatal(err)
	}
	s.e.Start()
	t.Cleanup(s.stop)
	return s
}

func (s *setup) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.fed != nil {
		_ = s.fed.l.Close()
	}
	if err := s.e.Close(ctx); err != nil {
		s.t.Error(err)
	}
	if s.fed != nil {
		s.fed.wg.Wait()
	}
	if o, c := s.h.opened.Load(), s.h.closed.Load(); o != c {
		s.t.Errorf("%d connections opened, %d closed", o, c)
	}
	if st := s.e.Stats(); st.Open != 0 {
		s.t.Errorf("%d connections open at the end: %+v", st.Open, st)
	}
}

// dialRaw is a connection below TLS and WebSocket.
func (s *setup) dialRaw() net.Conn {
	s.t.Helper()
	c, err := net.DialTimeout(s.addr.Network(), s.addr.String(), patience)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

// dial is a connection that speaks the listener's layers.
func (s *setup) dial() net.Conn {
	s.t.Helper()
	c := s.dialRaw()
	if s.o.TLS != nil {
		t := tls.Client(c, s.cert.ClientConfig(false))
		if err := t.Handshake(); err != nil {
			s.t.Fatal(err)
		}
		c = t
	}
	if s.o.WebSocket {
		c = dialWS(s.t, c)
	}
	return c
}

// dial2 dials a server in another process, whose certificate is not known here.
func (s *setup) dial2(w way) net.Conn {
	s.t.Helper()
	c := s.dialRaw()
	if w.layer == "tls" || w.layer == "wss" {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}) //nolint:gosec // both ends are ours
		if err := t.Handshake(); err != nil {
			s.t.Fatal(err)
		}
		c = t
	}
	if s.o.WebSocket {
		c = dialWS(s.t, c)
	}
	return c
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, c net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("read %d of %d bytes: %v", got, n, err)
	}
	return b
}

func wantRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	if got := read(t, c, len(want)); string(got) != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// pattern is n bytes that are not the same anywhere.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func everyWay(t *testing.T, f func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range ways() {
		t.Run(w.name(), func(t *testing.T) {
			t.Parallel() // they mostly wait
			f(t, w)
		})
	}
}

func TestEcho(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := start(t, w, echo())
		c := s.dial()
		for _, n := range []int{1, 10, 1000, 70_000, 3_000_000} {
			want := pattern(n)
			go func() { _, _ = c.Write(want) }()
			if got := read(t, c, n); !bytes.Equal(got, want) {
				t.Fatalf("echo of %d bytes differs", n)
			}
		}
	})
}

// TestConnSize: an idle connection is one of these, and no more than the collector's class for it. What it has carried, and since when, is 24 bytes
// of it: an operator who looks for who floods the node has no other place to look.
func TestConnSize(t *testing.T) {
	if n := reflect.TypeFor[Conn]().Size(); n > 128 {
		t.Errorf("a Conn has %d bytes", n)
	}
}
