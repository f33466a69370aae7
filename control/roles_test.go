package control

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Every method that is registered has its least role, and none is named that is not there.
func TestEveryMethodHasARole(t *testing.T) {
	s := New(Options{})
	g := s.newGRPC(insecure.NewCredentials())
	defer g.Stop()
	seen := make(map[string]bool)
	for service, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			method := "/" + service + "/" + m.Name
			seen[method] = true
			if r, ok := rules[method]; !ok || !r.open && r.least == RoleNone {
				t.Errorf("%s has no role: name it in rules", method)
			}
			if rules[method].open && service != "grpc.health.v1.Health" {
				t.Errorf("%s is open to everybody", method)
			}
			reads := slices.ContainsFunc([]string{"List", "Describe", "Find", "Check", "Explain", "Watch", "Verify", "Status"}, func(v string) bool { return strings.HasPrefix(m.Name, v) })
			if strings.HasPrefix(method, "/sluice.") && reads == rules[method].changes {
				t.Errorf("%s changes something: %v, by its name it reads: %v", method, rules[method].changes, reads)
			}
			if rules[method].changes && rules[method].least < RoleOperator {
				t.Errorf("%s changes something, and %v may call it", method, rules[method].least)
			}
		}
	}
	for method, r := range rules {
		if !seen[method] {
			t.Errorf("%s has a role and is no method", method)
		}
		if r.least == RoleAdmin && (r.led || r.spread) {
			t.Errorf("%s is an admin's, and would be done for whoever another node says has called it", method)
		}
	}
	if len(seen) < 50 {
		t.Errorf("%d methods are registered", len(seen))
	}
}

// as gives a context of a call from a network that shows a token.
func as(token string) context.Context {
	ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7}})
	if token == "" {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
}

// For each role and each method: those may whose role is the method's or above it.
func TestRolesOfAllMethods(t *testing.T) {
	ps := NewPrincipals("token-of-the-node", []Principal{{Name: "eve", Role: RoleViewer, Token: "token-of-eve"}, {Name: "olaf", Role: RoleOperator, Token: "token-of-olaf"},
		{Name: "ann", Role: RoleAdmin, Token: "token-of-ann"}, {Name: "none", Role: RoleAdmin}})
	s := New(Options{Principals: func() *Principals { return ps }, Logger: slog.New(slog.DiscardHandler)})
	for method, r := range rules {
		for _, who := range []struct {
			token, name string
			role        Role
		}{{"token-of-eve", "eve", RoleViewer}, {"token-of-olaf", "olaf", RoleOperator}, {"token-of-ann", "ann", RoleAdmin}, {"token-of-the-node", controlToken, RoleAdmin}} {
			c, err := s.admit(as(who.token), method)
			switch {
			case r.open:
				if err != nil || c.role != RoleNone {
					t.Errorf("%s: %+v, %v", method, c, err)
				}
			case who.role >= r.least:
				if err != nil || c.name != who.name || c.role != who.role {
					t.Errorf("%s as %s: %+v, %v", method, who.name, c, err)
				}
			default:
				want := methodName(method) + " needs the role " + r.least.String() + `, and "` + who.name + `" is ` + who.role.String()
				if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), want) {
					t.Errorf("%s as %s: %v, want %q", method, who.name, err, want)
				}
			}
		}
		for _, token := range []string{"", "token-of", "token-of-eve ", "token-of-eve\x00"} {
			if _, err := s.admit(as(token), method); !r.open && status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %q: %v", method, token, err)
			}
		}
	}
	if _, err := s.admit(as("token-of-ann"), "/sluice.control.v1.Topics/Rename"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method without a role: %v", err)
	}
	if _, err := s.admit(peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}), "/sluice.control.v1.Topics/List"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("from loopback with nothing shown: %v", err)
	}
}

func TestRoleNames(t *testing.T) {
	for r := RoleViewer; r <= RoleAdmin; r++ {
		if ParseRole(r.String()) != r {
			t.Errorf("%v is read as %v", r, ParseRole(r.String()))
		}
	}
	for _, text := range []string{"", "none", "Admin", "root"} {
		if ParseRole(text) != RoleNone {
			t.Errorf("%q is %v", text, ParseRole(text))
		}
	}
}
