package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// testKey names a test within the run; an empty test is the package itself.
type testKey struct{ pkg, test string }

// pkgState is what is known of a package that still runs.
type pkgState struct {
	passed, failed, skipped int
	running                 map[string]bool
}

// collector turns the stream of events into a tally, and prints the output of what failed and nothing of what passed.
type collector struct {
	t      *tally
	w      io.Writer
	output map[testKey][]string
	build  map[string][]string // output of the compiler by import path
	pkgs   map[string]*pkgState
}

func newCollector(t *tally, w io.Writer) *collector {
	return &collector{t: t, w: w, output: map[testKey][]string{}, build: map[string][]string{}, pkgs: map[string]*pkgState{}}
}

// goTest runs `go args...` and adds its outcome to t.
func goTest(t *tally, args []string, cgo bool) {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	if cgo {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.ok("go test", err)
		return
	}
	if err := cmd.Start(); err != nil {
		t.ok("go test", err)
		return
	}
	failedBefore := t.failed
	c := newCollector(t, os.Stdout)
	readErr := c.read(out)
	err = cmd.Wait()
	if readErr != nil {
		t.ok("reading the test output", readErr)
	}
	if err != nil && t.failed == failedBefore {
		t.ok("go test", err) // it failed and no event says why
	}
}

func (c *collector) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				c.handle(e)
			} else {
				fmt.Fprintf(c.w, "%s", line) // a program under test wrote past the test framework
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *collector) pkg(name string) *pkgState {
	p := c.pkgs[name]
	if p == nil {
		p = &pkgState{running: map[string]bool{}}
		c.pkgs[name] = p
	}
	return p
}

func (c *collector) handle(e event) {
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		c.build[e.ImportPath] = append(c.build[e.ImportPath], e.Output)
	case "output":
		c.output[key] = append(c.output[key], e.Output)
	case "run":
		c.pkg(e.Package).running[e.Test] = true
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.packageDone(e)
		} else {
			c.testDone(e)
		}
	}
}

func (c *collector) testDone(e event) {
	p := c.pkg(e.Package)
	delete(p.running, e.Test)
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "pass":
		p.passed++
		c.t.passed++
	case "skip":
		p.skipped++
		c.t.skipped++
		fmt.Fprintf(c.w, "skip  %s %s: %s\n", short(e.Package), e.Test, reason(c.output[key]))
	case "fail":
		p.failed++
		c.t.failed++
		c.print("FAIL  "+short(e.Package)+" "+e.Test, c.output[key])
	}
	delete(c.output, key)
}

func (c *collector) packageDone(e event) {
	p := c.pkg(e.Package)
	if e.Action == "fail" {
		for _, name := range sortedKeys(p.running) { // a panic or the time limit took them down
			p.failed++
			c.t.failed++
			c.print("FAIL  "+short(e.Package)+" "+name+" (never ended)", c.output[testKey{e.Package, name}])
		}
		if p.failed == 0 {
			c.t.failed++
			lines := append(c.build[e.FailedBuild], c.output[testKey{e.Package, ""}]...)
			c.print("FAIL  "+short(e.Package), lines)
		} else {
			fmt.Fprintf(c.w, "FAIL  %s (%d of %d tests)\n", short(e.Package), p.failed, p.failed+p.passed+p.skipped)
		}
	} else if p.passed+p.skipped > 0 {
		fmt.Fprintf(c.w, "ok    %s  %d tests, %.1fs\n", short(e.Package), p.passed+p.skipped, e.Elapsed)
	}
	delete(c.pkgs, e.Package)
	delete(c.output, testKey{e.Package, ""})
}

func (c *collector) print(head string, lines []string) {
	fmt.Fprintln(c.w, head)
	for _, l := range lines {
		fmt.Fprint(c.w, "      ", strings.TrimRight(l, "\n"), "\n")
	}
}

// reason is the line that t.Skip printed.
func reason(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		l := strings.TrimSpace(lines[i])
		if l != "" && !strings.HasPrefix(l, "---") && !strings.HasPrefix(l, "===") {
			return l
		}
	}
	return "no reason given"
}

const module = "github.com/sluicemq/sluice"

func short(pkg string) string {
	if pkg == module {
		return "."
	}
	return strings.TrimPrefix(pkg, module+"/")
}

func sortedKeys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
