package main

import (
	"context"
	"net"
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
