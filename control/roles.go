package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Role is what a caller may. Each role may what those below it may.
type Role uint8

// The roles. The zero value may nothing.
const (
	RoleNone Role = iota
	RoleViewer
	RoleOperator
	RoleAdmin
)

var roleTexts = [...]string{"none", "viewer", "operator", "admin"}

// String is the role's name in the configuration.
func (r Role) String() string {
	if int(r) < len(roleTexts) {
		return roleTexts[r]
	}
	return "unknown"
}

// ParseRole reads a role's name; RoleNone if it is none.
func ParseRole(name string) Role {
	for r := RoleViewer; r <= RoleAdmin; r++ {
		if roleTexts[r] == name {
			return r
		}
	}
	return RoleNone
}

// rule is what the gate knows of a method.
type rule struct {
	least   Role // who may call it
	scope   scope
	changes bool // something that outlives the call
	open    bool // to everybody, without saying who he is
	led     bool // of several nodes the one that leads answers it: it alone has what is asked about
	spread  bool // each of several nodes answers for what it has
}

var (
	view    = rule{least: RoleViewer}
	inspect = rule{least: RoleOperator} // changes nothing, but takes much of the node
	operate = rule{least: RoleOperator, changes: true}
	govern  = rule{least: RoleAdmin, changes: true}
)

// rules has every method of every service; a test fails when one is missing, and nobody may call it then. Operators run the node; what decides
// who gets whose messages is an admin's, and so is what makes a node one of the cluster or gives up what was acknowledged. A binding is an admin's
// too: who may read its stream reads what is published to the MQTT topics.
var rules = func() map[string]rule {
	all := make(map[string]rule)
	for service, methods := range map[string]map[string]rule{
		"Topics":        {"Create": operate, "List": view, "Describe": view, "Alter": operate, "Delete": operate},
		"Groups":        {"List": view, "Describe": view, "Delete": operate, "ResetOffsets": operate},
		"Clients":       {"List": view, "Describe": view, "Kick": operate},
		"Sessions":      {"List": view, "Describe": view, "Delete": operate},
		"Subscriptions": {"List": view, "Find": view},
		"Users":         {"Add": govern, "List": view, "SetPassword": govern, "SetDisabled": govern, "Delete": govern},
		"Acls":          {"Add": govern, "List": view, "Delete": govern, "Check": view},
		"Quotas":        {"Set": govern, "List": view, "Delete": govern},
		"Bans":          {"Add": operate, "List": view, "Remove": operate},
		"Bindings":      {"Add": govern, "List": view, "Delete": govern, "Explain": view},
		"Backups":       {"Create": operate, "List": view, "Verify": inspect, "Delete": operate},
		"Tiers": {"Describe": view, "DescribeTopic": view, "Verify": inspect, "Rebuild": operate, "Prefetch": operate, "Offload": operate,
			"Adopt": operate},
		"Explanations": {"ExplainClient": view, "ExplainTopic": view, "ExplainMessage": view, "WatchTrace": inspect, "ListSlow": view},
		"Nodes":        {"List": view, "Add": govern, "Remove": govern, "Replace": govern, "Drain": operate, "Hold": govern},
		"Tenants":      {"Add": govern, "List": view, "Describe": view, "Set": govern, "Remove": govern},
		"Shards":       {"Status": view, "Sets": operate, "Replicas": operate, "Move": operate, "Balance": operate, "ElectUnclean": govern},
	} {
		for method, r := range methods {
			r.scope = scopes[service]
			switch service {
			case "Clients":
				r.spread = true
			case "Explanations":
				r.spread = method == "ExplainClient"
				r.led = !r.spread
				if method == "ExplainMessage" { // what traces have seen is kept without saying whose it was
					r.scope = scopeNode
				}
			case "Topics", "Groups", "Sessions", "Subscriptions":
				r.led = true
			case "Tenants": // the leader knows what they have
				r.led = !r.changes
			case "Shards": // the leader knows how far the others are
				r.spread = method == "Status"
			case "Backups": // the leader alone knows what is committed
				r.led = method == "Create"
			case "Tiers": // what takes long is the work of the node that offloads
				r.led = !strings.HasPrefix(method, "Describe")
			}
			all["/sluice.control.v1."+service+"/"+method] = r
		}
	}
	for _, method := range []string{"Check", "List", "Watch"} {
		all["/grpc.health.v1.Health/"+method] = rule{open: true, scope: scopeNobody} // probes have no secret, and it tells none
	}
	for _, version := range []string{"v1", "v1alpha"} {
		all["/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo"] = rule{least: RoleViewer, scope: scopeNobody}
	}
	return all
}()

// scopes are those of services.
var scopes = map[string]scope{
	"Topics": scopeTenant, "Groups": scopeTenant, "Clients": scopeTenant, "Sessions": scopeTenant, "Subscriptions": scopeTenant, "Users": scopeTenant,
	"Acls": scopeTenant, "Quotas": scopeTenant, "Explanations": scopeTenant,
	"Bans": scopeNode, "Bindings": scopeNode, "Backups": scopeNode, "Tiers": scopeNode, "Nodes": scopeNode, "Shards": scopeNode, "Tenants": scopeNode,
}

// Principal is somebody who may call.
type Principal struct {
	Name string
	Role Role
	// Tenant is the one within which Role counts: the principal calls nothing of another one's, and nothing that is the node's. Empty: it may say any.
	Tenant string
	// Token is what it shows; its hash alone is kept. Empty: it has none.
	Token string
	// Certificate is a name in the certificate that it shows: the common name or an alternative one. Empty: it has none.
	Certificate string
}

// Principals are all who may call; it is built anew for another configuration. The zero value lets in whoever calls from loopback, as an admin.
type Principals struct {
	list []principal
}

type principal struct {
	name   string
	role   Role
	tenant string
	token  [sha256.Size]byte // hash

	hasToken    bool
	certificate string
}

// controlToken is the name of who shows auth.control_token.
const controlToken = "control_token"

// NewPrincipals makes them of auth.control_token, which may be empty, and of those that have names of their own.
func NewPrincipals(token string, list []Principal) *Principals {
	p := new(Principals)
	if token != "" {
		p.list = append(p.list, principal{name: controlToken, role: RoleAdmin, token: sha256.Sum256([]byte(token)), hasToken: true})
	}
	for _, e := range list {
		n := principal{name: e.Name, role: e.Role, tenant: e.Tenant, hasToken: e.Token != "", certificate: e.Certificate}
		if n.hasToken {
			n.token = sha256.Sum256([]byte(e.Token))
		}
		p.list = append(p.list, n)
	}
	return p
}

func (p *principal) caller(by string) caller {
	return caller{name: p.name, role: p.role, by: by, bound: p.tenant}
}

// byToken finds who has this token. It compares with all of them, hashes with hashes, so that the time that it takes says nothing about any.
func (p *Principals) byToken(token string) (caller, bool) {
	h := sha256.Sum256([]byte(token))
	found := -1
	for i := range p.list {
		if p.list[i].hasToken {
			found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(h[:], p.list[i].token[:]), i, found)
		}
	}
	if found < 0 {
		return caller{}, false
	}
	return p.list[found].caller("token"), true
}

// byCertificate finds who has a name that a certificate has.
func (p *Principals) byCertificate(c *x509.Certificate) (caller, bool) {
	names := append([]string{c.Subject.CommonName}, c.DNSNames...)
	names = append(names, c.EmailAddresses...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for i := range p.list {
		if e := &p.list[i]; e.certificate != "" && slices.Contains(names, e.certificate) {
			return e.caller("certificate"), true
		}
	}
	return caller{}, false
}

// certificates says whether any of them has one.
func (p *Principals) certificates() bool {
	return slices.ContainsFunc(p.list, func(e principal) bool { return e.certificate != "" })
}

// caller is who has made a call.
type caller struct {
	name string
	role Role
	by   string // token, certificate or loopback
	// bound is the tenant that it is of, and calls nothing but what is of that. Empty: of none.
	bound string
	in    tenancy // what this call is about
}

// identify finds out who calls. Its error says how to say so.
func (s *Server) identify(ctx context.Context) (caller, error) {
	if c, ok := ctx.Value(forwardedKey{}).(caller); ok {
		return c, nil // the node that took the call has found it out
	}
	ps := s.o.Principals()
	if len(ps.list) == 0 {
		if fromLoopback(ctx) {
			return caller{name: "loopback", role: RoleAdmin, by: "loopback"}, nil
		}
		return caller{}, status.Error(codes.Unauthenticated,
			"the node has no token for its control plane: it answers on loopback alone; set auth.control_token or control.principals")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	shown := md.Get("authorization")
	for _, v := range shown {
		if token, ok := strings.CutPrefix(v, "Bearer "); ok {
			if c, ok := ps.byToken(token); ok {
				return c, nil
			}
		}
	}
	if len(shown) == 0 {
		return s.identifyByCertificate(ctx, ps)
	}
	return caller{}, status.Error(codes.Unauthenticated,
		"the token is not one of the node's control plane (auth.control_token, control.principals)")
}

// identifyByCertificate finds out who calls without a token. A certificate is checked anew at each call: it ends, and it is revoked, on connections
// that are open too.
func (s *Server) identifyByCertificate(ctx context.Context, ps *Principals) (caller, error) {
	chain := shownCertificates(ctx)
	if len(chain) == 0 || s.o.VerifyCaller == nil {
		or := ""
		if ps.certificates() {
			or = ", or show a certificate by --cert and --key (grpcs://)"
		}
		return caller{}, status.Error(codes.Unauthenticated,
			"the node asks for a token of its control plane (auth.control_token, control.principals), and none was shown: give it by --token or SLUICE_TOKEN"+or)
	}
	who := quoted(chain[0].Subject.CommonName)
	if err := s.o.VerifyCaller(chain); err != nil {
		return caller{}, status.Errorf(codes.Unauthenticated, "the certificate of %s is not good here: %v (control.client_ca)", who, err)
	}
	c, ok := ps.byCertificate(chain[0])
	if !ok {
		return caller{}, status.Errorf(codes.Unauthenticated, "the certificate of %s is no principal's (control.principals)", who)
	}
	return c, nil
}

// shownCertificates are those that a caller has shown in its handshake, its own first.
func shownCertificates(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil
	}
	return info.State.PeerCertificates
}

// may says whether c may call a method.
func (c caller) may(method string) error {
	r := rules[method]
	switch {
	case r.least == RoleNone, r.scope == scopeUnknown:
		return status.Errorf(codes.PermissionDenied, "%s has no role that may call it: that is a fault of this version", methodName(method))
	case c.bound != "" && r.scope == scopeNode:
		return status.Errorf(codes.PermissionDenied, "%s is about the node, and %s is of the tenant %s alone (control.principals)", methodName(method), quoted(c.name), c.bound)
	case c.role < r.least:
		return status.Errorf(codes.PermissionDenied, "%s needs the role %s, and %s is %s (control.principals)", methodName(method), r.least, quoted(c.name), c.role)
	}
	return nil
}
