package control_test

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

// Callers come in by a certificate of the control plane's own authority, with the role of its name, until it is revoked or its authority gone; what
// vouches for devices vouches for nobody here.
func TestClientCertificates(t *testing.T) {
	people, devices := testx.TempCert(t), testx.TempCert(t)
	ann, _, _ := people.IssueClient(t, "ann")
	device, _, _ := devices.IssueClient(t, "ann")
	stranger, _, _ := people.IssueClient(t, "mallory")
	token := t.TempDir() + "/token"
	if err := os.WriteFile(token, []byte("a-token-of-ten-and-six"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "listeners.grpc=0.0.0.0:0", "tls.cert="+people.ServerCertFile, "tls.key="+people.ServerKeyFile, "tls.client_ca="+devices.CAFile, "tls.client_auth=required",
		"control.client_ca="+people.CAFile, "control.principals=[{name: ann, role: operator, certificate: ann}, {name: ci, role: viewer, token: 'file:"+token+"'}]")
	_, port, _ := strings.Cut(strings.TrimPrefix(n.at["grpc"], "[::]"), ":")
	dial := func(show ...int) api.TopicsClient {
		t.Helper()
		cfg := people.ClientConfig(false)
		for _, i := range show {
			cfg.Certificates = append(cfg.Certificates, []tls.Certificate{ann, device, stranger}[i])
		}
		conn, err := grpc.NewClient("passthrough:///127.0.0.1:"+port, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return api.NewTopicsClient(conn)
	}
	list := func(c api.TopicsClient, token string) error {
		ctx := t.Context()
		if token != "" {
			ctx = withToken(ctx, token)
		}
		_, err := c.List(ctx, &api.ListTopicsRequest{})
		return err
	}
	create := func(c api.TopicsClient, name string) error {
		_, err := c.Create(t.Context(), &api.CreateTopicRequest{Name: name})
		return err
	}
	byAnn := dial(0)
	wants(t, create(byAnn, "a"), codes.OK, "")
	wants(t, list(dial(), ""), codes.Unauthenticated, "or show a certificate by --cert and --key")
	wants(t, list(dial(), "a-token-of-ten-and-six"), codes.OK, "")
	wants(t, list(byAnn, "wrong"), codes.Unauthenticated, "the token is not one of")
	wants(t, list(dial(2), ""), codes.Unauthenticated, `the certificate of "mallory" is no principal's`)
	wants(t, list(dial(1), ""), codes.Unavailable, "") // the handshake fails

	reload := func(set ...string) {
		t.Helper()
		loaded, err := config.Load(config.LoadOptions{Set: append(append([]string{}, n.set...), set...)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.s.Reload(loaded.Config); err != nil {
			t.Fatal(err)
		}
	}
	reload("control.crl=" + people.Revoke(t, ann))
	wants(t, create(byAnn, "b"), codes.Unauthenticated, "certificate is revoked")
	reload()
	wants(t, create(byAnn, "b"), codes.OK, "")
	reload("control.client_ca=" + devices.CAFile)
	wants(t, create(byAnn, "c"), codes.Unauthenticated, `the certificate of "ann" is not good here`)
	wants(t, list(dial(1), ""), codes.OK, "")
	if log := n.log.String(); !strings.Contains(log, "principal=ann role=operator") {
		t.Errorf("the log is %s", log)
	}
}
