package control_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/control/api"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

func (n *node) users() api.UsersClient       { return api.NewUsersClient(n.conn) }
func (n *node) acls() api.AclsClient         { return api.NewAclsClient(n.conn) }
func (n *node) quotas() api.QuotasClient     { return api.NewQuotasClient(n.conn) }
func (n *node) bindings() api.BindingsClient { return api.NewBindingsClient(n.conn) }

func stored(t *testing.T, password string) *api.Credentials {
	t.Helper()
	a, err := auth.NewAccount([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	scram := func(name string, v *auth.Verifier) *api.ScramCredential {
		return &api.ScramCredential{Mechanism: name, Iterations: int32(v.Iterations), Salt: []byte(v.Salt), StoredKey: []byte(v.StoredKey), ServerKey: []byte(v.ServerKey)}
	}
	return &api.Credentials{Password: a.Password, Scram: []*api.ScramCredential{scram(auth.SCRAMSHA256, a.SHA256), scram(auth.SCRAMSHA512, a.SHA512)}}
}

// login connects by MQTT with a password.
func (n *node) login(id, user, password string) (*mqttclient.Client, error) {
	c, _, err := mqttclient.Connect(n.t.Context(), mqttclient.Options{URL: n.at["mqtt.tcp"],
		Connect: wire.Connect{Version: 5, ClientID: []byte(id), CleanStart: true, UserName: []byte(user), Password: []byte(password)}})
	if err == nil {
		n.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func passwordFile(t *testing.T, users ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	for _, u := range users {
		hash, err := auth.Hash([]byte("of the file"), auth.DefaultParams)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := auth.SetUser(path, u, hash); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestUsers(t *testing.T) {
	n := start(t, "auth.password_file="+passwordFile(t, "filed"))
	ctx := t.Context()
	u, err := n.users().Add(ctx, &api.AddUserRequest{Name: "plant", Credentials: stored(t, "one")})
	if err != nil || u.Source != "catalog" || len(u.Mechanisms) != 3 || u.Disabled {
		t.Fatalf("%v, %v", u, err)
	}
	c, err := n.login("a", "plant", "one")
	if err != nil {
		t.Fatal(err)
	}
	k := n.kafka(kgo.SASL(scram.Auth{User: "plant", Pass: "one"}.AsSha512Mechanism()))
	if err := k.Ping(ctx); err != nil {
		t.Errorf("by SCRAM: %v", err)
	}
	list, err := n.users().List(ctx, &api.ListUsersRequest{})
	if err != nil || len(list.Users) != 2 || list.Users[0].Name != "filed" || list.Users[0].Source != "file" || list.Users[1].Name != "plant" {
		t.Errorf("%v, %v", list, err)
	}
	// A changed password ends who came in by the old one, and so does disabling.
	if _, err := n.users().SetPassword(ctx, &api.SetPasswordRequest{Name: "plant", Credentials: stored(t, "two")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(20 * time.Second); err == nil || errors.Is(err, mqttclient.ErrTimeout) {
		t.Errorf("after the change of its password: %v", err)
	}
	if _, err := n.login("a", "plant", "one"); err == nil {
		t.Error("the old password lets in")
	}
	if c, err = n.login("a", "plant", "two"); err != nil {
		t.Error(err)
	}
	if u, err := n.users().SetDisabled(ctx, &api.SetDisabledRequest{Name: "plant", Disabled: true}); err != nil || !u.Disabled {
		t.Errorf("%v, %v", u, err)
	}
	if _, err := c.Receive(20 * time.Second); err == nil || errors.Is(err, mqttclient.ErrTimeout) {
		t.Errorf("disabled: %v", err)
	}
	if _, err := n.login("a", "plant", "two"); err == nil {
		t.Error("a disabled user comes in")
	}
	if _, err := n.users().SetDisabled(ctx, &api.SetDisabledRequest{Name: "plant"}); err != nil {
		t.Error(err)
	}
	if _, err := n.login("a", "plant", "two"); err != nil {
		t.Errorf("enabled: %v", err)
	}
	if _, err := n.users().Delete(ctx, &api.DeleteUserRequest{Name: "plant"}); err != nil {
		t.Error(err)
	}
	if _, err := n.login("a", "plant", "two"); err == nil {
		t.Error("a deleted user comes in")
	}
	if log := n.log.String(); strings.Contains(log, "argon2id") || !strings.Contains(log, "Users/SetPassword subject=plant") {
		t.Errorf("the log is %s", log)
	}
}

func TestUsersRefused(t *testing.T) {
	n := start(t, "auth.password_file="+passwordFile(t, "filed"))
	ctx := t.Context()
	good := stored(t, "x")
	if _, err := n.users().Add(ctx, &api.AddUserRequest{Name: "u", Credentials: good}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r    *api.AddUserRequest
		code codes.Code
		says string
	}{
		{&api.AddUserRequest{Name: "u", Credentials: good}, codes.AlreadyExists, "sluice user passwd"},
		{&api.AddUserRequest{Name: "filed", Credentials: good}, codes.FailedPrecondition, "auth.password_file"},
		{&api.AddUserRequest{Name: "", Credentials: good}, codes.InvalidArgument, "empty"},
		{&api.AddUserRequest{Name: strings.Repeat("n", 2000), Credentials: good}, codes.InvalidArgument, "at most 1024"},
		{&api.AddUserRequest{Name: "a\nb", Credentials: good}, codes.InvalidArgument, "control character"},
		{&api.AddUserRequest{Name: "v"}, codes.InvalidArgument, "no credentials"},
		{&api.AddUserRequest{Name: "v", Credentials: &api.Credentials{Password: "plain text"}}, codes.InvalidArgument, "hashed"},
		{&api.AddUserRequest{Name: "v", Credentials: &api.Credentials{Scram: []*api.ScramCredential{{Mechanism: "SCRAM-SHA-1"}}}}, codes.InvalidArgument, "no SCRAM mechanism"},
		{&api.AddUserRequest{Name: "v", Credentials: &api.Credentials{Scram: []*api.ScramCredential{{Mechanism: "SCRAM-SHA-256", Iterations: 1}}}}, codes.InvalidArgument, "iterations"},
	} {
		_, err := n.users().Add(ctx, tt.r)
		wants(t, err, tt.code, tt.says)
	}
	_, err := n.users().SetPassword(ctx, &api.SetPasswordRequest{Name: "absent", Credentials: good})
	wants(t, err, codes.NotFound, "sluice user list")
	_, err = n.users().SetDisabled(ctx, &api.SetDisabledRequest{Name: "filed", Disabled: true})
	wants(t, err, codes.FailedPrecondition, "sluice passwd --file")
	_, err = n.users().Delete(ctx, &api.DeleteUserRequest{Name: "absent"})
	wants(t, err, codes.NotFound, "there is none")
	for i := range 30 {
		if _, err := n.users().Add(ctx, &api.AddUserRequest{Name: fmt.Sprintf("many-%02d", i), Credentials: &api.Credentials{Password: good.Password}}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	eachPage(t, func(token []byte) []byte {
		r, err := n.users().List(ctx, &api.ListUsersRequest{PageSize: 4, PageToken: token, Contains: "many"})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range r.Users {
			names = append(names, u.Name)
		}
		return r.NextPageToken
	})
	if len(names) != 30 || names[29] != "many-29" {
		t.Errorf("%v", names)
	}
}

func TestACLs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(file, []byte("# a comment\nallow subscribe by all on open/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "auth.acl_file="+file, "auth.super_users=[root]")
	ctx := t.Context()
	rule := func(permission, user, operation, name string) *api.Acl {
		return &api.Acl{Resource: "topic", Pattern: "literal", Name: name, Principal: "User:" + user, Host: "*", Operation: operation, Permission: permission}
	}
	added, err := n.acls().Add(ctx, &api.AddAclsRequest{Acls: []*api.Acl{rule("allow", "plant", "publish", "plant/#"), rule("allow", "plant", "read", "orders")}})
	if err != nil || added.Added != 2 {
		t.Fatalf("%v, %v", added, err)
	}
	if added, err := n.acls().Add(ctx, &api.AddAclsRequest{Acls: []*api.Acl{rule("allow", "plant", "write", "plant/#"), rule("deny", "plant", "write", "plant/9")}}); err != nil || added.Added != 1 {
		t.Errorf("%v, %v", added, err)
	}
	for _, tt := range []struct {
		user, operation, name string
		allowed               bool
		why                   string
		rules                 int
	}{
		{"plant", "publish", "plant/1", true, "a rule of the catalog allows", 1},
		{"plant", "publish", "plant/9", false, "a rule of the catalog denies", 1},
		{"plant", "publish", "other", false, "no rule allows it", 0},
		{"plant", "subscribe", "open/x", true, "a line of auth.acl_file allows", 0},
		{"plant", "read", "orders", true, "a rule of the catalog allows", 1},
		{"plant", "describe", "orders", true, "a rule of the catalog allows", 1},
		{"", "read", "orders", false, "none of them allows it", 0},
		{"root", "delete", "orders", true, "super_users", 0},
	} {
		r, err := n.acls().Check(ctx, &api.CheckAclRequest{User: tt.user, Operation: tt.operation, Name: tt.name})
		if err != nil || r.Allowed != tt.allowed || !strings.Contains(r.Why, tt.why) || len(r.Acls) < tt.rules {
			t.Errorf("%s %s %s: %v, %v", tt.user, tt.operation, tt.name, r, err)
		}
	}
	var lines, rules int
	eachPage(t, func(token []byte) []byte {
		r, err := n.acls().List(ctx, &api.ListAclsRequest{PageSize: 1, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.Acls {
			if a.Source == "file" {
				if lines++; a.Line != "2: allow subscribe by all on open/#" {
					t.Errorf("%v", a)
				}
			} else {
				rules++
			}
		}
		return r.NextPageToken
	})
	if lines != 1 || rules != 3 {
		t.Errorf("%d lines and %d rules", lines, rules)
	}
	_, err = n.acls().Delete(ctx, &api.DeleteAclsRequest{Filter: &api.AclFilter{}})
	wants(t, err, codes.InvalidArgument, "--all")
	d, err := n.acls().Delete(ctx, &api.DeleteAclsRequest{Filter: &api.AclFilter{Operation: "read"}, ValidateOnly: true})
	if err != nil || d.Deleted != 1 {
		t.Errorf("%v, %v", d, err)
	}
	if d, err := n.acls().Delete(ctx, &api.DeleteAclsRequest{Filter: &api.AclFilter{Principal: "User:plant"}}); err != nil || d.Deleted != 3 || len(d.Acls) != 3 {
		t.Errorf("%v, %v", d, err)
	}
	_, err = n.acls().Delete(ctx, &api.DeleteAclsRequest{All: true})
	wants(t, err, codes.NotFound, "none like this")
}

func TestACLsRefused(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	for _, tt := range []struct {
		a    *api.Acl
		says string
	}{
		{&api.Acl{}, "no kind of resource"},
		{&api.Acl{Resource: "topic", Pattern: "match", Name: "t", Principal: "User:u", Host: "*", Operation: "read", Permission: "allow"}, "literal or prefixed"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Principal: "User:u", Host: "*", Operation: "read", Permission: "allow"}, "want the name"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Name: "t", Principal: "u", Host: "*", Operation: "read", Permission: "allow"}, "User:NAME"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Name: "t", Principal: "User:u", Host: "home", Operation: "read", Permission: "allow"}, "IP address"},
		{&api.Acl{Resource: "group", Pattern: "literal", Name: "t", Principal: "User:u", Host: "*", Operation: "write", Permission: "allow"}, "nothing that is done with a group"},
		{&api.Acl{Resource: "cluster", Pattern: "literal", Name: "t", Principal: "User:u", Host: "*", Operation: "alter", Permission: "allow"}, "kafka-cluster"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Name: strings.Repeat("t", 10_000), Principal: "User:u", Host: "*", Operation: "read", Permission: "allow"}, "8192"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Name: "t", Principal: "User:u", Host: "*", Operation: "eat", Permission: "allow"}, "no operation"},
		{&api.Acl{Resource: "topic", Pattern: "literal", Name: "t", Principal: "User:u", Host: "*", Operation: "read", Permission: "perhaps"}, "no permission"},
	} {
		_, err := n.acls().Add(ctx, &api.AddAclsRequest{Acls: []*api.Acl{tt.a}})
		wants(t, err, codes.InvalidArgument, tt.says)
	}
	_, err := n.acls().Add(ctx, &api.AddAclsRequest{})
	wants(t, err, codes.InvalidArgument, "want 1 to 1000")
	for _, r := range []*api.CheckAclRequest{{Operation: "read"}, {Operation: "eat", Name: "t"}, {Operation: "all", Name: "t"}, {Operation: "publish", Name: "a/+"}, {Operation: "read", Name: "t", Host: "x"},
		{Operation: "publish", Resource: "group", Name: "g"}, {Operation: "read", Resource: "moon", Name: "t"}} {
		_, err := n.acls().Check(ctx, r)
		wants(t, err, codes.InvalidArgument, "check")
	}
}

func TestQuotas(t *testing.T) {
	n := start(t)
	ctx := t.Context()
	user := &api.QuotaEntity{User: &api.QuotaPart{Name: "u"}}
	q, err := n.quotas().Set(ctx, &api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"producer_byte_rate": 1 << 20}})
	if err != nil || len(q.Bounds) != 1 {
		t.Fatalf("%v, %v", q, err)
	}
	if q, err := n.quotas().Set(ctx, &api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"request_percentage": 50}}); err != nil || len(q.Bounds) != 2 {
		t.Errorf("%v, %v", q, err)
	}
	for _, e := range []*api.QuotaEntity{{User: &api.QuotaPart{Default: true}}, {ClientId: &api.QuotaPart{Name: "c"}}, {User: &api.QuotaPart{Name: "u"}, ClientId: &api.QuotaPart{Default: true}}} {
		if _, err := n.quotas().Set(ctx, &api.SetQuotaRequest{Entity: e, Bounds: map[string]float64{"consumer_byte_rate": 10}}); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.quotas().Set(ctx, &api.SetQuotaRequest{Entity: &api.QuotaEntity{Address: &api.QuotaPart{Name: "::ffff:10.0.0.7"}}, Bounds: map[string]float64{"connection_creation_rate": 0}}); err != nil {
		t.Error(err)
	}
	var seen []string
	eachPage(t, func(token []byte) []byte {
		r, err := n.quotas().List(ctx, &api.ListQuotasRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range r.Quotas {
			seen = append(seen, fmt.Sprintf("%s/%v/%s/%v/%s", q.Entity.User.GetName(), q.Entity.User.GetDefault(), q.Entity.ClientId.GetName(), q.Entity.ClientId.GetDefault(), q.Entity.Address.GetName()))
		}
		return r.NextPageToken
	})
	if want := "/false//false/10.0.0.7 /false/c/false/ /true//false/ u/false//false/ u/false//true/"; strings.Join(seen, " ") != want {
		t.Errorf("%s, want %s", strings.Join(seen, " "), want)
	}
	for _, tt := range []struct {
		r    *api.SetQuotaRequest
		says string
	}{
		{&api.SetQuotaRequest{Bounds: map[string]float64{"request_percentage": 1}}, "want a user"},
		{&api.SetQuotaRequest{Entity: user}, "nothing is to be set"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"no_rate": 1}}, "there is no quota"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"connection_creation_rate": 1}}, "is for addresses"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"producer_byte_rate": math.NaN()}}, "not below 0"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"producer_byte_rate": -1}}, "not below 0"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"producer_byte_rate": 1.5}}, "whole number"},
		{&api.SetQuotaRequest{Entity: user, Bounds: map[string]float64{"consumer_byte_rate": 0}}, "above 0"},
		{&api.SetQuotaRequest{Entity: &api.QuotaEntity{User: &api.QuotaPart{}}, Bounds: map[string]float64{"request_percentage": 1}}, "want a name"},
		{&api.SetQuotaRequest{Entity: &api.QuotaEntity{Address: &api.QuotaPart{Name: "x"}}, Bounds: map[string]float64{"connection_creation_rate": 1}}, "IP address"},
		{&api.SetQuotaRequest{Entity: &api.QuotaEntity{Address: &api.QuotaPart{Default: true}, User: &api.QuotaPart{Default: true}}, Bounds: map[string]float64{"connection_creation_rate": 1}}, "no user or client id"},
		{&api.SetQuotaRequest{Entity: &api.QuotaEntity{User: &api.QuotaPart{Name: strings.Repeat("u", 5000)}}, Bounds: map[string]float64{"request_percentage": 1}}, "2048"},
	} {
		_, err := n.quotas().Set(ctx, tt.r)
		wants(t, err, codes.InvalidArgument, tt.says)
	}
	if _, err := n.quotas().Delete(ctx, &api.DeleteQuotaRequest{Entity: user, Keys: []string{"request_percentage"}}); err != nil {
		t.Error(err)
	}
	_, err = n.quotas().Delete(ctx, &api.DeleteQuotaRequest{Entity: user, Keys: []string{"request_percentage"}})
	wants(t, err, codes.NotFound, "sluice quota list")
	if _, err := n.quotas().Delete(ctx, &api.DeleteQuotaRequest{Entity: user}); err != nil {
		t.Error(err)
	}
	_, err = n.quotas().Delete(ctx, &api.DeleteQuotaRequest{Entity: user})
	wants(t, err, codes.NotFound, "there is none")
}

func TestBindings(t *testing.T) {
	n := start(t, "bindings=[{filter: fixed/#, topic: fixed}]")
	ctx := t.Context()
	b, err := n.bindings().Add(ctx, &api.AddBindingRequest{Filter: "plant/+/temp", Topic: "temps", Partitions: 4})
	if err != nil || b.Key != "topic" || b.Deliver != "key" || b.Source != "catalog" {
		t.Fatalf("%v, %v", b, err)
	}
	if _, err := n.bindings().Add(ctx, &api.AddBindingRequest{Filter: "plant/#", Topic: "plants", Key: "client", Deliver: "off"}); err != nil {
		t.Error(err)
	}
	pub := n.mqtt("pump", 0, 5)
	if _, err := pub.Publish(&wire.PublishOut{Topic: []byte("plant/1/temp"), Payload: []byte("21.5"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	e, err := n.bindings().Explain(ctx, &api.ExplainBindingRequest{Topic: "plant/1/temp"})
	if err != nil || e.Binding.GetFilter() != "plant/+/temp" || e.Key != "plant/1/temp" || len(e.Others) != 1 {
		t.Fatalf("%v, %v", e, err)
	}
	k := n.kafka(kgo.ConsumeTopics("temps"))
	f := k.PollFetches(ctx)
	if r := f.Records(); f.Err() != nil || len(r) != 1 || string(r[0].Key) != e.Key || r[0].Partition != e.Partition {
		t.Errorf("%v, %v", r, f.Err())
	}
	if e, err := n.bindings().Explain(ctx, &api.ExplainBindingRequest{Topic: "plant/1", Client: "pump"}); err != nil || e.Binding.GetTopic() != "plants" || e.Key != "pump" {
		t.Errorf("%v, %v", e, err)
	}
	if e, err := n.bindings().Explain(ctx, &api.ExplainBindingRequest{Topic: "elsewhere"}); err != nil || e.Binding != nil {
		t.Errorf("%v, %v", e, err)
	}
	var order []string
	eachPage(t, func(token []byte) []byte {
		r, err := n.bindings().List(ctx, &api.ListBindingsRequest{PageSize: 1, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range r.Bindings {
			order = append(order, b.Filter+" "+b.Source)
		}
		return r.NextPageToken
	})
	if len(order) != 3 || order[0] != "plant/+/temp catalog" || !strings.Contains(strings.Join(order, ","), "fixed/# configuration") {
		t.Errorf("%v", order)
	}
	testBindingsRefused(t, n)
	_, err = n.topics().Delete(ctx, &api.DeleteTopicRequest{Name: "temps"})
	wants(t, err, codes.FailedPrecondition, "delete the binding first")
	_, err = n.topics().Alter(ctx, &api.AlterTopicRequest{Name: "temps", Partitions: 8})
	wants(t, err, codes.FailedPrecondition, "order of its keys")
	for _, filter := range []string{"plant/+/temp", "plant/#"} {
		if _, err := n.bindings().Delete(ctx, &api.DeleteBindingRequest{Filter: filter}); err != nil {
			t.Error(err)
		}
	}
	testx.Eventually(t, 10*time.Second, func() bool {
		_, err := n.topics().Delete(ctx, &api.DeleteTopicRequest{Name: "temps"})
		return err == nil
	}, "a topic that is bound no more can be deleted")
}

func testBindingsRefused(t *testing.T, n *node) {
	t.Helper()
	for _, tt := range []struct {
		r    *api.AddBindingRequest
		code codes.Code
		says string
	}{
		{&api.AddBindingRequest{Filter: "fixed/#", Topic: "other"}, codes.FailedPrecondition, "in the configuration"},
		{&api.AddBindingRequest{Filter: "", Topic: "t"}, codes.InvalidArgument, "no MQTT topic filter"},
		{&api.AddBindingRequest{Filter: "a/#/b", Topic: "t"}, codes.InvalidArgument, "no MQTT topic filter"},
		{&api.AddBindingRequest{Filter: "$SYS/#", Topic: "t"}, codes.InvalidArgument, "cannot be bound"},
		{&api.AddBindingRequest{Filter: "a", Topic: "a/b"}, codes.InvalidArgument, "1 to 249"},
		{&api.AddBindingRequest{Filter: "a", Topic: "t", Key: "level:0"}, codes.InvalidArgument, "from 1 on"},
		{&api.AddBindingRequest{Filter: "a", Topic: "t", Deliver: "x/+"}, codes.InvalidArgument, "deliver"},
		{&api.AddBindingRequest{Filter: "a", Topic: "temps", Partitions: 7}, codes.InvalidArgument, "with 4 partitions"},
		{&api.AddBindingRequest{Filter: "a", Topic: "t", Partitions: -1}, codes.InvalidArgument, "want 1 to"},
	} {
		_, err := n.bindings().Add(t.Context(), tt.r)
		wants(t, err, tt.code, tt.says)
	}
	_, err := n.bindings().Delete(t.Context(), &api.DeleteBindingRequest{Filter: "absent"})
	wants(t, err, codes.NotFound, "sluice binding list")
	_, err = n.bindings().Delete(t.Context(), &api.DeleteBindingRequest{Filter: "fixed/#"})
	wants(t, err, codes.FailedPrecondition, "in the configuration")
	_, err = n.bindings().Explain(t.Context(), &api.ExplainBindingRequest{Topic: "a/+"})
	wants(t, err, codes.InvalidArgument, "none of +")
	_, err = n.bindings().List(t.Context(), &api.ListBindingsRequest{PageToken: []byte("a/#/b")})
	wants(t, err, codes.InvalidArgument, "page_token")
}
