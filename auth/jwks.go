package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a key set.
const (
	jwksBytesMax = 1 << 20
	jwksKeysMax  = 1000
	rsaBitsMin   = 2048
	rsaBitsMax   = 16384
	exponentMax  = 1<<31 - 1
)

// jwk is one public key of a set (RFC 7517). It is read here, and not by a library, so that a key that cannot be used costs nothing but itself, and
// that no secret is taken for a key.
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	N         string `json:"n"`
	E         string `json:"e"`
	X         string `json:"x"`
	Y         string `json:"y"`

	key crypto.PublicKey
}

// keySet is the keys that tokens may be signed with. It is immutable.
type keySet struct {
	keys []jwk
}

// parseKeySet reads a JWKS. Keys that cannot be used are left out; a set without any that can is an error.
func parseKeySet(data []byte) (*keySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("want a JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > jwksKeysMax {
		return nil, fmt.Errorf("want at most %d keys, found %d", jwksKeysMax, len(set.Keys))
	}
	s := &keySet{}
	var last error
	for _, raw := range set.Keys {
		var k jwk
		err := json.Unmarshal(raw, &k)
		if err == nil && k.Use != "" && k.Use != "sig" {
			err = fmt.Errorf("key %q is not for signatures", k.ID)
		}
		if err == nil {
			err = k.read()
		}
		if err != nil {
			last = err
			continue
		}
		s.keys = append(s.keys, k)
	}
	if len(s.keys) == 0 {
		if last == nil {
			last = errors.New("it is empty")
		}
		return nil, fmt.Errorf("the key set has no key that tokens can be verified with: %w", last)
	}
	return s, nil
}

// read makes the public key of its parts.
func (k *jwk) read() (err error) {
	switch k.Type {
	case "RSA":
		k.key, err = k.rsa()
	case "EC":
		k.key, err = k.ec()
	case "OKP":
		var x []byte
		if x, err = base64Part(k.X); err == nil && (k.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize) {
			err = errors.New("want an Ed25519 key")
		}
		k.key = ed25519.PublicKey(x)
	default:
		err = fmt.Errorf("keys of type %q are not taken", k.Type) // oct among them: a secret is no public key
	}
	if err != nil {
		return fmt.Errorf("key %q: %w", k.ID, err)
	}
	return nil
}

func base64Part(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }

func (k *jwk) rsa() (*rsa.PublicKey, error) {
	n, err := base64Part(k.N)
	e, err2 := base64Part(k.E)
	if err = errors.Join(err, err2); err != nil {
		return nil, err
	}
	if len(n) > rsaBitsMax/8+1 || len(e) > 8 {
		return nil, errors.New("it is too long")
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	exponent := new(big.Int).SetBytes(e)
	if bits := key.N.BitLen(); bits < rsaBitsMin || bits > rsaBitsMax {
		return nil, fmt.Errorf("want %d to %d bits, found %d", rsaBitsMin, rsaBitsMax, bits)
	}
	if !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > exponentMax || exponent.Bit(0) == 0 {
		return nil, errors.New("its exponent cannot be")
	}
	key.E = int(exponent.Int64())
	return key, nil
}

func (k *jwk) ec() (*ecdsa.PublicKey, error) {
	curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
	if curve == nil {
		return nil, fmt.Errorf("no curve %q", k.Curve)
	}
	x, err := base64Part(k.X)
	y, err2 := base64Part(k.Y)
	if err = errors.Join(err, err2); err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, fmt.Errorf("want coordinates of %d bytes", size)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
}

// find gives the keys that a token with this key id and algorithm may be signed with; without an id, all that fit.
func (s *keySet) find(id, algorithm string) (keys []crypto.PublicKey, known bool) {
	for i := range s.keys {
		k := &s.keys[i]
		if id != "" && k.ID != id {
			continue
		}
		known = true
		if k.Algorithm == "" || k.Algorithm == algorithm {
			keys = append(keys, k.key)
		}
	}
	return keys, known
}

// keySource gives the keys in force.
type keySource interface {
	// keys are those that there are; fresh asks for such as are newer than those, because a key that a token names is not among them.
	keys(ctx context.Context, fresh bool) (*keySet, error)
}

// fixedKeys are the keys of a file.
type fixedKeys struct{ set *keySet }

func (f fixedKeys) keys(context.Context, bool) (*keySet, error) { return f.set, nil }

const (
	// fetchPause is how long after one fetch the next one may be made because a token names an unknown key: tokens cost nothing to make up.
	fetchPause = 10 * time.Second
	// retryPause is the same after a fetch that failed.
	retryPause = 2 * time.Second
)

// fetchedKeys are the keys that a server publishes. One caller at a time fetches, the others go on with what there is, or wait if that is nothing. The
// last good answer counts until there is another one.
type fetchedKeys struct {
	url     string
	refresh time.Duration
	client  *http.Client
	now     func() time.Time
	logf    func(err error)

	got  atomic.Pointer[keySet]
	turn chan struct{} // holds one token: who has it fetches
	mu   struct {
		sync.Mutex
		tried time.Time // when the last fetch ended
		err   error     // what came of it
	}
}

func newFetchedKeys(url string, refresh, timeout time.Duration, now func() time.Time, logf func(error)) *fetchedKeys {
	f := &fetchedKeys{url: url, refresh: refresh, now: now, logf: logf, turn: make(chan struct{}, 1)}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: timeout, MaxResponseHeaderBytes: 64 << 10}
	f.client = &http.Client{Timeout: timeout, Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 3 || r.URL.Scheme != via[0].URL.Scheme {
			return errors.New("too many redirects, or one that leaves the scheme")
		}
		return nil
	}}
	return f
}

// due says whether a fetch is to be made, and what the last one came to.
func (f *fetchedKeys) due(fresh bool) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.now().Sub(f.mu.tried)
	switch {
	case f.mu.tried.IsZero() || since < 0:
		return true, nil
	case f.mu.err != nil:
		return since >= retryPause, f.mu.err
	}
	return since >= f.refresh || fresh && since >= fetchPause, nil
}

func (f *fetchedKeys) keys(ctx context.Context, fresh bool) (*keySet, error) {
	have := f.got.Load()
	due, err := f.due(fresh)
	if !due {
		if have == nil {
			return nil, err
		}
		return have, nil
	}
	if have != nil && !fresh {
		select {
		case f.turn <- struct{}{}:
		default:
			return have, nil // somebody is at it
		}
	} else {
		select {
		case f.turn <- struct{}{}:
		case <-ctx.Done():
			return have, ctx.Err()
		}
	}
	defer func() { <-f.turn }()
	if due, err = f.due(fresh); due { // nobody has done it while this one waited
		err = f.fetch(ctx)
	}
	if have = f.got.Load(); have == nil {
		return nil, err
	}
	return have, nil
}

// fetch asks the server. The caller has the turn.
func (f *fetchedKeys) fetch(ctx context.Context) error {
	set, err := f.get(ctx)
	if err == nil {
		f.got.Store(set)
	} else {
		f.logf(err)
	}
	f.mu.Lock()
	f.mu.tried, f.mu.err = f.now(), err
	f.mu.Unlock()
	return err
}

func (f *fetchedKeys) get(ctx context.Context) (*keySet, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", f.url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, jwksBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > jwksBytesMax {
		return nil, fmt.Errorf("%s answers with more than %d bytes", f.url, jwksBytesMax)
	}
	return parseKeySet(data)
}
