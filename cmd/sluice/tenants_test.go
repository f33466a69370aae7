package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Tenants by the commands of an operator, at a node: limits, what is whose, and what is in the way of a removal.
func TestTenantCommands(t *testing.T) {
	inProcess(t)
	says(t, 0, "acme    1       enabled  bytes_in=1048576 connections=100", "tenant", "add", "acme", "--connections", "100", "--bytes-in", "1MiB")
	says(t, 0, "globex  2       disabled  -", "tenant", "add", "globex", "--disabled")
	says(t, 1, "there already", "tenant", "add", "acme")
	says(t, 0, "acme    1       enabled  bytes_in=1048576 messages_in=0.5", "tenant", "set", "acme", "--connections", "none", "--messages-in", "0.5")
	says(t, 0, "globex  2       enabled", "tenant", "set", "globex", "--enable")
	for _, c := range []struct{ tenant, partitions string }{{"acme", "1"}, {"globex", "2"}} {
		says(t, 0, "orders", "topic", "create", "orders", "--partitions", c.partitions, "--tenant", c.tenant)
	}
	if out, _ := sluice(t, "", "topic", "list"); strings.Contains(out, "orders") {
		t.Errorf("the default tenant has %s", out)
	}
	says(t, 0, "orders  2 ", "topic", "list", "--tenant", "globex")
	if out, code := sluice(t, "a password\n", "user", "add", "hank", "--tenant", "globex"); code != 0 {
		t.Error(out)
	}
	if out, _ := sluice(t, "", "user", "list", "--tenant", "acme"); strings.Contains(out, "hank") {
		t.Errorf("acme has %s", out)
	}
	says(t, 0, "hank", "user", "list", "--tenant", "globex")
	says(t, 1, `there is no tenant "nobody"`, "topic", "list", "--tenant", "nobody")
	says(t, 2, "tenant name \"No\": want a letter", "topic", "list", "--tenant", "No")
	says(t, 2, "unknown flag: --tenant", "node", "list", "--tenant", "acme")
	var rows []tenantRow
	out := says(t, 0, "globex", "tenant", "list", "-o", "json")
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 3 || rows[0].Name != "default" || rows[2].Use == nil || rows[2].Use.Topics != 1 || rows[2].Use.Users != 1 {
		t.Errorf("%v, %v", rows, err)
	}
	says(t, 0, "topics        1    -", "tenant", "show", "globex")
	says(t, 0, "messages_in: 0.5", "tenant", "show", "acme", "-o", "yaml")
	says(t, 1, "it has 1 user, 1 Kafka topic; delete", "tenant", "remove", "globex")
	says(t, 0, "deleted topic orders", "topic", "delete", "orders", "--tenant", "globex")
	says(t, 0, "deleted user hank", "user", "delete", "hank", "--tenant", "globex")
	says(t, 0, "removed tenant globex", "tenant", "remove", "globex")
	says(t, 2, "--topics: want a number", "tenant", "set", "acme", "--topics", "many")
	says(t, 2, "not both", "tenant", "set", "acme", "--enable", "--disable")
	says(t, 2, "nothing is to be changed", "tenant", "set", "acme")
}

// TestTenantsPageUpToDate runs the commands of the guide, with clients of two tenants beside them, and compares what they say.
func TestTenantsPageUpToDate(t *testing.T) {
	page, err := filepath.Abs(filepath.FromSlash("../../docs/tenants.md"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("ann.token", []byte("the-token-of-acme"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(tokenVariable, "the-token-of-all")
	at := inProcess(t, "cluster.shards=1", "engine.loops=1", "auth.control_token=the-token-of-all", "control.principals=[{name: ann, role: admin, tenant: acme, token: 'file:ann.token'}]")
	panels := make(map[string]*mqttclient.Client)
	publish := func(user, payload string) {
		t.Helper()
		if _, err := panels[user].Publish(&wire.PublishOut{Topic: []byte("line/1/temp"), Payload: []byte(payload), QoS: 1, Retain: user == "oven-1"}); err != nil {
			t.Fatal(err)
		}
	}
	pageUpToDate(t, page, func(command string) {
		switch command {
		case "client list --tenant acme":
			for _, user := range []string{"oven-1", "press-1"} {
				c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"],
					Connect: wire.Connect{ClientID: []byte("panel"), CleanStart: true, UserName: []byte(user), Password: []byte("a password")}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				panels[user] = c
			}
		case "topic create orders --partitions 1 --tenant acme":
			publish("oven-1", "480")
			publish("press-1", "21.5")
		case "topic list --tenant acme":
			says(t, 0, "", "pub", "--kafka="+at["kafka.tcp"], "--user", "press-1", "--password-file", file(t, "password", "a password"), "-t", "orders", "-m", "of-acme")
		case "user delete oven-1 --tenant globex":
			publish("oven-1", "") // its retained message goes
		}
	})
}
