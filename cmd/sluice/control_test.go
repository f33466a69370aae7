package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/server"
)

// inProcess starts a node in this process, to which SLUICE_SERVER then leads, and gives its addresses.
func inProcess(t *testing.T, set ...string) map[string]string {
	t.Helper()
	base := append(testx.Listeners("mqtt.tcp", "kafka.tcp", "grpc"), "node.data="+t.TempDir(), "journal.segment_size=8MiB", "mqtt.sys_interval=0s")
	loaded, err := config.Load(config.LoadOptions{Set: append(base, set...)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(loaded.Config, server.Options{Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := s.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv(serverVariable, ready.Listeners["grpc"])
	return ready.Listeners
}

// says runs a command that must end with this code and say this.
func says(t *testing.T, code int, want string, args ...string) string {
	t.Helper()
	out, got := sluice(t, "", args...)
	if got != code || !strings.Contains(out, want) {
		t.Errorf("sluice %s: code %d, want %d; said %q, want %q", strings.Join(args, " "), got, code, out, want)
	}
	return out
}

func TestControlCommands(t *testing.T) {
	at := inProcess(t)
	says(t, 0, "orders", "topic", "create", "orders", "--partitions", "2")
	says(t, 0, "16", "topic", "create", "dry", "--partitions", "16", "--dry-run")
	says(t, 1, `create topic "orders": it exists`, "topic", "create", "orders")
	says(t, 2, "letters, digits", "topic", "create", "a b")
	says(t, 2, "TOPIC is missing", "topic", "create")
	says(t, 2, `--set "x" is not KEY=VALUE`, "topic", "create", "x", "--set", "x")
	says(t, 2, "want at least 1", "topic", "create", "x", "--partitions", "0")
	says(t, 2, "nothing is to be changed", "topic", "alter", "orders")
	says(t, 2, "in --set and in --reset", "topic", "alter", "orders", "--set", "a=b", "--reset", "a")
	says(t, 1, `there is none; sluice topic list`, "topic", "describe", "absent")
	says(t, 2, "want --output table, json or yaml", "topic", "list", "--output", "xml")
	says(t, 2, "TOPIC is missing", "topic", "delete")
	says(t, 2, "give --to", "group", "reset-offsets", "g")
	says(t, 2, "is none of earliest", "group", "reset-offsets", "g", "--to", "noon")
	says(t, 2, "found partition", "group", "reset-offsets", "g", "--to", "latest", "--topic", "orders:x")
	says(t, 1, "there is no topic", "group", "reset-offsets", "g", "--to", "latest", "--topic", "absent")
	says(t, 0, "orders", "group", "reset-offsets", "g", "--to", "90m", "--topic", "orders")
	says(t, 0, "Empty", "group", "list")
	says(t, 0, "type: classic", "group", "describe", "g", "-o", "yaml")
	var topic struct {
		Name       string
		Partitions int
		List       []struct{ Partition int } `json:"partition_list"`
	}
	if err := json.Unmarshal([]byte(says(t, 0, "", "topic", "describe", "orders", "-o", "json")), &topic); err != nil || topic.Partitions != 2 || len(topic.List) != 2 {
		t.Errorf("%+v, %v", topic, err)
	}
	if out := says(t, 0, "orders", "topic", "list"); strings.Contains(out, "__") {
		t.Errorf("the node's own topics are listed: %s", out)
	}
	says(t, 0, "deleted group g", "group", "delete", "g")
	says(t, 0, "deleted topic orders", "topic", "delete", "orders")
	for _, o := range []string{"json", "yaml"} {
		if out := says(t, 0, "", "topic", "list", "-o", o); out != "[]\n" {
			t.Errorf("%s of nothing is %q", o, out)
		}
	}
	says(t, 1, "is a node running there (sluice start)", "topic", "list", "--server", "127.0.0.1:1")
	says(t, 1, "is a node running there", "topic", "list", "--server", at["kafka.tcp"], "--timeout", "5s")
	says(t, 2, "want HOST:PORT", "topic", "list", "--server", "nonsense")
	says(t, 2, "want --server grpcs://", "topic", "list", "--ca", "x")
	says(t, 1, "is a node running there", "topic", "list", "--server", "grpcs://"+at["grpc"])
}

// Pages are one listing, in every form.
func TestListingsOfManyPages(t *testing.T) {
	at := inProcess(t)
	k, err := kgo.NewClient(kgo.SeedBrokers(at["kafka.tcp"]))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var names []string
	for i := range 1203 {
		names = append(names, "t"+strconv.Itoa(10_000+i))
	}
	if _, err := kadm.NewClient(k).CreateTopics(t.Context(), 1, 1, nil, names...); err != nil {
		t.Fatal(err)
	}
	var rows []topicRow
	if err := json.Unmarshal([]byte(says(t, 0, "", "topic", "list", "-o", "json")), &rows); err != nil || len(rows) != len(names) || rows[1202].Name != names[1202] {
		t.Errorf("%d topics, %v", len(rows), err)
	}
	if out := says(t, 0, "", "topic", "list", "-o", "yaml"); strings.Count(out, "- name: t") != len(names) {
		t.Errorf("%d topics in YAML", strings.Count(out, "- name: t"))
	}
	if out := says(t, 0, "", "topic", "list"); strings.Count(out, "\n") != len(names)+1 {
		t.Errorf("%d lines in the table", strings.Count(out, "\n"))
	}
	if out := says(t, 0, "", "topic", "list", "--limit", "700"); strings.Count(out, "\n") != 701 {
		t.Errorf("%d lines of 700 topics", strings.Count(out, "\n"))
	}
}

func TestAccessCommands(t *testing.T) {
	inProcess(t)
	add := func(stdin string, code int, want string, args ...string) {
		t.Helper()
		if out, got := sluice(t, stdin, args...); got != code || !strings.Contains(out, want) {
			t.Errorf("sluice %s: code %d, want %d; said %q, want %q", strings.Join(args, " "), got, code, out, want)
		}
	}
	add("secret\n", 0, "SCRAM-SHA-512", "user", "add", "u")
	add("secret\n", 1, "it exists; sluice user passwd", "user", "add", "u")
	add("", 1, "no password on standard input", "user", "add", "v")
	add("other\n", 0, "enabled", "user", "passwd", "u")
	says(t, 0, "disabled", "user", "disable", "u")
	says(t, 0, "\"disabled\": true", "user", "list", "-o", "json")
	says(t, 0, "enabled", "user", "enable", "u")
	says(t, 1, "there is none; sluice user list", "user", "delete", "absent")
	says(t, 2, "give --user", "acl", "add")
	says(t, 2, "give --operation", "acl", "add", "--user", "u")
	says(t, 2, "give --topic", "acl", "add", "--user", "u", "--operation", "read")
	says(t, 2, "no operation", "acl", "add", "--user", "u", "--operation", "eat", "--topic", "t")
	says(t, 0, "added 2 rules", "acl", "add", "--user", "u", "--operation", "read,write", "--topic", "t", "--prefix")
	says(t, 0, "added 0 rules; 1 there already", "acl", "add", "--user", "u", "--operation", "read", "--topic", "t", "--prefix")
	says(t, 0, "added 1 rule", "acl", "add", "--user", "u", "--operation", "write", "--topic", "tt", "--deny")
	says(t, 0, "allowed: a rule", "acl", "check", "--user", "u", "--operation", "read", "--topic", "tx")
	says(t, 1, "denied: a rule", "acl", "check", "--user", "u", "--operation", "write", "--topic", "tt")
	says(t, 1, "allowed: false", "acl", "check", "--user", "u", "--operation", "write", "--topic", "tt", "-o", "yaml")
	says(t, 2, "give one of --topic", "acl", "check", "--user", "u", "--operation", "read")
	says(t, 2, "give --operation", "acl", "check", "--user", "u", "--topic", "t")
	says(t, 0, "prefixed", "acl", "list", "--about", "--topic", "tt")
	says(t, 2, "--about needs", "acl", "list", "--about")
	says(t, 2, "deleted by --all", "acl", "delete")
	says(t, 0, "would delete 3 rules", "acl", "delete", "--user", "u", "--dry-run")
	says(t, 0, "deleted 3 rules", "acl", "delete", "--all")
	says(t, 2, "give --user, --client-id or --address", "quota", "set", "--produce", "1")
	says(t, 2, "give a bound", "quota", "set", "--user", "u")
	says(t, 2, "want a size such as", "quota", "set", "--user", "u", "--produce", "much")
	says(t, 2, "want a number", "quota", "set", "--user", "u", "--request", "much")
	says(t, 2, "--address stands alone", "quota", "set", "--user", "u", "--address", "10.0.0.1", "--connections", "1")
	says(t, 0, "producer_byte_rate=1048576 request_percentage=50", "quota", "set", "--user", "<default>", "--produce", "1MiB", "--request", "50")
	says(t, 0, `"user": "<default>"`, "quota", "list", "-o", "json")
	says(t, 0, "deleted", "quota", "delete", "--user", "<default>")
	says(t, 1, "sluice quota list", "quota", "delete", "--user", "<default>", "--produce")
	says(t, 2, "one of them", "ban", "add", "--for", "1h")
	says(t, 2, "one of them", "ban", "add", "--user", "u", "--client-id", "c")
	says(t, 2, "not both", "ban", "add", "--user", "u", "--for", "1h", "--until", "2100-01-01T00:00:00Z")
	says(t, 2, "a time to come", "ban", "add", "--user", "u", "--until", "2001-01-01T00:00:00Z")
	says(t, 2, "above 0", "ban", "add", "--user", "u", "--for", "-1h")
	says(t, 2, "want an address or a prefix", "ban", "add", "--address", "here")
	says(t, 0, "203.0.113.0/24", "ban", "add", "--address", "203.0.113.9/24", "--until", "2100-01-01T00:00:00Z", "--reason", "a scanner")
	says(t, 0, "for ever", "ban", "add", "--client-id", "mallory")
	says(t, 0, `"until": "2100-01-01T00:00:00Z"`, "ban", "list", "-o", "json")
	says(t, 0, "removed", "ban", "remove", "--client-id", "mallory")
	says(t, 1, "sluice ban list", "ban", "remove", "--client-id", "mallory")
	says(t, 2, "give --topic", "binding", "add", "a/#")
	says(t, 0, "level:2", "binding", "add", "a/#", "--topic", "a", "--key", "level:2", "--deliver", "off")
	says(t, 0, "a/#", "__complete", "binding", "delete", "")
	says(t, 0, "partition: 0", "binding", "explain", "--topic", "a/b", "-o", "yaml")
	says(t, 0, "no: only subscribers", "binding", "explain", "--topic", "b")
	says(t, 0, "deleted binding a/#", "binding", "delete", "a/#")
	says(t, 1, "no binding has this filter", "binding", "delete", "a/#")
	says(t, 0, "u\n", "__complete", "user", "delete", "")
	says(t, 0, "deleted user u", "user", "delete", "u")
}

func TestControlToken(t *testing.T) {
	inProcess(t, "auth.control_token=a-token")
	path := file(t, "token", "a-token\n")
	says(t, 1, "none was shown: give it by --token", "topic", "list")
	says(t, 1, "the token is not one of", "topic", "list", "--token", "other")
	says(t, 0, "NAME", "topic", "list", "--token", "a-token")
	says(t, 0, "NAME", "topic", "list", "--token", "file:"+path)
	says(t, 1, "read the token", "topic", "list", "--token", "file:"+path+".absent")
	says(t, 2, "SLUICE_ABSENT is not set", "topic", "list", "--token", "env:SLUICE_ABSENT")
	t.Setenv("MY_TOKEN", "a-token")
	says(t, 0, "NAME", "topic", "list", "--token", "env:MY_TOKEN")
	t.Setenv(tokenVariable, "file:"+path)
	says(t, 0, "NAME", "topic", "list")
}

func TestControlCompletion(t *testing.T) {
	inProcess(t)
	says(t, 0, "", "topic", "create", "orders")
	says(t, 0, "orders\n", "__complete", "topic", "describe", "or")
	says(t, 0, "orders\n", "__complete", "group", "reset-offsets", "g", "--topic", "")
	says(t, 0, "earliest\n", "__complete", "group", "reset-offsets", "g", "--to", "")
	t.Setenv(serverVariable, "127.0.0.1:1") // nobody is there: nothing is offered, and nothing fails
	says(t, 0, ":4\n", "__complete", "topic", "describe", "or")
}

func TestTextsOfTables(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 1 << 20: "1.0MiB", 999 << 20: "999MiB", 1023 << 20: "1.0GiB", 5 << 40: "5.0TiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 1500 * time.Microsecond: "2ms", 3 * time.Second: "3.0s", 61 * time.Second: "1m01s",
		25 * time.Hour: "25h00m", 49 * time.Hour: "2d01h"} {
		if got := age(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
	for want, list := range map[string][]int32{"": nil, "0": {0}, "0-3": {0, 1, 2, 3}, "0-1,5,7-8": {0, 1, 5, 7, 8}} {
		if got := ranges(list); got != want {
			t.Errorf("%v is %s, want %s", list, got, want)
		}
	}
	if got := plain("a\tb\x1b[2J\u009b"); got != "a\uFFFDb\uFFFD[2J\uFFFD" {
		t.Errorf("%q", got)
	}
}

// controlPage is the page whose commands are run.
const controlPage = "../../docs/operate/control.md"

// varies is what another run of the same commands says otherwise.
var varies = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:]{8}Z|\d+m\d\ds|\b\d+ms\b|\d+\.\ds\b|127\.0\.0\.1:\d{4,5}|\b(pump|connection) +\d+|\b\d+(\.\d)?[KM]?i?B\b`)

// TestControlPageUpToDate runs the commands of the page and compares what they say.
func TestControlPageUpToDate(t *testing.T) {
	at := inProcess(t, "cluster.shards=1", "engine.loops=1", "listeners.kafka.tcp=127.0.0.1:0")
	pageUpToDate(t, filepath.FromSlash(controlPage), func(command string) { prepare(t, command, at) })
}

// pageUpToDate runs the commands of a page, prepare before each, and compares what they say.
func pageUpToDate(t *testing.T, path string, prepare func(command string)) {
	t.Helper()
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	inBlock := false
	w := io.Writer(&page)
	for line := range strings.Lines(string(have)) {
		command, isCommand := strings.CutPrefix(line, "$ sluice ")
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = false
		case isCommand:
			inBlock = true
			prepare(strings.TrimSpace(command))
			_, _ = io.WriteString(w, line)
			typed(t, w, strings.Fields(strings.ReplaceAll(command, "'", ""))...)
			continue
		case inBlock:
			continue
		}
		_, _ = io.WriteString(w, line)
	}
	if masked(page.String()) == masked(string(have)) {
		return
	}
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not what the commands say: run make generate. They say:\n%s", path, page.String())
}

// typed runs a command and prints all that a user sees of it.
func typed(t *testing.T, w io.Writer, args ...string) {
	t.Helper()
	root := newRoot()
	root.SetOut(w)
	root.SetErr(w)
	root.SetIn(strings.NewReader("a password\n"))
	root.SetArgs(args)
	var quiet silent
	if err := root.ExecuteContext(t.Context()); err != nil && !errors.As(err, &quiet) {
		fmt.Fprintln(w, "sluice:", err)
	}
}

// masked is a page without what another run says otherwise: times, ports, ids, and in which order subscriptions come, which is that of their filters' numbers,
// and those are used again when they are free.
func masked(s string) string {
	s = regexp.MustCompile(` {2,}`).ReplaceAllString(varies.ReplaceAllString(s, "~"), "  ")
	return unordered.ReplaceAllStringFunc(s, func(rows string) string {
		list := strings.Split(rows, "\n")
		slices.Sort(list)
		return strings.Join(list, "\n")
	})
}

// unordered are rows that come in no order.
var unordered = regexp.MustCompile(`(?m)^\$ sluice subscription .*\n(CLIENT|FILTER) .*\n([^$` + "`" + `].*\n)+`)

// prepare brings about what the command that comes next shows.
func prepare(t *testing.T, command string, at map[string]string) {
	t.Helper()
	switch strings.TrimSpace(command) {
	case "topic list":
		prepareRecords(t, at)
	case "group describe '$share/workers/jobs/#'":
		prepareShared(t, at)
	case "client list --protocol mqtt":
		pump := mqttSession(t, at, "pump")
		if _, err := pump.Publish(&wire.PublishOut{Topic: []byte("log"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	case "session list":
		prepareSession(t, at)
	case "subscription find --topic plant/1/temp":
		mqttSession(t, at, "pump")
	}
}

// prepareShared has messages wait for a shared subscription.
func prepareShared(t *testing.T, at map[string]string) {
	t.Helper()
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"], Connect: wire.Connect{ClientID: []byte("worker"), SessionExpiry: 3600}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("$share/workers/jobs/#"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, 10*time.Second, func() bool {
		out, _ := sluice(t, "", "session", "list", "--absent")
		return strings.Contains(out, "worker")
	}, "the session is kept")
	p, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"]})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.Publish(&wire.PublishOut{Topic: []byte("jobs/1"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

// mqttSession connects a client whose session is kept.
func mqttSession(t *testing.T, at map[string]string, id string) *mqttclient.Client {
	t.Helper()
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"], Connect: wire.Connect{ClientID: []byte(id), SessionExpiry: 3600}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte("plant/+/temp"), QoS: 1}, wire.FilterRequest{Filter: []byte("$share/all/plant/#"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	return c
}

// prepareSession leaves one session with messages, alone.
func prepareSession(t *testing.T, at map[string]string) {
	t.Helper()
	says(t, 0, "deleted", "session", "delete", "pump", "worker")
	valve := mqttSession(t, at, "valve")
	if err := valve.Disconnect(); err != nil {
		t.Fatal(err)
	}
	testx.Eventually(t, 10*time.Second, func() bool {
		out, _ := sluice(t, "", "session", "list")
		return strings.Contains(out, "absent")
	}, "the session is kept")
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: at["mqtt.tcp"]})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.Publish(&wire.PublishOut{Topic: []byte("plant/1/temp"), Payload: []byte("21.5"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Disconnect(); err != nil {
		t.Fatal(err)
	}
}

// prepareRecords has something in the topics, and a group that has not read all of it.
func prepareRecords(t *testing.T, at map[string]string) {
	t.Helper()
	k, err := kgo.NewClient(kgo.SeedBrokers(at["kafka.tcp"]), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	for i := range 7 {
		r := &kgo.Record{Topic: "orders", Partition: int32(i % 3), Value: []byte("an order"), Timestamp: time.Now().Add(-5 * time.Minute)}
		if err := k.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var offsets kadm.Offsets
	offsets.AddOffset("orders", 0, 1, -1)
	offsets.AddOffset("orders", 1, 2, -1)
	offsets.AddOffset("orders", 2, 0, -1)
	if err := kadm.NewClient(k).CommitAllOffsets(t.Context(), "billing", offsets); err != nil {
		t.Fatal(err)
	}
}
