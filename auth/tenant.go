package auth

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// Tenant is one of those that there are beside the default one.
type Tenant struct {
	Name     string
	Number   uint32 // above 0
	Disabled bool   // its clients are kept out
}

const (
	defaultTenant = "default"
	tenantNameMax = 63
	// noTenant is where a client is of whom something says that it is in a tenant that is not there. No tenant has this number before as many have come and gone.
	noTenant = math.MaxUint32
	// tenantNamed is the Secret of a client whose tenant a token or an answer has named: it does not move with the listener's.
	tenantNamed = 1
)

// checkTenantName says what is wrong with a tenant's name.
func checkTenantName(name string) error {
	for i := range len(name) {
		c := name[i]
		if letter := 'a' <= c && c <= 'z'; !letter && (i == 0 || (c < '0' || c > '9') && c != '-') || i >= tenantNameMax {
			return fmt.Errorf("want the name of a tenant: a letter from a to z, and up to %d of those, digits and - behind it, found %q", tenantNameMax-1, name)
		}
	}
	return nil
}

// tenants are those that there are. They are immutable; the zero value has the default one alone.
type tenants struct {
	numbers map[string]uint32
	list    map[uint32]Tenant
}

// scope is what the clients of one tenant are judged by. It is immutable.
type scope struct {
	acl    *acl // nil: no line of the rule file is about the tenant; for the default one: there is no rule file
	grants *grants
	super  map[string]struct{}
	open   openness
}

// SetTenants takes over the tenants beside the default one, all of them. Connections are to be asked about by Recheck afterwards.
func (p *Provider) SetTenants(list []Tenant) {
	t := tenants{numbers: make(map[string]uint32, len(list)), list: make(map[uint32]Tenant, len(list))}
	for _, e := range list {
		if e.Number != 0 && e.Name != defaultTenant {
			t.numbers[e.Name], t.list[e.Number] = e.Number, e
		}
	}
	p.change(func(rs *ruleSet) { rs.tenants = t })
}

// scopeOf is what a tenant's clients are judged by; nil: they may do nothing, as there is no such tenant, or it is disabled.
func (rs *ruleSet) scopeOf(tenant uint32) *scope {
	if tenant == 0 {
		return &rs.scope
	}
	return rs.scopes[tenant]
}

// divide gives each tenant what it is judged by, and each listener that has a tenant its number. Nobody is a super user of another tenant than the default
// one, but where those are named, no tenant is open.
func (rs *ruleSet) divide(open, sure bool) {
	rs.scopes = nil
	if len(rs.tenants.list) > 0 {
		rs.scopes = make(map[uint32]*scope, len(rs.tenants.list))
	}
	for number, t := range rs.tenants.list {
		if !t.Disabled {
			s := &scope{acl: rs.lines[t.Name], grants: rs.granted.of(number)}
			s.open = openWithout(open, sure, s)
			rs.scopes[number] = s
		}
	}
	rs.places = nil
	for name, at := range rs.o.At {
		if at.Tenant == "" {
			continue
		}
		if rs.places == nil {
			rs.places = make(map[string]uint32)
		}
		rs.places[name] = rs.numberOf(at.Tenant)
	}
}

// numberOf finds a tenant by its name; noTenant: there is none.
func (rs *ruleSet) numberOf(name string) uint32 {
	if name == defaultTenant {
		return 0
	}
	if n, known := rs.tenants.numbers[name]; known {
		return n
	}
	return noTenant
}

// moves puts a client into the tenant that a token or a server's answer names; an empty name leaves it in its listener's.
func (rs *ruleSet) moves(id *broker.Identity, name string) {
	if name == "" {
		return
	}
	if id.Tenant, id.Secret = rs.numberOf(name), tenantNamed; id.Tenant == noTenant {
		rs.tell("there is no such tenant", name, id.Source, id.User, id.ClientID, id.Listener)
	}
}

var (
	errNoTenant       = errors.New("there is no such tenant")
	errTenantDisabled = errors.New("the tenant is disabled")
	errOtherTenant    = errors.New("the listener is for the clients of another tenant")
	errMoved          = errors.New("the client is in another tenant now")
)

// placed says why nobody may be in a tenant by a listener; nil: one may.
func (rs *ruleSet) placed(tenant uint32, listener string) error {
	if own, has := rs.places[listener]; has && own != tenant {
		return errOtherTenant
	}
	if tenant == 0 {
		return nil
	}
	switch t, known := rs.tenants.list[tenant]; {
	case !known:
		return errNoTenant
	case t.Disabled:
		return errTenantDisabled
	}
	return nil
}

// misplaced is placed for a client that comes, with a line in the log.
func (rs *ruleSet) misplaced(id broker.Identity) error {
	why := rs.placed(id.Tenant, id.Listener)
	if why == nil {
		return nil
	}
	t, known := rs.tenants.list[id.Tenant]
	switch {
	case known:
	case id.Tenant == 0:
		t.Name = defaultTenant
	case id.Tenant != noTenant:
		t.Name = fmt.Sprint("number ", id.Tenant)
	case id.Secret == tenantNamed: // it was told when it was named
		return refuse(broker.ErrNotAuthorized, why)
	default:
		t.Name = rs.o.At[id.Listener].Tenant
	}
	rs.tell(why.Error(), t.Name, id.Source, id.User, id.ClientID, id.Listener)
	return refuse(broker.ErrNotAuthorized, why)
}

// recheckPlace says why a client may not stay in its tenant. Users of the catalog are looked at by themselves.
func (rs *ruleSet) recheckPlace(id *broker.Identity) error {
	if why := rs.placed(id.Tenant, id.Listener); why != nil {
		return why
	}
	switch id.Source {
	case sourcePassword, SCRAMSHA256, SCRAMSHA512:
		return nil
	case OAuthBearer:
		if id.Secret == tenantNamed {
			if rs.tokens == nil || rs.tokens.o.TenantClaim == "" {
				return errMoved
			}
			return nil
		}
	case sourceHTTP:
		if id.Secret == tenantNamed {
			return nil
		}
	}
	return rs.recheckListener(id)
}

// recheckListener says why a client that is in its listener's tenant may not stay there.
func (rs *ruleSet) recheckListener(id *broker.Identity) error {
	if rs.places[id.Listener] != id.Tenant {
		return errMoved
	}
	return nil
}

// logLines are the lines of the log about clients that are refused, so many in a second.
type logLines struct{ second, lines atomic.Int64 }

const (
	refusedLinesMax = 5   // in a second
	refusedShown    = 100 // bytes of a name in them
)

// room says whether one more may be written.
func (l *logLines) room(now time.Time) bool {
	if sec := now.Unix(); l.second.Swap(sec) != sec {
		l.lines.Store(0)
	}
	return l.lines.Add(1) <= refusedLinesMax
}

// shownName is what a client has said, cut to what is shown of it.
func shownName(s string) string {
	if len(s) > refusedShown {
		return strings.ToValidUTF8(s[:refusedShown], "") + "…"
	}
	return s
}

// tell writes a line about a client that is refused for its tenant.
func (rs *ruleSet) tell(why, tenant, by, user, client, listener string) {
	if rs.told.room(rs.o.Now()) {
		rs.o.Logger.Warn("a client is refused for its tenant", "why", why, "tenant", shownName(tenant), "by", by, "user", shownName(user),
			"client_id", shownName(client), "listener", listener)
	}
}
