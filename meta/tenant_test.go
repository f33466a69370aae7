package meta

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestTenantEncoding(t *testing.T) {
	x := &Tenant{Name: "acme", Number: 1 << 31, Disabled: true}
	x.SetLimits(map[string]float64{TenantTopics: 5, TenantConnections: 1000, TenantBytesIn: 0.5})
	if got := entryOf(t, x.Entry()); !reflect.DeepEqual(got, x) {
		t.Errorf("%+v, want %+v", got, x)
	}
	if v, ok := x.Limit(TenantTopics); v != 5 || !ok {
		t.Errorf("topics: %v, %v", v, ok)
	}
	if _, ok := (*Tenant)(nil).Limit(TenantTopics); ok {
		t.Error("no tenant has a limit")
	}
	for name, bad := range map[string]Tenant{
		"no name": {Number: 1}, "a long name": {Name: strings.Repeat("x", TenantNameMax+1), Number: 1}, "a name with a digit first": {Name: "1a", Number: 1},
		"a name with a letter of its own": {Name: "Acme", Number: 1}, "no number": {Name: "a"}, "the default one": {Name: DefaultTenant, Number: 1},
		"an unknown limit": {Name: "a", Number: 1, Limits: []QuotaValue{{"cows", 1}}}, "a limit of nothing": {Name: "a", Number: 1, Limits: []QuotaValue{{TenantTopics, 0}}},
		"limits out of order": {Name: "a", Number: 1, Limits: []QuotaValue{{TenantTopics, 1}, {TenantBytesIn, 1}}},
	} {
		e := bad.Entry()
		if name == "no name" {
			if bad.Check() == nil {
				t.Error(name)
			}
			continue
		}
		if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is the default tenant's is stored as programs before tenants did, and read by them.
func TestTenantsOfOthers(t *testing.T) {
	entries := func(n uint32) []Entry {
		return []Entry{
			(&User{Name: "u", Tenant: n}).Entry(), (&ACL{Tenant: n, Name: "x", Principal: "User:u", Host: "*"}).Entry(),
			(&Quota{Tenant: n, User: QuotaName{QuotaNamed, "u"}, Values: []QuotaValue{{"k", 1}}}).Entry(),
		}
	}
	none, some, more := entries(0), entries(7), entries(8)
	for i := range none {
		if v := none[i].Value[0]; v != 1 {
			t.Errorf("%s has version %d", none[i].Key, v)
		}
		if v := some[i].Value[0]; v != 2 {
			t.Errorf("%s of a tenant has version %d", some[i].Key, v)
		}
		if i > 0 && (none[i].Key == some[i].Key || some[i].Key == more[i].Key) {
			t.Errorf("%s: two tenants have it in common", none[i].Key)
		}
		if got := reflect.ValueOf(entryOf(t, some[i])).Elem().FieldByName("Tenant").Uint(); got != 7 {
			t.Errorf("%s: of tenant %d", some[i].Key, got)
		}
		bad := some[i]
		bad.Value = append(bad.Value[:0:0], bad.Value...)
		bad.Value[0] = 3
		if _, _, _, err := bad.decode(); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of a newer version: %v", bad.Key, err)
		}
	}
}

func TestTenantRules(t *testing.T) {
	s := emptySnapshot()
	take := func(list []Entry, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e := s.edit()
		if err := e.enter(list); err != nil {
			t.Fatal(err)
		}
		s = e.take()
	}
	add := func(name string) ([]Entry, error) { return AddTenant(s, Tenant{Name: name}) }
	take(add("a"))
	take(add("b"))
	for _, name := range []string{"a", DefaultTenant} {
		list, err := add(name)
		refused(t, ErrTenantThere, list, err)
	}
	if a, b := s.Tenant("a"), s.Tenant("b"); a.Number != 1 || b.Number != 2 || s.TenantByNumber(2) != b || s.TenantByNumber(3) != nil {
		t.Errorf("%+v, %+v", a, b)
	}
	take([]Entry{(&User{Name: "u", Tenant: 2}).Entry()}, nil)
	list, err := RemoveTenant(s, "b")
	refused(t, ErrTenantUsed, list, err)
	take([]Entry{DeleteUser("u")}, nil)
	take(RemoveTenant(s, "b"))
	if s.Tenant("b") != nil || s.TenantByNumber(2) != nil {
		t.Error("it is there still")
	}
	take(add("b"))
	if n := s.Tenant("b").Number; n != 3 {
		t.Errorf("its number is %d, want one that nobody had", n)
	}
	take(ChangeTenant(s, "a", func(t *Tenant) { t.SetLimits(map[string]float64{TenantTopics: 3}) }))
	if v, _ := s.Tenant("a").Limit(TenantTopics); v != 3 {
		t.Errorf("a limit of %v topics", v)
	}
	for _, name := range []string{"c", DefaultTenant} {
		list, err = ChangeTenant(s, name, func(*Tenant) {})
		refused(t, ErrTenant, list, err)
		list, err = RemoveTenant(s, name)
		refused(t, ErrTenant, list, err)
	}
	for i := s.tables[kindTenant].count; i < TenantsMax; i++ {
		take(add(fmt.Sprint("t", i)))
	}
	list, err = add("more")
	refused(t, ErrTooManyTenants, list, err)
	take(RemoveTenant(s, "a"))
	take(RemoveTenant(s, "t9"))
	take(add("more"))
	if n, all := s.Tenant("more").Number, s.tables[kindTenant].count; n != TenantsMax+2 || all != TenantsMax {
		t.Errorf("number %d of %d", n, all)
	}
}

// A node of an earlier program halts by an entry whose kind it does not know.
func TestNoTenantsBeforeTheirLevel(t *testing.T) {
	p := formed(t, 1) // at the first level
	list, err := AddTenant(p.s, Tenant{Name: "a"})
	refused(t, ErrLevel, list, err)
	p.do(ClaimNode(p.s, 1, "disk1", testNode(1).Address, LevelTenants))
	p.do(RaiseLevel(p.s, LevelTenants))
	p.do(AddTenant(p.s, Tenant{Name: "a"}))
}
