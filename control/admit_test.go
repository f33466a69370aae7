package control

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Without a token nobody comes in but from loopback, whatever the listener; with one, everybody shows it.
func TestAdmit(t *testing.T) {
	for _, tt := range []struct {
		token, from, shown, method string
		code                       codes.Code
		says                       string
	}{
		{"", "127.0.0.1", "", "/sluice.control.v1.Topics/List", codes.OK, ""},
		{"", "127.8.8.8", "", "/sluice.control.v1.Topics/List", codes.OK, ""},
		{"", "::1", "", "/sluice.control.v1.Topics/List", codes.OK, ""},
		{"", "::ffff:127.0.0.1", "", "/sluice.control.v1.Topics/List", codes.OK, ""},
		{"", "192.0.2.1", "", "/sluice.control.v1.Topics/List", codes.Unauthenticated, "set auth.control_token or control.principals"},
		{"", "2001:db8::1", "Bearer ", "/sluice.control.v1.Topics/List", codes.Unauthenticated, "set auth.control_token or control.principals"},
		{"secret", "127.0.0.1", "", "/sluice.control.v1.Topics/List", codes.Unauthenticated, "none was shown"},
		{"secret", "192.0.2.1", "Bearer secret", "/sluice.control.v1.Topics/List", codes.OK, ""},
		{"secret", "192.0.2.1", "secret", "/sluice.control.v1.Topics/List", codes.Unauthenticated, "is not one of"},
		{"secret", "192.0.2.1", "Bearer secre", "/sluice.control.v1.Topics/List", codes.Unauthenticated, "is not one of"},
		{"secret", "192.0.2.1", "Bearer " + strings.Repeat("s", 10_000), "/sluice.control.v1.Topics/List", codes.Unauthenticated, "is not one of"},
		{"secret", "192.0.2.1", "", "/grpc.health.v1.Health/Check", codes.OK, ""},
	} {
		s := New(Options{Principals: func() *Principals { return NewPrincipals(tt.token, nil) }, Logger: slog.New(slog.DiscardHandler)})
		ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(tt.from), Port: 7}})
		if tt.shown != "" {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", tt.shown))
		}
		_, err := s.admit(ctx, tt.method)
		if status.Code(err) != tt.code || !strings.Contains(status.Convert(err).Message(), tt.says) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if _, err := New(Options{Logger: slog.New(slog.DiscardHandler)}).admit(context.Background(), "/sluice.control.v1.Topics/List"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a caller from nowhere: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	s := New(Options{})
	f.Add(s.token(1, 2, 3))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y, z uint64
		if s.untoken(b, &x, &y, &z) == nil && len(b) > 0 && string(s.token(x, y, z)) != string(b) && len(b) == len(s.token(x, y, z)) {
			t.Errorf("%x is %d %d %d", b, x, y, z)
		}
		_, _ = s.place(b)
	})
}

func FuzzAssignment(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x01\x00\x01t\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for _, e := range assignment(b) {
			n += len(e.Partitions)
		}
		if 4*n > len(b) {
			t.Errorf("%d partitions in %d bytes", n, len(b))
		}
	})
}
