package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

const (
	searcher = "cn=sluice,dc=example"
	annDN    = "uid=ann,ou=people,dc=example"
)

// ldapBench is a provider with the user bob, and a directory server with ann, who is in the group staff, and zoe, who is in admins.
func ldapBench(t *testing.T, change func(s *ldapStub, o *LDAPOptions)) (*bench, *ldapStub) {
	t.Helper()
	s := newLDAPStub(t, nil)
	s.words = map[string]string{searcher: "s3cret", annDN: "pass", "uid=zoe,ou=people,dc=example": "zap"}
	s.find = func(bound, base, filter string) []stubEntry {
		if bound != searcher {
			return nil
		}
		switch base + filter {
		case "ou=people,dc=example(uid=ann)", "ou=people,dc=example(uid=ANN)":
			return []stubEntry{{annDN, map[string][]string{"uid": {"ann"}}}}
		case "ou=people,dc=example(uid=zoe)":
			return []stubEntry{{"uid=zoe,ou=people,dc=example", map[string][]string{"UID": {"zoe"}}}}
		case "ou=people,dc=example(uid=two)":
			return []stubEntry{{"uid=two,dc=a", nil}, {"uid=two,dc=b", nil}}
		case "ou=people,dc=example(uid=nameless)":
			return []stubEntry{{"cn=nameless", nil}}
		case "ou=groups,dc=example(member=" + annDN + ")":
			return []stubEntry{{"cn=staff,ou=groups,dc=example", map[string][]string{"cn": {"staff"}}}}
		case "ou=groups,dc=example(member=uid=zoe,ou=people,dc=example)":
			return []stubEntry{{"cn=admins,ou=groups,dc=example", map[string][]string{"cn": {"Admins"}}}}
		}
		return nil
	}
	b, log := newBench(t, map[string]string{"bob": "right"}), &bytes.Buffer{}
	b.o.Logger = slog.New(slog.NewTextHandler(log, nil))
	b.o.LDAP = &LDAPOptions{URL: "ldap://" + s.ln.Addr().String(), SearchBase: "ou=people,dc=example", SearchFilter: "(uid=%u)", SearchDN: searcher, SearchPassword: "s3cret",
		UserAttribute: "uid", GroupBase: "ou=groups,dc=example", GroupFilter: "(member=%d)", GroupName: "cn", Timeout: 20 * time.Second, Concurrency: 4, CacheTTL: time.Minute}
	if change != nil {
		change(s, b.o.LDAP)
	}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.rules.Load().ldap.close)
	return b, s
}

func TestLDAP(t *testing.T) {
	b, s := ldapBench(t, nil)
	if _, done, _ := b.Quick(creds("ann", "pass")); done || b.Lane(creds("ann", "pass")) != broker.LaneDirectory || b.Lane(creds("bob", "x")) != broker.LaneHere {
		t.Error("a client of the directory does not wait in its lane")
	}
	for _, c := range []struct {
		user, password, as string
		err                error
	}{
		{"ann", "pass", "ann", nil}, {"ANN", "pass", "ann", nil}, {"ann", "wrong", "", broker.ErrBadCredentials}, {"bob", "right", "bob", nil},
		{"two", "pass", "", broker.ErrBadCredentials}, {"nameless", "pass", "", broker.ErrBadCredentials}, {"nobody", "pass", "", broker.ErrBadCredentials},
		{"ann", "", "", broker.ErrBadCredentials}, {"*", "pass", "", broker.ErrBadCredentials}, {"ann\xff", "pass", "", broker.ErrBadCredentials},
		{"ann)(uid=*", "pass", "", broker.ErrBadCredentials},
	} {
		id, err := b.Authenticate(t.Context(), creds(c.user, c.password))
		if !errors.Is(err, c.err) || id.User != c.as || err == nil && c.user != "bob" && (id.Source != "ldap" || b.Recheck(&id, nil) != nil) {
			t.Errorf("%s %s: %+v, %v", c.user, c.password, id, err)
		}
	}
	if _, err := b.Authenticate(t.Context(), creds("", "pass")); err == nil {
		t.Error("a client without a name comes in")
	}
	dials, binds := s.counts()
	if dials != 1 {
		t.Errorf("%d connections for questions one after the other", dials)
	}
	for range 3 {
		if id, done, err := b.Quick(creds("ann", "pass")); !done || err != nil || id.User != "ann" {
			t.Errorf("remembered: %+v, %v, %v", id, done, err)
		}
	}
	if _, done, err := b.Quick(creds("ann", "wrong")); !done || !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("remembered: %v, %v", done, err)
	}
	b.now = b.now.Add(7 * time.Second)
	if _, done, _ := b.Quick(creds("ann", "wrong")); done {
		t.Error("a wrong password is remembered for as long as a right one")
	}
	if _, after := s.counts(); len(after) != len(binds) {
		t.Error("asked about what it is remembered")
	}
	b.now = b.now.Add(time.Minute)
	s.mu.Lock()
	s.words[annDN] = "changed"
	s.mu.Unlock()
	if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("the old password after a while: %v", err)
	}
}

// A bind with an empty password succeeds for every name: no server is asked, by any mode.
func TestLDAPEmptyPassword(t *testing.T) {
	b, s := ldapBench(t, func(_ *ldapStub, o *LDAPOptions) { o.BindDN, o.UserAttribute = "uid=%u,ou=people,dc=example", "" })
	for _, c := range []broker.Credentials{creds("ann", ""), {ClientID: "c", Username: "ann", HasUsername: true}} {
		if id, err := b.Authenticate(t.Context(), c); !errors.Is(err, broker.ErrBadCredentials) || id.User != "" {
			t.Errorf("%+v, %v", id, err)
		}
	}
	if dials, _ := s.counts(); dials != 0 {
		t.Error("the server was asked")
	}
	if _, err := b.rules.Load().ldap.converse(nil, "", ""); err == nil {
		b.rules.Load().ldap.o.BindDN = "%u"
		if a, err := b.rules.Load().ldap.converse(nil, "", "x"); err != nil || a.verdict != denied {
			t.Errorf("an empty DN: %+v, %v", a, err)
		}
	}
}

func TestLDAPTemplate(t *testing.T) {
	b, s := ldapBench(t, func(s *ldapStub, o *LDAPOptions) {
		o.BindDN, o.SearchDN = "uid=%u,ou=people,dc=example", ""
		s.words["uid=ANN,ou=people,dc=example"] = "pass"
		s.words["uid=closed,ou=people,dc=example"] = "pass"
		s.find = func(bound, base, filter string) []stubEntry {
			if bound == base && strings.EqualFold(base, annDN) && filter == "(objectClass=*)" {
				return []stubEntry{{annDN, map[string][]string{"uid": {"other", "ann"}}}}
			}
			return nil
		}
	})
	for _, c := range []struct{ user, password, as string }{{"ann", "pass", "ann"}, {"ANN", "pass", "ann"}, {"ann", "x", ""}, {"closed", "pass", ""}, {"nobody", "pass", ""}} {
		if id, err := b.Authenticate(t.Context(), creds(c.user, c.password)); id.User != c.as || (err == nil) != (c.as != "") {
			t.Errorf("%s: %+v, %v", c.user, id, err)
		}
	}
	if _, err := b.Authenticate(t.Context(), creds("ann,ou=people,dc=example", "pass")); err == nil {
		t.Error("a name that goes on in the DN comes in")
	}
	_, binds := s.counts()
	if last := binds[len(binds)-1]; last != `uid=ann\2cou\3dpeople\2cdc\3dexample,ou=people,dc=example` {
		t.Errorf("bound as %s", last)
	}
}

// FuzzEscapeLDAP: whatever a client calls itself is one value of one attribute.
func FuzzEscapeLDAP(f *testing.F) {
	for _, s := range []string{"ann", "a,b=c", "*", ")(uid=*", "\x00", " x ", "#1", `\2a`, "ä", "+", "%d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, user string) {
		if user == "" {
			return
		}
		dn, err := ldap.ParseDN(expandLDAP("uid=%u,dc=example", user, ""))
		if err != nil || len(dn.RDNs) != 2 || len(dn.RDNs[0].Attributes) != 1 || dn.RDNs[0].Attributes[0].Value != user {
			t.Errorf("%q is the DN %v, %v", user, dn, err)
		}
		filter, err := ldap.CompileFilter(expandLDAP("(uid=%u)", user, ""))
		if err != nil || filter.Tag != ldap.FilterEqualityMatch || len(filter.Children) != 2 || filter.Children[1].Data.String() != user {
			t.Errorf("%q is the filter %v, %v", user, filter, err)
		}
	})
}

func TestLDAPGroups(t *testing.T) {
	b, _ := ldapBench(t, func(s *ldapStub, o *LDAPOptions) {
		o.Groups, o.SuperGroups = []string{"Staff"}, []string{"admins"}
		find := s.find
		s.words["uid=guest,dc=example"] = "pass"
		s.find = func(bound, base, filter string) []stubEntry {
			if filter == "(uid=guest)" {
				return []stubEntry{{"uid=guest,dc=example", map[string][]string{"uid": {"guest"}}}}
			}
			return find(bound, base, filter)
		}
		o.SearchBase = "ou=people,dc=example"
	})
	b.o.OpenWithoutACL = "false"
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	for user, password := range map[string]string{"ann": "pass", "zoe": "zap"} {
		id, err := b.Authenticate(t.Context(), creds(user, password))
		if err != nil || id.User != user {
			t.Errorf("%s: %+v, %v", user, id, err)
		}
		if super := b.Authorize(&id, pub, []byte("$SYS/x")); super != (user == "zoe") {
			t.Errorf("%s may do everything: %v", user, super)
		}
	}
	if id, err := b.Authenticate(t.Context(), creds("guest", "pass")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("a user of no group: %+v, %v", id, err)
	}
}

func TestLDAPByTLS(t *testing.T) {
	cert := testx.TempCert(t)
	for _, how := range []string{"starttls", "ldaps"} {
		s := newLDAPStub(t, func(ln net.Listener) net.Listener {
			if how == "ldaps" {
				return tls.NewListener(ln, cert.ServerConfig())
			}
			return ln
		})
		s.tls, s.words[annDN] = cert.ServerConfig(), "pass"
		if how == "ldaps" {
			s.tls = nil
		}
		try := func(ca string) error {
			b := newBench(t, nil)
			b.o.LDAP = &LDAPOptions{URL: "ldap://" + s.ln.Addr().String(), StartTLS: true, CAFile: ca, BindDN: "uid=%u,ou=people,dc=example", Timeout: 20 * time.Second, Concurrency: 1}
			if how == "ldaps" {
				b.o.LDAP.URL = strings.Replace(b.o.LDAP.URL, "ldap:", "ldaps:", 1)
			}
			if err := b.Reload(b.o); err != nil {
				t.Fatal(err)
			}
			defer b.rules.Load().ldap.close()
			_, err := b.Authenticate(t.Context(), creds("ann", "pass"))
			return err
		}
		if err := try(cert.CAFile); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if err := try(testx.TempCert(t).CAFile); !errors.Is(err, broker.ErrAuthBusy) {
			t.Errorf("%s with another authority: %v", how, err)
		}
		s.tls = nil
		if how == "starttls" {
			_, before := s.counts()
			if err := try(cert.CAFile); !errors.Is(err, broker.ErrAuthBusy) {
				t.Errorf("a server that will not speak TLS: %v", err)
			}
			if _, after := s.counts(); len(after) != len(before) {
				t.Error("a password went there in the clear")
			}
		}
	}
}

// A connection that broke while it was idle is made anew; a server that is gone is left alone after five failures.
func TestLDAPBroken(t *testing.T) {
	b, s := ldapBench(t, func(_ *ldapStub, o *LDAPOptions) { o.CacheTTL = 0 })
	for i := range 2 {
		if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); err != nil {
			t.Errorf("question %d: %v", i+1, err)
		}
		s.cut()
	}
	s.mu.Lock()
	s.words[searcher] = "changed"
	s.mu.Unlock()
	for range breakerFailures {
		if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); !errors.Is(err, broker.ErrAuthBusy) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the searcher's password is wrong: %v", err)
		}
	}
	_, before := s.counts()
	if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); !errors.Is(err, broker.ErrAuthBusy) {
		t.Errorf("%v", err)
	}
	if _, after := s.counts(); len(after) != len(before) {
		t.Error("it is asked still")
	}
	s.mu.Lock()
	s.words[searcher] = "s3cret"
	s.mu.Unlock()
	b.now = b.now.Add(breakerPauseMin)
	if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); err != nil {
		t.Errorf("it is there again: %v", err)
	}
}

// A server that stalls is given up after the time-out, and delays nobody else; a client that goes does not wait for it.
func TestLDAPStalls(t *testing.T) {
	b, _ := ldapBench(t, func(s *ldapStub, o *LDAPOptions) { s.stall, o.Timeout = make(chan struct{}), time.Minute })
	ld := b.rules.Load().ldap
	ld.queue = 10
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := make(chan error, 8)
	for range 8 {
		go func() {
			_, err := b.Authenticate(ctx, creds("ann", "pass"))
			errs <- err
		}()
	}
	testx.Eventually(t, 20*time.Second, func() bool { return len(ld.turns) == 4 && ld.waiting.Load() == 8 })
	if id, err := b.Authenticate(t.Context(), creds("bob", "right")); err != nil || id.User != "bob" {
		t.Errorf("bob waits for a server that is not asked about him: %v", err)
	}
	cancel()
	for range 8 {
		if err := <-errs; err == nil {
			t.Error("it has answered")
		}
	}
	short, _ := ldapBench(t, func(s *ldapStub, o *LDAPOptions) { s.stall, o.Timeout = make(chan struct{}), 50*time.Millisecond })
	if _, err := short.Authenticate(t.Context(), creds("ann", "pass")); !errors.Is(err, broker.ErrAuthBusy) {
		t.Errorf("%v", err)
	}
}

// A reload keeps the connections of a server whose options are the same, and closes the others.
func TestLDAPReload(t *testing.T) {
	b, s := ldapBench(t, nil)
	for _, user := range []string{"ann", "zoe"} {
		if _, err := b.Authenticate(t.Context(), creds(user, map[string]string{"ann": "pass", "zoe": "zap"}[user])); err != nil {
			t.Fatal(err)
		}
		next := *b.o.LDAP
		b.o.LDAP = &next
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
	}
	if dials, _ := s.counts(); dials != 1 {
		t.Errorf("%d connections", dials)
	}
	id := broker.Identity{User: "ann", Source: sourceLDAP}
	old := b.rules.Load().ldap
	if n := len(old.pool.idle); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
	b.o.LDAP = nil
	if err := b.Reload(b.o); err != nil || b.Recheck(&id, nil) == nil {
		t.Errorf("without a server its clients stay: %v", err)
	}
	if n := len(old.pool.idle); n != 0 || !old.pool.closed {
		t.Errorf("%d connections of a server that is not asked any more", n)
	}
	for _, bad := range []LDAPOptions{{URL: "http://x"}, {URL: "ldap://x", BindDN: "%u@example"}, {URL: "ldap://x", SearchFilter: "uid=(%u"}, {URL: "ldaps://x", CAFile: "absent"}} {
		b.o.LDAP = &bad
		if err := b.Reload(b.o); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestOrder(t *testing.T) {
	for _, bad := range [][]string{{"cow"}, {"file", "http", "file"}} {
		if _, err := parseOrder(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if o, err := parseOrder([]string{"ldap", "file"}); err != nil || o != [ways]way{wayLDAP, wayFile, wayCertificate, wayToken, wayHTTP} {
		t.Errorf("%v, %v", o, err)
	}
	if o, _ := parseOrder(nil); o != [ways]way{wayCertificate, wayToken, wayFile, wayLDAP, wayHTTP} {
		t.Errorf("%v", o)
	}

	// The user ann is in the file and the directory, with two passwords; only the server knows eve.
	h := newAsked(t, nil)
	come := func(order ...string) map[string]string {
		b, _ := ldapBench(t, nil)
		b.set(t, "ann", "of the file")
		h.set(func(w http.ResponseWriter, r *http.Request, f map[string]string) {
			if body := `{"result":"ignore"}`; f["username"] != "eve" {
				says(200, body)(w, r, f)
				return
			}
			says(200, `{"result":"allow"}`)(w, r, f)
		})
		b.o.HTTP = &CallbackOptions{URL: h.URL, Method: http.MethodPost, Timeout: 20 * time.Second, Concurrency: 4}
		b.o.Order = order
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, c := range [][2]string{{"ann", "of the file"}, {"ann", "pass"}, {"zoe", "zap"}, {"bob", "right"}, {"eve", "x"}, {"nobody", "x"}} {
			id, err := b.Authenticate(t.Context(), creds(c[0], c[1]))
			if err != nil {
				id.Source = "-"
			}
			got[c[0]+" "+c[1]] = id.Source
		}
		return got
	}
	for _, tt := range []struct {
		order         []string
		inFile, inDir string
	}{{nil, "password", "-"}, {[]string{"ldap"}, "-", "ldap"}, {[]string{"http", "file", "ldap"}, "password", "-"}, {[]string{"http", "ldap"}, "-", "ldap"}} {
		want := map[string]string{"ann of the file": tt.inFile, "ann pass": tt.inDir, "zoe zap": "ldap", "bob right": "password", "eve x": "http", "nobody x": "-"}
		if got := come(tt.order...); !maps.Equal(got, want) {
			t.Errorf("%v: %v, want %v", tt.order, got, want)
		}
	}
}

// Nobody has the server left alone: not by what a server ends a connection for, nor by an entry whose bind it answers with an error of its own. Its
// being busy is no answer.
func TestLDAPBreakerStaysShut(t *testing.T) {
	b, s := ldapBench(t, func(s *ldapStub, o *LDAPOptions) {
		s.codes = map[string]uint16{"uid=zoe,ou=people,dc=example": ldap.LDAPResultConfidentialityRequired}
	})
	long := strings.Repeat("n", ldapNameMax+1)
	for range 2 * breakerFailures {
		for _, c := range []broker.Credentials{creds(long, "pass"), creds("ann", strings.Repeat("p", ldapPasswordMax+1))} {
			if _, err := b.Authenticate(t.Context(), c); !errors.Is(err, broker.ErrBadCredentials) {
				t.Fatalf("%d bytes: %v", len(c.Username), err)
			}
		}
	}
	if dials, _ := s.counts(); dials != 0 {
		t.Error("the server was asked")
	}
	for i := range 2 * breakerFailures {
		if _, err := b.Authenticate(t.Context(), creds("zoe", "zap"+strings.Repeat("!", i))); !errors.Is(err, broker.ErrBadCredentials) {
			t.Fatalf("question %d: %v", i+1, err)
		}
	}
	if _, err := b.Authenticate(t.Context(), creds("ann", "pass")); err != nil {
		t.Errorf("ann waits for the others' trouble: %v", err)
	}
	s.mu.Lock()
	s.codes = map[string]uint16{annDN: ldap.LDAPResultBusy}
	s.mu.Unlock()
	if _, err := b.Authenticate(t.Context(), creds("ann", "other")); !errors.Is(err, broker.ErrAuthBusy) {
		t.Errorf("a busy server: %v", err)
	}
}

// What makes other users of clients closes those that are in; how the server is reached does not.
func TestLDAPChangedClosesClients(t *testing.T) {
	b, _ := ldapBench(t, nil)
	id, err := b.Authenticate(t.Context(), creds("zoe", "zap"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		change func(o *LDAPOptions)
		stays  bool
	}{
		{func(*LDAPOptions) {}, true},
		{func(o *LDAPOptions) { o.Timeout, o.CacheTTL = time.Minute, time.Hour }, true},
		{func(o *LDAPOptions) { o.SuperGroups = []string{"admins"} }, false},
		{func(*LDAPOptions) {}, false}, // a reload behind it does not forget
	} {
		next := *b.o.LDAP
		e.change(&next)
		b.o.LDAP = &next
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
		if err := b.Recheck(&id, nil); (err == nil) != e.stays {
			t.Errorf("%+v: %v", next, err)
		}
	}
	t.Cleanup(b.rules.Load().ldap.close)
	id, err = b.Authenticate(t.Context(), creds("zoe", "zap"))
	if err != nil || b.Recheck(&id, nil) != nil {
		t.Errorf("who comes in by the new options does not stay: %v", err)
	}
}

// Of several names an entry's user has the one of its DN, whatever the client has written; lines about others are few and short.
func TestLDAPNames(t *testing.T) {
	entry := func(dn string, values ...string) *ldap.Entry {
		return ldap.NewEntry(dn, map[string][]string{"uid": values})
	}
	for _, c := range []struct {
		e    *ldap.Entry
		want string
	}{
		{entry("uid=ann,dc=example", "alias", "Ann"), "Ann"}, {entry("cn=x,dc=example", "ann", "alias"), ""}, {entry("cn=x+UID=ann,dc=example", "alias", "ann"), "ann"},
		{entry("uid=gone,dc=example", "ann", "alias"), ""}, {entry("cn=x", "ann"), "ann"}, {entry("cn=x"), ""}, {entry("no DN", "a", "b"), ""},
	} {
		if got := named(c.e, "uid"); got != c.want {
			t.Errorf("%s %v: %q, want %q", c.e.DN, c.e.GetAttributeValues("uid"), got, c.want)
		}
	}
	var log bytes.Buffer
	s := &ldapServer{}
	s.now, s.log = func() time.Time { return time.Unix(1, 0) }, slog.New(slog.NewTextHandler(&log, nil))
	for range 100 {
		s.refused("no", strings.Repeat("é", 1000))
	}
	if n := strings.Count(log.String(), "\n"); n != refusedLinesMax || log.Len() > refusedLinesMax*400 {
		t.Errorf("%d lines, %d bytes", n, log.Len())
	}
}
