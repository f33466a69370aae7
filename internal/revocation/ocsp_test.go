package revocation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// What a responder answers counts if the authority, or whom it has named for it, has signed it, and for as long as it says.
func TestAsk(t *testing.T) {
	a := newAuthority(t, "a", nil)
	leaf := a.leaf(5)
	delegate := func(usage ...x509.ExtKeyUsage) *authority {
		d := &authority{t: t, key: newKey(t)}
		d.cert = sign(t, &x509.Certificate{SerialNumber: big.NewInt(8), Subject: pkix.Name{CommonName: "d"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			ExtKeyUsage: usage}, a, &d.key.PublicKey)
		return d
	}
	made := func(by *authority, r ocsp.Response) []byte {
		t.Helper()
		r.SerialNumber = leaf.SerialNumber
		if by != a {
			r.Certificate = by.cert
		}
		raw, err := ocsp.CreateResponse(a.cert, by.cert, r, by.key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := ocsp.Response{Status: ocsp.Good, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
	endless, future := good, good
	endless.NextUpdate = time.Time{}
	future.ThisUpdate = now.Add(10 * time.Minute)
	for name, c := range map[string]struct {
		status int
		body   []byte
		want   string // of the error; empty: none
		until  time.Time
	}{
		"good":                   {200, made(a, good), "", now.Add(time.Hour)},
		"no end":                 {200, made(a, endless), "", endless.ThisUpdate.Add(answerEndless)},
		"of a delegate":          {200, made(delegate(x509.ExtKeyUsageOCSPSigning), good), "", now.Add(time.Hour)},
		"of another certificate": {200, made(delegate(x509.ExtKeyUsageClientAuth), good), "may not answer for the authority", time.Time{}},
		"of a stranger":          {200, made(newAuthority(t, "a", nil), good), "bad OCSP signature", time.Time{}},
		"not yet":                {200, made(a, future), "not now", time.Time{}},
		"nothing":                {200, nil, "asn1", time.Time{}},
		"no answer":              {200, []byte("<html>"), "asn1", time.Time{}},
		"large":                  {200, bytes.Repeat([]byte("x"), answerBytesMax+1), "more than", time.Time{}},
		"busy":                   {200, ocsp.TryLaterErrorResponse, "try later", time.Time{}},
		"503":                    {503, nil, "answers 503", time.Time{}},
		"revoked":                {200, made(a, ocsp.Response{Status: ocsp.Revoked, ThisUpdate: now, NextUpdate: now.Add(time.Hour), RevokedAt: now}), "is revoked", time.Time{}},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write(c.body)
		}))
		got, err := Ask(t.Context(), s.Client(), s.URL, leaf, a.cert, now)
		s.Close()
		switch {
		case c.want == "" && (err != nil || !got.Until.Equal(c.until) || !bytes.Equal(got.Raw, c.body)):
			t.Errorf("%s: until %v, %v", name, got.Until, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case name == "revoked" && !errors.Is(err, ErrRevoked):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResponderAndIssuer(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "a", nil)
	leaf := a.leaf(1)
	if Issuer(leaf, Certificates(append(b.pem(), a.pem()...))) == nil || Issuer(leaf, []*x509.Certificate{b.cert, leaf}) != nil {
		t.Error("the issuer is not told from one of the same name")
	}
	for _, c := range []struct {
		urls []string
		want string
	}{{nil, ""}, {[]string{"ldap://x", "http://x/o"}, "http://x/o"}, {[]string{"http:///", "::"}, ""}} {
		if got := Responder(&x509.Certificate{OCSPServer: c.urls}); got != c.want {
			t.Errorf("%v: %q", c.urls, got)
		}
	}
}
