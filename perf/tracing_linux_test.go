package perf

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// allowTracing lets any process of the user trace this one, which some systems allow parents alone.
func allowTracing() { _ = unix.Prctl(unix.PR_SET_PTRACER, unix.PR_SET_PTRACER_ANY, 0, 0, 0) }

// traced counts the node's system calls of all threads by name while load runs. It skips the test where that cannot be done.
func (n *node) traced(load func()) map[string]float64 {
	t := n.t
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: the counts are the engine's own alone")
	}
	file := filepath.Join(t.TempDir(), "calls")
	cmd := exec.Command(strace, "-c", "-f", "-o", file, "-p", strconv.Itoa(n.pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	says, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	lines := bufio.NewScanner(says)
	attached := false
	for !attached && lines.Scan() { // "strace: Process 1 attached with 9 threads"
		said.WriteString(lines.Text() + "\n")
		attached = strings.Contains(lines.Text(), "attached")
	}
	if !attached {
		_ = cmd.Wait()
		t.Skipf("strace may not trace here: %s", strings.TrimSpace(said.String()))
	}
	go func() { // new threads are announced
		for lines.Scan() {
		}
	}()
	load()
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait() // it ends by the signal
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := parseStrace(string(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return calls
}

// parseStrace reads the table of strace -c: "% time, seconds, usecs/call, calls, errors if any, name".
func parseStrace(text string) (map[string]float64, error) {
	calls := make(map[string]float64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		if _, err := strconv.ParseFloat(f[0], 64); err != nil {
			continue // the heading and its lines
		}
		n, err := strconv.ParseFloat(f[3], 64)
		if err != nil {
			return nil, err
		}
		calls[f[len(f)-1]] += n
	}
	if len(calls) == 0 {
		return nil, fmt.Errorf("no calls")
	}
	return calls, nil
}

func TestParseStrace(t *testing.T) {
	calls, err := parseStrace(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.73    0.003871           1      2001         3 read
 38.27    0.002400           2      1000           write
------ ----------- ----------- --------- --------- ----------------
100.00    0.006271           2      3001         3 total
`)
	if err != nil || calls["read"] != 2001 || calls["write"] != 1000 || len(calls) != 2 {
		t.Errorf("%v, %v", calls, err)
	}
	if _, err := parseStrace("nothing"); err == nil {
		t.Error("an empty table is taken")
	}
}

// schedulers are the calls by which the runtime lets threads sleep and wakes them, and gives memory back: how many there are is the machine's business.
var schedulers = map[string]bool{"futex": true, "nanosleep": true, "clock_nanosleep": true, "sched_yield": true, "epoll_pwait": true,
	"epoll_pwait2": true, "epoll_wait": true, "tgkill": true, "rt_sigreturn": true, "rt_sigprocmask": true, "restart_syscall": true,
	"clone": true, "clone3": true, "sigaltstack": true, "madvise": true}

// TestBudgetTraced checks the engine's counters against strace's, and that a message makes no system calls of any other kind.
func TestBudgetTraced(t *testing.T) {
	plainBuild(t)
	pipes := func(o pipeOptions) func(*testing.T, *node) func(int) {
		return func(t *testing.T, n *node) func(int) {
			t.Helper()
			p := []*pipe{newPipe(t, n, 0, o)}
			return func(rounds int) { run(t, p, rounds) }
		}
	}
	for _, tc := range []struct {
		name       string
		durability string
		prepare    func(*testing.T, *node) (round func(int))
	}{
		{"qos0", "memory", pipes(pipeOptions{})},
		{"qos1", "memory", pipes(pipeOptions{qos: 1})},
		{"qos1_durable", "async", pipes(pipeOptions{qos: 1, durable: true})},
		{"connect", "memory", func(t *testing.T, n *node) func(int) {
			t.Helper()
			return func(rounds int) { comeAndGo(t, n, rounds) }
		}},
		{"produce", "async", produceRounds},
		{"fetch", "async", fetchRounds},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := start(t, "journal.durability="+tc.durability, "listeners.kafka.tcp=127.0.0.1:0")
			round := tc.prepare(t, n)
			round(200)
			const rounds = 400
			var calls map[string]float64
			before := time.Now()
			u := n.used(func() { calls = n.traced(func() { round(rounds) }) })
			t.Logf("%v in %v", calls, time.Since(before))
			transfers := calls["read"] + calls["write"] + calls["writev"] + calls["recvfrom"] + calls["sendto"]
			if transfers < u.socket-4 {
				t.Errorf("strace has seen %v reads and writes, and the engine has counted %v of sockets", transfers, u.socket)
			}
			section := "traced_" + tc.name
			spend(t, section+".transfers", transfers/rounds)
			other := 0.0
			for name, n := range calls {
				switch name {
				case "read", "write", "writev", "recvfrom", "sendto", "pwrite64", "pwritev", "fdatasync", "fsync":
				default:
					if !schedulers[name] {
						other += n
					}
				}
			}
			spend(t, section+".others", other/rounds)
			spend(t, section+".disk", (calls["pwrite64"]+calls["pwritev"]+calls["fdatasync"]+calls["fsync"])/rounds)
		})
	}
}
