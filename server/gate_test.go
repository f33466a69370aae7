package server

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
)

// TestInsiders: the node's own bridges come in by their door, whatever users and rules there are, and nobody else under their client ids.
func TestInsiders(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(rules, []byte("deny all by all on #\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(auth.Options{Anonymous: "everywhere", ACLFile: rules, ClientIDs: []string{"device-*", "$bridge/*"}})
	if err != nil {
		t.Fatal(err)
	}
	g := insiders{p}
	id, done, err := g.Quick(broker.Credentials{ClientID: "$bridge/hq", Listener: bridgeListener})
	if err != nil || !done || g.Recheck(&id, nil) != nil {
		t.Fatalf("a bridge: %+v, %v, %v", id, done, err)
	}
	if !p.Authorize(&id, broker.ActionPublish, []byte("a")) || !p.Authorize(&id, broker.ActionSubscribe, []byte("#")) {
		t.Error("rules hold for a bridge")
	}
	there := netip.MustParseAddrPort("10.1.1.1:5000")
	for _, c := range []broker.Credentials{{ClientID: "$bridge/hq", Listener: "mqtt.tcp", Remote: there}, {ClientID: "$bridge/", Listener: "mqtt.unix"}} {
		if _, done, err := g.Quick(c); !done || !errors.Is(err, broker.ErrNotAuthorized) {
			t.Errorf("%+v: %v, %v", c, done, err)
		}
		if g.Converse(auth.SCRAMSHA256, c) != nil {
			t.Errorf("%+v may converse", c)
		}
	}
	id, done, err = g.Quick(broker.Credentials{ClientID: "device-1", Listener: "mqtt.tcp", Remote: there})
	if err != nil || !done || p.Authorize(&id, broker.ActionPublish, []byte("a")) {
		t.Errorf("a client: %+v, %v, %v", id, done, err)
	}
}
