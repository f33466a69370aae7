package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// said is what a process has written so far.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// interrupted runs a command that waits, interrupts it once it says what for, and gives all that it said then.
func interrupted(t *testing.T, until string, args ...string) (stderr string) {
	t.Helper()
	var out, errs said
	cmd := command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	testx.Eventually(t, 30*time.Second, func() bool { return strings.Contains(errs.String(), until) }, args, " waits", &errs)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, testx.Receive(t, done, controlTimeout/2)); code != 1 {
		t.Errorf("%v: exit code %d", args, code)
	}
	if err := syscall.Kill(-cmd.Process.Pid, 0); err == nil {
		t.Errorf("%v has left a process", args)
	}
	if !strings.HasSuffix(errs.String(), "sluice: interrupted: what was asked for goes on, and the same command waits for it again\n") || out.String() != "" {
		t.Errorf("%v said %q, and wrote %q", args, errs.String(), out.String())
	}
	return errs.String()
}

// A command that waits for a change of the cluster ends at once by SIGINT and says that the change goes on, which it does: the same command waits for it again.
func TestInterruptedWait(t *testing.T) {
	n, at := begin(t, t.TempDir(), "--set", "node.id=1", "--set", "listeners.cluster="+testx.ClosedAddr(t))
	server := "--server=" + at["grpc"]
	testx.Eventually(t, 30*time.Second, func() bool {
		out, code := sluice(t, "", "shard", "status", server, "--output=json")
		return code == 0 && strings.Contains(out, `"open": true`)
	}, "the node leads")
	for _, c := range []struct{ until, args string }{
		{"node 2 has not joined yet", "node add 2 --wait --address " + testx.ClosedAddr(t)},
		{"node 1 leads", "node drain 1 --wait"},
	} {
		for range 2 {
			if text := interrupted(t, c.until, append(strings.Fields(c.args), server)...); strings.Count(text, "\n") != 2 {
				t.Errorf("%s said %q", c.args, text)
			}
		}
	}
	out, code := sluice(t, "", "node", "list", server, "--output=json")
	var list struct{ Nodes []nodeRow }
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list.Nodes) != 2 {
		t.Fatalf("%v\n%s", err, out)
	}
	states := []string{list.Nodes[0].State, list.Nodes[0].Yields, list.Nodes[1].State}
	if want := []string{"active", "drained", "joining"}; !slices.Equal(states, want) {
		t.Errorf("nodes are %v, want %v", states, want)
	}
	n.signal(t, syscall.SIGTERM)
	if code := n.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
