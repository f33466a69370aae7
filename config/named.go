package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// NamedListener is a listener for MQTT with settings of its own; docs/mqtt.md explains it.
type NamedListener struct {
	Name          string   // after `mqtt.`, where listeners are shown
	Protocol      string   // tcp, tls, ws, wss or unix
	Address       string   // of unix a path
	Anonymous     string   // off, loopback or everywhere; empty: auth.anonymous
	Auth          []string // who is asked about its clients, in this order, and nobody else; none: all, by auth.order
	ClientAuth    string   // off, optional or required; empty: tls.client_auth
	Tenant        string   // whose clients come there, and nobody else's; empty: the default one's, and those who are said to be another one's
	Mountpoint    string   // what the topics of its clients begin with; empty: nothing
	Connections   int      // 0: no limit of its own; -1: listeners.mqtt.connections
	AcceptRate    int      // a second, 0: no limit; -1: listeners.mqtt.accept_rate
	ProxyProtocol bool
	ProxyUser     string // cn: a proxy's word of a client's certificate counts; off or empty: it does not
}

// TLS says whether clients come by TLS.
func (n *NamedListener) TLS() bool { return n.Protocol == "tls" || n.Protocol == "wss" }

// WebSocket says whether clients come by WebSocket.
func (n *NamedListener) WebSocket() bool { return n.Protocol == "ws" || n.Protocol == "wss" }

// Unix says whether the address is the path of a socket.
func (n *NamedListener) Unix() bool { return n.Protocol == "unix" }

// NamedListeners is the list of them.
type NamedListeners []NamedListener

const (
	namedExpected = "{name: plant, protocol: tls, address: 10.0.0.7:8884}"
	namedMost     = 64
	namedRateMax  = 1_000_000_000
	// mountpointMost leaves room for the topics behind it.
	mountpointMost = 1024
)

var (
	namedProtocols = []string{"tcp", "tls", "ws", "wss", "unix"}
	namedAnonymous = []string{"off", "loopback", "everywhere"}
	namedAuth      = []string{"certificate", "token", "file", "ldap", "http"}
	namedShown     = []string{"off", "optional", "required"}
	tenantForm     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	namedForm      = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
)

// String gives the form that the parser reads.
func (ns NamedListeners) String() string {
	parts := make([]string, len(ns))
	for i, n := range ns {
		parts[i] = fmt.Sprintf("{name: %s, protocol: %s, address: %s", n.Name, n.Protocol, quote(n.Address))
		if n.Anonymous != "" {
			parts[i] += ", anonymous: " + n.Anonymous
		}
		if len(n.Auth) > 0 {
			parts[i] += ", auth: [" + strings.Join(n.Auth, ", ") + "]"
		}
		if n.ClientAuth != "" {
			parts[i] += ", client_auth: " + n.ClientAuth
		}
		if n.Tenant != "" {
			parts[i] += ", tenant: " + n.Tenant
		}
		if n.Mountpoint != "" {
			parts[i] += ", mountpoint: " + quote(n.Mountpoint)
		}
		if n.Connections >= 0 {
			parts[i] += ", connections: " + strconv.Itoa(n.Connections)
		}
		if n.AcceptRate >= 0 {
			parts[i] += ", accept_rate: " + strconv.Itoa(n.AcceptRate)
		}
		if n.ProxyProtocol {
			parts[i] += ", proxy_protocol: true"
		}
		if n.ProxyUser != "" {
			parts[i] += ", proxy_user: " + n.ProxyUser
		}
		parts[i] += "}"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// parseNamed reads a list of listeners; with an error it tells which node is wrong.
func parseNamed(n *yaml.Node) (ns NamedListeners, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of listeners such as %s, found %s", namedExpected, strictyaml.Kind(n))
	}
	if len(n.Content) > namedMost {
		return nil, n, fmt.Errorf("want at most %d listeners, found %d", namedMost, len(n.Content))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		l, bad, err := parseNamedListener(item)
		if err != nil {
			return nil, bad, err
		}
		for i := range ns {
			if ns[i].Name == l.Name {
				return nil, item, fmt.Errorf("there are two listeners of the name %s", l.Name)
			}
		}
		ns = append(ns, l)
	}
	return ns, nil, nil
}

func parseNamedListener(item *yaml.Node) (l NamedListener, bad *yaml.Node, err error) {
	l = NamedListener{Protocol: "tcp", Connections: -1, AcceptRate: -1}
	if item.Kind != yaml.MappingNode {
		return l, item, fmt.Errorf("want a listener such as %s, found %s", namedExpected, strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		if k.Value == "auth" && v.Kind == yaml.SequenceNode {
			if bad, err := l.setAuth(v); err != nil {
				return l, bad, fmt.Errorf("auth: %w", err)
			}
			continue
		}
		if v.Kind != yaml.ScalarNode || strictyaml.IsNull(v) {
			return l, v, fmt.Errorf("%s: want a value, found %s", k.Value, strictyaml.Kind(v))
		}
		known, err := l.set(k.Value, v.Value)
		switch {
		case !known:
			return l, k, fmt.Errorf("a listener has no key %q: want name, protocol, address, anonymous, auth, client_auth, tenant, mountpoint, connections, accept_rate, proxy_protocol or proxy_user", k.Value)
		case err != nil:
			return l, v, fmt.Errorf("%s: %w", k.Value, err)
		}
	}
	switch {
	case l.Name == "":
		return l, item, errors.New("a listener needs a name")
	case l.Address == "":
		return l, item, errors.New("a listener needs an address")
	}
	return l, nil, nil
}

// set takes one key over; known false: there is no such key.
func (n *NamedListener) set(key, text string) (known bool, err error) {
	switch key {
	case "name":
		n.Name, err = text, checkNamed(text)
	case "protocol":
		n.Protocol, err = oneOf(text, namedProtocols)
	case "address":
		n.Address = text
	case "anonymous":
		if text == "false" { // YAML 1.1 readers take off for false
			text = "off"
		}
		n.Anonymous, err = oneOf(text, namedAnonymous)
	case "auth":
		n.Auth = []string{text}
		_, err = oneOf(text, namedAuth)
	case "client_auth":
		if text == "false" {
			text = "off"
		}
		n.ClientAuth, err = oneOf(text, namedShown)
	case "tenant":
		n.Tenant, err = text, checkTenant(text)
	case "mountpoint":
		n.Mountpoint, err = text, checkMountpoint(text)
	case "connections":
		n.Connections, err = zeroOrMore(text)
	case "accept_rate":
		n.AcceptRate, err = zeroOrMore(text)
	case "proxy_protocol":
		n.ProxyProtocol, err = trueOrFalse(text)
	case "proxy_user":
		if text == "false" {
			text = "off"
		}
		n.ProxyUser, err = oneOf(text, []string{"off", "cn"})
	default:
		return false, nil
	}
	return true, err
}

// setAuth takes the list of who is asked.
func (n *NamedListener) setAuth(v *yaml.Node) (bad *yaml.Node, err error) {
	for _, item := range v.Content {
		w := strictyaml.Resolve(item)
		if _, err := oneOf(w.Value, namedAuth); err != nil || w.Kind != yaml.ScalarNode {
			return w, cmp.Or(err, errors.New("want names"))
		}
		if slices.Contains(n.Auth, w.Value) {
			return w, fmt.Errorf("%s is there twice", w.Value)
		}
		n.Auth = append(n.Auth, w.Value)
	}
	if len(n.Auth) == 0 {
		return v, fmt.Errorf("want at least one of %s; leave it out for all of auth.order", orList(namedAuth))
	}
	return nil, nil
}

// checkTenant looks at the form of a tenant's name, as package meta has it. Whether there is one the catalog knows, when a client comes.
func checkTenant(name string) error {
	if !tenantForm.MatchString(name) {
		return fmt.Errorf("want the name of a tenant: a letter from a to z, and up to 62 of those, digits and - behind it, found %q", name)
	}
	return nil
}

// checkMountpoint looks for what would be no beginning of topics in whole levels.
func checkMountpoint(text string) error {
	switch {
	case !strings.HasSuffix(text, "/") || text == "/":
		return fmt.Errorf("want whole levels with a / behind them, such as plant/ or devices/%%u/, found %q", text)
	case text[0] == '$':
		return fmt.Errorf("topics that begin with $ are the server's own: %q", text)
	case strings.ContainsAny(text, "+#\x00") || !utf8.ValidString(text) || len(text) > mountpointMost:
		return fmt.Errorf("want a topic of at most %d bytes without + and #, found %q", mountpointMost, text)
	}
	return nil
}

// checkNamed keeps names apart from those of the listeners that the other keys of the section open.
func checkNamed(name string) error {
	if !namedForm.MatchString(name) {
		return fmt.Errorf("want a-z, then up to 31 of a-z, 0-9, _ and -, found %q", name)
	}
	for _, p := range namedProtocols {
		if name == p {
			return fmt.Errorf("%s is the name of listeners.mqtt.%s", name, name)
		}
	}
	return nil
}

func oneOf(text string, list []string) (string, error) {
	for _, t := range list {
		if t == text {
			return text, nil
		}
	}
	return "", fmt.Errorf("want %s, found %q", orList(list), text)
}

func zeroOrMore(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > namedRateMax {
		return 0, fmt.Errorf("want a number from 0 to %d, found %q", namedRateMax, text)
	}
	return n, nil
}

// named assigns the list in a file, each fault with its place.
func (d *decoder) named(k *Key, v *yaml.Node) {
	ns, bad, err := parseNamed(v)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	d.assign(k, raw{named: &ns}, at(d.file, v))
}

// parseNamedText reads the list as a flag or the environment gives it: YAML in one line.
func parseNamedText(text string) (NamedListeners, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [%s], found %q", namedExpected, text)
	}
	ns, _, err := parseNamed(doc.Content[0])
	return ns, err
}

const namedKey = "listeners.mqtt.named"

// validateNamed looks at what named listeners need of other keys. Addresses and who may come in are looked at with those of the other listeners.
func (l *loader) validateNamed(c *Config) {
	list := c.Listeners.MQTT.Named
	for i := range list {
		n := &list[i]
		if n.ProxyUser == "cn" && c.Clustered() {
			l.reject(namedKey, fmt.Errorf("%s: listeners.cluster is set, and the node that serves a client is not told what a proxy says of it: leave proxy_user out", n.Name))
		}
		if n.TLS() && !c.TLSSet() {
			l.reject(namedKey, fmt.Errorf("%s needs tls.cert and tls.key", n.Name))
		}
		if err := c.namedIdentity(n); err != nil {
			l.reject(namedKey, fmt.Errorf("%s: %w", n.Name, err))
		}
		if n.ProxyProtocol && !n.Unix() && len(c.Listeners.MQTT.ProxyTrusted) == 0 {
			l.reject(namedKey, fmt.Errorf("%s: proxy_protocol needs listeners.mqtt.proxy_trusted: who may say where a client comes from", n.Name))
		}
	}
}

// namedIdentity says what is missing for a listener to find out who its clients are in the way that it names.
func (c *Config) namedIdentity(n *NamedListener) error {
	asks := n.ClientAuth == "optional" || n.ClientAuth == "required"
	switch {
	case n.ClientAuth != "" && !n.TLS():
		return errors.New("client_auth is for protocol tls and wss")
	case n.ProxyUser == "cn" && !n.ProxyProtocol:
		return errors.New("proxy_user: cn needs proxy_protocol: true")
	case asks && c.TLS.ClientCA == "":
		return fmt.Errorf("client_auth: %s needs tls.client_ca: whose certificates are good", n.ClientAuth)
	}
	shown := cmp.Or(n.ClientAuth, c.ClientAuth())
	a := &c.Auth
	for _, way := range n.Auth {
		missing := ""
		switch {
		case way == "certificate" && n.ProxyUser == "cn":
		case way == "certificate" && a.CertificateUser == "off":
			missing = "auth.certificate_user"
		case way == "certificate" && (!n.TLS() || shown == "off"):
			return errors.New("auth: certificate needs protocol tls or wss, and client_auth: required or optional")
		case way == "token" && !a.JWT.IsSet():
			missing = "a key of auth.jwt"
		case way == "ldap" && a.LDAP.URL == "":
			missing = "auth.ldap.url"
		case way == "http" && a.HTTP.URL == "":
			missing = "auth.http.url"
		}
		if missing != "" {
			return fmt.Errorf("auth: %s needs %s", way, missing)
		}
	}
	return nil
}
