package auth

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

// bench is a provider over files of its own, with hashes counted and time by hand.
type bench struct {
	*Provider
	o      Options
	hashed atomic.Int64
	now    time.Time
}

func newBench(t *testing.T, users map[string]string) *bench {
	t.Helper()
	b := &bench{now: time.Unix(1_800_000_000, 0)}
	b.o = Options{Anonymous: "off", PasswordFile: filepath.Join(t.TempDir(), "users"), CacheTTL: time.Minute, Concurrency: 1,
		Now: func() time.Time { return b.now }}
	if err := os.WriteFile(b.o.PasswordFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for user, password := range users {
		b.set(t, user, password)
	}
	var err error
	if b.Provider, err = New(b.o); err != nil {
		t.Fatal(err)
	}
	b.hashes = func(h hashed, password []byte) bool { b.hashed.Add(1); return h.verify(password) }
	return b
}

func (b *bench) set(t *testing.T, user, password string) {
	t.Helper()
	if _, err := SetUser(b.o.PasswordFile, user, mustHash(t, password)); err != nil {
		t.Fatal(err)
	}
}

func creds(user, password string) broker.Credentials {
	return broker.Credentials{ClientID: "c", Username: user, HasUsername: true, Password: []byte(password)}
}

func TestPassword(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	id, err := b.Authenticate(t.Context(), creds("bob", "right"))
	if err != nil || id.User != "bob" || id.Source != "password" || id.ClientID != "c" || id.Generation != 1 {
		t.Errorf("got %+v, %v", id, err)
	}
	for _, c := range []broker.Credentials{creds("bob", "wrong"), creds("bob", ""), creds("eve", "right"), creds("", "right")} {
		if id, err := b.Authenticate(t.Context(), c); !errors.Is(err, broker.ErrBadCredentials) || id.User != "" {
			t.Errorf("%s/%s: got %+v, %v", c.Username, c.Password, id, err)
		}
	}
	if _, err := b.Authenticate(t.Context(), broker.Credentials{}); !errors.Is(err, broker.ErrNotAuthorized) {
		t.Errorf("no credentials: got %v", err)
	}
}

// A user that is not there costs a hash of the same price as one that is, whatever the answer, and is remembered alike.
func TestUnknownUserCostsTheSame(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	var prices []Params
	b.hashes = func(h hashed, password []byte) bool { prices = append(prices, h.params); return h.verify(password) }
	for _, user := range []string{"bob", "eve", "bob", "eve"} {
		if _, done, _ := b.Quick(creds(user, "wrong")); done != (len(prices) == 2) {
			t.Errorf("%s: answered at once: %v, after %d hashes", user, done, len(prices))
		}
		if _, err := b.Authenticate(t.Context(), creds(user, "wrong")); !errors.Is(err, broker.ErrBadCredentials) {
			t.Errorf("%s: %v", user, err)
		}
	}
	if len(prices) != 2 || prices[0] != prices[1] {
		t.Errorf("hashes made: %v, want two of one price", prices)
	}
}

func TestReconnectStormCostsOneHash(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	for range 100 {
		if _, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.hashed.Load(); n != 1 {
		t.Errorf("%d hashes, want 1", n)
	}
	b.now = b.now.Add(time.Minute)
	if _, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil || b.hashed.Load() != 2 {
		t.Errorf("after the time to live: %d hashes, want 2; %v", b.hashed.Load(), err)
	}
}

func TestCacheOff(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	b.o.CacheTTL = 0
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.hashed.Load(); n != 3 {
		t.Errorf("%d hashes, want 3", n)
	}
}

func TestReloadForgetsAndRechecks(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "one", "eve": "two"})
	bob, err := b.Authenticate(t.Context(), creds("bob", "one"))
	if err != nil {
		t.Fatal(err)
	}
	eve, err := b.Authenticate(t.Context(), creds("eve", "two"))
	if err != nil {
		t.Fatal(err)
	}
	old := b.rules.Load()
	b.set(t, "bob", "three")
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if b.Generation() != 2 {
		t.Errorf("generation %d, want 2", b.Generation())
	}
	if len(old.verdicts.mu.right) != 0 || old.verdicts.mu.key != [32]byte{} {
		t.Error("the old cache was not zeroized")
	}
	if _, err := b.Authenticate(t.Context(), creds("bob", "one")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if b.Recheck(&bob, nil) == nil {
		t.Error("bob may stay though the password was changed")
	}
	if err := b.Recheck(&eve, nil); err != nil {
		t.Errorf("eve has to go: %v", err)
	}
	bob, err = b.Authenticate(t.Context(), creds("bob", "three"))
	if err != nil || b.Reload(b.o) != nil || b.Recheck(&bob, nil) != nil {
		t.Errorf("bob with the new password may not stay over a reload that changes nothing: %v", err)
	}
	if err := RemoveUser(b.o.PasswordFile, "eve"); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(b.o); err != nil || b.Recheck(&eve, nil) == nil {
		t.Errorf("eve may stay though gone: %v", err)
	}
}

func TestFailedReloadChangesNothing(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	o := b.o
	o.ACLFile = filepath.Join(t.TempDir(), "absent")
	if err := b.Reload(o); err == nil {
		t.Fatal("a rule file that is not there was taken")
	}
	if _, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil || b.Generation() != 1 {
		t.Errorf("generation %d, %v", b.Generation(), err)
	}
}

// A reload while a hash is made: the answer is by the new file.
func TestReloadDuringHash(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "one"})
	once := false
	b.hashes = func(h hashed, password []byte) bool {
		if !once {
			once = true
			b.set(t, "bob", "two")
			if err := b.Reload(b.o); err != nil {
				t.Error(err)
			}
		}
		return h.verify(password)
	}
	if id, err := b.Authenticate(t.Context(), creds("bob", "one")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("the old password came in: %+v, %v", id, err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right"})
	b.queue = 1
	begun, goOn := make(chan struct{}, 3), make(chan struct{})
	b.hashes = func(hashed, []byte) bool { begun <- struct{}{}; <-goOn; return true }
	answers := make(chan error, 2)
	come := func(password string) {
		go func() { _, err := b.Authenticate(context.Background(), creds("bob", password)); answers <- err }()
	}
	come("1")
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Authenticate(ctx, creds("bob", "2")); !errors.Is(err, context.Canceled) {
		t.Errorf("one that gave up got %v", err)
	}
	come("3")
	testx.Eventually(t, 5*time.Second, func() bool { return b.waiting.Load() == 2 })
	if _, err := b.Authenticate(t.Context(), creds("bob", "4")); !errors.Is(err, broker.ErrAuthBusy) {
		t.Errorf("one too many got %v, want busy", err)
	}
	close(goOn)
	for range 2 {
		if err := <-answers; err != nil {
			t.Errorf("one that waited got %v", err)
		}
	}
	if n := b.waiting.Load(); n != 0 {
		t.Errorf("%d are counted as waiting", n)
	}
}

func TestAnonymous(t *testing.T) {
	lo, far := netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("192.0.2.1:9")
	mapped := netip.MustParseAddrPort("[::ffff:127.0.0.1]:9")
	for _, tt := range []struct {
		mode   string
		remote netip.AddrPort
		want   bool
	}{
		{"off", lo, false}, {"off", netip.AddrPort{}, false}, {"loopback", lo, true}, {"loopback", mapped, true},
		{"loopback", far, false}, {"loopback", netip.AddrPort{}, true}, {"everywhere", far, true},
	} {
		p, err := New(Options{Anonymous: tt.mode})
		if err != nil {
			t.Fatal(err)
		}
		c := creds("admin", "unverified")
		c.Remote = tt.remote
		id, done, err := p.Quick(c)
		if !done || (err == nil) != tt.want || id.User != "" {
			t.Errorf("%s from %v: %+v, %v, %v", tt.mode, tt.remote, id, done, err)
		}
		if (p.Recheck(&id, nil) == nil) != tt.want {
			t.Errorf("%s from %v: Recheck differs", tt.mode, tt.remote)
		}
	}
}

func TestCertificateFields(t *testing.T) {
	u, err := url.Parse("spiffe://x/y")
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "bob", Organization: []string{"Acme"}}, DNSNames: []string{"d.example"},
		EmailAddresses: []string{"bob@example"}, URIs: []*url.URL{u}}
	for field, want := range map[string]string{"cn": "bob", "subject": "CN=bob,O=Acme", "san_dns": "d.example",
		"san_email": "bob@example", "san_uri": "spiffe://x/y"} {
		p, err := New(Options{Anonymous: "off", CertificateUser: field})
		if err != nil {
			t.Fatal(err)
		}
		c := broker.Credentials{Username: "eve", HasUsername: true, PeerCertificates: []*x509.Certificate{cert}}
		id, done, err := p.Quick(c)
		if !done || err != nil || id.User != want || id.Source != "certificate" {
			t.Errorf("%s: %+v, %v, %v", field, id, done, err)
		}
		c.PeerCertificates = []*x509.Certificate{{}}
		if id, _, err := p.Quick(c); field != "subject" && !errors.Is(err, broker.ErrNotAuthorized) {
			t.Errorf("%s of an empty certificate: %+v, %v", field, id, err)
		}
	}
}

func TestCertificateRevokedAndOtherCA(t *testing.T) {
	one, two := testx.TempCert(t), testx.TempCert(t)
	pair, _, _ := one.IssueClient(t, "bob")
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	revoked := false
	o := Options{Anonymous: "off", CertificateUser: "cn", ClientCAs: one.Pool,
		Revoked: func(*x509.Certificate) bool { return revoked }}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	certs := []*x509.Certificate{leaf}
	id, _, err := p.Quick(broker.Credentials{PeerCertificates: certs})
	if err != nil || id.User != "bob" || p.Recheck(&id, certs) != nil {
		t.Fatalf("%+v, %v", id, err)
	}
	revoked = true
	if _, _, err := p.Quick(broker.Credentials{PeerCertificates: certs}); !errors.Is(err, broker.ErrNotAuthorized) {
		t.Errorf("revoked certificate came in: %v", err)
	}
	if p.Recheck(&id, certs) == nil {
		t.Error("revoked certificate may stay")
	}
	other := id // whoever has vouched for it, it has shown the certificate
	other.Source, other.User = sourceAnonymous, ""
	if err := p.Recheck(&other, certs); !errors.Is(err, errRevoked) {
		t.Errorf("revoked certificate may stay: %v", err)
	}
	revoked = false
	if err := p.Reload(o); err != nil || p.Recheck(&id, certs) != nil {
		t.Errorf("same authorities: has to go, %v", err)
	}
	o.ClientCAs = two.Pool
	if err := p.Reload(o); err != nil || p.Recheck(&id, certs) == nil {
		t.Errorf("a certificate of an authority that is gone may stay, %v", err)
	}
}

func TestVerdictsAreBounded(t *testing.T) {
	v, err := newVerdicts(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	v.size = 8
	now := time.Unix(0, 0)
	keep := v.digest("bob", 1, []byte("right"))
	v.put(keep, true, now)
	for i := range 100 {
		v.put(v.digest("eve", 1, []byte{byte(i)}), false, now)
	}
	if len(v.mu.wrong) > 8 {
		t.Errorf("%d entries, want at most 8", len(v.mu.wrong))
	}
	if ok, known := v.get(keep, now); !ok || !known {
		t.Error("guessing pushed out a right pair")
	}
	if v.digest("ab", 1, []byte("c")) == v.digest("a", 1, []byte("bc")) {
		t.Error("two pairs have one digest")
	}
}

func TestAuthorizeWithoutFile(t *testing.T) {
	p, err := New(Options{Anonymous: "everywhere"})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Authorize(&broker.Identity{}, broker.ActionSubscribe, []byte("#")) {
		t.Error("without a rule file something is denied")
	}
}
