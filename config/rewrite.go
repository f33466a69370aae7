package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/rewrite"
	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Rewrite puts another topic in the place of one that a client names; docs/mqtt.md explains it.
type Rewrite struct {
	Action string // publish, subscribe or all
	From   string // topic filter
	To     string // topic, in which $1 to $9 are what the wildcards of From stand for
}

// Rewrites is the list of them, the first that matches counts.
type Rewrites []Rewrite

const rewritesExpected = "{action: all, from: x/+/y/#, to: z/$1/$2}"

// String gives the form that the parser reads.
func (rs Rewrites) String() string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("{action: %s, from: %s, to: %s}", r.Action, quote(r.From), quote(r.To))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// Rules are the list as the broker uses it, nil if there are none. Rules that a loaded configuration cannot have are left out.
func (rs Rewrites) Rules() (rules rewrite.Rules) {
	for i := range rs {
		if r, err := rs[i].rule(); err == nil {
			rules = append(rules, r)
		}
	}
	return rules
}

func (r *Rewrite) rule() (*rewrite.Rule, error) {
	actions := rewrite.Publish | rewrite.Subscribe
	switch r.Action {
	case "publish":
		actions = rewrite.Publish
	case "subscribe":
		actions = rewrite.Subscribe
	case "all":
	default:
		return nil, fmt.Errorf("action: want publish, subscribe or all, found %q", r.Action)
	}
	return rewrite.New(actions, r.From, r.To)
}

// parseRewrites reads a list of rules; with an error it tells which node is wrong.
func parseRewrites(n *yaml.Node) (rs Rewrites, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of rules such as %s, found %s", rewritesExpected, strictyaml.Kind(n))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		r, bad, err := parseRewrite(item)
		if err != nil {
			return nil, bad, err
		}
		rs = append(rs, r)
	}
	return rs, nil, nil
}

func parseRewrite(item *yaml.Node) (r Rewrite, bad *yaml.Node, err error) {
	r = Rewrite{Action: "all"}
	if item.Kind != yaml.MappingNode {
		return r, item, fmt.Errorf("want a rule such as %s, found %s", rewritesExpected, strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		if v.Kind != yaml.ScalarNode || strictyaml.IsNull(v) {
			return r, v, fmt.Errorf("%s: want a value, found %s", k.Value, strictyaml.Kind(v))
		}
		switch k.Value {
		case "action":
			r.Action = v.Value
		case "from":
			r.From = v.Value
		case "to":
			r.To = v.Value
		default:
			return r, k, fmt.Errorf("a rule has no key %q: want action, from or to", k.Value)
		}
	}
	if _, err := r.rule(); err != nil {
		return r, item, err
	}
	return r, nil, nil
}

// rewrites assigns the list in a file, each fault with its place.
func (d *decoder) rewrites(k *Key, v *yaml.Node) {
	rs, bad, err := parseRewrites(v)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	d.assign(k, raw{rewrites: &rs}, at(d.file, v))
}

// parseRewritesText reads the list as a flag or the environment gives it: YAML in one line.
func parseRewritesText(text string) (Rewrites, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [%s], found %q", rewritesExpected, text)
	}
	rs, _, err := parseRewrites(doc.Content[0])
	return rs, err
}
