package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// testName finds the tests of a file. What go test finds beside them (examples, seeds of fuzz targets) is found too.
var testName = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)

// having narrows patterns to the packages that have a test which run matches: the others' test binaries, each with the whole broker in it,
// need not be built.
func having(run string, patterns []string) ([]string, error) {
	name, _, _ := strings.Cut(run, "/") // the rest is of subtests
	match, err := regexp.Compile(name)
	if err != nil {
		return nil, err
	}
	const format = "{{$p := .}}{{range .TestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}\n{{end}}{{range .XTestGoFiles}}{{$p.ImportPath}} {{$p.Dir}} {{.}}\n{{end}}"
	cmd := exec.Command("go", append([]string{"list", "-e", "-f", format}, patterns...)...)
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(list)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 2)
		if len(f) < 2 || len(found) > 0 && found[len(found)-1] == f[0] {
			continue
		}
		dir, file, ok := cutLast(f[1])
		if !ok {
			return nil, fmt.Errorf("go list: %q", line)
		}
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		for _, m := range testName.FindAllSubmatch(text, -1) {
			if match.Match(m[1]) {
				found = append(found, f[0])
				break
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no test matches " + run)
	}
	return found, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	return s[:max(i, 0)], s[i+1:], i >= 0
}
