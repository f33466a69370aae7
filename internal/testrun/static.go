package main

import (
	"bytes"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// gofmt reports the files under root that gofmt would change. It formats in process, so that a Go without the gofmt binary
// beside it does as well.
func gofmt(root string) error {
	var bad []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch name := d.Name(); {
			case path == root:
				return nil
			case strings.HasPrefix(name, "."), name == "testdata", path == "bin", path == "data", path == "dist":
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, err := format.Source(src)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", path, err))
		} else if !bytes.Equal(src, want) {
			bad = append(bad, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return fmt.Errorf("run gofmt -w on:\n%s", strings.Join(bad, "\n"))
	}
	return nil
}

var fuzzName = regexp.MustCompile(`(?m)^Fuzz\w*$`)

// fuzzAll runs every fuzz target of the packages for d, one after the other: the go command fuzzes one at a time.
func fuzzAll(t *tally, d time.Duration, patterns []string) {
	list, err := exec.Command("go", append([]string{"list"}, patterns...)...).Output()
	if err != nil {
		t.ok("go list", err)
		return
	}
	for pkg := range strings.FieldsSeq(string(list)) {
		names, err := exec.Command("go", "test", "-list", "^Fuzz", pkg).CombinedOutput()
		if err != nil {
			t.ok("listing the targets of "+short(pkg), fmt.Errorf("%w\n%s", err, names))
			continue
		}
		for _, name := range fuzzName.FindAllString(string(names), -1) {
			t.ok(short(pkg)+" "+name, command("go", "test", "-run=^$", "-fuzz=^"+name+"$", "-fuzztime="+d.String(), pkg))
		}
	}
}

const lintVersion = "v2.15.0"

// checkAll runs what `make test` leaves out. A check that cannot run on this machine is skipped by name, with the reason.
func checkAll(t *tally) {
	if _, err := exec.LookPath(cc()); err != nil {
		t.skip("race detector", "it needs a C compiler and "+cc()+" was not found")
	} else {
		goTest(t, []string{"test", "-race", "-json", "-count=1", "-vet=off", "-timeout=20m", "./..."}, true)
	}
	for _, tags := range []string{"", "invariants", "blockcheck", "deps"} {
		t.ok(strings.TrimSpace("go vet -tags="+tags), command("go", vetArgs(tags, []string{"./..."})...))
	}
	lint(t)
	t.ok("generated files are clean", command("go", "test", "-count=1", "-run=UpToDate", "./..."))
}

func (t *tally) skip(name, why string) {
	t.skipped++
	fmt.Printf("skip  %s: %s\n", name, why)
}

func cc() string {
	if c := os.Getenv("CC"); c != "" {
		return strings.Fields(c)[0]
	}
	return "gcc"
}

// lint runs golangci-lint: the one in PATH, else the pinned release through the module proxy.
func lint(t *tally) {
	args := []string{"run", "./..."}
	if path, err := exec.LookPath("golangci-lint"); err == nil {
		t.ok("golangci-lint", command(path, args...))
		return
	}
	module := "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@" + lintVersion
	if out, err := exec.Command("go", "run", module, "version").CombinedOutput(); err != nil {
		t.skip("golangci-lint "+lintVersion, lastLine(out, err))
		return
	}
	t.ok("golangci-lint "+lintVersion, command("go", append([]string{"run", module}, args...)...))
}

func lastLine(out []byte, err error) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return err.Error()
}
