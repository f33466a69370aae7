package perf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/server"
)

const serveEnv = "SLUICE_PERF_SERVE"

// TestMain is the node, if it runs in the child.
func TestMain(m *testing.M) {
	if set := os.Getenv(serveEnv); set != "" {
		if err := serve(strings.Split(set, "\n")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// counts are what the child says of itself.
type counts struct {
	Heap       int64
	Mallocs    uint64
	Goroutines int
	CPU        time.Duration
}

// serve runs a node with these settings until its standard input ends, and answers each line with its counts, after a collection if the
// line says so.
func serve(set []string) error {
	debug.SetGCPercent(400) // as the product sets it
	loaded, err := config.Load(config.LoadOptions{Set: set})
	if err != nil {
		return err
	}
	s, err := server.New(loaded.Config, server.Options{Logger: slog.New(slog.DiscardHandler), Version: "perf"})
	if err != nil {
		return err
	}
	ready, err := s.Start(context.Background())
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(ready); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "collect" {
			runtime.GC()
			runtime.GC()
		}
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		if err := out.Encode(counts{Heap: int64(ms.HeapAlloc), Mallocs: ms.Mallocs, Goroutines: runtime.NumGoroutine(), CPU: processCPU()}); err != nil {
			return err
		}
	}
	return s.Close()
}

// processCPU is the processor time that the process has used.
func processCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// node is the child from outside.
type node struct {
	t     testing.TB
	ready server.Ready
	in    io.WriteCloser
	out   *json.Decoder
}

// start runs a node in a child. Without other settings it keeps nothing.
func start(t testing.TB, set ...string) *node {
	t.Helper()
	set = append([]string{"node.data=" + t.TempDir(), "listeners.mqtt.tcp=127.0.0.1:0", "listeners.mqtt.ws=off", "listeners.mqtt.wss=off", "listeners.kafka.tcp=off",
		"listeners.http=127.0.0.1:0", "listeners.grpc=off", "mqtt.sys_interval=0s"}, set...)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+strings.Join(set, "\n"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, in: in, out: json.NewDecoder(out)}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if err := n.out.Decode(&n.ready); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) ask(line string) (c counts) {
	n.t.Helper()
	_, err := io.WriteString(n.in, line+"\n")
	if err = errors.Join(err, n.out.Decode(&c)); err != nil {
		n.t.Fatal(err)
	}
	return c
}

// settled is counts after a collection, once what went before has been given back.
func (n *node) settled() counts {
	n.t.Helper()
	c := n.ask("collect")
	for range 20 {
		<-time.After(50 * time.Millisecond) // what the loops keep goes back by time
		next := n.ask("collect")
		if d := next.Heap - c.Heap; d > -4096 && d < 4096 {
			return next
		}
		c = next
	}
	return c
}

// systemCalls is how often the node has read from and written to sockets.
func (n *node) systemCalls() (calls float64) {
	n.t.Helper()
	resp, err := http.Get("http://" + n.ready.Listeners["http"] + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "sluice_engine_system_calls_total{"); ok {
			_, value, _ := strings.Cut(rest, "} ")
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			calls += v
		}
	}
	return calls
}
