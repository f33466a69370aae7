// Command testrun runs the project's tests and says in one closing line how many passed, failed and were skipped. It owns the
// order of the checks and the shape of the output; it tests nothing itself and needs nothing beside the go command.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// tally counts tests, not packages: a package that does not build is one failure.
type tally struct{ passed, failed, skipped int }

func (t tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
}

// ok records the outcome of a check that is not a Go test, such as vet.
func (t *tally) ok(name string, err error) {
	if err != nil {
		t.failed++
		fmt.Printf("FAIL  %s\n%s\n", name, strings.TrimRight(err.Error(), "\n"))
		return
	}
	t.passed++
	fmt.Printf("ok    %s\n", name)
}

func main() {
	var (
		run      = flag.String("run", "", "run only tests that match this expression")
		tags     = flag.String("tags", "", "build tags")
		race     = flag.Bool("race", false, "with the race detector (needs a C compiler)")
		short    = flag.Bool("short", false, "pass -short to the tests")
		noStatic = flag.Bool("no-static", false, "leave out gofmt and vet")
		timeout  = flag.Duration("timeout", 15*time.Minute, "time limit of one package")
		parallel = flag.Int("p", runtime.NumCPU(), "packages at once")
		fuzz     = flag.Duration("fuzz", 0, "instead: run each fuzz target for this long")
		check    = flag.Bool("check", false, "instead: race, lint and generated files")
	)
	flag.Parse()
	patterns := flag.Args()
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}

	var t tally
	switch {
	case *fuzz > 0:
		fuzzAll(&t, *fuzz, patterns)
	case *check:
		checkAll(&t)
	default:
		if !*noStatic {
			t.ok("gofmt", gofmt("."))
			t.ok("go vet", command("go", vetArgs(*tags, patterns)...))
		}
		args := []string{"test", "-json", "-count=1", "-vet=off",
			fmt.Sprintf("-timeout=%s", *timeout), fmt.Sprintf("-p=%d", *parallel)}
		args = appendIf(args, *race, "-race")
		args = appendIf(args, *short, "-short")
		args = appendIf(args, *run != "", "-run="+*run)
		args = appendIf(args, *tags != "", "-tags="+*tags)
		if *run != "" {
			var err error
			if patterns, err = having(*run, patterns); err != nil {
				t.ok("packages with such tests", err)
				break
			}
		}
		goTest(&t, append(args, patterns...), *race)
	}
	fmt.Println(t)
	if t.failed > 0 {
		os.Exit(1)
	}
}

func appendIf(args []string, cond bool, arg string) []string {
	if cond {
		return append(args, arg)
	}
	return args
}

func vetArgs(tags string, patterns []string) []string {
	args := []string{"vet"}
	if tags != "" {
		args = append(args, "-tags="+tags)
	}
	return append(args, patterns...)
}

// command runs a program and gives its output as the error when it fails.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
