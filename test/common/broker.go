// Package common runs the real binary for the tests that need a process of their own: it builds it once, starts it on free ports
// with a directory of the test's, and ends it with the test. It asserts nothing about the broker.
package common

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// builds are the programs by the levels that they say, "" for their own. All lie in one directory.
var builds struct {
	sync.Mutex
	dir string
	all map[string]string
}

// skewVariable is what the binary takes for how much its wall clock is wrong.
const skewVariable = "SLUICE_TEST_CLOCK_SKEW"

// Binary builds cmd/sluice once for a test process and gives its path. Clean removes it.
func Binary(t testing.TB) string {
	t.Helper()
	return BinaryOf(t, "")
}

// BinaryOf is Binary of a program that says it has another feature level, and goes into no cluster older than another one: LEVEL/OLDEST.
func BinaryOf(t testing.TB, levels string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path, ok := builds.all[levels]; ok {
		return path
	}
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "sluice-test-")
		if err == nil {
			err = os.Chmod(dir, 0o755) // tests of permissions run it as another user
		}
		if err != nil {
			t.Fatal(err)
		}
		builds.dir, builds.all = dir, make(map[string]string)
	}
	path := filepath.Join(builds.dir, "sluice"+strings.ReplaceAll(levels, "/", "-"))
	flags := "-ldflags=-X github.com/sluicemq/sluice/internal/clock.skewVariable=" + skewVariable
	if levels != "" {
		flags += " -X github.com/sluicemq/sluice/meta.levelsSaid=" + levels
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", flags, "-o", path, "github.com/sluicemq/sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	builds.all[levels] = path
	return path
}

// CleanExit removes what Binary built, and ends the process. It is goleak's Cleanup for TestMain, which ends the process itself without one.
func CleanExit(code int) {
	Clean()
	os.Exit(code)
}

// Clean removes what Binary built.
func Clean() {
	if builds.dir != "" {
		_ = os.RemoveAll(builds.dir)
	}
}

// Broker is a running process.
type Broker struct {
	Listeners map[string]string
	PID       int

	t    testing.TB
	cmd  *exec.Cmd
	log  *lockedBuffer
	done chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start runs `sluice start` on dir with TCP, WebSocket and HTTP on free ports of loopback, and waits for its ready line. settings are
// KEY=VALUE as --set takes them. A sluice.yaml in dir is its configuration file.
func Start(t testing.TB, dir string, settings ...string) *Broker {
	t.Helper()
	b, err := TryStart(t, dir, settings...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TryStart is Start for a node that may refuse.
func TryStart(t testing.TB, dir string, settings ...string) (*Broker, error) {
	t.Helper()
	return TryStartBy(t, nil, dir, settings...)
}

// TryStartBy is TryStart by a command that runs another one in its place, such as `ip netns exec NAME`.
func TryStartBy(t testing.TB, by []string, dir string, settings ...string) (*Broker, error) {
	t.Helper()
	return tryStart(t, append(slices.Clone(by), Binary(t)), dir, settings...)
}

// tryStart runs a program behind what it is run by.
func tryStart(t testing.TB, program []string, dir string, settings ...string) (*Broker, error) {
	t.Helper()
	args := append([]string{"start", "--data", dir}, testx.Flags(append(testx.Listeners("mqtt.tcp", "mqtt.ws", "http"), settings...)...)...)
	if file := filepath.Join(dir, "sluice.yaml"); exists(file) {
		args = append(args, "--config", file)
	}
	args = append(program, args...)
	b := &Broker{t: t, cmd: exec.Command(args[0], args[1:]...), log: new(lockedBuffer), done: make(chan error, 1)}
	b.cmd.Stderr = b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	b.PID = b.cmd.Process.Pid
	t.Cleanup(b.Kill)
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line
		b.done <- b.cmd.Wait()
	}()
	select {
	case line := <-ready:
		rest, ok := strings.CutPrefix(line, "ready ")
		var r struct{ Listeners map[string]string }
		if !ok || json.Unmarshal([]byte(rest), &r) != nil {
			_, _ = b.wait(10 * time.Second) // what it says of itself comes by another way
			return nil, fmt.Errorf("no ready line but %q, and:\n%s", line, b.log)
		}
		b.Listeners = r.Listeners
		return b, nil
	case <-time.After(60 * time.Second):
		b.Kill()
		return nil, fmt.Errorf("not ready after a minute:\n%s", b.log)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// URL is where MQTT over TCP listens.
func (b *Broker) URL() string { return "mqtt://" + b.Listeners["mqtt.tcp"] }

// Log is what the process has written to standard error.
func (b *Broker) Log() string { return b.log.String() }

// Kill ends the process with SIGKILL and waits until it is gone. It may be called again.
func (b *Broker) Kill() {
	_ = b.cmd.Process.Kill()
	_, _ = b.wait(10 * time.Second)
}

// Ended says whether the process is gone.
func (b *Broker) Ended() bool {
	select {
	case err := <-b.done:
		b.done <- err
		return true
	default:
		return false
	}
}

func (b *Broker) wait(d time.Duration) (err error, ended bool) {
	select {
	case err = <-b.done:
		b.done <- err
		return err, true
	case <-time.After(d):
		return nil, false
	}
}

// Stop asks the process to drain and gives how it ended.
func (b *Broker) Stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err, ended := b.wait(30 * time.Second)
	if !ended {
		return fmt.Errorf("still there 30 s after SIGTERM:\n%s", b.log)
	}
	return err
}

// Signal sends a signal.
func (b *Broker) Signal(s os.Signal) error { return b.cmd.Process.Signal(s) }
