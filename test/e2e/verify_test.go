package e2e

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// gateAuthn knows one password, and takes its time until the gate is open.
type gateAuthn struct{ gate chan struct{} }

func (a gateAuthn) Authenticate(ctx context.Context, c broker.Credentials) (broker.Identity, error) {
	select {
	case <-a.gate:
	case <-ctx.Done():
		return broker.Identity{}, ctx.Err()
	}
	if string(c.Password) != "right" {
		return broker.Identity{}, broker.ErrBadCredentials
	}
	return broker.Identity{User: c.Username, Source: "password"}, nil
}

// syncBuffer takes log lines from several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// What a client sends behind its CONNECT waits while the client is verified, and is then taken in order: on both transports input that was
// left comes again when reading is resumed.
func TestVerificationHoldsInput(t *testing.T) {
	for _, tr := range transports() {
		t.Run(tr, func(t *testing.T) {
			lines := &syncBuffer{}
			gate := make(chan struct{})
			n := start(t, nodeOptions{transport: tr, authn: gateAuthn{gate}, logger: slog.New(slog.NewTextHandler(lines, nil))})
			w := &world{T: t, n: n, version: wire.V5, prefix: "v"}
			hello := func(password string) []byte {
				return wire.AppendConnect(nil, &wire.Connect{Version: wire.V5, CleanStart: true, ClientID: []byte("id-" + password), UserName: []byte("u"), Password: []byte(password)})
			}
			var waiting []*client
			for range 20 {
				c := w.dial()
				b := bytes.Replace(hello("right"), []byte("id-right"), []byte(w.id("abcdefgh")[:7]+string(rune('a'+len(waiting)))), 1)
				b = wire.AppendSubscribe(b, wire.V5, &wire.SubscribeOut{PacketID: 1, Filters: []wire.FilterRequest{{Filter: []byte("x")}}})
				c.send(wire.AppendPingreq(b))
				waiting = append(waiting, c)
			}
			testx.Eventually(t, patience, func() bool { return n.engine.Stats().Open == 20 })
			close(gate)
			for _, c := range waiting {
				c.next(wire.CONNACK)
				c.next(wire.SUBACK)
				c.next(wire.PINGRESP)
			}
			bad := w.dial()
			bad.send(append(hello("wrong"), wire.AppendPingreq(nil)...))
			packets, err := bad.WaitClosed(patience)
			if err != nil || len(packets) != 1 {
				t.Fatal(packets, err)
			}
			if k, err := packets[0].Connack(); err != nil || k.Reason != wire.BadUserNameOrPassword {
				t.Errorf("%+v %v", k, err)
			}
			testx.Eventually(t, patience, func() bool { return strings.Contains(lines.String(), "client_id=id-wrong") })
			if got := lines.String(); strings.Contains(got, "password=") || strings.Count(got, "misbehaved") != 1 {
				t.Errorf("log: %s", got)
			}
		})
	}
}
