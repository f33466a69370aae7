package identity

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// A change of the tenants counts when it is answered: nothing here waits for it.

// control has do call the control plane about a tenant's; empty: about the node's.
func (n *node) control(tenant string, do func(ctx context.Context, conn *grpc.ClientConn) error) {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.at["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	if tenant != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "sluice-tenant", tenant)
	}
	if err := do(ctx, conn); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) disable(tenant string, disabled bool) {
	n.t.Helper()
	n.control("", func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := api.NewTenantsClient(conn).Set(ctx, &api.SetTenantRequest{Name: tenant, Disabled: &disabled})
		return err
	})
}

// tenanted is a node with the tenants plant and lab, a listener of each, one of a tenant that is not there, and a user of the catalog in each tenant.
func tenanted(t *testing.T, set ...string) *node {
	t.Helper()
	n := start(t, []string{"mqtt.tcp", "grpc"}, append([]string{"auth.anonymous=loopback", "listeners.mqtt.named=[{name: plant, address: '127.0.0.1:0', tenant: plant}, " +
		"{name: lab, address: '127.0.0.1:0', tenant: lab}, {name: typo, address: '127.0.0.1:0', tenant: plan}]"}, set...)...)
	for _, name := range []string{"plant", "lab"} {
		n.control("", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := api.NewTenantsClient(conn).Add(ctx, &api.AddTenantRequest{Name: name})
			return err
		})
		n.control(name, func(ctx context.Context, conn *grpc.ClientConn) error {
			hash, err := auth.Hash([]byte("secret"), auth.DefaultParams)
			if err != nil {
				return err
			}
			_, err = api.NewUsersClient(conn).Add(ctx, &api.AddUserRequest{Name: name + "-user", Credentials: &api.Credentials{Password: hash}})
			return err
		})
	}
	return n
}

func retain(t *testing.T, c *mqttclient.Client, topic, payload string) {
	t.Helper()
	if _, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), Payload: []byte(payload), QoS: 1, Retain: true}); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// The same topics, filters, groups and client ids in three tenants have nothing to do with each other: nobody takes over another's connection, gets what it publishes, retains
// or leaves behind, or shares with it.
func TestTenantsDoNotMeet(t *testing.T) {
	n := tenanted(t)
	doors := []string{"mqtt.plant", "mqtt.lab", "mqtt.tcp"}
	var listen, talk []*mqttclient.Client
	for _, door := range doors {
		l := n.connect(door, "same", nil)
		subscribe(t, l, "#", "$share/g/shared/#")
		listen, talk = append(listen, l), append(talk, n.connect(door, "talks", nil))
	}
	for i, c := range talk {
		retain(t, c, "t/kept", doors[i])
		publish(t, c, "t/1", doors[i], 2)
		w := n.connect(doors[i], "will", nil, func(k *wire.Connect) {
			k.HasWill, k.Will = true, wire.Will{Topic: []byte("t/will"), Payload: []byte(doors[i]), QoS: 1}
		})
		_ = w.Close()
	}
	for i, c := range listen {
		wants(t, c, "t/kept", doors[i])
		wants(t, c, "t/1", doors[i])
		wants(t, c, "t/will", doors[i])
		publish(t, talk[i], "shared/1", doors[i], 1) // by the filter and by the group
		wants(t, c, "shared/1", doors[i])
		wants(t, c, "shared/1", doors[i])
		publish(t, c, "end", doors[i], 1)
		wants(t, c, "end", doors[i]) // and nothing of anybody else
		late := n.connect(doors[i], "late", nil)
		subscribe(t, late, "t/#", "end")
		wants(t, late, "t/kept", doors[i])
		publish(t, late, "end", "late", 1)
		wants(t, late, "end", "late")
		wants(t, c, "end", "late")
		if err := c.Ping(); err != nil {
			t.Errorf("%s was taken over: %v", doors[i], err)
		}
	}
	// A user of the catalog is in its own tenant by the common listener too, and is not let in by another tenant's.
	user := n.connect("mqtt.tcp", "user", nil, as("plant-user", "secret"))
	publish(t, user, "u", "by the common door", 1)
	wants(t, listen[0], "u", "by the common door")
	for i := 1; i < len(doors); i++ {
		publish(t, talk[i], "u", doors[i], 1)
		wants(t, listen[i], "u", doors[i])
	}
	for door, who := range map[string]func(*wire.Connect){"mqtt.plant": as("lab-user", "secret"), "mqtt.lab": as("plant-user", "secret"), "mqtt.typo": nil} {
		if _, err := n.try(door, "stranger", nil, func(k *wire.Connect) {
			if who != nil {
				who(k)
			}
		}); err == nil || !strings.Contains(err.Error(), "authorized") {
			t.Errorf("a stranger at %s: %v", door, err)
		}
	}
	for _, line := range []string{`why="the listener is for the clients of another tenant" tenant=lab by=password user=lab-user client_id=stranger listener=mqtt.plant`,
		`why="there is no such tenant" tenant=plan by=anonymous`} {
		if !n.log.has(line) {
			t.Errorf("the log does not say %s", line)
		}
	}
}

// Who is in a tenant that is disabled has to go, by whatever door it came, and comes again when it is not any more. Others stay.
func TestTenantsDisabled(t *testing.T) {
	n := tenanted(t)
	anonymous, user, other := n.connect("mqtt.plant", "a", nil), n.connect("mqtt.tcp", "b", nil, as("plant-user", "secret")), n.connect("mqtt.lab", "a", nil)
	n.disable("plant", true)
	for _, c := range []*mqttclient.Client{anonymous, user} {
		if d := told(t, c); d.Reason != wire.NotAuthorized || !strings.Contains(string(d.ReasonString), "the tenant is disabled") {
			t.Errorf("told %v %q", d.Reason, d.ReasonString)
		}
	}
	if _, err := n.try("mqtt.plant", "a", nil); err == nil || !strings.Contains(err.Error(), "authorized") {
		t.Errorf("while it is disabled: %v", err)
	}
	if err := other.Ping(); err != nil {
		t.Error(err)
	}
	n.disable("plant", false)
	n.connect("mqtt.plant", "a", nil)
	n.connect("mqtt.tcp", "b", nil, as("plant-user", "secret"))
	// A reload that gives the listener to another tenant closes those who are in the first one by it.
	guest := n.connect("mqtt.plant", "guest", nil)
	n.reload("listeners.mqtt.named=[{name: plant, address: '127.0.0.1:0', tenant: lab}]")
	if d := told(t, guest); d.Reason != wire.NotAuthorized {
		t.Errorf("told %v %q", d.Reason, d.ReasonString)
	}
}

// A line of the rule file is about the tenant that it names, and else about the default one.
func TestTenantsRules(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(rules, []byte("allow all by tenant plant on a/#\nallow all by all on b/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := tenanted(t, "auth.acl_file="+rules)
	for door, want := range map[string]map[string]wire.ReasonCode{
		"mqtt.plant": {"a/x": wire.NoMatchingSubscribers, "b/x": wire.NotAuthorized},
		"mqtt.tcp":   {"a/x": wire.NotAuthorized, "b/x": wire.NoMatchingSubscribers},
		"mqtt.lab":   {"a/x": wire.NoMatchingSubscribers, "b/x": wire.NoMatchingSubscribers}, // no line is about it
	} {
		c := n.connect(door, "c", nil)
		for topic, code := range want {
			if got, err := c.Publish(&wire.PublishOut{Topic: []byte(topic), QoS: 1}); got != code {
				t.Errorf("%s publishes to %s: %v, %v, want %v", door, topic, got, err, code)
			}
		}
	}
}
