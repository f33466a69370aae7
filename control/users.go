package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/meta"
)

// userService is the service Users.
type userService struct {
	api.UnsafeUsersServer // a method that is missing does not compile
	s                     *Server
	names                 userNames
}

// Where a user, a rule or a binding comes from.
const (
	sourceCatalog       = "catalog"
	sourceFile          = "file"
	sourceConfiguration = "configuration"
)

// userNames are the names of all users, of the catalog and of the file, in their order, made anew when one of them has changed.
type userNames struct {
	sync.Mutex
	catalog, file uint64
	list          []string
	known         bool
}

func (u *userNames) sorted(s *Server) []string {
	u.Lock()
	defer u.Unlock()
	file, now := s.o.Gate.Generation(), s.o.Catalog.Load()
	if u.known && u.catalog == now.Generation() && u.file == file {
		return u.list
	}
	list := slices.Clone(s.o.Gate.FileUsers())
	for name := range now.Users() {
		list = append(list, name)
	}
	slices.Sort(list)
	u.list, u.catalog, u.file, u.known = slices.Compact(list), now.Generation(), file, true
	return u.list
}

// shown is a user of a tenant as it counts, nil if there is none. The password file's are the default tenant's.
func (c *userService) shown(tenant uint32, name string) *api.User {
	user := c.s.o.Catalog.Load().User(name)
	if user != nil && user.Tenant != tenant {
		user = nil
	}
	if tenant == defaultTenant && c.s.o.Gate.InFile(name) {
		return &api.User{Name: text(name), Source: sourceFile, Mechanisms: []string{"password"}, Shadowed: user != nil}
	}
	if user == nil {
		return nil
	}
	out := &api.User{Name: text(name), Source: sourceCatalog, Disabled: user.Disabled}
	if user.Password != "" || len(user.SCRAM) > 0 {
		out.Mechanisms = append(out.Mechanisms, "password")
	}
	for i := range user.SCRAM {
		out.Mechanisms = append(out.Mechanisms, user.SCRAM[i].Mechanism.String())
	}
	return out
}

// List goes through the users.
func (c *userService) List(ctx context.Context, r *api.ListUsersRequest) (*api.ListUsersResponse, error) {
	size, err := sizeOf(r.PageSize)
	if err != nil {
		return nil, err
	}
	out, tenant := &api.ListUsersResponse{}, tenantOf(ctx)
	next, err := pageOfNames(ctx, c.names.sorted(c.s), r.PageToken, r.Contains, func(name string) bool {
		if u := c.shown(tenant, name); u != nil {
			out.Users = append(out.Users, u)
		}
		return len(out.Users) < size
	})
	out.NextPageToken = next
	return out, err
}

// pageOfNames goes through sorted names behind token until take answers false.
func pageOfNames(ctx context.Context, names []string, token []byte, contains string, take func(name string) bool) (next []byte, err error) {
	at := 0
	if len(token) > 0 {
		i, found := slices.BinarySearch(names, string(token))
		if at = i; found {
			at++
		}
	}
	for seen := 1; at < len(names); at++ {
		more := true
		if strings.Contains(names[at], contains) {
			more = take(names[at])
		}
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		if (!more || seen > pageRows) && at+1 < len(names) {
			return []byte(names[at]), nil
		}
		if !more {
			return nil, nil
		}
	}
	return nil, nil
}

// setCredentials puts what is stored of a password into u.
func setCredentials(what string, u *meta.User, c *api.Credentials) error {
	if c.GetPassword() == "" && len(c.GetScram()) == 0 {
		return wrong("%s: there are no credentials", what)
	}
	if u.Password = c.Password; c.Password != "" {
		if err := auth.CheckHash(c.Password); err != nil {
			return wrong("%s: the password is to be hashed: %v", what, err)
		}
	}
	u.SCRAM = nil
	for _, s := range c.Scram {
		cred := meta.Credential{Iterations: int(s.Iterations), Salt: string(s.Salt), StoredKey: string(s.StoredKey), ServerKey: string(s.ServerKey)}
		switch s.Mechanism {
		case auth.SCRAMSHA256:
			cred.Mechanism = meta.SCRAMSHA256
		case auth.SCRAMSHA512:
			cred.Mechanism = meta.SCRAMSHA512
		}
		if err := cred.Check(); err != nil {
			return wrong("%s: %s: %v", what, quoted(s.Mechanism), err)
		}
		*u = *u.WithCredential(cred)
	}
	return nil
}

// change makes a user anew out of what there is: nil to refuse with an error of its own, or to delete. For change somebody of another tenant is not there.
func (c *userService) change(ctx context.Context, what, name string, change func(have *meta.User) (*meta.User, error)) error {
	if err := meta.CheckUserName(name); err != nil {
		return wrong("%s: %v", what, err)
	}
	tenant := tenantOf(ctx)
	if c.s.o.Gate.InFile(name) {
		if tenant != defaultTenant {
			_, err := change(nil)
			return cmp.Or(err, taken(what))
		}
		return status.Errorf(codes.FailedPrecondition, "%s: it is one of auth.password_file, which counts before the catalog: "+
			"change it there (sluice passwd --file), and reload", what)
	}
	if u := c.shown(tenant, name); u != nil {
		was(ctx, u)
	}
	err := awaitError(ctx, func(done func(error)) {
		c.s.o.Catalog.Update(func(s *meta.Snapshot) ([]meta.Entry, error) {
			have := s.User(name)
			if have != nil && have.Tenant != tenant {
				_, err := change(nil)
				return nil, cmp.Or(err, taken(what))
			}
			next, err := change(have)
			switch {
			case err != nil:
				return nil, err
			case next == nil:
				return []meta.Entry{meta.DeleteUser(name)}, nil
			}
			return []meta.Entry{next.Entry()}, nil
		}, done)
	})
	if err != nil {
		return refuse(err, what, "")
	}
	return nil
}

// taken refuses a name that somebody has in another tenant: names of users are of all tenants.
func taken(what string) error {
	return status.Errorf(codes.AlreadyExists, "%s: the name is taken: no two tenants have a user of one name", what)
}

func noUser(what string) error {
	return missing("%s: there is none; sluice user list shows who there is", what)
}

// after is what a change answers.
func (c *userService) after(ctx context.Context, name string, err error) (*api.User, error) {
	if err != nil {
		return nil, err
	}
	if u := c.shown(tenantOf(ctx), name); u != nil {
		return u, nil
	}
	return &api.User{Name: text(name)}, nil // somebody has deleted it since
}

// Add makes a user.
func (c *userService) Add(ctx context.Context, r *api.AddUserRequest) (*api.User, error) {
	what := "add user " + quoted(r.Name)
	user := &meta.User{Name: r.Name, Tenant: tenantOf(ctx), Disabled: r.Disabled}
	if err := setCredentials(what, user, r.Credentials); err != nil {
		return nil, err
	}
	return c.after(ctx, r.Name, c.change(ctx, what, r.Name, func(have *meta.User) (*meta.User, error) {
		if have != nil {
			return nil, status.Errorf(codes.AlreadyExists, "%s: it exists; sluice user passwd changes its password", what)
		}
		return user, nil
	}))
}

// SetPassword changes what a user has to know.
func (c *userService) SetPassword(ctx context.Context, r *api.SetPasswordRequest) (*api.User, error) {
	what := "set the password of user " + quoted(r.Name)
	fresh := &meta.User{}
	if err := setCredentials(what, fresh, r.Credentials); err != nil {
		return nil, err
	}
	return c.after(ctx, r.Name, c.change(ctx, what, r.Name, func(have *meta.User) (*meta.User, error) {
		if have == nil {
			return nil, noUser(what)
		}
		next := *have
		next.Password, next.SCRAM = fresh.Password, fresh.SCRAM
		return &next, nil
	}))
}

// SetDisabled keeps a user out, or lets it in.
func (c *userService) SetDisabled(ctx context.Context, r *api.SetDisabledRequest) (*api.User, error) {
	what := "enable user " + quoted(r.Name)
	if r.Disabled {
		what = "disable user " + quoted(r.Name)
	}
	return c.after(ctx, r.Name, c.change(ctx, what, r.Name, func(have *meta.User) (*meta.User, error) {
		if have == nil {
			return nil, noUser(what)
		}
		next := *have
		next.Disabled = r.Disabled
		return &next, nil
	}))
}

// Delete forgets a user.
func (c *userService) Delete(ctx context.Context, r *api.DeleteUserRequest) (*api.DeleteUserResponse, error) {
	what := "delete user " + quoted(r.Name)
	err := c.change(ctx, what, r.Name, func(have *meta.User) (*meta.User, error) {
		if have == nil {
			return nil, noUser(what)
		}
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	return &api.DeleteUserResponse{}, nil
}
