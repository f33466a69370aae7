package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
)

// Tenant is a name space of its own: the MQTT topics, client ids, retained messages and shared groups, and the Kafka topics, groups and transactional ids of
// one tenant's clients are not those of another's, whatever they are called. Users, rules and quotas belong to a tenant each.
//
// The default tenant has number 0, and no entry: it is there always.
type Tenant struct {
	Name     string
	Number   uint32 // what all that is kept of the tenant is kept under. It is given once, and to nobody else afterwards
	Disabled bool   // its clients are kept out
	Removed  bool   // it is none any more. The entry stays for its number's sake
	Limits   []QuotaValue
}

// DefaultTenant is the name of the tenant that has number 0.
const DefaultTenant = "default"

// The limits of a tenant, all of its clients together. Rates are for a second.
const (
	TenantConnections = "connections"  // of MQTT and Kafka
	TenantConnectRate = "connect_rate" // of MQTT and Kafka
	TenantMessagesIn  = "messages_in"  // a second: PUBLISH packets from clients
	TenantMessagesOut = "messages_out" // a second: PUBLISH packets to clients
	TenantBytesIn     = "bytes_in"     // a second: of PUBLISH packets and produced batches
	TenantBytesOut    = "bytes_out"    // a second: of PUBLISH packets and fetched batches
	TenantTopics      = "topics"       // Kafka topics
	TenantSessions    = "sessions"     // of MQTT, that are kept
	TenantRetained    = "retained"     // retained messages
)

var tenantLimits = []string{TenantBytesIn, TenantBytesOut, TenantConnectRate, TenantConnections, TenantMessagesIn, TenantMessagesOut, TenantRetained, TenantSessions, TenantTopics}

// TenantLimits are the names of all limits that a tenant can have, sorted.
func TenantLimits() []string { return slices.Clone(tenantLimits) }

// Bounds of tenants.
const (
	TenantNameMax = 63
	TenantsMax    = 4096 // those that are removed among them, until there is no room
)

// Errors of tenants.
var (
	ErrTooManyTenants = fmt.Errorf("there are %d tenants, as many as are kept", TenantsMax)
	ErrTenant         = errors.New("there is no such tenant")
	ErrTenantThere    = errors.New("the tenant is there already")
	ErrTenantUsed     = errors.New("the tenant is not empty")
)

// CheckTenantName says what is wrong with a tenant's name. The default tenant's is not wrong.
func CheckTenantName(name string) error {
	if name == "" || len(name) > TenantNameMax {
		return fmt.Errorf("want a tenant's name of 1 to %d bytes, found %d", TenantNameMax, len(name))
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '-'):
		default:
			return fmt.Errorf("tenant name %q: want a letter from a to z, and those, digits and - behind it", name)
		}
	}
	return nil
}

// Check says what is wrong with a tenant.
func (t *Tenant) Check() error {
	if err := CheckTenantName(t.Name); err != nil {
		return err
	}
	if t.Name == DefaultTenant || t.Number == 0 {
		return fmt.Errorf("the tenant %s has number 0, and no other", DefaultTenant)
	}
	for i, l := range t.Limits {
		switch _, known := slices.BinarySearch(tenantLimits, l.Key); {
		case !known:
			return fmt.Errorf("a tenant has no limit %q: want one of %v", l.Key, tenantLimits)
		case i > 0 && t.Limits[i-1].Key >= l.Key:
			return errors.New("its limits are not in order")
		case !(l.Value > 0) || math.IsInf(l.Value, 1):
			return fmt.Errorf("limit %s: want a number above 0, found %v", l.Key, l.Value)
		}
	}
	return nil
}

// Limit is a limit of the tenant; ok false: it has none. A nil tenant has none.
func (t *Tenant) Limit(name string) (value float64, ok bool) {
	if t == nil {
		return 0, false
	}
	for _, l := range t.Limits {
		if l.Key == name {
			return l.Value, true
		}
	}
	return 0, false
}

// SetLimits takes limits, in the order in which they are kept.
func (t *Tenant) SetLimits(limits map[string]float64) {
	t.Limits = nil
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		t.Limits = append(t.Limits, QuotaValue{key, limits[key]})
	}
}

const (
	tenantDisabled = 1 << iota
	tenantRemoved
)

// Entry is what is stored of the tenant.
func (t *Tenant) Entry() Entry {
	flags := byte(0)
	if t.Disabled {
		flags |= tenantDisabled
	}
	if t.Removed {
		flags |= tenantRemoved
	}
	b := binary.AppendUvarint(append(kindTenant.begin(nil), flags), uint64(t.Number))
	b = binary.AppendUvarint(b, uint64(len(t.Limits)))
	for _, l := range t.Limits {
		b = binary.LittleEndian.AppendUint64(appendString(b, l.Key), math.Float64bits(l.Value))
	}
	return Entry{Key: kindTenant.key(t.Name), Value: b}
}

func decodeTenant(name string, d *decoder) (any, error) {
	flags := d.byte()
	t := &Tenant{Name: name, Number: d.uint32(), Disabled: flags&tenantDisabled != 0, Removed: flags&tenantRemoved != 0}
	for n := d.count(); n > 0 && !d.bad; n-- {
		t.Limits = append(t.Limits, QuotaValue{Key: d.string(), Value: math.Float64frombits(d.uint64())})
	}
	if d.bad {
		return t, nil // told by who reads the rest
	}
	return t, t.Check()
}

// AddTenant is the rule for adding a tenant. The number is one that no tenant has had.
func AddTenant(s *Snapshot, t Tenant) ([]Entry, error) {
	if err := tenantsKnown(s); err != nil {
		return nil, err
	}
	old, _ := get[*Tenant](s, kindTenant, t.Name)
	if t.Name == DefaultTenant || old != nil && !old.Removed {
		return nil, fmt.Errorf("tenant %q: %w", t.Name, ErrTenantThere)
	}
	var list []Entry
	oldest := old
	for _, o := range s.everyTenant() {
		t.Number = max(t.Number, o.Number)
		if o.Removed && (oldest == nil || oldest != old && o.Number < oldest.Number) {
			oldest = o
		}
	}
	if t.Number == math.MaxUint32 {
		return nil, ErrTooManyTenants
	}
	t.Number, t.Removed = t.Number+1, false
	if err := t.Check(); err != nil {
		return nil, err
	}
	if old == nil && s.tables[kindTenant].count >= TenantsMax {
		if oldest == nil {
			return nil, ErrTooManyTenants
		}
		list = append(list, Entry{Key: kindTenant.key(oldest.Name)}) // the new one has a higher number than all
	}
	return append(list, t.Entry()), nil
}

// ChangeTenant is the rule for changing a tenant that is there: change gets a copy.
func ChangeTenant(s *Snapshot, name string, change func(*Tenant)) ([]Entry, error) {
	t := s.Tenant(name)
	if t == nil || t.Number == 0 {
		return nil, fmt.Errorf("tenant %q: %w", name, ErrTenant)
	}
	next := *t
	next.Limits = slices.Clone(t.Limits)
	if change(&next); next.Name != t.Name || next.Number != t.Number || next.Removed {
		return nil, errors.New("a tenant keeps its name and number")
	}
	return []Entry{next.Entry()}, next.Check()
}

// RemoveTenant is the rule for removing a tenant that has no users, rules and quotas any more. What else it may have, its topics and sessions, who calls has looked at.
func RemoveTenant(s *Snapshot, name string) ([]Entry, error) {
	t := s.Tenant(name)
	if t == nil || t.Number == 0 {
		return nil, fmt.Errorf("tenant %q: %w", name, ErrTenant)
	}
	for _, u := range s.Users() {
		if u.Tenant == t.Number {
			return nil, fmt.Errorf("tenant %q: %w: it has the user %q", name, ErrTenantUsed, u.Name)
		}
	}
	for _, a := range s.ACLs() {
		if a.Tenant == t.Number {
			return nil, fmt.Errorf("tenant %q: %w: it has ACLs, as of %q", name, ErrTenantUsed, a.Principal)
		}
	}
	for _, q := range s.Quotas() {
		if q.Tenant == t.Number {
			return nil, fmt.Errorf("tenant %q: %w: it has quotas", name, ErrTenantUsed)
		}
	}
	return []Entry{(&Tenant{Name: name, Number: t.Number, Removed: true}).Entry()}, nil
}

// tenantsKnown refuses what belongs to a tenant in a cluster some of whose nodes do not know what that is.
func tenantsKnown(s *Snapshot) error {
	if c := s.Cluster(); c != nil && c.Level < LevelTenants {
		return fmt.Errorf("%w: tenants are known from level %d on, the cluster is at %d until all of its nodes run this program", ErrLevel, LevelTenants, c.Level)
	}
	return nil
}

var theDefaultTenant = &Tenant{Name: DefaultTenant}

// Tenant finds a tenant by its name, nil if there is none; the default one has no limits, and is not to be written to.
func (s *Snapshot) Tenant(name string) *Tenant {
	if name == DefaultTenant {
		return theDefaultTenant
	}
	if t, _ := get[*Tenant](s, kindTenant, name); t != nil && !t.Removed {
		return t
	}
	return nil
}

// TenantByNumber finds a tenant, nil if there is none. It walks all of them: not for hot paths.
func (s *Snapshot) TenantByNumber(n uint32) *Tenant {
	if n == 0 {
		return theDefaultTenant
	}
	for _, p := range s.tables[kindTenant].parts {
		for _, v := range p.all() {
			if t := v.(*Tenant); t.Number == n && !t.Removed {
				return t
			}
		}
	}
	return nil
}

func (s *Snapshot) everyTenant() iter.Seq2[string, *Tenant] { return all[*Tenant](s, kindTenant) }

// Tenants walks the tenants beside the default one, in the order of their names. It sorts: not for hot paths.
func (s *Snapshot) Tenants() iter.Seq2[string, *Tenant] {
	return func(yield func(string, *Tenant) bool) {
		for name, t := range s.everyTenant() {
			if !t.Removed && !yield(name, t) {
				return
			}
		}
	}
}

// TenantsChanged says whether the tenants may differ between two snapshots.
func TenantsChanged(old, now *Snapshot) bool { return now.changed(kindTenant, old) }
