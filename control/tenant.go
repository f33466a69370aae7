package control

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/meta"
)

// scope says whose things a method is about.
type scope uint8

// The scopes. A method without one may be called by nobody.
const (
	scopeUnknown scope = iota
	scopeTenant        // those of one tenant, which the call names
	scopeNode          // the node's, or those of all tenants
	scopeNobody        // what the program is, and whether it runs
)

// tenantKey is the metadata, and tenantHeader the header of HTTP, that names the tenant of a call.
const (
	tenantKey    = "sluice-tenant"
	tenantHeader = "Sluice-Tenant"
)

// defaultTenant is the number of the tenant whose topics bindings and the store are about.
const defaultTenant = 0

// tenancy is the tenant of a call. The zero value: the default one, which the call need not name.
type tenancy struct {
	name   string
	number uint32
}

// tenantOf is the number of the tenant of a call that was let in.
func tenantOf(ctx context.Context) uint32 {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c.in.number
}

// inTenant finds the tenant of a call. With an error it is the one that was named.
func (s *Server) inTenant(ctx context.Context, c caller, method string) (tenancy, error) {
	if _, forwarded := ctx.Value(forwardedKey{}).(caller); forwarded {
		return c.in, nil // the node that took the call has found it
	}
	md, _ := metadata.FromIncomingContext(ctx)
	said := md.Get(tenantKey)
	in := tenancy{name: c.bound}
	if len(said) > 0 {
		in.name = said[0]
	}
	shown := tenancy{name: short(in.name)}
	switch of := rules[method].scope; {
	case of == scopeNobody:
		return tenancy{}, nil
	case len(said) > 1:
		return shown, wrong("%s: want one tenant (%s), found %d", methodName(method), tenantKey, len(said))
	case of == scopeNode && len(said) > 0:
		return shown, wrong("%s is about the node, not about a tenant: call it without one (--tenant, %s)", methodName(method), tenantKey)
	case c.bound != "" && in.name != c.bound:
		return shown, status.Errorf(codes.PermissionDenied, "%s: %s is of the tenant %s, and calls nothing of another one's (control.principals)",
			methodName(method), quoted(c.name), c.bound)
	case len(said) == 0 && c.bound == "":
		return tenancy{}, nil
	}
	if err := meta.CheckTenantName(in.name); err != nil {
		return shown, wrong("%s: %v", methodName(method), err)
	}
	if in.name == meta.DefaultTenant {
		return in, nil
	}
	t := s.o.Catalog.Load().Tenant(in.name)
	if t == nil {
		return shown, noTenant(methodName(method), in.name)
	}
	in.number = t.Number
	return in, nil
}

func noTenant(what, name string) error {
	return missing("%s: there is no tenant %s; sluice tenant list shows which there are", what, quoted(name))
}

// tenantStream is a call that answers more than once, with its caller.
type tenantStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context has the caller.
func (t *tenantStream) Context() context.Context { return t.ctx }
