package kafka

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// sluice runs a command at the node.
func (c *cluster) sluice(input string, args ...string) {
	c.t.Helper()
	cmd := exec.Command(common.Binary(c.t), append(args, "--server", c.node.Listeners["grpc"])...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("sluice %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// topicsOf are the names that a client sees, the broker's own aside.
func topicsOf(t testing.TB, cl *kgo.Client) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Names(), func(s string) bool { return s == broker.OffsetsTopic })
}

// TestTenants: a tenant's first user, whom the operator makes, makes others and gives them rights, as Kafka's tools do. They count in the tenant alone, and after
// a kill as before.
func TestTenants(t *testing.T) {
	c := start(t, "auth.anonymous=loopback", "listeners.grpc=127.0.0.1:0")
	c.sluice("", "tenant", "add", "plant")
	c.sluice("secret\n", "user", "add", "root", "--tenant", "plant")
	root, second := plain.Auth{User: "root", Pass: "secret"}.AsMechanism(), sha("SCRAM-SHA-256", "second", "secret")
	in := func(m sasl.Mechanism) *kgo.Client {
		testx.Eventually(t, patience, func() bool { return c.comesIn(m) == nil }, "a user of a tenant that has just been made")
		return c.client(kgo.SASL(m), kgo.DisableIdempotentWrite())
	}
	admin, nobody := in(root), c.client(kgo.DisableIdempotentWrite())
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if res, err := kadm.NewClient(admin).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "second", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "secret"}}); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	for _, cl := range []*kgo.Client{admin, nobody} {
		for _, topic := range []string{"open", "closed"} {
			if res, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, topic); err != nil || res.Err != nil {
				t.Fatal(err, res.Err)
			}
		}
	}
	// From the first rule on the tenant's decide, for the tenant.
	change(t, admin, acls("User:root", allows, "all topic open", "all topic closed", "all cluster kafka-cluster"))
	change(t, admin, acls("User:second", allows, "all topic open"))
	for _, when := range []string{"at once", "after a kill"} {
		for topic, want := range map[string]error{"open": nil, "closed": kerr.TopicAuthorizationFailed} {
			if err := in(second).ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("second's")}).FirstErr(); !errors.Is(err, want) {
				t.Errorf("%s: to %s: %v, want %v", when, topic, err, want)
			}
		}
		if names := topicsOf(t, in(second)); !slices.Equal(names, []string{"open"}) {
			t.Errorf("%s: the second sees %q", when, names)
		}
		if names := topicsOf(t, in(root)); !slices.Equal(names, []string{"closed", "open"}) {
			t.Errorf("%s: the first sees %q", when, names)
		}
		produce(t, c.client(), &kgo.Record{Topic: "closed", Value: []byte("nobody's")}) // there are no rules in the default tenant
		got := consume(t, c.client(kgo.ConsumeTopics("open", "closed"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 1)
		if string(got[0].Value) != "nobody's" {
			t.Errorf("%s: in the default tenant lies %q", when, got[0].Value)
		}
		got = consume(t, c.client(kgo.SASL(root), kgo.ConsumeTopics("open", "closed"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 1)
		if string(got[0].Value) != "second's" {
			t.Errorf("%s: in the tenant lies %q", when, got[0].Value)
		}
		if n := len(listACLs(t, c.client())); n != 0 {
			t.Errorf("%s: the default tenant has %d of the tenant's rules", when, n)
		}
		if when == "at once" {
			c.crash()
		}
	}
	if err := c.comesIn(sha("SCRAM-SHA-256", "second", "wrong")); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("by a wrong password: %v", err)
	}
}
