package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Bridge is a connection that the node keeps to another MQTT broker; docs/bridge.md explains it.
type Bridge struct {
	Name      string
	Addresses []string // the first that answers counts
	Version   string   // 5 or 3.1.1
	ClientID  string   // at the other broker
	User      string
	Password  Secret
	KeepAlive time.Duration
	CA        string // PEM file with the authorities to trust; empty: the system's
	Cert, Key string // PEM files of a client certificate
	Insecure  bool   // the other broker's certificate is not checked
	Topics    []BridgeTopic
}

// BridgeTopic says which messages go over a bridge, which way, and under which names.
type BridgeTopic struct {
	Filter       string // without either prefix
	Direction    string // out, in or both
	QoS          int
	LocalPrefix  string
	RemotePrefix string
}

// Bridges is the list of them.
type Bridges []Bridge

// Bounds of the list and of what is in it.
const (
	bridgesMax         = 100
	bridgeTopicsMax    = 1000
	bridgeAddressesMax = 16
	bridgeKeepAliveMax = 65535 * time.Second
)

var bridgeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// String gives the form that the parser reads, passwords masked.
func (bs Bridges) String() string {
	parts := make([]string, len(bs))
	for i := range bs {
		parts[i] = bs[i].String()
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// String gives the form that the parser reads, the password masked.
func (b *Bridge) String() string {
	addresses := make([]string, len(b.Addresses))
	for i, a := range b.Addresses {
		addresses[i] = quote(a)
	}
	parts := []string{"name: " + quote(b.Name), "addresses: [" + strings.Join(addresses, ", ") + "]", "version: " + quote(b.Version),
		"client_id: " + quote(b.ClientID), "keep_alive: " + FormatDuration(b.KeepAlive)}
	for _, f := range []struct{ key, value string }{{"user", b.User}, {"password", b.Password.String()}, {"ca", b.CA}, {"cert", b.Cert}, {"key", b.Key}} {
		if f.value != "" {
			parts = append(parts, f.key+": "+quote(f.value))
		}
	}
	if b.Insecure {
		parts = append(parts, "insecure: true")
	}
	topics := make([]string, len(b.Topics))
	for i := range b.Topics {
		topics[i] = b.Topics[i].String()
	}
	return "{" + strings.Join(append(parts, "topics: ["+strings.Join(topics, ", ")+"]"), ", ") + "}"
}

// String gives the form that the parser reads.
func (t *BridgeTopic) String() string {
	text := fmt.Sprintf("{filter: %s, direction: %s, qos: %d", quote(t.Filter), t.Direction, t.QoS)
	if t.LocalPrefix != "" {
		text += ", local_prefix: " + quote(t.LocalPrefix)
	}
	if t.RemotePrefix != "" {
		text += ", remote_prefix: " + quote(t.RemotePrefix)
	}
	return text + "}"
}

// fault is what is wrong with a node of the list.
type fault struct {
	at  *yaml.Node
	err error
}

// parseBridges reads the list.
func parseBridges(n *yaml.Node, env lookup) (bs Bridges, bad *fault) {
	n = strictyaml.Resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, &fault{n, fmt.Errorf("want a list of bridges such as {name: hq, addresses: [mqtts://broker:8883], topics: [{filter: plant/#, direction: out}]}, found %s", strictyaml.Kind(n))}
	}
	if len(n.Content) > bridgesMax {
		return nil, &fault{n, fmt.Errorf("want at most %d bridges, found %d", bridgesMax, len(n.Content))}
	}
	for _, item := range n.Content {
		item = strictyaml.Resolve(item)
		b, bad := parseBridge(item, env)
		if bad != nil {
			return nil, bad
		}
		if slices.ContainsFunc(bs, func(other Bridge) bool { return other.Name == b.Name }) {
			return nil, &fault{item, fmt.Errorf("two bridges are named %q", b.Name)}
		}
		bs = append(bs, b)
	}
	return bs, nil
}

func parseBridge(item *yaml.Node, env lookup) (b Bridge, bad *fault) {
	b = Bridge{Version: "5", KeepAlive: time.Minute}
	bad = eachField(item, "a bridge", func(key string, v *yaml.Node) error {
		switch key {
		case "addresses":
			return listOf(v, &b.Addresses)
		case "topics":
			return b.parseTopics(v)
		}
		text, err := strictyaml.Text(v)
		if err != nil {
			return err
		}
		return b.set(key, text, env)
	})
	if bad != nil {
		return b, bad
	}
	if b.ClientID == "" {
		b.ClientID = b.Name
	}
	if err := b.check(); err != nil {
		return b, &fault{item, err}
	}
	return b, nil
}

func (b *Bridge) set(key, text string, env lookup) (err error) {
	switch key {
	case "name":
		b.Name = text
	case "version":
		b.Version = text
	case "client_id":
		b.ClientID = text
	case "user":
		b.User = text
	case "password":
		b.Password, err = parseSecret(text, false, env)
	case "keep_alive":
		b.KeepAlive, err = ParseDuration(text)
	case "ca":
		b.CA = text
	case "cert":
		b.Cert = text
	case "key":
		b.Key = text
	case "insecure":
		if text != "true" && text != "false" {
			return fmt.Errorf("want true or false, found %q", text)
		}
		b.Insecure = text == "true"
	default:
		return errors.New("a bridge has no such key: want name, addresses, version, client_id, user, password, keep_alive, ca, cert, key, insecure or topics")
	}
	return err
}

// check looks at a bridge as a whole. Addresses and filters are for who can read them.
func (b *Bridge) check() error {
	switch {
	case !bridgeName.MatchString(b.Name):
		return fmt.Errorf("name: want up to 64 letters, digits, dots, dashes and underscores, found %q", b.Name)
	case len(b.Addresses) == 0 || len(b.Addresses) > bridgeAddressesMax:
		return fmt.Errorf("addresses: want 1 to %d, found %d", bridgeAddressesMax, len(b.Addresses))
	case b.Version != "5" && b.Version != "3.1.1":
		return fmt.Errorf("version: want 5 or 3.1.1, found %q", b.Version)
	case b.KeepAlive < time.Second || b.KeepAlive > bridgeKeepAliveMax:
		return fmt.Errorf("keep_alive: want 1s to %v, found %s", bridgeKeepAliveMax, FormatDuration(b.KeepAlive))
	case (b.Cert == "") != (b.Key == ""):
		return errors.New("cert and key go together")
	case b.Password.IsSet() && b.User == "":
		return errors.New("a password needs a user")
	case len(b.Topics) == 0:
		return errors.New("a bridge needs topics")
	}
	return nil
}

func (b *Bridge) parseTopics(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("want a list such as [{filter: plant/#, direction: out}], found %s", strictyaml.Kind(n))
	}
	if len(n.Content) > bridgeTopicsMax {
		return fmt.Errorf("want at most %d, found %d", bridgeTopicsMax, len(n.Content))
	}
	for _, item := range n.Content {
		t := BridgeTopic{}
		if bad := eachField(strictyaml.Resolve(item), "a topic of a bridge", t.parse); bad != nil {
			return bad.err
		}
		switch {
		case t.Direction == "":
			return fmt.Errorf("%q needs a direction: out, in or both", t.Filter)
		case t.Filter == "" && (t.LocalPrefix == "" || t.RemotePrefix == ""):
			return errors.New("a topic needs a filter, or both prefixes, which name one topic then")
		}
		b.Topics = append(b.Topics, t)
	}
	return nil
}

func (t *BridgeTopic) parse(key string, v *yaml.Node) error {
	text, err := strictyaml.Text(v)
	if err != nil {
		return err
	}
	switch key {
	case "filter":
		t.Filter = text
	case "direction":
		if text != "out" && text != "in" && text != "both" {
			return fmt.Errorf("want out, in or both, found %q", text)
		}
		t.Direction = text
	case "qos":
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 2 {
			return fmt.Errorf("want 0, 1 or 2, found %q", text)
		}
		t.QoS = n
	case "local_prefix":
		t.LocalPrefix = text
	case "remote_prefix":
		t.RemotePrefix = text
	default:
		return errors.New("a topic of a bridge has no such key: want filter, direction, qos, local_prefix or remote_prefix")
	}
	return nil
}

// eachField calls set for each key of a mapping.
func eachField(item *yaml.Node, what string, set func(key string, v *yaml.Node) error) (bad *fault) {
	if item.Kind != yaml.MappingNode {
		return &fault{item, fmt.Errorf("want %s, a mapping, found %s", what, strictyaml.Kind(item))}
	}
	strictyaml.Entries(item, func(k, v *yaml.Node) {
		if bad != nil {
			return
		}
		if err := set(k.Value, strictyaml.Resolve(v)); err != nil {
			bad = &fault{k, fmt.Errorf("%s: %w", k.Value, err)}
		}
	}, func(k *yaml.Node, err error) {
		if bad == nil {
			bad = &fault{k, err}
		}
	})
	return bad
}

// listOf reads a text or a list of them.
func listOf(v *yaml.Node, out *[]string) error {
	r, err := rawNode(v)
	if err != nil {
		return err
	}
	if *out = r.list; !r.isList {
		*out = []string{r.text}
	}
	return nil
}

// bridges assigns the list in a file, each fault with its place.
func (d *decoder) bridges(k *Key, v *yaml.Node) {
	bs, bad := parseBridges(v, d.lookupEnv)
	if bad != nil {
		d.problem(at(d.file, bad.at), k.Name, bad.err)
		return
	}
	for i := range bs {
		if d.checkBridge == nil {
			break
		}
		if err := d.checkBridge(&bs[i]); err != nil {
			d.problem(at(d.file, strictyaml.Resolve(v).Content[i]), k.Name, err)
			return
		}
	}
	d.assign(k, raw{bridges: &bs}, at(d.file, v))
}

// parseBridgesText reads the list as a flag or the environment gives it: YAML in one line.
func parseBridgesText(text string, env lookup) (Bridges, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		return nil, fmt.Errorf("want a list such as [{name: hq, addresses: [mqtts://broker:8883], topics: [{filter: plant/#, direction: out}]}], found %q", text)
	}
	bs, bad := parseBridges(doc.Content[0], env)
	if bad != nil {
		return nil, bad.err
	}
	return bs, nil
}
