package strictyaml_test

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

func TestDocument(t *testing.T) {
	for text, want := range map[string]string{
		"":                 "",
		"# nothing":        "",
		"~":                "",
		"a: 1\n":           "",
		"- 1\n":            "1:1: want keys and values, found a list",
		"a: 1\n---\nb: 2":  "a file is one YAML document, found a second",
		"a: 1\n\tb: 2\n":   "2:1: not YAML: ",
		"a: [1\nb: {\n":    "not YAML: ",
		"x: &a {b: 1}\n\n": "",
	} {
		_, fault := strictyaml.Document([]byte(text), "a file")
		if (fault == nil) != (want == "") || fault != nil && !strings.Contains(fault.Error(), want) {
			t.Errorf("%q: %v, want %q", text, fault, want)
		}
	}
}

func TestEntries(t *testing.T) {
	root, fault := strictyaml.Document([]byte("a: 1\nb: [x, y]\na: 2\n[c]: 3\nd: &k {e: 1}\nf: *k\ng:\n"), "a file")
	if fault != nil {
		t.Fatal(fault)
	}
	var said []string
	strictyaml.Entries(root, func(k, v *yaml.Node) {
		said = append(said, fmt.Sprintf("%s=%s", k.Value, strictyaml.Kind(v)))
	}, func(k *yaml.Node, err error) {
		said = append(said, fmt.Sprintf("%d: %v", strictyaml.At(k).Line, err))
	})
	want := `a="1"|b=a list|3: is set twice, first in line 1|4: want a key, found a list|d=keys and values|f=keys and values|g=nothing`
	if got := strings.Join(said, "|"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"publishers", "subscribers", "rate", "payload"}
	for name, want := range map[string]string{"publisher": "publishers", "raet": "rate", "paylod": "payload", "zzzzzz": "", "": ""} {
		if got := strictyaml.Nearest(name, names); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
