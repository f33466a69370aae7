package control_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A directory server that takes connections and says nothing keeps its own clients waiting, more of them than are verified at once, and nobody else.
func TestStalledDirectory(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	n := start(t, "auth.ldap.url=ldap://"+ln.Addr().String(), "auth.ldap.bind_dn=uid=%u,dc=example", "auth.ldap.timeout=30s", "listeners.mqtt.connect_timeout=1m")
	if _, err := n.users().Add(t.Context(), &api.AddUserRequest{Name: "plant", Credentials: stored(t, "one")}); err != nil {
		t.Fatal(err)
	}
	const crowd = 150
	var waiting sync.WaitGroup
	var clients []*mqttclient.Client
	for range crowd {
		c, err := mqttclient.Dial(t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"]})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
		waiting.Go(func() {
			_, _ = c.Connect(&wire.Connect{Version: wire.V5, CleanStart: true, UserName: []byte("ann"), Password: []byte("x")})
		})
	}
	asked := make(chan struct{}, crowd)
	go func() {
		for {
			if _, err := ln.Accept(); err != nil {
				return
			}
			asked <- struct{}{}
		}
	}()
	for range 32 { // auth.ldap.concurrency
		testx.Receive(t, asked, 20*time.Second)
	}
	began := time.Now()
	for range 3 {
		if _, err := n.login("", "plant", "one"); err != nil {
			t.Errorf("a user of the catalog: %v", err)
		}
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("a user of the catalog waited %v", d)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	waiting.Wait()
}
