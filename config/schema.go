package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Key is one key of the configuration, as its field defines it.
type Key struct {
	Name    string // listeners.mqtt.tcp
	Env     string // SLUICE_LISTENERS_MQTT_TCP
	Default string
	OneOf   []string
	Min     string
	Max     string
	Kind    string // what a value looks like: "size", "duration", ...
	Live    bool   // taken over at run time

	index []int // path of the field in Config
	bare  bool  // a secret without a prefix is a path
}

var (
	typeSize       = reflect.TypeFor[Size]()
	typeDuration   = reflect.TypeFor[time.Duration]()
	typeAddrs      = reflect.TypeFor[Addrs]()
	typeSecret     = reflect.TypeFor[Secret]()
	typeStrings    = reflect.TypeFor[[]string]()
	typeBindings   = reflect.TypeFor[Bindings]()
	typeBridges    = reflect.TypeFor[Bridges]()
	typeSettings   = reflect.TypeFor[Settings]()
	typeRewrites   = reflect.TypeFor[Rewrites]()
	typeAuto       = reflect.TypeFor[AutoSubscriptions]()
	typeProperties = reflect.TypeFor[PropertyRules]()
	typeNamed      = reflect.TypeFor[NamedListeners]()

	typePrincipals = reflect.TypeFor[Principals]()
)

var (
	keys   = collect(reflect.TypeFor[Config](), "", nil)
	byName = indexKeys(keys)
)

// Keys lists all keys in the order of the fields.
func Keys() []Key { return slices.Clone(keys) }

func indexKeys(ks []Key) map[string]*Key {
	m := make(map[string]*Key, len(ks))
	for i := range ks {
		m[ks[i].Name] = &ks[i]
	}
	return m
}

func collect(t reflect.Type, prefix string, index []int) []Key {
	var out []Key
	for i := range t.NumField() {
		f := t.Field(i)
		name := prefix + f.Tag.Get("key")
		at := append(slices.Clone(index), i)
		if f.Type.Kind() == reflect.Struct && f.Type != typeSecret {
			out = append(out, collect(f.Type, name+".", at)...)
			continue
		}
		k := Key{
			Name: name, Env: envName(name), Default: f.Tag.Get("default"), Min: f.Tag.Get("min"), Max: f.Tag.Get("max"),
			Kind: kindOf(f.Type), Live: f.Tag.Get("reload") == "live", index: at, bare: f.Tag.Get("bare") == "file",
		}
		if o := f.Tag.Get("oneof"); o != "" {
			k.OneOf = strings.Split(o, "|")
		}
		out = append(out, k)
	}
	return out
}

func envName(key string) string {
	return "SLUICE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func kindOf(t reflect.Type) string {
	switch t {
	case typeSize:
		return "size"
	case typeDuration:
		return "duration"
	case typeAddrs:
		return "addresses"
	case typeSecret:
		return "secret"
	case typeStrings:
		return "list"
	case typeBindings:
		return "bindings"
	case typeBridges:
		return "bridges"
	case typeSettings:
		return "settings"
	case typePrincipals:
		return "principals"
	case typeRewrites:
		return "rewrites"
	case typeAuto:
		return "subscriptions"
	case typeNamed:
		return "listeners"
	case typeProperties:
		return "property rules"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	case reflect.Float64:
		return "fraction"
	default:
		return "text"
	}
}

// raw is a value as it was written: one text, or a list of them.
type raw struct {
	text   string
	list   []string
	isList bool

	bindings   *Bindings
	bridges    *Bridges
	principals *Principals
	rewrites   *Rewrites
	auto       *AutoSubscriptions
	properties *PropertyRules
	named      *NamedListeners
}

// rawText reads the form of flags and environment: `a`, `a,b`, `[a, b]`.
func rawText(text string, k *Key) raw {
	if k.Kind != "addresses" && k.Kind != "list" {
		return raw{text: text}
	}
	inner := strings.TrimSpace(text)
	if strings.HasPrefix(inner, "[") && strings.HasSuffix(inner, "]") {
		inner = inner[1 : len(inner)-1]
	} else if !strings.Contains(inner, ",") {
		return raw{text: text}
	}
	r := raw{isList: true}
	for part := range strings.SplitSeq(inner, ",") {
		if part = strings.TrimSpace(part); part != "" {
			r.list = append(r.list, part)
		}
	}
	return r
}

// set puts r into the field of k.
func (k *Key) set(c *Config, r raw, lookup func(string) (string, bool)) error {
	v := reflect.ValueOf(c).Elem().FieldByIndex(k.index)
	if r.isList && k.Kind != "addresses" && k.Kind != "list" {
		return fmt.Errorf("want one value (%s), found a list", k.Kind)
	}
	switch k.Kind {
	case "addresses":
		return setAddrs(v, r)
	case "list":
		return k.setList(v, r)
	case "bindings", "bridges", "principals", "rewrites", "subscriptions", "property rules", "listeners":
		return k.setNodes(v, r, lookup)
	case "secret":
		s, err := parseSecret(r.text, k.bare, lookup)
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(s))
		return nil
	case "true or false":
		switch r.text {
		case "true", "on", "yes":
			v.SetBool(true)
		case "false", "off", "no":
			v.SetBool(false)
		default:
			return fmt.Errorf("want true or false, found %q", r.text)
		}
		return nil
	case "fraction":
		x, err := k.fraction(r.text)
		if err != nil {
			return err
		}
		v.SetFloat(x)
		return nil
	case "text":
		if err := k.checkOneOf(r.text); err != nil {
			return err
		}
		v.SetString(r.text)
		return nil
	}
	n, err := k.number(r.text)
	if err != nil {
		return err
	}
	if err := k.checkBounds(n, r.text); err != nil {
		return err
	}
	v.SetInt(n)
	return nil
}

// setNodes is set for the keys that hold a list of mappings.
func (k *Key) setNodes(v reflect.Value, r raw, lookup func(string) (string, bool)) error {
	switch k.Kind {
	case "bindings":
		if r.bindings == nil {
			bs, err := parseBindingsText(r.text)
			if err != nil {
				return err
			}
			r.bindings = &bs
		}
		v.Set(reflect.ValueOf(*r.bindings))
	case "principals":
		if r.principals == nil {
			ps, err := parsePrincipalsText(r.text, lookup)
			if err != nil {
				return err
			}
			r.principals = &ps
		}
		v.Set(reflect.ValueOf(*r.principals))
	case "rewrites":
		if r.rewrites == nil {
			rs, err := parseRewritesText(r.text)
			if err != nil {
				return err
			}
			r.rewrites = &rs
		}
		v.Set(reflect.ValueOf(*r.rewrites))
	case "subscriptions":
		if r.auto == nil {
			as, err := parseAutoSubscriptionsText(r.text)
			if err != nil {
				return err
			}
			r.auto = &as
		}
		v.Set(reflect.ValueOf(*r.auto))
	case "listeners":
		if r.named == nil {
			ns, err := parseNamedText(r.text)
			if err != nil {
				return err
			}
			r.named = &ns
		}
		v.Set(reflect.ValueOf(*r.named))
	case "property rules":
		if r.properties == nil {
			rs, err := parsePropertyRulesText(r.text)
			if err != nil {
				return err
			}
			r.properties = &rs
		}
		v.Set(reflect.ValueOf(*r.properties))
	case "bridges":
		if r.bridges == nil {
			bs, err := parseBridgesText(r.text, lookup)
			if err != nil {
				return err
			}
			r.bridges = &bs
		}
		v.Set(reflect.ValueOf(*r.bridges))
	}
	return nil
}

func setAddrs(v reflect.Value, r raw) error {
	list := r.list
	if !r.isList {
		list = []string{r.text}
		if r.text == "off" {
			list = nil
		}
	}
	for _, a := range list {
		if a == "" || a == "off" {
			return fmt.Errorf("want an address, a list of addresses, or off, found %q in the list", a)
		}
	}
	if r.isList && len(list) == 0 {
		return fmt.Errorf("want an address, a list of addresses, or off, found an empty list")
	}
	v.Set(reflect.ValueOf(Addrs(slices.Clone(list))))
	return nil
}

func (k *Key) setList(v reflect.Value, r raw) error {
	list := r.list
	if !r.isList && r.text != "" {
		list = []string{r.text}
	}
	for _, e := range list {
		if err := k.checkOneOf(e); err != nil {
			return err
		}
	}
	v.Set(reflect.ValueOf(slices.Clone(list)))
	return nil
}

// number reads a number, size or duration by the key's kind.
func (k *Key) number(text string) (int64, error) {
	switch k.Kind {
	case "size":
		s, err := ParseSize(text)
		return int64(s), err
	case "duration":
		d, err := ParseDuration(text)
		return int64(d), err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("want a number, found %q", text)
	}
	return n, nil
}

// fraction reads a number with a point, such as 0.01, within the key's bounds.
func (k *Key) fraction(text string) (float64, error) {
	lo, _ := strconv.ParseFloat(k.Min, 64)
	hi, _ := strconv.ParseFloat(k.Max, 64)
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || !(x >= lo && x <= hi) { // NaN is in no bounds
		return 0, fmt.Errorf("want a number from %s to %s, found %q", k.Min, k.Max, text)
	}
	return x, nil
}

func (k *Key) checkBounds(n int64, text string) error {
	if k.Min != "" {
		if lo, err := k.number(k.Min); err != nil || n < lo {
			return fmt.Errorf("want at least %s, found %q", k.Min, text)
		}
	}
	if k.Max != "" {
		if hi, err := k.number(k.Max); err != nil || n > hi {
			return fmt.Errorf("want at most %s, found %q", k.Max, text)
		}
	}
	return nil
}

func (k *Key) checkOneOf(text string) error {
	if k.OneOf == nil || slices.Contains(k.OneOf, text) {
		return nil
	}
	if why := refused[k.Name+"="+text]; why != "" {
		return fmt.Errorf("%s; found %q", why, text)
	}
	return fmt.Errorf("want %s, found %q", orList(k.OneOf), text)
}

// refused explains values that a reader of the design may try.
var refused = map[string]string{
	"listeners.mqtt.proxy_protocol=v1":   "both versions are read; want off, or the listeners that get a header, such as [tcp, wss]",
	"listeners.mqtt.proxy_protocol=v2":   "both versions are read; want off, or the listeners that get a header, such as [tcp, wss]",
	"listeners.mqtt.proxy_protocol=on":   "both versions are read; want off, or the listeners that get a header, such as [tcp, wss]",
	"listeners.mqtt.proxy_protocol=auto": "both versions are read; want off, or the listeners that get a header, such as [tcp, wss]",
}

func orList(vals []string) string {
	if len(vals) == 1 {
		return vals[0]
	}
	return strings.Join(vals[:len(vals)-1], ", ") + " or " + vals[len(vals)-1]
}

// format gives the value of k in c in the form that the parser reads; secrets masked.
func (k *Key) format(c *Config) string {
	v := reflect.ValueOf(c).Elem().FieldByIndex(k.index)
	switch x := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(x)
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case []string:
		return "[" + strings.Join(x, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}

// later names the keys of the design that this version does not have, so that the error can say so.
var later = map[string]string{
	"listeners.amqp": "this version has no AMQP listener",
}

// unknown says what is wrong with a key that is none, and which one may have been meant.
func unknown(name string, section bool) error {
	for p, why := range later {
		if name == p || strings.HasPrefix(name, p+".") {
			return fmt.Errorf("unknown key: %s (docs/limits.md)", why)
		}
	}
	best := strictyaml.Nearest(name, candidates(section))
	if best == "" {
		return fmt.Errorf("unknown key; docs/configuration.md lists all keys")
	}
	return fmt.Errorf("unknown key; the nearest known one is %s", best)
}

// candidates are the names that an unknown one is compared with: sections first when it holds a mapping.
func candidates(section bool) []string {
	var out []string
	if section {
		seen := map[string]bool{}
		for i := range keys {
			parts := strings.Split(keys[i].Name, ".")
			for n := 1; n < len(parts); n++ {
				if s := strings.Join(parts[:n], "."); !seen[s] {
					seen[s] = true
					out = append(out, s)
				}
			}
		}
	}
	for i := range keys {
		out = append(out, keys[i].Name)
	}
	return out
}
