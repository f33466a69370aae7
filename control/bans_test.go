package control_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func (n *node) bans() api.BansClient { return api.NewBansClient(n.conn) }

// ban adds a ban for an hour.
func (n *node) ban(t *api.BanTarget) {
	n.t.Helper()
	if _, err := n.bans().Add(n.t.Context(), &api.AddBanRequest{Target: t, UntilMs: time.Now().Add(time.Hour).UnixMilli(), Reason: "a test"}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) unban(t *api.BanTarget) {
	n.t.Helper()
	if _, err := n.bans().Remove(n.t.Context(), &api.RemoveBanRequest{Target: t}); err != nil {
		n.t.Fatal(err)
	}
}

// refusedWith checks what a CONNECT is answered.
func refusedWith(t *testing.T, err error, want wire.ReasonCode) {
	t.Helper()
	var r *mqttclient.RefusedError
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("%v, want it refused with %v", err, want)
	}
}

// ended checks the reason that a client of MQTT 5 is closed with.
func ended(t *testing.T, c *mqttclient.Client, want wire.ReasonCode) {
	t.Helper()
	packets, err := c.WaitClosed(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if p.Type == wire.DISCONNECT {
			if d, err := wire.DecodeServerDisconnect(p.Body, wire.V5); err != nil || d.Reason != want {
				t.Errorf("closed with %v, %v", d.Reason, err)
			}
			return
		}
	}
	t.Error("closed without a DISCONNECT")
}

func TestBans(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	if _, err := n.users().Add(ctx, &api.AddUserRequest{Name: "plant", Credentials: stored(t, "one")}); err != nil {
		t.Fatal(err)
	}
	kafka := map[string]kgo.Opt{"PLAIN": kgo.SASL(plain.Auth{User: "plant", Pass: "one"}.AsMechanism()),
		"SCRAM": kgo.SASL(scram.Auth{User: "plant", Pass: "one"}.AsSha512Mechanism())}
	for _, target := range []*api.BanTarget{{ClientId: "pump"}, {User: "plant"}} {
		pump, err := n.login("pump", "plant", "one")
		if err != nil {
			t.Fatal(err)
		}
		other := n.mqtt("other", 0, wire.V5)
		inside := n.kafka(kafka["SCRAM"])
		if err := inside.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		n.ban(target)
		ended(t, pump, wire.AdministrativeAction)
		_, err = n.login("pump", "plant", "one")
		refusedWith(t, err, wire.Banned)
		_, _, err = mqttclient.Connect(ctx, mqttclient.Options{URL: n.at["mqtt.tcp"],
			Connect: wire.Connect{Version: wire.V311, ClientID: []byte("pump"), CleanStart: true, UserName: []byte("plant"), Password: []byte("one")}})
		refusedWith(t, err, wire.NotAuthorized) // code 5
		if err := other.Ping(); err != nil {
			t.Errorf("somebody else is closed: %v", err)
		}
		for name, o := range kafka {
			err := n.kafka(o).Ping(ctx)
			if banned := target.User != ""; banned != errors.Is(err, kerr.SaslAuthenticationFailed) || !banned && err != nil {
				t.Errorf("%v by %s: %v", target, name, err)
			}
		}
		list, err := n.bans().List(ctx, &api.ListBansRequest{})
		if err != nil || len(list.Bans) != 1 || list.Bans[0].Target.String() != target.String() || list.Bans[0].Reason != "a test" || list.Bans[0].Source != "catalog" ||
			list.Bans[0].UntilMs <= list.Bans[0].SinceMs {
			t.Errorf("%v, %v", list, err)
		}
		n.unban(target)
		if c, err := n.login("pump", "plant", "one"); err != nil {
			t.Errorf("after the ban: %v", err)
		} else {
			_ = c.Close()
		}
	}
	if log := n.log.String(); !strings.Contains(log, "Bans/Add subject=pump") {
		t.Errorf("the log is %s", log)
	}
}

// A banned address is closed before anything is read of it, by every protocol, but not by the control plane; who is in is closed.
func TestBannedAddress(t *testing.T) {
	n := start(t)
	c := n.mqtt("pump", 0, wire.V5)
	target := &api.BanTarget{Address: "127.0.0.0/8"}
	n.ban(target)
	ended(t, c, wire.AdministrativeAction)
	for _, at := range []string{"mqtt.tcp", "kafka.tcp"} {
		conn, err := net.Dial("tcp", n.at[at])
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", at, err)
		}
		_ = conn.Close()
	}
	n.unban(target)
	n.mqtt("pump", 0, wire.V5)
}

func TestBansRefused(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	add := func(t *api.BanTarget, until int64) error {
		_, err := n.bans().Add(ctx, &api.AddBanRequest{Target: t, UntilMs: until})
		return err
	}
	wants(t, add(nil, 0), codes.InvalidArgument, "one of them")
	wants(t, add(&api.BanTarget{ClientId: "a", User: "b"}, 0), codes.InvalidArgument, "one of them")
	wants(t, add(&api.BanTarget{Address: "here"}, 0), codes.InvalidArgument, "want an address or a prefix")
	wants(t, add(&api.BanTarget{User: "b"}, 1), codes.InvalidArgument, "its end is over")
	wants(t, add(&api.BanTarget{User: strings.Repeat("x", 20_000)}, 0), codes.InvalidArgument, "at most 16384 bytes")
	_, err := n.bans().Add(ctx, &api.AddBanRequest{Target: &api.BanTarget{User: "b"}, Reason: strings.Repeat("x", 2000)})
	wants(t, err, codes.InvalidArgument, "at most 1024 bytes")
	_, err = n.bans().Remove(ctx, &api.RemoveBanRequest{Target: &api.BanTarget{User: "b"}})
	wants(t, err, codes.NotFound, "sluice ban list")
}

// Who comes too often is banned for a while, and can be forgiven; whoever has the session keeps it.
func TestFlappingClients(t *testing.T) {
	n := start(t, "limits.flapping.connects=3", "limits.flapping.window=1h", "limits.flapping.ban=1h")
	ctx := t.Context()
	connect := func(id string) (*mqttclient.Client, error) {
		c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: n.at["mqtt.tcp"], Connect: wire.Connect{Version: wire.V5, ClientID: []byte(id), CleanStart: true}})
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return c, err
	}
	var last *mqttclient.Client
	for range 3 {
		c, err := connect("pump")
		if err != nil {
			t.Fatal(err)
		}
		last = c
	}
	for range 2 {
		_, err := connect("pump")
		refusedWith(t, err, wire.Banned)
	}
	if err := last.Ping(); err != nil {
		t.Errorf("who is in is closed: %v", err)
	}
	if _, err := connect("other"); err != nil {
		t.Error(err)
	}
	list, err := n.bans().List(ctx, &api.ListBansRequest{})
	if err != nil || len(list.Bans) != 1 || list.Bans[0].Source != "flapping" || list.Bans[0].Target.ClientId != "pump" {
		t.Errorf("%v, %v", list, err)
	}
	n.unban(&api.BanTarget{ClientId: "pump"})
	if _, err := connect("pump"); err != nil {
		t.Error(err)
	}
}

// Bans are there again after a restart.
func TestBansAreKept(t *testing.T) {
	dir := "node.data=" + t.TempDir()
	n := start(t, dir)
	n.ban(&api.BanTarget{ClientId: "pump"})
	n.ban(&api.BanTarget{Address: "203.0.113.0/24"})
	_ = n.conn.Close()
	if err := n.s.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	list, err := n.bans().List(t.Context(), &api.ListBansRequest{PageSize: 1})
	if err != nil || len(list.Bans) != 1 || list.Bans[0].Target.ClientId != "pump" || len(list.NextPageToken) == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	if list, err = n.bans().List(t.Context(), &api.ListBansRequest{PageToken: list.NextPageToken}); err != nil || len(list.Bans) != 1 || list.Bans[0].Target.Address != "203.0.113.0/24" {
		t.Errorf("%v, %v", list, err)
	}
	_, _, err = mqttclient.Connect(t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"], Connect: wire.Connect{Version: wire.V5, ClientID: []byte("pump"), CleanStart: true}})
	refusedWith(t, err, wire.Banned)
}
