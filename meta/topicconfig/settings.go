package topicconfig

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Setting is one key that a user has set, with the text that the user gave.
type Setting struct{ Key, Value string }

// Settings are what a user has set, sorted by key, each key once. They are immutable: With and Without answer new ones.
type Settings []Setting

func (s Settings) find(key string) (int, bool) {
	return slices.BinarySearchFunc(s, key, func(e Setting, k string) int { return strings.Compare(e.Key, k) })
}

// Get gives the text of key, if it is set.
func (s Settings) Get(key string) (string, bool) {
	i, ok := s.find(key)
	if !ok {
		return "", false
	}
	return s[i].Value, true
}

// With is s with key set.
func (s Settings) With(key, value string) Settings {
	i, ok := s.find(key)
	out := slices.Clone(s)
	if ok {
		out[i].Value = value
		return out
	}
	return slices.Insert(out, i, Setting{key, value})
}

// Without is s with key not set.
func (s Settings) Without(key string) Settings {
	i, ok := s.find(key)
	if !ok {
		return s
	}
	return slices.Delete(slices.Clone(s), i, i+1)
}

// Op is what an incremental change does to one key. The numbers are Kafka's.
type Op int8

// The operations.
const (
	Set      Op = 0
	Delete   Op = 1
	Append   Op = 2 // to a list
	Subtract Op = 3 // from a list
)

// Change is one step of an incremental change.
type Change struct {
	Key   string
	Op    Op
	Value string
	Null  bool // no value was given: an error but for Delete
}

// Alter is s after changes. Its keys are looked up by find, which gives the type and default of a key, or nil. The outcome is not
// checked: see CheckTopic and CheckDefaults.
func (s Settings) Alter(changes []Change, find func(string) *Key) (Settings, error) {
	for i, c := range changes {
		if slices.ContainsFunc(changes[:i], func(d Change) bool { return d.Key == c.Key }) {
			return nil, refuse("Error due to duplicate config keys: %s", c.Key)
		}
		if c.Null && c.Op != Delete {
			return nil, refuse("Null value not supported for topic configs: %s", c.Key)
		}
		switch c.Op {
		case Set:
			s = s.With(c.Key, c.Value)
		case Delete:
			s = s.Without(c.Key)
		case Append, Subtract:
			k := find(c.Key)
			if k == nil || k.Type != List {
				return nil, refuse("Can't %s to key %s because its type is not LIST.",
					[]string{"APPEND", "SUBTRACT"}[c.Op-Append], c.Key)
			}
			s = s.With(c.Key, s.alterList(k, c))
		default:
			return nil, refuse("Unknown operation type %d for key %s", c.Op, c.Key)
		}
	}
	return s, nil
}

func (s Settings) alterList(k *Key, c Change) string {
	old, ok := s.Get(c.Key)
	if !ok {
		old = k.Default
	}
	list := splitList(old)
	for _, v := range splitList(c.Value) {
		switch at := slices.Index(list, v); {
		case c.Op == Append && at < 0:
			list = append(list, v)
		case c.Op == Subtract && at >= 0:
			list = slices.Delete(list, at, at+1)
		}
	}
	return strings.Join(list, ",")
}

// CheckTopic says what is wrong with a topic's settings, defaults being the broker-wide ones: a key that does not exist, a value
// that Check refuses, or two that contradict each other.
func CheckTopic(s, defaults Settings, n Node) error {
	c := Resolve(s, defaults)
	n.spread = c.LeaderSpread
	for _, e := range s {
		k := Find(e.Key)
		if k == nil {
			return refuse("Unknown topic config name: %s", e.Key)
		}
		if err := k.Check(e.Value, n); err != nil {
			return err
		}
	}
	return c.check()
}

// CheckChange is CheckTopic for a topic that is there, with the settings before: what is fixed when a topic is made stays as it is.
func CheckChange(before, s, defaults Settings, n Node) error {
	was := Resolve(before, defaults).LeaderSpread
	if was != Resolve(s, defaults).LeaderSpread {
		return refuse("Invalid value %t for configuration %s: it is fixed when a topic is made, and this topic is made with %t; make another topic", !was, leaderSpread, was)
	}
	if was {
		n.Spreads = func() error { return nil }
	}
	return CheckTopic(s, defaults, n)
}

// CheckDefaults says what is wrong with broker-wide settings. Those that are no topic key's default are none that can be changed
// at run time.
func CheckDefaults(s Settings, n Node) error {
	for _, e := range s {
		k, syn := FindSynonym(e.Key)
		if k == nil {
			return refuse("Cannot update these configs dynamically: %s", e.Key)
		}
		text, err := syn.convert(e.Value)
		if err == nil {
			err = k.Check(text, n)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
	}
	return Resolve(nil, s).check()
}

// check looks at what concerns more than one key.
func (c *Values) check() error {
	if c.MinCompactionLagMillis > c.MaxCompactionLagMillis {
		return refuse("conflict topic config setting %s (%d) > %s (%d)", minCompactionLag, c.MinCompactionLagMillis,
			maxCompactionLag, c.MaxCompactionLagMillis)
	}
	return c.checkTier()
}

// checkTier looks at what a topic that is to have its old records in a store may be, with Kafka's words.
func (c *Values) checkTier() error {
	if !c.remote && (c.policy == "" || c.policy == "none") {
		return nil
	}
	for _, b := range [...]struct {
		local, whole string
		here, all    int64
	}{{localBytes, "retention.bytes", c.localBytes, c.RetentionBytes}, {localMillis, "retention.ms", c.localMillis, c.RetentionMillis}} {
		switch {
		case c.remote && c.copyDisabled && b.here != asWhole && b.here != b.all:
			return refuse("When `remote.log.copy.disable` is set to true, the `%s` and `%s` must be set to the identical value because there will be "+
				"no more logs copied to the remote storage.", b.local, b.whole)
		case b.all < 0 || b.here == asWhole:
		case b.here == -1:
			return refuse("Invalid value -1 for configuration %s: Value must not be -1 as %s value is set as %d.", b.local, b.whole, b.all)
		case b.here > b.all:
			return refuse("Invalid value %d for configuration %s: Value must not be more than %s property value: %d", b.here, b.local, b.whole, b.all)
		}
	}
	return nil
}

// convert gives the topic key's text for a synonym's.
func (s Synonym) convert(text string) (string, error) {
	if s.Millis == 0 {
		return text, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	if err != nil {
		return "", refusal("Not a number of type INT")
	}
	if n < 0 {
		return "-1", nil
	}
	return strconv.FormatInt(n*s.Millis, 10), nil
}
