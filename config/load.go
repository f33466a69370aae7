package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// fileBytesMax bounds the configuration file; a hostile one must not cost the memory of the machine.
const fileBytesMax = 4 << 20

// Source is where a value came from.
type Source struct {
	Kind string // "default", "file", "environment", "flag"
	Name string // file name, variable or flag
	Line int    // of a file
	Col  int
}

// String gives the form of messages: `sluice.yaml:3:7`, `SLUICE_NODE_ID`, `--set node.id`, `default`.
func (s Source) String() string {
	switch s.Kind {
	case "file":
		if s.Line == 0 {
			return s.Name
		}
		return fmt.Sprintf("%s:%d:%d", s.Name, s.Line, s.Col)
	case "default":
		return "default"
	default:
		return s.Name
	}
}

// Problem is one thing that is wrong, and where.
type Problem struct {
	At  Source
	Key string
	Err error
}

// Error gives `where: key: what`.
func (p Problem) Error() string {
	if p.Key == "" {
		return fmt.Sprintf("%s: %v", p.At, p.Err)
	}
	if p.At.Kind == "" || p.At.Kind == "default" {
		return fmt.Sprintf("%s: %v", p.Key, p.Err)
	}
	return fmt.Sprintf("%s: %s: %v", p.At, p.Key, p.Err)
}

// Unwrap gives the cause.
func (p Problem) Unwrap() error { return p.Err }

// Problems is all that is wrong, so that one run shows everything.
type Problems = strictyaml.Problems[Problem]

// LoadOptions say where to load from. The zero value gives the defaults.
type LoadOptions struct {
	File    string   // path of the YAML file; empty: none
	Environ []string // NAME=VALUE, as os.Environ gives them
	Set     []string // KEY=VALUE, as --set takes them
	Flags   []Flag   // flags with a name of their own
	// CheckBinding says what is wrong with a binding's filter and rules, which this package cannot read. nil: nothing is.
	CheckBinding func(*Binding) error
	// CheckBridge says what is wrong with a bridge's addresses and filters, likewise.
	CheckBridge func(*Bridge) error
	// CheckTier says what a store has against its settings, without asking it. nil: nothing.
	CheckTier func(store string, settings map[string]string) []TierFault
}

// Flag is a value from a flag such as --data.
type Flag struct{ Name, Key, Value string }

// Loaded is a configuration and where each value came from.
type Loaded struct {
	Config  Config
	sources map[string]Source
}

// Source tells where the value of a key came from.
func (l *Loaded) Source(key string) Source { return l.sources[key] }

// loader gathers values in the order of precedence, and problems on the way.
type loader struct {
	out      *Loaded
	env      map[string]string
	problems Problems

	checkBinding func(*Binding) error
	checkBridge  func(*Bridge) error
	checkTier    func(store string, settings map[string]string) []TierFault
}

// Default returns the configuration that is in force when nothing is set.
func Default() Config {
	l := newLoader(nil)
	return l.out.Config
}

func newLoader(environ []string) *loader {
	l := &loader{out: &Loaded{sources: map[string]Source{}}, env: map[string]string{}}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			l.env[name] = value
		}
	}
	for i := range keys {
		l.assign(&keys[i], rawText(keys[i].Default, &keys[i]), Source{Kind: "default"})
	}
	return l
}

// Load reads all sources and validates the outcome. The error is of type Problems, unless the file cannot be read.
func Load(o LoadOptions) (*Loaded, error) {
	l := newLoader(o.Environ)
	l.checkBinding, l.checkBridge, l.checkTier = o.CheckBinding, o.CheckBridge, o.CheckTier
	if o.File != "" {
		data, err := readFile(o.File)
		if err != nil {
			return nil, fmt.Errorf("configuration file: %w", err)
		}
		l.yaml(o.File, data)
	}
	l.environment()
	for _, f := range o.Flags {
		l.assign(byName[f.Key], rawText(f.Value, byName[f.Key]), Source{Kind: "flag", Name: f.Name})
	}
	for _, kv := range o.Set {
		l.flag(kv)
	}
	if len(l.problems) == 0 {
		l.validate()
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return l.out, nil
}

// Parse is Load of the bytes of one file, without environment and flags.
func Parse(name string, data []byte) (*Loaded, error) {
	l := newLoader(nil)
	l.yaml(name, data)
	if len(l.problems) == 0 {
		l.validate()
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return l.out, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w; `sluice start` without --config uses the defaults", err)
		}
		return nil, err
	}
	if st.Size() > fileBytesMax {
		return nil, fmt.Errorf("%s: %v is more than the %v that a configuration may have", path, Size(st.Size()), Size(fileBytesMax))
	}
	return os.ReadFile(path)
}

func (l *loader) assign(k *Key, r raw, at Source) {
	if k.Kind == "settings" {
		l.out.sources[k.Name] = at
		l.settingsText(r.text, at)
		return
	}
	err := k.set(&l.out.Config, r, l.lookupEnv)
	if err != nil {
		l.problem(at, k.Name, err)
		return
	}
	l.out.sources[k.Name] = at
}

func (l *loader) problem(at Source, key string, err error) {
	l.problems = append(l.problems, Problem{At: at, Key: key, Err: err})
}

func (l *loader) flag(kv string) {
	name, value, ok := strings.Cut(kv, "=")
	at := Source{Kind: "flag", Name: "--set " + name}
	if !ok {
		l.problem(at, "", errors.New("want KEY=VALUE"))
		return
	}
	if setting, ok := strings.CutPrefix(name, settingsKey+"."); ok {
		l.setting(setting, value, at)
		return
	}
	k := byName[name]
	if k == nil {
		l.problem(Source{Kind: "flag", Name: "--set"}, name, unknown(name, false))
		return
	}
	l.assign(k, rawText(value, k), at)
}

// foreign are variables with our prefix that are not ours: what Kubernetes sets for a service named sluice, what the commands
// that ask a node take, and what tests use.
var foreign = regexp.MustCompile(`^SLUICE_(CONFIG$|SERVER$|TOKEN$|CA$|CERT$|KEY$|TEST_|BENCH_|(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)$)`)

func (l *loader) environment() {
	names := make([]string, 0, len(l.env))
	for name := range l.env {
		if strings.HasPrefix(name, "SLUICE_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	byEnv := make(map[string]*Key, len(keys))
	for i := range keys {
		byEnv[keys[i].Env] = &keys[i]
	}
	for _, name := range names {
		at := Source{Kind: "environment", Name: name}
		if k := byEnv[name]; k != nil {
			l.assign(k, rawText(l.env[name], k), at)
		} else if setting, ok := strings.CutPrefix(name, settingsEnv); ok {
			l.setting(strings.ToLower(setting), l.env[name], at)
		} else if !foreign.MatchString(name) {
			l.problem(at, "", unknownEnv(name))
		}
	}
}

func unknownEnv(name string) error {
	best, dist := "", len(name)/2
	for i := range keys {
		if d := strictyaml.Distance(name, keys[i].Env); d < dist {
			best, dist = keys[i].Env, d
		}
	}
	if best == "" {
		return errors.New("names no key; docs/configuration.md lists all variables")
	}
	return fmt.Errorf("names no key; the nearest known variable is %s", best)
}
