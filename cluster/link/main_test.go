package link

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/cluster/cert"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait = 20 * time.Second

// events are what a mesh has told of its connections.
type events struct {
	mu   sync.Mutex
	list []string
	errs []error
}

func (e *events) add(s string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, s)
	e.errs = append(e.errs, err)
}

func (e *events) count(s string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, x := range e.list {
		if x == s {
			n++
		}
	}
	return n
}

func (e *events) last() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == 0 {
		return "", nil
	}
	return e.list[len(e.list)-1], e.errs[len(e.errs)-1]
}

// node is a mesh under test, with its address and what it said.
type node struct {
	*Mesh
	addr   string
	events *events
	logged *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.b.Bytes(), []byte(text))
}

var testCluster = [16]byte{1, 2, 3}

// newNode makes a mesh that listens. with may change its options, handle its kinds.
func newNode(t testing.TB, id NodeID, with func(*Options), handle func(*Mesh)) *node {
	t.Helper()
	n := &node{events: &events{}, logged: &safeBuffer{}}
	o := Options{ID: id, Cluster: testCluster, Token: []byte("the token of the test"), Feature: 1, FeatureMin: 1, BackoffMin: 5 * time.Millisecond, BackoffMax: 50 * time.Millisecond,
		DeadAfter: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(n.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	o.Events = Events{
		Up:   func(p Peer) { n.events.add(fmt.Sprintf("up %d", p.ID), nil) },
		Down: func(id NodeID, err error) { n.events.add(fmt.Sprintf("down %d", id), err) },
	}
	if with != nil {
		with(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Mesh = m
	if handle != nil {
		handle(m)
	}
	a, err := m.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = a.String()
	t.Cleanup(m.Close)
	return n
}

// join tells each node of the others and waits until all are connected.
func join(t testing.TB, nodes ...*node) {
	t.Helper()
	peers := make(map[NodeID]string)
	for _, n := range nodes {
		peers[n.o.ID] = n.addr
	}
	for _, n := range nodes {
		if err := n.SetPeers(peers); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		testx.Eventually(t, wait, func() bool { return len(n.Connected()) == len(nodes)-1 }, "connected")
	}
}

// certs are a CA's and its nodes'.
type certs struct{ dir string }

func newCerts(t testing.TB, ids ...uint32) *certs {
	t.Helper()
	c := &certs{t.TempDir()}
	if err := cert.MakeCA(c.dir, "test", cert.CAValid, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		err := cert.MakeNode(c.dir, filepath.Join(c.dir, cert.CAFile), filepath.Join(c.dir, cert.CAKeyFile), cert.NodeOptions{ID: id, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *certs) files(id uint32) cert.Files {
	crt, key := cert.NodeFiles(id)
	return cert.Files{Cert: filepath.Join(c.dir, crt), Key: filepath.Join(c.dir, key), CA: filepath.Join(c.dir, cert.CAFile)}
}

func (c *certs) source(t testing.TB, id uint32) *cert.Source {
	t.Helper()
	s, err := cert.NewSource(c.files(id), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// collector is a Receiver that keeps copies of what it gets.
type collector struct {
	mu       sync.Mutex
	got      [][]byte
	hold     bool // do not release
	held     []Message
	closed   bool
	reason   error
	rooms    int
	closings int
}

func (r *collector) Receive(_ *Channel, m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, bytes.Clone(m.Bytes()))
	if r.hold {
		r.held = append(r.held, m)
		return
	}
	m.Release()
}

func (r *collector) Closed(_ *Channel, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closings++
	r.closed, r.reason = true, reason
}

func (r *collector) Room(*Channel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rooms++
}

func (r *collector) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func (r *collector) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// release lets go of what is held, and holds no more.
func (r *collector) release() {
	r.mu.Lock()
	held := r.held
	r.hold, r.held = false, nil
	r.mu.Unlock()
	for _, m := range held {
		m.Release()
	}
}

// collect takes all channels of a kind with one collector.
func collect(r *collector, kinds ...Kind) func(*Mesh) {
	return func(m *Mesh) {
		for _, k := range kinds {
			m.Handle(k, func(*Channel, []byte) (Receiver, error) { return r, nil })
		}
	}
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}
