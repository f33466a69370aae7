package kafka

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// issuer makes tokens.
type issuer struct{ key ed25519.PrivateKey }

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key}
}

// jwks is the set that the issuer publishes.
func (i *issuer) jwks() []byte {
	pub := base64.RawURLEncoding.EncodeToString(i.key.Public().(ed25519.PublicKey))
	return fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","use":"sig","x":%q}]}`, pub)
}

func (i *issuer) file(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, i.jwks(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mechanism is SASL's with a new token each time.
func (i *issuer) mechanism(t testing.TB, user string, lifetime time.Duration) sasl.Mechanism {
	t.Helper()
	return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
		return oauth.Auth{Token: i.token(t, user, lifetime), Extensions: map[string]string{"trace": "7"}}, nil
	})
}

func (i *issuer) token(t testing.TB, user string, lifetime time.Duration) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": user, "iss": "test", "aud": "sluice", "exp": time.Now().Add(lifetime).Unix()})
	tok.Header["kid"] = "1"
	text, err := tok.SignedString(i.key)
	if err != nil {
		t.Error(err)
	}
	return text
}

// Tokens of the issuer bring their user in, for as long as they hold; others do not.
func TestOAuthBearer(t *testing.T) {
	good, bad := newIssuer(t), newIssuer(t)
	c := start(t, "auth.jwt.jwks_file="+good.file(t), "auth.jwt.issuer=test", "auth.jwt.audience=sluice", "auth.super_users=admin")
	if err := c.comesIn(good.mechanism(t, "ann", time.Minute)); err != nil {
		t.Error(err)
	}
	if err := c.comesIn(bad.mechanism(t, "ann", time.Minute)); err == nil {
		t.Error("a token of somebody else came in")
	}
	r := c.raw()
	if s := r.authenticate(bad.mechanism(t, "ann", time.Minute), 1); s.authenticate != 0 || s.failed == nil {
		t.Errorf("the client was told %+v", s) // a status, which franz-go takes for the end
	}
	au := kmsg.NewPtrSASLAuthenticateRequest()
	au.Version, au.SASLAuthBytes = 2, []byte{1}
	if code := r.ask(au).(*kmsg.SASLAuthenticateResponse).ErrorCode; code != kerr.SaslAuthenticationFailed.Code {
		t.Errorf("behind the status: %d", code)
	}
	r.closed()
	if _, err := c.raw().try(kmsg.NewPtrMetadataRequest()); err == nil {
		t.Error("a client without credentials was served")
	}
	admin := c.client(kgo.SASL(good.mechanism(t, "admin", time.Minute)))
	change(t, admin, acls("User:ann", allows, "write topic t"))
	r = c.raw()
	s := r.authenticate(good.mechanism(t, "ann", 10*time.Second), 1)
	if s.err() != nil || s.lifetime <= 8*time.Second || s.lifetime > 10*time.Second {
		t.Fatalf("%+v", s)
	}
	md := kmsg.NewPtrMetadataRequest()
	md.Version = 4 // the first that can say that no topic is to be made
	md.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("t")}, {Topic: kmsg.StringPtr("u")}}
	topics := r.ask(md).(*kmsg.MetadataResponse).Topics
	if topics[0].ErrorCode == topicRefused || topics[1].ErrorCode != topicRefused {
		t.Errorf("ann may %d and %d", topics[0].ErrorCode, topics[1].ErrorCode)
	}
}

// A connection ends with its token, unless the client shows a new one of the same user.
func TestTokenRunsOut(t *testing.T) {
	i := newIssuer(t)
	c := start(t, "auth.jwt.jwks_file="+i.file(t))
	short := c.raw()
	if s := short.authenticate(i.mechanism(t, "ann", 3*time.Second), 1); s.err() != nil {
		t.Fatal(s.err())
	}
	hook := &connects{}
	cl := c.client(kgo.SASL(i.mechanism(t, "ann", 4*time.Second)), kgo.WithHooks(hook), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	produce(t, cl, numbered("t", 1)...)
	before, begun := hook.n.Load(), time.Now()
	for time.Since(begun) < 5*time.Second {
		produce(t, cl, numbered("t", 1)...)
	}
	if after := hook.n.Load(); after != before {
		t.Errorf("%d connections instead of %d", after, before)
	}
	if _, err := short.try(kmsg.NewPtrMetadataRequest()); err == nil {
		t.Error("served beyond the token's end")
	}
}

// Keys are fetched when the first token comes, and again when a token names one that is not known.
func TestKeysFromServer(t *testing.T) {
	i := newIssuer(t)
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(i.jwks())
	}))
	defer s.Close()
	c := start(t, "auth.jwt.jwks_url="+s.URL+"/keys")
	testx.Eventually(t, patience, func() bool { return c.comesIn(i.mechanism(t, "ann", time.Minute)) == nil })
	if n := asked.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if err := c.comesIn(newIssuer(t).mechanism(t, "ann", time.Minute)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another's token: %v", err)
	}
}

// The same token brings its user in over MQTT, in place of a password, until it ends.
func TestTokenOverMQTT(t *testing.T) {
	i := newIssuer(t)
	c := start(t, "auth.jwt.jwks_file="+i.file(t), "auth.jwt.clock_skew=0s")
	token := i.token(t, "ann", 3*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + c.node.Listeners["mqtt.tcp"],
		Connect: wire.Connect{ClientID: []byte("m"), CleanStart: true, KeepAlive: 3600, UserName: []byte("ann"), Password: []byte(token)}})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := cl.Publish(&wire.PublishOut{Topic: []byte("t"), QoS: 1}); err != nil {
		t.Error(err)
	}
	if _, err := cl.Receive(patience); err == nil || time.Since(begun) > 10*time.Second {
		t.Errorf("open for %v, %v", time.Since(begun), err)
	}
	if c.mqttComesIn("ann", token) == nil {
		t.Error("the token came in beyond its end")
	}
	for user, token := range map[string]string{"bob": i.token(t, "ann", time.Minute), "ann": newIssuer(t).token(t, "ann", time.Minute)} {
		if c.mqttComesIn(user, token) == nil {
			t.Errorf("%s came in", user)
		}
	}
}
