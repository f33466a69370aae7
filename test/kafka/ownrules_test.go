package kafka

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// mqttAs comes in by MQTT 5.
func (c *cluster) mqttAs(id, user, password string) (*mqttclient.Client, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	k := wire.Connect{ClientID: []byte(id), CleanStart: true, KeepAlive: 3600}
	if user != "" {
		k.UserName = []byte(user)
	}
	if password != "" {
		k.Password = []byte(password)
	}
	cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: c.node.URL(), Connect: k})
	if err == nil {
		c.t.Cleanup(func() { _ = cl.Close() })
	}
	return cl, err
}

// mqttMay publishes and subscribes, and compares what comes of it.
func mqttMay(t *testing.T, cl *mqttclient.Client, topic string, publish, subscribe bool) {
	t.Helper()
	code, err := cl.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1})
	if (err == nil) != publish || (code < 0x80) != publish {
		t.Errorf("publish to %s: %v, %v", topic, code, err)
	}
	codes, err := cl.Subscribe(wire.FilterRequest{Filter: []byte(topic), QoS: 1})
	if err != nil || len(codes) != 1 || (codes[0] < 0x80) != subscribe {
		t.Errorf("subscribe to %s: %v, %v", topic, codes, err)
	}
}

// A token of a shared secret is good for the client that its claim names, and for the topics that it lists.
func TestTokenWithRules(t *testing.T) {
	secret := strings.Repeat("k3y!", 8)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, "auth.jwt.secret=file:"+path, "auth.jwt.require=device=%c")
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ann", "device": "d1", "exp": time.Now().Add(time.Minute).Unix(),
		"acl": map[string]any{"pub": []string{"d/${clientid}/up"}, "sub": []string{"d/%c/down"}}}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.mqttAs("d2", "", token); err == nil {
		t.Error("the token of another client came in")
	}
	cl, err := c.mqttAs("d1", "ann", token)
	if err != nil {
		t.Fatal(err)
	}
	mqttMay(t, cl, "d/d1/up", true, false)
	mqttMay(t, cl, "d/d1/down", false, true)
	mqttMay(t, cl, "d/d2/up", false, false)
	if strings.Contains(c.node.Log(), secret) || strings.Contains(c.node.Log(), token) {
		t.Error("the log shows a secret")
	}
}

// A client id of another form than those that are allowed is refused.
func TestClientIDForms(t *testing.T) {
	i := newIssuer(t)
	c := start(t, "auth.jwt.jwks_file="+i.file(t), "auth.client_ids=[%u, %u-*]")
	token := i.token(t, "ann", time.Minute)
	for id, ok := range map[string]bool{"ann": true, "ann-7": true, "bob": false, "annie": false} {
		if _, err := c.mqttAs(id, "ann", token); (err == nil) != ok {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := c.comesIn(i.mechanism(t, "ann", time.Minute)); err != nil {
		t.Errorf("a Kafka client: %v", err)
	}
}
