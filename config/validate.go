package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Anonymous is auth.anonymous with `auto` resolved: off, loopback or everywhere.
func (c *Config) Anonymous() string {
	if c.Auth.Anonymous != "auto" {
		return c.Auth.Anonymous
	}
	if c.Auth.PasswordFile == "" && c.Auth.CertificateUser == "off" && !c.Auth.JWT.IsSet() && c.Auth.HTTP.URL == "" && c.Auth.LDAP.URL == "" {
		return "loopback"
	}
	return "off"
}

// ClientAuth is tls.client_auth with `auto` resolved: off, optional or required.
func (c *Config) ClientAuth() string {
	if c.TLS.ClientAuth != "auto" {
		return c.TLS.ClientAuth
	}
	if c.TLS.ClientCA != "" {
		return "optional"
	}
	return "off"
}

// TLSSet tells whether the TLS and WSS listeners open.
func (c *Config) TLSSet() bool { return c.TLS.Cert != "" && c.TLS.Key.IsSet() }

// validate looks at what concerns more than one key.
func (l *loader) validate() {
	c := &l.out.Config
	l.validateRoles(c)
	l.validateTLS(c)
	l.validateAddresses(c)
	l.validateExposure(c)
	l.validateProxies(c)
	l.validateNamed(c)
	l.validateControl(c)
	l.validateJWT(c)
	if u := c.Auth.HTTP.URL; u != "" && !secure(u) {
		l.reject("auth.http.url", fmt.Errorf("want https://…, or http:// on loopback: passwords go there; found %q", u))
	}
	l.validateLDAP(c)
	l.validateTier(c)
	l.validateCluster(c)
	l.validateTracing(c)
	if c.Auth.AllowEveryone == "false" && len(c.Auth.SuperUsers) == 0 {
		l.reject("auth.allow_everyone_if_no_acl_found", errors.New("false needs auth.super_users: nobody else could make the first ACL"))
	}
	if c.Journal.Durability == "memory" && c.Events.KafkaTopic != "" {
		l.reject("events.kafka_topic", errors.New("journal.durability is memory, which keeps no streams: want sync or async, or no topic"))
	}
	if c.Journal.Durability == "memory" && len(c.Bindings) > 0 {
		l.reject("bindings", errors.New("journal.durability is memory, which keeps no streams: want sync or async, or no bindings"))
	}
	if c.Journal.GroupSize > c.Journal.SegmentSize/2 {
		l.reject("journal.group_size", fmt.Errorf("want at most half of journal.segment_size (%v), found %v",
			c.Journal.SegmentSize, c.Journal.GroupSize))
	}
	if c.Journal.MaxBytes > 0 && c.Journal.MaxBytes < 4*c.Journal.SegmentSize {
		l.reject("journal.max_bytes", fmt.Errorf("want 0, or at least four times journal.segment_size (%v), found %v", c.Journal.SegmentSize, c.Journal.MaxBytes))
	}
	if c.Limits.PacketSize > c.Journal.GroupSize && l.set("limits.packet_size") && !l.set("journal.group_size") {
		c.Journal.GroupSize = min(c.Journal.SegmentSize/2, c.Limits.PacketSize+MiB)
	}
	if c.Limits.PacketSize >= c.Journal.GroupSize {
		l.reject("limits.packet_size", fmt.Errorf("a packet must fit into one group of the journal: want less than "+
			"journal.group_size (%v), found %v; raise that, and journal.segment_size to at least twice of it",
			c.Journal.GroupSize, c.Limits.PacketSize))
	}
}

func (l *loader) set(key string) bool { return l.out.sources[key].Kind != "default" }

func (l *loader) reject(key string, err error) { l.problem(l.out.sources[key], key, err) }

func (l *loader) validateRoles(c *Config) {
	if c.Node.Data == "" {
		l.reject("node.data", errors.New("want a directory, found nothing"))
	}
	reject := func(format string, args ...any) { l.reject("node.roles", fmt.Errorf(format, args...)) }
	for i, r := range c.Node.Roles {
		if slices.Contains(c.Node.Roles[:i], r) {
			reject("a role is named twice")
			return
		}
	}
	switch {
	case !slices.Contains(c.Node.Roles, "meta"):
		reject("every node votes on the catalog in this version: meta is missing")
	case len(c.Node.Roles) < 3 && !c.Clustered():
		reject("a node that is alone does everything: want [broker, journal, meta], or listeners.cluster to make it one of several")
	case !c.KeepsJournal() && len(c.Cluster.Peers) == 0:
		reject("the first node of a cluster keeps its journal: journal is missing, or cluster.peers")
	}
	if c.TakesClients() {
		return
	}
	for name := range l.out.sources {
		if (strings.HasPrefix(name, "listeners.mqtt.") || strings.HasPrefix(name, "listeners.kafka.")) && l.set(name) && byName[name].format(c) != "off" {
			l.reject(name, errors.New("a node without the role broker takes no clients (node.roles)"))
		}
	}
	if len(c.Bridges) > 0 {
		l.reject("bridges", errors.New("a node without the role broker keeps no bridges (node.roles)"))
	}
}

// TakesClients tells whether the node has the role broker.
func (c *Config) TakesClients() bool { return slices.Contains(c.Node.Roles, "broker") }

// KeepsJournal tells whether the node has the role journal: it keeps a copy of the shards.
func (c *Config) KeepsJournal() bool { return slices.Contains(c.Node.Roles, "journal") }

func (l *loader) validateTLS(c *Config) {
	if (c.TLS.Cert != "") != c.TLS.Key.IsSet() {
		have, miss := "tls.cert", "tls.key"
		if c.TLS.Key.IsSet() {
			have, miss = miss, have
		}
		l.reject(have, fmt.Errorf("is set and %s is not; TLS needs both", miss))
	}
	if !c.TLSSet() {
		for _, key := range []string{"listeners.mqtt.tls", "listeners.mqtt.wss", "listeners.kafka.tls"} {
			if v := byName[key].format(c); v != "off" && v != byName[key].Default {
				l.reject(key, errors.New("needs tls.cert and tls.key"))
			}
		}
	}
	if c.TLS.OCSPStapling && !c.TLSSet() {
		l.reject("tls.ocsp_stapling", errors.New("needs tls.cert and tls.key"))
	}
	if u := c.TLS.OCSPResponder; u != "" && !isWeb(u) {
		l.reject("tls.ocsp_responder", fmt.Errorf("want http://HOST/… or https://HOST/…, found %q", u))
	}
	if c.TLS.ClientCA == "" {
		if a := c.TLS.ClientAuth; a == "optional" || a == "required" {
			l.reject("tls.client_auth", fmt.Errorf("%s needs tls.client_ca, the authorities to check certificates against", a))
		}
		if len(c.TLS.CRL) > 0 {
			l.reject("tls.crl", errors.New("needs tls.client_ca, whose certificates it revokes"))
		}
	}
	if c.Auth.CertificateMapping != "" && c.Auth.CertificateUser == "off" {
		l.reject("auth.certificate_mapping", errors.New("needs auth.certificate_user, the field whose text it maps: for Kafka's rules, subject"))
	}
	if c.Auth.CertificateUser != "off" {
		if c.TLS.ClientCA == "" || c.ClientAuth() == "off" {
			l.reject("auth.certificate_user", errors.New("needs tls.client_ca, and tls.client_auth not off"))
		} else if !c.TLSSet() {
			l.reject("auth.certificate_user", errors.New("needs tls.cert and tls.key: certificates come over TLS alone"))
		}
	}
}

func (l *loader) validateAddresses(c *Config) {
	seen := map[string]string{}
	for _, a := range c.addresses() {
		if a.unix {
			if a.key+a.addr == "" || strings.ContainsRune(a.addr, 0) || len(a.addr) > 107 {
				l.reject(a.key, fmt.Errorf("want a path of at most 107 bytes, found %q", a.addr))
			}
		} else if err := checkAddress(a.addr); err != nil {
			l.reject(a.key, err)
			continue
		}
		if other, dup := seen[a.addr]; dup && !strings.HasSuffix(a.addr, ":0") {
			l.reject(a.key, fmt.Errorf("%s is the address of %s already", a.addr, other))
		}
		seen[a.addr] = a.key
	}
	m := &c.Listeners.MQTT
	for key, a := range map[string]string{"listeners.kafka.advertised": c.Listeners.Kafka.Advertised, "listeners.kafka.advertised_tls": c.Listeners.Kafka.AdvertisedTLS,
		"listeners.mqtt.advertised": m.Advertised, "listeners.mqtt.advertised_tls": m.AdvertisedTLS, "listeners.mqtt.advertised_ws": m.AdvertisedWS, "listeners.mqtt.advertised_wss": m.AdvertisedWSS} {
		if a == "" {
			continue
		}
		if err := checkAddress(a); err != nil {
			l.reject(key, err)
		} else if c.Clustered() && unspecified(a) {
			l.reject(key, fmt.Errorf("%s stands for all addresses of a machine: want the one at which clients of other nodes reach this one", a))
		}
	}
	if len(seen) == 0 {
		l.reject("listeners.mqtt.tcp", errors.New("every listener is off; want at least one"))
	}
}

type listenAddr struct {
	key, addr string
	unix      bool
	tls       bool
	anonymous string // of a listener that has its own rule
	asks      bool   // it names who is asked about its clients
}

// addresses are those that open.
func (c *Config) addresses() []listenAddr {
	m := &c.Listeners.MQTT
	var out []listenAddr
	add := func(key string, addrs Addrs, unix bool) {
		for _, a := range addrs {
			overTLS := strings.HasSuffix(key, ".tls") || strings.HasSuffix(key, ".wss")
			out = append(out, listenAddr{key: key, addr: a, unix: unix, tls: overTLS})
		}
	}
	add("listeners.mqtt.tcp", m.TCP, false)
	add("listeners.mqtt.ws", m.WS, false)
	if c.TLSSet() {
		add("listeners.mqtt.tls", m.TLS, false)
		add("listeners.mqtt.wss", m.WSS, false)
		add("listeners.kafka.tls", c.Listeners.Kafka.TLS, false)
	}
	add("listeners.kafka.tcp", c.Listeners.Kafka.TCP, false)
	add("listeners.mqtt.unix", m.Unix, true)
	for i := range m.Named {
		n := &m.Named[i]
		out = append(out, listenAddr{key: namedKey, addr: n.Address, unix: n.Unix(), tls: n.TLS(), anonymous: n.Anonymous, asks: len(n.Auth) > 0 || n.ProxyUser == "cn"})
	}
	add("listeners.grpc", c.Listeners.GRPC, false)
	add("listeners.http", c.Listeners.HTTP, false)
	return out
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("want HOST:PORT such as 127.0.0.1:1883 or [::1]:1883, found %q", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("want a port from 0 to 65535, found %q in %q", port, addr)
	}
	if strings.ContainsAny(host, " /\x00") {
		return fmt.Errorf("want a host name or an IP address, found %q in %q", host, addr)
	}
	return nil
}

// Loopback tells whether a listener on addr can be reached from this machine alone. A name other than localhost counts as
// reachable: what it resolves to may change.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// isWeb says whether a text is a URL of HTTP.
func isWeb(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// secure says whether nobody on the way can read or change what a URL is asked.
func secure(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && Loopback(net.JoinHostPort(u.Hostname(), "1")))
}

// secretBytesMin is the least length of a secret of HMAC: that of SHA-256, as RFC 7518 has it.
const secretBytesMin = 32

// validateJWT looks at where the keys of tokens come from.
func (l *loader) validateJWT(c *Config) {
	j := &c.Auth.JWT
	if !j.IsSet() {
		if needs := errors.New("needs auth.jwt.jwks_file, auth.jwt.jwks_url or auth.jwt.secret, by which tokens are signed"); j.Issuer != "" {
			l.reject("auth.jwt.issuer", needs)
		} else if len(j.Audience) > 0 {
			l.reject("auth.jwt.audience", needs)
		} else if len(j.Require) > 0 {
			l.reject("auth.jwt.require", needs)
		}
		return
	}
	if j.JWKSFile != "" && j.JWKSURL != "" {
		l.reject("auth.jwt.jwks_url", errors.New("want one of auth.jwt.jwks_file and auth.jwt.jwks_url, found both"))
	}
	if j.JWKSURL != "" {
		if !secure(j.JWKSURL) {
			l.reject("auth.jwt.jwks_url", fmt.Errorf("want https://…, or http:// on loopback: whoever can change the keys can make tokens; found %q", j.JWKSURL))
		}
	}
	if n := len(j.Secret.Reveal()); j.Secret.IsSet() && n < secretBytesMin {
		l.reject("auth.jwt.secret", fmt.Errorf("want at least %d bytes, found %d: a short one can be guessed from any token", secretBytesMin, n))
	}
	if j.PrincipalClaim == "" {
		l.reject("auth.jwt.principal_claim", errors.New("want the name of a claim, found nothing"))
	}
	if len(j.Algorithms) == 0 {
		l.reject("auth.jwt.algorithms", errors.New("want at least one algorithm, found none"))
	}
}

// validateExposure refuses a listener that a network can reach and that nobody has to authenticate at, unless anonymity there
// was asked for by name.
func (l *loader) validateExposure(c *Config) {
	for _, a := range c.addresses() {
		if a.unix || Loopback(a.addr) {
			continue
		}
		if a.key == "listeners.http" {
			if c.Auth.AnonymousHTTP != "everywhere" {
				l.reject(a.key, fmt.Errorf("%s can be reached from a network and HTTP asks for no credentials: "+
					"set auth.anonymous_http to everywhere to allow that by name, or listen on 127.0.0.1", a.addr))
			}
			continue
		}
		if a.key == "listeners.grpc" {
			if !c.ControlClosed() {
				l.reject(a.key, fmt.Errorf("%s can be reached from a network and the control plane changes everything: "+
					"set auth.control_token to file:PATH or env:NAME of a secret, which callers then show by --token, name them in control.principals, or listen on 127.0.0.1", a.addr))
			}
			continue
		}
		overTLS, anonymous, byName := a.tls, c.Anonymous(), c.Auth.Anonymous
		if a.anonymous != "" {
			anonymous, byName = a.anonymous, a.anonymous
		}
		// Off by name: users come into the catalog later, and nobody comes in before.
		if anonymous == "everywhere" || byName == "off" || a.asks || c.Auth.PasswordFile != "" || c.Auth.JWT.IsSet() || c.Auth.HTTP.URL != "" || c.Auth.LDAP.URL != "" || overTLS && c.Auth.CertificateUser != "off" {
			continue
		}
		ways := "set auth.password_file (`sluice passwd` makes its lines), auth.jwt, auth.ldap or auth.http, or auth.anonymous: off to let in users of the catalog alone"
		if overTLS {
			ways += " or auth.certificate_user with tls.client_ca"
		}
		l.reject(a.key, fmt.Errorf("%s can be reached from a network and no authentication is set for it: %s, "+
			"or allow clients without credentials by name with auth.anonymous: everywhere", a.addr, ways))
	}
}
