package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
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
	case errors.As(err, new(noResult)):
		return stdout.String() + err.Error(), 3
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
		{[]string{"version"}, 0, "dev"},
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
		{[]string{"passwd"}, 2, "USER is missing"},
		{[]string{"passwd", "a:b"}, 2, "holds a colon"},
		{[]string{"passwd", "--delete", "bob"}, 2, "want --file with --delete"},
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

// examine runs sluice doctor.
func examine(t *testing.T, args ...string) (list []finding, code int) {
	t.Helper()
	out, code := sluice(t, "", append([]string{"doctor", "--output", "json"}, args...)...)
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&list); err != nil {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	return list, code
}

func has(list []finding, check, status, found string) bool {
	return slices.ContainsFunc(list, func(f finding) bool {
		return f.Check == check && f.Status == status && strings.Contains(f.Found, found)
	})
}

func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ports := testx.Flags(testx.Listeners("mqtt.tcp", "mqtt.ws", "http", "grpc")...)
	list, code := examine(t, append(ports, "--data", filepath.Join(dir, "new"))...)
	if code != 0 {
		t.Errorf("code %d: %+v", code, list)
	}
	for _, check := range []string{"configuration", "port", "data directory"} {
		if !has(list, check, "ok", "") {
			t.Errorf("%s is not ok in %+v", check, list)
		}
	}
	if !slices.ContainsFunc(list, func(f finding) bool { return f.Check == "flush" && strings.Contains(f.Found, "p99") }) {
		t.Errorf("no flush in %+v", list)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("doctor left %v, %v", left, err)
	}
	plain := file(t, "plain", "")
	for _, tt := range []struct {
		args         []string
		check, found string
	}{
		{[]string{"--set", "listeners.mqtt.tcp=" + taken.Addr().String()}, "port", "(pid " + strconv.Itoa(os.Getpid()) + ")"},
		{[]string{"--set", "listeners.mqtt.tcp=192.0.2.1:1", "--set", "auth.anonymous=everywhere"}, "port", "192.0.2.1"},
		{[]string{"--data", plain}, "data directory", "is no directory"},
		{[]string{"--data", "/dev/null/x"}, "data directory", "not a directory"},
		{[]string{"--set", "node.idd=3"}, "configuration", "nearest known one is node.id"},
		{[]string{"--set", "auth.password_file=/nonexistent"}, "configuration", "nonexistent"},
		{[]string{"--set", "limits.memory=1000000GiB"}, "memory", "limits.memory is"},
	} {
		args := slices.Concat(ports, []string{"--set", "journal.durability=memory"}, tt.args)
		if tt.check == "data directory" {
			args = slices.Concat(ports, tt.args)
		}
		if list, code := examine(t, args...); code != 1 || !has(list, tt.check, "fail", tt.found) {
			t.Errorf("%v: code %d: %+v", tt.args, code, list)
		}
	}
	table, _ := sluice(t, "", append([]string{"doctor", "--set", "journal.durability=memory"}, ports...)...)
	if !strings.HasPrefix(table, "ok ") || strings.Contains(table, "\t") {
		t.Errorf("table is %s", table)
	}
}

func TestVersion(t *testing.T) {
	out, code := sluice(t, "", "version", "--output", "json")
	var b build
	if err := json.Unmarshal([]byte(out), &b); err != nil || code != 0 || b.Version != version || b.Go != runtime.Version() || b.JournalFormat != journalFormat {
		t.Errorf("code %d, %v: %s", code, err, out)
	}
	if out, code := sluice(t, "", "version", "-o", "yaml"); code != 0 || !strings.Contains(out, "journal_format: 1\n") {
		t.Errorf("code %d: %s", code, out)
	}
	whole := build{Version: "v1", Commit: "abc", CommitTime: "now", Modified: true}
	if got := fmt.Sprint(whole.rows()); !strings.Contains(got, "[commit abc, modified] [commit time now]") {
		t.Errorf("rows are %s", got)
	}
}

func TestMisuseNamesTheNearest(t *testing.T) {
	for line, want := range map[string]string{
		"strat":                           `did you mean "start"?`,
		"strat --config x":                `did you mean "start"?`,
		"chek-config":                     `did you mean "check-config"?`,
		"bench mqt":                       `unknown command "mqt" for "sluice bench"; did you mean "mqtt"?`,
		"completion bsh":                  `did you mean "bash"?`,
		"help strat":                      `did you mean "start"?`,
		"help bench mqt":                  `did you mean "mqtt"?`,
		"qwertyuiop":                      "sluice --help lists all",
		"start --cofnig x":                "unknown flag: --cofnig; see sluice start --help",
		"passwd --list":                   "want --file with --list",
		"passwd --list bob":               "too many arguments: bob",
		"version --output xml":            "want --output table, json or yaml",
		"doctor x":                        "too many arguments: x",
		"passwd a b --file x":             "too many arguments: b",
		"passwd --file x --list --delete": "do not go together",
	} {
		if out, code := sluice(t, "", strings.Fields(line)...); code != 2 || !strings.Contains(out, want) {
			t.Errorf("sluice %s: code %d: %s", line, code, out)
		}
	}
}

func TestPasswdList(t *testing.T) {
	path := file(t, "users", "# greenhouse\n")
	for _, user := range []string{"bob", "eve"} {
		if out, code := sluice(t, "secret", "passwd", "--file", path, user); code != 0 {
			t.Fatal(out)
		}
	}
	for format, want := range map[string]string{"table": "bob\neve\n", "json": "[\n  \"bob\",\n  \"eve\"\n]\n", "yaml": "- bob\n- eve\n"} {
		if out, code := sluice(t, "", "passwd", "--file", path, "--list", "-o", format); code != 0 || out != want {
			t.Errorf("%s: code %d: %q", format, code, out)
		}
	}
	if out, code := sluice(t, "", "passwd", "--file", file(t, "broken", "bob:x\n"), "--list"); code != 1 || !strings.Contains(out, "broken:1: user bob") {
		t.Errorf("code %d: %s", code, out)
	}
}

func TestCompletionOffersKeysAndFormats(t *testing.T) {
	for line, want := range map[string]string{
		"__complete start --set node.": "node.data=",
		"__complete doctor --output ":  "yaml",
		"__complete check":             "check-config",
		"__complete passwd --file x ":  ":4", // no files where a user is wanted
	} {
		args := strings.Split(line, " ")
		if out, code := sluice(t, "", args...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("sluice %s: code %d: %s", line, code, out)
		}
	}
}
