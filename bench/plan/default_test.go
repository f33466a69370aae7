package plan

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// The example's answer by the model in the program, which docs/capacity.md shows.
func TestExampleFleet(t *testing.T) {
	text, err := os.ReadFile("../../examples/fleet-100k.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFleet("examples/fleet-100k.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Ask(f, "in the program, "+m.About())
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := a.WriteTable(&got); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/fleet-100k.txt", got.Bytes())
	page, err := os.ReadFile("../../docs/capacity.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(got.String()) {
		if !bytes.Contains(page, []byte(strings.TrimRight(line, "\n"))) {
			t.Errorf("docs/capacity.md does not have %q", line)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the answer is not %s (go test ./bench/plan -update writes it):\n%s", name, got)
	}
}

// The model in the program is as good as the figures asked of it.
func TestDefaultModel(t *testing.T) {
	m, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	c := &m.Check
	if c.CPU.Rungs < 60 || c.CPU.Median > 0.15 || c.CPU.Coverage < 0.9 {
		t.Errorf("CPU: %d rungs, median error %.3f, coverage %.2f", c.CPU.Rungs, c.CPU.Median, c.CPU.Coverage)
	}
	if c.CPU.Repeat.Rungs < 60 || m.Version == "dev" {
		t.Errorf("%d rungs measured again, of version %s", c.CPU.Repeat.Rungs, m.Version)
	}
	if c.Memory.Rungs < 20 || c.Memory.P90 > 0.10 || c.Memory.Coverage < 0.9 {
		t.Errorf("memory: %d rungs, 90 %% of the errors below %.3f, coverage %.2f", c.Memory.Rungs, c.Memory.P90, c.Memory.Coverage)
	}
}
