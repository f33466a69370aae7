package identity

import (
	"crypto"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/server"
)

// responder is a stub of an authority's, which answers with what is set.
type responder struct {
	url    string
	asked  atomic.Int64
	answer atomic.Pointer[ocsp.Response] // nil: it answers 500
}

func startResponder(t *testing.T, ca *testx.Cert) *responder {
	t.Helper()
	r := &responder{}
	by := ca.Authority()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		q, err := ocsp.ParseRequest(body)
		if err != nil || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/ocsp-request" {
			t.Errorf("asked %s %v: %v", req.Method, req.Header, err)
			return
		}
		a := r.answer.Load()
		if a == nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		tmpl := *a
		tmpl.SerialNumber = q.SerialNumber
		raw, err := ocsp.CreateResponse(by.Leaf, by.Leaf, tmpl, by.PrivateKey.(crypto.Signer))
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(raw)
	}))
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

func (r *responder) says(status int, until time.Time) {
	r.answer.Store(&ocsp.Response{Status: status, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until, RevokedAt: time.Now().Add(-time.Hour)})
}

// stapled is the answer that a client gets in the handshake; nil: none.
func (n *node) stapled(ca *testx.Cert, version uint16) *ocsp.Response {
	n.t.Helper()
	cfg := ca.ClientConfig(false)
	cfg.MinVersion, cfg.MaxVersion = version, version
	c, err := tls.Dial("tcp", n.at["mqtt.tls"], cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	raw := c.OCSPResponse()
	if len(raw) == 0 {
		return nil
	}
	a, err := ocsp.ParseResponseForCert(raw, c.ConnectionState().PeerCertificates[0], ca.Authority().Leaf)
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// Clients get the responder's answer once there is one, by both versions of TLS, also after a reload while the responder is gone.
func TestStaple(t *testing.T) {
	ca := testx.TempCert(t)
	r := startResponder(t, ca)
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	r.says(ocsp.Good, until)
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ChainFile(t), "tls.key="+ca.ServerKeyFile, "tls.ocsp_stapling=true", "tls.ocsp_responder="+r.url)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		testx.Eventually(t, patience, func() bool { return n.stapled(ca, version) != nil }, "stapled")
		if a := n.stapled(ca, version); a.Status != ocsp.Good || !a.NextUpdate.Equal(until) {
			t.Errorf("stapled %+v", a)
		}
	}
	if v, ok := n.metric("sluice_tls_staple_expiry_seconds"); !ok || v != float64(until.Unix()) {
		t.Errorf("the metric says %v", v)
	}
	if asked := r.asked.Load(); asked != 1 {
		t.Errorf("asked %d times for an answer that counts an hour", asked)
	}
	r.answer.Store(nil)
	n.reload()
	if n.stapled(ca, tls.VersionTLS13) == nil {
		t.Error("a reload took the answer away")
	}
	testx.Eventually(t, patience, func() bool {
		v, _ := n.metric("sluice_tls_staple_failures_total")
		return v > 0 && n.log.has("the last answer for as long as it counts")
	}, "the failure is counted and said")
	if n.stapled(ca, tls.VersionTLS13) == nil {
		t.Error("a failure took the answer away")
	}
	n.reload("tls.ocsp_stapling=false")
	if n.stapled(ca, tls.VersionTLS13) != nil {
		t.Error("stapled, and it is off")
	}
}

// An answer that is over, revoked or of another key is not shown, and the connection comes about without.
func TestStapleRefused(t *testing.T) {
	for name, c := range map[string]struct {
		say  func(*responder)
		line string
	}{
		"revoked": {func(r *responder) { r.says(ocsp.Revoked, time.Now().Add(time.Hour)) }, "has revoked the server's certificate"},
		"over":    {func(r *responder) { r.says(ocsp.Good, time.Now().Add(-time.Minute)) }, "which is not now"},
		"unknown": {func(r *responder) { r.says(ocsp.Unknown, time.Now().Add(time.Hour)) }, "does not know the certificate"},
		"gone":    {func(*responder) {}, "answers 500"},
	} {
		ca := testx.TempCert(t)
		r := startResponder(t, ca)
		c.say(r)
		n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ChainFile(t), "tls.key="+ca.ServerKeyFile, "tls.ocsp_stapling=true", "tls.ocsp_responder="+r.url)
		testx.Eventually(t, patience, func() bool { return n.log.has(c.line) }, name)
		if n.stapled(ca, tls.VersionTLS13) != nil {
			t.Errorf("%s: stapled", name)
		}
	}
	ca, other := testx.TempCert(t), testx.TempCert(t)
	r := startResponder(t, other)
	r.says(ocsp.Good, time.Now().Add(time.Hour))
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ChainFile(t), "tls.key="+ca.ServerKeyFile, "tls.ocsp_stapling=true", "tls.ocsp_responder="+r.url)
	testx.Eventually(t, patience, func() bool { return n.log.has("bad OCSP signature") })
	if n.stapled(ca, tls.VersionTLS13) != nil {
		t.Error("the answer of another authority is stapled")
	}
}

// What cannot be stapled is said at the start.
func TestStapleNeeds(t *testing.T) {
	ca := testx.TempCert(t)
	for want, set := range map[string][]string{
		"names no responder": {"tls.cert=" + ca.ChainFile(t)},
		"append it":          {"tls.cert=" + ca.ServerCertFile, "tls.ocsp_responder=http://127.0.0.1:1"},
		"tls.ocsp_responder: want http://HOST/…": {"tls.cert=" + ca.ChainFile(t), "tls.ocsp_responder=ftp://x"},
	} {
		loaded, err := config.Load(config.LoadOptions{Set: append(set, "tls.key="+ca.ServerKeyFile, "tls.ocsp_stapling=true", "node.data="+t.TempDir())})
		if err == nil {
			_, err = server.New(loaded.Config, server.Options{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The metric has each certificate of the files, and the log a line of one that ends within the time.
func TestCertificateExpiry(t *testing.T) {
	ca := testx.TempCert(t)
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ChainFile(t), "tls.key="+ca.ServerKeyFile, "tls.client_ca="+ca.CAFile, "tls.expiry_warning=0s")
	leaf, authority := float64(ca.Server.Leaf.NotAfter.Unix()), float64(ca.Authority().Leaf.NotAfter.Unix())
	for _, c := range []struct {
		key, subject string
		want         float64
	}{{"tls.cert", "CN=localhost", leaf}, {"tls.cert", "CN=sluice test authority", authority}, {"tls.client_ca", "CN=sluice test authority", authority}} {
		if v, ok := n.metric("sluice_tls_certificate_expiry_seconds", `key="`+c.key+`"`, c.subject); !ok || v != c.want {
			t.Errorf("%s %s: %v, want %v", c.key, c.subject, v, c.want)
		}
	}
	if n.log.has("a certificate ends soon") {
		t.Error("warned, and told not to")
	}
	n.reload("tls.expiry_warning=2d") // they count for a day
	testx.Eventually(t, patience, func() bool { return n.log.has("a certificate ends soon") && n.log.has("of=tls.client_ca") }, "warned")
	if strings.TrimSpace(n.get("/readyz")) != "ready" {
		t.Error("a certificate that ends soon makes the node not ready")
	}
}
