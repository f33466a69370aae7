package api

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedUpToDate: the generated code is made of the .proto files that lie here.
func TestGeneratedUpToDate(t *testing.T) {
	files, err := filepath.Glob("*.proto")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var want strings.Builder
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(src), name)
	}
	have, err := os.ReadFile("sources.sum")
	if err != nil || string(have) != want.String() {
		t.Errorf("%v; the code is made of other files: run make generate", err)
	}
}
