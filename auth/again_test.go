package auth

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
)

const againFirst = `{"result":"allow","user":"plant-1","acl":{"pub":["up/%u"]}}`

// againServer is a server that is asked about clients, which says what it is told to.
type againServer struct {
	*httptest.Server
	status atomic.Int64
	body   atomic.Value
	last   atomic.Value // what it was asked last, by field
}

func newAgainServer(t *testing.T) *againServer {
	t.Helper()
	s := &againServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := map[string]any{}
		if r.Method == http.MethodGet {
			for k, v := range r.URL.Query() {
				fields[k] = v[0]
			}
		} else if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
			t.Error(err)
		}
		s.last.Store(fields)
		w.WriteHeader(int(s.status.Load()))
		_, _ = io.WriteString(w, s.body.Load().(string))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *againServer) say(status int64, body string) {
	s.status.Store(status)
	s.body.Store(body)
}

// lets brings in ann, who becomes plant-1.
func (s *againServer) lets(t *testing.T, method string) (*bench, broker.Credentials, broker.Identity) {
	t.Helper()
	s.say(200, againFirst)
	b := newBench(t, map[string]string{"bob": "right"})
	b.o.HTTP = &CallbackOptions{URL: s.URL, Method: method, Timeout: 20 * time.Second, Concurrency: 4, CacheTTL: time.Hour}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	c := creds("ann", "pass")
	c.ClientID, c.Remote = "c", netip.MustParseAddrPort("10.1.2.3:4")
	id, err := b.Authenticate(t.Context(), c)
	if err != nil || id.User != "plant-1" {
		t.Fatalf("%+v, %v", id, err)
	}
	return b, c, id
}

// A server is asked again, without the password, by the name that the client gave: what it says then decides who may stay, and no answer nothing.
func TestAgain(t *testing.T) {
	s := newAgainServer(t)
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		b, _, id := s.lets(t, method)
		other := id
		other.ClientID = "d"
		for _, e := range []struct {
			code   int64
			answer string
			want   Outcome
			why    string
		}{
			{200, againFirst, Allowed, ""},
			{500, "", Unanswered, ""}, {200, "what", Unanswered, ""},
			{200, `{"result":"deny"}`, Refused, "refuses the client now"}, {403, "", Refused, "refuses the client now"},
			{200, `{"result":"ignore"}`, Refused, "does not know the client any more"},
			{200, `{"result":"allow","acl":{"pub":["up/%u"]}}`, Refused, "is another user now"},
			{200, `{"result":"allow","user":"plant-1","acl":{"pub":["down/%u"]}}`, Refused, "may do something else now"},
			{200, `{"result":"allow","user":"plant-1","is_superuser":true,"acl":{"pub":["up/%u"]}}`, Refused, "may do something else now"},
			{200, `{"result":"allow","user":"plant-1","expire_at":1,"acl":{"pub":["up/%u"]}}`, Refused, "is over"},
			{200, againFirst, Allowed, ""},
		} {
			s.say(e.code, e.answer)
			if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: id, Listener: "mqtt.tcp"}); got != e.want {
				t.Errorf("%s %d %s: %v", method, e.code, e.answer, got)
			}
			if e.want == Unanswered {
				continue // what was before counts
			}
			if err := b.Recheck(&id, nil); (err != nil) != (e.why != "") || err != nil && !strings.Contains(err.Error(), e.why) {
				t.Errorf("%s %s: %v, want %q", method, e.answer, err, e.why)
			}
			if err := b.Recheck(&other, nil); err != nil {
				t.Errorf("another client of the user: %v", err)
			}
		}
		f := s.last.Load().(map[string]any)
		if f["username"] != "ann" || f["clientid"] != "c" || f["peerhost"] != "10.1.2.3" || f["listener"] != "mqtt.tcp" || f["password"] != "" || f["recheck"] != true && f["recheck"] != "true" {
			t.Errorf("%s: told %v", method, f)
		}
	}
}

// What was answered before a refusal brings nobody in again, who is let in anew may stay, and refusals are forgotten in time.
func TestAgainAndBack(t *testing.T) {
	s := newAgainServer(t)
	b, c, id := s.lets(t, http.MethodPost)
	refuse := func() {
		t.Helper()
		s.say(200, `{"result":"deny"}`)
		if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: id}); got != Refused || b.Recheck(&id, nil) == nil {
			t.Errorf("%v", got)
		}
	}
	refuse()
	if _, done, _ := b.Quick(c); done {
		t.Error("an answer from before the refusal is remembered")
	}
	s.say(200, againFirst)
	again, err := b.Authenticate(t.Context(), c)
	if err != nil || b.Recheck(&again, nil) != nil {
		t.Errorf("it comes again: %v, %v", err, b.Recheck(&again, nil))
	}
	refuse()
	b.now = b.now.Add(2 * againKept)
	if b.NewAgain(); b.refused.n.Load() != 0 {
		t.Error("refusals stay for ever")
	}
	if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: broker.Identity{Source: sourcePassword, User: "bob"}}); got != Unanswered {
		t.Errorf("a user of the file: %v", got)
	}
}

// Who has left the directory, or its groups, is refused; a user is asked about once in a round.
func TestAgainLDAP(t *testing.T) {
	b, s := ldapBench(t, func(_ *ldapStub, o *LDAPOptions) { o.Groups, o.SuperGroups = []string{"staff"}, []string{"admins"} })
	ids := map[string]*broker.Identity{}
	for user, password := range map[string]string{"ann": "pass", "ANN": "pass", "zoe": "zap"} {
		id, err := b.Authenticate(t.Context(), creds(user, password))
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		id.ClientID = user
		ids[user] = &id
	}
	round := b.NewAgain()
	_, before := s.counts()
	for _, user := range []string{"ann", "ANN", "zoe", "ann", "zoe"} {
		if got := round.Ask(t.Context(), &Standing{Identity: *ids[user]}); got != Allowed || b.Recheck(ids[user], nil) != nil {
			t.Errorf("%s: %v, %v", user, got, b.Recheck(ids[user], nil))
		}
	}
	_, after := s.counts()
	for _, dn := range after[len(before):] {
		if dn != searcher {
			t.Errorf("bound as %s: nobody knows its password any more", dn)
		}
	}
	if n := len(after) - len(before); n != 6 { // as who searches, for the user and for the groups
		t.Errorf("%d binds for three names", n)
	}
	find := s.find
	s.setFind(func(bound, base, filter string) []stubEntry {
		switch {
		case strings.Contains(filter, "uid=ann"):
			return nil // gone; ANN is the same entry
		case base == "ou=groups,dc=example":
			return []stubEntry{{"cn=staff,ou=groups,dc=example", map[string][]string{"cn": {"staff"}}}}
		}
		return find(bound, base, filter)
	})
	round = b.NewAgain()
	for user, want := range map[string]string{"ann": "does not know the client any more", "zoe": "may do something else now"} {
		if got := round.Ask(t.Context(), &Standing{Identity: *ids[user]}); got != Refused {
			t.Errorf("%s: %v", user, got)
		}
		if err := b.Recheck(ids[user], nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", user, err)
		}
	}
	s.setFind(func(_, base, filter string) []stubEntry {
		if base == "ou=groups,dc=example" {
			return nil
		}
		return find(searcher, base, filter)
	})
	if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: *ids["ANN"]}); got != Refused {
		t.Errorf("in no group: %v", got)
	}
	_ = s.ln.Close()
	s.cut()
	if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: *ids["zoe"]}); got != Unanswered {
		t.Errorf("the directory is gone: %v", got)
	}
}
