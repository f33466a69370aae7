package server

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/bridge"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/config"
)

// authOptions are what the configuration says about who comes in and what they may do.
func (s *Server) authOptions(cfg *config.Config, certs *certificates) auth.Options {
	a := &cfg.Auth
	o := auth.Options{Anonymous: cfg.Anonymous(), PasswordFile: a.PasswordFile, CertificateUser: a.CertificateUser, Mapping: a.CertificateMapping,
		ACLFile: a.ACLFile, SuperUsers: a.SuperUsers, ClientIDs: a.ClientIDs, OpenWithoutACL: a.AllowEveryone, Concurrency: a.Concurrency, Queue: a.Queue, CacheTTL: a.CacheTTL,
		Bans: s.bans, Directory: catalogUsers{s.catalog.Catalog}, SaltKey: s.catalog.saltKey, RepeatedNonce: a.SCRAMRepeatedNonce}
	if j := &a.JWT; j.IsSet() {
		o.JWT = &auth.JWTOptions{KeyFile: j.JWKSFile, KeyURL: j.JWKSURL, Refresh: j.JWKSRefresh, Timeout: j.JWKSTimeout, Issuer: j.Issuer,
			Audience: j.Audience, Claim: j.PrincipalClaim, ClockSkew: j.ClockSkew, Algorithms: j.Algorithms,
			Secret: []byte(j.Secret.Reveal()), Require: j.Require, ACLClaim: j.ACLClaim, TenantClaim: j.TenantClaim}
	}
	if h := &a.HTTP; h.URL != "" {
		o.HTTP = &auth.CallbackOptions{URL: h.URL, Method: strings.ToUpper(h.Method), Token: h.Token.Reveal(), Timeout: h.Timeout,
			Concurrency: h.Concurrency, CacheTTL: h.CacheTTL}
	}
	if l := &a.LDAP; l.URL != "" {
		o.LDAP = &auth.LDAPOptions{URL: l.URL, StartTLS: l.StartTLS, CAFile: l.CA, BindDN: l.BindDN, SearchBase: l.SearchBase, SearchFilter: l.SearchFilter,
			SearchDN: l.SearchDN, SearchPassword: l.SearchPassword.Reveal(), UserAttribute: l.UserAttribute, GroupBase: l.GroupBase, GroupFilter: l.GroupFilter,
			GroupName: l.GroupName, Groups: l.Groups, SuperGroups: l.SuperGroups, Timeout: l.Timeout, Concurrency: l.Concurrency, CacheTTL: l.CacheTTL}
	}
	o.Order, o.At = a.Order, listenerRules(cfg)
	o.Logger = s.log
	if set := certs.now.Load(); set.tls != nil {
		o.ClientCAs, o.Revoked = set.tls.ClientCAs, set.revoked.has
	}
	return o
}

// listenerRules are those of the listeners that have their own.
func listenerRules(cfg *config.Config) map[string]auth.ListenerOptions {
	at := make(map[string]auth.ListenerOptions)
	for i := range cfg.Listeners.MQTT.Named {
		n := &cfg.Listeners.MQTT.Named[i]
		at["mqtt."+n.Name] = auth.ListenerOptions{Anonymous: n.Anonymous, Ways: n.Auth, ProxyUser: n.ProxyUser == "cn", Tenant: n.Tenant}
	}
	return at
}

// bridgeListener is the name of the door through which the node's own bridges come: it has no address.
const bridgeListener = "bridge"

// insiders lets the node's bridges in beside those whom the gate lets in, and nobody else under a bridge's client id.
type insiders struct{ *auth.Provider }

// Quick makes it a broker.QuickAuthenticator. A bridge may do what its configuration says, whatever rules there are.
func (g insiders) Quick(c broker.Credentials) (id broker.Identity, done bool, err error) {
	bridges := strings.HasPrefix(c.ClientID, bridge.SessionPrefix)
	if c.Listener == bridgeListener && bridges {
		return broker.Identity{User: c.ClientID, ClientID: c.ClientID, Source: bridgeListener, Own: auth.Everything(), Generation: g.Generation()}, true, nil
	}
	if bridges {
		return id, true, fmt.Errorf("%w: client ids that begin with %s are for bridges", broker.ErrNotAuthorized, bridge.SessionPrefix)
	}
	return g.Provider.Quick(c)
}

// Converse makes it a broker.SASLAuthenticator: by no mechanism does anybody come in as a bridge.
func (g insiders) Converse(mechanism string, c broker.Credentials) broker.Conversation {
	if strings.HasPrefix(c.ClientID, bridge.SessionPrefix) {
		return nil
	}
	return g.Provider.Converse(mechanism, c)
}

// Recheck tells whether a client may stay.
func (g insiders) Recheck(id *broker.Identity, certs []*x509.Certificate) error {
	if id.Source == bridgeListener {
		return nil
	}
	return g.Provider.Recheck(id, certs)
}
