package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/cluster/cert"
	"github.com/sluicemq/sluice/internal/clock"
	"github.com/sluicemq/sluice/internal/testx"
)

// Whatever can be wrong has a name, which both ends hear.
func TestRefusals(t *testing.T) {
	c, other := newCerts(t, 1, 2, 3), newCerts(t, 1, 2)
	tlsOf := func(c *certs, id uint32) func(*Options) {
		return func(o *Options) { o.TLS = c.source(t, id) }
	}
	for _, tc := range []struct {
		name     string
		a, b     func(*Options)
		want     Reason // at the node that dials
		there    Reason // at the other, if it can know
		text     string
		fine     bool
		wantedID NodeID
	}{
		{name: "nothing", fine: true},
		{name: "nothing, with TLS", a: tlsOf(c, 1), b: tlsOf(c, 2), fine: true},
		{name: "a node that joins", a: func(o *Options) { o.Cluster = [16]byte{} }, fine: true},
		{name: "token", a: func(o *Options) { o.Token = []byte("another") }, want: ReasonToken, there: ReasonToken, text: "another cluster token"},
		{name: "token, with TLS", a: func(o *Options) { tlsOf(c, 1)(o); o.Token = nil }, b: tlsOf(c, 2), want: ReasonToken, there: ReasonToken},
		{name: "cluster", a: func(o *Options) { o.Cluster[0] = 9 }, want: ReasonCluster, there: ReasonCluster, text: "of cluster"},
		{name: "feature level", a: func(o *Options) { o.Feature, o.FeatureMin = 3, 0 }, b: func(o *Options) { o.Feature, o.FeatureMin = 5, 4 }, want: ReasonFeature, there: ReasonFeature, text: "feature level 4, the peer knows 3"},
		{name: "feature level of the one that is called", a: func(o *Options) { o.FeatureMin = 4 }, want: ReasonFeature},
		{name: "itself", want: ReasonSelf, there: ReasonSelf, wantedID: 1},
		{name: "the same id", b: func(o *Options) { o.ID = 1 }, want: ReasonNodeInUse, there: ReasonNodeInUse, text: "node 1 too"},
		{name: "not admitted", b: func(o *Options) { o.Admit = func(Peer) error { return errors.New("node 1 was removed") } }, want: ReasonNotAdmitted, there: ReasonNotAdmitted, text: "was removed"},
		{name: "not admitted, by name", b: func(o *Options) {
			o.Admit = func(Peer) error { return &Error{Reason: ReasonNodeInUse, Text: "another disk"} }
		}, want: ReasonNodeInUse, there: ReasonNodeInUse, text: "another disk"},
		{name: "not admitted by the one that dials", a: func(o *Options) { o.Admit = func(Peer) error { return errors.New("no") } }, want: ReasonNotAdmitted},
		{name: "another authority", a: tlsOf(other, 1), b: tlsOf(c, 2), want: ReasonCertificate, there: ReasonCertificate},
		{name: "TLS to plain", a: tlsOf(c, 1), want: ReasonPlaintext, there: ReasonMalformed},
		{name: "plain to TLS", b: tlsOf(c, 2), want: ReasonPlaintext, there: ReasonPlaintext, text: "this node speaks TLS"},
		{name: "another node than was called", want: ReasonNode, there: ReasonNode, text: "node 7 was called, this is node 2", wantedID: 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := newNode(t, 1, tc.a, nil), newNode(t, 2, tc.b, nil)
			addr := b.addr
			if tc.wantedID == 1 {
				addr = a.addr
				b = a
			}
			_, err := a.dialAs(t.Context(), tc.wantedID, addr)
			if tc.fine {
				if err != nil {
					t.Fatal(err)
				}
				testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 && len(b.Connected()) == 1 }, "connected")
				return
			}
			if strings.Contains(tc.name, "TLS to") || tc.want == ReasonCertificate && err != nil {
				err = nil // which of the two ends finds out first, and what it is told, is TLS's affair
			} else if ReasonOf(err) != tc.want || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("dialer: %v, want %v %q", err, tc.want, tc.text)
			}
			if tc.there != ReasonNone {
				testx.Eventually(t, wait, func() bool { return b.Stats().Refusals[tc.there] > 0 }, "the other end counts", tc.there, b.Stats().Refusals)
			}
			if b.events.count("up 1") != b.events.count("down 1") && tc.wantedID != 1 {
				testx.Eventually(t, wait, func() bool { return b.events.count("up 1") == b.events.count("down 1") }, "nothing stays")
			}
			if b.logged.has("the token") || a.logged.has("the token") {
				t.Error("the token is in the log")
			}
		})
	}
}

// dialAs is Dial for a node that is expected there.
func (n *node) dialAs(ctx context.Context, to NodeID, addr string) (Peer, error) {
	n.wg.Add(1)
	defer n.wg.Done()
	return n.dialTo(ctx, to, addr)
}

// A certificate of the cluster lets a node in under its own id alone.
func TestCertificateOfAnotherNode(t *testing.T) {
	c := newCerts(t, 1, 2, 3)
	b := newNode(t, 2, func(o *Options) { o.TLS = c.source(t, 2) }, nil)
	a := newNode(t, 1, func(o *Options) { o.TLS = c.source(t, 1) }, nil)
	a.o.ID = 3 // as a program that lies would
	_, err := a.Dial(t.Context(), b.addr)
	if ReasonOf(err) != ReasonNode || !strings.Contains(err.Error(), "the certificate names node 1, the hello node 3") {
		t.Error(err)
	}
	if _, err := New(Options{ID: 9, TLS: c.source(t, 1)}); err == nil {
		t.Error("a node took the certificate of another")
	}
}

func TestVersions(t *testing.T) {
	h := hello{versionMin: 2, versionMax: 7, from: 1}
	if _, err := decodeHello(appendHello(nil, &h)); ReasonOf(err) != ReasonVersion || !strings.Contains(err.Error(), "peer speaks 2 to 7, this node 1 to 1") {
		t.Error(err)
	}
	h = hello{versionMin: 1, versionMax: 9, from: 1}
	for k := range h.windows {
		h.windows[k] = windowLeast
	}
	newer := append(appendHello(nil, &h), "what a newer version appends"...)
	if _, err := decodeHello(newer); err != nil {
		t.Error("a newer version that speaks ours too:", err)
	}
}

func TestPlaintextNeedsItsName(t *testing.T) {
	m, err := New(Options{ID: 1, Token: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Listen("0.0.0.0:0"); ReasonOf(err) != ReasonPlaintext {
		t.Error(err)
	}
	if _, err := New(Options{ID: 1}); err == nil {
		t.Error("a node with neither token nor certificates was made")
	}
	allowed, err := New(Options{ID: 1, Token: []byte("x"), AllowPlaintext: true})
	if err != nil {
		t.Fatal(err)
	}
	defer allowed.Close()
	if _, err := allowed.Listen("0.0.0.0:0"); err != nil {
		t.Error(err)
	}
	far := &farConn{}
	far.Conn, far.peer = net.Pipe()
	defer far.peer.Close()
	m.o.Dial = func(context.Context, string) (net.Conn, error) { return far, nil }
	if _, err := m.Dial(t.Context(), "192.0.2.1:1"); ReasonOf(err) != ReasonPlaintext {
		t.Errorf("dialed in plaintext: %v", err)
	}
}

// farConn says that it comes from another machine.
type farConn struct {
	net.Conn
	peer net.Conn
}

func (*farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

type skewed struct {
	clock.Real
	by time.Duration
}

func (s skewed) Now() time.Time { return s.Real.Now().Add(s.by) }

// A clock that is an hour off is a warning, with figures, and no refusal.
func TestClockSkew(t *testing.T) {
	a := newNode(t, 1, nil, nil)
	b := newNode(t, 2, func(o *Options) { o.Clock = skewed{by: time.Hour} }, nil)
	join(t, a, b)
	for n, want := range map[*node]time.Duration{a: time.Hour, b: -time.Hour} {
		testx.Eventually(t, wait, func() bool { return n.logged.has("the clock of a node differs") }, "warned")
		s := n.Stats()
		for _, off := range s.ClockOff {
			if (off - want).Abs() > time.Minute {
				t.Errorf("off by %v, want %v", off, want)
			}
		}
		if s.ClockWarnings == 0 || len(s.ClockOff) != 1 {
			t.Errorf("%+v", s)
		}
	}
}

// New certificates are taken without a restart: connections whose peer the new authority does not know end, and come back once it does.
func TestReloadCertificates(t *testing.T) {
	c := newCerts(t, 1, 2)
	a := newNode(t, 1, func(o *Options) { o.TLS = c.source(t, 1) }, nil)
	b := newNode(t, 2, func(o *Options) { o.TLS = c.source(t, 2) }, nil)
	join(t, a, b)
	if err := a.ReloadCertificates(); err != nil {
		t.Fatal(err)
	}
	if a.events.count("down 2") != 0 {
		t.Fatal("a reload of the same files ended a connection")
	}
	next := newCerts(t, 1, 2)
	take := func(id uint32) {
		t.Helper()
		from, to := next.files(id), c.files(id)
		for _, p := range [][2]string{{from.Cert, to.Cert}, {from.Key, to.Key}, {from.CA, to.CA}} {
			data, err := os.ReadFile(p[0])
			if err == nil {
				err = os.WriteFile(p[1], data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	take(1)
	if err := a.ReloadCertificates(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return a.events.count("down 2") >= 1 && len(a.Connected()) == 0 }, "ended")
	a.events.mu.Lock()
	err := a.events.errs[1]
	a.events.mu.Unlock()
	if ReasonOf(err) != ReasonCertificate {
		t.Errorf("ended with %v", err)
	}
	take(2)
	if err := b.ReloadCertificates(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, wait, func() bool { return len(a.Connected()) == 1 && len(b.Connected()) == 1 }, "back")
	if err := os.WriteFile(c.files(1).Key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.ReloadCertificates(); err == nil || !strings.Contains(fmt.Sprint(err), "key") {
		t.Errorf("a broken file: %v", err)
	}
	if len(a.Connected()) != 1 {
		t.Error("a broken file ended a connection")
	}
}

// A node whose certificate is revoked is cut off when the list is read, and does not come back.
func TestRevokedNode(t *testing.T) {
	c := newCerts(t, 1, 2)
	list := filepath.Join(c.dir, cert.CRLFile)
	revoke := func(files ...string) {
		t.Helper()
		if err := cert.Revoke(list, filepath.Join(c.dir, cert.CAFile), filepath.Join(c.dir, cert.CAKeyFile), files, time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	revoke()
	f := c.files(1)
	f.CRL = []string{list}
	src, err := cert.NewSource(f, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := newNode(t, 1, func(o *Options) { o.TLS = src }, nil)
	b := newNode(t, 2, func(o *Options) { o.TLS = c.source(t, 2) }, nil)
	join(t, a, b)
	if changed, err := a.RefreshRevocations(); changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	revoke(c.files(2).Cert)
	if changed, err := a.RefreshRevocations(); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	testx.Eventually(t, wait, func() bool { return a.events.count("down 2") >= 1 && len(a.Connected()) == 0 }, "ended")
	refused := func() (n uint64) {
		return a.Stats().Refusals[ReasonCertificate] + b.Stats().Refusals[ReasonCertificate]
	}
	testx.Eventually(t, wait, func() bool { return refused() > 0 }, "refused when it comes again")
	if len(a.Connected()) != 0 || b.events.count("down 1") == 0 {
		t.Error("a revoked node is connected")
	}
}
