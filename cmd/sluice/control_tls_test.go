package main

import (
	"context"
	"net"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

// tokenTopics is a control plane that answers one listing.
type tokenTopics struct{ api.UnimplementedTopicsServer }

func (tokenTopics) List(ctx context.Context, _ *api.ListTopicsRequest) (*api.ListTopicsResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("authorization"); len(v) != 1 || v[0] != "Bearer over-tls" {
		return nil, status.Error(codes.Unauthenticated, "no token came")
	}
	return &api.ListTopicsResponse{Topics: []*api.Topic{{Name: "by-tls"}}}, nil
}

func TestControlOverTLS(t *testing.T) {
	cert := testx.TempCert(t)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.ServerConfig())))
	api.RegisterTopicsServer(s, tokenTopics{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	defer func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	at := "grpcs://" + ln.Addr().String()
	t.Setenv(tokenVariable, "over-tls")
	says(t, 0, "by-tls", "topic", "list", "--server", at, "--ca", cert.CAFile)
	says(t, 0, "by-tls", "topic", "list", "--server", at, "--insecure")
	says(t, 1, "certificate", "topic", "list", "--server", at)
	says(t, 1, "read the authorities", "topic", "list", "--server", at, "--ca", cert.CAFile+".absent")
	says(t, 1, "no certificate in PEM form", "topic", "list", "--server", at, "--ca", cert.ServerKeyFile)
	says(t, 1, "no token came", "topic", "list", "--server", at, "--ca", cert.CAFile, "--token", "another")
	says(t, 1, "is --server right", "topic", "list", "--server", ln.Addr().String())
}

// A certificate is shown in place of a token, by flags, by variables, and by one file that has the key too.
func TestControlByCertificate(t *testing.T) {
	cert := testx.TempCert(t)
	at := inProcess(t, "listeners.grpc=0.0.0.0:0", "tls.cert="+cert.ServerCertFile, "tls.key="+cert.ServerKeyFile, "control.client_ca="+cert.CAFile,
		"control.principals=[{name: ci, role: operator, certificate: client}]")
	_, port, _ := net.SplitHostPort(at["grpc"])
	t.Setenv(serverVariable, "grpcs://127.0.0.1:"+port)
	t.Setenv(caVariable, cert.CAFile)
	says(t, 1, "or show a certificate by --cert and --key", "topic", "list")
	says(t, 0, "made", "topic", "create", "made", "--cert", cert.ClientCertFile, "--key", cert.ClientKeyFile)
	says(t, 1, `Users.Delete needs the role admin, and "ci" is operator`, "user", "delete", "x", "--cert", cert.ClientCertFile, "--key", cert.ClientKeyFile)
	says(t, 1, "read the client certificate", "topic", "list", "--cert", cert.ClientCertFile)
	says(t, 2, "are for TLS", "topic", "list", "--server", "127.0.0.1:1", "--cert", cert.ClientCertFile)
	both := ""
	for _, name := range []string{cert.ClientCertFile, cert.ClientKeyFile} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		both += string(b)
	}
	says(t, 0, "made", "topic", "list", "--cert", file(t, "both.pem", both))
	t.Setenv(certVariable, cert.ClientCertFile)
	t.Setenv(keyVariable, cert.ClientKeyFile)
	says(t, 0, "made", "topic", "list")
	says(t, 1, `Bindings.Add needs the role admin`, "binding", "add", "a/#", "--topic", "made", "--key", "level:2") // that key is the record's
}
