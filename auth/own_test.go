package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicemq/sluice/broker"
)

const (
	pub = broker.ActionPublish
	sub = broker.ActionSubscribe
)

// ownClient comes in by a token with an acl claim.
func (b *tokenBench) ownClient(t *testing.T, client, acl string) (broker.Identity, error) {
	t.Helper()
	claims := b.claims()
	claims["acl"] = json.RawMessage(acl)
	return b.Authenticate(t.Context(), broker.Credentials{ClientID: client, Password: []byte(signers()["rs"].token(t, claims))})
}

type ask struct {
	action broker.Action
	topic  string
	want   bool
}

func (b *tokenBench) asked(t *testing.T, id *broker.Identity, list []ask) {
	t.Helper()
	for _, a := range list {
		if got := b.Authorize(id, a.action, []byte(a.topic)); got != a.want {
			_, by := b.ExplainMQTT(id, a.action, []byte(a.topic))
			t.Errorf("action %d on %s: %v by %d", a.action, a.topic, got, by)
		}
	}
}

// A token's own rules bound what its bearer may do, whatever else is open; the file's and the catalog's denials count before them.
func TestOwnRules(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), ACLClaim: "acl"})
	lists := `{"pub":["d/${clientid}/up"],"sub":["d/%c/down/#"],"all":["of/${username}"]}`
	id, err := b.ownClient(t, "c1", lists)
	if err != nil {
		t.Fatal(err)
	}
	asks := []ask{{pub, "d/c1/up", true}, {sub, "d/c1/up", false}, {pub, "d/c2/up", false}, {sub, "d/c1/down/#", true}, {sub, "$share/g/d/c1/down/x", true},
		{sub, "d/+/down/x", false}, {sub, "#", false}, {pub, "of/ann", true}, {sub, "of/ann", true}, {pub, "else", false}}
	b.asked(t, &id, asks)
	for op, want := range map[broker.Operation]bool{broker.OperationWrite: true, broker.OperationDescribe: true, broker.OperationRead: false} {
		if got := b.Allows(&id, op, broker.ResourceTopic, []byte("d/c1/up")); got != want {
			t.Errorf("Kafka's operation %d: %v", op, got)
		}
	}
	if b.Allows(&id, broker.OperationWrite, broker.ResourceTopic, []byte("else")) || !b.AllowsAny(&id, broker.OperationWrite, broker.ResourceTopic) {
		t.Error("Kafka's rights are not those of the token")
	}
	if odd, err := b.ownClient(t, "+", lists); err != nil || b.Authorize(&odd, sub, []byte("d/+/down/x")) {
		t.Errorf("a client id became a wildcard: %v", err)
	}
	rules := `[{"permission":"deny","action":"publish","topics":["a/x"]},{"permission":"allow","topic":"a/#"}]`
	if id, err = b.ownClient(t, "c1", rules); err != nil {
		t.Fatal(err)
	}
	b.asked(t, &id, []ask{{pub, "a/x", false}, {sub, "a/x", true}, {pub, "a/y", true}, {pub, "else", true}})

	b.o.ACLFile = filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(b.o.ACLFile, []byte("deny all by all on a/y\nallow all by all on file/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	b.SetACLs([]broker.ACL{{Resource: broker.ResourceTopic, Pattern: broker.PatternLiteral, Name: "a/z", Principal: "User:*", Host: "*", Operation: broker.OperationAll, Permission: broker.PermissionDeny}})
	b.asked(t, &id, []ask{{pub, "a/y", false}, {pub, "a/z", false}, {pub, "a/w", true}, {pub, "file/x", true}, {pub, "else", false}})
	if b.Allows(&id, broker.OperationWrite, broker.ResourceTopic, []byte("a/z")) || !b.Allows(&id, broker.OperationWrite, broker.ResourceTopic, []byte("a/w")) {
		t.Error("Kafka's answers differ")
	}
	if id, err = b.ownClient(t, "c1", lists); err != nil {
		t.Fatal(err)
	}
	b.asked(t, &id, append(asks, ask{pub, "file/x", false}))
	b.o.SuperUsers = []string{"ann"}
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	b.asked(t, &id, []ask{{pub, "else", true}})
}

// A claim that is not understood lets nobody in: it must not be taken for one without conditions.
func TestOwnRulesRefused(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), ACLClaim: "acl"})
	for _, acl := range []string{`"#"`, `7`, `{"publish":["a"]}`, `{"pub":"a"}`, `{"pub":["a/#/b"]}`, `{"pub":["100%"]}`, `{"pub":[""]}`, `[{"action":"all","topic":"a"}]`,
		`[{"permission":"allow","topic":"a","qos":0}]`, `[{"permission":"allow"}]`, `[{"permission":"allow","action":"read","topic":"a"}]`,
		`{"pub":["` + strings.Repeat("a", ownFilterMax+1) + `"]}`, `[` + strings.TrimSuffix(strings.Repeat(`{"permission":"deny","topic":"a"},`, ownRulesMax+1), ",") + `]`,
		strings.Repeat("[", 20) + strings.Repeat("]", 20)} {
		if id, err := b.ownClient(t, "c1", acl); !errors.Is(err, broker.ErrBadCredentials) || id.User != "" {
			t.Errorf("%.60s: %+v, %v", acl, id, err)
		}
	}
	if id, err := b.ownClient(t, "c1", "null"); err != nil || id.Own != nil {
		t.Errorf("null: %+v, %v", id, err)
	}
}

// Claims that a token has to have tie it to its client.
func TestRequiredClaims(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs))), Require: []string{"device=%c", "roles=mqtt", "who=user-%u", "ok=true"}})
	good := func() jwt.MapClaims {
		c := b.claims()
		c["device"], c["roles"], c["who"], c["ok"] = "c", []string{"x", "mqtt"}, "user-ann", true
		return c
	}
	come := func(c jwt.MapClaims) error {
		_, err := b.Authenticate(t.Context(), broker.Credentials{ClientID: "c", Password: []byte(rs.token(t, c))})
		return err
	}
	if err := come(good()); err != nil {
		t.Error(err)
	}
	for claim, v := range map[string]any{"device": "d", "roles": []string{"x"}, "who": "user-bob", "ok": nil} {
		c := good()
		if c[claim] = v; !errors.Is(come(c), broker.ErrBadCredentials) {
			t.Errorf("%s=%v came in", claim, v)
		}
	}
	for _, bad := range []string{"device", "=x", "a=%d", "a=%"} {
		o := b.o
		o.JWT = &JWTOptions{KeyFile: b.o.JWT.KeyFile, Require: []string{bad}}
		if b.Reload(o) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A secret verifies tokens of HMAC and no others, and a public key is never taken for a secret.
func TestSharedSecret(t *testing.T) {
	rs, secret := signers()["rs"], bytes.Repeat([]byte("s"), 32)
	keys := jwksOf(t, jwkOf(rs))
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, keys), Secret: secret})
	hs := func(key []byte, m jwt.SigningMethod) string {
		tok := jwt.NewWithClaims(m, b.claims())
		tok.Header["kid"] = "rs"
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, b.claims()).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	n, err := base64.RawURLEncoding.DecodeString(jwkOf(rs)["n"])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token string
		good  bool
	}{{hs(secret, jwt.SigningMethodHS256), true}, {hs(secret, jwt.SigningMethodHS384), true}, {hs(secret, jwt.SigningMethodHS512), true}, {rs.token(t, b.claims()), true},
		{hs(secret[:31], jwt.SigningMethodHS256), false}, {hs(n, jwt.SigningMethodHS256), false}, {hs(keys, jwt.SigningMethodHS256), false}, {none, false}} {
		if _, err := b.Authenticate(t.Context(), creds("ann", c.token)); (err == nil) != c.good || err != nil && strings.Contains(err.Error(), string(secret[:8])) {
			t.Errorf("%.20s: %v", c.token, err)
		}
	}
	b.o.JWT.KeyFile = ""
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Authenticate(t.Context(), creds("ann", hs(secret, jwt.SigningMethodHS256))); err != nil {
		t.Errorf("the secret alone: %v", err)
	}
	b.o.JWT.KeyFile, b.o.JWT.Secret = keyFile(t, keys), nil
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{hs(secret, jwt.SigningMethodHS256), hs([]byte{}, jwt.SigningMethodHS256)} {
		if _, err := b.Authenticate(t.Context(), creds("ann", token)); err == nil {
			t.Error("a token of HMAC came in without a secret")
		}
	}
}

func FuzzOwn(f *testing.F) {
	f.Add([]byte(`{"pub":["a/%c"],"sub":["#"],"all":[]}`))
	f.Add([]byte(`[{"permission":"deny","action":"publish","topics":["a/x"]}]`))
	f.Add(fmt.Appendf(nil, `{"pub":%s}`, strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parseOwn(data)
		if err != nil {
			return
		}
		id := &broker.Identity{User: "u", ClientID: "c", Own: o}
		for _, topic := range []string{"a/x", "#", "$share/g/a/+"} {
			if v := o.judge(id, sub, []byte(topic)); o.exact && v == silent {
				t.Fatalf("%s: silent", data)
			}
		}
	})
}
