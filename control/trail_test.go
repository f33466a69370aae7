package control_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/control/api"
)

type trailRecord struct {
	Time, Event, ID, Principal, Role, By, Remote, Method, Subject, Code, Error string
	Node                                                                       int
	Request, Before, After                                                     map[string]any
	Changes                                                                    []string
	Took                                                                       *float64 `json:"took_ms"`
}

// trail reads an audit trail; it is whole once its writer has answered, or was closed.
func trail(t *testing.T, path string) (list []trailRecord) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var r trailRecord
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, r)
	}
	return list
}

// auditedCalls makes calls that leave a trace, and one that leaves none.
func auditedCalls(t *testing.T, n *node, hash string) {
	t.Helper()
	ctx := withToken(t.Context(), "the-token-of-all")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	users := api.NewUsersClient(n.conn)
	_, err := n.topics().Create(ctx, &api.CreateTopicRequest{Name: "orders", Partitions: 2, Settings: map[string]string{"retention.ms": "1000"}})
	must(err)
	_, err = n.topics().Alter(ctx, &api.AlterTopicRequest{Name: "orders", Set: map[string]string{"retention.ms": "2000"}})
	must(err)
	_, err = n.topics().List(ctx, &api.ListTopicsRequest{})
	must(err)
	_, err = users.Add(ctx, &api.AddUserRequest{Name: "bob", Credentials: &api.Credentials{Password: hash}})
	must(err)
	_, err = users.SetDisabled(ctx, &api.SetDisabledRequest{Name: "bob", Disabled: true})
	must(err)
	_, err = n.topics().Delete(withToken(t.Context(), "the-token-of-the-viewer"), &api.DeleteTopicRequest{Name: "orders"})
	wants(t, err, codes.PermissionDenied, "needs the role operator")
	_, err = n.topics().Delete(withToken(t.Context(), "not-a-token"), &api.DeleteTopicRequest{Name: "a-strangers-text"})
	wants(t, err, codes.Unauthenticated, "")
	_, err = n.topics().Delete(ctx, &api.DeleteTopicRequest{Name: "absent"})
	wants(t, err, codes.NotFound, "")
	backup, err := api.NewBackupsClient(n.conn).Delete(ctx, &api.DeleteBackupRequest{Id: "some-backup"})
	must(err)
	_, err = backup.Recv()
	wants(t, err, codes.FailedPrecondition, "")
	_, err = n.topics().Create(ctx, &api.CreateTopicRequest{Name: "last"}) // all before it is on the disk then
	must(err)
}

// Each change is there twice, before and after it was made, with who, from where, what, what was before and what is after; what was refused is there
// once, what reads not at all, and no secret anywhere.
func TestAuditTrail(t *testing.T) {
	const secret = "$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
	dir := t.TempDir()
	path, token := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("the-token-of-the-viewer"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, "auth.control_token=the-token-of-all", "control.audit="+path, "control.audit_required=true",
		"control.principals=[{name: eve, role: viewer, token: 'file:"+token+"'}]")
	auditedCalls(t, n, secret)

	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secret, "aGFzaGhhc2", "the-token-of", "not-a-token", "a-strangers-text"} {
		if strings.Contains(string(b), s) || s != "a-strangers-text" && strings.Contains(n.log.String(), s) {
			t.Errorf("%s is in the trail or in the log", s)
		}
	}
	list := trail(t, path)
	events := make([]string, len(list))
	for i, r := range list {
		events[i] = r.Event + " " + r.Method + " " + r.Subject + " " + r.Principal + "/" + r.Role + " " + r.Code
		if r.Event == "done" && (list[i-1].Event != "asked" && list[i-1].Event != "refused" || r.By != "token" || r.Took == nil) || !strings.HasPrefix(r.Remote, "127.0.0.1:") || r.Node != 1 || r.Time == "" {
			t.Errorf("record %d is %+v", i, r)
		}
	}
	want := []string{
		"asked Topics.Create orders control_token/admin ", "done Topics.Create orders control_token/admin OK",
		"asked Topics.Alter orders control_token/admin ", "done Topics.Alter orders control_token/admin OK",
		"asked Users.Add bob control_token/admin ", "done Users.Add bob control_token/admin OK",
		"asked Users.SetDisabled bob control_token/admin ", "done Users.SetDisabled bob control_token/admin OK",
		"refused Topics.Delete orders eve/viewer PermissionDenied", "refused Topics.Delete  /none Unauthenticated",
		"asked Topics.Delete absent control_token/admin ", "done Topics.Delete absent control_token/admin NotFound",
		"asked Backups.Delete some-backup control_token/admin ", "done Backups.Delete some-backup control_token/admin FailedPrecondition",
		"asked Topics.Create last control_token/admin ", "done Topics.Create last control_token/admin OK",
	}
	if strings.Join(events, "\n") != strings.Join(want, "\n") {
		t.Fatalf("the trail is\n%s\nwant\n%s", strings.Join(events, "\n"), strings.Join(want, "\n"))
	}
	if list[2].ID != list[3].ID || list[2].ID == list[4].ID {
		t.Errorf("asked and done are %s and %s", list[2].ID, list[3].ID)
	}
	setting := func(m map[string]any) any { s, _ := m["settings"].(map[string]any); return s["retention.ms"] }
	if alter := list[3]; setting(alter.Before) != "1000" || setting(alter.After) != "2000" || alter.Request["name"] != "orders" {
		t.Errorf("before and after of a change: %+v", alter)
	}
	if c := list[5].Request["credentials"]; c.(map[string]any)["password"] != "(not recorded)" {
		t.Errorf("a password is recorded as %v", c)
	}
	if d := list[7]; d.Before["disabled"] != nil || d.After["disabled"] != true {
		t.Errorf("a user was %v and is %v", d.Before, d.After)
	}
	if list[11].Error == "" || list[8].Request["name"] != "orders" {
		t.Errorf("%+v, %+v", list[11], list[8])
	}
}

// Where changes have to be written down and cannot be, they are not made, and can be made again once the file takes them; where they need not be,
// they are made. A reload is a change too.
func TestAuditRequired(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/dev/full is Linux's")
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	n := start(t, "control.audit="+path, "control.audit_required=true")
	create := func(name string) error {
		_, err := n.topics().Create(t.Context(), &api.CreateTopicRequest{Name: name})
		return err
	}
	reload := func(set ...string) error {
		t.Helper()
		loaded, err := config.Load(config.LoadOptions{Set: append(append([]string{}, n.set...), set...)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.s.Reload(loaded.Config)
		return err
	}
	wants(t, create("a"), codes.OK, "")
	if err := reload("control.audit=" + path + "/absent"); err == nil || !strings.Contains(err.Error(), "control.audit") {
		t.Errorf("a trail that cannot be opened is taken: %v", err)
	}
	if err := reload("control.audit=/dev/full"); err != nil { // it opens
		t.Fatal(err)
	}
	wants(t, create("b"), codes.Unavailable, "Topics.Create: nothing is changed, since the change cannot be written to the audit trail")
	_, err := n.topics().Describe(t.Context(), &api.DescribeTopicRequest{Name: "b"})
	wants(t, err, codes.NotFound, "")
	if err := reload("control.audit=/dev/full", "control.audit_required=false"); err != nil {
		t.Fatal(err)
	}
	wants(t, create("b"), codes.OK, "")
	if err := reload(); err != nil {
		t.Fatal(err)
	}
	wants(t, create("c"), codes.OK, "")
	if !strings.Contains(n.log.String(), "records of the audit trail are lost") {
		t.Errorf("nothing says that records are lost: %s", n.log.String())
	}
	list := trail(t, path)
	var events []string
	for _, r := range list {
		events = append(events, r.Event+" "+r.Method+" "+r.Subject)
	}
	want := []string{"asked Topics.Create a", "done Topics.Create a", "reloaded Configuration.Reload ", "asked Topics.Create c", "done Topics.Create c"}
	if strings.Join(events, "\n") != strings.Join(want, "\n") || len(list[2].Changes) != 1 || !strings.Contains(list[2].Changes[0], "control.audit: /dev/full") {
		t.Errorf("%+v", list)
	}
}
