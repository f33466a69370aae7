package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/revocation"
)

// Bounds of asking a responder about the server's certificate.
const (
	stapleTimeout  = 10 * time.Second
	staplePauseMin = 10 * time.Second // after a failure; it doubles
	staplePauseMax = 10 * time.Minute
	stapleAgeMin   = time.Minute // an answer is not asked for anew earlier
)

// stapling shows clients what a responder says about the server's certificate. nil: nothing is shown.
type stapling struct {
	pair      *tls.Certificate
	issuer    *x509.Certificate
	responder string
	stapled   atomic.Pointer[stapled] // nil: there is no answer

	// Of the keeper.
	due   time.Time
	pause time.Duration
}

// stapled is the certificate with an answer, which counts until then.
type stapled struct {
	pair  tls.Certificate
	until time.Time
}

// newStapling looks for whom to ask about a certificate, and who has signed it.
func newStapling(cfg *config.Config, pair *tls.Certificate, chain []byte) (*stapling, error) {
	if !cfg.TLS.OCSPStapling {
		return nil, nil
	}
	s := &stapling{pair: pair, responder: cfg.TLS.OCSPResponder}
	if s.responder == "" {
		if s.responder = revocation.Responder(pair.Leaf); s.responder == "" {
			return nil, errors.New("tls.ocsp_stapling: the certificate of tls.cert names no responder: want tls.ocsp_responder")
		}
	}
	if s.issuer = revocation.Issuer(pair.Leaf, revocation.Certificates(chain)); s.issuer == nil {
		return nil, errors.New("tls.ocsp_stapling: tls.cert has no certificate of the authority that has signed the first one: append it")
	}
	return s, nil
}

// certificate is tls.Config's GetCertificate: with the answer as long as it counts.
func (s *stapling) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if with := s.stapled.Load(); with != nil && time.Now().Before(with.until) {
		return &with.pair, nil
	}
	return s.pair, nil
}

// follow takes over the answer that another one has for the same certificate.
func (s *stapling) follow(old *stapling) {
	if s == nil || old == nil || !s.pair.Leaf.Equal(old.pair.Leaf) {
		return
	}
	if with := old.stapled.Load(); with != nil {
		next := &stapled{*s.pair, with.until}
		next.pair.OCSPStaple = with.pair.OCSPStaple
		s.stapled.Store(next)
	}
}

// until is when the answer ends; zero: there is none.
func (s *stapling) until() (t time.Time) {
	if s != nil {
		if with := s.stapled.Load(); with != nil {
			t = with.until
		}
	}
	return t
}

// runStapling asks for answers until ctx ends.
func (k *tlsKeeper) runStapling(ctx context.Context) {
	client := &http.Client{Timeout: stapleTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
		TLSHandshakeTimeout: stapleTimeout, MaxResponseHeaderBytes: 64 << 10}}
	tick := time.NewTicker(keepPause)
	defer tick.Stop()
	for {
		if s := k.s.certs.now.Load().stapling; s != nil && !time.Now().Before(s.due) {
			k.staple(ctx, client, s)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// staple asks once, and says when to ask again: halfway through the time that the answer counts, or after a pause that grows.
func (k *tlsKeeper) staple(ctx context.Context, client *http.Client, s *stapling) {
	now := time.Now()
	a, err := revocation.Ask(ctx, client, s.responder, s.pair.Leaf, s.issuer, now)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		next := &stapled{*s.pair, a.Until}
		next.pair.OCSPStaple = a.Raw
		s.stapled.Store(next)
		if s.pause > 0 {
			k.s.log.Info("the responder of the server's certificate answers again", "responder", s.responder)
		}
		s.pause, s.due = 0, now.Add(max(a.Until.Sub(now)/2, stapleAgeMin))
		return
	}
	k.stapleFailures.Add(1)
	if errors.Is(err, revocation.ErrRevoked) {
		s.stapled.Store(nil) // what was said before is not so any more
		k.s.log.Error("the authority has revoked the server's certificate (tls.cert)", "responder", s.responder)
	} else if s.pause == 0 {
		k.s.log.Warn("what the authority says about the server's certificate cannot be had: clients get the last answer for as long as it counts", "responder", s.responder, "err", err)
	}
	s.pause = min(max(2*s.pause, staplePauseMin), staplePauseMax)
	s.due = now.Add(s.pause)
}
