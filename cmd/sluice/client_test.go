package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/bench/brokertest"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// do runs a client command under a root as main has it.
func do(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	root := &cobra.Command{Use: "sluice", SilenceErrors: true, SilenceUsage: true}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return misuse{err} })
	root.AddCommand(newPubCommand(), newSubCommand(), newBenchCommand())
	var out, progress bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&progress)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

func watcher(t *testing.T, b *brokertest.Broker, filter string) *mqttclient.Client {
	t.Helper()
	c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: b.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Subscribe(wire.FilterRequest{Filter: []byte(filter), QoS: 2}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPub(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	c := watcher(t, b, "#")
	file := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		stdin string
		args  []string
		want  []string // topic, payload and QoS of each message
	}{
		{"", []string{"-t", "a/b", "-m", "hello"}, []string{"a/b hello 0"}},
		{"", []string{"-t", "a", "-m", "twice", "-q", "1", "--repeat", "2"}, []string{"a twice 1", "a twice 1"}},
		{"", []string{"-t", "a", "-f", file, "-q", "2", "--mqtt-version", "4"}, []string{"a from a file\n 2"}},
		{"one\n\nthree", []string{"-t", "a", "-l"}, []string{"a one 0", "a  0", "a three 0"}},
		{"all\nof it", []string{"-t", "a", "-f", "-"}, []string{"a all\nof it 0"}},
		{"", []string{"-t", "a", "-n"}, []string{"a  0"}},
		{"", []string{"-t", "a", "-m", "", "--mqtt-version", "3"}, []string{"a  0"}},
	} {
		if _, err := do(t, tc.stdin, append([]string{"pub", "--mqtt", b.URL()}, tc.args...)...); err != nil {
			t.Fatalf("%v: %v", tc.args, err)
		}
		for _, want := range tc.want {
			m, err := c.Receive(time.Second)
			if err != nil {
				t.Fatalf("%v: %v", tc.args, err)
			}
			if got := formatMessage("%t %p %q", &m, time.Time{}); got != want {
				t.Errorf("%v: got %q, want %q", tc.args, got, want)
			}
		}
	}
}

func TestPubProperties(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	c := watcher(t, b, "p")
	_, err := do(t, "", "pub", "--mqtt", b.URL(), "-t", "p", "-m", "x", "-P", "k=v=w", "-P", "k=2", "--content-type", "text/plain",
		"--response-topic", "back", "--correlation", "\x01\x02")
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Receive(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := formatMessage(`%C|%R|%D|%P|%x|%l|%r|%%|%z\t\q`, &m, time.Time{}); got != "text/plain|back|0102|k=v=w k=2|78|1|0|%|%z\t\\q" {
		t.Errorf("got %q", got)
	}
}

func TestSub(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	for _, m := range []string{"one", "two"} {
		if _, err := do(t, "", "pub", "--mqtt", b.URL(), "-t", "r/"+m, "-m", m, "-r"); err != nil {
			t.Fatal(err)
		}
	}
	out, err := do(t, "", "sub", "--mqtt", b.URL(), "-t", "r/one", "-t", "r/two", "-v", "--count", "2", "-q", "1")
	if err != nil || out != "r/one one\nr/two two\n" {
		t.Errorf("got %q, %v", out, err)
	}
	out, err = do(t, "", "sub", "--mqtt", b.URL(), "-t", "r/#", "--count", "3", "--timeout", "50ms", "--format", `%r.`)
	if err == nil || !strings.Contains(err.Error(), "2 of 3") || out != "1.1." {
		t.Errorf("too few: %q, %v", out, err)
	}
	if out, err = do(t, "", "sub", "--mqtt", b.URL(), "-t", "none", "--timeout", "20ms"); err != nil || out != "" {
		t.Errorf("nothing to come: %q, %v", out, err)
	}
}

func TestSubTakesUpItsSession(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	sub := func(args ...string) (string, error) {
		return do(t, "", append([]string{"sub", "--mqtt", b.URL(), "-t", "s", "-q", "1", "--id", "me", "--keep-session"}, args...)...)
	}
	if _, err := sub("--timeout", "10ms"); err != nil {
		t.Fatal(err)
	}
	if _, err := do(t, "", "pub", "--mqtt", b.URL(), "-t", "s", "-m", "kept", "-q", "1"); err != nil {
		t.Fatal(err)
	}
	if out, err := sub("--count", "1", "--timeout", "5s"); err != nil || out != "kept\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestSubOverTLSWebSocketUntilInterrupted(t *testing.T) {
	cert := testx.TempCert(t)
	b := brokertest.Start(t, brokertest.Options{TLS: cert.ServerConfig(), WebSocket: true})
	c := newSubCommand()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs([]string{"--mqtt", b.URL(), "--ca", cert.CAFile, "-t", "x", "--keep-alive", "1s"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.ExecuteContext(ctx) }()
	testx.Eventually(t, 5*time.Second, func() bool { return b.Sessions() == 1 })
	cancel()
	if err := testx.Receive(t, done, 5*time.Second); err != nil {
		t.Errorf("an interrupt is no failure: %v", err)
	}
	testx.Eventually(t, 5*time.Second, func() bool { return b.Sessions() == 0 }, "no DISCONNECT was sent")
}

func TestClientMisuse(t *testing.T) {
	for _, args := range []string{
		"pub -m x", "pub -t a/# -m x", "pub -t a", "pub -t a -m x -n", "pub -t a -m x -q 3", "pub -t a -m x --repeat 0",
		"pub -t a -m x --mqtt http://x", "pub -t a -m x --mqtt-version 6", "pub -t a -m x --mqtt-version 4 -P a=b", "pub -t a -m x -P ab",
		"pub -t a -m x --will-message w", "pub -t a -m x one two", "pub -t a -m x --nonsense", "pub -t a -m x --cert c", "pub -t a -m x --mqtt one two",
		"sub", "sub -t a/#/b", "sub -t a -q 7", "sub -t a --keep-session", "sub -t a --mqtt-version 4 --no-local", "sub -t a --format x -v",
		"sub -t $share/g", "bench mqtt nonsense", "bench mqtt pairs --qos 5", "bench mqtt pairs --pipeline 3 --qos 1",
		"bench mqtt pairs --inflight 3", "bench mqtt pairs --payload 3", "bench mqtt pairs --mqtt-version 3", "bench mqtt pairs --rate 5 --pipeline 3",
		"bench mqtt queue --qos 0", "bench mqtt pairs --url http://x",
	} {
		_, err := do(t, "", strings.Fields(args)...)
		var m misuse
		if !errors.As(err, &m) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestClientFailures(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{Refuse: wire.NotAuthorized}})
	_, err := do(t, "", "pub", "--mqtt", b.URL(), "-t", "a", "-m", "x")
	if err == nil || !strings.Contains(err.Error(), "not authorized") || !strings.Contains(err.Error(), "--password-file") {
		t.Errorf("refused: %v", err)
	}
	b.Close()
	_, err = do(t, "", "sub", "--mqtt", strings.TrimPrefix(b.URL(), "mqtt://"), "-t", "a")
	var m misuse
	if err == nil || !strings.Contains(err.Error(), "sluice start") || errors.As(err, &m) {
		t.Errorf("no broker: %v", err)
	}
}

func TestPasswordNeverFromTheCommandLine(t *testing.T) {
	f := clientFlags{}
	t.Setenv(passwordVariable, "from the environment")
	if p, err := f.password(); err != nil || p != "from the environment" {
		t.Errorf("%q, %v", p, err)
	}
	f.passwordFile = filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(f.passwordFile, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := f.password(); err != nil || p != "from a file" {
		t.Errorf("%q, %v", p, err)
	}
	for _, c := range []*cobra.Command{newPubCommand(), newSubCommand()} {
		if c.Flags().Lookup("password") != nil {
			t.Errorf("%s takes a password as an argument", c.Name())
		}
	}
}

func TestBenchCommand(t *testing.T) {
	b := brokertest.Start(t, brokertest.Options{})
	file := filepath.Join(t.TempDir(), "result.json")
	out, err := do(t, "", "bench", "mqtt", "pairs", "--url", b.URL(), "--pairs", "2", "--messages", "50", "--json", file)
	if err != nil || !strings.Contains(out, "100 sent") {
		t.Fatalf("%v\n%s", err, out)
	}
	var res bench.Result
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &res); err != nil || !res.OK || res.Counts.Received != 100 || res.Tool != version {
		t.Errorf("%v, %+v", err, res)
	}
	bad := brokertest.Start(t, brokertest.Options{Faults: brokertest.Faults{DropEvery: 10}})
	out, err = do(t, "", "bench", "mqtt", "pairs", "--url", bad.URL(), "--pairs", "2", "--messages", "50", "--drain", "50ms")
	var m misuse
	if err == nil || errors.As(err, &m) || !strings.HasPrefix(out, "LOST: ") || !strings.Contains(err.Error(), "LOST") {
		t.Errorf("%v\n%s", err, out)
	}
}
