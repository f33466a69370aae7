package auth

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

var twoTenants = []Tenant{{Name: "plant", Number: 1}, {Name: "lab", Number: 2}}

// tenantBench has ann in the plant, lou in the lab and deb in the default tenant, all of the directory, bob in the file, listeners of both tenants and of the default
// one, and one whose tenant is not there.
func tenantBench(t *testing.T, change func(o *Options)) (*bench, *fakeDirectory, *bytes.Buffer) {
	t.Helper()
	b, d := directoryBench(t, map[string]string{"bob": "right"})
	for user, tenant := range map[string]uint32{"ann": 1, "lou": 2, "deb": 0} {
		a := accountOf(t, "right")
		a.Tenant = tenant
		d.set(user, a)
	}
	log := &bytes.Buffer{}
	b.o.Logger = slog.New(slog.NewTextHandler(log, nil))
	b.o.At = map[string]ListenerOptions{"mqtt.plant": {Tenant: "plant"}, "mqtt.lab": {Tenant: "lab"}, "mqtt.own": {Tenant: "default"}, "mqtt.typo": {Tenant: "plan"}}
	if change != nil {
		change(&b.o)
	}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	b.SetTenants(twoTenants)
	return b, d, log
}

const nowhere = -1 // the client is not let in

// comes looks where a client gets in: in which tenant, or nowhere. Each comes twice, so that what is remembered of it is seen too.
func (b *bench) comes(t *testing.T, c broker.Credentials, want int) (id broker.Identity) {
	t.Helper()
	for round := range 2 {
		var err error
		id, err = b.Authenticate(t.Context(), c)
		if quick, done, qerr := b.Quick(c); done && (quick.Tenant != id.Tenant || (qerr == nil) != (err == nil)) {
			t.Errorf("%s at %s, at once: tenant %d, %v; otherwise: %d, %v", c.Username, c.Listener, quick.Tenant, qerr, id.Tenant, err)
		}
		switch {
		case want == nowhere && !errors.Is(err, broker.ErrNotAuthorized):
			t.Errorf("round %d: %s at %s: tenant %d, %v", round, c.Username, c.Listener, id.Tenant, err)
		case want != nowhere && (err != nil || id.Tenant != uint32(want) || b.Recheck(&id, nil) != nil):
			t.Errorf("round %d: %s at %s: tenant %d, %v, %v, want %d", round, c.Username, c.Listener, id.Tenant, err, b.Recheck(&id, nil), want)
		}
	}
	return id
}

// A user of the catalog is in its own tenant by whatever listener, one of the file in the listener's; a listener with a tenant lets in nobody of another.
func TestTenantOfUsers(t *testing.T) {
	b, _, log := tenantBench(t, func(o *Options) { o.Anonymous = "everywhere" })
	for _, c := range []struct {
		user, listener string
		want           int
	}{
		{"ann", "mqtt.tcp", 1}, {"lou", "mqtt.tcp", 2}, {"deb", "mqtt.tcp", 0}, {"bob", "mqtt.tcp", 0}, {"", "mqtt.tcp", 0},
		{"ann", "mqtt.plant", 1}, {"lou", "mqtt.plant", nowhere}, {"deb", "mqtt.plant", nowhere}, {"bob", "mqtt.plant", 1}, {"", "mqtt.plant", 1},
		{"ann", "mqtt.lab", nowhere}, {"lou", "mqtt.lab", 2}, {"bob", "mqtt.lab", 2}, {"", "mqtt.lab", 2},
		{"ann", "mqtt.own", nowhere}, {"deb", "mqtt.own", 0}, {"bob", "mqtt.own", 0}, {"", "mqtt.own", 0},
		{"ann", "mqtt.typo", nowhere}, {"deb", "mqtt.typo", nowhere}, {"bob", "mqtt.typo", nowhere}, {"", "mqtt.typo", nowhere},
	} {
		b.now = b.now.Add(time.Second) // for the log
		cr := creds(c.user, "right")
		if c.user == "" {
			cr = broker.Credentials{ClientID: "c"}
		}
		cr.Listener = c.listener
		b.comes(t, cr, c.want)
	}
	for _, line := range []string{`why="the listener is for the clients of another tenant" tenant=lab by=password user=lou client_id=c listener=mqtt.plant`,
		`why="there is no such tenant" tenant=plan by=anonymous user="" client_id=c listener=mqtt.typo`, `tenant=default by=password user=deb client_id=c listener=mqtt.plant`} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log does not say %q:\n%s", line, log)
		}
	}
	if err := b.comesIn(t, "lou", "wrong"); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("with a wrong password: %v", err)
	}
}

// By SCRAM it is the same.
func TestTenantBySCRAM(t *testing.T) {
	b, _, _ := tenantBench(t, nil)
	for _, c := range []struct {
		user, listener string
		want           int
	}{{"ann", "mqtt.tcp", 1}, {"ann", "mqtt.plant", 1}, {"ann", "mqtt.lab", nowhere}, {"deb", "mqtt.plant", nowhere}, {"deb", "mqtt.tcp", 0}, {"ann", "mqtt.typo", nowhere}} {
		s := newSCRAMClient(SCRAMSHA256, c.user, "right")
		talk := b.Converse(SCRAMSHA256, broker.Credentials{Listener: c.listener})
		first, _, err := talk.Step(t.Context(), []byte(s.gs2+s.bare()))
		if err != nil {
			t.Fatal(err)
		}
		_, done, err := talk.Step(t.Context(), []byte(s.final(t, string(first))))
		id := talk.Identity()
		if c.want == nowhere && !errors.Is(err, broker.ErrNotAuthorized) || c.want != nowhere && (!done || id.Tenant != uint32(c.want) || b.Recheck(&id, nil) != nil) {
			t.Errorf("%s at %s: %+v, %v", c.user, c.listener, id, err)
		}
	}
}

// A certificate names a user, not a tenant; nor does a proxy.
func TestTenantOfCertificates(t *testing.T) {
	b, _, _ := tenantBench(t, func(o *Options) {
		o.CertificateUser = "cn"
		o.At["mqtt.plant"] = ListenerOptions{Tenant: "plant", ProxyUser: true}
		o.At["mqtt.proxied"] = ListenerOptions{ProxyUser: true}
	})
	for listener, want := range map[string]int{"mqtt.proxied": 0, "mqtt.plant": 1} {
		id := b.comes(t, broker.Credentials{Listener: listener, ProxyUser: "lou"}, want)
		if id.User != "lou" || id.Source != sourceProxy {
			t.Errorf("%+v", id)
		}
	}
}

// A token's claim names the tenant. One without it leaves the client in its listener's; a name that is none lets nobody in. The same token at two listeners is not
// what was remembered of the other.
func TestTenantOfTokens(t *testing.T) {
	rs := signers()["rs"]
	b, _, log := tenantBench(t, func(o *Options) {
		o.JWT = &JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), Claim: "sub", TenantClaim: "org", Algorithms: TokenAlgorithms}
	})
	tb := &tokenBench{bench: b}
	token := func(org any) []byte {
		claims := tb.claims()
		claims["org"] = org
		return []byte(rs.token(t, claims))
	}
	for _, c := range []struct {
		org      any
		listener string
		want     int
	}{
		{"plant", "mqtt.tcp", 1}, {"lab", "mqtt.tcp", 2}, {"default", "mqtt.tcp", 0}, {nil, "mqtt.tcp", 0}, {nil, "mqtt.lab", 2}, {nil, "mqtt.plant", 1}, {nil, "mqtt.typo", nowhere},
		{"plant", "mqtt.plant", 1}, {"plant", "mqtt.lab", nowhere}, {"plant", "mqtt.own", nowhere}, {"default", "mqtt.plant", nowhere},
		{"none", "mqtt.tcp", nowhere}, {"none", "mqtt.plant", nowhere}, {"Plant", "mqtt.tcp", nowhere}, {"plant ", "mqtt.tcp", nowhere},
	} {
		b.now = b.now.Add(time.Second) // for the log
		id := b.comes(t, broker.Credentials{ClientID: "c", Password: token(c.org), Listener: c.listener}, c.want)
		talk := b.Converse(OAuthBearer, broker.Credentials{Listener: c.listener})
		if _, done, err := talk.Step(t.Context(), bearer(string(token(c.org)))); done != (c.want != nowhere) || done && talk.Identity().Tenant != id.Tenant {
			t.Errorf("%v at %s by OAUTHBEARER: %v, %+v, %v", c.org, c.listener, done, talk.Identity(), err)
		}
	}
	if !strings.Contains(log.String(), `why="there is no such tenant" tenant=none by=OAUTHBEARER user=ann client_id=c listener=mqtt.tcp`) {
		t.Errorf("the log:\n%s", log)
	}
	for _, org := range []any{"", 1, true, []string{"plant"}, map[string]any{"name": "plant"}, strings.Repeat("p", 64)} {
		if id, err := b.Authenticate(t.Context(), broker.Credentials{Password: token(org)}); !errors.Is(err, broker.ErrBadCredentials) {
			t.Errorf("%v: %+v, %v", org, id, err)
		}
	}
	named, left := b.comes(t, broker.Credentials{Password: token("plant"), Listener: "mqtt.tcp"}, 1), b.comes(t, broker.Credentials{Password: token(nil), Listener: "mqtt.tcp"}, 0)
	b.o.JWT.TenantClaim = ""
	if err := b.Reload(b.o); err != nil || b.Recheck(&named, nil) == nil || b.Recheck(&left, nil) != nil {
		t.Errorf("claims name no tenant any more: %v, %v, %v", err, b.Recheck(&named, nil), b.Recheck(&left, nil))
	}
	b.comes(t, broker.Credentials{Password: token("plant"), Listener: "mqtt.tcp"}, 0)
}

// A disabled user is refused by a token too, and nobody else is who has the same name in another tenant.
func TestTenantOfDisabled(t *testing.T) {
	rs := signers()["rs"]
	b, d, _ := tenantBench(t, func(o *Options) {
		o.JWT = &JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), Claim: "sub", TenantClaim: "org", Algorithms: TokenAlgorithms}
	})
	tb := &tokenBench{bench: b}
	token := func(org string) broker.Credentials {
		claims := tb.claims()
		claims["org"] = org
		return broker.Credentials{ClientID: "c", Password: []byte(rs.token(t, claims)), Listener: "mqtt.tcp"}
	}
	plant, lab := b.comes(t, token("plant"), 1), b.comes(t, token("lab"), 2)
	ann, _ := d.Account("ann") // of the plant, whom the tokens name
	ann.Disabled = true
	d.set("ann", ann)
	if b.Recheck(&plant, nil) == nil || b.Recheck(&lab, nil) != nil {
		t.Errorf("who is there: %v, %v", b.Recheck(&plant, nil), b.Recheck(&lab, nil))
	}
	if _, err := b.Authenticate(t.Context(), token("plant")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("the disabled one: %v", err)
	}
	b.comes(t, token("lab"), 2)
	b.comes(t, token("default"), 0)
}

// A server's answer names it, as long as it says so.
func TestTenantOfAnswers(t *testing.T) {
	s := newAgainServer(t)
	s.say(200, "{}")
	b, _, log := tenantBench(t, func(o *Options) {
		o.HTTP = &CallbackOptions{URL: s.URL, Method: "POST", Timeout: 20 * time.Second, Concurrency: 4, CacheTTL: time.Minute}
	})
	eve := func(listener, password string) broker.Credentials {
		c := creds("eve", password)
		c.Listener = listener
		return c
	}
	for i, c := range []struct {
		says, listener string
		want           int
	}{
		{`,"tenant":"plant"`, "mqtt.tcp", 1}, {`,"tenant":"plant"`, "mqtt.plant", 1}, {`,"tenant":"plant"`, "mqtt.lab", nowhere}, {`,"tenant":"default"`, "mqtt.tcp", 0},
		{`,"tenant":"default"`, "mqtt.lab", nowhere}, {"", "mqtt.lab", 2}, {`,"tenant":""`, "mqtt.lab", 2}, {`,"tenant":null`, "mqtt.tcp", 0},
		{`,"tenant":"none"`, "mqtt.tcp", nowhere}, {`,"tenant":"` + strings.Repeat("p", 9999) + `"`, "mqtt.tcp", nowhere},
	} {
		b.now = b.now.Add(time.Second) // for the log
		s.say(200, `{"result":"allow"`+c.says+`}`)
		b.comes(t, eve(c.listener, string(rune('a'+i))), c.want)
	}
	if !strings.Contains(log.String(), "tenant=none by=http user=eve") {
		t.Errorf("the log:\n%s", log)
	}
	for _, again := range []struct {
		says string
		want Outcome
	}{{`,"tenant":"plant"`, Allowed}, {`,"tenant":"lab"`, Refused}, {`,"tenant":"none"`, Refused}, {"", Refused}} {
		s.say(200, `{"result":"allow","tenant":"plant"}`)
		id := b.comes(t, eve("mqtt.tcp", "again"), 1)
		twin := id // the same one in another tenant is not refused with it
		twin.Tenant = 2
		s.say(200, `{"result":"allow"`+again.says+`}`)
		if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: id, Listener: "mqtt.tcp"}); got != again.want || (b.Recheck(&id, nil) == nil) != (got == Allowed) || b.Recheck(&twin, nil) != nil {
			t.Errorf("again, with %q: %v, %v, %v", again.says, got, b.Recheck(&id, nil), b.Recheck(&twin, nil))
		}
	}
}

// Who has to go: when its tenant goes, is disabled or has another number, when its user moves, and when its listener does.
func TestTenantRecheck(t *testing.T) {
	b, d, _ := tenantBench(t, func(o *Options) { o.Anonymous = "everywhere" })
	at := func(user, listener string) broker.Credentials {
		c := creds(user, "right")
		c.Listener = listener
		return c
	}
	ann, lou, bob := b.comes(t, at("ann", "mqtt.tcp"), 1), b.comes(t, at("lou", "mqtt.lab"), 2), b.comes(t, at("bob", "mqtt.plant"), 1)
	nobody, deb := b.comes(t, broker.Credentials{ClientID: "c", Listener: "mqtt.plant"}, 1), b.comes(t, at("deb", "mqtt.tcp"), 0)
	stay := func(what string, want ...bool) {
		t.Helper()
		for i, id := range []*broker.Identity{&ann, &lou, &bob, &nobody, &deb} {
			if err := b.Recheck(id, nil); (err == nil) != want[i] {
				t.Errorf("%s: %+v: %v", what, id, err)
			}
		}
	}
	generation := b.Generation()
	for what, list := range map[string][]Tenant{"gone": {{Name: "lab", Number: 2}}, "disabled": {{Name: "plant", Number: 1, Disabled: true}, {Name: "lab", Number: 2}},
		"another of its name": {{Name: "plant", Number: 3}, {Name: "lab", Number: 2}}} {
		b.SetTenants(list)
		stay(what, false, true, false, false, true)
		if b.Generation() == generation {
			t.Error("the generation does not move")
		}
		if what == "another of its name" {
			b.comes(t, at("bob", "mqtt.plant"), 3)
		} else {
			b.comes(t, at("bob", "mqtt.plant"), nowhere)
		}
		b.comes(t, at("ann", "mqtt.tcp"), nowhere)
		b.SetTenants(twoTenants)
		stay("as it was", true, true, true, true, true)
	}
	moved := accountOf(t, "right")
	old, _ := d.Account("ann")
	moved.Password, moved.SHA256, moved.SHA512, moved.Tenant = old.Password, old.SHA256, old.SHA512, 2
	d.set("ann", moved)
	stay("ann is in the lab now", false, true, true, true, true)
	b.comes(t, at("ann", "mqtt.tcp"), 2)
	d.set("ann", old)
	b.o.At = map[string]ListenerOptions{"mqtt.lab": {Tenant: "plant"}, "mqtt.tcp": {}}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	stay("the listeners have moved", true, false, false, false, true)
}

// A form of client ids is about a tenant's users as about others.
func TestTenantClientIDs(t *testing.T) {
	b, _, _ := tenantBench(t, func(o *Options) { o.ClientIDs = []string{"%u-*"} })
	c := creds("ann", "right")
	c.ClientID = "ann-1"
	b.comes(t, c, 1)
	c.ClientID = "lou-1"
	b.comes(t, c, nowhere)
}

// Each tenant has rules of its own, though they say the same names; what one's rules close or open is nothing to the other.
func TestTenantRules(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, []byte("allow publish by user ann on file/default\nallow publish by tenant plant user ann on file/plant\n"+
		"deny subscribe by tenant plant on file/secret\nallow all by tenant default client d on file/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const read, write, topics, groups, cluster = broker.OperationRead, broker.OperationWrite, broker.ResourceTopic, broker.ResourceGroup, broker.ResourceCluster
	p := provider(t, Options{ACLFile: file, OpenWithoutACL: "false", SuperUsers: []string{"root"}}, "")
	p.SetTenants(append([]Tenant{{Name: "shut", Number: 3, Disabled: true}, {Name: "bare", Number: 4}}, twoTenants...))
	list := parseACLs(t, "allow User:ann * write topic a\nallow User:ann * read group g\n")
	for i, text := range []string{"allow User:ann * write topic b\ndeny User:ann * write topic x\n", "allow User:ann * write topic c\n", "allow User:ann * write topic d\n"} {
		for _, a := range parseACLs(t, text) {
			a.Tenant = uint32(i + 1)
			list = append(list, a)
		}
	}
	p.SetACLs(list)
	for name, may := range map[string][]bool{ // by the number of the tenant; the last one is not there
		"a": {true, false, false, false, false, false}, "b": {false, true, false, false, false, false}, "c": {false, false, true, false, false, false},
		"d": {false, false, false, false, false, false}, "file/default": {true, false, false, false, false, false}, "file/plant": {false, true, false, false, false, false},
	} {
		for tenant, want := range may {
			id := &broker.Identity{User: "ann", Tenant: uint32(tenant)}
			if got := p.Authorize(id, broker.ActionPublish, []byte(name)); got != want {
				t.Errorf("tenant %d publishes to %s: %v", tenant, name, got)
			}
			if got := p.Allows(id, write, topics, []byte(name)); got != want {
				t.Errorf("tenant %d writes to %s: %v", tenant, name, got)
			}
		}
	}
	for tenant, want := range []bool{true, true, true, false, false, false} {
		if got := p.AllowsAny(&broker.Identity{User: "ann", Tenant: uint32(tenant)}, write, topics); got != want {
			t.Errorf("tenant %d writes to something: %v", tenant, got)
		}
		id := &broker.Identity{User: "root", Tenant: uint32(tenant)}
		if p.Authorize(id, broker.ActionSubscribe, []byte("#")) != (tenant == 0) || p.Allows(id, broker.OperationAlter, cluster, []byte(broker.ClusterName)) != (tenant == 0) {
			t.Errorf("tenant %d: the default one's super user", tenant)
		}
		if id.User = "ann"; p.Allows(id, read, groups, []byte("g")) != (tenant == 0) {
			t.Errorf("tenant %d: the default one's group", tenant)
		}
	}
	for tenant, by := range map[uint32]Decider{0: ByOpenness, 1: ByFile, 2: ByOpenness, 3: ByTenant, 9: ByTenant} {
		if ok, got := p.ExplainMQTT(&broker.Identity{User: "ann", Tenant: tenant}, broker.ActionSubscribe, []byte("file/secret")); ok || got != by {
			t.Errorf("tenant %d: %v, decided by %d", tenant, ok, got)
		}
		if ok, got := p.ExplainKafka(&broker.Identity{Tenant: tenant, Own: Everything()}, write, topics, []byte("x")); ok != (by != ByTenant) || got == ByTenant != (by == ByTenant) {
			t.Errorf("tenant %d, of one who may everything: %v, decided by %d", tenant, ok, got)
		}
	}
	for tenant, want := range map[uint32]string{0: "1 4", 1: "2 3", 2: "", 3: "", 9: ""} {
		var lines []string
		for n, text := range p.FileRules(tenant) {
			lines = append(lines, string(rune('0'+n)))
			if text == "" {
				t.Error("no text")
			}
		}
		if got := strings.Join(lines, " "); got != want {
			t.Errorf("lines of tenant %d: %q, want %q", tenant, got, want)
		}
	}
}

// What no rule is about is open or not for each tenant by its own rules; nobody is open where super users are named.
func TestTenantOpenness(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, []byte("allow publish by tenant plant on x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want [3]bool
	}{
		{Options{}, [3]bool{true, true, true}}, {Options{OpenWithoutACL: "false"}, [3]bool{}}, {Options{SuperUsers: []string{"root"}}, [3]bool{}},
		{Options{SuperUsers: []string{"root"}, OpenWithoutACL: "true"}, [3]bool{true, true, true}}, {Options{ACLFile: file}, [3]bool{false, false, true}},
	} {
		p := provider(t, c.o, "")
		p.SetTenants(twoTenants)
		ask := func(tenant uint32, name string) bool {
			return p.Authorize(&broker.Identity{User: "ann", Tenant: tenant}, broker.ActionPublish, []byte(name))
		}
		for tenant, want := range c.want {
			if got := ask(uint32(tenant), "open"); got != want {
				t.Errorf("%+v: tenant %d: %v", c.o, tenant, got)
			}
		}
		closes := parseACLs(t, "allow User:bob * write topic open\n")
		closes[0].Tenant = 2
		if p.SetACLs(closes); ask(2, "open") || ask(2, "else") != c.want[2] || ask(0, "open") != c.want[0] || ask(1, "open") != c.want[1] {
			t.Errorf("%+v: one tenant's rule closes what is not its own", c.o)
		}
		if ask(7, "open") {
			t.Errorf("%+v: a tenant that is not there", c.o)
		}
	}
}

func TestTenantLines(t *testing.T) {
	for in, want := range map[string]string{
		"allow all by tenant on x":                       `want tenant, user, client, addr, anonymous or all, found "x"`,
		"allow all by tenant Plant on x":                 "acl:1:14: want the name of a tenant",
		"allow all by tenant pl* on x":                   "want the name of a tenant",
		"allow all by tenant 1st on x":                   "want the name of a tenant",
		`allow all by tenant "" on x`:                    "want a name behind tenant",
		"allow all by tenant a tenant b on x":            "tenant is said twice",
		"allow all by tenant a all on x":                 "by tenant NAME on FILTER",
		"deny all by tenant a" + strings.Repeat("b", 63): "want the name of a tenant",
	} {
		if _, _, err := parseACL("acl", []byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", in, err, want)
		}
	}
}

func TestTenantAllowsDoesNotAllocate(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	list := parseACLs(t, "allow User:a * all topic t\nallow User:a * write topic devices/...\n")
	for i := range list {
		list[i].Tenant = 2
	}
	p := provider(t, Options{}, "")
	p.SetTenants(twoTenants)
	p.SetACLs(list)
	id := &broker.Identity{User: "a", Tenant: 2, Remote: netip.MustParseAddr("10.0.0.1")}
	name, filter := []byte("t"), []byte("devices/+/#")
	if n := testing.AllocsPerRun(100, func() {
		p.Allows(id, broker.OperationRead, broker.ResourceTopic, name)
		p.Authorize(id, broker.ActionPublish, name)
		p.Authorize(id, broker.ActionSubscribe, filter)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
