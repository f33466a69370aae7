package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sluice runs the command line as main does and gives what it prints and its exit code.
func sluice(t *testing.T, stdin string, args ...string) (out string, code int) {
	t.Helper()
	root := newRoot()
	var stdout bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stdout)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	var m misuse
	switch {
	case err == nil:
		return stdout.String(), 0
	case errors.As(err, &m):
		return stdout.String() + err.Error(), 2
	default:
		return stdout.String() + err.Error(), 1
	}
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExitCodes(t *testing.T) {
	good, bad := file(t, "good.yaml", "node: {id: 7}\n"), file(t, "bad.yaml", "node: {idd: 7}\n")
	acl := file(t, "acl.yaml", "auth: {acl_file: "+file(t, "acl", "allow nothing\n")+"}\n")
	for _, tt := range []struct {
		args []string
		want int
		says string
	}{
		{[]string{"version"}, 0, "sluice dev"},
		{[]string{"check-config", "--config", good}, 0, "ok"},
		{[]string{"check-config", "--config", bad}, 1, "bad.yaml:1:8: node.idd: unknown key; the nearest known one is node.id"},
		{[]string{"check-config", "--config", acl}, 1, "acl:1:7: want publish, subscribe or all"},
		{[]string{"check-config", "--config", "absent.yaml"}, 1, "absent.yaml"},
		{[]string{"check-config"}, 2, "want --config FILE"},
		{[]string{"check-config", "x"}, 2, "too many arguments: x"},
		{[]string{"strat"}, 2, `unknown command "strat"`},
		{[]string{"start", "x"}, 2, "too many arguments: x"},
		{[]string{"start", "--no-such-flag"}, 2, "no-such-flag"},
		{[]string{"start", "--set", "node.idd=1"}, 1, "nearest known one is node.id"},
		{[]string{"start", "--print-config", "--set", "node.id=9"}, 0, "# --set node.id"},
		{[]string{"doctor", "--output", "xml"}, 2, "want --output table, json or yaml"},
		{[]string{"passwd"}, 2, "want one USER"},
		{[]string{"passwd", "a:b"}, 2, "holds a colon"},
		{[]string{"passwd", "--delete", "bob"}, 2, "want --file with --delete"},
		{[]string{"completion", "bash"}, 0, "sluice"},
		{[]string{"completion", "zsh"}, 0, "compdef"},
		{[]string{"completion", "fish"}, 0, "complete -c sluice"},
		{[]string{}, 0, "check-config"},
	} {
		out, code := sluice(t, "", tt.args...)
		if code != tt.want || !strings.Contains(out, tt.says) {
			t.Errorf("sluice %s: code %d, want %d; said %q, want %q", strings.Join(tt.args, " "), code, tt.want, out, tt.says)
		}
	}
}

func TestPasswd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	if out, code := sluice(t, "secret\n", "passwd", "--file", path, "bob"); code != 0 || !strings.Contains(out, "added to") {
		t.Fatalf("code %d: %s", code, out)
	}
	if out, code := sluice(t, "other\r\n", "passwd", "--file", path, "bob"); code != 0 || !strings.Contains(out, "changed in") {
		t.Fatalf("code %d: %s", code, out)
	}
	data, err := os.ReadFile(path)
	if err != nil || bytes.Count(data, []byte("bob:$argon2id$v=19$")) != 1 || bytes.Contains(data, []byte("other")) {
		t.Fatalf("file is %q, %v", data, err)
	}
	if out, code := sluice(t, "", "passwd", "--file", path, "eve"); code != 1 || !strings.Contains(out, "no password") {
		t.Errorf("without a password: code %d, %s", code, out)
	}
	if out, code := sluice(t, "x\n", "passwd", "eve"); code != 0 || !strings.HasPrefix(out, "eve:$argon2id$") {
		t.Errorf("without a file: code %d, %s", code, out)
	}
	if _, code := sluice(t, "", "passwd", "--file", path, "--delete", "bob"); code != 0 {
		t.Errorf("delete: code %d", code)
	}
	if _, code := sluice(t, "", "passwd", "--file", path, "--delete", "bob"); code != 1 {
		t.Errorf("delete of one who is gone: code %d", code)
	}
}

func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // the test ends
	out, code := sluice(t, "", "doctor", "--data", filepath.Join(dir, "new"), "--output", "json", "--set",
		"listeners.mqtt.tcp="+taken.Addr().String(), "--set", "listeners.mqtt.ws=127.0.0.1:0", "--set", "listeners.http=127.0.0.1:0")
	var list []finding
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	got := map[string]string{}
	for _, f := range list {
		got[f.Check+" "+f.Status] = f.Found
	}
	for _, want := range []string{"configuration ok", "port warn", "port ok", "data directory ok"} {
		if got[want] == "" {
			t.Errorf("no finding %q in %s", want, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("doctor left %v, %v", left, err)
	}
	if out, code := sluice(t, "", "doctor", "--data", file(t, "plain", ""), "--set", "listeners.mqtt.tcp=127.0.0.1:0"); code != 1 ||
		!strings.Contains(out, "is no directory") {
		t.Errorf("data directory is a file: code %d, %s", code, out)
	}
}
