package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/config"
)

// certificates hold what the TLS listeners show and ask for. A handshake uses what is in force when it begins.
type certificates struct {
	now atomic.Pointer[certificateSet]
}

type certificateSet struct {
	tls     *tls.Config // nil: no certificate is set
	mqtt    *tls.Config // the same for those who speak MQTT right above it
	web     *tls.Config // and for WebSocket
	control *tls.Config // and for the control plane, whose callers have authorities of their own
	expires time.Time

	revoked        revocations // of clients
	callersRevoked revocations // of the control plane
}

// revocations are what a revocation list names. The zero value names nothing.
type revocations struct {
	serials map[string]struct{}
	issuer  []byte
}

// has says whether the list names cert. Both must come from the list's issuer.
func (r *revocations) has(cert *x509.Certificate) bool {
	_, found := r.serials[cert.SerialNumber.String()]
	return found && bytes.Equal(cert.RawIssuer, r.issuer)
}

// loadCertificates reads the files. Without tls.cert there is nothing to read.
func loadCertificates(cfg *config.Config) (*certificates, error) {
	set := &certificateSet{}
	c := &certificates{}
	c.now.Store(set)
	if !cfg.TLSSet() {
		return c, nil
	}
	chain, err := os.ReadFile(cfg.TLS.Cert)
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, []byte(cfg.TLS.Key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("tls.cert %s and tls.key: %w", cfg.TLS.Cert, err)
	}
	set.expires = pair.Leaf.NotAfter
	set.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if cfg.TLS.MinVersion == "1.3" {
		set.tls.MinVersion = tls.VersionTLS13
	}
	if err := set.loadCallers(cfg); err != nil {
		return nil, err
	}
	switch cfg.ClientAuth() {
	case "optional":
		set.tls.ClientAuth = tls.VerifyClientCertIfGiven
	case "required":
		set.tls.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		set.negotiate()
		return c, nil
	}
	if err := set.revoked.load(set.tls, "tls.client_ca", cfg.TLS.ClientCA, "tls.crl", cfg.TLS.CRL); err != nil {
		return nil, err
	}
	set.negotiate()
	return c, nil
}

// loadCallers makes what the control plane's listeners show and ask for.
func (set *certificateSet) loadCallers(cfg *config.Config) error {
	set.control = set.tls.Clone()
	if cfg.Control.ClientCA == "" {
		return nil
	}
	set.control.ClientAuth = tls.VerifyClientCertIfGiven // who shows none shows a token
	return set.callersRevoked.load(set.control, "control.client_ca", cfg.Control.ClientCA, "control.crl", cfg.Control.CRL)
}

// negotiate names the protocols by ALPN: a client that asks for others alone has come to the wrong door, and one that asks for none is served.
func (set *certificateSet) negotiate() {
	set.mqtt, set.web = set.tls.Clone(), set.tls.Clone()
	set.mqtt.NextProtos, set.web.NextProtos = []string{"mqtt"}, []string{"http/1.1"}
}

// load has c check client certificates against the authorities and the revocation list of two files; keys are what the configuration calls them.
func (r *revocations) load(c *tls.Config, caKey, caFile, crlKey, crlFile string) error {
	pemCA, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("%s: %w", caKey, err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pemCA) {
		return fmt.Errorf("%s %s holds no PEM certificate", caKey, caFile)
	}
	if crlFile == "" {
		return nil
	}
	list, err := readCRL(crlFile, caKey, pemCA)
	if err != nil {
		return fmt.Errorf("%s %s: %w", crlKey, crlFile, err)
	}
	r.serials, r.issuer = make(map[string]struct{}), list.RawIssuer
	for _, e := range list.RevokedCertificateEntries {
		r.serials[e.SerialNumber.String()] = struct{}{}
	}
	// VerifyConnection runs for resumed sessions too, which VerifyPeerCertificate does not see.
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 && r.has(cs.PeerCertificates[0]) {
			return errRevoked
		}
		return nil
	}
	return nil
}

var errRevoked = errors.New("certificate is revoked")

// readCRL reads a revocation list and checks that one of the authorities signed it.
func readCRL(path, caKey string, pemCA []byte) (*x509.RevocationList, error) {
	der, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	for rest := pemCA; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("no authority in %s has signed it", caKey)
		}
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil && list.CheckSignatureFrom(ca) == nil {
			return list, nil
		}
	}
}

// take replaces what is in force by what n has read.
func (c *certificates) take(n *certificates) { c.now.Store(n.now.Load()) }

// config is what listeners are given: it asks for the certificates in force at each handshake.
func (c *certificates) config() *tls.Config {
	return c.configOf(func(set *certificateSet) *tls.Config { return set.tls })
}

// mqttConfig is config with ALPN for MQTT right above TLS, webConfig with that for WebSocket.
func (c *certificates) mqttConfig() *tls.Config {
	return c.configOf(func(set *certificateSet) *tls.Config { return set.mqtt })
}

func (c *certificates) webConfig() *tls.Config {
	return c.configOf(func(set *certificateSet) *tls.Config { return set.web })
}

// controlConfig is that of the control plane.
func (c *certificates) controlConfig() *tls.Config {
	return c.configOf(func(set *certificateSet) *tls.Config { return set.control })
}

// verifyCaller says what is wrong now with the certificates that a caller of the control plane has shown.
func (c *certificates) verifyCaller(chain []*x509.Certificate) error {
	set := c.now.Load()
	if set.control == nil || set.control.ClientCAs == nil {
		return errors.New("no authority is set that could vouch for it")
	}
	o := x509.VerifyOptions{Roots: set.control.ClientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, between := range chain[1:] {
		o.Intermediates.AddCert(between)
	}
	if _, err := chain[0].Verify(o); err != nil {
		return err
	}
	if set.callersRevoked.has(chain[0]) {
		return errRevoked
	}
	return nil
}

func (c *certificates) configOf(of func(*certificateSet) *tls.Config) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if cfg := of(c.now.Load()); cfg != nil {
			return cfg, nil
		}
		return nil, errors.New("no certificate is set")
	}}
}

// expiry is when the server's certificate ends, as Unix seconds; 0 without one.
func (c *certificates) expiry() float64 {
	if e := c.now.Load().expires; !e.IsZero() {
		return float64(e.Unix())
	}
	return 0
}
