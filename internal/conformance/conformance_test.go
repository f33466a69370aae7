package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func load(t *testing.T) (string, *Table) {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	table, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, table
}

// TestEveryStatement: each statement has a test or a reason, and not both.
func TestEveryStatement(t *testing.T) {
	_, table := load(t)
	for _, p := range table.Problems {
		t.Error(p)
	}
	if n := len(table.Pending()); n > 0 {
		t.Logf("%d statements are open in pending.txt", n)
	}
}

// TestDocumentUpToDate: the document says what the tests say.
func TestDocumentUpToDate(t *testing.T) {
	root, table := load(t)
	got, err := os.ReadFile(filepath.Join(root, Document))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, table.Render()) {
		t.Errorf("%s is out of date; run go generate ./internal/conformance", Document)
	}
}

// TestRules builds small trees, each with one thing wrong.
func TestRules(t *testing.T) {
	const id = "MQTT-1.2.3-4"
	proof := "package x\n\n// Conformance: MQTT-1.2.3-4 (3.1.1, 5.0), MQTT-1.2.3-5 (5.0)\nfunc TestX(t *testing.T) {\n}\n"
	for _, c := range []struct {
		name, file, content, want string
	}{
		{"all is well", "", "", ""},
		{"in the body", "x_test.go", "package x\n\nfunc TestX(t *testing.T) {\n\t// Conformance: MQTT-1.2.3-4 (3.1.1)\n" +
			"\t// Conformance: MQTT-1.2.3-4 (5.0), MQTT-1.2.3-5 (5.0)\n}\n", ""},
		{"neither", "x_test.go", "package x\n", "neither a test nor a line"},
		{"both", "untestable.txt", "5.0 " + id + " no reason\n", "untestable.txt excuses it, and TestX claims it"},
		{"no reason", "untestable.txt", "5.0 " + id + "\n", "want one line with a reason"},
		{"unknown excuse", "untestable.txt", "5.0 MQTT-9.9.9-9 reason\n", "no statement 5.0 MQTT-9.9.9-9"},
		{"settled", "pending.txt", "5.0 " + id + "\n", "still in pending.txt"},
		{"unknown claim", "y_test.go", "package x\n\n// Conformance: MQTT-9.9.9-9 (5.0)\nfunc TestY(t *testing.T) {}\n",
			"no statement 5.0 MQTT-9.9.9-9"},
		{"unknown version", "y_test.go", "package x\n\n// Conformance: MQTT-1.2.3-4 (4.0)\nfunc TestY(t *testing.T) {}\n",
			"no statement 4.0 MQTT-1.2.3-4"},
		{"no version", "y_test.go", "package x\n\n// Conformance: MQTT-1.2.3-4\nfunc TestY(t *testing.T) {}\n", "not a list"},
		{"no function", "y_test.go", "package x\n\n// Conformance: MQTT-1.2.3-4 (5.0)\n\nvar y int\n", "no test function"},
		{"a helper", "y_test.go", "package x\n\n// Conformance: MQTT-1.2.3-4 (5.0)\nfunc check() {}\n", "no test function"},
		{"Testing is no test", "y_test.go", "package x\n\n// Conformance: MQTT-1.2.3-4 (5.0)\nfunc Testing() {}\n", "no test function"},
		{"no summary", "statements.txt", "5.0 MQTT-1.2.3-4 both means\n", "3.1.1 MQTT-1.2.3-4: missing"},
		{"no role", "statements.txt", "5.0 MQTT-1.2.3-4 nobody means\n", "want one line with a role"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"x_test.go": proof, "ids-3.1.1.txt": id + "\n", "ids-5.0.txt": id + "\nMQTT-1.2.3-5\n",
				"statements.txt": "3.1.1 MQTT-1.2.3-4 server says\n5.0 MQTT-1.2.3-4 both means\n5.0 MQTT-1.2.3-5 client does\n",
				"untestable.txt": "# none\n"}
			if c.file != "" {
				files[c.file] = c.content
			}
			for name, content := range files {
				dir := root
				if strings.HasSuffix(name, ".txt") {
					dir = filepath.Join(root, DataDir)
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			table, err := Load(root)
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(table.Problems, "\n")
			if c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("problems %q, want %q", all, c.want)
			}
		})
	}
}
