package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicemq/sluice/broker"
)

// signer makes tokens with one key.
type signer struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
	alg    string // that the set says of the key; empty: nothing
}

var signers = sync.OnceValue(func() map[string]signer {
	must := func(k crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return k
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	list := map[string]signer{"rs": {id: "rs", method: jwt.SigningMethodRS256, key: must(rs, err)}}
	list["ps"] = signer{id: "rs", method: jwt.SigningMethodPS512, key: rs}
	for _, c := range []struct {
		id     string
		curve  elliptic.Curve
		method jwt.SigningMethod
	}{{"p256", elliptic.P256(), jwt.SigningMethodES256}, {"p384", elliptic.P384(), jwt.SigningMethodES384}, {"p521", elliptic.P521(), jwt.SigningMethodES512}} {
		k, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		list[c.id] = signer{id: c.id, method: c.method, key: must(k, err), alg: c.method.Alg()}
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	list["ed"] = signer{id: "ed", method: jwt.SigningMethodEdDSA, key: must(ed, err)}
	return list
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwkOf is a key as a set has it.
func jwkOf(s signer) map[string]string {
	k := map[string]string{"kid": s.id, "use": "sig", "alg": s.alg}
	switch pub := s.key.Public().(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	case *ecdsa.PublicKey:
		raw, err := pub.Bytes()
		if err != nil {
			panic(err)
		}
		half := (len(raw) - 1) / 2
		k["kty"], k["crv"], k["x"], k["y"] = "EC", pub.Curve.Params().Name, b64(raw[1:1+half]), b64(raw[1+half:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", b64(pub)
	}
	return k
}

func jwksOf(t testing.TB, keys ...map[string]string) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// tokenBench is a provider that takes tokens.
type tokenBench struct {
	*bench
	d *fakeDirectory
}

func newTokenBench(t *testing.T, o JWTOptions) *tokenBench {
	t.Helper()
	b, d := directoryBench(t, nil)
	o.Claim, o.ClockSkew, o.Algorithms = "sub", 30*time.Second, TokenAlgorithms
	b.o.JWT, b.o.Logger = &o, slog.New(slog.DiscardHandler)
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	return &tokenBench{b, d}
}

func keyFile(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *tokenBench) claims() jwt.MapClaims {
	return jwt.MapClaims{"sub": "ann", "iss": "https://issuer", "aud": []string{"sluice", "other"}, "exp": b.now.Add(time.Minute).Unix(), "iat": b.now.Unix()}
}

func (s signer) token(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(s.method, claims)
	if s.id != "" {
		tok.Header["kid"] = s.id
	}
	text, err := tok.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func bearer(token string) []byte { return []byte("n,,\x01auth=Bearer " + token + "\x01\x01") }

// said has the conversation as Kafka's clients have it: err is the refusal behind the status.
func (b *tokenBench) said(t *testing.T, message []byte) (broker.Identity, error) {
	t.Helper()
	talk := b.Converse(OAuthBearer, broker.Credentials{})
	answer, done, err := talk.Step(t.Context(), message)
	if err != nil {
		return broker.Identity{}, err
	}
	if done {
		if len(answer) != 0 {
			t.Errorf("success says %q", answer)
		}
		if _, again, err := talk.Step(t.Context(), message); again || err == nil {
			t.Error("more was said after the end")
		}
		return talk.Identity(), nil
	}
	if string(answer) != `{"status":"invalid_token"}` {
		t.Errorf("the answer is %q", answer)
	}
	_, done, err = talk.Step(t.Context(), []byte{1})
	if done || !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("behind the status: %v", err)
	}
	return broker.Identity{}, err
}

// Every algorithm that is taken, with and without the name of its key.
func TestTokenAlgorithms(t *testing.T) {
	var keys []map[string]string
	for _, name := range []string{"rs", "p256", "p384", "p521", "ed"} {
		keys = append(keys, jwkOf(signers()[name]))
	}
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, keys...)), Issuer: "https://issuer", Audience: []string{"third", "sluice"}})
	for name, s := range signers() {
		for _, id := range []string{s.id, ""} {
			s.id = id
			got, err := b.said(t, bearer(s.token(t, b.claims())))
			if err != nil || got.User != "ann" || got.Source != OAuthBearer || got.Expires != b.now.Add(time.Minute).UnixMilli() || b.Recheck(&got, nil) != nil {
				t.Errorf("%s, key %q: %+v, %v", name, id, got, err)
			}
		}
	}
	if m := b.Mechanisms(); len(m) != 3 {
		t.Errorf("%v", m)
	}
}

// What is wrong with a token is answered with a status, whatever it is.
func TestTokenRefused(t *testing.T) {
	rs := signers()["rs"]
	pub, _ := json.Marshal(jwkOf(rs))
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs), jwkOf(signers()["p256"]))), Issuer: "https://issuer", Audience: []string{"sluice"}})
	with := func(change func(jwt.MapClaims)) string {
		c := b.claims()
		change(c)
		return rs.token(t, c)
	}
	stranger := signers()["ed"]
	impostor := signers()["p384"]
	impostor.id = "p256"
	named := signers()["ps"]
	named.id = "p256" // a key of another kind
	hs := jwt.NewWithClaims(jwt.SigningMethodHS256, b.claims())
	hs.Header["kid"] = "rs"
	secret, err := hs.SignedString(pub)
	if err != nil {
		t.Fatal(err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, b.claims()).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	good := rs.token(t, b.claims())
	dot := strings.LastIndex(good, ".") + 1
	other := byte('x')
	if good[dot] == other {
		other = 'y'
	}
	changed := good[:dot] + string(other) + good[dot+1:]
	for name, token := range map[string]string{
		"expired":          with(func(c jwt.MapClaims) { c["exp"] = b.now.Add(-31 * time.Second).Unix() }),
		"without an end":   with(func(c jwt.MapClaims) { delete(c, "exp") }),
		"early":            with(func(c jwt.MapClaims) { c["nbf"] = b.now.Add(time.Minute).Unix() }),
		"from the future":  with(func(c jwt.MapClaims) { c["iat"] = b.now.Add(time.Minute).Unix() }),
		"another issuer":   with(func(c jwt.MapClaims) { c["iss"] = "https://other" }),
		"without issuer":   with(func(c jwt.MapClaims) { delete(c, "iss") }),
		"another audience": with(func(c jwt.MapClaims) { c["aud"] = "other" }),
		"without audience": with(func(c jwt.MapClaims) { delete(c, "aud") }),
		"without user":     with(func(c jwt.MapClaims) { delete(c, "sub") }),
		"empty user":       with(func(c jwt.MapClaims) { c["sub"] = "" }),
		"numeric user":     with(func(c jwt.MapClaims) { c["sub"] = 7 }),
		"an unknown key":   stranger.token(t, b.claims()),
		"another's key":    impostor.token(t, b.claims()),
		"a key of another": named.token(t, b.claims()),
		"the public key":   secret,
		"none":             none,
		"changed":          changed,
		"cut":              good[:strings.LastIndex(good, ".")],
		"no token":         "x",
	} {
		if id, err := b.said(t, bearer(token)); err == nil {
			t.Errorf("%s: %+v came in", name, id)
		}
	}
	if _, err := b.said(t, bearer(with(func(c jwt.MapClaims) { c["exp"] = b.now.Add(-29 * time.Second).Unix() }))); err != nil {
		t.Errorf("within the clocks' difference: %v", err)
	}
}

func TestBearerMessages(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs)))})
	token := rs.token(t, b.claims())
	for _, good := range []string{"n,a=ann,\x01auth=Bearer T\x01\x01", "n,,\x01auth=bearer T\x01\x01", "n,,\x01traceId=7\x01auth=Bearer T\x01other=\x01\x01"} {
		if _, err := b.said(t, []byte(strings.ReplaceAll(good, "T", token))); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "\x01", "n,,", "n,,\x01\x01", "n,,\x01auth=Bearer T\x01", "n,,\x01auth=Basic T\x01\x01", "n,,\x01auth=Bearer \x01\x01", "y,,\x01auth=Bearer T\x01\x01",
		"n,,\x01auth=Bearer T\x01auth=Bearer T\x01\x01", "n,,\x01traceId=7\x01\x01", "n,,auth=Bearer T\x01\x01", "n,,\x01a1=7\x01auth=Bearer T\x01\x01",
		"n,a=bob,\x01auth=Bearer T\x01\x01", "n,a=a=b,\x01auth=Bearer T\x01\x01", "n,,\x01auth=Bearer T\x01\x01x", "n,,\x01auth=Bearer T\x00\x01\x01",
		"n,,\x01auth=Bearer " + strings.Repeat("x", tokenBytesMax) + "\x01\x01",
	} {
		talk := b.Converse(OAuthBearer, broker.Credentials{})
		if answer, done, err := talk.Step(t.Context(), []byte(strings.ReplaceAll(bad, "T", token))); err == nil || done || answer != nil {
			t.Errorf("%.60q: %q, %v", bad, answer, err)
		}
	}
}

// A client that came by a token stays until it has expired, unless its user is disabled, or tokens are not taken any more.
func TestTokenRecheck(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs)))})
	id, err := b.said(t, bearer(rs.token(t, b.claims())))
	if err != nil || b.Recheck(&id, nil) != nil {
		t.Fatal(err)
	}
	b.d.set("ann", Account{Disabled: true})
	if b.Recheck(&id, nil) == nil {
		t.Error("disabled, and in")
	}
	b.d.set("ann", Account{})
	b.now = b.now.Add(89 * time.Second)
	if err := b.Recheck(&id, nil); err != nil {
		t.Error(err)
	}
	b.now = b.now.Add(time.Second)
	if b.Recheck(&id, nil) == nil {
		t.Error("expired, and in")
	}
	b.now = b.now.Add(-time.Minute)
	b.o.JWT = nil
	if err := b.Reload(b.o); err != nil || b.Recheck(&id, nil) == nil || len(b.Mechanisms()) != 2 {
		t.Errorf("tokens are not taken any more: %v", err)
	}
	if _, _, err := b.Converse(OAuthBearer, broker.Credentials{}).Step(t.Context(), bearer("x")); !errors.Is(err, broker.ErrNotAuthorized) {
		t.Errorf("a token: %v", err)
	}
}

func TestKeySets(t *testing.T) {
	rs, ed := jwkOf(signers()["rs"]), jwkOf(signers()["ed"])
	change := func(k map[string]string, key, value string) map[string]string {
		next := map[string]string{}
		for a, b := range k {
			next[a] = b
		}
		next[key] = value
		return next
	}
	ec := jwkOf(signers()["p256"])
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]map[string]string{
		"secret":            {"kty": "oct", "k": "AAAA", "kid": "x"},
		"encryption":        change(rs, "use", "enc"),
		"short":             jwkOf(signer{id: "x", key: short}),
		"long":              change(rs, "n", b64(make([]byte, 4000))),
		"exponent 1":        change(rs, "e", b64([]byte{1})),
		"even exponent":     change(rs, "e", b64([]byte{1, 0})),
		"huge exponent":     change(rs, "e", b64([]byte{1, 0, 0, 0, 1})),
		"not base64":        change(rs, "n", "!!!"),
		"curve":             change(ec, "crv", "secp256k1"),
		"off the curve":     change(ec, "x", ec["y"]),
		"coordinate":        change(ec, "x", "AAAA"),
		"edwards":           change(ed, "crv", "Ed448"),
		"edwards, short":    change(ed, "x", "AAAA"),
		"no kind":           {"kid": "x"},
		"unknown kind":      {"kty": "LWE", "kid": "x"},
		"empty elliptic":    {"kty": "EC", "crv": "P-256"},
		"empty Rivest":      {"kty": "RSA"},
		"infinite elliptic": change(change(ec, "x", b64(make([]byte, 32))), "y", b64(make([]byte, 32))),
	}
	all := []map[string]string{ed}
	for name, k := range bad {
		if _, err := parseKeySet(jwksOf(t, k)); err == nil {
			t.Errorf("%s is a key", name)
		}
		all = append(all, k)
	}
	if s, err := parseKeySet(jwksOf(t, all...)); err != nil || len(s.keys) != 1 {
		t.Errorf("one good key among bad ones: %v", err)
	}
	for _, text := range []string{"", "[]", "{}", `{"keys":[]}`, `{"keys":7}`, `{"keys":[7]}`, `{"keys":[` + strings.Repeat("{},", jwksKeysMax) + `{}]}`} {
		if _, err := parseKeySet([]byte(text)); err == nil {
			t.Errorf("%.20s is a set", text)
		}
	}
}

// keyServer publishes keys, and counts who asks.
type keyServer struct {
	*httptest.Server
	asked atomic.Int64
	mu    sync.Mutex
	body  []byte
	code  int
	wait  chan struct{} // may be nil
}

func serveKeys(t *testing.T) *keyServer {
	t.Helper()
	s := &keyServer{code: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		body, code, wait := s.body, s.code, s.wait
		s.mu.Unlock()
		if wait != nil {
			select {
			case <-wait:
			case <-r.Context().Done():
			}
		}
		w.WriteHeader(code)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) set(code int, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.body = code, body
}

// Keys are fetched with the first token, kept, fetched anew when they are old or a token names an unknown one, and go on to count when they cannot
// be fetched.
func TestKeysAreFetched(t *testing.T) {
	s := serveKeys(t)
	old, rotated := signers()["p256"], signers()["ed"]
	s.set(200, jwksOf(t, jwkOf(old)))
	b := newTokenBench(t, JWTOptions{KeyURL: s.URL, Refresh: time.Hour, Timeout: 5 * time.Second})
	in := func(who signer) bool {
		t.Helper()
		c := b.claims()
		_, err := b.said(t, bearer(who.token(t, c)))
		return err == nil
	}
	expect := func(what string, asked int64, oldIn, rotatedIn bool) {
		t.Helper()
		if got := in(old); got != oldIn {
			t.Errorf("%s: the old key %v", what, got)
		}
		if got := in(rotated); got != rotatedIn {
			t.Errorf("%s: the new key %v", what, got)
		}
		if n := s.asked.Load(); n != asked {
			t.Errorf("%s: asked %d times, want %d", what, n, asked)
		}
	}
	expect("first", 1, true, false)
	b.now = b.now.Add(fetchPause)
	expect("unknown key", 2, true, false)
	expect("unknown key at once", 2, true, false)
	s.set(200, jwksOf(t, jwkOf(old), jwkOf(rotated)))
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	expect("a reload keeps what is known", 2, true, false)
	b.now = b.now.Add(fetchPause)
	expect("rotated", 3, true, true)
	s.set(500, nil)
	b.now = b.now.Add(time.Hour)
	expect("server fails", 4, true, true)
	b.now = b.now.Add(retryPause)
	expect("server fails again", 5, true, true)
	s.set(200, []byte("nonsense"))
	b.now = b.now.Add(retryPause)
	expect("nonsense", 6, true, true)
	s.set(200, jwksOf(t, jwkOf(rotated)))
	b.now = b.now.Add(retryPause)
	expect("old key gone", 7, false, true)
	s.set(200, append(jwksOf(t, jwkOf(old)), make([]byte, jwksBytesMax)...))
	b.now = b.now.Add(time.Hour)
	expect("too long", 8, false, true)
}

// Without keys nobody comes in, and a server that does not answer holds nobody up for longer than it may.
func TestKeysThatDoNotCome(t *testing.T) {
	s := serveKeys(t)
	s.wait = make(chan struct{})
	defer close(s.wait)
	b := newTokenBench(t, JWTOptions{KeyURL: s.URL, Refresh: time.Hour, Timeout: 100 * time.Millisecond})
	token := bearer(signers()["ed"].token(t, b.claims()))
	if _, err := b.said(t, token); err == nil {
		t.Error("came in without keys")
	}
	if _, err := b.said(t, token); err == nil || s.asked.Load() != 1 {
		t.Errorf("asked %d times; %v", s.asked.Load(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.now = b.now.Add(retryPause)
	if _, err := b.rules.Load().tokens.verify(ctx, signers()["ed"].token(t, b.claims()), "c"); err == nil {
		t.Error("verified after the end")
	}
}

// Many tokens at once make one fetch.
func TestOneFetchAtATime(t *testing.T) {
	s := serveKeys(t)
	s.set(200, jwksOf(t, jwkOf(signers()["ed"])))
	s.wait = make(chan struct{})
	b := newTokenBench(t, JWTOptions{KeyURL: s.URL, Refresh: time.Hour, Timeout: 10 * time.Second})
	token := signers()["ed"].token(t, b.claims())
	answers := make(chan error, 20)
	for range 20 {
		go func() {
			_, err := b.rules.Load().tokens.verify(t.Context(), token, "c")
			answers <- err
		}()
	}
	for s.asked.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	close(s.wait)
	for range 20 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A redirect must not leave the scheme, nor go on for ever.
func TestKeysBehindRedirects(t *testing.T) {
	s := serveKeys(t)
	s.set(200, jwksOf(t, jwkOf(signers()["ed"])))
	for name, tt := range map[string]struct {
		to string
		ok bool
	}{"the keys": {s.URL, true}, "itself": {"", false}, "another scheme": {"https://127.0.0.1:1/", false}} {
		var front *httptest.Server
		front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			to := tt.to
			if to == "" {
				to = front.URL
			}
			http.Redirect(w, r, to, http.StatusFound)
		}))
		b := newTokenBench(t, JWTOptions{KeyURL: front.URL, Refresh: time.Hour, Timeout: 5 * time.Second})
		if _, err := b.said(t, bearer(signers()["ed"].token(t, b.claims()))); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		front.Close()
	}
}

func FuzzBearer(f *testing.F) {
	f.Add("n,,\x01auth=Bearer x.y.z\x01\x01")
	f.Add("n,a=b,\x01auth=Bearer eyJhbGciOiJub25lIn0.e30.\x01\x01")
	set, err := parseKeySet(jwksOf(f, jwkOf(signers()["ed"])))
	if err != nil {
		f.Fatal(err)
	}
	p, err := New(Options{Anonymous: "off"})
	if err != nil {
		f.Fatal(err)
	}
	o := JWTOptions{KeyFile: keyFile(f, jwksOf(f, jwkOf(signers()["ed"]))), Claim: "sub", Algorithms: TokenAlgorithms}
	if err := p.Reload(Options{Anonymous: "off", JWT: &o}); err != nil || len(set.keys) != 1 {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, message string) {
		if _, done, err := p.Converse(OAuthBearer, broker.Credentials{}).Step(context.Background(), []byte(message)); done {
			t.Fatal(fmt.Sprint("in by ", message, err))
		}
	})
}

func FuzzKeySet(f *testing.F) {
	for _, s := range signers() {
		f.Add(jwksOf(f, jwkOf(s)))
	}
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseKeySet(data) })
}

// A token stands for a password, alone or with the name of its user. What looks like one and is none is a password like others.
func TestTokenAsPassword(t *testing.T) {
	rs := signers()["rs"]
	b := newTokenBench(t, JWTOptions{KeyFile: keyFile(t, jwksOf(t, jwkOf(rs)))})
	token, odd := rs.token(t, b.claims()), "eyJ.a.b"
	alone := broker.Credentials{ClientID: "c", Password: []byte(token)}
	for i := range 2 {
		for name, c := range map[string]broker.Credentials{"alone": alone, "named": creds("ann", token), "empty name": creds("", token)} {
			id, err := b.Authenticate(t.Context(), c)
			if err != nil || id.User != "ann" || id.Source != OAuthBearer || id.Expires == 0 || id.ClientID != "c" || b.Recheck(&id, nil) != nil {
				t.Errorf("round %d, %s: %+v, %v", i, name, id, err)
			}
		}
		for _, c := range []broker.Credentials{creds("bob", token), creds("ann", token[:len(token)-6]), creds("ann", odd), {Password: []byte(odd)}} {
			if id, err := b.Authenticate(t.Context(), c); !errors.Is(err, broker.ErrBadCredentials) {
				t.Errorf("round %d, %s %.10s: %+v, %v", i, c.Username, c.Password, id, err)
			}
		}
		b.d.set("bob", accountOf(t, odd))
		if id, err := b.Authenticate(t.Context(), creds("bob", odd)); err != nil || id.Source != sourcePassword {
			t.Errorf("a password that looks like a token: %+v, %v", id, err)
		}
	}
	b.d.set("ann", Account{Disabled: true})
	if _, err := b.Authenticate(t.Context(), alone); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("of a disabled user: %v", err)
	}
	before := b.hashed.Load()
	for _, user := range []string{"bob", "nobody"} { // both wait for a hash
		if _, err := b.Authenticate(t.Context(), creds(user, "eyJ.b.c")); err == nil {
			t.Errorf("%s came in", user)
		}
	}
	if n := b.hashed.Load() - before; n != 2 {
		t.Errorf("%d hashes", n)
	}
	b.o.Anonymous = "everywhere"
	b.d.mu.Lock()
	b.d.users = nil
	b.d.mu.Unlock()
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Authenticate(t.Context(), creds("ann", odd)); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("a token that is not good made its bearer anonymous: %v", err)
	}
}
