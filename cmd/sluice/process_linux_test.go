package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// actAsSluice makes the test binary the program: what needs a process of its own runs it again, and builds nothing.
const actAsSluice = "SLUICE_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(actAsSluice) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), actAsSluice+"=1")
	return cmd
}

// node is a process of sluice start.
type node struct {
	cmd    *exec.Cmd
	stdout chan string // lines; closed at the end
	done   chan error
	mu     sync.Mutex
	log    bytes.Buffer
}

// Write takes standard error.
func (n *node) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(p)
}

func (n *node) said(text string) func() bool {
	return func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return strings.Contains(n.log.String(), text)
	}
}

// begin starts a node on free ports and gives its addresses from the ready line.
func begin(t *testing.T, dir string, args ...string) (*node, map[string]string) {
	t.Helper()
	n := &node{stdout: make(chan string, 16), done: make(chan error, 1)}
	set := testx.Flags(append(testx.Listeners("mqtt.tcp", "http", "grpc"), "journal.segment_size=8MiB")...)
	n.cmd = command(slices.Concat([]string{"start", "--data", dir}, set, args)...)
	n.cmd.Stderr = n
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n.stdout <- lines.Text()
		}
		close(n.stdout)
		n.done <- n.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		if t.Failed() {
			n.mu.Lock()
			defer n.mu.Unlock()
			t.Logf("standard error:\n%s", n.log.String())
		}
	})
	text, ok := strings.CutPrefix(testx.Receive(t, n.stdout, 30*time.Second), "ready ")
	var ready struct {
		Node      int
		StartupMS *int64 `json:"startup_ms"`
		Listeners map[string]string
	}
	if err := json.Unmarshal([]byte(text), &ready); !ok || err != nil || ready.Node != 1 || ready.StartupMS == nil {
		t.Fatalf("ready line: %q, %v", text, err)
	}
	return n, ready.Listeners
}

// end gives the exit code.
func (n *node) end(t *testing.T) int {
	t.Helper()
	return exitCode(t, testx.Receive(t, n.done, 30*time.Second))
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

func (n *node) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func TestReadyLineAndOrderlyEnd(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		n, at := begin(t, t.TempDir())
		for _, name := range []string{"mqtt.tcp", "http"} {
			c, err := net.Dial("tcp", at[name])
			if err != nil {
				t.Fatalf("%s does not accept after the ready line: %v", name, err)
			}
			_ = c.Close()
		}
		client, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: "mqtt://" + at["mqtt.tcp"]})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		n.signal(t, s)
		p, err := client.ReadPacket(5 * time.Second)
		if err != nil || p.Type != wire.DISCONNECT {
			t.Errorf("%v: got %v, %v, want DISCONNECT", s, p.Type, err)
		}
		if code := n.end(t); code != 0 {
			t.Errorf("%v: exit code %d", s, code)
		}
		if line, more := <-n.stdout; more {
			t.Errorf("%v: a second line on standard output: %q", s, line)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	n, at := begin(t, t.TempDir())
	// A drain waits for a connection that has sent nothing yet.
	c, err := net.Dial("tcp", at["http"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.signal(t, syscall.SIGTERM)
	testx.Eventually(t, 10*time.Second, n.said("draining"))
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 1 || !n.said("second signal")() {
		t.Errorf("exit code %d", code)
	}
}

func TestReloadTakesOverRulesAndUsers(t *testing.T) {
	acl, users := file(t, "acl", "allow publish by all on a\n"), filepath.Join(t.TempDir(), "users")
	if out, code := sluice(t, "secret", "passwd", "--file", users, "bob"); code != 0 {
		t.Fatal(out)
	}
	n, at := begin(t, t.TempDir(), "--set", "auth.acl_file="+acl, "--set", "auth.password_file="+users)
	publish := func() wire.ReasonCode {
		c, _, err := mqttclient.Connect(t.Context(), mqttclient.Options{URL: "mqtt://" + at["mqtt.tcp"],
			Connect: wire.Connect{UserName: []byte("bob"), Password: []byte("secret")}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SendRaw(wire.AppendPublish(nil, wire.V5, &wire.PublishOut{QoS: 1, PacketID: 1, Topic: []byte("b")})); err != nil {
			t.Fatal(err)
		}
		p, err := c.ReadPacket(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		ack, err := p.Ack()
		if err != nil {
			t.Fatal(err)
		}
		return ack.Reason
	}
	if r := publish(); r != wire.NotAuthorized {
		t.Fatalf("before: %v", r)
	}
	rewrite(t, acl, "allow nothing\n")
	n.signal(t, syscall.SIGHUP)
	testx.Eventually(t, 10*time.Second, n.said("reload refused"))
	if r := publish(); r != wire.NotAuthorized {
		t.Errorf("after a reload that was refused: %v", r)
	}
	rewrite(t, acl, "allow publish by all on b\n")
	n.signal(t, syscall.SIGHUP)
	testx.Eventually(t, 10*time.Second, func() bool { return !publish().Failed() }, "new rules in force")
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The doctor may look while a node runs, and knows the node's own ports and lock.
func TestDoctorBesideANode(t *testing.T) {
	dir := t.TempDir()
	n, at := begin(t, dir)
	set := append(testx.Listeners(), "listeners.mqtt.tcp="+at["mqtt.tcp"], "listeners.http="+at["http"], "listeners.grpc="+at["grpc"])
	list, code := examine(t, append([]string{"--data", dir}, testx.Flags(set...)...)...)
	if code != 0 || !has(list, "data lock", "ok", "held") || !has(list, "port", "ok", "the node that runs on this data") {
		t.Errorf("code %d: %+v", code, list)
	}
	format, err := os.ReadFile(filepath.Join(dir, "journal/FORMAT"))
	if err != nil || !has(list, "data directory", "ok", "format 1") || string(format) != "sluice journal\nformat 1\n" || journalFormat != 1 {
		t.Errorf("format is %q, %v; %+v", format, err, list)
	}
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if list, _ := examine(t, "--data", dir, "--set", "cluster.shards=3"); !has(list, "data lock", "ok", "free") || !has(list, "shards", "fail", "made with") {
		t.Errorf("after the node: %+v", list)
	}
	rewrite(t, filepath.Join(dir, "journal/FORMAT"), "sluice journal\nformat 2\n")
	if list, code := examine(t, "--data", dir); code != 1 || !has(list, "data directory", "fail", "format 2") {
		t.Errorf("code %d on a newer format: %+v", code, list)
	}
}

func TestExitCodesOfTheProcess(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
		says string // on standard error
	}{
		{[]string{"version"}, 0, ""},
		{[]string{"passwd", "--file", "/nonexistent/users", "--list"}, 1, "sluice: password file:"},
		{[]string{"strat"}, 2, `did you mean "start"?`},
		{[]string{"check-config", "--config", file(t, "bad.yaml", "node:\n  idd: 7\nlog: {level: loud}\n")}, 1, "bad.yaml:2:3: node.idd:"},
	} {
		cmd := command(tt.args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if code := exitCode(t, cmd.Run()); code != tt.want || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("%v: code %d, want %d; %s", tt.args, code, tt.want, &stderr)
		}
	}
}

// The scripts are cobra's; what is looked at is that each shell takes its own, where it is installed.
func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_sluice", "zsh": "#compdef sluice", "fish": "complete -c sluice"} {
		script, err := command("completion", shell).Output()
		if err != nil || !strings.Contains(string(script), want) {
			t.Errorf("%s: %v, no %q in %d bytes", shell, err, want, len(script))
			continue
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		if out, err := exec.Command(path, "-n", file(t, "script", string(script))).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}

// echoes tells whether a terminal shows what is typed.
func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	raw, err := terminal.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var settings *unix.Termios
	if cerr := raw.Control(func(fd uintptr) { settings, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return settings.Lflag&unix.ECHO != 0
}

// A terminal is asked twice and shows nothing of what is typed.
func TestPasswdOnATerminal(t *testing.T) {
	for _, tt := range []struct {
		again string
		want  int
	}{{"secret", 0}, {"other", 1}} {
		path := filepath.Join(t.TempDir(), "users")
		master, slave := terminal(t)
		cmd := command("passwd", "--file", path, "bob")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = slave.Close()
		var shown node // collects what the terminal shows
		go func() {
			buf := make([]byte, 1024)
			for {
				k, err := master.Read(buf)
				_, _ = shown.Write(buf[:k])
				if err != nil {
					return
				}
			}
		}()
		for _, step := range []struct{ prompt, answer string }{{"Password for bob:", "secret"}, {"Again for bob:", tt.again}} {
			// The prompt comes before the echo goes, as with any program that asks: a hand is slower than that, a test is not.
			testx.Eventually(t, 10*time.Second, func() bool { return shown.said(step.prompt)() && !echoes(t, master) })
			if _, err := master.WriteString(step.answer + "\n"); err != nil {
				t.Fatal(err)
			}
		}
		if code := exitCode(t, cmd.Wait()); code != tt.want {
			t.Errorf("code %d, want %d: %s", code, tt.want, shown.log.String())
		}
		if _, err := os.Stat(path); (err == nil) != (tt.want == 0) {
			t.Errorf("after code %d the file: %v", tt.want, err)
		}
		if shown.said("secret")() {
			t.Error("the terminal shows the password")
		}
	}
}

// terminal makes a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	return master, slave
}
