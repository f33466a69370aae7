package arch

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write cmd/sluice/deps.txt")

// TestDependenciesUpToDate compares the modules in the binary with cmd/sluice/deps.txt, so that one that comes or goes is seen in
// review.
func TestDependenciesUpToDate(t *testing.T) {
	out := goCommand(t, "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/sluice")
	mods := strings.Fields(strings.ReplaceAll(string(out), " ", "@"))
	slices.Sort(mods)
	mods = slices.Compact(mods)
	want := strings.ReplaceAll(strings.Join(mods, "\n"), "@", " ") + "\n"
	file := filepath.Join(root, "cmd/sluice/deps.txt")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("cmd/sluice/deps.txt is not what the binary is made of; look at each change, then `make generate`.\nThe binary has:\n%s", want)
	}
}
