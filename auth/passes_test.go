package auth

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// A token that was good a moment ago is good at once, for who may show it and while it may be shown; what has changed is looked at each time.
func TestPassIsRemembered(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), ACLClaim: "acl", Require: []string{"device=%c"}})
	claims := b.claims()
	claims["device"], claims["acl"] = "c1", map[string]any{"pub": []string{"d/%c"}}
	token := []byte(rs.token(t, claims))
	quick := func(client, user string) bool {
		id, done, err := b.Quick(broker.Credentials{ClientID: client, Username: user, HasUsername: user != "", Password: token})
		if err != nil {
			t.Fatal(err)
		}
		if done && (id.User != "ann" || id.ClientID != client || id.Source != OAuthBearer || !b.Authorize(&id, pub, []byte("d/c1")) || b.Authorize(&id, pub, []byte("d/c2"))) {
			t.Fatalf("%+v", id)
		}
		return done
	}
	come := func() {
		t.Helper()
		if _, err := b.Authenticate(t.Context(), broker.Credentials{ClientID: "c1", Password: token}); err != nil {
			t.Fatal(err)
		}
	}
	if quick("c1", "") {
		t.Error("known before it was seen")
	}
	come()
	if !quick("c1", "") || !quick("c1", "ann") {
		t.Error("not remembered")
	}
	if quick("c2", "") || quick("c1", "bob") {
		t.Error("another client is let in by it")
	}
	b.d.set("ann", Account{Disabled: true})
	if quick("c1", "") {
		t.Error("a user who is disabled is let in")
	}
	b.d.set("ann", Account{})
	if !quick("c1", "") {
		t.Error("not remembered behind a change of the user")
	}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if quick("c1", "") {
		t.Error("known behind a reload")
	}
	come()
	b.now = b.now.Add(b.o.CacheTTL + time.Second) // the skew lets the token live longer
	if quick("c1", "") {
		t.Error("known for longer than auth.cache_ttl")
	}
	come()
	b.now = b.now.Add(30 * time.Second)
	if quick("c1", "") {
		t.Error("known behind its end")
	}
	if _, err := b.Authenticate(t.Context(), broker.Credentials{ClientID: "c1", Password: token}); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("an expired token: %v", err)
	}
}

// What is remembered is bounded by its bytes, and a long token is looked at each time.
func TestPassesAreBounded(t *testing.T) {
	var s passes
	now := time.Now()
	for i := range 3 * passBytesMax / passTokenMax {
		var d digest
		binary.LittleEndian.PutUint64(d[:], uint64(i))
		s.put(d, kept{pass{user: "u"}, now.Add(time.Minute), passTokenMax})
		s.put(d, kept{pass{user: "u"}, now.Add(time.Minute), passTokenMax}) // again: it is counted once
	}
	if n := len(s.mu.all); n != passBytesMax/passTokenMax || s.mu.bytes != passBytesMax {
		t.Errorf("%d passes of %d bytes", n, s.mu.bytes)
	}
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs)))})
	claims := b.claims()
	claims["long"] = strings.Repeat("x", passTokenMax)
	c := broker.Credentials{ClientID: "c1", Password: []byte(rs.token(t, claims))}
	if _, err := b.Authenticate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, done, _ := b.Quick(c); done {
		t.Error("a token of", len(c.Password), "bytes is remembered")
	}
}
