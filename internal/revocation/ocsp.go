package revocation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Bounds of an answer.
const (
	answerBytesMax = 64 << 10
	answerSkew     = 5 * time.Minute // how far the responder's clock may be ahead
	answerEndless  = time.Hour       // how long an answer counts that says of no next one
)

// Answer is what a responder says about a certificate that is good: what a server may staple.
type Answer struct {
	Raw          []byte
	Since, Until time.Time
}

// Ask asks an OCSP responder (RFC 6960) about a certificate of issuer, and checks the answer at wall time now. One that says anything but good is an error, ErrRevoked
// among them. The responder is a URL; ctx bounds the question.
func Ask(ctx context.Context, client *http.Client, responder string, cert, issuer *x509.Certificate, now time.Time) (a Answer, err error) {
	question, err := ocsp.CreateRequest(cert, issuer, nil)
	if err != nil {
		return a, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, responder, bytes.NewReader(question))
	if err != nil {
		return a, err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	r.Header.Set("Accept", "application/ocsp-response")
	resp, err := client.Do(r)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("the responder answers %d", resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax+1))
	if err != nil {
		return a, err
	}
	if len(raw) > answerBytesMax {
		return a, fmt.Errorf("the responder answers with more than %d bytes", answerBytesMax)
	}
	return checkAnswer(raw, cert, issuer, now)
}

func checkAnswer(raw []byte, cert, issuer *x509.Certificate, now time.Time) (a Answer, err error) {
	r, err := ocsp.ParseResponseForCert(raw, cert, issuer)
	if err != nil {
		return a, err
	}
	// Whom the authority lets answer in its place has to be named as such: it has signed others too.
	if d := r.Certificate; d != nil && !d.Equal(issuer) && (!slices.Contains(d.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || now.After(d.NotAfter) || now.Before(d.NotBefore)) {
		return a, errors.New("the answer is signed by somebody who may not answer for the authority")
	}
	switch r.Status {
	case ocsp.Good:
	case ocsp.Revoked:
		return a, ErrRevoked
	default:
		return a, errors.New("the responder does not know the certificate")
	}
	a = Answer{raw, r.ThisUpdate, r.NextUpdate}
	if a.Until.IsZero() {
		a.Until = r.ThisUpdate.Add(answerEndless) // not from now on: an old answer could be told for ever
	}
	if r.ThisUpdate.After(now.Add(answerSkew)) || !now.Before(a.Until) {
		return a, fmt.Errorf("the answer counts from %s to %s, which is not now", r.ThisUpdate.UTC().Format(time.RFC3339), a.Until.UTC().Format(time.RFC3339))
	}
	return a, nil
}

// Responder is whom to ask about a certificate, as it says itself; empty: nobody.
func Responder(cert *x509.Certificate) string {
	for _, s := range cert.OCSPServer {
		if u, err := url.Parse(s); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
			return s
		}
	}
	return ""
}

// Issuer is who among these has signed a certificate; nil: nobody.
func Issuer(cert *x509.Certificate, among []*x509.Certificate) *x509.Certificate {
	for _, c := range among {
		if !c.Equal(cert) && bytes.Equal(c.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}
