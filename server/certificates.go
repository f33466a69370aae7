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
	tls     *tls.Config         // nil: no certificate is set
	mqtt    *tls.Config         // the same for those who speak MQTT right above it
	web     *tls.Config         // and for WebSocket
	revoked map[string]struct{} // serial numbers
	issuer  []byte
	expires time.Time
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
	switch cfg.ClientAuth() {
	case "optional":
		set.tls.ClientAuth = tls.VerifyClientCertIfGiven
	case "required":
		set.tls.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		set.negotiate()
		return c, nil
	}
	if err := set.loadClientCA(cfg); err != nil {
		return nil, err
	}
	set.negotiate()
	return c, nil
}

// negotiate names the protocols by ALPN: a client that asks for others alone has come to the wrong door, and one that asks for none is served.
func (set *certificateSet) negotiate() {
	set.mqtt, set.web = set.tls.Clone(), set.tls.Clone()
	set.mqtt.NextProtos, set.web.NextProtos = []string{"mqtt"}, []string{"http/1.1"}
}

func (set *certificateSet) loadClientCA(cfg *config.Config) error {
	pemCA, err := os.ReadFile(cfg.TLS.ClientCA)
	if err != nil {
		return fmt.Errorf("tls.client_ca: %w", err)
	}
	set.tls.ClientCAs = x509.NewCertPool()
	if !set.tls.ClientCAs.AppendCertsFromPEM(pemCA) {
		return fmt.Errorf("tls.client_ca %s holds no PEM certificate", cfg.TLS.ClientCA)
	}
	if cfg.TLS.CRL == "" {
		return nil
	}
	list, err := readCRL(cfg.TLS.CRL, pemCA)
	if err != nil {
		return fmt.Errorf("tls.crl %s: %w", cfg.TLS.CRL, err)
	}
	set.revoked, set.issuer = make(map[string]struct{}), list.RawIssuer
	for _, e := range list.RevokedCertificateEntries {
		set.revoked[e.SerialNumber.String()] = struct{}{}
	}
	// VerifyConnection runs for resumed sessions too, which VerifyPeerCertificate does not see.
	set.tls.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 && set.isRevoked(cs.PeerCertificates[0]) {
			return errors.New("certificate is revoked")
		}
		return nil
	}
	return nil
}

// isRevoked says whether the revocation list names cert. Both must come from the list's issuer.
func (set *certificateSet) isRevoked(cert *x509.Certificate) bool {
	_, found := set.revoked[cert.SerialNumber.String()]
	return found && bytes.Equal(cert.RawIssuer, set.issuer)
}

// readCRL reads a revocation list and checks that one of the authorities signed it.
func readCRL(path string, pemCA []byte) (*x509.RevocationList, error) {
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
			return nil, errors.New("no authority in tls.client_ca has signed it")
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
