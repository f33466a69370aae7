package kafka

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// pahoScram is Paho's client for MQTT 5 that authenticates by franz-go's SCRAM: neither of them is ours.
type pahoScram struct {
	*paho.Client
	session sasl.Session
	failed  error
	gone    chan byte // the reason of the server's DISCONNECT
}

// Authenticate answers the server's AUTH.
func (p *pahoScram) Authenticate(a *paho.Auth) *paho.Auth {
	done, answer, err := p.session.Challenge(a.Properties.AuthData)
	if err != nil || done || a.ReasonCode != byte(wire.ContinueAuthentication) {
		p.failed = err
	}
	return &paho.Auth{ReasonCode: byte(wire.ContinueAuthentication), Properties: &paho.AuthProperties{AuthMethod: a.Properties.AuthMethod, AuthData: answer}}
}

// Authenticated makes it a paho.Auther.
func (p *pahoScram) Authenticated() {}

// mqttSCRAM connects to an address as a user, and gives the reason of CONNACK.
func mqttSCRAM(t testing.TB, at, id, method, user, password string) (*pahoScram, wire.ReasonCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &pahoScram{gone: make(chan byte, 1)}
	p.Client = paho.NewClient(paho.ClientConfig{Conn: conn, AuthHandler: p, OnServerDisconnect: func(d *paho.Disconnect) { p.gone <- d.ReasonCode }})
	first := p.begin(t, method, user, password)
	ack, err := p.Connect(ctx, &paho.Connect{ClientID: id, CleanStart: true, KeepAlive: 30,
		Properties: &paho.ConnectProperties{AuthMethod: method, AuthData: first}})
	if ack == nil {
		t.Fatal(err)
	}
	if ack.ReasonCode == 0 {
		p.proven(t, ack.Properties.AuthMethod, method, ack.Properties.AuthData)
	}
	return p, wire.ReasonCode(ack.ReasonCode)
}

func (p *pahoScram) begin(t testing.TB, method, user, password string) []byte {
	t.Helper()
	s, first, err := sha(method, user, password).Authenticate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	p.session = s
	return first
}

// proven checks that the server has shown that it knows the password as well.
func (p *pahoScram) proven(t testing.TB, found, method string, last []byte) {
	t.Helper()
	if done, _, err := p.session.Challenge(last); !done || err != nil || p.failed != nil || found != method {
		t.Errorf("the server's last word %q by %q: %v %v, and before: %v", last, found, done, err, p.failed)
	}
}

// again authenticates anew, and gives the reason of DISCONNECT, 0 if there was none.
func (p *pahoScram) again(t testing.TB, method, user, password string) wire.ReasonCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := p.begin(t, method, user, password)
	got := make(chan *paho.AuthResponse, 1)
	go func() {
		r, _ := p.Client.Authenticate(ctx, &paho.Auth{ReasonCode: byte(wire.ReAuthenticate), Properties: &paho.AuthProperties{AuthMethod: method, AuthData: first}})
		got <- r
	}()
	select {
	case r := <-got:
		if r == nil || p.failed != nil {
			t.Fatalf("%+v, and before: %v", r, p.failed)
		}
		return wire.ReasonCode(r.ReasonCode) // Paho does not tell what else the server has said
	case reason := <-p.gone:
		return wire.ReasonCode(reason)
	case <-ctx.Done():
		t.Fatal("nothing comes of a re-authentication")
		return 0
	}
}

// may says whether the client may publish to a topic.
func (p *pahoScram) may(t testing.TB, topic string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := p.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte("x")})
	if r == nil {
		t.Fatal(err)
	}
	return r.ReasonCode < 0x80
}

// Users that Kafka's tools and `sluice user` make come in over MQTT by SCRAM, as themselves, and authenticate anew; what ends them for Kafka
// ends them here.
//
// Conformance: MQTT-4.12.0-2 (5.0), MQTT-4.12.0-4 (5.0), MQTT-4.12.0-5 (5.0), MQTT-4.12.1-2 (5.0)
func TestSCRAMOverMQTT(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte("allow all by user ann on ann/#\nallow all by user eve on eve/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, "auth.anonymous=loopback", "auth.acl_file="+rules, "auth.super_users=[ANONYMOUS]", "listeners.grpc=127.0.0.1:0")
	setSCRAM(t, c, "ann", "secret", kadm.ScramSha256, kadm.ScramSha512)
	setSCRAM(t, c, "one", "secret", kadm.ScramSha256)
	add := exec.Command(common.Binary(t), "user", "add", "eve", "--server", c.node.Listeners["grpc"])
	add.Stdin = strings.NewReader("other\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := c.node.Listeners["mqtt.tcp"]
	for _, m := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for user, password := range map[string]string{"ann": "secret", "eve": "other"} {
			p, reason := mqttSCRAM(t, at, "c", m, user, password)
			if reason != wire.Success || !p.may(t, user+"/x") || p.may(t, "other/x") {
				t.Fatalf("%s of %s: %v, or it may not do what the user may", m, user, reason)
			}
			for range 3 {
				if reason := p.again(t, m, user, password); reason != 0 || !p.may(t, user+"/x") {
					t.Fatalf("%s of %s, again: %v", m, user, reason)
				}
			}
		}
	}
	for _, x := range []struct{ id, method, user, password string }{
		{"c", "SCRAM-SHA-256", "ann", "wrong"}, {"c", "SCRAM-SHA-256", "nobody", "secret"}, {"c", "SCRAM-SHA-512", "one", "secret"},
	} {
		if _, reason := mqttSCRAM(t, at, x.id, x.method, x.user, x.password); reason != wire.NotAuthorized {
			t.Errorf("%+v: %v", x, reason)
		}
	}
	if _, reason := mqttSCRAM(t, at, "$bridge/hq", "SCRAM-SHA-256", "ann", "secret"); reason != wire.BadAuthenticationMethod {
		t.Errorf("by a bridge's client id: %v", reason)
	}
	for _, x := range []struct {
		method, user, password string
		want                   wire.ReasonCode
	}{
		{"SCRAM-SHA-256", "ann", "wrong", wire.NotAuthorized}, {"SCRAM-SHA-256", "eve", "other", wire.NotAuthorized},
		{"SCRAM-SHA-512", "ann", "secret", wire.ProtocolErrorCode},
	} {
		p, _ := mqttSCRAM(t, at, "c", "SCRAM-SHA-256", "ann", "secret")
		if reason := p.again(t, x.method, x.user, x.password); reason != x.want {
			t.Errorf("again by %+v: %v", x, reason)
		}
	}
	p, _ := mqttSCRAM(t, at, "c", "SCRAM-SHA-256", "ann", "secret")
	alterSCRAM(t, c, []kadm.DeleteSCRAM{{User: "ann", Mechanism: kadm.ScramSha256}}, nil)
	select {
	case reason := <-p.gone:
		if wire.ReasonCode(reason) != wire.NotAuthorized {
			t.Errorf("%#x for who has lost its credential", reason)
		}
	case <-time.After(patience):
		t.Error("a client whose credential is gone stays")
	}
	testx.Eventually(t, patience, func() bool {
		_, reason := mqttSCRAM(t, at, "c", "SCRAM-SHA-256", "ann", "secret")
		return reason == wire.NotAuthorized
	})
}
