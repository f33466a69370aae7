// Command guards measures what keeps a node safe, and what that keeps from others: rules and tokens beside none, connections that are refused, explain
// and trace while messages flow, and quiet clients beside those who flood, never read or come and go. Nodes are processes of their own, and loads are
// those of sluice bench, which verifies what it delivers.
//
//	go run ./perf/guards                       # all rows
//	go run ./perf/guards --row refused,quiet
//
// CPU time is what counts on a machine that others use; latencies want a quiet one.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// options are what the flags say.
type options struct {
	sluice   string
	rounds   int
	duration time.Duration
	only     string
}

// rows are what can be measured, in the order in which it is done.
var rows = []struct {
	name string
	run  func(*options) error
}{
	{"rules", (*options).rules},
	{"refused", (*options).refused},
	{"explain", (*options).explain},
	{"quiet", (*options).quiet},
}

func main() {
	o := options{}
	list := ""
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the binary (make build)")
	flag.StringVar(&list, "row", "rules,refused,explain,quiet", "what is measured, with commas between")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each is measured, in turn")
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "of each load")
	flag.StringVar(&o.only, "load", "", "rules: the beginning of the loads' names")
	flag.Parse()
	if err := o.run(strings.Split(list, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "guards:", err)
		os.Exit(1)
	}
}

func (o *options) run(names []string) error {
	for _, name := range names {
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
		if slices.Contains(names, r.name) {
			if err := r.run(o); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return nil
}

// ratios are those of what was measured in turn: their median, with the least and the most.
type ratios []float64

func (r ratios) String() string {
	s := slices.Sorted(slices.Values(r))
	if len(s) == 0 {
		return "none"
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s[len(s)/2], s[0], s[len(s)-1])
}

// print writes a line of the result.
func print(format string, args ...any) { fmt.Printf(format+"\n", args...) } //nolint:forbidigo,predeclared // the result

// say tells of progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
