package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCollector(t *testing.T) {
	const p = `"Package":"github.com/sluicemq/sluice/x"`
	tests := []struct {
		name, in string
		want     tally
		prints   string
	}{
		{"pass is silent", `{"Action":"run",` + p + `,"Test":"TestA"}
{"Action":"output",` + p + `,"Test":"TestA","Output":"noise\n"}
{"Action":"pass",` + p + `,"Test":"TestA"}
{"Action":"pass",` + p + `,"Elapsed":1}`, tally{passed: 1}, "ok    x  1 tests"},
		{"failure shows its output", `{"Action":"run",` + p + `,"Test":"TestA"}
{"Action":"output",` + p + `,"Test":"TestA","Output":"a_test.go:1: broken\n"}
{"Action":"fail",` + p + `,"Test":"TestA"}
{"Action":"fail",` + p + `,"Elapsed":1}`, tally{failed: 1}, "a_test.go:1: broken"},
		{"skip says why", `{"Action":"output",` + p + `,"Test":"TestA","Output":"a_test.go:3: no IPv6 here\n"}
{"Action":"output",` + p + `,"Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip",` + p + `,"Test":"TestA"}
{"Action":"pass",` + p + `}`, tally{skipped: 1}, "no IPv6 here"},
		{"build failure is one failure", `{"Action":"build-output","ImportPath":"x.test","Output":"x.go:1: syntax\n"}
{"Action":"build-fail","ImportPath":"x.test"}
{"Action":"fail",` + p + `,"FailedBuild":"x.test"}`, tally{failed: 1}, "x.go:1: syntax"},
		{"a test that never ended is a failure", `{"Action":"run",` + p + `,"Test":"TestA"}
{"Action":"output",` + p + `,"Output":"panic: test timed out\n"}
{"Action":"fail",` + p + `}`, tally{failed: 1}, "never ended"},
		{"stray output is passed on", "not json\n", tally{}, "not json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got tally
			var out strings.Builder
			if err := newCollector(&got, &out).read(strings.NewReader(tt.in)); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("tally %v, want %v", got, tt.want)
			}
			if !strings.Contains(out.String(), tt.prints) {
				t.Errorf("printed %q, want %q in it", out.String(), tt.prints)
			}
			if tt.want.failed == 0 && strings.Contains(out.String(), "noise") {
				t.Errorf("output of a passing test was printed: %q", out.String())
			}
		})
	}
}

func TestTallyLine(t *testing.T) {
	if got := (tally{1, 2, 3}).String(); got != "1 passed, 2 failed, 3 skipped" {
		t.Errorf("closing line %q", got)
	}
}

func TestGofmtFindsUnformatted(t *testing.T) {
	dir := t.TempDir()
	write := func(name, src string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.go", "package x\n")
	if err := gofmt(dir); err != nil {
		t.Errorf("formatted file was reported: %v", err)
	}
	write("bad.go", "package x\nvar  a=1\n")
	if err := gofmt(dir); err == nil || !strings.Contains(err.Error(), "bad.go") || strings.Contains(err.Error(), "good.go") {
		t.Errorf("got %v, want bad.go alone", err)
	}
}
