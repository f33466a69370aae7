// Command cluster measures what three nodes on this machine cost beside one: each row starts them anew, drives the same load, and prints the CPU time
// of all node processes in sum for a message, latencies, and ratios. What was produced is read back and verified by the generator.
//
//	go run ./perf/cluster                              # produce, one record a batch, by timetable: one node and three in turn
//	go run ./perf/cluster --row shards,offsets,idle    # 8 and 64 shards; offset commits; what three nodes take that have nothing to do
//	go run ./perf/cluster --row many                   # memory and start with a million sessions and 100,000 topics
//
// CPU time is what counts on a machine that others use; latencies want a quiet one.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

type settings []string

func (s *settings) String() string { return strings.Join(*s, " ") }

func (s *settings) Set(v string) error {
	*s = append(*s, v)
	return nil
}

// options are what the flags say.
type options struct {
	sluice, dir  string
	rows         []string
	rounds, port int
	duration     time.Duration
	set          settings
	hook         string

	sessions, topics, sets int
}

// rows are what can be measured, in the order in which it is done.
var rows = []struct {
	name string
	run  func(*options) error
}{
	{"produce", func(o *options) error {
		return o.besideOne("produce 1 KiB, batches of 16 KiB, four producers, as fast as it goes", "--producers", "4", "--partitions", "4", "--batch-bytes", "16384",
			"--records", "200000", "--warmup", "0s")
	}},
	{"deep", func(o *options) error {
		return o.besideOne("produce 1 KiB, batches of 16 KiB, 100 requests unanswered, as fast as it goes", "--inflight", "100", "--no-idempotence", "--batch-bytes", "16384",
			"--records", "300000", "--warmup", "0s")
	}},
	{"narrow", func(o *options) error {
		return o.besideOne("produce 1 KiB, batches of 16 KiB, one producer, as fast as it goes", "--batch-bytes", "16384", "--records", "100000", "--warmup", "0s")
	}},
	{"single", func(o *options) error {
		return o.besideOne("produce 1 KiB, one record a batch, as fast as it goes", "--batch-bytes", "1", "--duration", o.duration.String())
	}},
	{"paced", func(o *options) error {
		return o.besideOne("produce 1 KiB, 2,000 records/s, one record a batch", "--rate", "2000", "--batch-bytes", "1", "--duration", o.duration.String())
	}},
	{"shards", (*options).shards},
	{"offsets", (*options).offsets},
	{"idle", (*options).idle},
	{"many", (*options).many},
}

func main() {
	var o options
	list := ""
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary (make build)")
	flag.StringVar(&o.dir, "dir", "", "where the nodes have their directories (default: that of temporary files)")
	flag.StringVar(&list, "row", "produce,single,paced", "what is measured, with commas between")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each row is measured")
	flag.IntVar(&o.port, "port", 0, "the first port of loopback to use; 0: any free ones")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of each load")
	flag.Var(&o.set, "set", "KEY=VALUE of all nodes' configuration; may be repeated")
	flag.IntVar(&o.sessions, "sessions", 1_000_000, "many: kept MQTT sessions")
	flag.IntVar(&o.topics, "topics", 100_000, "many: topics")
	flag.IntVar(&o.sets, "sets", 0, "idle: sets of shards beside the first")
	flag.StringVar(&o.hook, "hook", "", "a command that is run beside each load, with the process ids of the nodes as arguments, the leader's first: a profiler")
	flag.Parse()
	o.rows = strings.Split(list, ",")
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	for _, name := range o.rows {
		if !slices.ContainsFunc(rows, func(r struct {
			name string
			run  func(*options) error
		}) bool {
			return r.name == name
		}) {
			return fmt.Errorf("there is no row %q", name)
		}
	}
	if _, err := os.Stat(o.sluice); err != nil {
		return fmt.Errorf("%w: make build makes it", err)
	}
	for _, r := range rows {
		if !slices.Contains(o.rows, r.name) {
			continue
		}
		if err := r.run(o); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return nil
}

// figures are what one load cost and took.
type figures struct {
	cpu      float64 // µs of all nodes for a record
	rate     float64 // records/s
	p50, p99 float64 // µs until it was acknowledged
}

// table collects figures by the name of what was measured.
type table struct {
	title string
	names []string
	all   map[string][]figures
}

func newTable(title string) *table { return &table{title: title, all: map[string][]figures{}} }

func (t *table) add(name string, f figures) {
	if t.all[name] == nil {
		t.names = append(t.names, name)
	}
	t.all[name] = append(t.all[name], f)
	say("%s, %s: %.2f µs CPU, %.0f/s, p50 %.0f µs, p99 %.0f µs", t.title, name, f.cpu, f.rate, f.p50, f.p99)
}

// middle is the median of the rounds, with the least and the most.
func (t *table) middle(name string, of func(figures) float64) (mid, least, most float64) {
	var list []float64
	for _, f := range t.all[name] {
		list = append(list, of(f))
	}
	slices.Sort(list)
	return list[len(list)/2], list[0], list[len(list)-1]
}

// ratio is the median of what the rounds' ratios are of the second name to the first.
func (t *table) ratio(of func(figures) float64) float64 {
	a, b := t.all[t.names[0]], t.all[t.names[1]]
	var list []float64
	for i := range min(len(a), len(b)) {
		list = append(list, of(b[i])/of(a[i]))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

var columns = []struct {
	name string
	of   func(figures) float64
}{
	{"CPU µs/message", func(f figures) float64 { return f.cpu }},
	{"messages/s", func(f figures) float64 { return f.rate }},
	{"p50 µs", func(f figures) float64 { return f.p50 }},
	{"p99 µs", func(f figures) float64 { return f.p99 }},
}

// print shows medians, spread and the ratio of the second to the first.
func (t *table) print() {
	fmt.Printf("\n%s\n", t.title) //nolint:forbidigo // the result
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range columns {
		fmt.Fprintf(w, "  %s", c.name)
		for _, name := range t.names {
			mid, least, most := t.middle(name, c.of)
			fmt.Fprintf(w, "\t%s %s (%s to %s)", name, short(mid), short(least), short(most))
		}
		if len(t.names) == 2 {
			fmt.Fprintf(w, "\tratio %.2f", t.ratio(c.of))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

func short(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// say tells of progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
