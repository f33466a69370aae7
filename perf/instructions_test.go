package perf

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	instructions = flag.Bool("instructions", false, "count instructions by valgrind's callgrind; `make perf-instructions` sets it")
	profiles     = flag.String("profiles", "", "where callgrind's profiles are left, for callgrind_annotate")
)

// simulate has each node that starts from now on run in callgrind, which counts nothing until it is told to. One thread of Go at a time, no
// signals: then the number repeats within a few percent on any machine.
func simulate(t *testing.T) (dir string) {
	t.Helper()
	if !*instructions {
		t.Skip("make perf-instructions runs it: a simulated processor takes its time")
	}
	for _, tool := range []string{"valgrind", "callgrind_control"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("valgrind is not installed")
		}
	}
	if dir = *profiles; dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GODEBUG", "asyncpreemptoff=1") // callgrind cannot follow a signal's change of stacks
	t.Setenv("GOMAXPROCS", "1")
	was := nodeCommand
	t.Cleanup(func() { nodeCommand = was })
	return dir
}

// counted is how many instructions the node has executed in load.
func (n *node) counted(dir, name string, load func()) float64 {
	t := n.t
	t.Helper()
	control := func(args ...string) {
		if out, err := exec.Command("callgrind_control", append(args, strconv.Itoa(n.pid))...).CombinedOutput(); err != nil {
			t.Fatalf("callgrind_control: %v\n%s", err, out)
		}
	}
	control("-i", "on")
	load()
	control("-i", "off")
	control("-d")
	dumps, err := filepath.Glob(filepath.Join(dir, name+".*")) // the first dump has a number behind the file's name
	if err != nil || len(dumps) == 0 {
		t.Fatalf("no dump in %s: %v", dir, err)
	}
	text, err := os.ReadFile(dumps[len(dumps)-1])
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if total, ok := strings.CutPrefix(line, "totals: "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(total), 64)
			if err != nil || v == 0 {
				t.Fatal(line, err)
			}
			return v
		}
	}
	t.Fatalf("no totals in %s", dumps[len(dumps)-1])
	return 0
}

// TestInstructions measures what the node executes for a message, parking and collecting included, the kernel not.
func TestInstructions(t *testing.T) {
	dir := simulate(t)
	pipes := func(count int, o pipeOptions) func(*testing.T, *node) (func(int), float64) {
		return func(t *testing.T, n *node) (func(int), float64) {
			t.Helper()
			var all []*pipe
			for i := range count {
				all = append(all, newPipe(t, n, i, o))
			}
			return func(rounds int) { run(t, all, rounds) }, float64(count * max(o.window, 1) * max(o.fan, 1))
		}
	}
	for _, tc := range []struct {
		name    string
		set     string
		rounds  int
		prepare func(*testing.T, *node) (round func(int), messages float64)
	}{
		{"publish_one_qos0", "journal.durability=memory", 2000, pipes(1, pipeOptions{})},
		{"publish_one_qos1", "journal.durability=memory", 2000, pipes(1, pipeOptions{qos: 1})},
		{"publish_pipelined_qos0", "journal.durability=memory", 100, pipes(8, pipeOptions{window: 64})},
		{"publish_pipelined_qos1", "journal.durability=memory", 100, pipes(8, pipeOptions{qos: 1, window: 20})},
		{"publish_pipelined_qos2", "journal.durability=memory", 100, pipes(8, pipeOptions{qos: 2, window: 20})},
		{"publish_pipelined_qos1_durable", "journal.durability=async", 100, pipes(8, pipeOptions{qos: 1, window: 20, durable: true})},
		{"publish_pipelined_qos2_durable", "journal.durability=async", 100, pipes(8, pipeOptions{qos: 2, window: 20, durable: true})},
		{"fanout_delivery_qos0", "journal.durability=memory", 50, pipes(1, pipeOptions{fan: 200})},
		{"fanout_delivery_qos1", "journal.durability=memory", 50, pipes(1, pipeOptions{qos: 1, fan: 200})},
		{"connect", "journal.durability=memory", 500, func(t *testing.T, n *node) (func(int), float64) {
			t.Helper()
			return func(rounds int) { comeAndGo(t, n, rounds) }, 1
		}},
		{"produce", "journal.durability=async", 50, func(t *testing.T, n *node) (func(int), float64) {
			t.Helper()
			c := dialKafka(t, n)
			c.create("t", 1)
			one := encode(produceRequest("t", 1, 100))
			out := []byte(strings.Repeat(string(one), 20))
			return func(rounds int) {
				for range rounds {
					c.send(out, 20)
				}
			}, 20
		}},
		{"fetch", "journal.durability=async", 500, func(t *testing.T, n *node) (func(int), float64) {
			t.Helper()
			return fetchRounds(t, n), 1
		}},
		{"idle_partition_second", "journal.durability=async", 5, func(t *testing.T, n *node) (func(int), float64) {
			t.Helper()
			const count = 10_000
			_, create := newTopics(t, n)
			create("many", count)
			return func(seconds int) { <-time.After(time.Duration(seconds) * time.Second) }, count
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodeCommand = []string{"valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=" + filepath.Join(dir, tc.name), os.Args[0]}
			n := start(t, tc.set, "listeners.kafka.tcp=127.0.0.1:0")
			round, messages := tc.prepare(t, n)
			round(max(tc.rounds/5, 10))
			total := n.counted(dir, tc.name, func() { round(tc.rounds) })
			spend(t, "instructions."+tc.name, total/(float64(tc.rounds)*messages))
		})
	}
	if *profiles != "" {
		fmt.Printf("profiles are in %s: callgrind_annotate %s\n", dir, filepath.Join(dir, "publish_pipelined_qos0.1")) //nolint:forbidigo // for who asked
	}
}
