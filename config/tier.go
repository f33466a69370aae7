package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// settingsKey is the key that holds a map: what is below it are a store's own settings, which this package does not know.
const settingsKey = "tier.settings"

// settingsEnv is what the variables of single settings begin with.
const settingsEnv = "SLUICE_TIER_SETTINGS_"

// Settings are a store's own settings, by name. A value is given as it is, as `file:PATH` or as `env:NAME`.
type Settings map[string]Secret

// Values are the settings as the store wants them, secrets revealed: for the one place that opens it.
func (s Settings) Values() map[string]string {
	out := make(map[string]string, len(s))
	for k, v := range s {
		out[k] = v.Reveal()
	}
	return out
}

// secretSetting tells whether the value of a setting is shown by no output.
func secretSetting(name string) bool {
	return strings.Contains(name, "secret") || strings.Contains(name, "password") || strings.HasSuffix(name, "_token") || strings.HasSuffix(name, "access_key")
}

// String gives the form that the parser reads, secrets masked.
func (s Settings) String() string {
	parts := make([]string, 0, len(s))
	for _, k := range slices.Sorted(maps.Keys(s)) {
		v := s[k].String()
		if s[k].ref == "" && !secretSetting(k) {
			v = s[k].value
		}
		parts = append(parts, k+": "+quote(v))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// settings assigns the map that a file has, each fault with its place.
func (d *decoder) settings(k *Key, v *yaml.Node) {
	v = strictyaml.Resolve(v)
	if strictyaml.IsNull(v) {
		return
	}
	if v.Kind != yaml.MappingNode {
		d.problem(at(d.file, v), k.Name, fmt.Errorf("want the store's own settings below it, such as `dir: /mnt/history`, found %s", strictyaml.Kind(v)))
		return
	}
	strictyaml.Entries(v, func(name, value *yaml.Node) {
		text, err := strictyaml.Text(strictyaml.Resolve(value))
		if err != nil {
			d.problem(at(d.file, value), k.Name+"."+name.Value, err)
			return
		}
		d.setting(name.Value, text, at(d.file, name))
	}, func(name *yaml.Node, err error) {
		d.problem(at(d.file, name), k.Name+"."+name.Value, err)
	})
	d.out.sources[k.Name] = at(d.file, v)
}

// setting assigns one of them.
func (l *loader) setting(name, text string, at Source) {
	key := settingsKey + "." + name
	if name == "" || strings.ContainsAny(name, " .=:{}") {
		l.problem(at, key, errors.New("want the name of a setting of the store, such as tier.settings.dir; docs/tiers.md lists them"))
		return
	}
	s, err := parseSecret(text, false, func(name string) (string, bool) { v, ok := l.env[name]; return v, ok })
	if err != nil {
		l.problem(at, key, err)
		return
	}
	next := maps.Clone(l.out.Config.Tier.Settings)
	if next == nil {
		next = Settings{}
	}
	next[name] = s
	l.out.Config.Tier.Settings = next
	l.out.sources[settingsKey], l.out.sources[key] = at, at
}

// settingsText assigns all that a flag or the environment gives as a map, YAML in one line.
func (l *loader) settingsText(text string, at Source) {
	var m map[string]string
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		l.problem(at, settingsKey, errors.New("want a map such as {dir: /mnt/history}"))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		l.setting(name, m[name], at)
	}
}

// TierFault is what a store has against one of its settings; Key is empty if it is against all of them.
type TierFault struct {
	Key string
	Err error
}

// validateTier looks at the tier as a whole, and asks the store about its settings.
func (l *loader) validateTier(c *Config) {
	t := &c.Tier
	if t.Store == "off" {
		if len(t.Settings) > 0 {
			l.reject(settingsKey, errors.New("there are settings of a store, and tier.store is off: want "+orList(byName["tier.store"].OneOf[1:])+" there"))
		}
		return
	}
	if c.Journal.Durability == "memory" {
		l.reject("tier.store", errors.New("journal.durability is memory, which keeps no streams: want sync or async, or tier.store off"))
	}
	if l.set("tier.min_object_size") && t.ObjectSize < t.MinObjectSize {
		l.reject("tier.min_object_size", fmt.Errorf("want at most tier.object_size (%v), found %v", t.ObjectSize, t.MinObjectSize))
	}
	if l.checkTier == nil {
		return
	}
	for _, f := range l.checkTier(t.Store, t.Settings.Values()) {
		if _, given := t.Settings[f.Key]; given {
			l.reject(settingsKey+"."+f.Key, f.Err)
		} else {
			l.reject("tier.store", fmt.Errorf("%s: %w", t.Store, f.Err))
		}
	}
}
