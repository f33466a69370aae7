package auth

import (
	"errors"
	"testing"

	"github.com/sluicemq/sluice/broker"
)

// Who comes in has to have a client id of one of the forms, at once, after a hash, and after a reload.
func TestClientIDs(t *testing.T) {
	b := newBench(t, map[string]string{"bob": "right", "b*": "right"})
	b.o.ClientIDs, b.o.Anonymous = []string{"%u", "%u-*", "guest-?*", "100%%"}, "everywhere"
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is remembered
		for _, c := range []struct {
			user, client string
			ok           bool
		}{{"bob", "bob", true}, {"bob", "bob-1", true}, {"bob", "eve", false}, {"bob", "bobby", false}, {"bob", "100%", true}, {"b*", "bob", false}, {"b*", "b*-x", false},
			{"bob", "", true}, {"", "-1", false}, {"", "guest-?7", true}} {
			cr := creds(c.user, "right")
			cr.HasUsername, cr.ClientID = c.user != "", c.client
			id, err := b.Authenticate(t.Context(), cr)
			if (err == nil) != c.ok || err != nil && (!errors.Is(err, broker.ErrNotAuthorized) || id.User != "") {
				t.Errorf("%s as %s: %+v, %v", c.user, c.client, id, err)
			}
			if _, done, qerr := b.Quick(cr); !done || (qerr == nil) != c.ok {
				t.Errorf("%s as %s, at once: %v, %v", c.user, c.client, done, qerr)
			}
		}
	}
	id, err := b.Authenticate(t.Context(), creds("bob", "wrong"))
	if !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("a wrong password is told from a wrong id: %+v, %v", id, err)
	}
	cr := creds("bob", "right")
	cr.ClientID = "bob-1"
	if id, err = b.Authenticate(t.Context(), cr); err != nil || b.Recheck(&id, nil) != nil {
		t.Fatal(err)
	}
	b.o.ClientIDs = []string{"%u"}
	if err := b.Reload(b.o); err != nil || b.Recheck(&id, nil) == nil {
		t.Errorf("it may stay under another rule: %v", err)
	}
	for _, bad := range []string{"", "%c", "%x", "a%"} {
		b.o.ClientIDs = []string{bad}
		if b.Reload(b.o) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
