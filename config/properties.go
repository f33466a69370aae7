package config

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
	"github.com/sluicemq/sluice/internal/template"
)

// PropertyRule changes user properties of what MQTT clients publish; docs/mqtt.md explains it.
type PropertyRule struct {
	Topic  string        // filter
	Set    []SetProperty // in the order of the file
	Remove []string      // names
}

// SetProperty is a user property that a rule sets.
type SetProperty struct {
	Name  string
	Value string // template
}

// Template is the value as the broker uses it.
func (p *SetProperty) Template() template.Template {
	t, _ := template.Parse(p.Value) // a loaded configuration has none that fails
	return t
}

// PropertyRules is the list of them.
type PropertyRules []PropertyRule

const propertiesExpected = `{topic: "#", set: {client: "%c"}, remove: [name]}`

// Bounds of the rules: each message is looked at by all of them.
const (
	propertyRulesMost = 32
	propertiesMost    = 32 // of one rule
)

// String gives the form that the parser reads.
func (rs PropertyRules) String() string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		set, remove := make([]string, len(r.Set)), make([]string, len(r.Remove))
		for j, s := range r.Set {
			set[j] = quote(s.Name) + ": " + quote(s.Value)
		}
		for j, name := range r.Remove {
			remove[j] = quote(name)
		}
		parts[i] = fmt.Sprintf("{topic: %s, set: {%s}, remove: [%s]}", quote(r.Topic), strings.Join(set, ", "), strings.Join(remove, ", "))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// parsePropertyRules reads a list of rules; with an error it tells which node is wrong.
func parsePropertyRules(n *yaml.Node) (rs PropertyRules, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of rules such as %s, found %s", propertiesExpected, strictyaml.Kind(n))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		r, bad, err := parsePropertyRule(item)
		if err != nil {
			return nil, bad, err
		}
		if rs = append(rs, r); len(rs) > propertyRulesMost {
			return nil, item, fmt.Errorf("want at most %d rules", propertyRulesMost)
		}
	}
	return rs, nil, nil
}

func parsePropertyRule(item *yaml.Node) (r PropertyRule, bad *yaml.Node, err error) {
	r.Topic = "#"
	if item.Kind != yaml.MappingNode {
		return r, item, fmt.Errorf("want a rule such as %s, found %s", propertiesExpected, strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		bad = v
		switch k.Value {
		case "topic":
			r.Topic = v.Value
			if err = checkAutoTopic(v.Value); v.Kind != yaml.ScalarNode || strings.HasPrefix(v.Value, "$share/") || strings.HasPrefix(v.Value, "$exclusive/") {
				err = fmt.Errorf("want a topic filter, found %q", v.Value)
			}
		case "set":
			r.Set, bad, err = parseSetProperties(v)
		case "remove":
			r.Remove, bad, err = parsePropertyNames(v)
		default:
			return r, k, fmt.Errorf("a rule has no key %q: want topic, set or remove", k.Value)
		}
		if err != nil {
			return r, bad, fmt.Errorf("%s: %w", k.Value, err)
		}
	}
	switch n := len(r.Set) + len(r.Remove); {
	case n == 0:
		return r, item, errors.New("a rule needs set or remove")
	case n > propertiesMost:
		return r, item, fmt.Errorf("want at most %d properties in a rule", propertiesMost)
	}
	return r, nil, nil
}

func parseSetProperties(v *yaml.Node) (set []SetProperty, bad *yaml.Node, err error) {
	if v.Kind != yaml.MappingNode {
		return nil, v, fmt.Errorf("want names and values, found %s", strictyaml.Kind(v))
	}
	for i := 0; i+1 < len(v.Content); i += 2 {
		name, value := v.Content[i], strictyaml.Resolve(v.Content[i+1])
		if value.Kind != yaml.ScalarNode || strictyaml.IsNull(value) {
			return nil, value, fmt.Errorf("%s: want a value, found %s", name.Value, strictyaml.Kind(value))
		}
		if err := template.Check(name.Value); err != nil {
			return nil, name, err
		}
		if _, err := template.Parse(value.Value); err != nil {
			return nil, value, fmt.Errorf("%s: %w", name.Value, err)
		}
		set = append(set, SetProperty{name.Value, value.Value})
	}
	return set, nil, nil
}

func parsePropertyNames(v *yaml.Node) (names []string, bad *yaml.Node, err error) {
	if v.Kind != yaml.SequenceNode {
		return nil, v, fmt.Errorf("want a list of names, found %s", strictyaml.Kind(v))
	}
	for _, item := range v.Content {
		item = strictyaml.Resolve(item)
		if item.Kind != yaml.ScalarNode {
			return nil, item, fmt.Errorf("want a name, found %s", strictyaml.Kind(item))
		}
		if err := template.Check(item.Value); err != nil {
			return nil, item, err
		}
		names = append(names, item.Value)
	}
	return names, nil, nil
}

// propertyRules assigns the list in a file, each fault with its place.
func (d *decoder) propertyRules(k *Key, v *yaml.Node) {
	rs, bad, err := parsePropertyRules(v)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	d.assign(k, raw{properties: &rs}, at(d.file, v))
}

// parsePropertyRulesText reads the list as a flag or the environment gives it: YAML in one line.
func parsePropertyRulesText(text string) (PropertyRules, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [%s], found %q", propertiesExpected, text)
	}
	rs, _, err := parsePropertyRules(doc.Content[0])
	return rs, err
}
