package scenarios

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/bench"
	"github.com/sluicemq/sluice/internal/strictyaml"
)

//go:embed *.yaml
var standard embed.FS

const (
	// fileBytesMax bounds a scenario file.
	fileBytesMax = 1 << 20
	// partsMax bounds the parts of one: each has a thread of its own.
	partsMax = 32
)

// File is a scenario file.
type File struct {
	Name     string
	About    string
	Protocol string  // MQTT, Kafka or Mixed
	Parts    []*Part // one without a name, or several with names
	Ladder   *Ladder // as the file has it, or the defaults
	Text     []byte  // as it was read
}

// Part is a load of a file.
type Part struct {
	Name string // "" for the one of a file without parts
	*Load
}

// Problem is one thing that is wrong with a file, and where.
type Problem struct {
	File  string
	Place strictyaml.Place // zero for what was set from outside
	Key   string
	Err   error
}

// Error gives `file:line:column: key: what`.
func (p Problem) Error() string {
	where := p.File
	if p.Place.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", p.File, p.Place.Line, p.Place.Col)
	}
	if p.Key != "" {
		where += ": " + p.Key
	}
	return fmt.Sprintf("%s: %v", where, p.Err)
}

// Unwrap gives the cause.
func (p Problem) Unwrap() error { return p.Err }

// Problems is all that is wrong.
type Problems = strictyaml.Problems[Problem]

// Standard names the files that the binary has, in order.
func Standard() []string {
	entries, err := fs.ReadDir(standard, ".")
	if err != nil {
		return nil // it is there: it was compiled in
	}
	var list []string
	for _, e := range entries {
		list = append(list, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return list
}

// Text gives the text of a standard file, or of the file at a path, and the name to call it by in messages.
func Text(nameOrPath string) (file string, data []byte, err error) {
	if b, err := standard.ReadFile(nameOrPath + ".yaml"); err == nil {
		return nameOrPath + ".yaml", b, nil
	}
	f, err := os.Open(nameOrPath)
	if errors.Is(err, fs.ErrNotExist) && !strings.ContainsAny(nameOrPath, "/.") {
		return "", nil, unknownScenario(nameOrPath)
	}
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err == nil && len(data) > fileBytesMax {
		err = fmt.Errorf("%s is larger than a scenario file may be: %d bytes", nameOrPath, fileBytesMax)
	}
	return nameOrPath, data, err
}

func unknownScenario(name string) error {
	if near := strictyaml.Nearest(name, Standard()); near != "" {
		return &bench.MisuseError{Detail: fmt.Sprintf("there is no file and no standard scenario %q; the nearest is %s", name, near)}
	}
	return &bench.MisuseError{Detail: fmt.Sprintf("there is no file and no standard scenario %q; sluice bench list names all", name)}
}

// Open reads a standard file or one at a path, with settings changed from outside; see Parse.
func Open(nameOrPath string, set []string) (*File, error) {
	file, data, err := Text(nameOrPath)
	if err != nil {
		return nil, err
	}
	return Parse(file, data, set)
}

// Parse reads a scenario file. set changes settings, as KEY=VALUE for all loads that have the key, PART.KEY=VALUE for one of a mixed
// file, ladder.KEY=VALUE for the ladder. The error is of type Problems.
func Parse(file string, data []byte, set []string) (*File, error) {
	p := &parser{file: file, out: &File{Text: data, Name: strings.TrimSuffix(path.Base(file), ".yaml")}}
	p.out.Ladder = NewLadder()
	root, fault := strictyaml.Document(data, "a scenario")
	if fault != nil {
		return nil, Problems{{File: file, Place: fault.At, Err: fault.Err}}
	}
	if root == nil {
		return nil, Problems{{File: file, Place: strictyaml.Place{Line: 1, Col: 1}, Err: errors.New("is empty: a scenario needs at least a protocol and a load")}}
	}
	p.root(root)
	if len(p.problems) == 0 {
		for _, kv := range set {
			p.set(kv)
		}
	}
	if len(p.problems) == 0 {
		p.check()
	}
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return p.out, nil
}

type parser struct {
	file     string
	out      *File
	problems Problems
	places   []strictyaml.Place // of the loads of the parts
	ladderAt strictyaml.Place   // zero: the file has none
}

func (p *parser) problem(n *yaml.Node, key string, err error) {
	p.problems = append(p.problems, Problem{p.file, strictyaml.At(n), key, err})
}

// section is a mapping with its keys sorted out.
type section map[string]*yaml.Node

// section takes the keys of m that are known, and reports the others.
func (p *parser) section(m *yaml.Node, prefix string, known ...string) section {
	s := section{}
	strictyaml.Entries(m, func(k, v *yaml.Node) {
		if !slices.Contains(known, k.Value) {
			p.problem(k, prefix+k.Value, unknownKey(k.Value, known, "want "+orList(known)))
			return
		}
		s[k.Value] = v
	}, func(k *yaml.Node, err error) { p.problem(k, prefix+k.Value, err) })
	return s
}

// text gives the text at a key, def without one.
func (p *parser) text(s section, key, prefix, def string) string {
	n := s[key]
	if n == nil {
		return def
	}
	v, err := strictyaml.Text(n)
	if err != nil {
		p.problem(n, prefix+key, err)
	}
	return v
}

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// root reads the keys at the top.
func (p *parser) root(root *yaml.Node) {
	s := p.section(root, "", "name", "about", "protocol", "load", "transport", "settings", "parts", "ladder")
	f := p.out
	f.Name, f.About = p.text(s, "name", "", f.Name), p.text(s, "about", "", "")
	if n := s["name"]; n != nil && !fileName.MatchString(f.Name) {
		p.problem(n, "name", fmt.Errorf("want lower-case letters, digits and hyphens, found %q", f.Name))
	}
	f.Protocol = p.text(s, "protocol", "", "")
	where := root
	if s["protocol"] != nil {
		where = s["protocol"]
	}
	if err := oneOf(MQTT, Kafka, Mixed)(f.Protocol); err != nil {
		p.problem(where, "protocol", err)
		return
	}
	if f.Protocol == Mixed {
		p.mixed(root, s)
	} else if s["parts"] != nil {
		p.problem(s["parts"], "parts", fmt.Errorf("only a scenario of protocol mixed has parts"))
	} else if load := p.load(root, s, "", f.Protocol); load != nil {
		f.Parts = []*Part{{Load: load}}
		p.settings(s["settings"], "settings.", load)
	}
	if n := s["ladder"]; n != nil {
		p.ladderAt = strictyaml.At(n)
		p.mapping(n, "ladder.", f.Ladder.settings, func(name, value string) error { return find(f.Ladder.settings, name).set(value) })
		f.Ladder.given = true
	}
}

// mixed reads the parts.
func (p *parser) mixed(root *yaml.Node, s section) {
	for _, key := range []string{"load", "transport"} {
		if n := s[key]; n != nil {
			p.problem(n, key, errors.New("the parts of a mixed scenario have it, not the whole"))
		}
	}
	n := s["parts"]
	switch {
	case n == nil:
		p.problem(root, "parts", errors.New("a mixed scenario needs them"))
		return
	case n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > partsMax:
		p.problem(n, "parts", fmt.Errorf("want a list of 1 to %d loads, each with name, protocol and load, found %s", partsMax, strictyaml.Kind(n)))
		return
	}
	for i, item := range n.Content {
		p.part(fmt.Sprintf("parts[%d].", i), strictyaml.Resolve(item), s["settings"])
	}
}

func (p *parser) part(prefix string, item, shared *yaml.Node) {
	if item.Kind != yaml.MappingNode {
		p.problem(item, strings.TrimSuffix(prefix, "."), fmt.Errorf("want name, protocol, load and settings, found %s", strictyaml.Kind(item)))
		return
	}
	s := p.section(item, prefix, "name", "about", "protocol", "load", "transport", "settings")
	name, protocol := p.text(s, "name", prefix, ""), p.text(s, "protocol", prefix, "")
	where := item
	if s["name"] != nil {
		where = s["name"]
	}
	switch {
	case !fileName.MatchString(name) || name == "ladder" || name == MQTT || name == Kafka:
		p.problem(where, prefix+"name", fmt.Errorf("want lower-case letters, digits and hyphens, none of ladder, mqtt and kafka, found %q", name))
		return
	case slices.ContainsFunc(p.out.Parts, func(x *Part) bool { return x.Name == name }):
		p.problem(where, prefix+"name", fmt.Errorf("two parts are named %s", name))
		return
	}
	if s["protocol"] != nil {
		where = s["protocol"]
	}
	if err := oneOf(MQTT, Kafka)(protocol); err != nil {
		p.problem(where, prefix+"protocol", err)
		return
	}
	load := p.load(item, s, prefix, protocol)
	if load == nil {
		return
	}
	p.out.Parts = append(p.out.Parts, &Part{name, load})
	if shared != nil {
		p.shared(shared, load)
	}
	p.settings(s["settings"], prefix+"settings.", load)
}

// load makes the load that a file or part names; nil if it cannot.
func (p *parser) load(at *yaml.Node, s section, prefix, protocol string) *Load {
	if s["load"] != nil {
		at = s["load"]
	}
	load, err := NewLoad(protocol, p.text(s, "load", prefix, ""))
	if err != nil {
		p.problem(at, prefix+"load", err)
		return nil
	}
	p.places = append(p.places, strictyaml.At(at))
	load.Transport = p.text(s, "transport", prefix, "")
	if n := s["transport"]; n != nil && schemes[protocol][load.Transport] == "" {
		p.problem(n, prefix+"transport", fmt.Errorf("want tcp, tls, and for mqtt ws or wss, found %q", load.Transport))
	}
	return load
}

func (p *parser) settings(n *yaml.Node, prefix string, load *Load) {
	if n != nil {
		p.mapping(n, prefix, load.settings, load.Set)
	}
}

// shared gives a part the settings of the whole file that its load has; a key that no load has is reported once.
func (p *parser) shared(n *yaml.Node, load *Load) {
	known := slices.Concat((&Load{given: map[string]bool{}}).mqttSettings(), (&Load{Kind: "bound", given: map[string]bool{}}).kafkaSettings())
	first := len(p.out.Parts) == 1
	p.mapping(n, "settings.", known, func(name, value string) error {
		if find(load.settings, name) == nil {
			return nil
		}
		err := load.Set(name, value)
		if !first {
			return nil // said at the first part
		}
		return err
	})
}

// mapping gives each key of n to set.
func (p *parser) mapping(n *yaml.Node, prefix string, known []Setting, set func(name, value string) error) {
	if strictyaml.IsNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.problem(n, strings.TrimSuffix(prefix, "."), fmt.Errorf("want keys below it, found %s", strictyaml.Kind(n)))
		return
	}
	strictyaml.Entries(n, func(k, v *yaml.Node) {
		setting := find(known, k.Value)
		if setting == nil {
			p.problem(k, prefix+k.Value, unknownKey(k.Value, names(known), "sluice bench mqtt --help and sluice bench kafka --help list all"))
			return
		}
		values, err := texts(v, setting.Type == "stringArray")
		for _, value := range values {
			if err == nil {
				err = set(k.Value, value)
			}
		}
		if err != nil {
			p.problem(v, prefix+k.Value, err)
		}
	}, func(k *yaml.Node, err error) { p.problem(k, prefix+k.Value, err) })
}

// texts gives the one value of a key, or those of a list where one may be.
func texts(v *yaml.Node, list bool) ([]string, error) {
	if list && v.Kind == yaml.SequenceNode {
		return strictyaml.List(v)
	}
	one, err := strictyaml.Text(v)
	return []string{one}, err
}

// set changes a setting from outside.
func (p *parser) set(kv string) {
	fail := func(key string, err error) {
		p.problems = append(p.problems, Problem{File: "--set", Key: key, Err: err})
	}
	key, value, ok := strings.Cut(kv, "=")
	if !ok {
		fail(kv, errors.New("want KEY=VALUE"))
		return
	}
	if name, ok := strings.CutPrefix(key, "ladder."); ok {
		s := find(p.out.Ladder.settings, name)
		if s == nil {
			fail(key, unknownKey(name, names(p.out.Ladder.settings), ""))
		} else if err := s.set(value); err != nil {
			fail(key, err)
		}
		return
	}
	part, name, one := strings.Cut(key, ".")
	if !one {
		part, name = "", key
	}
	found := false
	for _, x := range p.out.Parts {
		if one && x.Name != part || find(x.settings, name) == nil {
			continue
		}
		found = true
		if err := x.Set(name, value); err != nil {
			fail(key, err)
			return
		}
	}
	if !found {
		var known []string
		for _, x := range p.out.Parts {
			known = append(known, names(x.settings)...)
		}
		fail(key, unknownKey(name, known, "no load of the scenario has it"))
	}
}

// check refuses what does not go together.
func (p *parser) check() {
	for i, x := range p.out.Parts {
		err := x.Check()
		if err == nil && p.out.Protocol == Mixed {
			err = x.mixable(p.out.Parts[0].Load)
		}
		if err != nil {
			p.problems = append(p.problems, Problem{p.file, p.places[i], x.Name, err})
		}
	}
	if err := p.out.Ladder.check(p.out); err != nil {
		where := p.ladderAt
		p.problems = append(p.problems, Problem{p.file, where, "ladder", err})
	}
}

// mixable refuses what has no measured part that it could share with the first part of the file.
func (l *Load) mixable(first *Load) error {
	timed := []string{"pairs", "publish", "fanout", "fanin", "shared", "wildcards", "idle", "reconnect"}
	messages := l.mqtt.Messages
	if l.Protocol == Kafka {
		timed, messages = []string{"produce", "e2e", "transactions", "bound"}, l.kafka.Messages
	}
	if !slices.Contains(timed, l.Kind) {
		return fmt.Errorf("load %s cannot be a part of a mixed scenario: it has no measured part of a given length; want %s", l.Kind, orList(timed))
	}
	if messages > 0 {
		return errors.New("a part of a mixed scenario ends with the others: it has a duration, not a number of messages")
	}
	for _, name := range []string{"warmup", "duration"} {
		if a, b := find(l.settings, name).Show(), find(first.settings, name).Show(); a != b {
			return fmt.Errorf("%s is %s and that of the first part %s: the parts of a mixed scenario are measured together", name, a, b)
		}
	}
	return nil
}
