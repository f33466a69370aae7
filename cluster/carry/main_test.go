package carry

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/engine"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// reign is who leads, for all nodes of a test; 0: nobody.
type reign struct{ who atomic.Uint32 }

// leaderOf is what one node knows of it.
type leaderOf struct {
	*reign
	self link.NodeID
}

func (l leaderOf) Leader() (node link.NodeID, here, known bool) {
	n := link.NodeID(l.who.Load())
	return n, n == l.self, n != 0
}

// talk is a protocol that begins with a version, one byte, and is what its functions make of it.
type talk struct {
	open  func(c *engine.Conn)
	data  func(c *engine.Conn, b []byte) int
	drain func(c *engine.Conn)
	close func(c *engine.Conn, err error)

	opened, closed atomic.Int64
}

func (p *talk) OnOpen(c *engine.Conn) {
	p.opened.Add(1)
	c.SetState(p)
	if p.open != nil {
		p.open(c)
	}
}

func (p *talk) OnData(c *engine.Conn, b []byte) int {
	if p.data == nil {
		c.Write(b)
		return len(b)
	}
	return p.data(c, b)
}

func (p *talk) OnDrain(c *engine.Conn) {
	if p.drain != nil {
		p.drain(c)
	}
}

func (p *talk) OnClose(c *engine.Conn, err error) {
	p.closed.Add(1)
	if p.close != nil {
		p.close(c, err)
	}
}

func (*talk) Version(b []byte) (byte, bool) {
	if len(b) < 2 {
		return 0, false
	}
	return b[1], true
}

func (*talk) Unavailable(c *engine.Conn, version byte) {
	c.Write([]byte{'N', 'O', version})
	c.CloseAfterFlush(nil, time.Second)
}

func (*talk) Elsewhere(c *engine.Conn, version byte, at string) bool {
	if version != '5' {
		return false
	}
	c.Write([]byte("AT " + at))
	c.CloseAfterFlush(nil, time.Second)
	return true
}

// node is an engine with a Door, and its link.
type node struct {
	t    testing.TB
	id   link.NodeID
	e    *engine.Engine
	m    *link.Mesh
	d    *Door
	p    *talk
	addr map[string]net.Addr
	link string
	cert *testx.Cert
}

// start runs a node of a cluster, whose listeners are tcp, tls and unix.
func start(t testing.TB, id link.NodeID, r *reign, p *talk, with ...func(*Options)) *node {
	t.Helper()
	n := &node{t: t, id: id, p: p, addr: make(map[string]net.Addr), cert: testx.TempCert(t)}
	var err error
	quiet := slog.New(slog.DiscardHandler)
	if n.e, err = engine.New(engine.Options{Loops: 2, Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	if n.m, err = link.New(link.Options{ID: id, Token: []byte("a token"), DeadAfter: 5 * time.Second, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	secure := n.cert.ServerConfig()
	secure.ClientAuth = tls.RequestClientCert
	lists := []engine.ListenerOptions{
		{Name: "tcp", Address: "127.0.0.1:0", FirstPacketTimeout: time.Minute},
		{Name: "tls", Address: "127.0.0.1:0", TLS: secure},
		{Name: "unix", Network: "unix", Address: filepath.Join(t.TempDir(), "s")},
	}
	o := Options{Mesh: n.m, Engine: n.e, Leader: leaderOf{r, id}, Logger: quiet}
	for _, f := range with {
		f(&o)
	}
	n.d = New(o)
	n.d.Serve(p, lists)
	for _, lo := range lists {
		lo.Handler = n.d
		a, err := n.e.Listen(lo)
		if err != nil {
			t.Fatal(err)
		}
		n.addr[lo.Name] = a
	}
	a, err := n.m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.link = a.String()
	n.e.Start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	n.d.Shutdown()
	n.m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.e.Close(ctx); err != nil {
		n.t.Error(err)
	}
	if st := n.d.Stats(); st.Carried != 0 || st.Brought != 0 || st.HeldBytes != 0 {
		n.t.Errorf("node %d at its end: %+v", n.id, st)
	}
	if o, c := n.p.opened.Load(), n.p.closed.Load(); o != c {
		n.t.Errorf("node %d: %d opened, %d closed", n.id, o, c)
	}
}

// join connects all nodes.
func join(t testing.TB, nodes ...*node) {
	t.Helper()
	peers := make(map[link.NodeID]string)
	for _, n := range nodes {
		peers[n.id] = n.link
	}
	for _, n := range nodes {
		if err := n.m.SetPeers(peers); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		testx.Eventually(t, patience, func() bool { return len(n.m.Connected()) == len(nodes)-1 }, "connected")
	}
}

// two is a node that leads, and one that carries to it.
func two(t testing.TB, p *talk, with ...func(*Options)) (leads, carries *node, r *reign) {
	t.Helper()
	r = &reign{}
	r.who.Store(1)
	leads, carries = start(t, 1, r, p, with...), start(t, 2, r, &talk{}, with...)
	join(t, leads, carries)
	return leads, carries, r
}

// dial is a client of a node.
func (n *node) dial() net.Conn { return n.dialAt("tcp") }

func (n *node) dialAt(listener string) net.Conn {
	n.t.Helper()
	a := n.addr[listener]
	c, err := net.DialTimeout(a.Network(), a.String(), patience)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b[:n], err, want)
	}
}

// wantEnd wants the rest of what comes, and the end.
func wantEnd(t testing.TB, c net.Conn, want string) {
	t.Helper()
	if b, err := io.ReadAll(c); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q and the end", b, err, want)
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

// kept collects bytes.
type kept struct {
	mu sync.Mutex
	b  []byte
}

func (k *kept) add(b []byte) { k.mu.Lock(); k.b = append(k.b, b...); k.mu.Unlock() }
