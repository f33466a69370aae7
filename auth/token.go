package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicemq/sluice/broker"
)

// OAuthBearer is the SASL mechanism of tokens (RFC 7628).
const OAuthBearer = "OAUTHBEARER"

// tokenBytesMax bounds a client's message with a token.
const tokenBytesMax = 64 << 10

// JWTOptions say which tokens are good. One of KeyFile, KeyURL and Secret is set at least, and not both of the first two.
type JWTOptions struct {
	KeyFile    string // of a JSON Web Key Set; read anew by Reload
	KeyURL     string
	Refresh    time.Duration // how old keys of KeyURL may get
	Timeout    time.Duration // of a fetch
	Issuer     string        // that a token has to have; empty: any
	Audience   []string      // of which a token has to have one; empty: any
	Claim      string        // that names the user
	ClockSkew  time.Duration
	Algorithms []string // of signatures that are taken; those of secrets are taken with Secret alone
	Secret     []byte   // shared with who makes tokens, for HS256, HS384 and HS512; nil: there is none
	Require    []string // NAME=VALUE: claims that a token has to have, with %c for the client id and %u for the user in a value
	ACLClaim   string   // that has the client's own rules; empty: none has
	// TenantClaim names the client's tenant; empty: none does. A token without it leaves the client in its listener's.
	TenantClaim string
}

// tokens verifies tokens. It is immutable but for the keys that it fetches.
type tokens struct {
	o      JWTOptions
	parser *jwt.Parser
	must   []requirement
	source keySource
}

// TokenAlgorithms are the algorithms that can be taken for the keys of a set: none by which whoever can verify a token can make one.
var TokenAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// loadTokens reads the keys of a file, or keeps those that old has fetched from the same place.
func loadTokens(o *JWTOptions, now func() time.Time, logger *slog.Logger, old *tokens) (*tokens, error) {
	t := &tokens{o: *o}
	for _, text := range o.Require {
		r, err := parseRequirement(text)
		if err != nil {
			return nil, err
		}
		t.must = append(t.must, r)
	}
	switch {
	case o.KeyFile == "" && o.KeyURL == "":
		t.source = fixedKeys{&keySet{}}
	case o.KeyFile != "":
		data, err := readFile(o.KeyFile)
		if err != nil {
			return nil, err
		}
		set, err := parseKeySet(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.KeyFile, err)
		}
		t.source = fixedKeys{set}
	case old != nil && old.o.KeyURL == o.KeyURL && old.o.Refresh == o.Refresh && old.o.Timeout == o.Timeout:
		t.source = old.source
	default:
		t.source = newFetchedKeys(o.KeyURL, o.Refresh, o.Timeout, now, func(err error) {
			logger.Warn("the keys of tokens cannot be fetched", "url", o.KeyURL, "err", err)
		})
	}
	algorithms := o.Algorithms
	if len(o.Secret) > 0 {
		algorithms = append(slices.Clone(algorithms), "HS256", "HS384", "HS512")
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithLeeway(o.ClockSkew), jwt.WithTimeFunc(now), jwt.WithIssuedAt()}
	if o.Issuer != "" {
		options = append(options, jwt.WithIssuer(o.Issuer))
	}
	if len(o.Audience) > 0 {
		options = append(options, jwt.WithAudience(o.Audience...))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

var errUnknownKey = errors.New("no key that is known has signed the token")

// pass is what a token that is good says of who has it.
type pass struct {
	user    string
	tenant  string // empty: it names none
	expires int64  // Unix milliseconds
	own     *own   // nil: nothing
}

// take writes what a pass says into an identity.
func (rs *ruleSet) take(p *pass, id *broker.Identity) {
	id.Source, id.User, id.Expires = OAuthBearer, p.user, p.expires
	rs.moves(id, p.tenant)
	if p.own != nil {
		id.Own = p.own
	}
}

// hmacKey gives the secret to tokens of HMAC, and to no others: a public key never is a secret, nor the other way round.
func (t *tokens) hmacKey(tok *jwt.Token) (key []byte, is bool) {
	if _, is = tok.Method.(*jwt.SigningMethodHMAC); !is {
		return nil, false
	}
	return t.o.Secret, true
}

// claims are those of a token that is signed by a key that is known, and that holds now. It may have to fetch keys.
func (t *tokens) claims(ctx context.Context, token string) (claims jwt.MapClaims, err error) {
	if len(token) > tokenBytesMax {
		return nil, errors.New("the token is too long")
	}
	for _, fresh := range []bool{false, true} {
		var none error
		claims = jwt.MapClaims{}
		_, err = t.parser.ParseWithClaims(token, claims, func(tok *jwt.Token) (any, error) {
			if key, is := t.hmacKey(tok); is {
				if len(key) == 0 {
					return nil, errors.New("no secret is shared")
				}
				return key, nil
			}
			var set *keySet
			if set, none = t.source.keys(ctx, fresh); none != nil {
				return nil, fmt.Errorf("no keys: %w", none)
			}
			id, _ := tok.Header["kid"].(string)
			keys, known := set.find(id, tok.Method.Alg())
			if !known || len(keys) == 0 {
				return nil, errUnknownKey
			}
			vks := jwt.VerificationKeySet{}
			for _, k := range keys {
				vks.Keys = append(vks.Keys, k)
			}
			return vks, nil
		})
		if !errors.Is(err, errUnknownKey) {
			break
		}
	}
	return claims, err
}

// verify says what a token gives the client that shows it. It may have to fetch keys.
func (t *tokens) verify(ctx context.Context, token, clientID string) (p pass, err error) {
	claims, err := t.claims(ctx, token)
	if err != nil {
		return pass{}, err
	}
	if p.user, _ = claims[t.o.Claim].(string); p.user == "" || len(p.user) > userBytesMax {
		return pass{}, fmt.Errorf("the token has no claim %q that names the user", t.o.Claim)
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return pass{}, errors.New("the token has no end")
	}
	p.expires = exp.UnixMilli()
	for i := range t.must {
		if err := t.must[i].check(claims, clientID, p.user); err != nil {
			return pass{}, err
		}
	}
	if t.o.TenantClaim != "" && claims[t.o.TenantClaim] != nil {
		if p.tenant, _ = claims[t.o.TenantClaim].(string); p.tenant == "" || len(p.tenant) > tenantNameMax {
			return pass{}, fmt.Errorf("claim %q names no tenant", t.o.TenantClaim)
		}
	}
	if t.o.ACLClaim == "" || claims[t.o.ACLClaim] == nil {
		return p, nil
	}
	data, err := json.Marshal(claims[t.o.ACLClaim])
	if err == nil {
		p.own, err = parseOwn(data)
	}
	if err != nil {
		return pass{}, fmt.Errorf("claim %q: %w", t.o.ACLClaim, err)
	}
	return p, nil
}

// requirement is a claim that a token has to have.
type requirement struct {
	claim string
	want  []part
}

// parseRequirement reads NAME=VALUE.
func parseRequirement(text string) (r requirement, err error) {
	var value string
	var ok bool
	if r.claim, value, ok = strings.Cut(text, "="); !ok || r.claim == "" {
		return r, fmt.Errorf("want NAME=VALUE for a claim, found %q", text)
	}
	r.want, err = parseParts(value)
	return r, err
}

// check compares: a claim that is a list has to have the value in it.
func (r *requirement) check(claims jwt.MapClaims, clientID, user string) error {
	var b strings.Builder
	for _, p := range r.want {
		switch p.v {
		case 'c':
			b.WriteString(clientID)
		case 'u':
			b.WriteString(user)
		default:
			b.WriteString(p.text)
		}
	}
	want := b.String()
	switch v := claims[r.claim].(type) {
	case string:
		if v == want {
			return nil
		}
	case bool:
		if strconv.FormatBool(v) == want {
			return nil
		}
	case []any:
		for _, e := range v {
			if e == any(want) {
				return nil
			}
		}
	}
	return fmt.Errorf("claim %q is not what this client has to have", r.claim)
}

// bearerConversation is the server's part in OAUTHBEARER. A token that is not good is answered with a status; the client then says that it has
// understood, and is refused.
type bearerConversation struct {
	p      *Provider
	id     broker.Identity
	failed error
	done   bool
}

// Identity is who it is, once it is done.
func (b *bearerConversation) Identity() broker.Identity { return b.id }

var errBearer = errors.New("a message of OAUTHBEARER that cannot be read")

// Step takes the client's first message, and what it says to the status. It may fetch keys.
func (b *bearerConversation) Step(ctx context.Context, message []byte) (answer []byte, done bool, err error) {
	switch {
	case b.done:
		return nil, false, refuse(broker.ErrBadCredentials, errBearer)
	case b.failed != nil:
		return nil, false, refuse(broker.ErrBadCredentials, b.failed)
	}
	as, token, err := bearerToken(message)
	if err != nil {
		return nil, false, refuse(broker.ErrBadCredentials, err)
	}
	rs := b.p.rules.Load()
	if rs.tokens == nil {
		return nil, false, refuse(broker.ErrNotAuthorized, errors.New("tokens are not taken any more"))
	}
	p, err := rs.tokens.verify(ctx, token, b.id.ClientID)
	if err != nil {
		b.failed = err
		return []byte(`{"status":"invalid_token"}`), false, nil
	}
	if as != "" && as != p.user {
		return nil, false, refuse(broker.ErrBadCredentials, errors.New("the client asks to act as another user"))
	}
	rs.take(&p, &b.id)
	if b.id, err = rs.named(b.id, nil); err != nil {
		return nil, false, err
	}
	b.done = true
	return []byte{}, true, nil
}

// bearerMessage is `n,a=AUTHZID,^Aauth=Bearer TOKEN^A` with further pairs of key and value, and ^A at its end.
var bearerMessage = regexp.MustCompile("^n,(?:a=([^,]+))?,\x01((?:[A-Za-z]+=[\\x21-\\x7e \t\r\n]*\x01)+)\x01$")

// bearerToken reads the client's first message. Extensions are let be, as Kafka lets them.
func bearerToken(message []byte) (as, token string, err error) {
	if len(message) > tokenBytesMax {
		return "", "", errBearer
	}
	m := bearerMessage.FindSubmatch(message)
	if m == nil {
		return "", "", errBearer
	}
	if as, err = saslName(string(m[1])); err != nil {
		return "", "", err
	}
	for pair := range strings.SplitSeq(strings.TrimSuffix(string(m[2]), "\x01"), "\x01") {
		key, value, _ := strings.Cut(pair, "=")
		if key != "auth" {
			continue
		}
		scheme, rest, _ := strings.Cut(value, " ")
		if token != "" || !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(rest) == "" {
			return "", "", errBearer
		}
		token = strings.TrimSpace(rest)
	}
	if token == "" {
		return "", "", errBearer
	}
	return as, token, nil
}

// tokenLike says whether a password looks like a token: three parts, of which the first is an object.
func tokenLike(password []byte) bool {
	return bytes.HasPrefix(password, []byte("eyJ")) && bytes.Count(password, []byte{'.'}) == 2 && len(password) <= tokenBytesMax
}

// byToken lets a client in whose password is a token of the user that it names, if it names one.
func (rs *ruleSet) byToken(ctx context.Context, c *broker.Credentials) (broker.Identity, error) {
	p, err := rs.tokens.verify(ctx, string(c.Password), c.ClientID)
	if err == nil {
		err = rs.mayShow(c, &p)
	}
	if err != nil {
		return broker.Identity{}, refuse(broker.ErrBadCredentials, err)
	}
	rs.rememberPass(c, &p)
	id := rs.identity(c)
	rs.take(&p, &id)
	return id, nil
}

// mayShow says why the client that shows a pass may not have it.
func (rs *ruleSet) mayShow(c *broker.Credentials, p *pass) error {
	if c.HasUsername && c.Username != "" && c.Username != p.user {
		return fmt.Errorf("the token is of %q", p.user)
	}
	tenant := rs.places[c.Listener]
	if p.tenant != "" {
		tenant = rs.numberOf(p.tenant)
	}
	return rs.disabled(p.user, tenant)
}

// disabled is an error if a tenant has a user of the name who is disabled. One of another tenant is somebody else.
func (rs *ruleSet) disabled(user string, tenant uint32) error {
	if a, known := rs.account(user); known && a.Disabled && a.Tenant == tenant {
		return errors.New("the user is disabled")
	}
	return nil
}

// recheckToken says whether a client that came in by a token may stay.
func (rs *ruleSet) recheckToken(id *broker.Identity) error {
	if rs.tokens == nil {
		return errors.New("tokens are not taken any more")
	}
	if id.Expires != 0 && rs.o.Now().UnixMilli() >= id.Expires+rs.tokens.o.ClockSkew.Milliseconds() {
		return errors.New("the token has expired")
	}
	return rs.disabled(id.User, id.Tenant)
}
