package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/sluicemq/sluice/config"
)

// certificates hold what the TLS listeners show and ask for. A handshake uses what is in force when it begins.
type certificates struct {
	now atomic.Pointer[certificateSet]
}

type certificateSet struct {
	tls     *tls.Config            // nil: no certificate is set
	mqtt    *tls.Config            // the same for those who speak MQTT right above it
	web     *tls.Config            // and for WebSocket
	own     map[ownTLS]*tls.Config // and for listeners that say themselves whether clients show certificates
	control *tls.Config            // and for the control plane, whose callers have authorities of their own
	ends    []certificateEnd

	stapling       *stapling   // nil: off
	revoked        revocations // of clients
	callersRevoked revocations // of the control plane
}

// loadCertificates reads the files. Without tls.cert there is nothing to read.
func loadCertificates(cfg *config.Config) (*certificates, error) {
	set := &certificateSet{ends: certificateEnds(cfg)}
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
	set.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if set.stapling, err = newStapling(cfg, &pair, chain); err != nil {
		return nil, err
	}
	if set.stapling != nil {
		set.tls.Certificates, set.tls.GetCertificate = nil, set.stapling.certificate
	}
	if cfg.TLS.MinVersion == "1.3" {
		set.tls.MinVersion = tls.VersionTLS13
	}
	if err := set.loadCallers(cfg); err != nil {
		return nil, err
	}
	if set.tls.ClientAuth = clientAuths[cfg.ClientAuth()]; !asksForCertificates(cfg) {
		set.negotiate()
		return c, nil
	}
	set.revoked = revocations{key: "tls.crl", files: cfg.TLS.CRL, lenient: cfg.TLS.CRLExpired == "accept"}
	if err := set.revoked.load(set.tls, "tls.client_ca", cfg.TLS.ClientCA); err != nil {
		return nil, err
	}
	set.negotiate()
	return c, nil
}

// ownTLS is what a listener may have of its own.
type ownTLS struct {
	web        bool
	clientAuth string
}

var clientAuths = map[string]tls.ClientAuthType{"off": tls.NoClientCert, "optional": tls.VerifyClientCertIfGiven, "required": tls.RequireAndVerifyClientCert}

// asksForCertificates says whether any listener does.
func asksForCertificates(cfg *config.Config) bool {
	return cfg.ClientAuth() != "off" || slices.ContainsFunc(cfg.Listeners.MQTT.Named, func(n config.NamedListener) bool {
		return n.ClientAuth != "" && n.ClientAuth != "off"
	})
}

// loadCallers makes what the control plane's listeners show and ask for.
func (set *certificateSet) loadCallers(cfg *config.Config) error {
	set.control = set.tls.Clone()
	if cfg.Control.ClientCA == "" {
		return nil
	}
	set.control.ClientAuth = tls.VerifyClientCertIfGiven // who shows none shows a token
	set.callersRevoked = revocations{key: "control.crl", files: cfg.Control.CRL, lenient: cfg.TLS.CRLExpired == "accept"}
	return set.callersRevoked.load(set.control, "control.client_ca", cfg.Control.ClientCA)
}

// negotiate names the protocols by ALPN: a client that asks for others alone has come to the wrong door, and one that asks for none is served.
func (set *certificateSet) negotiate() {
	set.mqtt, set.web = set.tls.Clone(), set.tls.Clone()
	set.mqtt.NextProtos, set.web.NextProtos = []string{"mqtt"}, []string{"http/1.1"}
	set.own = make(map[ownTLS]*tls.Config)
	for name, asks := range clientAuths {
		mqtt, web := set.mqtt.Clone(), set.web.Clone()
		mqtt.ClientAuth, web.ClientAuth = asks, asks
		set.own[ownTLS{false, name}], set.own[ownTLS{true, name}] = mqtt, web
	}
}

// take replaces what is in force by what n has read.
func (c *certificates) take(n *certificates) {
	set := n.now.Load()
	old := c.now.Load()
	set.stapling.follow(old.stapling)
	set.revoked.follow(&old.revoked)
	set.callersRevoked.follow(&old.callersRevoked)
	c.now.Store(set)
}

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

// ownConfig is mqttConfig or webConfig of a listener that may say itself whether clients show certificates: off, optional, required, or as the others.
func (c *certificates) ownConfig(web bool, clientAuth func() string) *tls.Config {
	return c.configOf(func(set *certificateSet) *tls.Config {
		if own := set.own[ownTLS{web, clientAuth()}]; own != nil {
			return own
		}
		if web {
			return set.web
		}
		return set.mqtt
	})
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
	chains, err := chain[0].Verify(o)
	if err != nil {
		return err
	}
	return set.callersRevoked.check(chains)
}

func (c *certificates) configOf(of func(*certificateSet) *tls.Config) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if cfg := of(c.now.Load()); cfg != nil {
			return cfg, nil
		}
		return nil, errors.New("no certificate is set")
	}}
}
