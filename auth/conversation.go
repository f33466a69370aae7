package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/broker"
)

// Mechanisms are those by which somebody can come in; see broker.SASLAuthenticator.
func (p *Provider) Mechanisms() []string {
	if p.rules.Load().tokens == nil {
		return []string{SCRAMSHA256, SCRAMSHA512}
	}
	return []string{SCRAMSHA256, SCRAMSHA512, OAuthBearer}
}

// Converse begins a conversation; nil: there is no such mechanism, or not at the client's listener.
func (p *Provider) Converse(mechanism string, c broker.Credentials) broker.Conversation {
	if w, ok := wayOf(mechanism); ok && !p.rules.Load().takes(w, c.Listener) {
		return nil
	}
	if mechanism == OAuthBearer {
		return &bearerConversation{p: p, id: p.identity(&c, mechanism)}
	}
	h := scramHash(mechanism)
	if h == nil {
		return nil
	}
	return &scramConversation{p: p, mechanism: mechanism, hash: h, id: p.identity(&c, mechanism)}
}

// identity is a client's of whom nothing is known yet.
func (p *Provider) identity(c *broker.Credentials, source string) broker.Identity {
	id := p.rules.Load().identity(c)
	id.Source = source
	return id
}

// Bounds of what a client may say in SCRAM.
const (
	scramMessageMax = 8 << 10
	nonceBytes      = 24
)

// scramConversation is the server's part in SCRAM (RFC 5802) without channel binding. A user who is not there is answered as one who is, with
// a salt that is his, and refused at the end.
type scramConversation struct {
	p         *Provider
	mechanism string
	hash      func() hash.Hash
	id        broker.Identity
	step      int

	known    bool
	verifier Verifier
	gs2      string // the header, as the client has sent it
	nonce    string // of both
	own      string // the client's part of it
	said     string // the two first messages, as they are signed
}

// Identity is who it is, once it is done.
func (s *scramConversation) Identity() broker.Identity { return s.id }

var errSCRAM = errors.New("a SCRAM message that cannot be read")

// Step takes the client's first message, then its final one. It never blocks.
func (s *scramConversation) Step(_ context.Context, message []byte) (answer []byte, done bool, err error) {
	s.step++
	if len(message) > scramMessageMax {
		return nil, false, refuse(broker.ErrBadCredentials, errSCRAM)
	}
	switch s.step {
	case 1:
		answer, err = s.first(string(message))
	case 2:
		if answer, err = s.final(string(message)); err == nil {
			if s.id, err = s.p.rules.Load().named(s.id, nil); err != nil {
				return nil, false, err
			}
			done = true
		}
	default:
		err = errSCRAM
	}
	if err != nil {
		return nil, false, refuse(broker.ErrBadCredentials, err)
	}
	return answer, done, nil
}

// first reads `n,a=AUTHZID,n=USER,r=NONCE,EXTENSIONS` and answers `r=NONCE,s=SALT,i=ITERATIONS`.
func (s *scramConversation) first(message string) ([]byte, error) {
	binding, rest, ok := strings.Cut(message, ",")
	authz, bare, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return nil, errSCRAM
	}
	if binding != "n" && binding != "y" {
		return nil, errors.New("channel binding is not offered")
	}
	user, err := s.readFirst(authz, bare)
	if err != nil {
		return nil, err
	}
	s.gs2 = message[:len(message)-len(bare)]
	s.find(user)
	s.nonce = s.own + s.p.nonce()
	answer := "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString([]byte(s.verifier.Salt)) + ",i=" + strconv.Itoa(s.verifier.Iterations)
	s.said = bare + "," + answer
	return []byte(answer), nil
}

// newNonce cannot be guessed.
func newNonce() string {
	var b [nonceBytes]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime ends the process first
	return base64.RawStdEncoding.EncodeToString(b[:])
}

// readFirst finds the user and the client's nonce.
func (s *scramConversation) readFirst(authz, bare string) (user string, err error) {
	fields := strings.Split(bare, ",")
	if len(fields) < 2 {
		return "", errSCRAM
	}
	name, ok := strings.CutPrefix(fields[0], "n=")
	if user, err = saslName(name); !ok || err != nil || user == "" {
		return "", errSCRAM // m= among it: an extension that we had to know
	}
	if s.own, ok = strings.CutPrefix(fields[1], "r="); !ok || !printable(s.own) {
		return "", errSCRAM
	}
	for _, extension := range fields[2:] {
		key, value, ok := strings.Cut(extension, "=")
		switch {
		case !ok || len(key) != 1 && key != "tokenauth":
			return "", errSCRAM
		case key == "tokenauth" && value == "true":
			return "", errors.New("delegation tokens are not offered")
		}
	}
	if authz == "" {
		return user, nil
	}
	as, ok := strings.CutPrefix(authz, "a=")
	if as, err = saslName(as); !ok || err != nil || as != user {
		return "", errors.New("the client asks to act as another user")
	}
	return user, nil
}

// saslName undoes the escapes of a name.
func saslName(s string) (string, error) {
	for i, c := range []byte(s) {
		if c == '=' && !strings.HasPrefix(s[i:], "=2C") && !strings.HasPrefix(s[i:], "=3D") {
			return "", errSCRAM
		}
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "=2C", ","), "=3D", "="), nil
}

// printable says whether s is a nonce: ASCII that can be seen, without commas.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c < 0x21 || c > 0x7e || c == ',' })
}

// find looks for what is stored of the user, and makes something up if that is nothing.
func (s *scramConversation) find(user string) {
	rs := s.p.rules.Load()
	a, known := rs.account(user)
	if known && !a.file {
		s.id.Tenant = a.Tenant
	}
	v := a.SHA256
	if s.mechanism == SCRAMSHA512 {
		v = a.SHA512
	}
	s.id.User, s.id.Secret = user, a.secret(s.mechanism)
	made := Verifier{Iterations: iterationsMin, Salt: rs.madeUpSalt(s.mechanism, user)}
	made.StoredKey = strings.Repeat("\x00", s.hash().Size())
	made.ServerKey = made.StoredKey
	if s.known = v != nil && !a.Disabled; s.known {
		made = *v
	} else if v != nil { // disabled: he is shown what he always was
		made.Salt, made.Iterations = v.Salt, v.Iterations
	}
	s.verifier = made
}

// madeUpSalt is the same for a name each time.
func (rs *ruleSet) madeUpSalt(mechanism, user string) string {
	key := []byte(rs.dummySalt)
	if rs.o.SaltKey != nil {
		if k := rs.o.SaltKey(); k != nil {
			key = k
		}
	}
	return string(mac(scramHash(mechanism), key, []byte(mechanism+"\x00"+user))[:newSaltBytes])
}

// final reads `c=BINDING,r=NONCE,EXTENSIONS,p=PROOF` and answers `v=SIGNATURE`.
func (s *scramConversation) final(message string) ([]byte, error) {
	at := strings.LastIndex(message, ",p=")
	if at < 0 {
		return nil, errSCRAM
	}
	without := message[:at]
	proof, err := base64.StdEncoding.DecodeString(message[at+3:])
	if err != nil {
		return nil, errSCRAM
	}
	fields := strings.Split(without, ",")
	if len(fields) < 2 || fields[0] != "c="+base64.StdEncoding.EncodeToString([]byte(s.gs2)) {
		return nil, errSCRAM
	}
	nonce, ok := strings.CutPrefix(fields[1], "r=")
	repeated := s.p.rules.Load().o.RepeatedNonce && nonce == s.own+s.nonce
	if agreed := nonce == s.nonce || repeated; !ok || !agreed {
		return nil, errors.New("the nonce is not the one that was agreed on")
	}
	signed := []byte(s.said + "," + without)
	key := mac(s.hash, []byte(s.verifier.StoredKey), signed)
	if len(proof) != len(key) {
		return nil, errSCRAM
	}
	subtle.XORBytes(key, key, proof) // the client's key
	stored := s.hash()
	stored.Write(key)
	if !hmac.Equal(stored.Sum(nil), []byte(s.verifier.StoredKey)) || !s.known {
		return nil, fmt.Errorf("the proof of %q is wrong, or there is no such user", s.id.User)
	}
	signature := mac(s.hash, []byte(s.verifier.ServerKey), signed)
	return append([]byte("v="), base64.StdEncoding.AppendEncode(nil, signature)...), nil
}
