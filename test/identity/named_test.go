package identity

import (
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A named listener goes by its own rule for clients without credentials and its own bound, and comes, changes and goes with a reload. Who is connected
// stays, unless the rule that let it in is not there any more.
func TestNamedListeners(t *testing.T) {
	users := passwordFile(t, "ann", "secret")
	const list = "listeners.mqtt.named="
	n := start(t, []string{"mqtt.tcp"}, "auth.password_file="+users, "auth.anonymous=off", list+"[{name: open, address: '127.0.0.1:0', anonymous: loopback, connections: 1}]")
	if _, err := n.try("mqtt.tcp", "stranger", nil); err == nil || !strings.Contains(err.Error(), "authorized") {
		t.Errorf("without credentials, at a listener that asks for them: %v", err)
	}
	guest := n.connect("mqtt.open", "guest", nil)
	if _, err := n.try("mqtt.open", "second", nil); err == nil {
		t.Error("a second one came in where one may be")
	}
	user := n.connect("mqtt.tcp", "user", nil, as("ann", "secret")) // another listener's bound is not its own

	// The bound changes in place, and a listener is added that lets nobody in without credentials.
	n.at["mqtt.closed"] = testx.ClosedAddr(t)
	open := "{name: open, address: '127.0.0.1:0', anonymous: loopback, connections: 2}"
	n.reload(list + "[" + open + ", {name: closed, address: '" + n.at["mqtt.closed"] + "'}]")
	second := n.connect("mqtt.open", "second", nil)
	if _, err := n.try("mqtt.closed", "stranger", nil); err == nil || !strings.Contains(err.Error(), "authorized") {
		t.Errorf("without credentials, at the new listener: %v", err)
	}
	late := n.connect("mqtt.closed", "late", nil, as("ann", "secret"))

	// It goes: who is connected stays, nobody else comes.
	n.reload(list + "[" + open + "]")
	if _, err := n.try("mqtt.closed", "later", nil, as("ann", "secret")); err == nil {
		t.Error("a listener that is gone takes connections")
	}
	for name, c := range map[string]interface{ Ping() error }{"guest": guest, "second": second, "user": user, "late": late} {
		if err := c.Ping(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without the rule that let it in, a client has to go.
	n.reload(list + "[]")
	if d := told(t, guest); !strings.Contains(string(d.ReasonString), "without credentials") {
		t.Errorf("told %v %q", d.Reason, d.ReasonString)
	}
	if err := late.Ping(); err != nil {
		t.Errorf("a user of a listener that is gone: %v", err)
	}
	// An address that is taken: the reload says so, and the rest of it is in force.
	report, err := n.s.Reload(n.load(list + "[{name: taken, address: '" + n.at["mqtt.tcp"] + "'}, " + open + "]"))
	if err != nil || !strings.Contains(strings.Join(report, "\n"), "listeners.mqtt.named: open mqtt.taken on "+n.at["mqtt.tcp"]) {
		t.Errorf("%v, %q", err, report)
	}
	if !n.log.has("listener=mqtt.open") {
		t.Error("the log does not tell what was opened")
	}
}

// Listeners with ways of their own: one for certificates alone beside one for passwords alone. A reload that takes a way away closes who came by it.
func TestNamedListenersWays(t *testing.T) {
	ca := testx.TempCert(t)
	pump, _, _ := ca.IssueClient(t, "pump")
	const list = "listeners.mqtt.named="
	machines := "{name: machines, protocol: tls, address: '127.0.0.1:0', client_auth: required, auth: certificate}"
	people := "{name: people, protocol: tls, address: '127.0.0.1:0', client_auth: off, auth: [file]}"
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ServerCertFile, "tls.key="+ca.ServerKeyFile, "tls.client_ca="+ca.CAFile, "auth.certificate_user=cn",
		"auth.password_file="+passwordFile(t, "ann", "secret"), list+"["+machines+", "+people+"]")
	byCert := n.connect("mqtt.machines", "pump", shows(ca, pump))
	byPassword := n.connect("mqtt.people", "ann", shows(ca, pump), as("ann", "secret")) // its certificate is not asked for
	elsewhere := n.connect("mqtt.tls", "both", shows(ca), as("ann", "secret"))
	for name, fails := range map[string]func() error{
		"no certificate where one is required":                func() error { _, err := n.try("mqtt.machines", "a", shows(ca), as("ann", "secret")); return err },
		"no credentials where a certificate is not asked for": func() error { _, err := n.try("mqtt.people", "b", shows(ca, pump)); return err },
	} {
		if fails() == nil {
			t.Errorf("%s: came in", name)
		}
	}

	// The password is no way in at people's any more: certificates are.
	n.reload(list + "[" + machines + ", {name: people, protocol: tls, address: '127.0.0.1:0', client_auth: optional, auth: [certificate]}]")
	if d := told(t, byPassword); !strings.Contains(string(d.ReasonString), "in this way") {
		t.Errorf("told %v %q", d.Reason, d.ReasonString)
	}
	for name, c := range map[string]interface{ Ping() error }{"by certificate": byCert, "at a listener without ways of its own": elsewhere} {
		if err := c.Ping(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.try("mqtt.people", "c", shows(ca), as("ann", "secret")); err == nil {
		t.Error("came in by a password")
	}
	n.connect("mqtt.people", "d", shows(ca, pump))
}

// SCRAM is for users of the catalog: a listener without them does not speak it.
func TestNamedListenerWithoutUsers(t *testing.T) {
	n := start(t, []string{"mqtt.tcp"}, "auth.http.url=http://127.0.0.1:1/", "listeners.mqtt.named=[{name: asked, address: '127.0.0.1:0', auth: http, anonymous: off}]")
	scram := func(k *wire.Connect) { k.AuthMethod, k.AuthData = []byte("SCRAM-SHA-256"), []byte("n,,n=ann,r=abc") }
	if _, err := n.try("mqtt.asked", "a", nil, scram); err == nil || !strings.Contains(err.Error(), wire.BadAuthenticationMethod.String()) {
		t.Errorf("SCRAM at a listener without users: %v", err)
	}
}
