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

// A server is asked again, without the password, by the name that the client gave: what it says then decides who may stay, and no answer nothing.
func TestAgain(t *testing.T) {
	const first = `{"result":"allow","user":"plant-1","acl":{"pub":["up/%u"]}}`
	var says atomic.Value
	var last atomic.Value
	status := atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := map[string]any{}
		if r.Method == http.MethodGet {
			for k, v := range r.URL.Query() {
				fields[k] = v[0]
			}
		} else if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
			t.Error(err)
		}
		last.Store(fields)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, says.Load().(string))
	}))
	t.Cleanup(srv.Close)
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		status.Store(200)
		says.Store(first)
		b := newBench(t, map[string]string{"bob": "right"})
		b.o.HTTP = &CallbackOptions{URL: srv.URL, Method: method, Timeout: 20 * time.Second, Concurrency: 4, CacheTTL: time.Hour}
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
		c := creds("ann", "pass")
		c.ClientID, c.Remote = "c", netip.MustParseAddrPort("10.1.2.3:4")
		id, err := b.Authenticate(t.Context(), c)
		if err != nil || id.User != "plant-1" {
			t.Fatalf("%+v, %v", id, err)
		}
		other := id
		other.ClientID = "d"
		ask := func(code int64, answer string) Outcome {
			t.Helper()
			status.Store(code)
			says.Store(answer)
			return b.NewAgain().Ask(t.Context(), &Standing{Identity: id, Listener: "mqtt.tcp"})
		}
		for _, e := range []struct {
			code   int64
			answer string
			want   Outcome
			why    string
		}{
			{200, first, Allowed, ""},
			{500, "", Unanswered, ""}, {200, "what", Unanswered, ""},
			{200, `{"result":"deny"}`, Refused, "refuses the client now"}, {403, "", Refused, "refuses the client now"},
			{200, `{"result":"ignore"}`, Refused, "does not know the client any more"},
			{200, `{"result":"allow","acl":{"pub":["up/%u"]}}`, Refused, "is another user now"},
			{200, `{"result":"allow","user":"plant-1","acl":{"pub":["down/%u"]}}`, Refused, "may do something else now"},
			{200, `{"result":"allow","user":"plant-1","is_superuser":true,"acl":{"pub":["up/%u"]}}`, Refused, "may do something else now"},
			{200, `{"result":"allow","user":"plant-1","expire_at":1,"acl":{"pub":["up/%u"]}}`, Refused, "is over"},
			{200, first, Allowed, ""},
		} {
			if got := ask(e.code, e.answer); got != e.want {
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
		f := last.Load().(map[string]any)
		if f["username"] != "ann" || f["clientid"] != "c" || f["peerhost"] != "10.1.2.3" || f["listener"] != "mqtt.tcp" || f["password"] != "" || f["recheck"] != true && f["recheck"] != "true" {
			t.Errorf("%s: told %v", method, f)
		}
		// What was answered before a refusal brings nobody in again, and who is let in anew may stay.
		if ask(200, `{"result":"deny"}`) != Refused {
			t.Error("not refused")
		}
		if _, done, _ := b.Quick(c); done {
			t.Error("an answer from before the refusal is remembered")
		}
		says.Store(first)
		again, err := b.Authenticate(t.Context(), c)
		if err != nil || b.Recheck(&again, nil) != nil {
			t.Errorf("it comes again: %v, %v", err, b.Recheck(&again, nil))
		}
		// A refusal is forgotten in time, with the client long gone.
		if ask(403, "") != Refused || b.refused.n.Load() != 1 {
			t.Error("not refused")
		}
		b.now = b.now.Add(2 * againKept)
		if b.NewAgain(); b.refused.n.Load() != 0 {
			t.Error("refusals stay for ever")
		}
		if got := b.NewAgain().Ask(t.Context(), &Standing{Identity: broker.Identity{Source: sourcePassword, User: "bob"}}); got != Unanswered {
			t.Errorf("a user of the file: %v", got)
		}
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
