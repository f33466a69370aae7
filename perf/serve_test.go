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
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/testx"
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
	Bytes      uint64 // allocated so far
	Goroutines int
	CPU        time.Duration
}

// serve runs a node with these settings until its standard input ends, and answers each line with its counts, after a collection if the
// line says so.
func serve(set []string) error {
	allowTracing()
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
		if err := out.Encode(counts{Heap: int64(ms.HeapAlloc), Mallocs: ms.Mallocs, Bytes: ms.TotalAlloc, Goroutines: runtime.NumGoroutine(), CPU: processCPU()}); err != nil {
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

// smallTail lets the log's staging buffers go round soon: with the usual ones, of 8 MiB, it is chance whether a measurement has to make one.
var smallTail = []string{"journal.tail_size=1MiB", "journal.group_size=1MiB", "limits.packet_size=256KiB"}

// node is the child from outside.
type node struct {
	t     testing.TB
	pid   int
	ready server.Ready
	in    io.WriteCloser
	out   *json.Decoder
}

// nodeCommand is what runs the node: this test binary. TestInstructions puts a simulator before it.
var nodeCommand = []string{os.Args[0]}

// start runs a node in a child. Without other settings it keeps nothing.
func start(t testing.TB, set ...string) *node {
	t.Helper()
	set = append(append(testx.Listeners("mqtt.tcp", "http"), "node.data="+t.TempDir(), "mqtt.sys_interval=0s"), set...)
	child := testx.StartChild(t, nodeCommand, serveEnv+"="+strings.Join(set, "\n"))
	n := &node{t: t, pid: child.PID, in: child.In, out: json.NewDecoder(child.Out)}
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

// scrape is what the node's metrics page says, by name and labels.
func (n *node) scrape() map[string]float64 {
	n.t.Helper()
	resp, err := http.Get("http://" + n.ready.Listeners["http"] + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		n.t.Fatal(err)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ') // the last: values of labels may have spaces
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if all[line[:at]], err = strconv.ParseFloat(line[at+1:], 64); err != nil {
			n.t.Fatal(line, err)
		}
	}
	return all
}

// usage is what a node has used between two looks.
type usage struct {
	mallocs, bytes float64 // allocations of the whole process
	socket         float64 // reads and writes of sockets
	loop           float64 // waits, wake-ups and changes of what is waited for
	groups         float64 // writes of the journal
	flushes        float64 // and its flushes
}

// used runs load between two looks at the node. The look at the metrics page is outside of that at the heap, so that it is not counted;
// its own system calls are those of another server than the engine.
func (n *node) used(load func()) (u usage) {
	n.t.Helper()
	look := n.scrape()
	n.ask("collect")
	base, before := n.ask(""), n.ask("") // what one look takes of itself
	load()
	after := n.ask("")
	then := n.scrape()
	moved := func(names ...string) (sum float64) {
		for _, name := range names {
			sum += then[name] - look[name]
		}
		return sum
	}
	const calls = `sluice_engine_system_calls_total{call="`
	u.mallocs = max(0, float64(after.Mallocs)-float64(before.Mallocs)-float64(before.Mallocs-base.Mallocs))
	u.bytes = max(0, float64(after.Bytes)-float64(before.Bytes)-float64(before.Bytes-base.Bytes))
	u.socket = moved(calls+`read"}`, calls+`write"}`)
	u.loop = moved(calls+`wait"}`, calls+`wake"}`, calls+`control"}`)
	u.groups, u.flushes = moved("sluice_journal_groups_total"), moved("sluice_journal_flush_seconds_count")
	return u
}
