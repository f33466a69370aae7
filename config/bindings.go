package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Binding ties the MQTT topics that a filter matches to a stream; docs/mapping.md explains it.
type Binding struct {
	Filter     string // MQTT topic filter
	Topic      string // name of the stream, which is made if it is not there
	Key        string // topic, level:N or client
	Deliver    string // key, off, or a template with ${key}
	Partitions int    // of a topic that is made; 0: kafka.partitions
}

// Bindings is the list of them.
type Bindings []Binding

// String gives the form that the parser reads.
func (bs Bindings) String() string {
	parts := make([]string, len(bs))
	for i, b := range bs {
		parts[i] = fmt.Sprintf("{filter: %s, topic: %s, key: %s, deliver: %s", quote(b.Filter), quote(b.Topic), quote(b.Key), quote(b.Deliver))
		if b.Partitions > 0 {
			parts[i] += ", partitions: " + strconv.Itoa(b.Partitions)
		}
		parts[i] += "}"
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// bindingPartitionsMax is the most partitions of a topic.
const bindingPartitionsMax = 10_000

// parseBindings reads a list of bindings; with an error it tells which node is wrong.
func parseBindings(n *yaml.Node) (bs Bindings, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of bindings such as {filter: plant/+/temp, topic: temps}, found %s", strictyaml.Kind(n))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		b, bad, err := parseBinding(item)
		if err != nil {
			return nil, bad, err
		}
		bs = append(bs, b)
	}
	return bs, nil, nil
}

func parseBinding(item *yaml.Node) (b Binding, bad *yaml.Node, err error) {
	b = Binding{Key: "topic", Deliver: "key"}
	if item.Kind != yaml.MappingNode {
		return b, item, fmt.Errorf("want a binding such as {filter: plant/+/temp, topic: temps}, found %s", strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		if v.Kind != yaml.ScalarNode || strictyaml.IsNull(v) {
			return b, v, fmt.Errorf("%s: want a value, found %s", k.Value, strictyaml.Kind(v))
		}
		switch k.Value {
		case "filter":
			b.Filter = v.Value
		case "topic":
			b.Topic = v.Value
		case "key":
			b.Key = v.Value
		case "deliver":
			b.Deliver = v.Value
			if v.Tag == "!!bool" && (v.Value == "false" || v.Value == "off") {
				b.Deliver = "off"
			}
		case "partitions":
			n, err := strconv.Atoi(v.Value)
			if err != nil || n < 1 || n > bindingPartitionsMax {
				return b, v, fmt.Errorf("partitions: want a number from 1 to %d, found %q", bindingPartitionsMax, v.Value)
			}
			b.Partitions = n
		default:
			return b, k, fmt.Errorf("a binding has no key %q: want filter, topic, key, deliver or partitions", k.Value)
		}
	}
	switch {
	case b.Filter == "":
		return b, item, errors.New("a binding needs a filter")
	case b.Topic == "":
		return b, item, errors.New("a binding needs a topic")
	}
	return b, nil, nil
}

// bindings assigns the list in a file, each fault with its place.
func (d *decoder) bindings(k *Key, v *yaml.Node) {
	bs, bad, err := parseBindings(v)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	for i := range bs {
		if d.checkBinding == nil {
			break
		}
		if err := d.checkBinding(&bs[i]); err != nil {
			d.problem(at(d.file, strictyaml.Resolve(v).Content[i]), k.Name, err)
			return
		}
	}
	d.assign(k, raw{bindings: &bs}, at(d.file, v))
}

// parseBindingsText reads the list as a flag or the environment gives it: YAML in one line.
func parseBindingsText(text string) (Bindings, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [{filter: plant/+/temp, topic: temps}], found %q", text)
	}
	bs, _, err := parseBindings(doc.Content[0])
	return bs, err
}
