package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Principal is somebody who may call the control plane; docs/operate/control.md explains roles.
type Principal struct {
	Name        string // as the log has it
	Role        string // viewer, operator or admin
	Tenant      string // the one within which the role counts; empty: everywhere
	Token       Secret // what it shows; not set: it has none
	Certificate string // a name in the certificate that it shows; empty: it has none
}

// Principals is the list of them.
type Principals []Principal

// String gives the form that the parser reads; tokens are shown as where they lie.
func (ps Principals) String() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = fmt.Sprintf("{name: %s, role: %s", quote(p.Name), p.Role)
		if p.Tenant != "" {
			parts[i] += ", tenant: " + quote(p.Tenant)
		}
		if p.Token.IsSet() {
			parts[i] += ", token: " + quote(p.Token.String())
		}
		if p.Certificate != "" {
			parts[i] += ", certificate: " + quote(p.Certificate)
		}
		parts[i] += "}"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

const (
	principalsMax      = 1000
	principalNameMax   = 100 // bytes
	principalTokenMin  = 16  // bytes: less can be guessed
	principalsExpected = "{name: grafana, role: viewer, token: file:/etc/sluice/grafana.token}"
)

// controlRoles are the roles, each of which may what those before it may.
var controlRoles = []string{"viewer", "operator", "admin"}

// ReservedPrincipals are the names of callers that are in no list.
var ReservedPrincipals = []string{"control_token", "loopback", "anonymous"}

// lookup finds an environment variable.
type lookup = func(name string) (string, bool)

// parsePrincipals reads a list of principals; with an error it tells which node is wrong. No error holds a token.
func parsePrincipals(n *yaml.Node, env lookup) (ps Principals, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of principals such as %s, found %s", principalsExpected, strictyaml.Kind(n))
	}
	if len(n.Content) > principalsMax {
		return nil, n, fmt.Errorf("want at most %d principals, found %d", principalsMax, len(n.Content))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		p, bad, err := parsePrincipal(item, env)
		if err != nil {
			return nil, bad, err
		}
		for i := range ps {
			switch {
			case ps[i].Name == p.Name:
				return nil, item, fmt.Errorf("there are two principals of the name %q", p.Name)
			case p.Token.IsSet() && ps[i].Token.Reveal() == p.Token.Reveal():
				return nil, item, fmt.Errorf("%s and %s have the same token: nobody could tell them apart", ps[i].Name, p.Name)
			case p.Certificate != "" && ps[i].Certificate == p.Certificate:
				return nil, item, fmt.Errorf("%s and %s have the same certificate: nobody could tell them apart", ps[i].Name, p.Name)
			}
		}
		ps = append(ps, p)
	}
	return ps, nil, nil
}

func parsePrincipal(item *yaml.Node, env lookup) (p Principal, bad *yaml.Node, err error) {
	if item.Kind != yaml.MappingNode {
		return p, item, fmt.Errorf("want a principal such as %s, found %s", principalsExpected, strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		if v.Kind != yaml.ScalarNode || strictyaml.IsNull(v) {
			return p, v, fmt.Errorf("%s: want a value, found %s", k.Value, strictyaml.Kind(v))
		}
		switch k.Value {
		case "name":
			p.Name = v.Value
		case "role":
			if p.Role = v.Value; !slices.Contains(controlRoles, p.Role) {
				return p, v, fmt.Errorf("role: want %s, found %q", orList(controlRoles), v.Value)
			}
		case "tenant":
			if p.Tenant, err = v.Value, checkTenant(v.Value); err != nil {
				return p, v, fmt.Errorf("tenant: %w", err)
			}
		case "token":
			if p.Token, err = principalToken(v.Value, env); err != nil {
				return p, v, fmt.Errorf("token: %w", err)
			}
		case "certificate":
			if p.Certificate = v.Value; p.Certificate == "" {
				return p, v, errors.New("certificate: want the common name, or another name, of the certificate, found nothing")
			}
		default:
			return p, k, fmt.Errorf("a principal has no key %q: want name, role, tenant, token or certificate", k.Value)
		}
	}
	switch {
	case p.Name == "" || len(p.Name) > principalNameMax || strings.ContainsFunc(p.Name, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return p, item, fmt.Errorf("a principal needs a name of at most %d bytes without spaces", principalNameMax)
	case slices.Contains(ReservedPrincipals, p.Name):
		return p, item, fmt.Errorf("the name %s is that of callers without a principal", p.Name)
	case p.Role == "":
		return p, item, fmt.Errorf("the principal %s needs a role: %s", p.Name, orList(controlRoles))
	case !p.Token.IsSet() && p.Certificate == "":
		return p, item, fmt.Errorf("the principal %s needs a token or a certificate", p.Name)
	}
	return p, nil, nil
}

// principalToken reads a token from where it lies: in the configuration itself every output of it would have to leave it out.
func principalToken(text string, env lookup) (Secret, error) {
	if !strings.HasPrefix(text, "file:") && !strings.HasPrefix(text, "env:") {
		return Secret{}, errors.New("want file:PATH or env:NAME of it")
	}
	s, err := parseSecret(text, false, env)
	if err == nil && len(s.Reveal()) < principalTokenMin {
		return Secret{}, fmt.Errorf("want at least %d bytes in %s, found %d: a short one can be guessed", principalTokenMin, text, len(s.Reveal()))
	}
	return s, err
}

// lookupEnv finds a variable of the environment that is loaded from.
func (l *loader) lookupEnv(name string) (string, bool) { v, ok := l.env[name]; return v, ok }

// principals assigns the list in a file, each fault with its place.
func (d *decoder) principals(k *Key, v *yaml.Node) {
	ps, bad, err := parsePrincipals(v, d.lookupEnv)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	d.assign(k, raw{principals: &ps}, at(d.file, v))
}

// parsePrincipalsText reads the list as a flag or the environment gives it: YAML in one line.
func parsePrincipalsText(text string, env lookup) (Principals, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [%s]", principalsExpected)
	}
	ps, _, err := parsePrincipals(doc.Content[0], env)
	return ps, err
}

// validateControl looks at whether the principals can be told from each other and from the token that is admin.
func (l *loader) validateControl(c *Config) {
	if len(c.Control.CRL) > 0 && c.Control.ClientCA == "" {
		l.reject("control.crl", errors.New("needs control.client_ca, whose certificates it revokes"))
	}
	if c.Control.AuditRequired && c.Control.Audit == "" {
		l.reject("control.audit_required", errors.New("needs control.audit, the file that changes are written to"))
	}
	for _, p := range c.Control.Principals {
		if p.Certificate != "" && (c.Control.ClientCA == "" || !c.TLSSet()) {
			l.reject("control.principals", fmt.Errorf("the certificate of %s needs control.client_ca, which vouches for it, and tls.cert and tls.key: certificates come over TLS alone", p.Name))
			return
		}
		if c.Auth.ControlToken.IsSet() && p.Token.Reveal() == c.Auth.ControlToken.Reveal() {
			l.reject("control.principals", fmt.Errorf("the token of %s is auth.control_token, which is that of an admin", p.Name))
		}
	}
}

// ControlClosed tells whether callers of the control plane have to say who they are, on loopback too.
func (c *Config) ControlClosed() bool {
	return c.Auth.ControlToken.IsSet() || len(c.Control.Principals) > 0
}
