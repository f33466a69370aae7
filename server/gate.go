package server

import (
	"strings"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/config"
)

// authOptions are what the configuration says about who comes in and what they may do.
func (s *Server) authOptions(cfg *config.Config, certs *certificates) auth.Options {
	a := &cfg.Auth
	o := auth.Options{Anonymous: cfg.Anonymous(), PasswordFile: a.PasswordFile, CertificateUser: a.CertificateUser, Mapping: a.CertificateMapping,
		ACLFile: a.ACLFile, SuperUsers: a.SuperUsers, ClientIDs: a.ClientIDs, OpenWithoutACL: a.AllowEveryone, Concurrency: a.Concurrency, Queue: a.Queue, CacheTTL: a.CacheTTL,
		Directory: catalogUsers{s.catalog.Catalog}, SaltKey: s.catalog.saltKey, RepeatedNonce: a.SCRAMRepeatedNonce}
	if j := &a.JWT; j.IsSet() {
		o.JWT = &auth.JWTOptions{KeyFile: j.JWKSFile, KeyURL: j.JWKSURL, Refresh: j.JWKSRefresh, Timeout: j.JWKSTimeout, Issuer: j.Issuer,
			Audience: j.Audience, Claim: j.PrincipalClaim, ClockSkew: j.ClockSkew, Algorithms: j.Algorithms,
			Secret: []byte(j.Secret.Reveal()), Require: j.Require, ACLClaim: j.ACLClaim}
	}
	if h := &a.HTTP; h.URL != "" {
		o.HTTP = &auth.CallbackOptions{URL: h.URL, Method: strings.ToUpper(h.Method), Token: h.Token.Reveal(), Timeout: h.Timeout,
			Concurrency: h.Concurrency, CacheTTL: h.CacheTTL}
	}
	o.Logger = s.log
	if set := certs.now.Load(); set.tls != nil {
		o.ClientCAs, o.Revoked = set.tls.ClientCAs, set.revoked.has
	}
	return o
}
