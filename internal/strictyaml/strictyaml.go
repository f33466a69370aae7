// Package strictyaml reads YAML files whose every key is known and whose every fault has a line and a column.
//
// It owns what all such files share: finding the place of a syntax error, keys set twice, values of the wrong shape, the nearest
// known name, the list of all that is wrong. It never knows a key: its callers (config, bench/scenarios, bench/plan) walk the nodes and say
// what each means.
package strictyaml

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Place is a position in a file, from 1.
type Place struct{ Line, Col int }

// At tells where n begins.
func At(n *yaml.Node) Place { return Place{n.Line, n.Column} }

// Fault is what is wrong at a place.
type Fault struct {
	At  Place
	Err error
}

// Error gives `line:column: what`.
func (f *Fault) Error() string { return fmt.Sprintf("%d:%d: %v", f.At.Line, f.At.Col, f.Err) }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Problems is all that is wrong, so that one run shows everything.
type Problems[P error] []P

// Error gives a line for each.
func (ps Problems[P]) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// ShortDuration writes d without the units that are zero.
func ShortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Document gives the one mapping that data holds, nil for a file without keys. what names such a file in the message about a
// second document: "a configuration".
func Document(data []byte, what string) (*yaml.Node, *Fault) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, &Fault{syntaxPlace(err), syntaxError(err)}
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, &Fault{Place{max(next.Line, 1), max(next.Column, 1)}, fmt.Errorf("%s is one YAML document, found a second", what)}
	}
	root := Resolve(doc.Content[0])
	if IsNull(root) {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, &Fault{At(root), fmt.Errorf("want keys and values, found %s", Kind(root))}
	}
	return root, nil
}

// Entries calls f for each key of a mapping and its value, and fault for what is no key or is set twice.
func Entries(m *yaml.Node, f func(key, value *yaml.Node), fault func(key *yaml.Node, err error)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		k := m.Content[i]
		if k.Kind != yaml.ScalarNode {
			fault(k, fmt.Errorf("want a key, found %s", Kind(k)))
			continue
		}
		if line, dup := seen[k.Value]; dup {
			fault(k, fmt.Errorf("is set twice, first in line %d", line))
			continue
		}
		seen[k.Value] = k.Line
		f(k, Resolve(m.Content[i+1]))
	}
}

// Text gives a value that is one text.
func Text(n *yaml.Node) (string, error) {
	if IsNull(n) {
		return "", errors.New("has no value; leave the key out for its default")
	}
	if n.Kind != yaml.ScalarNode {
		return "", fmt.Errorf("want a value, found %s", Kind(n))
	}
	return n.Value, nil
}

// List gives a value that is a list of texts.
func List(n *yaml.Node) ([]string, error) {
	var list []string
	for _, e := range n.Content {
		e = Resolve(e)
		if e.Kind != yaml.ScalarNode || IsNull(e) {
			return nil, fmt.Errorf("want plain values in the list, found %s", Kind(e))
		}
		list = append(list, e.Value)
	}
	return list, nil
}

// IsNull tells whether n is there without a value.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// Resolve follows an alias to what it names. An alias never names an alias, so one step is enough.
func Resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// Kind says for people what n is.
func Kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if IsNull(n) {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	default:
		return "something else"
	}
}

// yamlLine finds the line in a message of the YAML parser, which gives no column.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+)(?: column (\d+))?: `)

func syntaxPlace(err error) Place {
	p := Place{1, 1}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		p.Line, _ = strconv.Atoi(m[1])
		if m[2] != "" {
			p.Col, _ = strconv.Atoi(m[2])
		}
	}
	return p
}

func syntaxError(err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindString(err.Error()); m != "" {
		msg = strings.TrimPrefix(err.Error(), m)
	}
	return fmt.Errorf("not YAML: %s", msg)
}

// Nearest gives the candidate that name was most likely meant to be, or "" where none is near.
func Nearest(name string, candidates []string) string {
	best, dist := "", len(name)/2+1
	for _, cand := range candidates {
		if d := Distance(name, cand); d < dist {
			best, dist = cand, d
		}
	}
	return best
}

// Distance is the edit distance of a and b, a swap of neighbours counting once. Of a, 256 bytes count.
func Distance(a, b string) int {
	if len(a) > 256 {
		a = a[:256]
	}
	prev2, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
