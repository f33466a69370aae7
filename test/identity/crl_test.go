package identity

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// kafkaClient is one that has said hello.
func (n *node) kafkaClient(cfg *tls.Config) (*kgo.Client, error) {
	n.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.at["kafka.tls"]), kgo.DialTLSConfig(cfg), kgo.RequestRetries(0), kgo.RetryTimeout(0))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(cl.Close)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return cl, cl.Ping(ctx)
}

// A certificate that is revoked while its client is connected: the file is read by itself, the client is told and closed, whatever vouched for it, and does not come in
// again, by no listener; the others stay.
func TestRevokedWhileConnected(t *testing.T) {
	ca := testx.TempCert(t)
	good, _, _ := ca.IssueClient(t, "good")
	lost, _, _ := ca.IssueClient(t, "lost")
	list := ca.Revoke(t)
	n := start(t, []string{"mqtt.tls", "mqtt.wss", "kafka.tls"}, "tls.cert="+ca.ServerCertFile, "tls.key="+ca.ServerKeyFile, "tls.client_ca="+ca.CAFile,
		"tls.client_auth=required", "tls.crl="+list, "tls.crl_refresh=1s", "auth.password_file="+passwordFile(t, "ann", "secret"))
	stays := n.connect("mqtt.tls", "stays", shows(ca, good), as("ann", "secret"))
	byTLS := n.connect("mqtt.tls", "a", shows(ca, lost), as("ann", "secret"))
	byWSS := n.connect("mqtt.wss", "b", shows(ca, lost), as("ann", "secret"))
	old := n.connect("mqtt.tls", "c", shows(ca, lost), as("ann", "secret"), func(k *wire.Connect) { k.Version = wire.V311 })
	if _, err := n.kafkaClient(shows(ca, lost)); err == nil {
		t.Error("a Kafka client without SASL came in") // who has shown a good certificate is told so, by a request
	}
	ca.Revoke(t, lost)
	for name, c := range map[string]*wire.Disconnect{"TLS": ptr(told(t, byTLS)), "WebSocket": ptr(told(t, byWSS))} {
		if c.Reason != wire.NotAuthorized || !strings.Contains(string(c.ReasonString), "the certificate is revoked") {
			t.Errorf("%s: told %v %q", name, c.Reason, c.ReasonString)
		}
	}
	if d := told(t, old); d.Reason != wire.Success {
		t.Errorf("MQTT 3 has no such packet: %v", d)
	}
	for _, listener := range []string{"mqtt.tls", "mqtt.wss"} {
		if _, err := n.try(listener, "again", shows(ca, lost), as("ann", "secret")); err == nil {
			t.Errorf("came in again by %s", listener)
		}
	}
	if err := stays.Ping(); err != nil {
		t.Errorf("who is not revoked: %v", err)
	}
	if !n.log.has("revocation lists were read again") {
		t.Error("the log has no line")
	}
}

func ptr[T any](v T) *T { return &v }

// Kafka clients whose certificate is revoked are closed too.
func TestRevokedKafkaClient(t *testing.T) {
	ca := testx.TempCert(t)
	lost, _, _ := ca.IssueClient(t, "lost")
	n := start(t, []string{"kafka.tls"}, "tls.cert="+ca.ServerCertFile, "tls.key="+ca.ServerKeyFile, "tls.client_ca="+ca.CAFile, "tls.crl="+ca.Revoke(t),
		"tls.crl_refresh=1s", "auth.certificate_user=cn")
	if _, err := n.kafkaClient(shows(ca, lost)); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, patience, func() bool {
		open, _ := n.metric("sluice_kafka_connections")
		return open > 0
	}, "the connection is counted")
	ca.Revoke(t, lost)
	testx.Eventually(t, patience, func() bool {
		open, _ := n.metric("sluice_kafka_connections")
		return open == 0
	}, "the connection is closed")
	if _, err := n.kafkaClient(shows(ca, lost)); err == nil {
		t.Error("came in again")
	}
}

// A list that has expired lets nobody in by a certificate of its authority, unless told to; who is there stays, the log and a metric say it, and a new list mends it without a reload.
func TestExpiredList(t *testing.T) {
	ca := testx.TempCert(t)
	device, _, _ := ca.IssueClient(t, "device")
	end := time.Now().Add(-time.Hour).Truncate(time.Second)
	list := ca.Revoke(t)
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+ca.ServerCertFile, "tls.key="+ca.ServerKeyFile, "tls.client_ca="+ca.CAFile, "tls.crl="+list,
		"tls.crl_refresh=1s", "auth.certificate_user=cn")
	stays := n.connect("mqtt.tls", "stays", shows(ca, device))
	ca.RevokeUntil(t, end)
	testx.Eventually(t, patience, func() bool {
		v, ok := n.metric("sluice_tls_crl_expiry_seconds", `key="tls.crl"`, "sluice test authority")
		return ok && v == float64(end.Unix())
	}, "the metric has the end of the list")
	testx.Eventually(t, patience, func() bool { return n.log.has("a revocation list has expired") })
	if _, err := n.try("mqtt.tls", "new", shows(ca, device)); err == nil {
		t.Error("came in, and nobody knows whether the certificate is revoked")
	}
	if err := stays.Ping(); err != nil {
		t.Errorf("who was there: %v", err)
	}
	n.reload("tls.crl_expired=accept")
	n.connect("mqtt.tls", "accepted", shows(ca, device))
	n.reload()
	if _, err := n.try("mqtt.tls", "new", shows(ca, device)); err == nil {
		t.Error("came in after tls.crl_expired was taken back")
	}
	ca.Revoke(t)
	testx.Eventually(t, patience, func() bool {
		c, err := n.try("mqtt.tls", "new", shows(ca, device))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, "the new list is read")
}

// A file that loses an authority's list, or gets an older one, lets nobody in again: what was in force goes on to count, over a reload too, and the log and a metric say so, until the file
// has a younger list. Another value of the key takes it back.
func TestListsMerge(t *testing.T) {
	one, two := testx.TempCert(t), testx.TempCert(t)
	cas, list := filepath.Join(t.TempDir(), "cas.pem"), filepath.Join(t.TempDir(), "lists.pem")
	join(t, cas, one.CAFile, two.CAFile)
	lost, _, _ := one.IssueClient(t, "lost")
	good, _, _ := one.IssueClient(t, "good")
	other, _, _ := two.IssueClient(t, "other")
	nobody := filepath.Join(t.TempDir(), "nobody.pem")
	join(t, nobody, one.Revoke(t))
	oneList, twoList := one.Revoke(t, lost), two.Revoke(t, other)
	join(t, list, oneList, twoList)
	n := start(t, []string{"mqtt.tls"}, "tls.cert="+one.ServerCertFile, "tls.key="+one.ServerKeyFile, "tls.client_ca="+cas, "tls.crl="+list,
		"tls.crl_refresh=1s", "auth.certificate_user=cn")
	lets := func(what string, cfg *tls.Config, want bool) {
		t.Helper()
		c, err := n.try("mqtt.tls", "c", cfg)
		if err == nil {
			_ = c.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	kept := func(want float64) {
		t.Helper()
		testx.Eventually(t, patience, func() bool {
			v, ok := n.metric("sluice_tls_crl_kept", `key="tls.crl"`)
			return ok && v == want
		}, "the metric is %v", want)
	}
	otherOne := shows(two, other)
	otherOne.RootCAs = one.Pool
	lets("revoked", shows(one, lost), false)
	lets("revoked by the second", otherOne, false)
	lets("good", shows(one, good), true)
	join(t, list, nobody) // an older list of the first, none of the second
	kept(1)
	lets("an older list", shows(one, lost), false)
	lets("no list", otherOne, false)
	lets("good, by what is kept", shows(one, good), true)
	for _, line := range []string{"an older list than the one in force", "no list of this authority any more"} {
		testx.Eventually(t, patience, func() bool { return n.log.has(line) }, "the log has %q", line)
	}
	n.reload()
	lets("an older list, reloaded", shows(one, lost), false)
	lets("no list, reloaded", otherOne, false)
	join(t, list, one.Revoke(t), two.Revoke(t))
	kept(0)
	lets("the authority has taken it back", shows(one, lost), true)
	lets("the second too", otherOne, true)

	one.Revoke(t, lost)
	join(t, list, oneList, twoList)
	testx.Eventually(t, patience, func() bool {
		c, err := n.try("mqtt.tls", "c", shows(one, lost))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, "the list is read")
	n.reload("tls.crl=" + nobody)
	lets("another file, older, on purpose", shows(one, lost), true)
}

// join writes the files into one, in one step.
func join(t *testing.T, to string, files ...string) {
	t.Helper()
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.WriteFile(to+".new", all, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}
