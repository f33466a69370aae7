package config

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yaml assigns what the file says, and reports every key that it cannot.
func (l *loader) yaml(name string, data []byte) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // an empty file is a file without keys
	}
	if err != nil {
		l.problem(syntaxSource(name, err), "", syntaxError(err))
		return
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		l.problem(Source{Kind: "file", Name: name, Line: max(next.Line, 1), Col: max(next.Column, 1)}, "",
			errors.New("a configuration is one YAML document, found a second"))
		return
	}
	root := resolve(doc.Content[0])
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return
	}
	if root.Kind != yaml.MappingNode {
		l.problem(at(name, root), "", fmt.Errorf("want keys and values, found %s", nodeKind(root)))
		return
	}
	d := decoder{loader: l, file: name}
	d.mapping("", root)
}

type decoder struct {
	*loader
	file string
}

func (d *decoder) mapping(prefix string, m *yaml.Node) {
	seen := map[string]int{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		kn, vn := m.Content[i], resolve(m.Content[i+1])
		where := at(d.file, kn)
		if kn.Kind != yaml.ScalarNode {
			d.problem(where, prefix, fmt.Errorf("want a key, found %s", nodeKind(kn)))
			continue
		}
		name := kn.Value
		if prefix != "" {
			name = prefix + "." + name
		}
		if line, dup := seen[name]; dup {
			d.problem(where, name, fmt.Errorf("is set twice, first in line %d", line))
			continue
		}
		seen[name] = kn.Line
		d.entry(name, where, vn)
	}
}

func (d *decoder) entry(name string, where Source, v *yaml.Node) {
	if k := byName[name]; k != nil && k.Kind == "bindings" {
		d.bindings(k, v)
		return
	}
	if k := byName[name]; k != nil {
		r, err := rawNode(v)
		if err != nil {
			d.problem(at(d.file, v), name, err)
			return
		}
		d.assign(k, r, at(d.file, v))
		return
	}
	if !isSection(name) {
		d.problem(where, name, unknown(name, v.Kind == yaml.MappingNode))
		return
	}
	switch {
	case v.Kind == yaml.MappingNode:
		d.mapping(name, v)
	case v.Kind == yaml.ScalarNode && v.Tag == "!!null": // `tls:` with everything below it commented out
	default:
		d.problem(at(d.file, v), name, fmt.Errorf("want keys below it, found %s", nodeKind(v)))
	}
}

func isSection(name string) bool {
	for i := range keys {
		if strings.HasPrefix(keys[i].Name, name) && keys[i].Name[len(name)] == '.' {
			return true
		}
	}
	return false
}

func rawNode(n *yaml.Node) (raw, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return raw{}, errors.New("has no value; leave the key out for its default")
		}
		return raw{text: n.Value}, nil
	case yaml.SequenceNode:
		r := raw{isList: true}
		for _, e := range n.Content {
			e = resolve(e)
			if e.Kind != yaml.ScalarNode || e.Tag == "!!null" {
				return raw{}, fmt.Errorf("want plain values in the list, found %s", nodeKind(e))
			}
			r.list = append(r.list, e.Value)
		}
		return r, nil
	default:
		return raw{}, fmt.Errorf("want a value, found %s", nodeKind(n))
	}
}

// resolve follows an alias to what it names. An alias never names an alias, so one step is enough.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func at(file string, n *yaml.Node) Source {
	return Source{Kind: "file", Name: file, Line: n.Line, Col: n.Column}
}

func nodeKind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	default:
		return "something else"
	}
}

// yamlLine finds the line in a message of the YAML parser, which gives no column.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+)(?: column (\d+))?: `)

func syntaxSource(file string, err error) Source {
	s := Source{Kind: "file", Name: file, Line: 1, Col: 1}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		s.Line, _ = strconv.Atoi(m[1])
		if m[2] != "" {
			s.Col, _ = strconv.Atoi(m[2])
		}
	}
	return s
}

func syntaxError(err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindString(err.Error()); m != "" {
		msg = strings.TrimPrefix(err.Error(), m)
	}
	return fmt.Errorf("not YAML: %s", msg)
}
