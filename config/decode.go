package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// yaml assigns what the file says, and reports every key that it cannot.
func (l *loader) yaml(name string, data []byte) {
	root, fault := strictyaml.Document(data, "a configuration")
	if fault != nil {
		l.problem(Source{Kind: "file", Name: name, Line: fault.At.Line, Col: fault.At.Col}, "", fault.Err)
		return
	}
	if root != nil {
		d := decoder{loader: l, file: name}
		d.mapping("", root)
	}
}

type decoder struct {
	*loader
	file string
}

func (d *decoder) mapping(prefix string, m *yaml.Node) {
	full := func(k *yaml.Node) string {
		switch {
		case k.Kind != yaml.ScalarNode:
			return prefix
		case prefix == "":
			return k.Value
		}
		return prefix + "." + k.Value
	}
	strictyaml.Entries(m, func(k, v *yaml.Node) {
		d.entry(full(k), at(d.file, k), v)
	}, func(k *yaml.Node, err error) {
		d.problem(at(d.file, k), full(k), err)
	})
}

func (d *decoder) entry(name string, where Source, v *yaml.Node) {
	if k := byName[name]; k != nil && k.Kind == "bindings" {
		d.bindings(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "principals" {
		d.principals(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "subscriptions" {
		d.autoSubscriptions(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "listeners" {
		d.named(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "property rules" {
		d.propertyRules(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "rewrites" {
		d.rewrites(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "bridges" {
		d.bridges(k, v)
		return
	}
	if k := byName[name]; k != nil && k.Kind == "settings" {
		d.settings(k, v)
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
	case strictyaml.IsNull(v): // `tls:` with everything below it commented out
	default:
		d.problem(at(d.file, v), name, fmt.Errorf("want keys below it, found %s", strictyaml.Kind(v)))
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
	if n.Kind == yaml.SequenceNode {
		list, err := strictyaml.List(n)
		return raw{list: list, isList: true}, err
	}
	text, err := strictyaml.Text(n)
	return raw{text: text}, err
}

func at(file string, n *yaml.Node) Source {
	return Source{Kind: "file", Name: file, Line: n.Line, Col: n.Column}
}
