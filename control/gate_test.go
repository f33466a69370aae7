package control_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
)

func TestToken(t *testing.T) {
	n := start(t, "auth.control_token=s3cret-token")
	list := func(ctx context.Context) error {
		_, err := n.topics().List(ctx, &api.ListTopicsRequest{})
		return err
	}
	wants(t, list(t.Context()), codes.Unauthenticated, "none was shown: give it by --token")
	wants(t, list(withToken(t.Context(), "wrong")), codes.Unauthenticated, "the token is not one of")
	wants(t, list(withToken(t.Context(), "s3cret-token")), codes.OK, "")
	if log := n.log.String(); strings.Contains(log, "s3cret") || strings.Contains(log, "wrong") || !strings.Contains(log, "is refused") {
		t.Errorf("the log is %s", log)
	}
	h, err := healthpb.NewHealthClient(n.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health without a token: %v, %v", h, err)
	}
	r, err := reflectpb.NewServerReflectionClient(n.conn).ServerReflectionInfo(t.Context())
	if err == nil {
		_, err = r.Recv()
	}
	wants(t, err, codes.Unauthenticated, "none was shown")
}

func TestReflectionAndHealth(t *testing.T) {
	n := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := reflectpb.NewServerReflectionClient(n.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range resp.GetListServicesResponse().Service {
		names = append(names, s.Name)
	}
	for _, want := range []string{"sluice.control.v1.Topics", "sluice.control.v1.Groups", "grpc.health.v1.Health"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	watch, err := healthpb.NewHealthClient(n.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := watch.Recv(); err != nil || s.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", s, err)
	}
	if err := n.s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if s, err := watch.Recv(); err != nil || s.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("while draining: %v, %v", s, err)
	}
	wants(t, func() error { _, err := n.topics().List(ctx, &api.ListTopicsRequest{}); return err }(), codes.OK, "")
}

func TestTLSOffLoopback(t *testing.T) {
	cert := testx.TempCert(t)
	s := control.New(control.Options{TLS: cert.ServerConfig(), Principals: func() *control.Principals { return control.NewPrincipals("x", nil) }})
	defer s.Close(t.Context())
	addr, err := s.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(credentials.NewTLS(cert.ClientConfig(false))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = api.NewTopicsClient(conn).List(withToken(t.Context(), "x"), &api.ListTopicsRequest{PageSize: -1})
	wants(t, err, codes.InvalidArgument, "page_size")
}

// Many calls at once, some of them given up: each is answered, and none is left behind.
func TestParallelAndCancelled(t *testing.T) {
	n := start(t)
	n.create("a", 3)
	n.create("b", 1)
	var calls sync.WaitGroup
	for i := range 1000 {
		calls.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%4 == 3 {
				cancel()
			}
			var err error
			if i%2 == 0 {
				var r *api.ListTopicsResponse
				if r, err = n.topics().List(ctx, &api.ListTopicsRequest{}); err == nil && len(r.Topics) != 2 {
					err = errors.New("topics are missing")
				}
			} else {
				_, err = n.groups().List(ctx, &api.ListGroupsRequest{})
			}
			if i%4 == 3 && status.Code(err) == codes.Canceled {
				return
			}
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	calls.Wait()
}

// A call that runs ends with the node, and the node does not wait for one that does not end.
func TestCloseEndsCalls(t *testing.T) {
	n := start(t)
	watch, err := healthpb.NewHealthClient(n.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	s := control.New(control.Options{})
	if _, err := s.Listen("127.0.0.1:0", true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s.Close(ctx)
	s.Close(ctx) // twice is once
	if len(s.Addresses()) != 1 {
		t.Error("the address is forgotten")
	}
}

func TestRequestsAreBounded(t *testing.T) {
	n := start(t)
	_, err := n.topics().Describe(t.Context(), &api.DescribeTopicRequest{Name: strings.Repeat("x", 2<<20)})
	wants(t, err, codes.ResourceExhausted, "larger than max")
	_, err = n.topics().Describe(t.Context(), &api.DescribeTopicRequest{Name: strings.Repeat("x", 1<<19)})
	wants(t, err, codes.NotFound, "there is none")
	if len(status.Convert(err).Message()) > 500 {
		t.Errorf("the error is %d bytes long", len(status.Convert(err).Message()))
	}
	for _, token := range []string{"x", strings.Repeat("y", 8), strings.Repeat("z", 40)} {
		if _, err := n.groups().List(t.Context(), &api.ListGroupsRequest{PageToken: []byte(token)}); err == nil {
			t.Errorf("page token %q was taken", token)
		}
	}
	_, err = n.groups().List(t.Context(), &api.ListGroupsRequest{PageSize: 1001})
	wants(t, err, codes.InvalidArgument, "want 1 to 1000")
}

// Who has a role comes in by a token of its own, may what the role may, and loses it with a reload.
func TestPrincipals(t *testing.T) {
	const viewer, operator = "viewer-token-of-16", "operator-token-of-16"
	dir := t.TempDir()
	at := map[string]string{}
	for name, token := range map[string]string{"eve": viewer, "olaf": operator} {
		at[name] = filepath.Join(dir, name)
		if err := os.WriteFile(at[name], []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := "control.principals=[{name: eve, role: viewer, token: 'file:" + at["eve"] + "'}, {name: olaf, role: operator, token: 'file:" + at["olaf"] + "'}]"
	n := start(t, set)
	list := func(ctx context.Context) error {
		_, err := n.topics().List(ctx, &api.ListTopicsRequest{})
		return err
	}
	create := func(ctx context.Context, name string) error {
		_, err := n.topics().Create(ctx, &api.CreateTopicRequest{Name: name})
		return err
	}
	eve, olaf := withToken(t.Context(), viewer), withToken(t.Context(), operator)
	wants(t, list(t.Context()), codes.Unauthenticated, "none was shown")
	wants(t, list(eve), codes.OK, "")
	wants(t, create(eve, "a"), codes.PermissionDenied, `Topics.Create needs the role operator, and "eve" is viewer`)
	wants(t, create(olaf, "a"), codes.OK, "")
	_, err := api.NewUsersClient(n.conn).Delete(olaf, &api.DeleteUserRequest{Name: "x"})
	wants(t, err, codes.PermissionDenied, `Users.Delete needs the role admin, and "olaf" is operator`)
	b, err := api.NewBackupsClient(n.conn).Create(eve, &api.CreateBackupRequest{})
	if err == nil {
		_, err = b.Recv()
	}
	wants(t, err, codes.PermissionDenied, "needs the role operator")

	swapped := strings.NewReplacer("name: eve, role: viewer", "name: olga, role: operator", "role: operator, token: 'file:"+at["olaf"], "role: viewer, token: 'file:"+at["olaf"]).Replace(set)
	loaded, err := config.Load(config.LoadOptions{Set: append(append([]string{}, n.set...), swapped)})
	if err != nil {
		t.Fatal(err)
	}
	report, err := n.s.Reload(loaded.Config)
	if err != nil || !strings.Contains(strings.Join(report, "\n"), "control.principals: [{name: \"olga\", role: operator") {
		t.Fatalf("%v, %v", report, err)
	}
	wants(t, create(eve, "b"), codes.OK, "")
	wants(t, create(olaf, "c"), codes.PermissionDenied, `"olaf" is viewer`)
	log := n.log.String() + strings.Join(report, "\n")
	if strings.Contains(log, viewer) || strings.Contains(log, operator) {
		t.Errorf("a token is in the log: %s", log)
	}
	for _, want := range []string{"principal=eve", "principal=olaf role=operator", "principal=olga role=operator"} {
		if !strings.Contains(log, want) {
			t.Errorf("%s is not in the log: %s", want, log)
		}
	}
}
