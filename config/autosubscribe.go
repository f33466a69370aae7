package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// AutoSubscription is a subscription that every new session begins with; docs/mqtt.md explains it.
type AutoSubscription struct {
	Topic             string // filter, in which %c is the client identifier and %u the user
	QoS               int
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    int
}

// AutoSubscriptions is the list of them.
type AutoSubscriptions []AutoSubscription

const autoExpected = "{topic: devices/%c/commands, qos: 1}"

// autoMost is how many a session can begin with.
const autoMost = 100

// String gives the form that the parser reads.
func (as AutoSubscriptions) String() string {
	parts := make([]string, len(as))
	for i, a := range as {
		parts[i] = fmt.Sprintf("{topic: %s, qos: %d, no_local: %t, retain_as_published: %t, retain_handling: %d}", quote(a.Topic), a.QoS, a.NoLocal,
			a.RetainAsPublished, a.RetainHandling)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// parseAutoSubscriptions reads a list of them; with an error it tells which node is wrong.
func parseAutoSubscriptions(n *yaml.Node) (as AutoSubscriptions, bad *yaml.Node, err error) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, n, fmt.Errorf("want a list of subscriptions such as %s, found %s", autoExpected, strictyaml.Kind(n))
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		a, bad, err := parseAutoSubscription(item)
		if err != nil {
			return nil, bad, err
		}
		if as = append(as, a); len(as) > autoMost {
			return nil, item, fmt.Errorf("want at most %d subscriptions", autoMost)
		}
	}
	return as, nil, nil
}

func parseAutoSubscription(item *yaml.Node) (a AutoSubscription, bad *yaml.Node, err error) {
	if item.Kind != yaml.MappingNode {
		return a, item, fmt.Errorf("want a subscription such as %s, found %s", autoExpected, strictyaml.Kind(item))
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		k, v := item.Content[i], strictyaml.Resolve(item.Content[i+1])
		if v.Kind != yaml.ScalarNode || strictyaml.IsNull(v) {
			return a, v, fmt.Errorf("%s: want a value, found %s", k.Value, strictyaml.Kind(v))
		}
		switch k.Value {
		case "topic":
			a.Topic, err = v.Value, checkAutoTopic(v.Value)
		case "qos":
			a.QoS, err = upToTwo(v.Value)
		case "no_local":
			a.NoLocal, err = trueOrFalse(v.Value)
		case "retain_as_published":
			a.RetainAsPublished, err = trueOrFalse(v.Value)
		case "retain_handling":
			a.RetainHandling, err = upToTwo(v.Value)
		default:
			return a, k, fmt.Errorf("a subscription has no key %q: want topic, qos, no_local, retain_as_published or retain_handling", k.Value)
		}
		if err != nil {
			return a, v, fmt.Errorf("%s: %w", k.Value, err)
		}
	}
	switch {
	case a.Topic == "":
		return a, item, errors.New("a subscription needs a topic")
	case a.NoLocal && strings.HasPrefix(a.Topic, "$share/"):
		return a, item, errors.New("no_local: a shared subscription cannot have it")
	}
	return a, nil, nil
}

// checkAutoTopic looks for what would be no filter, whoever the client is.
func checkAutoTopic(topic string) error {
	filter := strings.TrimPrefix(topic, "$exclusive/")
	if rest, shared := strings.CutPrefix(topic, "$share/"); shared {
		group, f, _ := strings.Cut(rest, "/")
		if filter = f; group == "" || strings.ContainsAny(group, "+#") {
			return fmt.Errorf("want $share/GROUP/FILTER, found %q", topic)
		}
	}
	if filter == "" || len(topic) > 65535 || !utf8.ValidString(topic) || strings.IndexByte(topic, 0) >= 0 {
		return fmt.Errorf("want a topic filter, found %q", topic)
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		if l != "+" && (l != "#" || i < len(levels)-1) && strings.ContainsAny(l, "+#") {
			return fmt.Errorf("%q: + has to be a whole level, # the last one", topic)
		}
	}
	return nil
}

func upToTwo(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 2 {
		return 0, fmt.Errorf("want 0, 1 or 2, found %q", text)
	}
	return n, nil
}

func trueOrFalse(text string) (bool, error) {
	switch text {
	case "true", "on", "yes":
		return true, nil
	case "false", "off", "no":
		return false, nil
	}
	return false, fmt.Errorf("want true or false, found %q", text)
}

// autoSubscriptions assigns the list in a file, each fault with its place.
func (d *decoder) autoSubscriptions(k *Key, v *yaml.Node) {
	as, bad, err := parseAutoSubscriptions(v)
	if err != nil {
		d.problem(at(d.file, bad), k.Name, err)
		return
	}
	d.assign(k, raw{auto: &as}, at(d.file, v))
}

// parseAutoSubscriptionsText reads the list as a flag or the environment gives it: YAML in one line.
func parseAutoSubscriptionsText(text string) (AutoSubscriptions, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [%s], found %q", autoExpected, text)
	}
	as, _, err := parseAutoSubscriptions(doc.Content[0])
	return as, err
}
