package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
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
	changes bool // something that outlives the call
	open    bool // to everybody, without saying who he is
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
		"Bindings":      {"Add": govern, "List": view, "Delete": govern, "Explain": view},
		"Backups":       {"Create": operate, "List": view, "Verify": inspect, "Delete": operate},
		"Tiers": {"Describe": view, "DescribeTopic": view, "Verify": inspect, "Rebuild": operate, "Prefetch": operate, "Offload": operate,
			"Adopt": operate},
		"Nodes":  {"List": view, "Add": govern, "Remove": govern, "Replace": govern, "Drain": operate},
		"Shards": {"Status": view, "Move": operate, "ElectUnclean": govern},
	} {
		for method, r := range methods {
			all["/sluice.control.v1."+service+"/"+method] = r
		}
	}
	for _, method := range []string{"Check", "List", "Watch"} {
		all["/grpc.health.v1.Health/"+method] = rule{open: true} // probes have no secret, and it tells none
	}
	for _, version := range []string{"v1", "v1alpha"} {
		all["/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo"] = view
	}
	return all
}()

// Principal is somebody who may call.
type Principal struct {
	Name string
	Role Role
	// Token is what it shows; New and the Server keep its hash alone. Empty: it has none.
	Token string
}

// Principals are all who may call; it is built anew for another configuration. The zero value lets in whoever calls from loopback, as an admin.
type Principals struct {
	list []principal
}

type principal struct {
	name  string
	role  Role
	token [sha256.Size]byte
}

// controlToken is the name of who shows auth.control_token.
const controlToken = "control_token"

// NewPrincipals makes them of auth.control_token, which may be empty, and of those that have names of their own.
func NewPrincipals(token string, list []Principal) *Principals {
	p := new(Principals)
	if token != "" {
		p.list = append(p.list, principal{controlToken, RoleAdmin, sha256.Sum256([]byte(token))})
	}
	for _, e := range list {
		if e.Token != "" {
			p.list = append(p.list, principal{e.Name, e.Role, sha256.Sum256([]byte(e.Token))})
		}
	}
	return p
}

// byToken finds who has this token. It compares with all of them, hashes with hashes, so that the time that it takes says nothing about any.
func (p *Principals) byToken(token string) (caller, bool) {
	h := sha256.Sum256([]byte(token))
	found := -1
	for i := range p.list {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(h[:], p.list[i].token[:]), i, found)
	}
	if found < 0 {
		return caller{}, false
	}
	return caller{p.list[found].name, p.list[found].role}, true
}

// caller is who has made a call.
type caller struct {
	name string
	role Role
}

// identify finds out who calls. Its error says how to say so.
func (s *Server) identify(ctx context.Context) (caller, error) {
	ps := s.o.Principals()
	if len(ps.list) == 0 {
		if fromLoopback(ctx) {
			return caller{"loopback", RoleAdmin}, nil
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
		return caller{}, status.Error(codes.Unauthenticated,
			"the node asks for a token of its control plane (auth.control_token, control.principals), and none was shown: give it by --token or SLUICE_TOKEN")
	}
	return caller{}, status.Error(codes.Unauthenticated,
		"the token is not one of the node's control plane (auth.control_token, control.principals)")
}

// may says whether c may call a method.
func (c caller) may(method string) error {
	r := rules[method]
	switch {
	case r.least == RoleNone:
		return status.Errorf(codes.PermissionDenied, "%s has no role that may call it: that is a fault of this version", methodName(method))
	case c.role < r.least:
		return status.Errorf(codes.PermissionDenied, "%s needs the role %s, and %s is %s (control.principals)", methodName(method), r.least, quoted(c.name), c.role)
	}
	return nil
}
